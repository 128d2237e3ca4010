"""Everything faithgen needs from transformers that transformers does not promise.

Private names, signs that changed between versions and shapes of internals live here and nowhere else, so that a new
transformers release breaks one file and one test (`tests/test_hf.py`).
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.cache_utils import Cache, DynamicLayer, StaticLayer
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from faithgen.errors import FaithgenError

# The name must not hold "flash", "sdpa", "flex_attention", "eager" or "paged|": transformers tests for substrings.
_NAMES = {
    "eager": "faithgen-e",
    "sdpa": "faithgen-s",
    "flex_attention": "faithgen-x",
    "flash_attention_2": "faithgen-f2",
    "flash_attention_3": "faithgen-f3",
    "flash_attention_4": "faithgen-f4",
}
_OUTPUT_PROJECTIONS = ("o_proj", "out_proj", "dense", "c_proj", "wo")
_FULL_ATTENTION = (None, "full_attention")

AttentionFunction = Callable[..., tuple[torch.Tensor, torch.Tensor | None]]
"""`(module, query, key, value, attention_mask, delegate, **kwargs) -> (output, weights)`; shapes as in transformers:
query `[B, H, Q, D]`, key and value `[B, H_kv, S, D]`, after RoPE and the cache update."""

_attached: weakref.WeakKeyDictionary[nn.Module, tuple[AttentionFunction, ...]] = weakref.WeakKeyDictionary()
_found_modules: weakref.WeakKeyDictionary[nn.Module, dict[int, nn.Module]] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


@dataclass(frozen=True)
class HeadShape:
    """Where the query heads of a decoder are.

    Attributes:
        num_layers (`int`): number of decoder layers.
        num_heads (`int`): query heads a layer.
        num_key_value_heads (`int`): key/value heads a layer (query head `h` reads KV head `h * num_kv // num_heads`).
    """

    num_layers: int
    num_heads: int
    num_key_value_heads: int


def text_config(model: Any) -> Any:
    """The config of the text decoder (multimodal models nest it)."""
    return model.config.get_text_config(decoder=True)


def head_shape(model: Any) -> HeadShape:
    """Number of layers, query heads and KV heads of `model`."""
    config = text_config(model)
    heads = config.num_attention_heads
    return HeadShape(config.num_hidden_layers, heads, getattr(config, "num_key_value_heads", None) or heads)


def device_of(model: Any) -> torch.device:
    """Where the model takes its input."""
    return model.get_input_embeddings().weight.device


def context_window(model: Any) -> int:
    """Positions the model was made for (`max_position_embeddings`)."""
    return int(getattr(text_config(model), "max_position_embeddings", None) or 2048)


def attention_modules(model: Any) -> dict[int, nn.Module]:
    """The self-attention modules that see the whole context, by layer index.

    Sliding-window, chunked and linear layers are left out by `config.layer_types`: their heads cannot retrieve. The search
    is made once a model: layers exchanged for others later are not seen.

    Raises:
        ValueError: If the model has no attention layer with an output projection that faithgen knows.
    """
    if model in _found_modules:
        return dict(_found_modules[model])
    types = getattr(text_config(model), "layer_types", None)
    found: dict[int, nn.Module] = {}
    for module in model.modules():
        index = getattr(module, "layer_idx", None)
        if index is None or index in found or not hasattr(module, "config") or _projection_name(module) is None:
            continue
        if types is None or types[index] in _FULL_ATTENTION:
            found[index] = module
    if not found:
        raise ValueError(
            f"{type(model).__name__} has no full-attention layer with an output projection named one of "
            f"{', '.join(_OUTPUT_PROJECTIONS)}; retrieval heads cannot be read from it"
        )
    _found_modules[model] = dict(sorted(found.items()))
    return dict(_found_modules[model])


def _projection_name(module: Any) -> str | None:
    return next((name for name in _OUTPUT_PROJECTIONS if isinstance(getattr(module, name, None), nn.Module)), None)


def output_projection(attention: Any) -> nn.Module:
    """The module that mixes the heads' outputs (`o_proj` in most models); its input is `[B, Q, H * D_v]`."""
    name = _projection_name(attention)
    if name is None:
        raise ValueError(f"{type(attention).__name__} has no output projection")
    return getattr(attention, name)


def projection_in_features(projection: Any) -> int:
    """Input width of an output projection (`nn.Linear`, or transformers' transposed `Conv1D`)."""
    return int(getattr(projection, "in_features", None) or projection.weight.shape[0])


def zero_projection_inputs(projection: Any, start: int, end: int) -> None:
    """Set the weights that read inputs `start:end` to zero, in place. The bias is an output's and stays."""
    with torch.no_grad():
        if hasattr(projection, "in_features"):
            projection.weight[:, start:end] = 0
        else:  # Conv1D stores [in, out]
            projection.weight[start:end] = 0


# --- the attention function ------------------------------------------------------------------------------------------


def _dispatch(base: str) -> AttentionFunction:
    def attention(module, query, key, value, attention_mask, **kwargs):
        if base == "eager":
            delegate = sys.modules[type(module).__module__].eager_attention_forward
        else:
            delegate = ALL_ATTENTION_FUNCTIONS[base]
        for function in _attached.get(module, ()):
            delegate = _bind(function, delegate)
        return delegate(module, query, key, value, attention_mask, **kwargs)

    return attention


def _bind(function: AttentionFunction, delegate: AttentionFunction) -> AttentionFunction:
    def attention(module, query, key, value, attention_mask, **kwargs):
        return function(module, query, key, value, attention_mask, delegate=delegate, **kwargs)

    return attention


@contextlib.contextmanager
def attached(model: Any, functions: dict[int, AttentionFunction], *, innermost: bool = False) -> Iterator[None]:
    """Run `functions[layer]` around the attention of those layers of `model`, and put everything back after.

    The function in use (sdpa, flash, flex, eager) still does the attention; ours gets it as `delegate`. The mask the
    model makes is that of the function in use. Contexts nest; the inner one is called first.

    Args:
        model (`PreTrainedModel`): a model whose attention goes through `AttentionInterface`.
        functions (`dict[int, AttentionFunction]`): by layer index; the layers must be full-attention layers.
        innermost (`bool`, *optional*, defaults to `False`): be the `delegate` of those attached before, too.

    Raises:
        ValueError: If a layer is not a full-attention layer, or the attention in use cannot be wrapped.
    """
    modules = attention_modules(model)
    unknown = sorted(set(functions) - set(modules))
    if unknown:
        raise ValueError(f"layers {unknown} of {type(model).__name__} are not full-attention layers")
    before = text_config(model)._attn_implementation
    with _lock:
        name = before if before in _NAMES.values() else _register(before)
        for layer, function in functions.items():
            others = _attached.get(modules[layer], ())
            _attached[modules[layer]] = (function, *others) if innermost else (*others, function)
    try:
        if name != before:
            _exchange_implementation(model, modules, before, name)
        yield
    finally:
        with _lock:
            for layer, function in functions.items():
                left = list(_attached.get(modules[layer], ()))
                left.remove(function)
                _attached[modules[layer]] = tuple(left)
        if name != before:
            _exchange_implementation(model, modules, name, before)


def _exchange_implementation(model: Any, modules: dict[int, nn.Module], old: str, new: str) -> None:
    """`model.set_attn_implementation` for the text decoder alone, without its walk over all modules: this runs in every
    step of decoding. The name has been checked by registering it."""
    for config in (text_config(model), *(module.config for module in modules.values())):
        if config._attn_implementation == old:
            config._attn_implementation_internal = new


def _register(base: str) -> str:
    if base not in _NAMES:
        raise ValueError(f"attention implementation {base!r} cannot be wrapped; load the model with sdpa instead")
    name = _NAMES[base]
    if name not in ALL_ATTENTION_FUNCTIONS:
        AttentionInterface.register(name, _dispatch(base))
        AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[base])
    return name


def visible(
    attention_mask: Any, rows: torch.Tensor, num_keys: int, num_queries: int, sliding_window: int | None
) -> torch.Tensor:
    """What chosen query rows may attend to, whatever kind of mask the attention in use was given.

    Args:
        attention_mask: `None` (causal), a 4D bool or additive tensor `[B or 1, 1 or H, Q, S]`, a 2D padding mask
            `[B, S]` (flash), or a flex `BlockMask`.
        rows (`torch.LongTensor` of shape `[B, R]`): query indices within this forward call.
        num_keys (`int`): S.
        num_queries (`int`): Q of this forward call.
        sliding_window (`int`, *optional*): window of this layer, if it has one.

    Returns:
        `torch.Tensor` of shape `[B, 1, R, S]`: additive fp32 bias, 0 where visible and `-inf` where not (additive
        masks keep their own values).
    """
    batch, count = rows.shape
    columns = torch.arange(num_keys, device=rows.device)
    if isinstance(attention_mask, torch.Tensor) and attention_mask.dim() == 4:
        mask = attention_mask[:, :1, :, :num_keys].expand(batch, -1, -1, -1)
        mask = mask.gather(2, rows[:, None, :, None].expand(batch, 1, count, num_keys))
        if mask.dtype != torch.bool:
            bias = mask.float()
            return bias.masked_fill(bias <= torch.finfo(attention_mask.dtype).min, -torch.inf)
        return torch.zeros(mask.shape, device=rows.device).masked_fill(~mask, -torch.inf)
    absolute = rows + (num_keys - num_queries)
    if hasattr(attention_mask, "mask_mod"):  # counts queries within this call: transformers put the offset inside it
        seen = attention_mask.mask_mod(
            torch.arange(batch, device=rows.device)[:, None, None],
            torch.zeros((), dtype=torch.long, device=rows.device),
            rows[:, :, None],
            columns[None, None, :],
        )
        seen = seen.expand(batch, count, num_keys)
    else:
        seen = columns <= absolute[:, :, None]
        if sliding_window:
            seen = seen & (columns > absolute[:, :, None] - sliding_window)
        if isinstance(attention_mask, torch.Tensor) and attention_mask.dim() == 2:
            seen = seen & attention_mask[:, None, :num_keys].bool()
    return torch.zeros(seen.shape, device=rows.device).masked_fill(~seen, -torch.inf)[:, None]


def biased_mask(model: Any, bias: torch.Tensor, dtype: torch.dtype) -> torch.Tensor | dict[str, torch.Tensor]:
    """A ready 4D mask for the last rows of a sequence, with a bias added to the causal pattern.

    Args:
        model (`PreTrainedModel`): decides whether sliding-window layers need a mask of their own.
        bias (`torch.Tensor` of shape `[Q, S]`): added to the scaled attention logits; the Q rows are the last ones.
        dtype (`torch.dtype`): dtype of the model's attention.

    Returns:
        `torch.Tensor` of shape `[1, 1, Q, S]`, or a dict of them by layer type where the model's forward wants one.
    """
    queries, keys = bias.shape
    rows = torch.arange(keys - queries, keys, device=bias.device)[:, None]
    columns = torch.arange(keys, device=bias.device)
    low = torch.finfo(dtype).min
    full = bias.masked_fill(columns > rows, low).to(dtype)[None, None]
    config = text_config(model)
    types = set(getattr(config, "layer_types", None) or ())
    window = getattr(config, "sliding_window", None)
    if not window or types == {"full_attention"}:
        return full
    sliding = bias.masked_fill((columns > rows) | (columns <= rows - window), low).to(dtype)[None, None]
    if not types or types == {"sliding_attention"}:
        return sliding
    return {"full_attention": full, "sliding_attention": sliding}


@contextlib.contextmanager
def accepts_4d_mask(model: Any) -> Iterator[None]:
    """Use sdpa where the attention in use (flash, flex) cannot take a ready 4D mask."""
    before = text_config(model)._attn_implementation
    if before in ("sdpa", "eager") or before in (_NAMES["sdpa"], _NAMES["eager"]):
        yield
        return
    model.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def takes_any_mask(model: Any) -> bool:
    """Whether every layer sees the whole context and the attention in use takes a 4D mask of any pattern."""
    config = text_config(model)
    types = set(getattr(config, "layer_types", None) or ())
    windowed = bool(getattr(config, "sliding_window", None)) and types != {"full_attention"}
    before = config._attn_implementation
    return (
        not windowed and types <= {"full_attention"} and before in ("sdpa", "eager", _NAMES["sdpa"], _NAMES["eager"])
    )


def compiles(model: Any) -> bool:
    """Whether our own written-out attention does what every layer does: [`takes_any_mask`], no capped logits, no sinks."""
    config = text_config(model)
    return takes_any_mask(model) and not (
        getattr(config, "attn_logit_softcapping", None)
        or hasattr(next(iter(attention_modules(model).values())), "sinks")
    )


def ready_mask(model: Any, seen: torch.Tensor) -> torch.Tensor:
    """What may be seen (`torch.BoolTensor` of shape `[B, 1, Q, S]`) as the attention in use takes it: bool for sdpa, added
    to the logits for eager. See [`takes_any_mask`]."""
    if text_config(model)._attn_implementation in ("sdpa", _NAMES["sdpa"]):
        return seen
    return torch.zeros(seen.shape, dtype=model.dtype, device=seen.device).masked_fill(
        ~seen, torch.finfo(model.dtype).min
    )


# --- the cache -------------------------------------------------------------------------------------------------------


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


# --- a cache of fixed shape ------------------------------------------------------------------------------------------


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


@contextlib.contextmanager
def attention_through(model: Any, name: str, function: AttentionFunction) -> Iterator[None]:
    """Let all attention layers run `function` alone, registered under `name`; unlike [`attached`], it compiles."""
    if name not in ALL_ATTENTION_FUNCTIONS:
        AttentionInterface.register(name, function)
        AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    modules, before = attention_modules(model), text_config(model)._attn_implementation
    _exchange_implementation(model, modules, before, name)
    try:
        yield
    finally:
        _exchange_implementation(model, modules, name, before)


def cache_bytes(cache: DynamicCache) -> int:
    """Memory that a cache holds, the room set aside for more tokens included."""
    layers: list[Any] = cache.layers
    stores = [getattr(layer, name, None) for layer in layers for name in ("_key_store", "_value_store")]
    stores += [states for layer in layers if layer.is_initialized for states in (layer.keys, layer.values)]
    own = {
        store.untyped_storage().data_ptr(): store.untyped_storage().nbytes() for store in stores if store is not None
    }
    return sum(own.values())


def weights_mark(model: Any) -> tuple[Any, ...]:
    """Something that changes with the weights: versions, places, and 16 values of each (`.data` leaves the former alone)."""
    weights = list(model.parameters())
    samples = [
        weight.detach().flatten()[:: max(1, weight.numel() // 16) | 1].float().sum().reshape(1) for weight in weights
    ]
    values = torch.cat([sample.to(samples[0].device) for sample in samples]).tolist()
    versions = [0 if weight.is_inference() else weight._version for weight in weights]
    return tuple(zip(versions, (weight.data_ptr() for weight in weights), values, strict=True))


def check_cache_supported(model: Any) -> None:
    """Raise for models whose state is not keys and values (Mamba, linear attention, hybrids)."""
    types = set(getattr(text_config(model), "layer_types", None) or ())
    other = sorted(types - {"full_attention", "sliding_attention", "chunked_attention"})
    if other:
        raise FaithgenError(
            f"{type(model).__name__} has {', '.join(other)} layers, whose state cannot be shared between two branches; "
            "use a model with attention layers only"
        )


def cpu_bf16_features() -> list[str]:
    """What this CPU has for bf16 matrix products, of AMX and avx512_bf16."""
    probes = {"AMX": "_is_amx_tile_supported", "avx512_bf16": "_is_avx512_bf16_supported"}
    return [name for name, probe in probes.items() if getattr(torch.cpu, probe, bool)()]


def cpu_has_bf16() -> bool:
    """True where bf16 matrix products are native on this CPU (AMX or avx512_bf16)."""
    return bool(cpu_bf16_features())


def quiet() -> None:
    """Keep transformers' progress bars and advice off our stderr; its errors still come through."""
    from transformers.utils import logging

    if "TRANSFORMERS_VERBOSITY" not in os.environ:
        logging.set_verbosity_error()
    logging.disable_progress_bar()


def end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """Ids that end an answer, from the generation config, the config and the tokenizer."""
    found: set[int | None] = set()
    for source in (getattr(model, "generation_config", None), text_config(model), tokenizer):
        value = getattr(source, "eos_token_id", None)
        found.update(value if isinstance(value, list | tuple) else [value])
    return frozenset(token for token in found if token is not None)
