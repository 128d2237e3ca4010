import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score import rouge_scorer

from faithgen.errors import FaithgenError
from faithgen.evaluation.metrics.long_answer import (
    ROUGE_KINDS,
    answer_words,
    copied,
    rouge,
    short_answer_recall,
    str_em,
)

REFERENCE = "The cat sat on the mat. It was a very old mat."
PREDICTION = "On the mat, the cats slept. Old it was."
WORDS = st.lists(st.sampled_from(["cat", "cats", "mat", "old", "it", "was.", "The", "on"]), max_size=12).map(" ".join)


def test_rouge_by_hand():
    # police killed the gunman / police kill the gunman (Lin 2004); stems are equal
    assert rouge("police killed the gunman", "police kill the gunman", "rouge1") == 1
    assert rouge("police ended the gunman", "police kill the gunman", "rouge1") == pytest.approx(3 / 4)
    assert rouge("police ended the gunman", "police kill the gunman", "rougeL") == pytest.approx(3 / 4)
    assert rouge("the gunman kill police", "police kill the gunman", "rougeL") == pytest.approx(2 / 4)
    assert rouge("the gunman kill police", "police kill the gunman", "rouge2") == pytest.approx(1 / 3)
    assert rouge("police", "police kill the gunman", "rouge1", "precision") == 1
    assert rouge("police", "police kill the gunman", "rouge1", "recall") == pytest.approx(1 / 4)


@pytest.mark.parametrize("kind", ROUGE_KINDS)
@pytest.mark.parametrize("part", ["precision", "recall", "fmeasure"])
def test_rouge_is_rouge_score(kind, part):
    scorer = rouge_scorer.RougeScorer([kind], use_stemmer=True)
    lines = [text.replace(". ", ".\n") if kind == "rougeLsum" else text for text in (REFERENCE, PREDICTION)]
    assert rouge(PREDICTION, REFERENCE, kind, part) == pytest.approx(getattr(scorer.score(*lines)[kind], part))


def test_sentences_matter_to_rouge_lsum_alone():
    turned = "It was a very old mat. The cat sat on the mat."
    assert rouge(turned, REFERENCE, "rougeLsum") == 1
    assert rouge(turned, REFERENCE, "rougeL") < 0.6


def test_the_best_reference_counts():
    assert rouge("a red bird", ["a blue fish", "the red bird", ""], "rouge1") == rouge(
        "a red bird", "the red bird", "rouge1"
    )
    assert rouge("", REFERENCE) == 0
    assert rouge("x", []) is None
    assert rouge("x", ["", "東京"]) is None


@pytest.mark.parametrize(("settings_", "message"), [({"kind": "rouge9"}, "rouge9"), ({"part": "f1"}, "'f1'")])
def test_unknown_rouge(settings_, message):
    with pytest.raises(FaithgenError, match=message):
        rouge("a", "b", **settings_)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(WORDS, WORDS, st.sampled_from(ROUGE_KINDS))
def test_rouge_bounds_and_symmetry(left, right, kind):
    value = rouge(left, right, kind)
    if value is None:
        assert not right
        return
    assert 0 <= value <= 1
    if left and kind != "rougeLsum":  # which counts the sentences of the reference
        assert rouge(right, left, kind) == pytest.approx(value)
    if len(right.split()) > 1:
        assert rouge(right, right, kind) == 1


@pytest.mark.parametrize(
    ("prediction", "groups", "substring", "words"),
    [
        ("Ali Daei and Josef Bican", [["Daei", "Ali Daei"], ["Bican"], ["Sinclair"]], 2 / 3, 2 / 3),
        ("in 2015", [["1"], ["2015"]], 1, 1 / 2),
        ("nothing", [["a", "the"], ["Paris"]], 0, 0),
        ("", [["Paris"]], 0, 0),
        ("Paris", [[], ["The"]], None, None),
        ("Paris", [], None, None),
    ],
)
def test_recall_of_short_answers(prediction, groups, substring, words):
    assert str_em(prediction, groups) == (None if substring is None else pytest.approx(substring))
    assert short_answer_recall(prediction, groups) == (None if words is None else pytest.approx(words))


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.text(max_size=30), st.lists(st.lists(st.text(max_size=5), max_size=3), max_size=3), st.randoms())
def test_recall_bounds_and_order(prediction, groups, random):
    for metric in (str_em, short_answer_recall):
        value = metric(prediction, groups)
        assert value is None or 0 <= value <= 1
        assert metric(prediction, random.sample(groups, len(groups))) == value


def test_answer_words():
    assert answer_words("Two well-known words - here .") == 4
    assert answer_words("") == 0


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [
        ("The tower stands in Paris.", 1.0),
        ("the tower, stands in paris", 1.0),
        ("The tower stands in Lyon.", 0.0),
        ("The tower stands in Paris. It was never moved.", 0.5),
        (
            "in Paris. It",
            0.5,
        ),  # parted as sentences are: the first is there, "It" alone is no whole word of a document
        ("Paris. Built in 1889", 1.0),
        ("stands in Paris built in", 0.0),  # across two documents
        ("Par", 0.0),
        ("...", 0.0),
        ("", 0.0),
    ],
)
def test_copied_sentences(prediction, expected):
    assert copied(prediction, ["The tower stands in Paris.", "Built in 1889 ."]) == expected


@pytest.mark.shared_data
def test_people_s_long_answers_hold_their_short_ones(shared_data):
    """ASQA: what its annotators wrote scores high, another question's answer low."""
    import json

    lines = (shared_data / "asqa/dev.jsonl").read_text().split("\n")
    rows = [json.loads(line) for line in lines if line][:150]
    groups = [[pair["short_answers"] for pair in row["qa_pairs"]] for row in rows]
    answers = [row["annotations"][0]["long_answer"] for row in rows]
    own = [str_em(answer, group) for answer, group in zip(answers, groups, strict=True)]
    other = [str_em(answer, group) for answer, group in zip(answers[1:], groups, strict=False)]
    whole = [short_answer_recall(answer, group) for answer, group in zip(answers, groups, strict=True)]
    assert sum(own) / len(own) > 0.7
    assert sum(other) / len(other) < 0.15
    assert sum(own) / len(own) - 0.1 < sum(whole) / len(whole) <= sum(own) / len(own)
