"""What the tests of runs share: tiny generators, rows written by hand, and a run folder made of given answers."""

import json
import random

from faithgen import FaithfulGenerator, HeadSet
from faithgen.evaluation.datasets import EvalDocument, Example
from faithgen.models import LoadedModel
from tests import tiny

SHARP = {"initializer_range": 0.1}  # attention that matters, and no near ties between tokens
HOSTILE = "</td><script>alert(1)</script>{{ 7 * 7 }} | `x` [a](http://evil) \u202e\x00"


def heads(method, seed, model_id="tiny"):
    values = random.Random(seed)
    return HeadSet([[values.random() for _ in range(8)] for _ in range(4)], method, model_id, "0")


def make_generator(control=False, **changes):
    tokenizer = tiny.byte_level_tokenizer()
    model = tiny.llama(**{**SHARP, **changes})
    if control:
        tiny.with_control_tokens(tokenizer)
        model.resize_token_embeddings(len(tokenizer))
    loaded = LoadedModel(model, tokenizer, "tiny", "0")
    return FaithfulGenerator(loaded, heads("query_focused", 1), heads("copying", 2))


def example(number=0, documents=5, **fields):
    """A question about a line; the gold document is the second."""
    texts = [f"Stop {k} of line {number} was built in {1800 + 7 * k + number}." for k in range(documents)]
    parts = [EvalDocument(f"d{k}", f"Line {number}", text, k == 1) for k, text in enumerate(texts)]
    values = {
        "id": f"q{number}",
        "question": f"When was stop {number} built?",
        "documents": parts,
        "answers": ["1807"],
    }
    return Example(**{**values, **fields})


def rows_file(path, count, documents=3):
    """Examples of different length as JSONL."""
    lines = [json.dumps(example(i, documents + i % 3).to_dict()) for i in range(count)]
    path.write_text("".join(line + "\n" for line in lines))
    return path


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def without_times(rows):
    return [{name: value for name, value in row.items() if name not in ("timings", "seconds")} for row in rows]


def record(methods=("base", "heads"), rows=4, sets=("toy",), kind="short", **changes):
    """A `run.json`."""
    headline = {"short": ["sub_em", "f1"], "long": ["support_mean", "rougeLsum"]}[kind]
    task = {"set": "toy", "kind": kind, "headline": headline, "max_new_tokens": 8, "group": None}
    task |= {"instruction": None, "without_documents": None}
    values = {
        "format": "faithgen-eval-1",
        "settings": {"methods": list(methods), "seed": 0},
        "baseline": methods[0],
        "suite": None,
        "datasets": {
            name: {"split": "test", "rows": rows, "sha256": "0", "dropped": {}, "changed": {}} for name in sets
        },
        "tasks": {name: dict(task) for name in sets},
        "sources": dict.fromkeys(sets, "toy.jsonl"),
        "missing": {},
        "methods": {},
        "unavailable": {},
        "model": {"id": "tiny", "revision": "0", "dtype": "float32", "heads": {}},
        "runs": [{"command": ["faithgen", "eval"], "started": "now", "hardware": {"cpu": "one"}, "versions": {}}],
    }
    return {**values, **changes}


def row(number, method, value, dataset="toy", **fields):
    """A row with one figure."""
    metrics = {"sub_em": value, "f1": None if value is None else value / 2, "answer_words": 3.0 + number}
    values = {
        "dataset": dataset,
        "id": f"q{number}",
        "method": method,
        "question": f"question {number}?",
        "answers": ["gold"],
        "answer": f"answer {number} of {method}",
        "metrics": metrics,
        "seconds": 0.5,
    }
    return {**values, **fields}


def run_folder(path, rows, **changes):
    """A result folder of given rows."""
    path.mkdir(parents=True)
    (path / "run.json").write_text(json.dumps(record(**changes)))
    (path / "rows.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    return path
