import importlib.util
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faithgen.evaluation.metrics.short_answer import (
    exact_match,
    holds,
    normalise_squad,
    normalise_words,
    sub_em,
    sub_em_substring,
    token_f1,
)
from tests.conftest import ROOT

METRICS = [exact_match, token_f1, sub_em, sub_em_substring]
TEXT = st.text(alphabet="aAtThe nN1.,-'%$é\n", max_size=24)


@pytest.fixture(scope="module")
def common():
    spec = importlib.util.spec_from_file_location("benchmarks_common", ROOT / "benchmarks" / "common.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("text", "squad", "words"),
    [
        ("The U.S. of A!", "us of", "u s of"),
        ("1914-1918", "19141918", "1914 1918"),
        ("  An  apple\ta day\n", "apple day", "apple day"),
        ("Theatre of the absurd", "theatre of absurd", "theatre of absurd"),
        ("$3.50", "350", "3 50"),
        ("rock'n'roll", "rocknroll", "rock n roll"),
        ("O’Brien", "o’brien", "o’brien"),
        ("THE", "", ""),
        ("", "", ""),
    ],
)
def test_normalisation(text, squad, words):
    assert normalise_squad(text) == squad
    assert normalise_words(text) == words


@pytest.mark.parametrize(
    ("prediction", "answers", "em", "f1"),
    [
        ("The Paris.", ["Paris"], 1, 1),
        ("in Paris", ["Paris"], 0, 2 / 3),
        ("paris, france", ["London", "Paris"], 0, 2 / 3),
        ("U.S.", ["US"], 1, 1),
        ("the cat the cat", ["cat"], 0, 2 / 3),
        ("a b b c", ["b b b"], 0, 4 / 6),  # "a" is an article: b b c against b b b
        ("London", ["Paris"], 0, 0),
        ("", ["Paris"], 0, 0),
        ("Paris", ["The", "Paris"], 1, 1),
    ],
)
def test_em_and_f1_by_hand(prediction, answers, em, f1):
    assert exact_match(prediction, answers) == em
    assert token_f1(prediction, answers) == pytest.approx(f1)


@pytest.mark.parametrize(
    ("prediction", "answers", "words", "substring"),
    [
        ("It was Paris, I think.", ["Paris"], 1, 1),
        ("It was in 2015.", ["1"], 0, 1),
        ("The Irelands", ["Ireland"], 0, 1),
        ("It is York", ["New York"], 0, 0),
        ("from 1914-1918 on", ["1914"], 1, 1),
        ("from 1914-1918 on", ["1914 1918"], 1, 0),
        ("the U.S.A.", ["USA"], 0, 1),  # punctuation parts words here and is deleted there
        ("It was\nParis", ["Paris"], 1, 0),  # only the first line is read there
        ("Paris and the London", ["paris and london"], 1, 1),
        ("London and Paris", ["Paris and London"], 0, 0),
        ("", ["Paris"], 0, 0),
        ("naïve Zürich", ["zürich"], 1, 1),
    ],
)
def test_sub_em_by_hand(prediction, answers, words, substring):
    assert sub_em(prediction, answers) == words
    assert sub_em_substring(prediction, answers) == substring


@pytest.mark.parametrize("metric", METRICS)
def test_without_a_usable_gold_answer_there_is_no_value(metric):
    assert metric("Paris", []) is None
    assert metric("", ["The", " % ", ""]) is None
    assert metric("The", ["The"]) is None


def test_holds():
    assert holds("He saw the New York Times.", "new york")
    assert not holds("newyork", "new york")
    assert not holds("anything at all", "the")
    assert not holds("", "")


@settings(max_examples=300, deadline=None, derandomize=True)
@given(TEXT, st.lists(TEXT, max_size=3))
def test_sub_em_is_the_rule_of_the_benchmarks(common, prediction, answers):
    """But for gold answers of which normalisation leaves nothing: they match an empty answer there."""
    assert normalise_words(prediction) == common.normalised(prediction)
    usable = [answer for answer in answers if common.normalised(answer)]
    expected = common.sub_em(prediction, usable) if usable else None
    assert sub_em(prediction, answers) == expected


@settings(max_examples=200, deadline=None, derandomize=True)
@given(TEXT, st.lists(TEXT, min_size=1, max_size=3), st.randoms())
def test_bounds_order_and_implication(prediction, answers, random):
    shuffled = random.sample(answers, len(answers))
    values = [metric(prediction, answers) for metric in METRICS]
    assert values == [metric(prediction, shuffled) for metric in METRICS]
    em, f1, _, substring = values
    if em is None:
        assert (f1, substring) == (None, None)
        return
    assert 0 <= f1 <= 1
    assert em in (0, 1)
    assert em <= f1, "an exact match has all words"
    assert em <= substring or "\n" in prediction
    assert all(
        metric(prediction, [*answers, "zz qq"]) >= value
        for metric, value in zip(METRICS, values, strict=True)
        if value
    )


@settings(max_examples=150, deadline=None, derandomize=True)
@given(TEXT, TEXT)
def test_f1_is_symmetric(left, right):
    if normalise_squad(left) and normalise_squad(right):
        assert token_f1(left, [right]) == token_f1(right, [left])


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.text(alphabet=string.ascii_letters + string.digits + " .", min_size=1, max_size=20))
def test_an_answer_is_right_within_itself(answer):
    if normalise_words(answer):
        assert sub_em(f"so: {answer}!", [answer]) == 1
        assert exact_match(answer.upper(), [answer]) == 1
        assert token_f1(answer, [answer]) == 1


@pytest.mark.shared_data
def test_gold_answers_of_natural_questions(shared_data, common):
    rows = common.read_jsonl(shared_data / "nq_mdqa_bm25/mdqa20_600.jsonl")
    for row in rows:
        gold = next(passage["text"] for passage in row["ctxs"] if passage["isgold"])
        for answer in row["answers"]:
            assert sub_em(f"{answer}.", row["answers"]) == exact_match(answer, row["answers"]) == 1
        assert sub_em(gold, row["answers"]) == common.sub_em(gold, row["answers"])
    assert len(rows) > 200
