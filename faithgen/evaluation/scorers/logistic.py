"""A small logistic head over a claim's signals: fitted with scikit-learn, kept as JSON, used without it."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from faithgen.errors import FaithgenError, MissingExtraError
from faithgen.files import write_text
from faithgen.heads.head_set import Head

_FORMAT = "faithgen-support-head-1"
_ROWS = 1000  # what all rows weigh together
_PACKAGED = Path(__file__).parent / "packaged"
FIT = "fit one: python recipes/scorer/fit_heads.py (recipes/scorer/README.md)"


@dataclass(frozen=True)
class LogisticHead:
    """Coefficients that turn the signals of a claim into the probability that it is supported.

    Args:
        features (`list[str]`): names of the signals, see [`HeadsScorer.features`].
        mean (`list[float]`), scale (`list[float]`): of each feature where it was fitted; values are standardised by them.
        weights (`list[float]`), bias (`float`): of the standardised features.
        model_id (`str`), revision (`str`): the model whose signals they are.
        watched (`list[tuple[int, int]]`): heads behind `context_share`.
        masked (`list[tuple[int, int]]`): heads switched off behind `jsd` and `gap`.
        trained_on (`list[str]`): labelled sets it was fitted on.
        provenance (`dict`): rows and licences by set, seed, versions.
    """

    features: list[str]
    mean: list[float]
    scale: list[float]
    weights: list[float]
    bias: float
    model_id: str
    revision: str = ""
    watched: list[Head] = field(default_factory=list)
    masked: list[Head] = field(default_factory=list)
    trained_on: list[str] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        columns = (self.mean, self.scale, self.weights)
        if not self.features or any(len(column) != len(self.features) for column in columns):
            raise FaithgenError(f"a support head needs mean, scale and weight for each of its features; {FIT}")
        numbers = [self.bias, *self.mean, *self.scale, *self.weights]
        if not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers):
            raise FaithgenError(f"a support head holds a value that is not a finite number; {FIT}")
        if min(self.scale) <= 0:
            raise FaithgenError(f"a support head has a scale that is not above 0; {FIT}")

    def probability(self, values: Mapping[str, float]) -> float:
        """Probability (0 to 1) that a claim with these signals is supported.

        Raises:
            FaithgenError: If a signal is missing or not finite.
        """
        total = self.bias
        for name, mean, scale, weight in zip(self.features, self.mean, self.scale, self.weights, strict=True):
            value = values.get(name)
            if value is None or not math.isfinite(value):
                raise FaithgenError(f"the signal {name!r} of a claim is {value}; use a support head without it")
            total += weight * (value - mean) / scale
        return 1 / (1 + math.exp(-total)) if total > -500 else 0.0

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write as JSON, to a temporary name first.

        Raises:
            FaithgenError: If the file cannot be written.
        """
        text = json.dumps({"format": _FORMAT, **asdict(self)}, indent=1, ensure_ascii=False) + "\n"
        write_text(path, text, mend="choose another --output", parents=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LogisticHead:
        """Read a head written by [`LogisticHead.save`].

        Raises:
            FaithgenError: If the file is missing, is no support head, or is damaged.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            reason = getattr(error, "strerror", None) or "not valid JSON"
            raise FaithgenError(f"cannot read support head {str(path)!r} ({reason}); {FIT}") from error
        if not isinstance(data, dict) or data.pop("format", None) != _FORMAT:
            raise FaithgenError(f"{str(path)!r} is not a support head; {FIT}")
        try:
            for name in ("watched", "masked"):
                data[name] = [(int(layer), int(head)) for layer, head in data.get(name, [])]
            return cls(**data)
        except FaithgenError:
            raise
        except (TypeError, ValueError) as error:
            raise FaithgenError(f"support head {str(path)!r} is damaged ({error}); {FIT}") from error


def packaged_head(model_id: str, revision: str, kind: str) -> LogisticHead:
    """The head of this kind (`"reading"` or `"signals"`) that ships for this model.

    Raises:
        FaithgenError: If none ships.
    """
    for path in sorted(_PACKAGED.glob(f"*/{kind}.json")):
        head = LogisticHead.load(path)
        if head.model_id == model_id or (revision and head.revision == revision):
            return head
    raise FaithgenError(f"no support head ({kind}) ships for model {model_id!r}; {FIT}")


def fit_logistic(
    rows: Sequence[Mapping[str, float]],
    labels: Sequence[int],
    sets: Sequence[str],
    features: Sequence[str],
    *,
    strength: float = 0.1,
) -> dict[str, Any]:
    """Fit a logistic regression in which every set, and in a set both labels, weigh the same.

    So 0.5 is the threshold of balanced accuracy, and a large set does not drown a small one.

    Args:
        rows (`Sequence[Mapping[str, float]]`): the signals of each claim.
        labels (`Sequence[int]`): 1 supported, 0 not.
        sets (`Sequence[str]`): the labelled set of each claim.
        features (`Sequence[str]`): signals to use.
        strength (`float`, *optional*, defaults to 0.1):
            scikit-learn's `C` for 1,000 rows, however many there are; smaller shrinks the weights more.

    Returns:
        `dict`: `features`, `mean`, `scale`, `weights` and `bias` of a [`LogisticHead`].

    Raises:
        FaithgenError: If there is only one label, or a set has only one.
    """
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise MissingExtraError("fitting a support head", "eval") from error
    import numpy as np

    groups = Counter(zip(sets, labels, strict=True))
    for name in set(sets):
        if not (groups[name, 0] and groups[name, 1]):
            raise FaithgenError(f"set {name!r} has claims of one label only; leave it out, or read more of its rows")
    if not groups:
        raise FaithgenError("there is no row to fit on; give labelled sets")
    table = np.array([[row[name] for name in features] for row in rows], dtype=np.float64)
    share = _ROWS / (2 * len(set(sets)))
    weight = np.array([share / groups[key] for key in zip(sets, labels, strict=True)])
    mean = np.average(table, axis=0, weights=weight)
    scale = np.sqrt(np.average((table - mean) ** 2, axis=0, weights=weight))
    scale[scale < 1e-9] = 1.0
    fitted = LogisticRegression(C=strength, max_iter=2000).fit((table - mean) / scale, labels, sample_weight=weight)
    return {
        "features": list(features),
        "mean": mean.tolist(),
        "scale": scale.tolist(),
        "weights": fitted.coef_[0].tolist(),
        "bias": float(fitted.intercept_[0]),
    }
