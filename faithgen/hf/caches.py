"""Keys and values: caches that grow in place and can be cut, joined and counted, and caches of fixed shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer, StaticLayer

from faithgen.errors import FaithgenError
from faithgen.hf.shape import text_config


class _RoomyLayer(DynamicLayer):
    """A layer that grows in place: room for some tokens is set aside, so that a step writes its own keys and values
    and does not copy all earlier ones (`DynamicLayer` concatenates)."""

    _room = 256

    def update(self, key_states, value_states, *args, **kwargs):
        if torch.is_grad_enabled() and key_states.requires_grad:
            return super().update(key_states, value_states, *args, **kwargs)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys = self._append("_key_store", self.keys, key_states)
        self.values = self._append("_value_store", self.values, value_states)
        return self.keys, self.values

    def _append(self, name: str, seen: Any, new: torch.Tensor) -> torch.Tensor:
        start = seen.shape[-2] if seen.numel() else 0
        end = start + new.shape[-2]
        store: Any = getattr(self, name, None)
        # the rows may have been selected, repeated or exchanged since: then `seen` is not a view of the store any more
        fits = store is not None and _begins(store, seen) and end <= store.shape[-2]
        if not fits or (store.is_inference() and not torch.is_inference_mode_enabled()):
            store = new.new_empty(*new.shape[:-2], end + self._room, new.shape[-1])
            if start:
                store[..., :start, :] = seen
            setattr(self, name, store)
        store[..., start:end, :] = new
        return store[..., :end, :]


def _begins(store: torch.Tensor, states: torch.Tensor) -> bool:
    """Whether `states` is the beginning of `store` along the sequence, in the same memory."""
    same = states.shape[:-2] == store.shape[:-2] and states.stride() == store.stride()
    return same and states.data_ptr() == store.data_ptr()


def new_cache() -> DynamicCache:
    """An empty cache whose layers all keep every position and grow without copying.

    Made without the model's config on purpose: sliding-window layers then keep what is outside their window too (the
    mask hides it), so that rows of different length can be cropped, repeated and joined.
    """
    cache = DynamicCache()
    cache.layer_class_to_replicate = _RoomyLayer
    return cache


def crop_cache(cache: DynamicCache, length: int) -> None:
    """Keep the first `length` positions of every layer. (`Cache.crop` changed its sign; layers past an early exit are
    shorter than the others or empty, which it does not know.)"""
    layers: list[Any] = cache.layers
    for layer in layers:
        if layer.is_initialized and layer.keys.numel() and layer.keys.shape[-2] > length:
            layer.keys = layer.keys[..., :length, :]
            layer.values = layer.values[..., :length, :]


def drop_first(cache: DynamicCache, count: int) -> None:
    """Leave out the first `count` positions of every layer."""
    layers: list[Any] = cache.layers
    for layer in layers if count else ():
        if layer.is_initialized and layer.keys.numel():
            layer.keys, layer.values = layer.keys[..., count:, :], layer.values[..., count:, :]


def join_caches(caches: Sequence[DynamicCache]) -> DynamicCache:
    """Stack caches of different length along the batch axis, padding on the left with zeros (mask them)."""
    lengths = [cache.get_seq_length() for cache in caches]
    longest = max(lengths)
    joined = new_cache()
    for index, parts in enumerate(zip(*(cache.layers for cache in caches), strict=True)):
        padded = [
            [nn.functional.pad(states, (0, 0, longest - length, 0)) for states in (part.keys, part.values)]
            for part, length in zip(parts, lengths, strict=True)
        ]
        keys, values = (torch.cat(states) for states in zip(*padded, strict=True))
        joined.update(keys, values, index)
    return joined


def cache_bytes(cache: DynamicCache) -> int:
    """Memory that a cache holds, the room set aside for more tokens included."""
    layers: list[Any] = cache.layers
    stores = [getattr(layer, name, None) for layer in layers for name in ("_key_store", "_value_store")]
    stores += [states for layer in layers if layer.is_initialized for states in (layer.keys, layer.values)]
    own = {
        store.untyped_storage().data_ptr(): store.untyped_storage().nbytes() for store in stores if store is not None
    }
    return sum(own.values())


def check_cache_supported(model: Any) -> None:
    """Raise for models whose state is not keys and values (Mamba, linear attention, hybrids)."""
    types = set(getattr(text_config(model), "layer_types", None) or ())
    other = sorted(types - {"full_attention", "sliding_attention", "chunked_attention"})
    if other:
        raise FaithgenError(
            f"{type(model).__name__} has {', '.join(other)} layers, whose state cannot be shared between two branches; "
            "use a model with attention layers only"
        )


# --- caches of fixed shape -------------------------------------------------------------------------------------------


def static_cache(like: Cache, rows: int, columns: int) -> Cache:
    """An empty cache with room for `columns` positions in `rows` rows; heads, widths, dtype and device as in `like`."""
    layers: list[Any] = []
    for layer in like.layers:
        layers.append(StaticLayer(max_cache_len=columns))
        states = [getattr(layer, name) for name in ("keys", "values")]
        layers[-1].lazy_initialization(*(one.new_empty(rows, one.shape[1], 1, one.shape[3]) for one in states))
    return Cache(layers=layers)


def static_column(cache: Any) -> torch.Tensor:
    """The column (a 0-dimensional `torch.LongTensor`) that the next token is written to."""
    return cache.layers[0].cumulative_length


def set_static_column(cache: Any, column: int) -> None:
    """Write the next token to this column."""
    for layer in cache.layers:
        layer.cumulative_length.fill_(column)


def copy_into_static(source: Any, target: Any, rows: torch.Tensor, start: int) -> None:
    """Copy a cache's positions into some rows of a static one, from column `start` on."""
    for layer, static in zip(source.layers, target.layers, strict=True):
        end = start + layer.keys.shape[2]
        static.keys[rows, :, start:end], static.values[rows, :, start:end] = layer.keys, layer.values


def copy_static(source: Any, target: Any, columns: int) -> None:
    """Copy the first columns of a static cache to another of as many rows."""
    for layer, static in zip(source.layers, target.layers, strict=True):
        static.keys[:, :, :columns] = layer.keys[:, :, :columns]
        static.values[:, :, :columns] = layer.values[:, :, :columns]


def shift_static(cache: Any, by: int) -> None:
    """Move all columns, in place; what leaves at one end comes in at the other."""
    for layer in cache.layers if by else ():
        layer.keys.copy_(layer.keys.roll(by, 2))
        layer.values.copy_(layer.values.roll(by, 2))
