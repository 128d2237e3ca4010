"""The layers x heads map of a head set, as a PNG."""

from __future__ import annotations

import os

from faithgen.files import replacing
from faithgen.heads.head_set import HeadSet


def plot_heads(head_set: HeadSet, path: str | os.PathLike[str], *, mark: int = 10) -> None:
    """Draw the scores of all heads and mark the best.

    Args:
        head_set ([`HeadSet`]): what to draw.
        path (`str` or `PathLike`): PNG file; written to a temporary name and renamed.
        mark (`int`, *optional*, defaults to 10): how many of the best heads to ring.

    Raises:
        FaithgenError: If the file cannot be written.
    """
    from matplotlib.figure import Figure

    layers, heads = head_set.num_layers, head_set.num_heads
    figure = Figure(figsize=(max(4.0, 0.28 * layers + 2), max(2.4, 0.28 * heads + 1.4)), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow([list(row) for row in zip(*head_set.scores, strict=True)], aspect="auto", cmap="viridis")
    best = head_set.top(min(mark, layers * heads))
    axes.scatter(
        [layer for layer, _ in best],
        [head for _, head in best],
        s=60,
        facecolors="none",
        edgecolors="white",
        linewidths=1.4,
    )
    axes.set(xlabel="layer", ylabel="head", title=f"{head_set.method} heads of {head_set.model_id}"[:80])
    figure.colorbar(image, ax=axes, label="score")
    with replacing(path, suffix=".png") as temporary:
        figure.savefig(temporary, format="png", dpi=150)
