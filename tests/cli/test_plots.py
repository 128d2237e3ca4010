"""The plots of the command line: what `--top` marks, and the report's colours."""

import json
import re
from dataclasses import astuple

import pytest

from faithgen.report.look import LIGHT


def colours(svg):
    """The colours that an SVG names."""
    return {one.lower() for one in re.findall(r"#[0-9a-fA-F]{6}", svg.read_text(encoding="utf-8"))}


def pixels(png):
    from matplotlib.image import imread

    rows = (imread(png)[:, :, :3] * 255).round().astype(int).reshape(-1, 3)
    return {"#{:02x}{:02x}{:02x}".format(*colour) for colour in rows}


def test_top_is_how_many_heads_the_plot_marks(run, tiny_heads, tmp_path):
    drawn = {}
    for top in (1, 2, 5):
        plot = tmp_path / f"{top}.svg"
        assert run("heads", "show", tiny_heads[0], "--top", top, "--plot", plot)[0] == 0
        drawn[top] = plot.read_text(encoding="utf-8")
    assert len(set(drawn.values())) == 3
    rings = {top: len(re.findall("<use [^>]*stroke: #1c1c1c", text)) for top, text in drawn.items()}
    assert [rings[top] - rings[1] for top in drawn] == [0, 1, 4]


@pytest.mark.parametrize("ending", ["svg", "png"])
def test_plots_are_in_the_colours_of_the_report(run, tiny_heads, model_options, documents, tmp_path, ending):
    heads, rank = tmp_path / f"heads.{ending}", tmp_path / f"rank.{ending}"
    assert run("heads", "show", tiny_heads[0], "--plot", heads)[0] == 0
    asked = ["rank", "What was lit?", "-d", documents, "--refine", 2, "--format", "json", "--plot", rank]
    code, out, _ = run(*asked, *model_options)
    assert code == 0
    assert any(row.get("fine_score") for row in json.loads(out))
    found = {plot: colours(plot) if ending == "svg" else pixels(plot) for plot in (heads, rank)}
    assert {LIGHT.back, LIGHT.text, LIGHT.card} <= found[heads]
    assert {LIGHT.back, LIGHT.coarse, LIGHT.fine} <= found[rank]
    if ending == "svg":  # a picture's edges are blended
        assert found[heads] | found[rank] <= set(astuple(LIGHT))
    else:
        assert LIGHT.fine in found[heads]  # the best head
