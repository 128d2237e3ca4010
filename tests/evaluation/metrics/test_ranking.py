import math
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faithgen.errors import FaithgenError, MissingExtraError
from faithgen.evaluation.metrics.ranking import ndcg_at, rank_by_score, recall_at, reciprocal_rank, success_at

RANKING = ["a", "b", "c", "d"]
GRADES = {"b": 2, "d": 1, "x": 3, "c": 0}  # x was never retrieved
NAMES = st.permutations("abcdefgh")
GRADED = st.dictionaries(st.sampled_from("abcdefghxy"), st.integers(-1, 3))


def test_by_hand():
    assert recall_at(RANKING, GRADES, 1) == 0
    assert recall_at(RANKING, GRADES, 2) == pytest.approx(1 / 3)
    assert recall_at(RANKING, GRADES, 10) == pytest.approx(2 / 3)
    assert success_at(RANKING, GRADES, 1) == 0
    assert success_at(RANKING, GRADES, 2) == 1
    assert reciprocal_rank(RANKING, GRADES) == 1 / 2
    assert reciprocal_rank(RANKING, GRADES, 1) == 0
    ideal = 3 / math.log2(2) + 2 / math.log2(3) + 1 / math.log2(4)
    assert ndcg_at(RANKING, GRADES, 10) == pytest.approx((2 / math.log2(3) + 1 / math.log2(5)) / ideal)
    assert ndcg_at(RANKING, GRADES, 2) == pytest.approx((2 / math.log2(3)) / (3 + 2 / math.log2(3)))


def test_the_lowest_grade_that_is_relevant():
    assert recall_at(RANKING, GRADES, 4, min_relevance=2) == 1 / 2
    assert reciprocal_rank(RANKING, {"a": 1, "c": 2}, min_relevance=2) == pytest.approx(1 / 3)
    assert success_at(RANKING, {"a": 1}, 4, min_relevance=2) is None


@pytest.mark.parametrize("grades", [{}, {"a": 0, "b": -1}])
def test_nothing_relevant_has_no_value(grades):
    assert recall_at(RANKING, grades, 2) is None
    assert success_at(RANKING, grades, 2) is None
    assert reciprocal_rank(RANKING, grades) is None
    assert ndcg_at(RANKING, grades, 2) is None


def test_nothing_ranked_scores_nothing():
    assert recall_at([], GRADES, 2) == ndcg_at([], GRADES, 2) == reciprocal_rank([], GRADES) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: recall_at(["a", "b", "a"], GRADES, 2), "'a' is ranked twice"),
        (lambda: recall_at(RANKING, GRADES, 0), "k is 0"),
        (lambda: ndcg_at(RANKING, GRADES, -1), "k is -1"),
        (lambda: success_at(RANKING, GRADES, 1, min_relevance=0), "min_relevance is 0"),
        (lambda: rank_by_score({"a": math.nan}), "score of document 'a' is nan"),
    ],
)
def test_wrong_input(call, message):
    with pytest.raises(FaithgenError, match=message):
        call()


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytrec_eval", None)
    with pytest.raises(MissingExtraError, match=r"faithgen\[eval\]"):
        recall_at(RANKING, GRADES, 2)


# --- order and ties ---------------------------------------------------------------------------------------------------


def test_ties_fall_by_id_wherever_they_stood():
    assert rank_by_score({"1": 1.0, "10": 1.0, "2": 1.0, "3": 2.0}) == ["3", "2", "10", "1"]
    assert rank_by_score({"2": 1.0, "3": 2.0, "10": 1.0, "1": 1.0}) == ["3", "2", "10", "1"]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.dictionaries(
        st.sampled_from(["a", "b", "10", "9", "Z", "é"]), st.sampled_from([-1.0, 0.0, 0.5, 2.0]), min_size=1
    )
)
def test_ties_are_trec_eval_s(scores):
    import pytrec_eval

    order = rank_by_score(scores)
    for name in scores:
        found = pytrec_eval.RelevanceEvaluator({"q": {name: 1}}, {"recip_rank"}).evaluate({"q": scores})["q"]
        assert (
            reciprocal_rank(order, {name: 1})
            == pytest.approx(found["recip_rank"])
            == pytest.approx(1 / (order.index(name) + 1))
        )


def test_the_order_given_is_kept_in_a_long_ranking():
    names = [f"d{i}" for i in range(5000)]
    assert reciprocal_rank(names, {"d4999": 1}) == pytest.approx(1 / 5000)
    assert recall_at(names, {"d1233": 1}, 1234) == 1
    assert recall_at(names, {"d1234": 1}, 1234) == 0


# --- against plain formulas and sklearn -------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None, derandomize=True)
@given(NAMES, GRADED, st.integers(1, 10))
def test_plain_formulas(names, grades, k):
    relevant = {name for name, grade in grades.items() if grade > 0}
    if not relevant:
        assert recall_at(names, grades, k) is None
        return
    hits = [name in relevant for name in names]
    assert recall_at(names, grades, k) == pytest.approx(sum(hits[:k]) / len(relevant))
    assert success_at(names, grades, k) == float(any(hits[:k]))
    first = hits.index(True) + 1 if any(hits) else math.inf
    assert reciprocal_rank(names, grades, k) == pytest.approx(1 / first if first <= k else 0)
    gains = [max(0, grades.get(name, 0)) / math.log2(i + 2) for i, name in enumerate(names[:k])]
    best = sorted((max(0, grade) for grade in grades.values()), reverse=True)[:k]
    ideal = sum(grade / math.log2(i + 2) for i, grade in enumerate(best))
    assert ndcg_at(names, grades, k) == pytest.approx(sum(gains) / ideal)
    assert 0 <= ndcg_at(names, grades, k) <= 1


@settings(max_examples=60, deadline=None, derandomize=True)
@given(NAMES, st.lists(st.integers(0, 3), min_size=8, max_size=8), st.integers(1, 9))
def test_ndcg_is_sklearn_s(names, grades, k):
    from sklearn.metrics import ndcg_score

    graded = dict(zip("abcdefgh", grades, strict=True))
    found = ndcg_at(names, graded, k)
    if found is None:
        assert not any(grades)
    else:
        scores = [-names.index(name) for name in graded]
        assert found == pytest.approx(ndcg_score([grades], [scores], k=k))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(NAMES, GRADED, st.integers(1, 8))
def test_deeper_is_never_worse_and_the_best_order_is_best(names, grades, k):
    if not any(grade > 0 for grade in grades.values()):
        return
    for metric in (recall_at, success_at, reciprocal_rank):
        assert metric(names, grades, k) <= metric(names, grades, k + 1)
    sorted_names = sorted(grades, key=lambda name: -grades[name])
    assert ndcg_at(sorted_names, grades, k) == pytest.approx(1)


@pytest.mark.shared_data
def test_bm25_on_trec_dl(shared_data):
    """BM25's published nDCG@10 on DL19 is 0.506; over the pool alone it is no lower."""
    import json

    lines = (shared_data / "trec_dl_bm25_top100/dl19.jsonl").read_text().split("\n")
    rows = [json.loads(line) for line in lines if line]
    values = []
    for row in rows:
        grades = {hit["docid"]: hit["relevance"] for hit in row["hits"] if hit["relevance"] is not None}
        values.append(ndcg_at(rank_by_score({hit["docid"]: hit["score"] for hit in row["hits"]}), grades, 10))
    assert len(values) == 43
    assert None not in values
    assert 0.5 < sum(values) / 43 < 0.65
