import pytest
from hypothesis import given
from hypothesis import strategies as st

from faithgen.training.filters import REASONS, Sample, is_degenerate, normalised, reason_to_drop


@pytest.mark.parametrize(
    ("text", "finished", "support", "reason"),
    [
        ("It was lit in 1901.", True, (1.0, 0.2), None),
        ("", True, (1.0, 0.2), "empty"),
        (" ... ", True, (1.0, 0.2), "empty"),
        ("It was lit in", False, (1.0, 0.2), "unfinished"),
        ("the year 1868!", True, (1.0, 0.2), "equal"),
        ("no no no no no", True, (1.0, 0.2), "degenerate"),
        ("The keeper was Maren.", True, (0.8, 0.8), "supported"),
        ("The keeper was Maren.", True, (0.8, 0.9), "supported"),
        ("The keeper was Maren.", True, (None, 0.9), None),
        ("The answer is:", True, (0.8, None), "no_claim"),
        ("The keeper was Maren.", True, (None, None), None),
    ],
)
def test_every_reason_has_its_case(text, finished, support, reason):
    assert reason_to_drop(Sample(text, finished), "Year 1868.", support) == reason


def test_filters_can_be_switched_off_but_not_the_one_for_empty_samples():
    assert reason_to_drop(Sample("cut", False), "x", keep=("unfinished",)) is None
    assert reason_to_drop(Sample("", False), "x", keep=REASONS) == "empty"
    assert reason_to_drop(Sample("a b", True), "x", (0.5, 0.45), margin=0.1) == "supported"


@pytest.mark.parametrize(
    "text",
    [
        "of the of the of the of the of the",
        "I think I think I think I think",
        "1. 1. 1. 1. 1.",
        "abc" * 100,
        "The river flows through the town. " * 12,
    ],
)
def test_repetition_is_degenerate(text):
    assert is_degenerate(text)


@pytest.mark.parametrize(
    "text",
    [
        "1868",
        "10000000000",
        "New York, New York",
        "He said no, no, no.",
        "The lighthouse of Skarnholm was first lit in 1868 by Maren Oduya, who kept it for thirty years until a storm "
        "took its roof; the harbour office then had a new lantern made of brass, which is still to be seen in the museum.",
    ],
)
def test_ordinary_answers_are_not(text):
    assert not is_degenerate(text)


@given(st.text(), st.text())
def test_any_text_is_judged(text, answer):
    reason = reason_to_drop(Sample(text, True), answer)
    assert reason in (None, *REASONS)
    assert (reason == "empty") == (not normalised(text))
