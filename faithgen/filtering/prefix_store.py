"""Documents' keys and values of scoring passes, kept for the next question about the same documents."""

from __future__ import annotations

import contextlib
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from faithgen import hf
from faithgen.heads.head_set import Head

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel

_ROOM = 256 * 2**20
_stores: weakref.WeakKeyDictionary[PreTrainedModel, PrefixStore] = weakref.WeakKeyDictionary()


@dataclass
class Prefix:
    """The part of a scoring prompt before the question.

    Attributes:
        ids (`tuple[int, ...]`): its tokens.
        depth (`int`): deepest layer whose keys and values are there.
        cache (`DynamicCache`): keys and values, one row.
        nulls (`dict[tuple[tuple[int, int], ...], torch.Tensor]`): the content-free question's attention, by the heads.
    """

    ids: tuple[int, ...]
    depth: int
    cache: DynamicCache
    nulls: dict[tuple[Head, ...], torch.Tensor] = field(default_factory=dict)


class PrefixStore:
    """Prefixes last used, as many as fit; one user at a time takes one, uses it and puts it back.

    All are dropped when the model's weights, or its adapters in use, are seen to be others than before. While heads are
    masked or hooks are on the model, the store gives and takes nothing: what is read then is not the model's own.

    Args:
        model (`PreTrainedModel`): whose prefixes they are.
        max_bytes (`int`): most memory that they may take together; 0 keeps none.

    Attributes:
        hits (`int`), misses (`int`): prefixes that were there, and that were not.
    """

    def __init__(self, model: PreTrainedModel, max_bytes: int):
        self._model = weakref.ref(model)
        self.max_bytes, self.hits, self.misses = max_bytes, 0, 0
        self._kept: OrderedDict[tuple[tuple[int, ...], int], tuple[Prefix, int]] = OrderedDict()
        self._mark: tuple = ()
        self._bypassed = self._checked = False

    @contextlib.contextmanager
    def checked_once(self) -> Iterator[None]:
        """Look at the model now, and no more at each `take`: nobody changes it in this block."""
        self._check_model()
        self._checked = True
        try:
            yield
        finally:
            self._checked = False

    def take(self, ids: Sequence[int], depth: int) -> Prefix | None:
        """The prefix of these tokens down to this layer; the store has it no more."""
        if not self._checked:
            self._check_model()
        if self._bypassed:
            return None
        prefix, _ = self._kept.pop((tuple(ids), depth), (None, 0))
        self.hits += prefix is not None
        self.misses += prefix is None
        return prefix

    def put(self, prefix: Prefix) -> None:
        """Keep a prefix that was taken, or read since `take`, at the cost of those that were not used for longest."""
        if self._bypassed:
            return
        self._kept[prefix.ids, prefix.depth] = (prefix, hf.cache_bytes(prefix.cache))
        self.shrink(self.max_bytes)

    def shrink(self, max_bytes: int) -> None:
        """Let go of the prefixes that do not fit any more."""
        self.max_bytes = max_bytes
        while self._kept and self.bytes > max_bytes:
            self._kept.popitem(last=False)

    @property
    def bytes(self) -> int:
        """Memory of the prefixes."""
        return sum(size for _, size in self._kept.values())

    def __len__(self) -> int:
        return len(self._kept)

    def _check_model(self) -> None:
        model = self._model()
        self._bypassed = model is not None and hf.intervened(model)
        if self._bypassed:
            return
        mark = hf.weights_mark(model) if model is not None else ()
        if mark != self._mark:
            self._kept.clear()
            self._mark = mark


def prefix_store(model: PreTrainedModel, max_bytes: int | None) -> PrefixStore | None:
    """The store of a model, with this much room from now on; `None` where there is no room. `max_bytes=None` is 256 MiB, or
    an eighth of what is free on the model's GPU, what the store holds counted as free."""
    store = _stores.get(model)
    if max_bytes is None:
        max_bytes, device = _ROOM, hf.device_of(model)
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            max_bytes = max(_ROOM, (free + (0 if store is None else store.bytes)) // 8)
    if store is None and max_bytes > 0:
        store = _stores[model] = PrefixStore(model, max_bytes)
    if store is not None:
        store.shrink(max_bytes)
    return store if max_bytes > 0 else None
