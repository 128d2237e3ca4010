"""How well scores agree with labels: AUROC and balanced accuracy, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from faithgen.errors import FaithgenError
from faithgen.evaluation.resampling import (
    ALONE,
    Array,
    Estimate,
    check_range,
    complete,
    divided,
    estimate,
    resample_counts,
)


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

    def statistic(rows: Array) -> Callable[[Array], Array]:
        starts = np.unique(rows[:, 1], return_index=True)[1]  # rows are sorted by score
        positive = rows[:, 0]

        def aurocs(weights: Array) -> Array:
            above = np.add.reduceat(weights * positive, starts, axis=1)
            other = np.add.reduceat(weights * (1 - positive), starts, axis=1)
            below = np.cumsum(other, axis=1) - other
            return divided((above * (below + other / 2)).sum(1), above.sum(1) * other.sum(1))

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

    def statistic(rows: Array) -> Callable[[Array], Array]:
        positive = rows[:, 0]
        right = (rows[:, 1] >= threshold) == (positive == 1)

        def accuracies(weights: Array) -> Array:
            true_positive = divided(weights @ (right * positive), weights @ positive)
            return (true_positive + divided(weights @ (right * (1 - positive)), weights @ (1 - positive))) / 2

        return accuracies

    return _two_class_interval(labels, scores, statistic, "balanced accuracy", confidence, resamples, seed, clusters)


def _two_class_interval(
    labels: Sequence[float | None],
    scores: Sequence[float | None],
    statistic: Callable[[Array], Callable[[Array], Array]],
    name: str,
    confidence: float,
    resamples: int,
    seed: int,
    clusters: Sequence[object] | None,
) -> Estimate:
    check_range(confidence, resamples)
    rows, missing, codes = complete((labels, scores), clusters)
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
        return Estimate(mean, None, None, len(rows), missing, ALONE[True])
    weighted = _class_weights(rows[:, 0], codes, resamples, seed)
    samples = np.concatenate([value(weights.astype(np.float64)) for weights in weighted])
    return estimate(mean, samples, confidence, len(rows), missing)


def _class_weights(labels: Array, codes: Array | None, resamples: int, seed: int) -> Iterator[Array]:
    """Weights of rows in each sample: by cluster, or positive and negative rows drawn apart."""
    rng = np.random.default_rng(seed)
    width = 4 * len(labels)
    if codes is not None:
        for counts in resample_counts(np.ones(int(codes.max()) + 1, np.int64), resamples, rng, width):
            yield counts[:, codes]
        return
    places = [np.flatnonzero(labels == label) for label in (0, 1)]
    drawn = [resample_counts(np.ones(len(place), np.int64), resamples, rng, width) for place in places]
    for negative, positive in zip(*drawn, strict=True):
        weights = np.zeros((len(negative), len(labels)), np.int64)
        weights[:, places[0]], weights[:, places[1]] = negative, positive
        yield weights
