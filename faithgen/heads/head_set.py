"""Which heads of a model retrieve: scores per head with their provenance."""

from __future__ import annotations

import json
import math
import os
import random
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from faithgen.errors import FaithgenError
from faithgen.files import write_text

Head = tuple[int, int]
"""`(layer index, query head index)`, both from 0."""

_FORMAT = "faithgen-head-set-1"
_PACKAGED = Path(__file__).parent / "packaged"


@dataclass(frozen=True)
class HeadSet:
    """Scores of every query head of one model, and how they were found.

    Args:
        scores (`list[list[float]]`): `scores[layer][head]`; higher retrieves more.
        method (`str`): the detector, `"copying"` or `"query_focused"`.
        model_id (`str`): model the heads were detected in.
        revision (`str`): hub commit or weight checksum of that model.
        threshold (`float`, *optional*):
            Score from which the method's paper calls a head a retrieval head; `None` where it only ranks heads.
        data (`str`): what it was detected on.
        seed (`int`): seed of the detection.
        used (`int`): instances that entered the scores.
        dropped (`dict[str, int]`): instances that did not, counted by reason.
        settings (`dict`): settings of the detector.
        versions (`dict[str, str]`): versions of the libraries used.
    """

    scores: list[list[float]]
    method: str
    model_id: str
    revision: str = ""
    threshold: float | None = None
    data: str = ""
    seed: int = 0
    used: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (isinstance(self.method, str) and isinstance(self.model_id, str) and isinstance(self.revision, str)):
            raise FaithgenError("a head set needs a method, a model id and a revision; detect the heads again")
        widths = {len(row) for row in self.scores}
        if len(widths) != 1 or 0 in widths:
            raise FaithgenError("a head set needs one score for each head of each layer; detect the heads again")
        if not all(isinstance(s, int | float) and math.isfinite(s) for row in self.scores for s in row):
            raise FaithgenError("a head set holds a score that is not a finite number; detect the heads again")

    @property
    def num_layers(self) -> int:
        return len(self.scores)

    @property
    def num_heads(self) -> int:
        """Query heads a layer."""
        return len(self.scores[0])

    @property
    def gini(self) -> float:
        """Concentration of the (non-negative part of the) scores over heads, 0 (even) to 1 (one head has all)."""
        values = sorted(max(0.0, score) for row in self.scores for score in row)
        total = sum(values)
        if total == 0:
            return 0.0
        n = len(values)
        return 2 * sum((i + 1) * value for i, value in enumerate(values)) / (n * total) - (n + 1) / n

    def ranked(self) -> list[Head]:
        """All heads, best first; ties go to the lower layer, then the lower head."""
        heads = [(layer, head) for layer in range(self.num_layers) for head in range(self.num_heads)]
        return sorted(heads, key=lambda at: (-self.scores[at[0]][at[1]], at))

    def top(self, k: int, *, max_depth: float = 1.0) -> list[Head]:
        """The `k` best heads, best first.

        Args:
            k (`int`): how many.
            max_depth (`float`, *optional*, defaults to 1.0):
                Heads of the first this share of the layers go before all others, so that a pass that only reads heads
                can end early.

        Raises:
            FaithgenError: If `k` is below 1 or above the number of heads.
        """
        if not 1 <= k <= self.num_layers * self.num_heads:
            raise FaithgenError(f"cannot take {k} heads of {self.num_layers * self.num_heads}; choose 1 or more")
        layers = math.ceil(max_depth * self.num_layers)
        return sorted(self.ranked(), key=lambda head: head[0] >= layers)[:k]

    def above(self, threshold: float) -> list[Head]:
        """Heads with a score of at least `threshold`, best first (may be empty)."""
        return [(layer, head) for layer, head in self.ranked() if self.scores[layer][head] >= threshold]

    def random_like(self, seed: int, *, same_layers: bool = False) -> HeadSet:
        """A control: the same scores dealt to other heads at random, so `top` and `above` give as many heads.

        Args:
            seed (`int`): seed of the shuffle.
            same_layers (`bool`, *optional*, defaults to `False`):
                Shuffle within each layer only, which keeps the number of chosen heads in each layer (and so the depth
                and cost of a scoring pass) as they are.

        Returns:
            [`HeadSet`] with method `"random(<method>)"`.
        """
        generator = random.Random(seed)
        if same_layers:
            rows = [generator.sample(row, len(row)) for row in self.scores]
        else:
            flat = [score for row in self.scores for score in row]
            generator.shuffle(flat)
            width = self.num_heads
            rows = [flat[i : i + width] for i in range(0, len(flat), width)]
        return replace(self, scores=rows, method=f"random({self.method})", seed=seed)

    # --- checks -------------------------------------------------------------------------------------------------------

    def check(self, num_layers: int, num_heads: int, model_id: str, revision: str = "") -> None:
        """Raise if these heads were not detected in this model.

        A set fits when its shape is the model's and either id or revision agree (a converted or renamed copy keeps
        one of them). Heads survive fine-tuning and quantisation, so to use a base model's set on its descendant say
        so with [`HeadSet.adopted_by`].

        Raises:
            FaithgenError: If shape or model differ.
        """
        if (self.num_layers, self.num_heads) != (num_layers, num_heads):
            raise FaithgenError(
                f"the head set was detected in {self.model_id!r} ({self.num_layers} layers x {self.num_heads} heads) and "
                f"is out of range for {model_id!r} ({num_layers} x {num_heads}); run: faithgen heads detect --model "
                f"{model_id}"
            )
        same_id = self.model_id.split("/")[-1].lower() == model_id.split("/")[-1].lower()
        if not same_id and not (revision and revision == self.revision):
            raise FaithgenError(
                f"the head set was detected in {self.model_id!r}, not in {model_id!r}; run: faithgen heads detect "
                f"--model {model_id} (or, for a fine-tuned copy, HeadSet.load(path).adopted_by({model_id!r}).save(path))"
            )

    def adopted_by(self, model_id: str, revision: str = "") -> HeadSet:
        """The same heads declared for a descendant of the model (fine-tuned, merged, quantised)."""
        settings = {**self.settings, "inherited_from": f"{self.model_id}@{self.revision}"}
        return replace(self, model_id=model_id, revision=revision, settings=settings)

    # --- files --------------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """JSON form, with the concentration for people to read."""
        return {"format": _FORMAT, **asdict(self), "gini": round(self.gini, 4)}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write as JSON, to a temporary name first.

        Raises:
            FaithgenError: If the file cannot be written.
        """
        head, rows = self.to_dict(), self.scores
        del head["scores"]
        lines = ",\n  ".join(json.dumps(list(row)) for row in rows)
        text = json.dumps(head, indent=1, ensure_ascii=False)[:-2] + f',\n "scores": [\n  {lines}\n ]\n}}\n'
        write_text(path, text, mend="choose another --output")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> HeadSet:
        """Read a head set written by [`HeadSet.save`].

        Raises:
            FaithgenError: If the file is missing, is not a head set, or is damaged.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            reason = getattr(error, "strerror", None) or "not valid JSON"
            raise FaithgenError(
                f"cannot read head set {str(path)!r} ({reason}); make one with: faithgen heads detect"
            ) from error
        if not isinstance(data, dict) or data.get("format") != _FORMAT:
            raise FaithgenError(f"{str(path)!r} is not a faithgen head set; make one with: faithgen heads detect")
        data = {key: value for key, value in data.items() if key not in ("format", "gini")}
        try:
            return cls(**data)
        except (TypeError, OverflowError) as error:
            raise FaithgenError(f"head set {str(path)!r} is damaged ({error}); detect the heads again") from error


def packaged_head_sets() -> Iterable[Path]:
    """Files of the head sets that ship with faithgen."""
    return sorted(_PACKAGED.glob("*/*.json"))


def packaged_head_set(method: str, model_id: str, revision: str) -> HeadSet | None:
    """The shipped head set of this method for this model, if there is one."""
    for path in packaged_head_sets():
        if path.stem == method:
            head_set = HeadSet.load(path)
            if head_set.model_id == model_id or (revision and head_set.revision == revision):
                return head_set
    return None


def by_layer(heads: Iterable[Head]) -> dict[int, list[int]]:
    """Query head indices grouped by layer, both ascending."""
    grouped: dict[int, list[int]] = {}
    for layer, head in sorted(set(heads)):
        grouped.setdefault(layer, []).append(head)
    return grouped


def check_range(heads: Sequence[Head], num_layers: int, num_heads: int) -> None:
    """Raise `FaithgenError` naming the first head that the model does not have."""
    for layer, head in heads:
        if not (0 <= layer < num_layers and 0 <= head < num_heads):
            raise FaithgenError(
                f"head {layer}-{head} is out of range: the model has layers 0-{num_layers - 1} and heads 0-{num_heads - 1}"
            )
