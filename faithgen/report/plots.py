"""Plots as PNG or SVG in the look of the report: the heads of a set, and documents by their scores."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from faithgen.errors import FaithgenError
from faithgen.files import replacing
from faithgen.report.look import LIGHT

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from faithgen.documents import Document
    from faithgen.heads.head_set import HeadSet

FORMATS = (".png", ".svg")
_LABEL = 44
_MOST = 60


def check_plot(path: str | os.PathLike[str]) -> None:
    """Say that a plot cannot be written there before anything is computed for it.

    Raises:
        FaithgenError: If the ending is not one of `FORMATS`, or the folder cannot be written in.
    """
    target = Path(path)
    if target.suffix.lower() not in FORMATS:
        raise FaithgenError(f"cannot draw {str(target)!r}; a plot's name ends in {' or '.join(FORMATS)}")
    if not target.parent.is_dir() or not os.access(target.parent, os.W_OK):
        raise FaithgenError(f"cannot write in {str(target.parent)!r}; choose another --plot")


def plot_heads(head_set: HeadSet, path: str | os.PathLike[str], *, mark: int = 10) -> None:
    """Draw the scores of all heads and mark the best.

    Args:
        head_set ([`HeadSet`]): what to draw.
        path (`str` or `PathLike`): `.png` or `.svg` file; written to a temporary name and renamed.
        mark (`int`, *optional*, defaults to 10): how many of the best heads to ring.

    Raises:
        FaithgenError: If the file cannot be written.
    """
    check_plot(path)
    layers, heads = head_set.num_layers, head_set.num_heads
    best = head_set.top(min(mark, layers * heads))

    def draw(figure: Figure) -> None:
        from matplotlib.colors import LinearSegmentedColormap

        axes = figure.add_subplot()
        shades = LinearSegmentedColormap.from_list("faithgen", [LIGHT.card, LIGHT.fine])
        rows = [list(row) for row in zip(*head_set.scores, strict=True)]
        image = axes.imshow(rows, aspect="auto", cmap=shades, vmin=0 if min(map(min, rows)) >= 0 else None)
        for colour, width in ((LIGHT.card, 3.2), (LIGHT.text, 1.2)):
            for layer, head in best:
                axes.plot(layer, head, "o", markersize=8, fillstyle="none", color=colour, markeredgewidth=width)
        axes.set(xlabel="layer", ylabel="head")
        title = f"{head_set.method} heads of {head_set.model_id}"
        axes.set_title(drawable(title, 80), loc="left", fontsize=11, color=LIGHT.text)
        _style(axes)
        bar = figure.colorbar(image, ax=axes, label=f"score (ringed: the best {len(best)})")
        bar.outline.set_visible(False)
        bar.ax.tick_params(colors=LIGHT.soft, labelsize=9)
        bar.ax.yaxis.label.set_color(LIGHT.soft)

    _save(path, (max(4.8, 0.28 * layers + 2), max(2.6, 0.28 * heads + 1.4)), draw)


def plot_ranking(question: str, documents: Sequence[Document], path: str | os.PathLike[str]) -> None:
    """Draw a bar for each score of each document.

    Args:
        question (`str`): what they were ranked for.
        documents (`Sequence[Document]`): with `.coarse_score` and `.fine_score`, in the order to draw, best first. At most
            60 are drawn.
        path (`str` or `PathLike`): `.png` or `.svg` file; written to a temporary name and renamed.

    Raises:
        FaithgenError: If the file cannot be written.
    """
    check_plot(path)
    shown = list(documents)[:_MOST]

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        passes = (
            ("coarse: all documents read together", LIGHT.coarse, [one.coarse_score for one in shown], -0.19),
            ("fine: the best ones read once more", LIGHT.fine, [one.fine_score for one in shown], 0.19),
        )
        for label, colour, scores, beside in passes:
            given = [(place, score) for place, score in enumerate(scores) if score is not None]
            if given:
                places = [place + beside * (shown[place].fine_score is not None) for place, _ in given]
                axes.barh(places, [max(0.0, score) for _, score in given], 0.34, color=colour, label=label)
        names = [drawable(one.title or one.origin, _LABEL) for one in shown]
        axes.set_yticks(range(len(shown)), [f"{name}  {place}" for place, name in enumerate(names, 1)])
        axes.invert_yaxis()
        axes.set_xlabel("score: sum over the heads of a document's share of their attention")
        _style(axes)
        axes.grid(axis="x", color=LIGHT.line, linewidth=0.6)
        axes.set_axisbelow(True)
        figure.suptitle(drawable(question, 80), x=0.01, ha="left", fontsize=11, color=LIGHT.text)
        if axes.patches:
            figure.legend(loc="outside lower left", ncols=2, fontsize=9, frameon=False, labelcolor=LIGHT.soft)

    _save(path, (8.0, 1.5 + 0.42 * len(shown)), draw)


def _style(axes: Any) -> None:
    axes.set_facecolor(LIGHT.back)
    axes.tick_params(colors=LIGHT.soft, labelsize=9, length=0)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(LIGHT.soft)
        label.set_size(9)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _save(path: str | os.PathLike[str], size: tuple[float, float], draw: Any) -> None:
    import matplotlib
    from matplotlib.figure import Figure

    suffix = Path(path).suffix.lower()
    # glyphs as paths: no font is needed to read the file, and no text of a document becomes markup
    settings: Any = {"svg.fonttype": "path", "svg.hashsalt": "faithgen", "text.parse_math": False}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=size, layout="constrained", facecolor=LIGHT.back)
        draw(figure)
        with replacing(path, suffix=suffix, mend="choose another --plot") as temporary:
            metadata = {"Date": None, "Creator": None} if suffix == ".svg" else None
            figure.savefig(temporary, format=suffix[1:], dpi=150, metadata=metadata)


def drawable(text: str, most: int) -> str:
    """Text on one line, shortened, with a box for each character that the plot's font lacks.

    Args:
        text (`str`): any text.
        most (`int`): characters to keep.
    """
    line = " ".join(text.split())
    line = line if len(line) <= most else line[: most - 1] + "…"
    glyphs = _glyphs()
    return "".join(c if ord(c) in glyphs and c.isprintable() else "\u25a1" for c in line)


@cache
def _glyphs() -> frozenset[int]:
    from matplotlib.font_manager import FontProperties, findfont, get_font

    return frozenset(get_font(findfont(FontProperties())).get_charmap())
