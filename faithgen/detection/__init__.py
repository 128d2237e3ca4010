"""Detection: which heads of a model retrieve. One file per detector; `detect_heads` runs one and keeps its provenance."""

from __future__ import annotations

import inspect
import os
import random
import warnings
from collections.abc import Callable
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal, get_args

from faithgen.errors import DetectionError, FaithgenError

if TYPE_CHECKING:
    from faithgen.heads.head_set import HeadSet
    from faithgen.models import LoadedModel

DetectionMethod = Literal["copying", "query_focused"]
MIN_INSTANCES = 20
MIN_GINI = 0.5


def detect_heads(
    loaded: LoadedModel,
    method: DetectionMethod = "query_focused",
    data: str | os.PathLike[str] = "builtin",
    *,
    max_instances: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    **settings: Any,
) -> HeadSet:
    """Detect the retrieval heads of a model.

    Args:
        loaded ([`LoadedModel`]): the model.
        method (`"query_focused"` or `"copying"`, *optional*, defaults to `"query_focused"`):
            `"query_focused"` heads look from the question to its evidence: use them to rank documents. `"copying"` heads
            look at the token about to be written: mask them to make a model unfaithful.
        data (`str` or `PathLike`, *optional*, defaults to `"builtin"`): JSONL of `{question, documents, answer, gold}`.
        max_instances (`int`, *optional*): use at most this many.
        seed (`int`, *optional*, defaults to 0): order in which instances are tried.
        progress (`Callable[[int, int], None]`, *optional*): called with (done, total).
        settings: of the detector: `normalise`, `calibrate`; `max_new_tokens`, `min_rouge`.

    Returns:
        [`HeadSet`] with the scores and where they come from.

    Raises:
        FaithgenError: If the data cannot be read; `DetectionError`, one of these, if no instance could be used (the
            message says why).

    Warns:
        UserWarning: If under 20 instances were used, or copy scores are spread over many heads.
    """
    from faithgen.detection.instances import load_instances
    from faithgen.heads.head_set import HeadSet

    if method not in get_args(DetectionMethod):
        raise FaithgenError(f"detection method {method!r} is not one of {', '.join(get_args(DetectionMethod))}")
    if max_instances is not None and max_instances < 1:
        raise FaithgenError(f"max_instances is {max_instances}; give 1 or more")
    detector = _detector(method)
    defaults = {
        name: p.default for name, p in inspect.signature(detector).parameters.items() if p.kind is p.KEYWORD_ONLY
    }
    used_settings = {**defaults, **settings}
    del used_settings["max_instances"], used_settings["progress"]
    used_settings["dtype"] = str(loaded.model.dtype).removeprefix("torch.")
    instances, unreadable = load_instances(data)
    random.Random(seed).shuffle(instances)
    scores, used, dropped = detector(loaded, instances, max_instances=max_instances, progress=progress, **settings)
    reasons = dict((unreadable + dropped).most_common())
    if used == 0:
        listed = "; ".join(f"{reason}: {count}" for reason, count in reasons.items())
        raise DetectionError(
            f"no instance of {str(data)!r} could be used ({listed}); give easier or shorter instances"
        )
    head_set = HeadSet(
        scores=scores,
        method=method,
        model_id=loaded.model_id,
        revision=loaded.revision,
        threshold=_threshold(method),
        data=os.path.basename(data),
        seed=seed,
        used=used,
        dropped=reasons,
        settings=used_settings,
        versions={name: version(name) for name in ("faithgen", "torch", "transformers")},
    )
    for message in weaknesses(head_set):
        warnings.warn(message, UserWarning, stacklevel=2)
    return head_set


def weaknesses(head_set: HeadSet) -> list[str]:
    """What speaks against trusting a head set, and what to do about it; empty if nothing does."""
    found = []
    if head_set.used < MIN_INSTANCES:
        found.append(
            f"only {head_set.used} instances were used ({dict(head_set.dropped) or 'no others given'}); "
            f"give at least {MIN_INSTANCES} that the model can answer"
        )
    if head_set.method == "copying" and head_set.gini < MIN_GINI:
        found.append(
            f"copy scores are spread over many heads (Gini {head_set.gini:.2f}): masking a few will change little; "
            "compare with random heads before relying on them"
        )
    return found


def _detector(method: DetectionMethod) -> Callable[..., Any]:
    if method == "copying":
        from faithgen.detection.copying import copying_scores

        return copying_scores
    from faithgen.detection.query_focused import query_focused_scores

    return query_focused_scores


def _threshold(method: DetectionMethod) -> float | None:
    if method == "copying":
        from faithgen.detection.copying import THRESHOLD

        return THRESHOLD
    return None
