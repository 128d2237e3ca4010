"""Finding the two head sets a generator needs: given, shipped, detected before, or detected now."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from faithgen import hf
from faithgen.errors import DetectionError, FaithgenError
from faithgen.heads.head_set import HeadSet, packaged_head_set

if TYPE_CHECKING:
    from faithgen.models import LoadedModel

HeadsLike = str | os.PathLike[str] | HeadSet
SCORING, COPYING = "query_focused", "copying"


def resolve_heads(
    loaded: LoadedModel,
    heads: HeadsLike | Sequence[HeadsLike] = "auto",
    *,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[HeadSet, HeadSet]:
    """The scoring (query-focused) and the copying head set of a model.

    Args:
        loaded ([`LoadedModel`]): the model.
        heads (`"auto"`, path, [`HeadSet`] or a list of these, *optional*, defaults to `"auto"`):
            Given sets take the place of their method; a set of any other method serves for both. What is not given is
            taken from the sets that ship with faithgen, from the cache folder, or detected on the built-in data and cached.
        progress (`Callable[[str, int, int], None]`, *optional*): called with (method, done, total) while detecting.

    Returns:
        `(scoring, copying)`

    Raises:
        FaithgenError: If a file is no head set, or its heads are another model's.
    """
    found = _given(loaded, heads)
    scoring = found.get(SCORING) or _automatic(loaded, SCORING, progress)
    copying = found.get(COPYING)
    if copying is None:
        copying = _automatic(loaded, COPYING, progress, instead=scoring)
        if copying.method != COPYING:
            warnings.warn(
                f"{loaded.model_id} answers none of the built-in questions, so no copying heads could be detected and its "
                f"{copying.method} heads serve instead; detect them on questions it can answer: faithgen heads detect "
                "--method copying --data FILE",
                UserWarning,
                stacklevel=2,
            )
    return scoring, copying


def resolve_scoring_heads(
    loaded: LoadedModel,
    heads: HeadsLike | Sequence[HeadsLike] = "auto",
    *,
    progress: Callable[[str, int, int], None] | None = None,
) -> HeadSet:
    """The scoring (query-focused) head set alone; arguments as in [`resolve_heads`]."""
    return _given(loaded, heads).get(SCORING) or _automatic(loaded, SCORING, progress)


def _given(loaded: LoadedModel, heads: HeadsLike | Sequence[HeadsLike]) -> dict[str, HeadSet]:
    """The sets among `heads` by the method they serve, each checked against the model."""
    given = [heads] if isinstance(heads, str | os.PathLike | HeadSet) else list(heads)
    shape = hf.head_shape(loaded.model)
    found: dict[str, HeadSet] = {}
    for entry in given:
        if isinstance(entry, str) and entry == "auto":
            continue
        head_set = entry if isinstance(entry, HeadSet) else HeadSet.load(entry)
        head_set.check(shape.num_layers, shape.num_heads, loaded.model_id, loaded.revision)
        known = [method for method in (SCORING, COPYING) if method in head_set.method]
        for method in known or (SCORING, COPYING):
            found[method] = head_set
    return found


def _automatic(
    loaded: LoadedModel,
    method: str,
    progress: Callable[[str, int, int], None] | None,
    instead: HeadSet | None = None,
) -> HeadSet:
    """The shipped, cached or freshly detected set; `instead` stands in (and is cached) where none can be detected."""
    shipped = packaged_head_set(method, loaded.model_id, loaded.revision)
    if shipped is not None:
        return shipped
    path = cached_path(loaded, method)
    if path.exists():
        return HeadSet.load(path)
    from faithgen.detection import detect_heads

    report = None if progress is None else lambda done, total: progress(method, done, total)
    try:
        head_set = detect_heads(loaded, method, progress=report)  # type: ignore[arg-type]
    except DetectionError:
        if instead is None:
            raise
        head_set = instead
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FaithgenError(
            f"cannot write the cache folder {str(path.parent)!r} ({error.strerror}); set FAITHGEN_CACHE to a folder "
            "that can be written"
        ) from error
    head_set.save(path)
    return head_set


def cached_path(loaded: LoadedModel, method: str) -> Path:
    """Where a detected head set of a model is kept."""
    from faithgen.model_cache import cache_folder

    name = re.sub(r"[^\w.-]+", "--", f"{loaded.model_id}@{loaded.revision}")
    return cache_folder() / "heads" / name / f"{method}.json"
