"""How scorers fared against people: the figures that ship, and the rule that says which of them may carry a headline."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from faithgen.errors import FaithgenError
from faithgen.evaluation.resampling import Estimate
from faithgen.files import write_text

JUDGED = Path(__file__).parent / "judged.json"
"""Written by `benchmarks/scorers.py --write`."""

HEADLINE_AUROC = 0.65
How = Literal["as it is", "one set left out"]

_FORMAT = "faithgen-judged-1"


@dataclass(frozen=True)
class SetFigures:
    """How a scorer fared on one set.

    Attributes:
        name (`str`), kind (`str`), unit (`str`): of the set.
        n (`int`): claims judged. supported (`int`): those labelled as supported. answers (`int`), clusters (`int`)
        auroc ([`Estimate`]): over all claims.
        parts (`dict[str, Estimate]`): AUROC within each part of the set, where it has parts.
        balanced_accuracy ([`Estimate`]): at `threshold`.
        threshold (`float`, *optional*), threshold_from (`str`): chosen where; never on the rows reported.
        seen (`bool`): the scorer was trained on labels of this set.
        excluded (`dict[str, int]`): rows of the set that were left out, by reason.
        tuned (`bool`): the scorer was built while looking at figures of this set, which are therefore too good.
    """

    name: str
    kind: str
    unit: str
    n: int
    supported: int
    answers: int
    clusters: int
    auroc: Estimate
    parts: dict[str, Estimate]
    balanced_accuracy: Estimate
    threshold: float | None
    threshold_from: str
    seen: bool
    excluded: dict[str, int]
    tuned: bool = False


@dataclass(frozen=True)
class Judgement:
    """How a scorer fared.

    Attributes:
        scorer (`str`): its name.
        how (`str`): `"as it is"`, or `"one set left out"` where each set was scored by a copy that had not seen it.
        sets (`list[SetFigures]`): by set.
        threshold (`float`, *optional*): best over all sets of answers to questions, for use; nothing is reported at it.
        settings (`dict`): limit, seed, aggregate.
    """

    scorer: str
    how: How
    sets: list[SetFigures]
    threshold: float | None
    settings: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON form, as [`save_judged`] takes it."""
        sets = {one.name: asdict(one) for one in self.sets}
        return _rounded({"how": self.how, "threshold": self.threshold, "settings": self.settings, "sets": sets})


def load_judged(path: Path = JUDGED) -> dict[str, dict[str, Any]]:
    """Judged figures by scorer name; empty where none were written.

    Raises:
        FaithgenError: If the file is damaged.
    """
    if not path.exists():
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not valid JSON"
        raise FaithgenError(
            f"cannot read {str(path)!r} ({reason}); write it with: benchmarks/scorers.py --write"
        ) from error
    if not isinstance(data, dict) or data.get("format") != _FORMAT or not isinstance(data.get("scorers"), dict):
        raise FaithgenError(
            f"{str(path)!r} is not a file of judged figures; write it with: benchmarks/scorers.py --write"
        )
    return data["scorers"]


def save_judged(name: str, figures: Mapping[str, Any], path: Path = JUDGED) -> None:
    """Put one scorer's figures into the file, in place of its earlier ones.

    Args:
        name (`str`): the scorer's name.
        figures (`Mapping`): `sets`, `threshold` and how they were obtained, as `Judgement.to_dict` gives them.

    Raises:
        FaithgenError: If the file is damaged or cannot be written.
    """
    scorers = {**load_judged(path), name: dict(figures)}
    text = json.dumps({"format": _FORMAT, "scorers": scorers}, indent=1, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n", mend="check the folder")


def headline(figures: Mapping[str, Any] | None) -> tuple[bool, str]:
    """Whether a scorer may carry a headline, and why (not).

    It may if it was judged on at least two sets of answers to questions that it was neither trained nor tuned on, and its
    AUROC is at least 0.65 on every one of them: a good mean does not make up for a set on which it fails.

    Args:
        figures (`Mapping`, *optional*): of [`load_judged`]; `None` for a scorer that was not judged.

    Returns:
        `(allowed, reason)`
    """
    if figures is None:
        return False, "not judged against people"
    unseen = (
        one for one in figures["sets"].values() if one["kind"] == "qa" and not one["seen"] and not one.get("tuned")
    )
    found = {one["name"]: one["auroc"]["mean"] for one in unseen if one["auroc"]["mean"] is not None}
    if len(found) < 2:
        return False, f"judged on {len(found)} sets of answers to questions that it had not seen; 2 are needed"
    below = [f"{name} ({mean:.3f})" for name, mean in found.items() if mean < HEADLINE_AUROC]
    if below:
        return False, f"AUROC is below {HEADLINE_AUROC} on {', '.join(below)}"
    mean = sum(found.values()) / len(found)
    return True, f"mean AUROC over {len(found)} sets of answers to questions is {mean:.3f}"


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {name: _rounded(inside) for name, inside in value.items()}
    return value
