import json
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faithgen.errors import FaithgenError
from faithgen.evaluation.judging import choose_threshold, compare, draw, judge, score_set, split_parts
from faithgen.evaluation.scorers.base import ClaimContext
from faithgen.evaluation.scorers.labelled import LabelledClaim, LabelledSet
from faithgen.evaluation.scorers.labelled_sets import load_labelled
from faithgen.evaluation.scorers.lexical import LexicalScorer


def claim(number, label, text="It rained.", answer=None, cluster=None, part=""):
    answer = str(number) if answer is None else answer
    context = ClaimContext("why?", text, 0, len(text))
    return LabelledClaim(str(number), text, ("A document.",), label, answer, cluster or answer, context, part)


def labelled(name, labels, kind="qa", unit="sentence", prefix=None, **more):
    prefix = name if prefix is None else prefix
    claims = [claim(number, label, cluster=f"{prefix}{number}", **more) for number, label in enumerate(labels)]
    return LabelledSet(name, kind, unit, claims)


class ByText:
    """Gives the number a claim holds."""

    name = "by text"
    trained_on = ("seen",)

    def __init__(self):
        self.calls = []

    def score(self, claims, documents, *, contexts=None):
        self.calls.append((list(claims), list(contexts)))
        return [float(text.split()[0]) for text in claims]


# --- scoring ----------------------------------------------------------------------------------------------------------


def test_answers_are_scored_by_sentence_and_brought_together():
    answer = "0.2 is one. Is it? 0.6 is another."
    one = LabelledSet("a", "qa", "answer", [claim(1, 1, answer), claim(2, 0, "0.9 alone.")])
    scorer = ByText()
    assert score_set(scorer, one) == [pytest.approx(0.4), 0.9]
    assert score_set(scorer, one, aggregate="min") == [0.2, 0.9]
    texts, contexts = scorer.calls[0]
    assert texts == ["0.2 is one.", "0.6 is another.", "0.9 alone."]
    assert [answer[context.start : context.end] for context in contexts[:2]] == texts[:2]
    assert contexts[0].question == "why?"


def test_an_answer_that_asserts_nothing_is_scored_as_it_is():
    assert split_parts(claim(1, 1, "0.3 what?"), "answer") == [("0.3 what?", ClaimContext("why?", "0.3 what?", 0, 9))]
    assert score_set(ByText(), LabelledSet("a", "qa", "answer", [claim(1, 1, "0.3 what?")])) == [0.3]


def test_sentences_and_triplets_are_not_split():
    text = "0.2 one. 0.6 two."
    for unit in ("sentence", "triplet"):
        assert split_parts(claim(1, 1, text), unit) == [(text, ClaimContext("why?", text, 0, len(text)))]


def test_batches_keep_answers_whole(monkeypatch):
    monkeypatch.setattr("faithgen.evaluation.judging._BATCH", 3)
    claims = [claim(number, 1, f"0.{number} x", answer=str(number // 2)) for number in range(9)]
    scorer, seen = ByText(), []
    one = LabelledSet("a", "qa", "sentence", claims)
    assert score_set(scorer, one, progress=lambda done, total: seen.append((done, total))) == [
        n / 10 for n in range(9)
    ]
    assert [len(texts) for texts, _ in scorer.calls] == [4, 4, 1]
    assert seen == [(4, 9), (8, 9), (9, 9)]


@pytest.mark.parametrize("values", [[0.1], [0.1, math.nan], [0.1, 1.2]])
def test_scores_that_are_no_probabilities_are_an_error(values):
    class Broken(ByText):
        def score(self, claims, documents, *, contexts=None):
            return values

    with pytest.raises(FaithgenError, match="'by text' gave no probability for some claims of set 'a'"):
        score_set(Broken(), labelled("a", [0, 1]))
    with pytest.raises(FaithgenError, match="aggregate 'max'"):
        score_set(ByText(), labelled("a", [0, 1]), aggregate="max")


# --- a sample ---------------------------------------------------------------------------------------------------------


def test_a_sample_holds_whole_answers_and_is_fixed_by_its_seed():
    claims = [claim(number, number % 2, answer=str(number // 3)) for number in range(30)]
    one = LabelledSet("a", "qa", "sentence", claims)
    sample = draw(one, 7, seed=1)
    assert len(sample.claims) == 9, "three answers of three sentences"
    assert [row.id for row in sample.claims] == sorted((row.id for row in sample.claims), key=int)
    answers = {row.answer for row in sample.claims}
    assert [row for row in claims if row.answer in answers] == sample.claims
    assert draw(one, 7, seed=1) == sample
    assert any(draw(one, 7, seed=seed) != sample for seed in range(2, 6))
    assert draw(one, None) is one
    assert draw(one, 1000).claims == claims
    with pytest.raises(FaithgenError, match="limit is 0"):
        draw(one, 0)


# --- figures ----------------------------------------------------------------------------------------------------------


def test_figures_of_a_scorer_that_is_always_right_and_of_one_that_is_always_wrong():
    sets = [labelled("a", [0, 1] * 20), labelled("b", [1, 0] * 20, kind="summary")]
    right = {one.name: [float(row.label) for row in one.claims] for one in sets}
    first, second = compare("x", sets, right).sets
    for one in (first, second):
        assert (one.auroc.mean, one.auroc.low, one.auroc.high) == (1.0, 1.0, 1.0)
        assert one.balanced_accuracy.mean == 1.0
        assert (one.n, one.supported, one.answers, one.clusters) == (40, 20, 40, 40)
        assert one.threshold_from == "other sets"
    wrong = {name: [1 - value for value in values] for name, values in right.items()}
    assert {one.auroc.mean for one in compare("x", sets, wrong).sets} == {0.0}


def test_sets_that_a_scorer_was_tuned_on_are_marked():
    scorer = LexicalScorer()
    scorer.tuned_on = ("a",)
    found = judge(scorer, [labelled("a", [0, 1]), labelled("b", [1, 0])])
    assert {name: one["tuned"] for name, one in found.to_dict()["sets"].items()} == {"a": True, "b": False}


def test_the_threshold_is_chosen_on_the_other_sets():
    sets = [labelled("a", [0, 1]), labelled("b", [0, 0, 1, 1]), labelled("c", [1, 1, 1])]
    scores = {"a": [0.1, 0.2], "b": [0.5, 0.6, 0.7, 0.8], "c": [0.9, 0.9, 0.9]}
    first, second, third = compare("x", sets, scores).sets
    assert first.threshold == pytest.approx(0.65), "the middle of b's gap; c has one label and does not count"
    assert first.balanced_accuracy.mean == 0.5, "all of a lie below it: no peeking at a's own best threshold"
    assert second.threshold == pytest.approx(0.15)
    assert second.balanced_accuracy.mean == 0.5
    assert third.auroc.mean is None
    assert "all labels are 1" in third.auroc.reason


def test_other_sets_that_share_a_source_text_do_not_choose_the_threshold():
    sets = [labelled("a", [0, 1] * 30), labelled("dev", [0, 1] * 30, prefix="a"), labelled("b", [0, 1])]
    scores = {"a": [0.1, 0.9] * 30, "dev": [0.3, 0.4] * 30, "b": [0.6, 0.8]}
    first, _, third = compare("x", sets, scores).sets
    assert first.threshold == pytest.approx(0.7), "b's alone"
    assert 0.3 < third.threshold < 0.6 or third.threshold == pytest.approx(0.35), "a's and dev's together"


def test_a_set_alone_is_cut_in_two_halves_by_cluster():
    rng = random.Random(0)
    labels = [rng.randint(0, 1) for _ in range(200)]
    one = labelled("a", labels)
    values = [0.3 + 0.4 * label + rng.uniform(-0.25, 0.25) for label in labels]
    (got,) = compare("x", [one], {"a": values}).sets
    assert got.threshold_from == "half of this set; reported on the other half"
    assert 60 < got.balanced_accuracy.n < 140
    assert got.auroc.n == 200
    shared = LabelledSet("a", "qa", "sentence", [claim(n, label, cluster="one") for n, label in enumerate(labels)])
    (got,) = compare("x", [shared], {"a": values}).sets
    assert got.balanced_accuracy.mean is None, "all rows are in one half"
    assert got.balanced_accuracy.reason


def test_intervals_are_clustered():
    labels = [number % 2 for number in range(40)]
    rng = random.Random(1)
    values = [0.4 + 0.2 * label + rng.uniform(-0.3, 0.3) for label in labels]
    apart = labelled("a", labels * 4)
    together = LabelledSet(
        "a", "qa", "sentence", [claim(n, label, cluster=str(n % 40)) for n, label in enumerate(labels * 4)]
    )
    (narrow,), (wide,) = (compare("x", [one], {"a": values * 4}).sets for one in (apart, together))
    assert narrow.auroc.mean == wide.auroc.mean
    assert wide.auroc.high - wide.auroc.low > 1.5 * (narrow.auroc.high - narrow.auroc.low)


def test_parts_of_a_set_have_figures_of_their_own():
    claims = [claim(n, n % 2, part="x" if n < 10 else "y") for n in range(20)]
    one = LabelledSet("a", "qa", "sentence", claims)
    values = [float(row.label) if row.part == "x" else 1.0 - row.label for row in claims]
    (got,) = compare("x", [one], {"a": values}).sets
    assert {part: estimate.mean for part, estimate in got.parts.items()} == {"x": 1.0, "y": 0.0}
    assert got.auroc.mean == 0.5


def test_sets_that_were_trained_on_are_marked_and_left_out_counts_kept():
    sets = [labelled("seen", [0, 1]), labelled("new", [0, 1])]
    sets[1].excluded["no reason"] += 3
    sets[1].excluded["never"] += 0
    for one in sets:
        one.claims = [
            LabelledClaim(
                row.id, f"0.{3 + 4 * row.label} x", row.documents, row.label, row.answer, row.cluster, row.context
            )
            for row in one.claims
        ]
    judgement = judge(ByText(), sets, seed=3)
    assert [one.seen for one in judgement.sets] == [True, False]
    assert [one.excluded for one in judgement.sets] == [{}, {"no reason": 3}]
    assert judgement.settings == {"limit": None, "seed": 3, "aggregate": "mean"}
    data = judgement.to_dict()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert data["sets"]["new"]["auroc"]["mean"] == 1.0
    assert data["threshold"] == 0.5


def test_progress_runs_over_all_sets():
    sets = [labelled("a", [0, 1], text="0.5 x"), labelled("b", [0, 1, 1], text="0.5 x")]
    seen = []
    judge(ByText(), sets, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(2, 5), (5, 5)]


def test_the_threshold_for_use_is_that_of_answers_to_questions():
    sets = [labelled("a", [0, 1]), labelled("b", [0, 1], kind="summary")]
    assert compare("x", sets, {"a": [0.2, 0.4], "b": [0.8, 0.9]}).threshold == pytest.approx(0.3)
    assert compare("x", sets[1:], {"b": [0.8, 0.9]}).threshold is None


def test_scores_must_be_there_for_every_claim():
    with pytest.raises(FaithgenError, match="1 scores for 2 claims of set 'a'"):
        compare("x", [labelled("a", [0, 1])], {"a": [0.5]})
    with pytest.raises(FaithgenError, match="0 scores for 2 claims of set 'a'"):
        compare("x", [labelled("a", [0, 1])], {})
    with pytest.raises(FaithgenError, match="no labelled set to judge on"):
        compare("x", [], {})


# --- the threshold ----------------------------------------------------------------------------------------------------


def balanced_accuracy(labels, scores, threshold):
    shares = []
    for label in (0, 1):
        group = [
            (score >= threshold) == bool(label) for score, one in zip(scores, labels, strict=True) if one == label
        ]
        shares.append(sum(group) / len(group))
    return sum(shares) / 2


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.lists(
        st.lists(
            st.tuples(st.integers(0, 1), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 1.0])), min_size=1, max_size=12
        ),
        max_size=3,
    )
)
def test_no_other_threshold_is_better(groups):
    pairs = [([label for label, _ in group], [score for _, score in group]) for group in groups]
    usable = [(labels, scores) for labels, scores in pairs if len(set(labels)) == 2]
    got = choose_threshold(pairs)
    if not usable:
        assert got is None
        return

    def quality(threshold):
        return sum(balanced_accuracy(labels, scores, threshold) for labels, scores in usable)

    others = [0.0, 0.05, 0.1, 0.2, 0.25, 0.3, 0.5, 0.6, 0.75, 0.9, 1.0]
    assert quality(got) >= max(map(quality, others)) - 1e-9


# --- real rows --------------------------------------------------------------------------------------------------------


@pytest.mark.shared_data
def test_the_lexical_scorer_on_a_sample_of_real_rows(shared_data):
    sets = load_labelled(shared_data, ["ragtruth_qa_test", "begin_wow_dev"])
    judgement = judge(LexicalScorer(), sets, limit=300)
    for one in judgement.sets:
        assert one.auroc.mean > 0.7
        assert one.auroc.low < one.auroc.mean < one.auroc.high
        assert one.balanced_accuracy.mean > 0.6
    turned = {one.name: [random.Random(row.id).random() for row in one.claims] for one in sets}
    for one in compare("chance", sets, turned).sets:
        assert abs(one.auroc.mean - 0.5) < 0.1
