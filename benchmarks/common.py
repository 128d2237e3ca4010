"""What every benchmark shares: data, intervals, timing in one run, and one JSON line with versions and hardware."""

from __future__ import annotations

import json
import os
import platform
import random
import re
import statistics
import string
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from faithgen.documents import Document
    from faithgen.prompting import PromptBuilder

SHARED = Path(os.environ.get("FAITHGEN_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
EXAMPLES = Path(__file__).parents[1] / "examples" / "documents"


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]


def multidoc_rows(passages: int, distractors: str, limit: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of `nq_mdqa_bm25` with the gold passage at a random place: `{question, answers, documents, gold}`.

    Args:
        passages (`int`): documents a question.
        distractors (`str`): `"hard"` (the closest by BM25) or `"random"` (gold passages of other questions that do not
            hold the answer).
        limit (`int`): rows, a fixed random sample.
    """
    rows = read_jsonl(SHARED / "nq_mdqa_bm25/mdqa20_600.jsonl")
    generator = random.Random(seed)
    generator.shuffle(rows)
    built = []
    for row in rows[:limit]:
        gold = next(c for c in row["ctxs"] if c["isgold"])
        if distractors == "hard":
            others = [c for c in row["ctxs"] if not c["isgold"]][: passages - 1]
        else:
            answers = [normalised(answer) for answer in row["answers"]]
            pool = [next(c for c in other["ctxs"] if c["isgold"]) for other in generator.sample(rows, 3 * passages)]
            fits = (
                c for c in pool if c["title"] != gold["title"] and not any(a in normalised(c["text"]) for a in answers)
            )
            others = list(dict.fromkeys((c["title"], c["text"]) for c in fits))[: passages - 1]
            others = [{"title": title, "text": text} for title, text in others]
        place = generator.randrange(passages)
        documents = [{"title": c["title"], "text": c["text"]} for c in [*others[:place], gold, *others[place:]]]
        built.append({"question": row["question"], "answers": row["answers"], "documents": documents, "gold": place})
    return built


def example_documents(builder: PromptBuilder, tokens: int, seed: int = 0, count: int = 20) -> list[Document]:
    """`count` documents of the examples' sentences in a random order, about `tokens` of them in the prompt."""
    from faithgen.documents import Document

    files = sorted(path for path in EXAMPLES.iterdir() if path.suffix in (".txt", ".md"))
    text = " ".join(path.read_text(encoding="utf-8") for path in files)
    sentences = [one.strip() for one in re.split(r"(?<=[.!?])\s+", text) if one.strip()]
    shuffled = random.Random(seed)
    room, documents = tokens / count, []
    for index in range(count):
        body: list[str] = []
        while builder.document_tokens(Document(" ".join(body) or "a")) < room:
            body.append(shuffled.choice(sentences))
        documents.append(Document(" ".join(body[:-1]) or body[0], str(index)))
    return documents


def forget(model: Any) -> None:
    """Let go of the documents' keys and values that are kept, so that the next question about them is a first one."""
    from faithgen.filtering.prefix_store import prefix_store

    prefix_store(model, 0)


def progress(rows: Sequence[Any]) -> Any:
    """The rows, with a progress bar on a terminal and a line every 10 % elsewhere."""
    from faithgen.cli.console import progress_bar

    with progress_bar("rows") as advance:
        for done, row in enumerate(rows, 1):
            yield row
            advance(done, len(rows))


def normalised(text: str) -> str:
    """SQuAD's normalisation: lower case, no punctuation, no articles."""
    text = "".join(" " if c in string.punctuation else c for c in text.lower())
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def sub_em(answer: str, golds: Sequence[str]) -> float:
    """1 if a normalised gold answer is part of the normalised answer (SubEM)."""
    return float(any(f" {normalised(gold)} " in f" {normalised(answer)} " for gold in golds))


def interval(values: Sequence[float], seed: int = 0) -> tuple[float, float, float]:
    """Mean and 95 % bootstrap interval (percentile, 10,000 resamples)."""
    data = np.asarray(values, dtype=float)
    draws = np.random.default_rng(seed).integers(0, len(data), (10_000, len(data)))
    low, high = np.percentile(data[draws].mean(1), [2.5, 97.5])
    return float(data.mean()), float(low), float(high)


def show(values: Sequence[float]) -> str:
    mean, low, high = interval(values)
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def interleaved(tasks: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median seconds of each task; the tasks take turns so that a noisy machine hits them alike."""
    for task in tasks.values():
        task()
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(repeats):
        for name, task in tasks.items():
            synchronise()
            started = time.perf_counter()
            task()
            synchronise()
            times[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in times.items()}


def synchronise() -> None:
    """Wait for the GPU, if there is one in use."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.synchronize()


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a Markdown table; `None` is an empty cell, numbers have three digits that count."""
    cells = [
        ["" if cell is None else f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in r] for r in rows
    ]
    widths = [max(len(row[i]) for row in [columns, *cells]) for i in range(len(columns))]
    for row in [columns, ["-" * width for width in widths], *cells]:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")


def give_memory_back() -> None:
    """Start this script again with an allocator that gives freed tensors back, so that peaks can be told apart."""
    if "MALLOC_MMAP_THRESHOLD_" not in os.environ:
        environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_TRIM_THRESHOLD_": "0"}
        os.execve(sys.executable, [sys.executable, *sys.argv], environment)


def peak_growth(task: Callable[[], Any]) -> float:
    """Growth of the peak over the memory at the start, in MiB: allocated memory on a GPU, else resident memory."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        task()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    start = _status("VmRSS")
    task()
    return (_status("VmHWM") - start) / 2**10


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().split("\n")
    return int(next(line.split()[1] for line in lines if line.startswith(name)))


def report(name: str, figures: dict[str, Any]) -> None:
    """The JSON line."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else _cpu()
    machine = {"device": device, "threads": torch.get_num_threads(), "python": platform.python_version()}
    versions = {package: version(package) for package in ("faithgen", "torch", "transformers")}
    print(json.dumps({"benchmark": name, **figures, "machine": machine, "versions": versions}))


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
