"""Intervals and comparisons by bootstrap over rows, or over clusters of rows that are not independent.

Percentile intervals: for means of some hundred rows they agree with BCa to the third decimal, and a paired p-value by the
same resamples never contradicts the interval. Every function is fixed by its seed and, without clusters, does not depend on
the order of the rows. Missing values (`None`, or a number that is not finite) are counted and named, never averaged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from faithgen.errors import FaithgenError
from faithgen.evaluation.resampling import (
    ALIKE,
    ALONE,
    Array,
    Estimate,
    check_range,
    cluster_sums,
    complete,
    divided,
    estimate,
    resampled_sums,
)

EXACT = "all alike: exact interval"
"""Reason of a share that is 0 or 1 in all rows, with the interval of Clopper and Pearson."""


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
    check_range(confidence, resamples)
    rows, missing, codes = complete((numerators, denominators), clusters)
    if not len(rows):
        return Estimate(None, None, None, 0, missing, "no row has a value")
    if (rows[:, 1] < 0).any():
        raise FaithgenError(f"a denominator is {rows[:, 1].min()}; give none below 0")
    total = rows.sum(0)
    if not total[1]:
        return Estimate(None, None, None, len(rows), missing, "the denominator is 0 in all rows")
    mean = float(total[0] / total[1])
    units = cluster_sums(rows, codes)
    if len(units) == 1:
        return Estimate(mean, None, None, len(rows), missing, ALONE[codes is not None])
    if _alike(units):
        trials = int((units[:, 1] != 0).sum())
        binary = shares and mean in (0, 1) and bool(np.isin(rows[:, 1], (0, 1)).all())
        low, high = _exact_ends(mean, trials, confidence) if binary else (None, None)
        return Estimate(mean, low, high, len(rows), missing, EXACT if binary else ALIKE)
    samples = divided(*resampled_sums(units, resamples, seed).T)
    return estimate(mean, samples, confidence, len(rows), missing)


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
    rows, missing, codes = complete((a, b), clusters)
    check_range(confidence, resamples)
    if not len(rows):
        return PairedDifference(Estimate(None, None, None, 0, missing, "no row has both values"), None)
    differences = rows[:, 0] - rows[:, 1]
    mean = float(differences.mean())
    units = cluster_sums(np.stack([differences, np.ones(len(rows))], 1), codes)
    # The side that is ahead is drawn first, so that the same resamples come out whichever way the methods are given.
    ordered, turned = (sorted(map(tuple, (side * units).tolist())) for side in (np.array([1, 1]), np.array([-1, 1])))
    sign = -1.0 if mean < 0 or (mean == 0 and ordered < turned) else 1.0
    units = units * [sign, 1]
    if len(units) == 1:
        alone = Estimate(mean, None, None, len(rows), missing, ALONE[codes is not None])
        return PairedDifference(alone, None)
    if _alike(units):
        alike = Estimate(mean, None, None, len(rows), missing, ALIKE)
        return PairedDifference(alike, max(2 / (resamples + 1), 0.5 ** (len(units) - 1)) if mean else 1.0)
    samples = sign * divided(*resampled_sums(units, resamples, seed).T)
    if ordered == turned:  # neither side is ahead
        samples = np.concatenate([samples, -samples])
    tail = min(int((samples <= 0).sum()), int((samples >= 0).sum()))
    return PairedDifference(
        estimate(mean, samples, confidence, len(rows), missing),
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


def needed_n(half_width: float, sd: float = 0.5, confidence: float = 0.95) -> int:
    """Rows needed for an interval of mean ± half_width, by the normal approximation.

    Args:
        half_width (`float`): in units of the metric.
        sd (`float`, *optional*, defaults to 0.5): standard deviation over rows; 0.5 is the largest a 0/1 metric can have.
        confidence (`float`, *optional*, defaults to 0.95): of the interval.

    Raises:
        FaithgenError: If a value is out of range.
    """
    check_range(confidence, 1)
    if not (half_width > 0 and math.isfinite(half_width) and sd >= 0 and math.isfinite(sd)):
        raise FaithgenError(
            f"half_width is {half_width} and sd is {sd}; give a half_width above 0 and an sd from 0 on"
        )
    return max(1, math.ceil((NormalDist().inv_cdf((1 + confidence) / 2) * sd / half_width) ** 2))


def _alike(units: Array) -> bool:
    """Whether two or more units have a denominator, and all of them the same ratio."""
    told = units[units[:, 1] != 0]
    ratio = told[:, 0] / told[:, 1]
    return len(told) > 1 and not units[units[:, 1] == 0].any() and np.allclose(ratio, ratio[0], rtol=1e-12, atol=0)


def _exact_ends(mean: float, trials: int, confidence: float) -> tuple[float, float]:
    """Clopper and Pearson's interval where none or all of the trials succeeded."""
    edge = ((1 - confidence) / 2) ** (1 / trials)
    return (edge, 1.0) if mean else (0.0, 1 - edge)
