from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from faithgen.errors import FaithgenError
from faithgen.evaluation.metrics import METRICS, field_of, get_metric
from faithgen.evaluation.statistics import bootstrap_interval

EXAMPLE = {
    "question": "Where?",
    "answers": ["New York"],
    "long_answer": "It stands in New York.",
    "documents": [
        {"id": "1", "text": "Paris.", "gold": False},
        {"id": "2", "text": "It stands in New York, they say.", "gold": True},
        {"id": "3", "text": "", "gold": None},
    ],
    "meta": {
        "memory_answers": ["Paris"],
        "wrong_answers": [],
        "short_answers": [["New York"], ["Ohio"]],
        "answerable": True,
        "answer_index": 1,
    },
}
PREDICTIONS = {"text": "It stands in New York.", "ranking": ["1", "2", "3"], "scores": [-2.0, -1.0]}
EXPECTED = {
    "sub_em": 1, "sub_em_substring": 1, "em": 0, "f1": 4 / 7, "rouge1": 1, "rouge2": 1, "rougeL": 1, "rougeLsum": 1,
    "str_em": 0.5, "short_answer_recall": 0.5, "copied": 1, "answer_words": 5, "refused": 0, "abstained_rightly": 1,
    "context_answer": 1, "memory_answer": 0, "both_answers": 0, "all_and_only": 1, "choice": 1, "choice_margin": 1,
    "recall@1": 0, "recall@2": 1, "recall@4": 1, "recall@5": 1, "recall@10": 1, "success@1": 0, "success@4": 1,
    "success@10": 1, "mrr": 0.5, "mrr@10": 0.5, "ndcg@5": 0.6309297, "ndcg@10": 0.6309297,
}  # fmt: skip


@dataclass
class Row:
    answers: list[str] = field(default_factory=lambda: ["New York"])
    long_answer: str | None = None
    documents: list = field(default_factory=list)
    meta: dict = field(default_factory=dict)

    @property
    def relevance(self):
        return {"2": 1}


def test_every_metric_is_expected():
    assert list(EXPECTED) == list(METRICS)


@pytest.mark.parametrize("name", METRICS)
def test_metric_over_an_example(name):
    metric = METRICS[name]
    assert metric.name == name
    assert metric.description
    assert metric.higher_is_better in (True, False, None)
    value = metric(PREDICTIONS[metric.reads], EXAMPLE)
    assert isinstance(value, float)
    assert value == pytest.approx(EXPECTED[name])
    assert metric.applies_to(EXAMPLE)


@pytest.mark.parametrize("name", METRICS)
def test_no_prediction_or_no_field_is_missing_and_counted(name):
    metric = METRICS[name]
    assert metric(None, EXAMPLE) is None
    values = [metric(PREDICTIONS[metric.reads], row) for row in (EXAMPLE, {"answers": []}, Row(answers=[]))]
    estimate = bootstrap_interval(values, resamples=20)
    if name in ("answer_words", "refused"):
        assert estimate.missing == 0
    else:
        assert values[1] is None
        assert not metric.applies_to({"answers": []})
        assert (estimate.n, estimate.missing) == (3 - values.count(None), values.count(None))


@pytest.mark.parametrize("name", METRICS)
def test_an_empty_answer_is_scored(name):
    if METRICS[name].reads == "text":
        value = METRICS[name]("", EXAMPLE)
        assert value == (1 if name == "abstained_rightly" else 0)


@pytest.mark.parametrize(
    ("name", "prediction"), [("sub_em", ["a"]), ("recall@1", "abc"), ("choice", "abc"), ("em", 5)]
)
def test_predictions_of_the_wrong_type(name, prediction):
    with pytest.raises(FaithgenError, match=f"{name} reads .*; the prediction is of type"):
        METRICS[name](prediction, EXAMPLE)


def test_fields():
    assert field_of(EXAMPLE, "relevance") == {"2": 1}
    assert field_of({**EXAMPLE, "meta": {"relevance": {"1": 3}}}, "relevance") == {"1": 3}
    assert field_of(EXAMPLE, "references") == "It stands in New York."
    assert field_of({**EXAMPLE, "meta": {"references": ["A.", "B."]}}, "references") == ["A.", "B."]
    assert field_of(EXAMPLE, "answerable") is True
    assert field_of({"answerable": False}, "answerable") is False
    assert field_of(Row(), "answers") == ["New York"]
    assert field_of(Row(meta={"answer_index": 0}), "answer_index") == 0
    assert field_of(Row(), "relevance") == {"2": 1}
    assert field_of(SimpleNamespace(meta=None, documents=None), "relevance") == {}
    assert field_of(Row(), "memory_answers") is None
    assert field_of(EXAMPLE, "passages") == ["Paris.", "It stands in New York, they say.", ""]
    assert field_of(Row(), "passages") is None


def test_the_lowest_relevant_grade_comes_from_the_example():
    row = {"meta": {"relevance": {"1": 1, "2": 2}, "min_relevance": 2}}
    assert METRICS["recall@1"](["1", "2"], row) == 0
    assert METRICS["recall@1"](["2", "1"], row) == 1
    assert METRICS["mrr"](["1", "2"], row) == 0.5
    assert METRICS["ndcg@5"](["1", "2"], row) < 1


def test_answers_to_index_zero_and_unanswerable_rows_are_no_gaps():
    assert METRICS["choice"]([-1.0, -2.0], {"meta": {"answer_index": 0}}) == 1
    assert METRICS["choice"].applies_to({"meta": {"answer_index": 0}})
    assert METRICS["abstained_rightly"]("I don't know.", {"meta": {"answerable": False}}) == 1
    assert METRICS["abstained_rightly"].applies_to({"meta": {"answerable": False}})


def test_get_metric():
    assert get_metric("sub_em") is METRICS["sub_em"]
    assert get_metric("recall@7")(["2"], EXAMPLE) == 1
    assert get_metric("ndcg@3").name == "ndcg@3"
    assert get_metric("mrr@1")(["1", "2"], EXAMPLE) == 0
    for name in ("bleu", "recall@0", "recall@x", "f1@3", ""):
        with pytest.raises(FaithgenError, match=r"is not known; use one of sub_em, .*ndcg@10"):
            get_metric(name)
