"""Functions of our own around or in place of a model's attention, and the masks that it takes."""

from __future__ import annotations

import contextlib
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from faithgen.errors import FaithgenError
from faithgen.hf.shape import attention_modules, text_config

# The name must not hold "flash", "sdpa", "flex_attention", "eager" or "paged|": transformers tests for substrings.
_NAMES = {
    "eager": "faithgen-e",
    "sdpa": "faithgen-s",
    "flex_attention": "faithgen-x",
    "flash_attention_2": "faithgen-f2",
    "flash_attention_3": "faithgen-f3",
    "flash_attention_4": "faithgen-f4",
}

AttentionFunction = Callable[..., tuple[torch.Tensor, torch.Tensor | None]]
"""`(module, query, key, value, attention_mask, delegate, **kwargs) -> (output, weights)`; shapes as in transformers:
query `[B, H, Q, D]`, key and value `[B, H_kv, S, D]`, after RoPE and the cache update."""

_attached: weakref.WeakKeyDictionary[nn.Module, tuple[AttentionFunction, ...]] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def _dispatch(base: str) -> AttentionFunction:
    def attention(module, query, key, value, attention_mask, **kwargs):
        if base == "eager":
            delegate = sys.modules[type(module).__module__].eager_attention_forward
        elif base in ("sdpa", "flex_attention"):
            delegate = ALL_ATTENTION_FUNCTIONS[base]
        else:
            delegate = _under_its_name(base)
        for function in _attached.get(module, ()):
            delegate = _bind(function, delegate)
        return delegate(module, query, key, value, attention_mask, **kwargs)

    return attention


def _under_its_name(base: str) -> AttentionFunction:
    """The attention function `base` for those that look their kernel up by the name in the module's config (flash, kernels
    of the hub): the config says `base` while it runs. As all of a model, not for two threads at a time."""

    def attention(module, *arguments, **kwargs):
        config = module.config
        ours, config._attn_implementation_internal = config._attn_implementation, base
        try:
            return ALL_ATTENTION_FUNCTIONS[base](module, *arguments, **kwargs)
        finally:
            config._attn_implementation_internal = ours

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
        ValueError: If a layer is not a full-attention layer.
        FaithgenError: If the attention in use cannot be wrapped.
    """
    modules = attention_modules(model)
    unknown = sorted(set(functions) - set(modules))
    if unknown:
        raise ValueError(f"layers {unknown} of {type(model).__name__} are not full-attention layers")
    before = text_config(model)._attn_implementation
    with _lock:
        name = before if _is_ours(before) else _register(before)
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


def intervened(model: Any) -> bool:
    """Whether something stands between a model and its own results: functions attached to its attention, or hooks on its
    modules (transformers' own only read)."""
    return any(
        _attached.get(module)
        or any(
            not (getattr(hook, "__module__", None) or "").startswith("transformers.")
            for hooks in (module._forward_hooks, module._forward_pre_hooks)
            for hook in hooks.values()
        )
        for module in model.modules()
    )


def _exchange_implementation(model: Any, modules: dict[int, nn.Module], old: str, new: str) -> None:
    """`model.set_attn_implementation` for the text decoder alone, without its walk over all modules: this runs in every
    step of decoding. The name has been checked by registering it."""
    for config in (text_config(model), *(module.config for module in modules.values())):
        if config._attn_implementation == old:
            config._attn_implementation_internal = new


def _register(base: str) -> str:
    """Our name for an attention implementation; kernels of the hub (`kernels-community/flash-attn2`, which transformers
    takes where `flash-attn` is not installed) are known once they are loaded."""
    name = _NAMES.get(base)
    if name is None and "/" in str(base) and base in ALL_ATTENTION_FUNCTIONS:
        name = f"faithgen-h{base.encode().hex()}"
    if name is None:
        raise FaithgenError(f"attention implementation {base!r} cannot be wrapped; load the model with sdpa instead")
    if name not in ALL_ATTENTION_FUNCTIONS:
        AttentionInterface.register(name, _dispatch(base))
        AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[base])
    return name


def _is_ours(name: str) -> bool:
    return str(name).startswith("faithgen-")


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
    if before in ("sdpa", "eager", _NAMES["sdpa"], _NAMES["eager"]):
        yield
        return
    name = _register("sdpa") if _is_ours(before) else "sdpa"  # what is attached stays in the way
    modules = attention_modules(model)
    _exchange_implementation(model, modules, before, name)
    try:
        yield
    finally:
        _exchange_implementation(model, modules, name, before)


def takes_any_mask(model: Any) -> bool:
    """Whether every layer sees the whole context and the attention in use takes a 4D mask of any pattern."""
    config = text_config(model)
    types = set(getattr(config, "layer_types", None) or ())
    windowed = bool(getattr(config, "sliding_window", None)) and types != {"full_attention"}
    before = config._attn_implementation
    return (
        not windowed and types <= {"full_attention"} and before in ("sdpa", "eager", _NAMES["sdpa"], _NAMES["eager"])
    )


def ready_mask(model: Any, seen: torch.Tensor) -> torch.Tensor:
    """What may be seen (`torch.BoolTensor` of shape `[B, 1, Q, S]`) as the attention in use takes it: bool for sdpa, added
    to the logits for eager. See [`takes_any_mask`]."""
    if text_config(model)._attn_implementation in ("sdpa", _NAMES["sdpa"]):
        return seen
    return torch.zeros(seen.shape, dtype=model.dtype, device=seen.device).masked_fill(
        ~seen, torch.finfo(model.dtype).min
    )


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
