"""Estimates with intervals, and the resampling of rows or clusters of rows that they come from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from faithgen.errors import FaithgenError

ALONE = {False: "one row alone", True: "one cluster alone"}
"""Reason of a figure without an interval, by whether rows are clustered."""
ALIKE = "all alike"
"""Reason of a figure whose rows (or clusters) are all the same: every resample repeats it, so that it has no interval."""
Array = np.ndarray[Any, np.dtype[Any]]
_CELLS = 1 << 21  # numbers held at a time, whatever the number of rows and resamples
_TOO_MANY_LOST = 0.05


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


def check_range(confidence: float, resamples: int) -> None:
    if not 0 < confidence < 1:
        raise FaithgenError(f"confidence is {confidence}; give a number between 0 and 1, e.g. 0.95")
    if resamples < 1:
        raise FaithgenError(f"resamples is {resamples}; give 1 or more")


def complete(
    columns: Sequence[Sequence[float | None]], clusters: Sequence[object] | None
) -> tuple[Array, int, Array | None]:
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


def cluster_sums(rows: Array, codes: Array | None) -> Array:
    if codes is None:
        return rows
    sums = np.zeros((int(codes.max()) + 1, rows.shape[1]))
    np.add.at(sums, codes, rows)
    return sums


def resample_counts(sizes: Array, resamples: int, rng: np.random.Generator, width: int) -> Iterator[Array]:
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


def resampled_sums(units: Array, resamples: int, seed: int) -> Array:
    kinds, sizes = np.unique(units, axis=0, return_counts=True)
    rng = np.random.default_rng(seed)
    return np.concatenate([counts @ kinds for counts in resample_counts(sizes, resamples, rng, len(units))])


def divided(above: Array, below: Array) -> Array:
    return np.divide(above, below, out=np.full(len(above), np.nan), where=below != 0)


def estimate(mean: float, samples: Array, confidence: float, n: int, missing: int) -> Estimate:
    kept = samples[np.isfinite(samples)]
    lost = len(samples) - len(kept)
    if lost > _TOO_MANY_LOST * len(samples):
        return Estimate(mean, None, None, n, missing, f"{lost} of {len(samples)} resamples have no value")
    low, high = np.quantile(kept, [(1 - confidence) / 2, (1 + confidence) / 2])
    reason = f"{lost} of {len(samples)} resamples had no value and were left out" if lost else None
    return Estimate(mean, float(low), float(high), n, missing, reason)


def _shown(value: float) -> str:
    return f"{round(value, 3) + 0.0:.3f}"  # no "-0.000"
