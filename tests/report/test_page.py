import base64
import hashlib
import json
import re

from hypothesis import given, settings
from hypothesis import strategies as st

from faithgen.report.page import clean, number, percent, script_json
from tests.report.making import make_answer
from tests.report.parsing import Page

HOSTILE = [
    "<script>",
    "</script>",
    "<!--",
    "]]>",
    "&lt;",
    "\u2028",
    "\u202e",
    "\x00",
    "\r",
    "\ud800",
    '"><img onerror=',
    "{{",
]
TEXT = st.lists(st.sampled_from(HOSTILE) | st.text(max_size=5), max_size=8).map("".join)


def test_the_policy_allows_what_the_page_holds_and_nothing_else():
    from faithgen.report import render_report

    page = Page(render_report(make_answer()))
    policy = page.find("meta", http_equiv="Content-Security-Policy")[0][1]["content"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    data, script = page.find("script")
    assert data[1] == {"type": "application/json", "id": "data"}
    assert script[1] == {}
    (style,) = page.texts("style")
    for rule, text in (("script-src", script[2]), ("style-src", style)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"
    first = [tag for tag, _, _ in page.elements[:5]]
    assert first.index("meta") < 3  # before anything that it governs
    assert "style" not in first
    assert "script" not in first


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.recursive(TEXT | st.integers() | st.booleans() | st.none(), lambda x: st.lists(x, max_size=3), max_leaves=6))
def test_data_for_the_script_cannot_end_its_element(value):
    text = script_json({"value": value, "<k>": 1})
    assert text.isascii()
    assert not set(text) & set("<>&")
    read = json.loads(text)
    assert read["<k>"] == 1

    def same(one, other):
        if isinstance(one, list):
            return len(one) == len(other) and all(map(same, one, other))
        return (clean(one) if isinstance(one, str) else one) == other

    assert same(value, read["value"])


@settings(max_examples=200, deadline=None, derandomize=True)
@given(TEXT)
def test_clean_text_holds_nothing_that_acts(text):
    cleaned = clean(text)
    assert cleaned.encode("utf-8").decode("utf-8") == cleaned
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", cleaned)
    assert clean(cleaned) == cleaned
    assert len(cleaned) == len(text.replace("\r\n", "\n"))


def test_clean_keeps_what_people_write():
    assert clean("naïve\t日本\n\u200e עברית 👩‍👧") == "naïve\t日本\n\u200e עברית 👩‍👧"
    assert clean("a\r\nb\rc\x1b[2J\u202e") == "a\nb\nc\ufffd[2J\ufffd"


def test_figures_do_not_round_to_what_they_are_not():
    shares = {0.0: "0 %", 0.004: "<1 %", 0.5: "50 %", 0.991: ">99 %", 0.996: ">99 %", 1.0: "100 %"}
    assert {share: percent(share) for share in shares} == shares
    assert (number(-0.0), number(1.005), number(-0.126)) == ("0.00", "1.00", "-0.13")
