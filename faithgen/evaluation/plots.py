"""Plots of a report as SVG, each for light and for dark pages: bars with intervals, needle heat map, support by length."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from faithgen.evaluation.store import Row
from faithgen.evaluation.summary import SetFigures, values_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LIGHT = {"text": "#222222", "grid": "#cccccc", "bar": "#3a6ea5", "base": "#8a8a8a"}
_DARK = {"text": "#dddddd", "grid": "#444444", "bar": "#7fb2e5", "base": "#9a9a9a"}
_MARKS = ("#3a6ea5", "#c8553d", "#588b4c", "#8f5aa8", "#b58a1e", "#2f9aa0", "#a83e6b", "#6b6b6b")
_POINTS = 400


@dataclass(frozen=True)
class Plot:
    """One plot.

    Attributes:
        name (`str`): for its file.
        title (`str`): what it shows, in words.
        light (`str`), dark (`str`): SVG.
    """

    name: str
    title: str
    light: str
    dark: str

    @property
    def light_uri(self) -> str:
        return _uri(self.light)

    @property
    def dark_uri(self) -> str:
        return _uri(self.dark)


def bars(figures: SetFigures, metric: str, label: str) -> Plot | None:
    """A bar a method with its interval; the baseline's value as a line. `None` where no method has a value.

    Args:
        figures ([`SetFigures`]): of one set.
        metric (`str`): what is drawn.
        label (`str`): of the axis.
    """
    shown = [(one.method, one.metrics[metric]) for one in figures.methods if metric in one.metrics]
    shown = [(method, estimate) for method, estimate in shown if estimate.mean is not None]
    if not shown:
        return None

    def draw(figure: Figure, colours: dict[str, str]) -> None:
        axes = figure.add_subplot()
        for place, (method, estimate) in enumerate(shown):
            mean = estimate.mean or 0.0
            axes.barh(place, mean, color=colours["base" if method == figures.baseline else "bar"], height=0.62)
            if estimate.low is not None and estimate.high is not None:
                ends = [[max(0.0, mean - estimate.low)], [max(0.0, estimate.high - mean)]]
                axes.errorbar(mean, place, xerr=ends, color=colours["text"], capsize=3, linewidth=1.2)
        base = next((e.mean for method, e in shown if method == figures.baseline), None)
        if base is not None:
            axes.axvline(base, color=colours["base"], linestyle="--", linewidth=1)
        axes.set_yticks(range(len(shown)), [_plain(method) for method, _ in shown])
        axes.invert_yaxis()
        axes.set_xlabel(_plain(label))
        _style(axes, colours, "x")

    return _plot(f"{metric}", f"{metric} by method, with 95 % intervals", draw, 0.9 + 0.36 * len(shown))


def needle_map(rows: Sequence[Row], methods: Sequence[str], metric: str) -> Plot | None:
    """Mean of a metric by depth and length of the haystack, one map a method.

    Args:
        rows (`Sequence[dict]`): rows of the set, with `length` and `depth` in `meta`.
        methods (`Sequence[str]`): to draw, in order.
        metric (`str`): 0 to 1.
    """
    cells: dict[str, dict[tuple[float, float], list[float]]] = {method: {} for method in methods}
    for row in rows:
        meta, value = row.get("meta") or {}, values_of(row).get(metric)
        if value is not None and row["method"] in cells and {"length", "depth"} <= meta.keys():
            cells[row["method"]].setdefault((meta["length"], meta["depth"]), []).append(value)
    maps = {method: found for method, found in cells.items() if found}
    if not maps:
        return None
    lengths = sorted({length for found in maps.values() for length, _ in found})
    depths = sorted({depth for found in maps.values() for _, depth in found})
    unit = next((row["meta"]["unit"] for row in rows if "unit" in (row.get("meta") or {})), "words")

    def draw(figure: Figure, colours: dict[str, str]) -> None:
        grid = figure.subplots(len(maps), 1, squeeze=False)[:, 0]
        image: Any = None
        for axes, (method, found) in zip(grid, maps.items(), strict=True):
            means = [[fmean(found[n, d]) if (n, d) in found else None for n in lengths] for d in depths]
            image = axes.imshow(
                [[float("nan") if v is None else v for v in line] for line in means],
                aspect="auto",
                vmin=0,
                vmax=1,
                cmap="viridis",
            )
            for y, line in enumerate(means):
                for x, value in enumerate(line):
                    text = "none" if value is None else f"{value:.2f}"
                    shade = colours["text"] if value is None else "black" if value > 0.6 else "white"
                    axes.text(x, y, text, ha="center", va="center", color=shade, fontsize=8)
            axes.set_xticks(range(len(lengths)), [f"{n:g}" for n in lengths])
            axes.set_yticks(range(len(depths)), [f"{d:g} %" for d in depths])
            axes.set_title(_plain(method), color=colours["text"], fontsize=10, loc="left")
            axes.set_ylabel("depth")
            _style(axes, colours, None)
        grid[-1].set_xlabel(f"length in {_plain(unit)}")
        bar = figure.colorbar(image, ax=list(grid), fraction=0.04)
        bar.ax.tick_params(colors=colours["text"])

    height = 0.6 + len(maps) * (0.7 + 0.34 * len(depths))
    return _plot("needle", f"{metric} by depth and length of the haystack", draw, height)


def support_by_length(rows: Sequence[Row], methods: Sequence[str]) -> Plot | None:
    """Support against length of the answer: a point an answer, and the means of each method's quarters by length."""
    points: dict[str, list[tuple[float, float]]] = {method: [] for method in methods}
    for row in rows:
        values = values_of(row)
        words, support = values.get("answer_words"), values.get("support_mean")
        if words is not None and support is not None and row["method"] in points:
            points[row["method"]].append((words, support))
    drawn = {method: sorted(found) for method, found in points.items() if found}
    if not drawn:
        return None

    def draw(figure: Figure, colours: dict[str, str]) -> None:
        axes = figure.add_subplot()
        for number, (method, found) in enumerate(drawn.items()):
            colour = _MARKS[number % len(_MARKS)]
            step = max(1, len(found) // _POINTS)
            words, support = zip(*found[::step], strict=True)
            axes.scatter(words, support, s=10, color=colour, alpha=0.25, linewidths=0)
            size = max(1, -(-len(found) // 4))
            quarters = [found[i : i + size] for i in range(0, len(found), size)]
            means = [(fmean(w for w, _ in part), fmean(s for _, s in part)) for part in quarters]
            axes.plot(*zip(*means, strict=True), marker="o", markersize=4, color=colour, label=_plain(method))
        axes.set(xlabel="words in the answer", ylabel="mean support", ylim=(-0.03, 1.03))
        _style(axes, colours, "both")
        axes.legend(
            fontsize=8,
            frameon=False,
            labelcolor=colours["text"],
            ncols=min(4, len(drawn)),
            loc="lower left",
            bbox_to_anchor=(0, 1),
        )

    return _plot("support", "support by the documents against length of the answer", draw, 3.4)


def _plot(name: str, title: str, draw: Callable[[Figure, dict[str, str]], None], height: float) -> Plot:
    import matplotlib
    from matplotlib.figure import Figure

    images = []
    # glyphs as paths: no font is needed to read the file, and no text of a data set becomes markup
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "faithgen", "text.parse_math": False}):
        for colours in (_LIGHT, _DARK):
            figure = Figure(figsize=(6.4, min(40.0, height)), layout="constrained")
            figure.patch.set_alpha(0)
            draw(figure, colours)
            stream = io.StringIO()
            figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
            images.append(stream.getvalue())
    return Plot(name, title, *images)


def _style(axes: Axes, colours: dict[str, str], grid: Any) -> None:
    axes.patch.set_alpha(0)
    axes.tick_params(colors=colours["text"], labelsize=9)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(colours["text"])
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(colours["grid"])
    if grid is not None:
        axes.grid(axis=grid, color=colours["grid"], linewidth=0.6)
        axes.set_axisbelow(True)


def _plain(text: str) -> str:
    """Text that the plot's font has, shortened."""
    return "".join(c if 31 < ord(c) < 127 else "?" for c in str(text))[:60]


def _uri(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode("utf-8")).decode("ascii")
