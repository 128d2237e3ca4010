import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faithgen.evaluation.text import clean, count_words, split_claims, split_sentences


def sentences(text):
    return [sentence.text for sentence in split_sentences(text)]


def claims(text):
    return [claim.text for claim in split_claims(text)]


# --- sentences --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parts",
    [
        ["Dr. Smith met J. K. Rowling in Washington D.C. in 1999.", "They talked."],
        ["It cost $3.50 at 5 p.m. on Jan. 5.", "Then he left!"],
        ["The U.S. is large.", "So is the U.K.", "The end."],
        ["E. coli is a bacterium, e.g. this one (Miller et al. 2010).", "See Fig. 3."],
        ['He said "I am here."', "Then he left."],
        ["Visit www.example.com.", "Version 3.2.1 is out."],
        ["What?", "No!", "Yes... maybe."],
        ["no capitals here.", "another sentence."],
        ["The song `` Blue Moon '' is a 1934 song .", "It was sung by Peter , Paul and Mary ."],
        ["It ended in 1999.", "2000 was new."],
        ["Paris"],
    ],
)
def test_sentences_of_one_line(parts):
    assert sentences(" ".join(parts)) == parts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \n ", []),
        ("A title without a stop\n\nIts text. More.", ["A title without a stop", "Its text.", "More."]),
        ("Steps:\n1. Wash it.\n2. Dry it\n- Store it", ["Steps:", "1. Wash it.", "2. Dry it", "- Store it"]),
        ("塔は高い。「本当？」と彼。 はい！", ["塔は高い。", "「本当？」", "と彼。", "はい！"]),
        ("何？！（笑）次。“引用。” 終", ["何？！", "（笑）次。", "“引用。”", "終"]),
        ("## Heading\nIts text wraps\nover lines. End", ["## Heading", "Its text wraps\nover lines.", "End"]),
    ],
)
def test_lines_lists_and_headings(text, expected):
    assert sentences(text) == expected


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.text(max_size=80)
    | st.lists(st.sampled_from(["He left. ", "U.S. ", "\n\n- ", "[1]", "🙂 ", "Why? ", "塔。", "？", " 」"])).map(
        "".join
    )
)
def test_sentences_cover_all_but_white_space(text):
    end = 0
    for sentence in split_sentences(text):
        assert sentence.start >= end
        assert not text[end : sentence.start].strip()
        assert text[sentence.start : sentence.end] == sentence.text == sentence.text.strip() != ""
        end = sentence.end
    assert not text[end:].strip()


# --- claims -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("He was born in Bern [1]. He died in 1930 [2, 3].", ["He was born in Bern.", "He died in 1930."]),
        ("He left.[2] She stayed. [3]", ["He left.", "She stayed."]),
        ("[1] He left. [2] She stayed.", ["He left.", "She stayed."]),
        ("It melts (Passage 1 and 2). It cools (Ref: Passage 3).", ["It melts.", "It cools."]),
        ("It is old (see Document 4).", ["It is old."]),
        ("Here are the steps:\n\n1. **Wash** it.\n2. Dry it", ["Wash it.", "Dry it"]),
        ("## Summary\n**Details**\nIt is `red`. Why? Because of iron.", ["It is red.", "Because of iron."]),
        ("- (a) First thing\n* Second thing", ["First thing", "Second thing"]),
        ("It [the river] rose 5 (five) metres in [sic] 1953.", ["It [the river] rose 5 (five) metres in [sic] 1953."]),
        ("It is a town in the north\n  of the canton.", ["It is a town in the north of the canton."]),
        ("1953", ["1953"]),
        ("A. Lincoln", ["A. Lincoln"]),
        ("", []),
        ("[1]", []),
        ("... --- !!!", []),
    ],
)
def test_claims(answer, expected):
    assert claims(answer) == expected


def test_a_claim_knows_its_sentence():
    answer = "Sure! Here it is:\n\n- He was **born** in Bern [1].\n- He died in 1930."
    places = [answer[claim.start : claim.end] for claim in split_claims(answer)]
    assert places == ["Sure!", "- He was **born** in Bern [1].", "- He died in 1930."]


def test_clean_leaves_what_is_no_mark():
    assert clean("2 * 3 * 4 = 24 and snake_case_name stay") == "2 * 3 * 4 = 24 and snake_case_name stay"
    assert clean("  Array[0] of x ") == "Array of x", "a number in brackets is read as a citation"
    assert clean("(1953) was wet") == "(1953) was wet"


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.text(max_size=60))
def test_claims_are_of_the_answer(answer):
    for claim in split_claims(answer):
        assert claim.text
        assert claim.text == " ".join(claim.text.split())
        pieces = iter(answer[claim.start : claim.end])
        assert all(c in pieces for c in claim.text if not c.isspace()), "characters in the order they had"


# --- words ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", 0),
        ("one", 1),
        ("A well-known fact .", 3),
        ("`` Blue '' - 5 % !", 2),
        (" a\n b\tc ", 3),
        ("naïve Ünal 東京", 3),
    ],
)
def test_count_words(text, words):
    assert count_words(text) == words


# --- real answers -----------------------------------------------------------------------------------------------------


@pytest.mark.shared_data
def test_boundaries_that_people_set(shared_data):
    """Sentences of CLAPNQ passages, joined and split again: nearly all boundaries come back, nearly none is new."""
    import json

    found = right = wanted = 0
    for line in (shared_data / "clapnq/dev_answerable.jsonl").read_text().split("\n"):
        if not line:
            continue
        given_sentences = [s.strip() for s in json.loads(line)["passages"][0]["sentences"] if s.strip()]
        text = " ".join(given_sentences)
        ends, place = set(), -1
        for sentence in given_sentences[:-1]:
            place += len(sentence) + 1
            ends.add(place)
        own = {sentence.end for sentence in split_sentences(text)[:-1]}
        found, right, wanted = found + len(own), right + len(own & ends), wanted + len(ends)
    assert wanted > 500
    assert right / found > 0.97
    assert right / wanted > 0.85
