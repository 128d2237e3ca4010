"""Evaluation sets behind one schema: `load_dataset("nq_hard")`.

| name | rows | published split served | other |
|---|---|---|---|
| eli5_webgpt | GroundBench: long answers | test of WebGPT | |
| expertqa | GroundBench | validation and test (random split) | |
| hagrid | GroundBench | dev | train |
| clapnq, clapnq_unanswerable | GroundBench | dev | |
| quotesum | GroundBench | dev | |
| nq_hard, nq_random | multi-document QA, BM25 or random distractors | dev | |
| hotpotqa, musique, 2wiki | multi-hop QA | dev | train |
| nq_swap | conflict | dev | |
| faitheval, tristate, ramdocs, rgb | conflict | test (their only split) | |
| memotrap | memorised endings, no documents | test (its only split) | |
| niah | needle in a haystack, built here | | |
| scifact | re-ranking | validation (BEIR's test) | train |
| trec_dl19 | re-ranking | test | |
| jsonl | a file of your own | | |

Training rows are served only where `split="train"` asks for them. Options of a set are the keyword parameters of its
function, e.g. `load_dataset("nq_hard", passages=10, gold_position=0)`.
"""

from __future__ import annotations

import inspect
import os
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from faithgen.errors import FaithgenError

from . import conflict, generic, groundbench, memotrap, multidoc, niah, rerank
from .base import DataSet, Tally
from .hub import PREFIX, HubName, read_hub
from .rows import Row, read_jsonl
from .schema import EvalDocument, Example, Loaded

__all__ = ["DATASETS", "SUITES", "EvalDocument", "Example", "Loaded", "load_dataset"]

SHARED = "FAITHGEN_SHARED_DATA"
"""Environment variable that names the folder of data sets."""

DATASETS: Mapping[str, DataSet] = {
    name: dataset
    for family in (groundbench, multidoc, conflict, memotrap, niah, rerank, generic)
    for name, dataset in family.SETS.items()
}

SUITES: Mapping[str, tuple[str, ...]] = {
    "groundbench": ("eli5_webgpt", "expertqa", "hagrid", "clapnq", "clapnq_unanswerable", "quotesum"),
    "multidoc": ("nq_hard", "nq_random", "hotpotqa", "musique", "2wiki"),
    "conflict": ("nq_swap", "faitheval", "tristate", "ramdocs", "rgb"),
    "niah": ("niah",),
    "rerank": ("nq_hard", "hotpotqa", "musique", "scifact", "trec_dl19"),
}


def load_dataset(
    name: str,
    source: str | os.PathLike[str] | None = None,
    *,
    split: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    **options: Any,
) -> Loaded:
    """Load an evaluation set.

    The rows come in an order drawn by the seed; with a `limit` they are the first of the same order, so that a longer
    run extends a shorter one.

    Args:
        name (`str`):
            A name of [`DATASETS`]. A path that ends in `.jsonl`, or a `hub:` name, stands for the set `jsonl` read from
            there.
        source (`str` or `PathLike`, *optional*):
            A JSONL file (`.jsonl` or `.jsonl.gz`) with the rows; a folder that holds the set's files, or the folder of
            all sets; or `hub:org/name[@revision][:config][:split]`, read with `datasets.load_dataset` (a path to a local
            folder may stand for `org/name`). By default the folder that FAITHGEN_SHARED_DATA names.
        split (`str`, *optional*): the set's default where `None`, which is never `train`.
        limit (`int`, *optional*): examples at most, 1 or more.
        seed (`int`, *optional*, defaults to 0): of the order, and of what a set draws (distractors, places, haystacks).
        options: those of the set, see its function.

    Returns:
        [`Loaded`]: the examples, used as a list, with counts of dropped rows by reason.

    Raises:
        FaithgenError: If the name, split or an option is not known; the source is missing or cannot be read; a row lacks
            a field; or no row can be used.

    Example:

    ```python
    >>> examples = load_dataset("hotpotqa", "shared/data", limit=100)
    >>> print(examples.describe())
    hotpotqa (dev): 100 examples; ...
    ```
    """
    if name not in DATASETS and (name.startswith(PREFIX) or name.endswith((".jsonl", ".jsonl.gz"))):
        if source is not None:
            raise FaithgenError(f"{name!r} is a source itself, and {str(source)!r} is given too; give one of the two")
        name, source = "jsonl", name
    if name not in DATASETS:
        raise FaithgenError(f"the data set {name!r} is not known; give one of {', '.join(DATASETS)}, or a .jsonl file")
    dataset = DATASETS[name]
    _check(name, dataset, split, limit, seed, options)
    tables, read, place = _tables(name, dataset, source, split)
    if "train" in dataset.files and not read.startswith("train"):
        training = next((row.place for row in tables["rows"] if row.values.get("split") == "train"), None)
        if training:
            raise FaithgenError(
                f"{training} is a training row of {name}; ask for them by split='train', or leave it out"
            )
    generator = random.Random(seed)
    generator.shuffle(tables["rows"])
    tally = Tally()
    examples: dict[str, Example] = {}
    for example in dataset.build(tables, generator, tally, **options):
        if not example.question.strip():
            tally.dropped["no question"] += 1
        elif example.id in examples:
            tally.dropped["the id of another row"] += 1
        else:
            examples[example.id] = example
        if len(examples) == limit:
            break
    # without the reasons that were counted as zero
    loaded = Loaded(name, read, place, list(examples.values()), +Counter(tally.dropped), +Counter(tally.changed))
    if not examples:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in loaded.dropped.most_common()) or "it is empty"
        raise FaithgenError(f"{name} has no usable row in {place}: {reasons}; give other rows or options")
    return loaded


def _check(name: str, dataset: DataSet, split: str | None, limit: Any, seed: Any, options: Mapping[str, Any]) -> None:
    if split is not None and split not in dataset.files:
        raise FaithgenError(f"{name} has no split {split!r}; give {' or '.join(map(repr, dataset.files))}")
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise FaithgenError(f"limit is {limit!r}; give a whole number, 1 or more")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise FaithgenError(f"seed is {seed!r}; give a whole number")
    parameters = inspect.signature(dataset.build).parameters.values()
    known = {parameter.name: parameter.default for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}
    for option, value in options.items():
        if option in known:
            if isinstance(known[option], bool) and not isinstance(value, bool):
                raise FaithgenError(f"the option {option} of {name} is {value!r}; give true or false")
        else:
            raise FaithgenError(f"{name} has no option {option!r}; it has {', '.join(known) or 'none'}")


def _tables(
    name: str, dataset: DataSet, source: str | os.PathLike[str] | None, split: str | None
) -> tuple[dict[str, list[Row]], str, str]:
    """Rows by table, the split that was read, and the source in words."""
    found = os.environ.get(SHARED) if source is None else source
    if not found:
        raise FaithgenError(f"no data for {name}: give a file, a folder or a hub: name (--data), or set {SHARED}")
    wanted = split or dataset.default_split
    if str(found).startswith(PREFIX):
        return _hub_tables(name, dataset, str(found), split)
    files = dataset.files[wanted]
    root = Path(found).expanduser()
    if not root.exists():
        raise FaithgenError(f"{str(found)!r} does not exist; give a JSONL file, a folder, or hub:org/name")
    if root.is_dir():
        return {table: read_jsonl(_in_folder(root, path, name)) for table, path in files.items()}, wanted, str(root)
    if len(files) > 1:
        needed = ", ".join(Path(path).name for path in files.values())
        raise FaithgenError(
            f"{name} is made from several files ({needed}) and {str(found)!r} is one; give their folder"
        )
    return {"rows": read_jsonl(root)}, wanted, str(root)


def _in_folder(root: Path, path: str, name: str) -> Path:
    for candidate in (root / path, root / Path(path).name):
        if candidate.is_file():
            return candidate
    raise FaithgenError(f"{str(root)!r} has no {path} for {name}, nor {Path(path).name}; give the file or its folder")


def _hub_tables(name: str, dataset: DataSet, source: str, split: str | None) -> tuple[dict[str, list[Row]], str, str]:
    hub = HubName.parse(source)
    wanted = split or dataset.default_split
    if len(dataset.files[wanted]) == 1:
        rows, read = read_hub(hub, [wanted] if split else [wanted, "dev", "test"])
        return {"rows": rows}, read, str(hub)
    if dataset.hub is None or hub.config or hub.split:
        mend = "give a local folder" if dataset.hub is None else "give the name alone, without config and split"
        raise FaithgenError(f"{name} is made from several tables, which {source!r} does not name; {mend}")
    tables = {}
    for table, (suffix, config, part) in dataset.hub[wanted].items():
        place = replace(hub, path=hub.path + suffix, config=config or None, split=part)
        tables[table] = read_hub(place, [part])[0]
    return tables, wanted, str(hub)
