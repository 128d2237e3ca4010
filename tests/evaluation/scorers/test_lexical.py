import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faithgen.errors import MissingExtraError
from faithgen.evaluation.scorers import lexical
from faithgen.evaluation.scorers.lexical import WEIGHTS, LexicalScorer, content_stems, read_words

SCORER = LexicalScorer()
DOCUMENT = (
    "The lighthouse of Skarnholm was first lit in 1868. Its keeper was called Maren Oduya. Dogs travel free on the ferry. "
    "The ferry crosses the sound in twenty minutes. Tickets cost 4,500 crowns. In May the tower was painted red."
)


def score(claim, *documents):
    return SCORER.score([claim], [documents or [DOCUMENT]])[0]


def kinds(text):
    return {token.stem: token.kind for sentence in read_words(text) for token in sentence}


# --- the formula ------------------------------------------------------------------------------------------------------


def test_a_copied_sentence_scores_one_and_a_foreign_one_zero():
    assert score("Its keeper was called Maren Oduya.") == pytest.approx(1.0)
    assert score("Quantum computers factor integers.") == 0.0


def test_the_formula_by_hand():
    # content words: keeper 1 (held), Maren 2 (held), wrote 1, 1868 3 (held, but six sentences before "painted")
    # pairs: (the keeper), (keeper maren), (maren wrote), (wrote in), (in 1868): the last alone is in the document
    held = (1 + 2 + 3) / 7
    document = DOCUMENT.replace("Its keeper", "A keeper")
    assert score("The keeper Maren wrote in 1868.", document) == pytest.approx((held + held + 1 / 5) / 3)


def test_a_window_is_three_neighbouring_sentences():
    document = "Ada sang. Bo ran. Cy fell. Di slept."
    near, far = score("They sang, fell.", document), score("They sang, slept.", document)
    assert near == pytest.approx((1 + 1 + 0) / 3)
    assert far == pytest.approx((1 + 0.5 + 0) / 3)


@pytest.mark.parametrize(
    ("right", "wrong", "weight"),
    [
        ("The lighthouse was lit in 1868.", "The lighthouse was lit in 1869.", WEIGHTS["number"]),
        ("The keeper was Maren there.", "The keeper was Astrid there.", WEIGHTS["name"]),
        ("The tower was painted there.", "The tower was polished there.", WEIGHTS["word"]),
    ],
)
def test_a_wrong_number_costs_more_than_a_wrong_name_and_that_more_than_a_wrong_word(right, wrong, weight):
    words = [token.kind for sentence in read_words(wrong) for token in sentence]
    total = sum(WEIGHTS[kind] for kind in words)
    got = score(right) - score(wrong)
    pairs = len(words) - 1
    lost = {0, 1 / pairs, 2 / pairs}
    assert any(got == pytest.approx((2 * weight / total + pair) / 3) for pair in lost)


def test_the_best_document_counts_and_the_order_of_documents_does_not():
    others = ["A ferry sank.", "Cats sleep."]
    assert score("Dogs travel free.", *others, DOCUMENT) == score("Dogs travel free.", DOCUMENT, *others)
    assert (
        score("Dogs travel free.", *others, DOCUMENT)
        == score("Dogs travel free.")
        > score("Dogs travel free.", *others)
    )


def test_words_are_compared_by_stem_and_numbers_by_value():
    assert score("Ticket cost 4500 crown.") == pytest.approx(1.0)
    assert score("The ferry crosses in 20 minutes.") > score("The ferry crosses in 30 minutes.")


# --- words ------------------------------------------------------------------------------------------------------------


def test_kinds_of_words():
    assert kinds("Yesterday Maren's 3 dogs met two cats in May, and didn't bark.") == {
        "yesterday": "word",
        "maren": "name",
        "3": "number",
        "dog": "word",
        "met": "word",
        "2": "number",
        "cat": "word",
        "in": "stop",
        "may": "number",
        "and": "stop",
        "didn't": "stop",
        "bark": "word",
    }


def test_stop_words_that_carry_content_are_kept():
    assert content_stems("The system describes a fire and the mill of the third bill.") == [
        "system",
        "describ",
        "fire",
        "mill",
        "third",
        "bill",
    ]


def test_the_first_word_is_a_name_if_the_document_writes_it_so():
    named, unnamed = "They called Oduya home.", "They called oduya home."
    foreign = "Oduya is brave."
    assert score(foreign, named) > score(foreign, unnamed), "a name that is held weighs more than a word that is held"


def test_a_claim_of_stop_words_is_compared_by_them():
    assert score("It is so.", "It is so.") == 1.0
    assert score("It is so.", "Ferries cross.") == 0.0


def test_a_claim_without_a_word_or_without_a_text_scores_zero():
    assert score("!?", DOCUMENT) == 0.0
    assert SCORER.score(["A dog."] * 3, [[], [""], [" \n"]]) == [0.0, 0.0, 0.0]


# --- stability --------------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.text(max_size=80).filter(str.strip), st.lists(st.text(max_size=120), max_size=3))
def test_any_text_gets_a_share_and_always_the_same(claim, documents):
    (first,) = SCORER.score([claim], [documents])
    assert 0 <= first <= 1
    assert LexicalScorer().score([claim, claim], [documents, documents]) == [first, first]


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(DOCUMENT.split()), min_size=1, max_size=12).map(" ".join))
def test_another_document_never_lowers_the_score(claim):
    assert score(claim, DOCUMENT, "Dogs and cats.") >= score(claim, DOCUMENT)


def test_missing_libraries_name_the_extra(monkeypatch):
    for name, cached in (
        ("snowballstemmer", lexical._stemmer),
        ("sklearn.feature_extraction.text", lexical._stop_words),
    ):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, name, None)
            cached.cache_clear()
            lexical._stem.cache_clear()
            with pytest.raises(MissingExtraError, match=r"the lexical scorer needs .*faithgen\[eval\]"):
                LexicalScorer().score(["Dogs bark."], [["Cats purr."]])
        cached.cache_clear()
    assert score("Dogs travel free.") > 0.9
