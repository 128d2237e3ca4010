"""The layers x heads map of the report, as what its template draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from faithgen.report.look import level

if TYPE_CHECKING:
    from faithgen.heads.head_set import Head, HeadSet

CELL = 10
"""Width and height of a head in the drawing's own units."""
_LABELS = 8
"""About as many numbers stand along each edge."""


@dataclass(frozen=True)
class Mark:
    """Heads that did something.

    Attributes:
        shape (`str`): `"ring"` or `"cross"`.
        words (`str`): what they did.
        heads (`Sequence[tuple[int, int]]`): `(layer, head)`, best first.
    """

    shape: str
    words: str
    heads: Sequence[Head]


@dataclass(frozen=True)
class Cell:
    """A head: its place in the drawing, step of the ramp and what the pointer tells."""

    x: int
    y: int
    level: int
    words: str


@dataclass(frozen=True)
class HeadMap:
    """A map and its marks.

    Attributes:
        title (`str`): what the heads are.
        marks (`list[Mark]`): those that have heads.
        about (`str`): detector and size; empty without a map.
        columns (`int`), rows (`int`): layers and heads a layer; 0 without a map.
        cells (`list[Cell]`): heads that are shaded; the ground shows the others.
        places (`list[tuple[str, int, int]]`): shape of each mark and where it stands.
        along, down (`list[int]`): layers and heads that have their number written beside the map.
    """

    title: str
    marks: list[Mark]
    about: str = ""
    columns: int = 0
    rows: int = 0
    cells: Sequence[Cell] = ()
    places: Sequence[tuple[str, int, int]] = ()
    along: Sequence[int] = ()
    down: Sequence[int] = ()


def map_heads(title: str, heads: HeadSet | None, marks: Sequence[Mark]) -> HeadMap:
    """Lay out a head set.

    Args:
        title (`str`): what the heads are.
        heads ([`HeadSet`], *optional*): the set; without it only the marks are told.
        marks (`Sequence[Mark]`): heads of it that did something.
    """
    marks = [mark for mark in marks if mark.heads]
    if heads is None:
        return HeadMap(title, marks)
    most = max(score for row in heads.scores for score in row)
    cells = []
    for layer, row in enumerate(heads.scores):
        for head, score in enumerate(row):
            step = level(score / most) if most > 0 else 0
            if step:
                words = f"layer {layer}, head {head}: {score:.3f}"
                cells.append(Cell(layer * CELL, head * CELL, step, words))
    return HeadMap(
        title,
        marks,
        f"{heads.method} scores, {heads.num_layers} layers of {heads.num_heads} heads",
        heads.num_layers,
        heads.num_heads,
        cells,
        [(mark.shape, layer * CELL, head * CELL) for mark in marks for layer, head in mark.heads],
        _numbers(heads.num_layers),
        _numbers(heads.num_heads),
    )


def _numbers(count: int) -> list[int]:
    """Round numbers below `count`, about `_LABELS` of them."""
    step = next(
        size for size in (1, 2, 5, 10, 20, 50, 100, 200, 500, count) if count / size <= _LABELS or size >= count
    )
    return list(range(0, count, step))
