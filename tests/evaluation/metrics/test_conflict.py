import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faithgen.errors import FaithgenError
from faithgen.evaluation.metrics.conflict import (
    all_and_only,
    both_answers,
    choice,
    choice_margin,
    conflict_outcome,
    context_answer,
    memorisation_ratio,
    memory_answer,
)

WORD = st.sampled_from(["york", "new york", "paris", "new", "old york", "the"])


@pytest.mark.parametrize(
    ("prediction", "outcome"),
    [
        ("There are 775 episodes.", "context"),
        ("There are 23 episodes.", "memory"),
        ("The text says 775; I know of 23.", "both"),
        ("There are 7756 or 1775 episodes.", "neither"),
        ("", "neither"),
        ("twenty-three", "memory"),
    ],
)
def test_outcome(prediction, outcome):
    sides = (["775"], ["23", "twenty three"])
    assert conflict_outcome(prediction, *sides) == outcome
    assert context_answer(prediction, *sides) == (outcome in ("context", "both"))
    assert memory_answer(prediction, *sides) == (outcome in ("memory", "both"))
    assert both_answers(prediction, *sides) == (outcome == "both")
    mirrored = {"context": "memory", "memory": "context"}.get(outcome, outcome)
    assert conflict_outcome(prediction, *reversed(sides)) == mirrored


@pytest.mark.parametrize(
    ("prediction", "outcome"),
    [
        ("in New York", "context"),
        ("in York", "memory"),
        ("in New York, New York", "context"),
        ("not in York but in New York", "both"),
        ("New York York", "both"),
    ],
)
def test_one_answer_within_the_other(prediction, outcome):
    assert conflict_outcome(prediction, ["New York"], ["York"]) == outcome


@pytest.mark.parametrize(
    ("answers", "memory"), [([], ["23"]), (["775"], []), (["The"], ["23"]), (["23"], ["a 23", "24"])]
)
def test_rows_that_test_nothing(answers, memory):
    for metric in (context_answer, memory_answer, both_answers, conflict_outcome):
        assert metric("775 or 23", answers, memory) is None


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(WORD, max_size=6).map(" ".join), st.lists(WORD, max_size=3), st.lists(WORD, max_size=3))
def test_the_sides_mirror_each_other(prediction, answers, memory):
    assert context_answer(prediction, answers, memory) == memory_answer(prediction, memory, answers)
    if conflict_outcome(prediction, answers, memory) in ("context", "both"):
        assert conflict_outcome(f"so {prediction}", answers, memory) in ("context", "both")


def test_longer_answers_are_taken_first():
    assert conflict_outcome("York and New York", ["New York", "York and New York"], ["York"]) == "context"


# --- M_R --------------------------------------------------------------------------------------------------------------


def test_memorisation_ratio_by_hand():
    found = memorisation_ratio([1, 0, 1, 0, 0, None], [0, 1, 1, 1, 0, None])
    assert found.mean == pytest.approx(2 / 5)  # p_o = 2, p_s = 3; the row with both counts on both sides
    assert (found.n, found.missing) == (5, 1)
    assert 0 <= found.low < found.mean < found.high <= 1


def test_memorisation_ratio_without_either_answer():
    found = memorisation_ratio([0, 0], [0, 0])
    assert (found.mean, found.low, found.high, found.n) == (None, None, None, 2)
    assert str(found) == "none: no row holds the answer of the documents or of memory (n=2)"
    assert memorisation_ratio([], []).reason == "no row has a value"
    assert memorisation_ratio([None], [1.0]).missing == 1


def test_memorisation_ratio_by_question():
    """Ten copies of each of six questions tell no more than the six."""
    memory, context = [1, 0, 0, 1, 0, 0], [0, 1, 1, 0, 1, 1]
    alone = memorisation_ratio(memory, context)
    copies = memorisation_ratio(memory * 10, context * 10, clusters=list(range(6)) * 10)
    blind = memorisation_ratio(memory * 10, context * 10)
    assert (copies.mean, copies.low, copies.high) == pytest.approx((alone.mean, alone.low, alone.high))
    assert blind.high - blind.low < (copies.high - copies.low) / 2


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=20))
def test_both_ratios_sum_to_one(rows):
    memory, context = [float(m) for m, _ in rows], [float(c) for _, c in rows]
    one, other = memorisation_ratio(memory, context, resamples=50), memorisation_ratio(context, memory, resamples=50)
    if one.mean is None:
        assert not any(memory + context)
    else:
        assert one.mean + other.mean == pytest.approx(1)


def test_lengths_must_agree():
    with pytest.raises(FaithgenError, match="2 memory values for 1 context values"):
        memorisation_ratio([1, 0], [1])


# --- RAMDocs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prediction", "value"),
    [
        ("Mahesh Bhatt and Raj Khosla", 1),
        ("Mahesh Bhatt", 0),
        ("Mahesh Bhatt, Raj Khosla, or Raj Kapoor", 0),
        ("", 0),
    ],
)
def test_all_right_answers_and_no_wrong_one(prediction, value):
    assert all_and_only(prediction, ["Mahesh Bhatt", "Raj Khosla"], ["Raj Kapoor"]) == value


def test_wrong_answers_that_are_right_or_part_of_a_right_one():
    assert all_and_only("in 1990", ["1990"], ["1990"]) == 1
    assert all_and_only("Raj Kapoor", ["Raj Kapoor"], ["Raj"]) == 1
    assert all_and_only("Raj, that is Raj Kapoor", ["Raj Kapoor"], ["Raj"]) == 0
    assert all_and_only("Raj Kapoor", ["Raj"], ["Raj Kapoor"]) == 0
    assert all_and_only("anything", ["anything"], []) == 1
    assert all_and_only("anything", [], ["x"]) is None


# --- choices ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "index", "right", "margin"),
    [
        ([-1.0, -3.0], 0, 1, 2.0),
        ([-1.0, -3.0], 1, 0, -2.0),
        ([-2.0, -2.0], 0, 0, 0.0),
        ([-5.0, -1.0, -0.5], 2, 1, 0.5),
        ([-1.0, -math.inf], 0, 1, None),
        ([-math.inf, -math.inf], 0, 0, None),
    ],
)
def test_choice(scores, index, right, margin):
    assert choice(scores, index) == right
    assert choice_margin(scores, index) == margin


@pytest.mark.parametrize(
    ("scores", "index", "message"),
    [
        ([-1.0], 0, "choice of 1"),
        ([], 0, "choice of 0"),
        ([-1.0, math.nan], 0, "no number"),
        ([-1.0, math.inf], 0, "no number"),
        ([-1.0, -2.0], 2, "answer_index is 2"),
        ([-1.0, -2.0], -1, "answer_index is -1"),
    ],
)
def test_wrong_choices(scores, index, message):
    for metric in (choice, choice_margin):
        with pytest.raises(FaithgenError, match=message):
            metric(scores, index)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.floats(-50, 0), min_size=2, max_size=5, unique=True))
def test_just_one_choice_wins(scores):
    wins = [choice(scores, index) for index in range(len(scores))]
    assert sum(wins) == 1
    assert [margin > 0 for margin in (choice_margin(scores, i) for i in range(len(scores)))] == [bool(w) for w in wins]


@pytest.mark.shared_data
def test_nq_swap_tells_its_sides_apart(shared_data):
    """The substituted passage holds the substitute in each row, and the original in next to none."""
    import json

    lines = (shared_data / "nq_swap/dev.jsonl").read_text().split("\n")
    rows = [json.loads(line) for line in lines if line]
    found = [
        (
            conflict_outcome(row["sub_context"], row["sub_answer"], row["org_answer"]),
            conflict_outcome(row["org_context"], row["sub_answer"], row["org_answer"]),
        )
        for row in rows
    ]
    swapped, original = zip(*found, strict=True)
    assert len(rows) == 3499
    assert swapped.count("context") > 0.97 * len(rows)
    assert original.count("memory") > 0.95 * len(rows)
    assert swapped.count(None) < 0.01 * len(rows)
