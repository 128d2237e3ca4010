import warnings
from xml.etree import ElementTree

import pytest

from faithgen import Document, FaithgenError, HeadSet
from faithgen.report.plots import drawable, plot_heads, plot_ranking

HEADS = HeadSet([[layer + head / 10 for head in range(3)] for layer in range(4)], "copying", "tiny")
HOSTILE = ['"><img src=x onerror=alert(1)>', "<script>", "$\\frac{1}$", "日本語", "\x1b[2J", "", " ", "x" * 500]


def documents(titles=("Mill", "Sale"), fine=0.5):
    return [
        Document(
            "text", id=str(place), title=title, coarse_score=1.0 / (place + 1), fine_score=fine if not place else None
        )
        for place, title in enumerate(titles)
    ]


def draw_both(folder, ending):
    plot_heads(HEADS, folder / f"heads{ending}")
    plot_ranking("Who built it?", documents(), folder / f"rank{ending}")
    return [(folder / f"{name}{ending}").read_bytes() for name in ("heads", "rank")]


@pytest.mark.parametrize(("ending", "begins"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".SVG", b"<?xml")])
def test_plots_are_what_their_names_say_and_the_same_each_time(tmp_path, ending, begins):
    found = draw_both(tmp_path, ending)
    assert all(plot.startswith(begins) for plot in found)
    assert draw_both(tmp_path, ending) == found
    assert len(list(tmp_path.iterdir())) == 2  # no temporary file is left


def test_other_endings_and_folders_are_refused(tmp_path):
    for name in ("map.jpg", "map", "none/map.png"):
        with pytest.raises(FaithgenError, match=r"\.png or \.svg|another --plot"):
            plot_heads(HEADS, tmp_path / name)
        with pytest.raises(FaithgenError, match=r"\.png or \.svg|another --plot"):
            plot_ranking("q", documents(), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_texts_of_documents_are_drawn_and_no_markup(tmp_path):
    path = tmp_path / "rank.svg"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a glyph that the font lacks warns
        plot_ranking(HOSTILE[0] + HOSTILE[3], documents(HOSTILE), path)
        plot_heads(HeadSet(HEADS.scores, "copying", HOSTILE[3]), tmp_path / "heads.svg")
    elements = list(ElementTree.parse(path).iter())  # matplotlib repeats texts in comments, which it escapes
    tags = {element.tag.split("}")[-1] for element in elements}
    assert {"svg", "g", "path", "use"} <= tags
    assert tags.isdisjoint({"script", "img", "text", "foreignObject", "a", "image"})
    assert not any(name.startswith("on") for element in elements for name in element.attrib)


def test_what_a_plot_shows_depends_on_the_scores(tmp_path):
    path = tmp_path / "rank.svg"
    found = set()
    for given in (documents(), documents(fine=0.4), documents(fine=None), documents(("Mill", "Mole")), []):
        plot_ranking("q", given, path)
        found.add(path.read_text())
    assert len(found) == 5
    plot_ranking("q", [Document("x", id="1", coarse_score=-1.5)], path)
    low = path.read_text()
    plot_ranking("q", [Document("x", id="1", coarse_score=-1.25)], path)
    assert path.read_text() == low  # a loser of an earlier round draws nothing


def test_long_rankings_draw_their_best(tmp_path):
    plot_ranking("q", documents([f"d{i}" for i in range(60)]), tmp_path / "sixty.svg")
    plot_ranking("q", documents([f"d{i}" for i in range(900)]), tmp_path / "more.svg")
    assert (tmp_path / "sixty.svg").read_bytes() == (tmp_path / "more.svg").read_bytes()


def test_drawable_text_is_one_short_line():
    assert drawable("a\n  b\tc", 10) == "a b c"
    assert drawable("abcdef", 4) == "abc…"
    assert drawable("Zoë Ж 日\u202e", 10) == "Zoë Ж □□"
