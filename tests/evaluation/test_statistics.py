import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faithgen.errors import FaithgenError
from faithgen.evaluation.agreement import auroc_interval, balanced_accuracy_interval
from faithgen.evaluation.resampling import ALIKE, Estimate
from faithgen.evaluation.statistics import (
    EXACT,
    bootstrap_interval,
    compare_with_baseline,
    holm,
    needed_n,
    paired_bootstrap,
    ratio_interval,
)

VALUES = st.lists(st.floats(-5, 5, allow_subnormal=False), min_size=2, max_size=25)
LABELLED = st.lists(
    st.tuples(st.sampled_from([0, 1]), st.sampled_from([0.0, 0.2, 0.5, 0.7, 1.0])), min_size=2, max_size=25
)


def spread(estimate):
    return estimate.high - estimate.low


def ends(estimate):
    return estimate.low, estimate.high


# --- how it is shown --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (Estimate(0.412, 0.35, 0.47, 250), "0.412 [0.350, 0.470] (n=250)"),
        (Estimate(0.412, 0.35, 0.47, 250, 3), "0.412 [0.350, 0.470] (n=250, 3 missing)"),
        (Estimate(-0.0001, -0.0004, 12.3456, 2), "0.000 [0.000, 12.346] (n=2)"),
        (Estimate(1.0, None, None, 1, 0, "one row alone"), "1.000 (no interval: one row alone; n=1)"),
        (Estimate(None, None, None, 0, 4, "no row has a value"), "none: no row has a value (n=0, 4 missing)"),
        (Estimate(0.3, None, None, 9, 0, ALIKE), "0.300 (all alike; n=9)"),
        (Estimate(0.0, 0.0, 0.088, 40, 0, EXACT), "0.000 [0.000, 0.088] (all alike: exact interval; n=40)"),
        (Estimate(0.5, 0.1, 0.9, 9, 0, "2 lost"), "0.500 [0.100, 0.900] (2 lost; n=9)"),
    ],
)
def test_as_text(estimate, text):
    assert str(estimate) == text


# --- means ------------------------------------------------------------------------------------------------------------


def test_against_scipy():
    from scipy.stats import bootstrap

    values = np.random.default_rng(3).gamma(1.0, size=150)
    found = bootstrap_interval(values, resamples=20_000)
    theirs = bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=1).confidence_interval
    assert found.mean == pytest.approx(values.mean())
    assert ends(found) == pytest.approx((theirs.low, theirs.high), abs=0.006)
    bca = bootstrap((values,), np.mean, n_resamples=20_000, method="BCa", rng=1).confidence_interval
    assert ends(found) == pytest.approx((bca.low, bca.high), abs=0.03)


@pytest.mark.parametrize(("n", "right"), [(40, 13), (400, 130), (3000, 300)])
def test_zeros_and_ones_have_binomial_quantiles(n, right):
    from scipy.stats import binom

    found = bootstrap_interval([1] * right + [0] * (n - right))
    expected = binom.ppf([0.025, 0.975], n, right / n) / n
    assert ends(found) == pytest.approx(tuple(expected), abs=1.5 / n)
    assert (found.mean, found.n, found.missing, found.reason) == (pytest.approx(right / n), n, 0, None)


def test_the_interval_holds_the_true_mean_as_often_as_it_says():
    generator = np.random.default_rng(0)
    hits = [
        low <= 0.3 <= high
        for low, high in (ends(bootstrap_interval(generator.random(80) < 0.3, resamples=500)) for _ in range(400))
    ]
    assert 0.90 < np.mean(hits) < 0.98


def test_confidence_widens_and_rows_narrow():
    values = [0, 1, 1, 0, 1, 0, 0, 0, 1, 1] * 5
    by_confidence = [spread(bootstrap_interval(values, confidence)) for confidence in (0.5, 0.8, 0.95, 0.99)]
    assert by_confidence == sorted(by_confidence)
    assert by_confidence[0] < by_confidence[-1]
    assert spread(bootstrap_interval(values * 4)) == pytest.approx(spread(bootstrap_interval(values)) / 2, rel=0.1)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(VALUES, st.randoms())
def test_bounds_order_and_seed(values, random):
    found = bootstrap_interval(values, resamples=200)
    if len(set(values)) == 1:
        assert (*ends(found), found.reason) == (None, None, ALIKE)
        return
    assert min(values) - 1e-9 <= found.low <= found.high <= max(values) + 1e-9
    assert found.mean == pytest.approx(sum(values) / len(values), abs=1e-9)
    shuffled = random.sample(values, len(values))
    other = bootstrap_interval(shuffled, resamples=200)
    assert ends(other) == pytest.approx(ends(found), abs=1e-9)
    assert bootstrap_interval(values, resamples=200) == found
    moved = bootstrap_interval([value + 10 for value in values], resamples=200)
    if moved.low is None:  # what they differ in is lost beside 10
        assert np.ptp(values) < 1e-9
        return
    assert ends(moved) == pytest.approx((found.low + 10, found.high + 10), abs=1e-6)


@pytest.mark.parametrize("values", [[0, 1, 1, 0, 1, 1, 0, 1, 1, 1] * 20, list(np.linspace(0, 1, 200))])
def test_another_seed_is_nearly_the_same(values):
    """Both ways of drawing: few different values, and all different."""
    one, other = bootstrap_interval(values, seed=0), bootstrap_interval(values, seed=1)
    assert ends(one) == pytest.approx(ends(other), abs=0.006)


def test_both_ways_of_drawing_agree():
    values = np.random.default_rng(0).integers(0, 4, 300)
    few = bootstrap_interval(values)
    all_different = bootstrap_interval(values + np.random.default_rng(1).random(300) * 1e-9)
    assert ends(few) == pytest.approx(ends(all_different), abs=0.01)


def test_missing_values_are_counted():
    found = bootstrap_interval([1, None, 0, math.nan, math.inf, 1.0, True, np.float32(0)])
    assert (found.n, found.missing) == (5, 3)
    assert found.mean == pytest.approx(3 / 5)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], Estimate(None, None, None, 0, 0, "no row has a value")),
        ([None, None], Estimate(None, None, None, 0, 2, "no row has a value")),
        ([0.5, None], Estimate(0.5, None, None, 1, 1, "one row alone")),
        ([0.5, 0.5], Estimate(0.5, None, None, 2, 0, "all alike")),
        ([0.1] * 7, Estimate(pytest.approx(0.1), None, None, 7, 0, "all alike")),
        ([0.0] * 40, Estimate(0.0, None, None, 40, 0, "all alike")),
    ],
)
def test_too_little_for_an_interval(values, expected):
    assert bootstrap_interval(values) == expected


@pytest.mark.parametrize(("value", "n", "confidence"), [(0, 40, 0.95), (1, 40, 0.95), (1, 3, 0.9), (0, 2, 0.5)])
def test_shares_that_are_all_0_or_all_1_have_the_exact_interval(value, n, confidence):
    from scipy.stats import binomtest

    found = bootstrap_interval([float(value)] * n + [None], confidence, shares=True)
    wanted = binomtest(value * n, n).proportion_ci(confidence, "exact")
    assert (found.mean, found.n, found.missing, found.reason) == (value, n, 1, EXACT)
    assert ends(found) == pytest.approx((wanted.low, wanted.high))
    clustered = bootstrap_interval([float(value)] * 3 * n, confidence, clusters=list(range(n)) * 3, shares=True)
    assert ends(clustered) == pytest.approx(ends(found)), "clusters are the trials"


def test_shares_that_differ_or_lie_between_are_as_ever():
    values = [0, 1, 1, 0, 1]
    assert bootstrap_interval(values, shares=True) == bootstrap_interval(values)
    assert bootstrap_interval([0.5, 0.5], shares=True) == Estimate(0.5, None, None, 2, 0, ALIKE)
    assert bootstrap_interval([1.0], shares=True).reason == "one row alone"
    halves = bootstrap_interval([0, 1] * 4, clusters=[0, 0, 1, 1, 2, 2, 3, 3], shares=True)
    assert (halves.mean, halves.low, halves.reason) == (0.5, None, ALIKE)


def test_memory_stays_bounded():
    """A matrix of all draws would take 1.6 GB."""
    values = np.random.default_rng(0).random(20_000)
    tracemalloc.start()
    found = bootstrap_interval(values, resamples=10_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150e6
    assert spread(found) == pytest.approx(2 * 1.96 * np.sqrt(1 / 12 / 20_000), rel=0.1)


# --- clusters ---------------------------------------------------------------------------------------------------------


def test_copies_within_clusters_add_nothing():
    values = [0.0, 1.0, 1.0, 0.0, 1.0, 0.2, 0.4]
    plain = bootstrap_interval(values)
    copied = bootstrap_interval(values * 12, clusters=list("abcdefg") * 12)
    assert (copied.mean, *ends(copied)) == pytest.approx((plain.mean, *ends(plain)))
    assert copied.n == 84
    assert spread(bootstrap_interval(values * 12)) < spread(copied) / 2.5


@settings(max_examples=50, deadline=None, derandomize=True)
@given(VALUES, st.randoms())
def test_a_cluster_for_each_row_is_no_cluster(values, random):
    plain = bootstrap_interval(values, resamples=100)
    alone = bootstrap_interval(values, resamples=100, clusters=[f"row {i}" for i in range(len(values))])
    assert alone == plain
    names = [random.choice("abc") for _ in values]
    order = random.sample(range(len(values)), len(values))
    one = bootstrap_interval(values, resamples=100, clusters=names)
    other = bootstrap_interval([values[i] for i in order], resamples=100, clusters=[names[i] for i in order])
    if one.low is None:
        assert one.reason == ALIKE or one.reason == "one cluster alone"
    else:
        assert one.mean == pytest.approx(plain.mean)
        assert other.mean == pytest.approx(one.mean)
        assert ends(other) == pytest.approx(ends(one))


def test_clusters_of_unequal_size_keep_the_mean_of_rows():
    found = bootstrap_interval([1, 1, 1, 0, None], clusters=["a", "a", "a", "b", "c"])
    assert (found.mean, found.n, found.missing) == (0.75, 4, 1)
    assert ends(found) == (0, 1)
    assert bootstrap_interval([1, 0], clusters=["a", "a"]).reason == "one cluster alone"


# --- ratios -----------------------------------------------------------------------------------------------------------


def test_ratio_by_hand():
    found = ratio_interval([1, 0, 2, None], [2, 1, 2, 1])
    assert (found.mean, found.n, found.missing) == (pytest.approx(3 / 5), 3, 1)
    assert 0 <= found.low <= 0.6 <= found.high <= 1


def test_resamples_without_a_denominator():
    assert ratio_interval([0, 0], [0, 0]).reason == "the denominator is 0 in all rows"
    rare = ratio_interval([1] + [0] * 99, [1] + [0] * 99)
    assert rare.mean == 1
    assert rare.low is None
    assert "resamples have no value" in rare.reason
    few = ratio_interval([1, 0, 1, 0] + [0] * 6, [1, 1, 1, 1] + [0] * 6)
    assert few.low is not None
    assert "were left out" in few.reason
    assert few.remark == few.reason


def test_a_ratio_that_is_the_same_in_all_rows():
    above, below = [1, 1, 1, 0, 0], [1, 1, 1, 0, 0]  # e.g. a precision of three of three
    assert ratio_interval(above, below) == Estimate(1.0, None, None, 5, 0, ALIKE)
    found = ratio_interval(above, below, shares=True)
    assert (*ends(found), found.n, found.reason) == (pytest.approx(0.025 ** (1 / 3)), 1.0, 5, EXACT)
    assert ratio_interval([2, 2], [2, 2], shares=True).reason == ALIKE, "a trial is 0 or 1"
    assert ratio_interval([1, 2, 3], [2, 4, 6]).reason == ALIKE
    assert ratio_interval([1, 2, 3], [2, 4, 5]).reason is None


# --- two methods ------------------------------------------------------------------------------------------------------


def test_paired_difference_by_hand():
    a, b = [1, 1, 0, 1, None], [0, 1, 0, 1, 1]
    found = paired_bootstrap(a, b)
    assert found.difference.mean == pytest.approx(1 / 4)
    assert (found.difference.n, found.difference.missing) == (4, 1)
    # the chance that none of four draws is the row that differs: (3/4)^4; below 0 none can be
    assert found.p_value == pytest.approx(2 * (3 / 4) ** 4, abs=0.02)


def test_paired_difference_against_a_t_test():
    from scipy.stats import ttest_rel

    generator = np.random.default_rng(0)
    for shift in (0.0, 0.02, 0.03):
        a = generator.random(200)
        b = a - shift + 0.15 * generator.standard_normal(200)
        assert paired_bootstrap(a, b).p_value == pytest.approx(ttest_rel(a, b).pvalue, abs=0.02)


def test_p_values_are_even_where_nothing_differs():
    generator = np.random.default_rng(0)
    p_values = [
        paired_bootstrap(generator.standard_normal(60), generator.standard_normal(60), resamples=400).p_value
        for _ in range(300)
    ]
    assert 0.02 < np.mean(np.array(p_values) < 0.05) < 0.09
    assert 0.4 < np.mean(p_values) < 0.6


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=20), st.randoms())
def test_exchanging_the_methods_changes_the_sign_alone(pairs, random):
    a, b = [float(x) for x, _ in pairs], [float(y) for _, y in pairs]
    one, other = paired_bootstrap(a, b, resamples=200), paired_bootstrap(b, a, resamples=200)
    assert one.p_value == other.p_value
    assert one.difference.mean == -other.difference.mean
    if len({x - y for x, y in zip(a, b, strict=True)}) == 1:
        assert one.difference.reason == other.difference.reason == ALIKE
        return
    assert ends(one.difference) == pytest.approx((-other.difference.high, -other.difference.low))
    order = random.sample(range(len(pairs)), len(pairs))
    shuffled = paired_bootstrap([a[i] for i in order], [b[i] for i in order], resamples=200)
    assert shuffled.p_value == one.p_value
    assert ends(shuffled.difference) == pytest.approx(ends(one.difference))
    assert 0 < one.p_value <= 1
    if one.p_value < 0.045:  # the interval interpolates between resamples
        assert one.difference.low >= 0 or one.difference.high <= 0


def test_a_draw_has_an_interval_that_is_the_same_from_both_sides():
    found = paired_bootstrap([0, 0, 0, 1], [0, 0, 1, 0], resamples=200)
    assert found.difference.high == -found.difference.low > 0
    assert found.p_value == 1


def test_methods_that_are_the_same():
    found = paired_bootstrap([0, 1, 1], [0, 1, 1])
    assert found.p_value == 1
    assert found.difference == Estimate(0, None, None, 3, 0, ALIKE)


def test_differences_that_are_all_alike_have_the_p_of_the_sign_test():
    from scipy.stats import binomtest

    for n in (2, 5, 9):
        found = paired_bootstrap([1] * n, [0] * n)
        assert found.difference == Estimate(1, None, None, n, 0, ALIKE)
        assert found.p_value == pytest.approx(binomtest(n, n).pvalue)
        assert paired_bootstrap([0] * n * 2, [1] * n * 2, clusters=list(range(n)) * 2).p_value == found.p_value
    assert paired_bootstrap([1] * 40, [0] * 40).p_value == 2 / 10_001, "no lower than resamples can show"


def test_too_few_pairs():
    assert paired_bootstrap([], []).difference.reason == "no row has both values"
    assert paired_bootstrap([1, None], [None, 1]).difference.missing == 2
    one = paired_bootstrap([1], [0])
    assert (one.difference.mean, one.difference.low, one.p_value) == (1, None, None)


def test_pairs_in_clusters():
    generator = np.random.default_rng(1)
    a, b = generator.random(30), generator.random(30)
    names = list(range(30))
    plain = paired_bootstrap(a, b)
    copied = paired_bootstrap(list(a) * 5, list(b) * 5, clusters=names * 5)
    assert copied.p_value == plain.p_value
    assert ends(copied.difference) == pytest.approx(ends(plain.difference))


# --- several methods --------------------------------------------------------------------------------------------------


def test_holm_by_hand():
    found = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert found == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert list(found) == ["a", "b", "c", "d"]
    assert holm({"a": 0.02, "b": None, "c": 0.6}) == {"a": 0.04, "b": None, "c": 0.6}
    assert holm({"a": 0.7, "b": 0.9}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}
    with pytest.raises(FaithgenError, match=r"p-value of 'a' is 1\.5"):
        holm({"a": 1.5})
    with pytest.raises(FaithgenError, match="p-value of 'a' is nan"):
        holm({"a": math.nan})


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.randoms())
def test_holm_is_between_no_correction_and_bonferroni(p_values, random):
    named = {str(i): p for i, p in enumerate(p_values)}
    found = holm(named)
    for name, p in named.items():
        assert p <= found[name] <= min(1.0, len(p_values) * p) + 1e-12
    ordered = sorted(named, key=named.__getitem__)
    assert [found[name] for name in ordered] == sorted(found.values())
    shuffled = dict(random.sample(list(named.items()), len(named)))
    assert holm(shuffled) == found


def test_comparison_with_a_baseline():
    generator = np.random.default_rng(0)
    baseline = list(generator.random(100))
    methods = {
        "better": [value + 0.1 + 0.1 * generator.random() for value in baseline],
        "like": [value + 0.1 * (generator.random() - 0.5) for value in baseline],
        "absent": [None] * 100,
    }
    found = compare_with_baseline(baseline, methods)
    assert list(found) == list(methods)
    assert found["better"].difference.mean == pytest.approx(0.15, abs=0.02)
    assert found["better"].p_holm == pytest.approx(2 * found["better"].p_value)
    assert found["like"].p_holm == found["like"].p_value > 0.05
    assert found["absent"].p_holm is None
    assert found["absent"].difference.missing == 100
    assert found["better"].difference == paired_bootstrap(methods["better"], baseline).difference


# --- scorers ----------------------------------------------------------------------------------------------------------


def test_auroc_by_hand():
    # pairs (positive, negative): .9>.4, .9>.8, .4=.4, .4<.8
    assert auroc_interval([1, 0, 1, 0], [0.9, 0.4, 0.4, 0.8]).mean == pytest.approx(2.5 / 4)
    assert auroc_interval([0, 1], [0.1, 0.2]).mean == 1


@settings(max_examples=100, deadline=None, derandomize=True)
@given(LABELLED, st.randoms())
def test_auroc_and_balanced_accuracy_are_sklearn_s(rows, random):
    from sklearn.metrics import balanced_accuracy_score, roc_auc_score

    labels, scores = [label for label, _ in rows], [score for _, score in rows]
    auroc = auroc_interval(labels, scores, resamples=60)
    accuracy = balanced_accuracy_interval(labels, scores, threshold=0.5, resamples=60)
    if len(set(labels)) == 1:
        assert auroc.mean is accuracy.mean is None
        assert "needs both" in auroc.reason
        return
    assert auroc.mean == pytest.approx(roc_auc_score(labels, scores))
    assert accuracy.mean == pytest.approx(balanced_accuracy_score(labels, [score >= 0.5 for score in scores]))
    for found in (auroc, accuracy):
        assert 0 <= found.low <= found.high <= 1
    turned = auroc_interval(labels, [-score for score in scores], resamples=60)
    assert turned.mean == pytest.approx(1 - auroc.mean)
    order = random.sample(range(len(rows)), len(rows))
    shuffled = auroc_interval([labels[i] for i in order], [scores[i] for i in order], resamples=60)
    assert shuffled == auroc


def test_auroc_interval_against_resampling_sklearn():
    from sklearn.metrics import roc_auc_score

    generator = np.random.default_rng(0)
    labels = np.array([0] * 40 + [1] * 60)
    scores = np.round(labels * 0.4 + generator.random(100), 2)
    samples = []
    for _ in range(1500):
        drawn = np.concatenate([generator.integers(0, 40, 40), generator.integers(40, 100, 60)])
        samples.append(roc_auc_score(labels[drawn], scores[drawn]))
    found = auroc_interval(labels, scores)
    assert ends(found) == pytest.approx(tuple(np.quantile(samples, [0.025, 0.975])), abs=0.012)


def test_balanced_accuracy_by_hand():
    # 2 of 3 positives, 1 of 2 negatives
    labels, scores = [1, 1, 1, 0, 0], [0.9, 0.5, 0.2, 0.4, 0.6]
    assert balanced_accuracy_interval(labels, scores).mean == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert balanced_accuracy_interval(labels, scores, threshold=0.61).mean == pytest.approx((1 / 3 + 1) / 2)


def test_balanced_accuracy_interval_is_of_two_binomials():
    labels = [1] * 100 + [0] * 400
    scores = [1] * 80 + [0] * 20 + [0] * 300 + [1] * 100
    found = balanced_accuracy_interval(labels, scores)
    sd = math.sqrt(0.8 * 0.2 / 100 + 0.75 * 0.25 / 400) / 2
    assert found.mean == pytest.approx(0.775)
    assert ends(found) == pytest.approx((0.775 - 1.96 * sd, 0.775 + 1.96 * sd), abs=0.004)


@pytest.mark.parametrize("interval", [auroc_interval, balanced_accuracy_interval])
def test_sentences_of_one_answer_are_not_independent(interval):
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 40)
    scores = labels * 0.3 + generator.random(40) * 0.7
    plain = interval(labels, scores)
    names = np.repeat(np.arange(40), 8)
    clustered = interval(np.repeat(labels, 8), np.repeat(scores, 8), clusters=list(names))
    blind = interval(np.repeat(labels, 8), np.repeat(scores, 8))
    assert clustered.mean == pytest.approx(plain.mean)
    assert spread(clustered) == pytest.approx(spread(plain), rel=0.2)
    assert spread(blind) < spread(clustered) / 2


@pytest.mark.parametrize("interval", [auroc_interval, balanced_accuracy_interval])
def test_scorers_on_too_little(interval):
    assert interval([], []).reason == "no row has a label and a score"
    assert interval([1, 1], [0.2, 0.4]).reason.startswith("all labels are 1; ")
    found = interval([1, 0, None, 1, 0], [0.5, None, 0.3, math.nan, 0.1])
    assert (found.n, found.missing) == (2, 3)
    assert found.mean == 1
    assert interval([1, 0], [0.5, 0.1], clusters=["a", "a"]).reason == "one cluster alone"
    # two clusters of one class each: half of the samples lack one
    assert "resamples have no value" in interval([1, 0], [0.5, 0.1], clusters=["a", "b"]).reason
    with pytest.raises(FaithgenError, match="give 0 and 1"):
        interval([1, 2], [0.5, 0.1])


def test_strata_keep_rare_classes():
    found = auroc_interval([1] + [0] * 60, [0.5] + [i / 60 for i in range(60)])
    assert found.low is not None
    assert found.reason is None


# --- sizes and wrong input --------------------------------------------------------------------------------------------


def test_needed_n():
    assert needed_n(0.05) == 385
    assert needed_n(0.1, confidence=0.9) == 68
    assert needed_n(10) == 1
    values = np.random.default_rng(0).random(needed_n(0.03, sd=math.sqrt(1 / 12)))
    assert spread(bootstrap_interval(values)) / 2 == pytest.approx(0.03, abs=0.003)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_interval([1, 0], confidence=1.0), "confidence is 1.0"),
        (lambda: bootstrap_interval([1, 0], confidence=math.nan), "confidence is nan"),
        (lambda: bootstrap_interval([], resamples=0), "resamples is 0"),
        (lambda: bootstrap_interval([1, 0], clusters=["a"]), "1 clusters for 2 rows"),
        (lambda: ratio_interval([1], [1, 2]), "hold 1 and 2 values"),
        (lambda: ratio_interval([1, 1], [1, -2]), "denominator is -2"),
        (lambda: paired_bootstrap([1], [1, 2]), "hold 1 and 2 values"),
        (lambda: auroc_interval([1, 0], [0.5]), "hold 2 and 1 values"),
        (lambda: needed_n(0), "half_width is 0"),
        (lambda: needed_n(0.1, sd=math.nan), "sd is nan"),
        (lambda: needed_n(0.1, confidence=0), "confidence is 0"),
    ],
)
def test_wrong_input(call, message):
    with pytest.raises(FaithgenError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
