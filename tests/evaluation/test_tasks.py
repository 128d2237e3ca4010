import pytest
from hypothesis import given
from hypothesis import strategies as st

from faithgen.evaluation.datasets import DATASETS
from faithgen.evaluation.metrics import METRICS
from faithgen.evaluation.tasks import (
    RANK,
    TASKS,
    chosen_option,
    describe,
    higher_is_better,
    score_choice,
    score_text,
    task_of,
)
from tests.evaluation.running import example


def test_every_set_has_a_task_whose_metrics_are_known():
    assert set(DATASETS) - {"jsonl"} == set(TASKS)
    derived = {"needle_recall", "needle_found", "support_mean"}
    for task in TASKS.values():
        assert set(task.headline) <= set(METRICS) | derived
        assert (task.kind == "long") == (task.instruction is not None)
        assert all(describe(metric) != metric for metric in task.headline)


def test_task_of_a_set_of_ones_own():
    assert task_of("mine.jsonl", [example(0)]).kind == "short"
    assert task_of("mine.jsonl", [example(0, answers=[], long_answer="Long.")]).kind == "long"
    assert task_of("mine.jsonl", [example(0, answers=[], meta={"relevance": {"d0": 1}})]) is RANK


def test_short_answers_get_the_metrics_that_apply():
    one = example(0, meta={"memory_answers": ["1900"]})
    scores = score_text("nq_swap", TASKS["nq_swap"], "It was 1807, not 1900.", one)
    assert scores["sub_em"] == scores["context_answer"] == scores["memory_answer"] == scores["both_answers"] == 1.0
    assert scores["em"] == 0.0
    assert "all_and_only" not in scores
    assert "context_answer" not in score_text("nq_hard", TASKS["nq_hard"], "1807", example(0))


def test_long_answers_are_compared_with_references():
    one = example(0, answers=[], long_answer="It was built in 1807.", meta={"answerable": True})
    scores = score_text("clapnq", TASKS["clapnq"], "It was built in 1807.", one)
    assert scores["rougeLsum"] == pytest.approx(1.0)
    assert scores["abstained_rightly"] == 1.0
    assert "sub_em" not in scores
    refused = score_text("clapnq", TASKS["clapnq"], "The passages do not say.", one)
    assert (refused["refused"], refused["abstained_rightly"]) == (1.0, 0.0)


def test_needles_are_found_from_half_of_their_words_on():
    one = example(0, answers=["eat a red apple"])
    full = score_text("niah", TASKS["niah"], "You should eat a red apple.", one)
    assert (full["needle_recall"], full["needle_found"]) == (1.0, 1.0)
    half = score_text("niah", TASKS["niah"], "a red car", one)
    assert (half["needle_recall"], half["needle_found"]) == (0.5, 0.0)


@pytest.mark.parametrize(
    ("answer", "option"),
    [("B", "two"), ("(b).", "two"), ("1", "one"), ("C", None), ("0", None), ("B. two", None), ("", None)],
)
def test_a_letter_alone_is_read_as_its_option(answer, option):
    one = example(0, answers=["two"], meta={"options": ["one", "two"], "answer_index": 1})
    assert chosen_option(answer, one) == option
    assert score_text("faitheval", TASKS["faitheval"], answer, one)["sub_em"] == float("two" in (option, answer[3:]))
    assert chosen_option(answer, example(0)) is None


def test_listing_all_options_is_not_an_answer():
    meta = {"options": ["one", "two"], "answer_index": 1, "wrong_answers": ["one"]}
    listed = score_text("faitheval", TASKS["faitheval"], "A. one\nB. two", example(0, answers=["two"], meta=meta))
    assert (listed["sub_em"], listed[TASKS["faitheval"].headline[0]]) == (1.0, 0.0)
    chosen = score_text("faitheval", TASKS["faitheval"], "B", example(0, answers=["two"], meta=meta))
    assert chosen[TASKS["faitheval"].headline[0]] == 1.0


@given(st.text(max_size=12))
def test_any_answer_can_be_scored(text):
    meta = {"options": ["one", "two"], "answer_index": 1, "wrong_answers": ["one"], "answerable": True}
    for name in ("faitheval", "niah", "clapnq"):
        scores = score_text(name, TASKS[name], text, example(0, answers=["two"], long_answer="Two.", meta=meta))
        assert all(value is None or 0 <= value <= 12 for value in scores.values())


def test_choices_by_log_probability():
    one = example(0, meta={"options": ["a", "b"], "answer_index": 1})
    assert score_choice([-3.0, -1.0], one) == {"choice": 1.0, "choice_margin": 2.0}
    assert score_choice([-1.0, -1.0], one)["choice"] == 0.0


def test_direction_of_metrics():
    assert higher_is_better("sub_em") is True
    assert higher_is_better("memory_answer") is False
    assert higher_is_better("memorisation_ratio") is False
    assert higher_is_better("answer_words") is None
    assert higher_is_better("support_mean") is True
