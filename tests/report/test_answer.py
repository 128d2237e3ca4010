"""The page of an answer, as text: what it says, and that no text becomes markup."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faithgen import Document, FaithgenError
from faithgen.report import render_report, write_report
from faithgen.report.page import clean
from tests.report.making import TOKENS, head_sets, make_answer
from tests.report.parsing import Page


@pytest.fixture(scope="module")
def page():
    return Page(render_report(make_answer(), **head_sets()))


def data_of(page):
    return json.loads(page.texts(id="data")[0])


# --- what it says -----------------------------------------------------------------------------------------------------


def test_the_answer_is_its_tokens_in_sentences(page):
    assert page.texts(id="answer") == ["The mill is Ada's. She built it."]
    assert page.texts(kind="sentence") == ["The mill is Ada's.", " She built it."]
    assert page.texts(kind="token") == [text.strip() for text in TOKENS]
    assert page.texts("h1") == ["Who built the mill?"]


def test_tokens_are_shaded_by_the_disagreement_of_the_branches(page):
    levels = [next(c for c in own["class"].split() if c[0] == "u") for _, own, _ in page.find(kind="token")]
    assert levels == ["u0", "u1", "u2", "u3", "u4", "u4", "u5", "u6", "u7"]
    alone = Page(render_report(make_answer(two_branches=False)))
    assert {own["class"] for _, own, _ in alone.find(kind="token")} == {"token u4"}  # probability 0.5
    assert "there is no second branch" in alone.texts(kind="legend")[0]
    assert [name for name, _ in data_of(alone)["tokens"][0]["branches"]] == ["faithful"]


@pytest.mark.parametrize(
    ("contrast", "legend", "weight"),
    [
        ({"source": "control", "method": "rhio", "alpha": 0.5}, "trained to be faithful", "a = 0.5:"),
        ({"source": "control", "method": "rhio", "alpha": 0.0}, "trained to be faithful", None),
        ({"source": "heads", "method": "decore", "alpha": 1.0}, "heads that copy", "a = 1 × entropy:"),
        ({"source": "context", "method": "adacad", "alpha": 1.0}, "depends on the documents", "a = 1 × disagreement:"),
        ({"source": "another", "alpha": "1"}, "branches disagree", None),
        ("nothing", "branches disagree", None),
    ],
)
def test_the_page_says_what_sets_the_branches_apart_and_how_words_were_chosen(contrast, legend, weight):
    found = Page(render_report(make_answer(settings={"contrast": contrast})))
    assert legend in found.texts(kind="legend")[0]
    assert ("depends on the documents" in found.texts(kind="legend")[0]) == (legend == "depends on the documents")
    chosen = [text for text in found.texts(kind="note") if "log p(faithful)" in text]
    assert len(chosen) == (weight is not None)
    assert weight is None or weight in chosen[0]
    alone = Page(render_report(make_answer(two_branches=False, settings={"contrast": contrast})))
    assert not [text for text in alone.texts(kind="note") if "log p(faithful)" in text]


def test_the_script_has_the_alternatives_of_both_branches(page):
    token = data_of(page)["tokens"][1]
    assert token["text"] == " mill"
    assert dict(token["facts"]) == {
        "probability": "50 %",
        "unfaithful branch": "4 %",
        "disagreement": "11 %",
        "attention on documents": "25 %",
    }
    assert token["branches"] == [
        ["faithful", [[" mill", "50 %", 0.5, True], ["faithful1", "20 %", 0.2, False]]],
        ["unfaithful", [[" unfaithful1", "62 %", 0.625, False]]],
    ]


def test_sentences_name_the_passages_to_light_up(page):
    lights = data_of(page)["sentences"]
    assert lights == [[[1, "40 %", 8], [0, "10 %", 2]], [[4, "30 %", 8]]]
    assert page.texts(id="p0") == ["Mill"]
    assert page.texts(id="p1") == ["Ada built it in 1921."]
    assert page.texts(id="p4") == ["rows.jsonl, passage 2"]  # the heading of a document without a title
    ids = [own["id"] for _, own, _ in page.elements if "id" in own]
    assert len(ids) == len(set(ids))
    for _, own, _ in page.elements:
        for name in ("aria-labelledby", "aria-describedby"):
            assert own.get(name, ids[0]) in ids


def test_documents_are_ranked_with_bars_for_both_passes_and_say_what_became_of_them(page):
    assert page.texts("span", kind="name") == ["Mill", "rows.jsonl, passage 2", "Sale"]
    assert page.texts(kind="state") == [
        "kept, last in the prompt",
        "kept, first in the prompt",
        "dropped: at most 2 are kept ",
    ]
    widths = [(g["class"], float(g["width"])) for _, g, _ in page.find("rect") if g["class"] in ("coarse", "fine")]
    assert widths == [("coarse", 75.0), ("fine", 100.0), ("coarse", 25.0), ("coarse", 10.0)]
    assert [text for text in page.texts("span", kind="bar") if "fine" in text] == ["fine2.00"]
    assert ["open" in own for _, own, _ in page.find("details")][:3] == [True, True, False]
    assert "2 of 3 kept" in page.texts(kind="count")


def test_documents_that_were_not_ranked_have_no_bars():
    answer = make_answer([Document("One.", id="1", kept=True), Document("Two.", id="2", kept=True)])
    page = Page(render_report(answer))
    assert page.find(kind="bar") == []
    assert "The documents were not ranked." in page.texts("p")


def test_scores_below_zero_draw_nothing():
    documents = [Document("One.", id=str(i), kept=not i, score=s, coarse_score=s) for i, s in enumerate((0.5, -1.25))]
    page = Page(render_report(make_answer(documents)))
    assert [g["width"] for _, g, _ in page.find("rect") if g["class"] == "coarse"] == ["100.0", "0.0"]
    assert page.texts(kind="bar")[1] == "coarse-1.25"


def test_what_was_cut_off_is_told_from_what_was_read():
    answer = make_answer([Document("One. Two. Three.", id="1", kept=True, truncated=True)])
    answer.explanation.passages[2:] = [type(answer.explanation.passages[1])("1", 5, 8)]
    page = Page(render_report(answer))
    assert page.texts(kind="passage") == ["One.", "Two"]
    assert page.texts(kind="unread") == [". Three."]
    assert page.texts(kind="text") == ["One. Two. Three."]
    assert page.texts(kind="state") == ["kept, alone in the prompt; cut to fit the model's window"]


def test_maps_shade_the_heads_and_mark_what_they_did(page):
    assert [own["aria-label"] for _, own, _ in page.find("svg", role="img")] == [
        "Heads that find the documents: query_focused scores, 4 layers of 3 heads",
        "Heads that copy from the documents: copying scores, 4 layers of 3 heads",
    ]
    titles = page.texts("title")[1:]
    assert titles[-1] == "layer 2, head 1: 0.900"
    assert len(titles) == 10  # the first layer's heads but one, and nearly all of the second map, stay on the ground
    strong = page.find("rect", kind="m8")[-1][1]
    assert (strong["x"], strong["y"]) == ("20", "10")
    marks = [(tag, g.get("cx"), g.get("cy"), g.get("d")) for tag, g, _ in page.elements if g.get("class") == "mark"]
    drawn = [mark for mark in marks if mark[1] != "5" and not (mark[3] or "").startswith("M2 2l")]  # less the key
    assert drawn == [
        ("circle", "35", "25", None),
        ("circle", "25", "15", None),
        ("circle", "35", "25", None),
        ("path", None, None, "M23.4 13.4l3.2 3.2m0 -3.2l-3.2 3.2"),
    ]


def test_without_head_sets_the_heads_are_named():
    page = Page(render_report(make_answer()))
    assert page.find("svg", kind="map") == []
    listed = [" ".join(text.split()) for text in page.texts("li") if "-" in text and ":" in text][-3:]
    assert listed == [
        "ranked the documents: 3-2",
        "watched while the answer was written: 2-1, 3-2",
        "masked in the unfaithful branch: 2-1",
    ]


def test_large_models_have_readable_maps():
    from faithgen import HeadSet

    large = HeadSet([[0.5] * 64 for _ in range(80)], "copying", "large")
    source = render_report(make_answer(), copying_heads=large)
    assert len(source) < 1_000_000
    labels = [int(text) for text in Page(source).texts("text") if text.isdigit()]
    assert labels == [*range(0, 80, 10), *range(0, 64, 10)]
    nothing = HeadSet([[0.0] * 3] * 4, "copying", "none")
    assert Page(render_report(make_answer(), copying_heads=nothing)).find("rect", kind="m8") == []


def test_settings_and_timings_are_told(page):
    told = dict(zip(page.texts("dt"), page.texts("dd"), strict=True))
    assert told["filter.mass"] == "none"
    assert told["filter.keep"] == "2"
    assert told["stop"] == "'\\n'"
    assert told["in all"] == "2.00 s"
    assert told["tokens read to rank"] == "1,234"
    assert told["tokens written a second"] == "18.00"
    assert told["end"] == "the model ended the answer"


def test_doubt_and_warnings_are_told():
    page = Page(render_report(make_answer(warnings=["<b>cut</b>"])))
    assert page.texts(kind="doubt") == [
        "some doubt 0.50 of 1; the best document has 74 % of the attention; least sure of “The” (50 %)"
    ]
    assert "Warning: <b>cut</b>" in page.texts(kind="warning")


def test_an_empty_answer_says_so():
    answer = make_answer()
    answer.text, answer.tokens = "", []
    answer.explanation.sentences.clear()
    page = Page(render_report(answer))
    assert "The model wrote nothing." in page.texts(kind="warning")
    assert page.find(id="answer") == []


def test_parts_of_characters_and_margins_are_no_tokens_to_point_at():
    answer = make_answer(tokens=["\n", " A", "", "👩", ".", " \n", "B", " ", "\n"])
    page = Page(render_report(answer))
    assert page.texts(id="answer") == ["A👩. \nB"]
    assert page.texts(kind="token") == ["A", "👩", ".", " \n", "B"]
    assert [own["data-token"] for _, own, _ in page.find(kind="token")] == ["1", "3", "4", "5", "6"]


# --- text stays text --------------------------------------------------------------------------------------------------

PIECES = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</p></details>",
    "<!--",
    "-->",
    "&amp;",
    "</style>",
]
PIECES += [
    "javascript:alert(1)",
    "{{ 7 * 7 }}",
    "{% raw %}",
    "' onclick='x",
    "\x00",
    "\r\n",
    "\u2028",
    "\u202e",
    "\ud800",
    "`${1}`",
]
HOSTILE = st.lists(st.sampled_from(PIECES) | st.text(max_size=6), min_size=1, max_size=6).map("".join)
ALLOWED = {
    "name",
    "class",
    "id",
    "content",
    "http-equiv",
    "charset",
    "lang",
    "dir",
    "role",
    "tabindex",
    "type",
    "open",
    "hidden",
}
DRAWN = {
    "width",
    "height",
    "x",
    "y",
    "cx",
    "cy",
    "r",
    "d",
    "viewbox",
    "preserveaspectratio",
    "font-size",
    "text-anchor",
}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(HOSTILE)
def test_no_text_becomes_markup(text):
    page = Page(render_report(make_answer(text=text), **head_sets()))
    harmless = Page(render_report(make_answer(text="plain"), **head_sets()))
    found, expected = ([tag for tag, _, _ in one.elements if tag not in ("span", "bdi")] for one in (page, harmless))
    assert found == expected  # spans: sentences of a text differ
    for _, own, _ in page.elements:
        names = {name for name in own if not name.startswith(("aria-", "data-"))}
        assert names <= ALLOWED | DRAWN | {"title"}
        assert own.get("title") in (None, "cut off: the model did not read this")
    texts = page.texts(kind="text")
    assert texts == [clean(f"{text} Ada built it. {text}")] * 3
    assert page.texts("h1") == [clean(f"q {text}")]
    assert page.texts(id="answer") == [clean(f"{''.join(TOKENS)}{text}".strip())]
    assert clean(text) in page.texts("dd")
    assert f"Warning: cut {clean(text)}" in page.texts(kind="warning")
    assert data_of(page)["tokens"][-1]["branches"][0][1][1][0] == clean(text)


def test_the_page_loads_nothing():
    text = "https://example.org/x.js http://example.org //example.org/a.png"
    page = Page(render_report(make_answer(text=text), **head_sets()))
    assert {"link", "img", "iframe", "object", "embed", "base", "form", "video", "a", "use", "image"}.isdisjoint(
        tag for tag, _, _ in page.elements
    )
    assert not any(
        {"src", "href", "srcset", "style", "action", "xlink:href"} & set(own) for _, own, _ in page.elements
    )
    (style,) = page.texts("style")
    assert "url(" not in style
    assert "@import" not in style
    script = page.texts("script")[1]
    for word in ("http", "fetch", "import", "XMLHttp", "innerHTML", "eval", "document.write", "insertAdjacent"):
        assert word not in script


# --- files ------------------------------------------------------------------------------------------------------------


def test_the_file_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "answer.html"
    path.write_text("before")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(FaithgenError, match=r"answer\.html.*No space left.*choose another file"):
        write_report(make_answer(), path)
    assert path.read_text() == "before"
    assert [one.name for one in tmp_path.iterdir()] == ["answer.html"]
    monkeypatch.undo()
    write_report(make_answer(), path, **head_sets())
    assert path.read_text(encoding="utf-8") == render_report(make_answer(), **head_sets())


def test_an_answer_that_was_not_explained_is_refused(tmp_path):
    with pytest.raises(FaithgenError, match="explain=True"):
        write_report(make_answer(explanation=None), tmp_path / "answer.html")
    assert not list(tmp_path.iterdir())


def test_certain_tokens_are_not_shaded():
    answer = make_answer(two_branches=False)
    answer.tokens = [
        type(t)(t.text, t.id, 0.0 if t.id % 2 else math.log(0.01), None, None, t.detail) for t in answer.tokens
    ]
    levels = [own["class"] for _, own, _ in Page(render_report(answer)).find(kind="token")]
    assert levels == ["token u8", "token u0"] * 4 + ["token u8"]
