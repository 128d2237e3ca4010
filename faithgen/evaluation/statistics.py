"""Intervals and comparisons by bootstrap over rows, or over clusters of rows that are not independent.

Percentile intervals: for means of some hundred rows they agree with BCa to the third decimal, and a paired p-value by the
same resamples never contradicts the interval. Every function is fixed by its seed and, without clusters, does not depend on
the order of the rows. Missing values (`None`, or a number that is not finite) are counted and named, never averaged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np

from faithgen.errors import FaithgenError

ALIKE = "all alike"
"""Reason of a figure whose rows (or clusters) are all the same: every resample repeats it, so that it has no interval."""

EXACT = "all alike: exact interval"
"""Reason of a share that is 0 or 1 in all rows, with the interval of Clopper and Pearson."""

_CELLS = 1 << 21  # numbers held at a time, whatever the number of rows and resamples
_TOO_MANY_LOST = 0.05
_ALONE = {False: "one row alone", True: "one cluster alone"}

_Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Estimate:
    """A figure and its interval.

    Attributes:
        mean (`float`, *optional*): the figure over all rows that have a value; `None` where it is not defined.
        low (`float`, *optional*), high (`float`, *optional*): the interval; `None` where it cannot be had.
        n (`int`): rows that have a value.
        missing (`int`): rows that have none.
        reason (`str`, *optional*): why something above is `None`, or what to mind about the interval.

    Example:

    ```python
    >>> str(Estimate(0.412, 0.35, 0.47, 250))
    '0.412 [0.350, 0.470] (n=250)'
    ```
    """

    mean: float | None
    low: float | None
    high: float | None
    n: int
    missing: int = 0
    reason: str | None = None

    def __str__(self) -> str:
        rows = f"n={self.n}" + (f", {self.missing} missing" if self.missing else "")
        if self.mean is None:
            return f"none: {self.reason} ({rows})"
        about = f"{self.remark}; {rows}" if self.remark else rows
        if self.low is None or self.high is None:
            return f"{_shown(self.mean)} ({about})"
        return f"{_shown(self.mean)} [{_shown(self.low)}, {_shown(self.high)}] ({about})"

    @property
    def remark(self) -> str:
        """What to say beside the figure: why it has no interval, or what to mind about it; mostly `""`."""
        if self.mean is None or self.reason is None:
            return ""
        return f"no interval: {self.reason}" if self.low is None and self.reason != ALIKE else self.reason


@dataclass(frozen=True)
class PairedDifference:
    """What `paired_bootstrap` finds.

    Attributes:
        difference ([`Estimate`]): mean of a - b over the rows that have both.
        p_value (`float`, *optional*): two-sided, see `paired_bootstrap`.
        p_holm (`float`, *optional*): the same after Holm's correction, where several methods were compared.
    """

    difference: Estimate
    p_value: float | None
    p_holm: float | None = None


def bootstrap_interval(
    values: Sequence[float | None],
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    clusters: Sequence[object] | None = None,
    shares: bool = False,
) -> Estimate:
    """Mean of a metric over rows, with its percentile bootstrap interval.

    Args:
        values (`Sequence[float | None]`): one a row; `None` where the row has none.
        confidence (`float`, *optional*, defaults to 0.95): share of intervals that hold the true mean, 0 to 1.
        resamples (`int`, *optional*, defaults to 10,000): bootstrap samples.
        seed (`int`, *optional*, defaults to 0): of the random generator.
        clusters (`Sequence`, *optional*):
            What each row belongs to (an answer, a question). Whole clusters are then drawn; the mean stays that of rows.
        shares (`bool`, *optional*, defaults to `False`):
            The values lie from 0 to 1. Where all are 0, or all 1, the interval is then that of Clopper and Pearson for as
            many trials as there are rows (or clusters).

    Returns:
        [`Estimate`]: without interval for one row (or one cluster) alone, or where all are alike otherwise.

    Raises:
        FaithgenError: If lengths differ, or `confidence` or `resamples` is out of range.
    """
    ones = [1.0] * len(values)
    return ratio_interval(
        values, ones, confidence=confidence, resamples=resamples, seed=seed, clusters=clusters, shares=shares
    )


def ratio_interval(
    numerators: Sequence[float | None],
    denominators: Sequence[float | None],
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    clusters: Sequence[object] | None = None,
    shares: bool = False,
) -> Estimate:
    """A figure that is a sum over rows divided by another (precision, M_R), with its percentile bootstrap interval.

    Args:
        numerators (`Sequence[float | None]`), denominators (`Sequence[float | None]`): of each row; none below 0 in the
            latter.
        confidence, resamples, seed, clusters, shares: as in `bootstrap_interval`; trials are the rows whose denominator is
            not 0.

    Returns:
        [`Estimate`]: `n` counts rows that have both. Without a mean where the denominators sum to 0.

    Raises:
        FaithgenError: As `bootstrap_interval`.
    """
    _check_range(confidence, resamples)
    rows, missing, codes = _complete((numerators, denominators), clusters)
    if not len(rows):
        return Estimate(None, None, None, 0, missing, "no row has a value")
    if (rows[:, 1] < 0).any():
        raise FaithgenError(f"a denominator is {rows[:, 1].min()}; give none below 0")
    total = rows.sum(0)
    if not total[1]:
        return Estimate(None, None, None, len(rows), missing, "the denominator is 0 in all rows")
    mean = float(total[0] / total[1])
    units = _cluster_sums(rows, codes)
    if len(units) == 1:
        return Estimate(mean, None, None, len(rows), missing, _ALONE[codes is not None])
    if _alike(units):
        trials = int((units[:, 1] != 0).sum())
        binary = shares and mean in (0, 1) and bool(np.isin(rows[:, 1], (0, 1)).all())
        low, high = _exact_ends(mean, trials, confidence) if binary else (None, None)
        return Estimate(mean, low, high, len(rows), missing, EXACT if binary else ALIKE)
    samples = _divided(*_resampled_sums(units, resamples, seed).T)
    return _estimate(mean, samples, confidence, len(rows), missing)


def paired_bootstrap(
    a: Sequence[float | None],
    b: Sequence[float | None],
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    clusters: Sequence[object] | None = None,
) -> PairedDifference:
    """Difference of two methods on the same rows.

    Rows are drawn with both of their values. The p-value is twice the share of resamples whose difference lies on the other
    side of 0 (or on it), one added to both counts so that it is never 0: the two-sided test that the percentile interval
    stands for, at most 1. Exchanging a and b changes the signs and nothing else. Where all differences are alike there is no
    interval, and p is that of the sign test: 1 where they are 0, else 2 / 2^rows, but not below what the resamples can show.

    Args:
        a (`Sequence[float | None]`), b (`Sequence[float | None]`): values of the two methods, row for row.
        confidence, resamples, seed, clusters: as in `bootstrap_interval`.

    Returns:
        [`PairedDifference`]: a row that lacks one value counts as missing.

    Raises:
        FaithgenError: As `bootstrap_interval`.
    """
    rows, missing, codes = _complete((a, b), clusters)
    _check_range(confidence, resamples)
    if not len(rows):
        return PairedDifference(Estimate(None, None, None, 0, missing, "no row has both values"), None)
    differences = rows[:, 0] - rows[:, 1]
    mean = float(differences.mean())
    units = _cluster_sums(np.stack([differences, np.ones(len(rows))], 1), codes)
    # The side that is ahead is drawn first, so that the same resamples come out whichever way the methods are given.
    ordered, turned = (sorted(map(tuple, (side * units).tolist())) for side in (np.array([1, 1]), np.array([-1, 1])))
    sign = -1.0 if mean < 0 or (mean == 0 and ordered < turned) else 1.0
    units = units * [sign, 1]
    if len(units) == 1:
        alone = Estimate(mean, None, None, len(rows), missing, _ALONE[codes is not None])
        return PairedDifference(alone, None)
    if _alike(units):
        alike = Estimate(mean, None, None, len(rows), missing, ALIKE)
        return PairedDifference(alike, max(2 / (resamples + 1), 0.5 ** (len(units) - 1)) if mean else 1.0)
    samples = sign * _divided(*_resampled_sums(units, resamples, seed).T)
    if ordered == turned:  # neither side is ahead
        samples = np.concatenate([samples, -samples])
    tail = min(int((samples <= 0).sum()), int((samples >= 0).sum()))
    return PairedDifference(
        _estimate(mean, samples, confidence, len(rows), missing),
        min(1.0, 2 * (tail + 1) / (len(samples) + 1)),
    )


def compare_with_baseline(
    baseline: Sequence[float | None],
    methods: Mapping[str, Sequence[float | None]],
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    clusters: Sequence[object] | None = None,
) -> dict[str, PairedDifference]:
    """`paired_bootstrap` of each method (as a) against the baseline (as b), with `p_holm` over all of them.

    The intervals are not widened: each holds for its own method alone.
    """
    found = {
        name: paired_bootstrap(values, baseline, confidence, resamples, seed, clusters)
        for name, values in methods.items()
    }
    corrected = holm({name: pair.p_value for name, pair in found.items()})
    return {name: replace(pair, p_holm=corrected[name]) for name, pair in found.items()}


def holm(p_values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Holm's step-down correction: the chance of one false finding among all stays below the level.

    Args:
        p_values (`Mapping[str, float | None]`): by comparison; `None` was not tested and does not count.

    Returns:
        `dict[str, float | None]`: corrected p-values in the order given.

    Raises:
        FaithgenError: If one is not between 0 and 1.
    """
    tested = {name: p for name, p in p_values.items() if p is not None}
    for name, p in tested.items():
        if not 0 <= p <= 1:
            raise FaithgenError(f"the p-value of {name!r} is {p}; give a number from 0 to 1")
    corrected: dict[str, float | None] = dict.fromkeys(p_values)
    largest = 0.0
    for rank, name in enumerate(sorted(tested, key=lambda name: tested[name])):
        largest = max(largest, min(1.0, (len(tested) - rank) * tested[name]))
        corrected[name] = largest
    return corrected


def auroc_interval(
    labels: Sequence[float | None],
    scores: Sequence[float | None],
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    clusters: Sequence[object] | None = None,
) -> Estimate:
    """Area under the ROC curve: the chance that a positive row scores above a negative one, ties counting one half.

    Args:
        labels (`Sequence[float | None]`): 1 for positive (supported), 0 for negative rows.
        scores (`Sequence[float | None]`): higher is more positive. Rows without a score count as missing and are left out.
        confidence, resamples, seed: as in `bootstrap_interval`.
        clusters (`Sequence`, *optional*):
            What each row belongs to, e.g. the answer of a sentence: whole clusters are drawn, and samples without one of
            the classes are left out. Without clusters, positive and negative rows are drawn apart (stratified).

    Returns:
        [`Estimate`]: 0 to 1; without a mean where all labels are the same.

    Raises:
        FaithgenError: As `bootstrap_interval`, or if a label is neither 0 nor 1.
    """

    def statistic(rows: _Array) -> Callable[[_Array], _Array]:
        starts = np.unique(rows[:, 1], return_index=True)[1]  # rows are sorted by score
        positive = rows[:, 0]

        def aurocs(weights: _Array) -> _Array:
            above = np.add.reduceat(weights * positive, starts, axis=1)
            other = np.add.reduceat(weights * (1 - positive), starts, axis=1)
            below = np.cumsum(other, axis=1) - other
            return _divided((above * (below + other / 2)).sum(1), above.sum(1) * other.sum(1))

        return aurocs

    return _two_class_interval(labels, scores, statistic, "AUROC", confidence, resamples, seed, clusters)


def balanced_accuracy_interval(
    labels: Sequence[float | None],
    scores: Sequence[float | None],
    *,
    threshold: float = 0.5,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    clusters: Sequence[object] | None = None,
) -> Estimate:
    """Balanced accuracy: mean of the shares of positive and of negative rows that are told right.

    Args:
        labels (`Sequence[float | None]`): 1 or 0.
        scores (`Sequence[float | None]`): a row is called positive from `threshold` on.
        threshold (`float`, *optional*, defaults to 0.5): choose it on other rows than these.
        confidence, resamples, seed, clusters: as in `auroc_interval`.

    Returns:
        [`Estimate`]: 0 to 1, 0.5 for guessing; without a mean where all labels are the same.

    Raises:
        FaithgenError: As `auroc_interval`.
    """

    def statistic(rows: _Array) -> Callable[[_Array], _Array]:
        positive = rows[:, 0]
        right = (rows[:, 1] >= threshold) == (positive == 1)

        def accuracies(weights: _Array) -> _Array:
            true_positive = _divided(weights @ (right * positive), weights @ positive)
            return (true_positive + _divided(weights @ (right * (1 - positive)), weights @ (1 - positive))) / 2

        return accuracies

    return _two_class_interval(labels, scores, statistic, "balanced accuracy", confidence, resamples, seed, clusters)


def needed_n(half_width: float, sd: float = 0.5, confidence: float = 0.95) -> int:
    """Rows needed for an interval of mean ± half_width, by the normal approximation.

    Args:
        half_width (`float`): in units of the metric.
        sd (`float`, *optional*, defaults to 0.5): standard deviation over rows; 0.5 is the largest a 0/1 metric can have.
        confidence (`float`, *optional*, defaults to 0.95): of the interval.

    Raises:
        FaithgenError: If a value is out of range.
    """
    _check_range(confidence, 1)
    if not (half_width > 0 and math.isfinite(half_width) and sd >= 0 and math.isfinite(sd)):
        raise FaithgenError(
            f"half_width is {half_width} and sd is {sd}; give a half_width above 0 and an sd from 0 on"
        )
    return max(1, math.ceil((NormalDist().inv_cdf((1 + confidence) / 2) * sd / half_width) ** 2))


def _shown(value: float) -> str:
    return f"{round(value, 3) + 0.0:.3f}"  # no "-0.000"


def _check_range(confidence: float, resamples: int) -> None:
    if not 0 < confidence < 1:
        raise FaithgenError(f"confidence is {confidence}; give a number between 0 and 1, e.g. 0.95")
    if resamples < 1:
        raise FaithgenError(f"resamples is {resamples}; give 1 or more")


def _complete(
    columns: Sequence[Sequence[float | None]], clusters: Sequence[object] | None
) -> tuple[_Array, int, _Array | None]:
    """Rows that have all values, how many have not, and the cluster number of each row."""
    lengths = {len(column) for column in columns}
    if len(lengths) > 1:
        raise FaithgenError(
            f"the two lists hold {len(columns[0])} and {len(columns[1])} values; give both row for row"
        )
    if clusters is not None and len(clusters) != len(columns[0]):
        raise FaithgenError(f"there are {len(clusters)} clusters for {len(columns[0])} rows; name one for each row")
    # float64 by way of object turns None into NaN
    rows = np.stack([np.asarray(list(column), dtype=object).astype(np.float64) for column in columns], 1)
    kept = np.isfinite(rows).all(1)
    codes = None
    if clusters is not None:
        numbers: dict[object, int] = {}
        named = (clusters[i] for i in np.flatnonzero(kept).tolist())
        codes = np.array([numbers.setdefault(cluster, len(numbers)) for cluster in named], dtype=np.int64)
    return rows[kept], int((~kept).sum()), codes


def _cluster_sums(rows: _Array, codes: _Array | None) -> _Array:
    if codes is None:
        return rows
    sums = np.zeros((int(codes.max()) + 1, rows.shape[1]))
    np.add.at(sums, codes, rows)
    return sums


def _resample_counts(sizes: _Array, resamples: int, rng: np.random.Generator, width: int) -> Iterator[_Array]:
    """How often each kind is drawn when as many units are drawn as there are, in chunks of `[samples, kinds]`.

    Args:
        sizes: units of each kind.
        width: numbers a sample will take, for the size of a chunk.
    """
    total = int(sizes.sum())
    kinds = np.repeat(np.arange(len(sizes)), sizes)
    step = max(1, _CELLS // max(width, total))
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        if 8 * len(sizes) < total:
            yield rng.multinomial(total, sizes / total, size=count)
            continue
        drawn = kinds[rng.integers(0, total, (count, total))] + np.arange(count)[:, None] * len(sizes)
        yield np.bincount(drawn.ravel(), minlength=count * len(sizes)).reshape(count, len(sizes))


def _resampled_sums(units: _Array, resamples: int, seed: int) -> _Array:
    kinds, sizes = np.unique(units, axis=0, return_counts=True)
    rng = np.random.default_rng(seed)
    return np.concatenate([counts @ kinds for counts in _resample_counts(sizes, resamples, rng, len(units))])


def _divided(above: _Array, below: _Array) -> _Array:
    return np.divide(above, below, out=np.full(len(above), np.nan), where=below != 0)


def _alike(units: _Array) -> bool:
    """Whether two or more units have a denominator, and all of them the same ratio."""
    told = units[units[:, 1] != 0]
    ratio = told[:, 0] / told[:, 1]
    return len(told) > 1 and not units[units[:, 1] == 0].any() and np.allclose(ratio, ratio[0], rtol=1e-12, atol=0)


def _exact_ends(mean: float, trials: int, confidence: float) -> tuple[float, float]:
    """Clopper and Pearson's interval where none or all of the trials succeeded."""
    edge = ((1 - confidence) / 2) ** (1 / trials)
    return (edge, 1.0) if mean else (0.0, 1 - edge)


def _estimate(mean: float, samples: _Array, confidence: float, n: int, missing: int) -> Estimate:
    kept = samples[np.isfinite(samples)]
    lost = len(samples) - len(kept)
    if lost > _TOO_MANY_LOST * len(samples):
        return Estimate(mean, None, None, n, missing, f"{lost} of {len(samples)} resamples have no value")
    low, high = np.quantile(kept, [(1 - confidence) / 2, (1 + confidence) / 2])
    reason = f"{lost} of {len(samples)} resamples had no value and were left out" if lost else None
    return Estimate(mean, float(low), float(high), n, missing, reason)


def _two_class_interval(
    labels: Sequence[float | None],
    scores: Sequence[float | None],
    statistic: Callable[[_Array], Callable[[_Array], _Array]],
    name: str,
    confidence: float,
    resamples: int,
    seed: int,
    clusters: Sequence[object] | None,
) -> Estimate:
    _check_range(confidence, resamples)
    rows, missing, codes = _complete((labels, scores), clusters)
    if not len(rows):
        return Estimate(None, None, None, 0, missing, "no row has a label and a score")
    if not np.isin(rows[:, 0], (0, 1)).all():
        raise FaithgenError(f"the labels are {sorted(set(rows[:, 0].tolist()))[:5]}; give 0 and 1")
    if len(set(rows[:, 0].tolist())) == 1:
        return Estimate(None, None, None, len(rows), missing, f"all labels are {rows[0, 0]:.0f}; {name} needs both")
    order = np.lexsort((rows[:, 0], rows[:, 1]))
    rows, codes = rows[order], None if codes is None else codes[order]
    value = statistic(rows)
    mean = float(value(np.ones((1, len(rows))))[0])
    if codes is not None and codes.max() == 0:
        return Estimate(mean, None, None, len(rows), missing, _ALONE[True])
    weighted = _class_weights(rows[:, 0], codes, resamples, seed)
    samples = np.concatenate([value(weights.astype(np.float64)) for weights in weighted])
    return _estimate(mean, samples, confidence, len(rows), missing)


def _class_weights(labels: _Array, codes: _Array | None, resamples: int, seed: int) -> Iterator[_Array]:
    """Weights of rows in each sample: by cluster, or positive and negative rows drawn apart."""
    rng = np.random.default_rng(seed)
    width = 4 * len(labels)
    if codes is not None:
        for counts in _resample_counts(np.ones(int(codes.max()) + 1, np.int64), resamples, rng, width):
            yield counts[:, codes]
        return
    places = [np.flatnonzero(labels == label) for label in (0, 1)]
    drawn = [_resample_counts(np.ones(len(place), np.int64), resamples, rng, width) for place in places]
    for negative, positive in zip(*drawn, strict=True):
        weights = np.zeros((len(negative), len(labels)), np.int64)
        weights[:, places[0]], weights[:, places[1]] = negative, positive
        yield weights
