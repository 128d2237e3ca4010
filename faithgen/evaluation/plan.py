"""What a run has to do: its settings, the sets it reads, and the batches they are cut into."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from faithgen.errors import FaithgenError
from faithgen.evaluation.bm25 import CORPUS, with_corpus_scores
from faithgen.evaluation.datasets import DATASETS, SHARED, SUITES, Example, Loaded, load_dataset
from faithgen.evaluation.prompts import ChoiceStyle
from faithgen.evaluation.store import Key
from faithgen.evaluation.tasks import RANK, Task, task_of

ANSWERING = ("base", "cafe", "cafe:random1", "full", "full:random1")
RANKING = ("heads", "heads:random", "icr", "bm25", "embedding")
"""Methods of a run that names none: each that uses heads beside as many random ones."""

_WORDS = {"true": True, "yes": True, "false": False, "no": False}
_SPEC = re.compile(r"([\w-]+):(.+)", re.DOTALL)


@dataclass(frozen=True)
class EvalSettings:
    """What decides the rows of a run.

    Args:
        datasets (`tuple[str, ...]`): names, with options as in `"nq_hard:passages=10,gold_position=0"`; `.jsonl` files and
            `hub:` names.
        methods (`tuple[str, ...]`): see [`get_method`], or [`get_ranker`] for re-ranking.
        mode (`str`, *optional*, defaults to `"answer"`): `"answer"` or `"rank"`.
        suite (`str`, *optional*): where `datasets` come from; those of it that are not at hand are left out.
        data (`str`, *optional*): file, folder or `hub:` name of the data; the folder FAITHGEN_SHARED_DATA by default.
        limit (`int`, *optional*): rows of each set at most.
        skip (`int`, *optional*, defaults to 0): rows left out before these, e.g. those that a setting was chosen on.
        seed (`int`, *optional*, defaults to 0): of the order of the rows, of what a set draws, and of random heads.
        model (`str`, *optional*), heads (`tuple[str, ...]`), dtype (`str`), device (`str`): as for `faithgen generate`.
        scorer (`str`, *optional*):
            Judges support of the answers by their documents, e.g. `"lexical"` or `"nli:NAME"`; none where `None`.
        embedding (`str`, *optional*): name or folder of the embedding baseline's model.
        alpha (`float`, *optional*): contrast strength of the methods whose name gives none.
        max_new_tokens (`int`, *optional*), instruction (`str`, *optional*): in place of the sets' own.
        choice_style (`str`, *optional*, defaults to `"completion"`): how MemoTrap is read, see [`ending_prompt`].
        batch_size (`int`, *optional*, defaults to 4): questions answered together.
    """

    datasets: tuple[str, ...]
    methods: tuple[str, ...] = ANSWERING
    mode: Literal["answer", "rank"] = "answer"
    suite: str | None = None
    data: str | None = None
    limit: int | None = None
    skip: int = 0
    seed: int = 0
    model: str | None = None
    heads: tuple[str, ...] = ()
    dtype: str = "auto"
    device: str = "auto"
    scorer: str | None = None
    embedding: str | None = None
    alpha: float | None = None
    max_new_tokens: int | None = None
    instruction: str | None = None
    choice_style: ChoiceStyle = "completion"
    batch_size: int = 4

    def record(self) -> dict[str, Any]:
        """The settings that decide the answers, as `run.json` keeps them: not where the
        data lie, what they run on, or how many are answered together (that changes them by rounding at most)."""
        left_out = ("data", "device", "suite", "datasets", "batch_size")
        kept = {name: value for name, value in asdict(self).items() if name not in left_out}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in kept.items()}


@dataclass
class PlannedSet:
    """One set of a run.

    Attributes:
        spec (`str`): as asked for, with options: what rows name it by.
        name (`str`): without.
        task ([`Task`]): how it is asked and scored.
        loaded ([`Loaded`]): where the rows come from.
        examples (`list[Example]`): the rows.
    """

    spec: str
    name: str
    task: Task
    loaded: Loaded
    examples: list[Example]

    def record(self) -> dict[str, Any]:
        lines = (json.dumps(example.to_dict(), sort_keys=True, ensure_ascii=False) for example in self.examples)
        checksum = hashlib.sha256("\n".join(lines).encode("utf-8", "backslashreplace")).hexdigest()
        return {
            "split": self.loaded.split,
            "rows": len(self.examples),
            "sha256": checksum,
            "dropped": dict(self.loaded.dropped),
            "changed": dict(self.loaded.changed),
        }

    @cached_property
    def scored(self) -> list[Example]:
        """The rows with BM25 scores by all passages of the set, as the ranker `bm25_corpus` reads them."""
        return with_corpus_scores(self.examples)


@dataclass
class Batch:
    """Rows of one set that one method answers together."""

    dataset: str
    method: str
    examples: list[Example]

    def row_keys(self) -> list[Key]:
        return [(self.dataset, self.method, example.id) for example in self.examples]


@dataclass
class Plan:
    """All that a run has to do.

    Attributes:
        settings ([`EvalSettings`])
        sets (`list[PlannedSet]`)
        missing (`dict[str, str]`): sets of the suite that are not at hand, with the reason.
    """

    settings: EvalSettings
    sets: list[PlannedSet]
    missing: dict[str, str] = field(default_factory=dict)

    def set_of(self, spec: str) -> PlannedSet:
        return next(one for one in self.sets if one.spec == spec)

    def batches(self, methods: Sequence[str]) -> Iterator[Batch]:
        """All batches, the same in every process: rows of like length together, the longest first, so that memory that
        does not suffice shows early."""
        size = self.settings.batch_size
        for one in self.sets:
            for method in methods:
                examples = one.scored if method.strip() == CORPUS else one.examples
                ordered = sorted(examples, key=_length, reverse=True)
                for start in range(0, len(ordered), size):
                    yield Batch(one.spec, method, ordered[start : start + size])

    def order(self) -> list[Key]:
        """Keys of all rows in the order of the report."""
        methods = self.settings.methods
        return [(one.spec, method, example.id) for one in self.sets for method in methods for example in one.examples]

    def record(self) -> dict[str, Any]:
        return {one.spec: one.record() for one in self.sets}


def make_plan(settings: EvalSettings) -> Plan:
    """Load the sets of a run.

    Raises:
        FaithgenError: If a set or option is not known, data are missing, or a set has no rows.
    """
    if not settings.datasets:
        raise FaithgenError("nothing to evaluate; give --suite or --dataset")
    if settings.skip < 0:
        raise FaithgenError(f"skip is {settings.skip}; give 0 or more")
    sets: list[PlannedSet] = []
    missing: dict[str, str] = {}
    for spec in dict.fromkeys(settings.datasets):
        name, options = parse_spec(spec)
        lacking = _lacking(name, settings) if settings.suite else None
        if lacking:
            missing[spec] = lacking
            continue
        loaded = _load(spec, name, options, settings)
        examples = loaded[settings.skip :]
        if not examples:
            raise FaithgenError(f"{spec} has no rows after the first {settings.skip}; give a smaller --skip")
        task = RANK if settings.mode == "rank" else task_of(name, examples)
        if settings.mode == "answer" and task.kind == "rank":
            raise FaithgenError(f"{spec} has no answers, only relevant documents; use --suite rerank for it alone")
        sets.append(PlannedSet(spec, name, task, loaded, examples))
    if not sets:
        raise FaithgenError(f"no set of {settings.suite} is at hand: " + "; ".join(missing.values()))
    return Plan(settings, sets, missing)


def parse_spec(spec: str) -> tuple[str, dict[str, Any]]:
    """A set's name and its options, e.g. `"nq_hard:passages=10"`. Values are JSON; yes, no, True and False stand for truth
    values, and what is none of these is a string.

    Raises:
        FaithgenError: If the options are not `name=value`, separated by commas.
    """
    match = _SPEC.fullmatch(spec)
    if spec.startswith("hub:") or spec.endswith((".jsonl", ".jsonl.gz")) or match is None:
        return spec, {}
    options: dict[str, Any] = {}
    for part in re.split(r",(?=\w+=)", match[2]):
        name, found, text = part.partition("=")
        if not found or not re.fullmatch(r"\w+", name):
            raise FaithgenError(f"{spec!r}: {part!r} is no option; write NAME:option=value,option=value")
        try:
            options[name] = json.loads(text)
        except ValueError:
            options[name] = _WORDS.get(text.strip().lower(), text)
    return match[1], options


def suite_sets(suite: str) -> tuple[str, ...]:
    """The sets of a suite.

    Raises:
        FaithgenError: If it is not known.
    """
    if suite not in SUITES:
        raise FaithgenError(f"the suite {suite!r} is not known; use one of {', '.join(SUITES)}")
    return SUITES[suite]


def _load(spec: str, name: str, options: dict[str, Any], settings: EvalSettings) -> Loaded:
    limit = None if settings.limit is None else settings.limit + settings.skip
    if settings.limit is not None and settings.limit < 1:
        raise FaithgenError(f"limit is {settings.limit}; give 1 or more")
    own_source = name not in DATASETS
    try:
        return load_dataset(name, None if own_source else settings.data, limit=limit, seed=settings.seed, **options)
    except TypeError as error:  # an option that is a parameter of load_dataset itself
        raise FaithgenError(f"{spec!r} has an option that cannot be given here ({error})") from error


def _lacking(name: str, settings: EvalSettings) -> str | None:
    """Why a set of a suite is not at hand: its files are not in the folder that there is."""
    root = Path(settings.data or os.environ.get(SHARED, "")).expanduser()
    if not (settings.data or os.environ.get(SHARED)) or not root.is_dir():
        return None
    files = next(iter(DATASETS[name].files.values())).values()
    lacking = [path for path in files if not ((root / path).is_file() or (root / Path(path).name).is_file())]
    return f"{name}: no {lacking[0]} in {str(root)!r}" if lacking else None


def _length(example: Example) -> int:
    return len(example.question) + sum(len(document.title) + len(document.text) for document in example.documents)
