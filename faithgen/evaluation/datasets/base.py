"""What every loader shares: how a set is declared, and how passages are taken over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from .rows import Row
from .schema import EvalDocument, Example

Tables = Mapping[str, list[Row]]
"""Rows by table. `"rows"` holds the questions, shuffled by the seed before a loader sees them."""


@dataclass
class Tally:
    """Rows dropped, and things changed within rows, by reason."""

    dropped: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class DataSet:
    """How one data set is read.

    Args:
        build (`Callable`):
            `build(tables, generator, tally, **options)` yields the [`Example`]s in the order of the rows; its
            keyword-only parameters are the options of the set.
        files (`Mapping[str, Mapping[str, str]]`):
            For each split the path of each table below the folder of data sets. The first split is the default; it is
            never `train`.
        about (`str`): one line: what the rows are, and which published split.
        hub (`Mapping[str, Mapping[str, tuple[str, str, str]]]`, *optional*):
            For a set of several tables: where each is on the hub, as (suffix of the name, config, split). A set of one
            table needs none.
    """

    build: Callable[..., Iterator[Example]]
    files: Mapping[str, Mapping[str, str]]
    about: str
    hub: Mapping[str, Mapping[str, tuple[str, str, str]]] | None = None

    @property
    def default_split(self) -> str:
        return next(iter(self.files))


def numbered(parts: Iterable[tuple[str, str, bool | None]], tally: Tally) -> list[EvalDocument]:
    """Documents numbered from 1, less those without text and those that repeat another's title and text.

    Args:
        parts (`Iterable[tuple[str, str, bool | None]]`): title, text and gold label of each, in prompt order.
        tally ([`Tally`]): counts what is left out.
    """
    kept: dict[tuple[str, str], EvalDocument] = {}
    for title, text, gold in parts:
        if not text.strip():
            tally.changed["document without text left out"] += 1
            continue
        before = kept.get((title, text))
        if before is not None:
            tally.changed["document that repeats another left out"] += 1
            before.gold = before.gold or gold
            continue
        kept[title, text] = EvalDocument(str(len(kept) + 1), title, text, gold)
    return list(kept.values())
