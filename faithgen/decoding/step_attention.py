"""Attention of one or two new tokens a row, written out.

On a CPU, PyTorch's fused kernel is made for many queries and takes 2 to 10 times as long for one (worst in bfloat16). On a
GPU, attention under a mask repeats keys and values for every query head that reads them, in each layer and step; here they
are read as they lie. That was not timed on a GPU; without a mask its own kernels do it.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch

from faithgen import hf

_MOST_QUERIES = 2


def step_attention(module, query, key, value, attention_mask, *, delegate, scaling=None, **kwargs: Any):
    """Softmax attention in fp32 for Q queries a row, 1 or, under a mask, 2; anything else is left to the attention in use,
    and so is a GPU's without a mask.

    Args:
        query (`torch.Tensor` of shape `[B, H, Q, D]`), key, value (`torch.Tensor` of shape `[B, H_kv, S, D]`)
        attention_mask (`torch.Tensor` of shape `[B or 1, 1, Q, S]`, *optional*): bool (True is seen) or added to the logits.
        scaling (`float`, *optional*): of the logits; `D ** -0.5` if not given.

    Returns:
        `torch.Tensor` of shape `[B, Q, H, D]` in the dtype of the query, and `None` for the weights.
    """
    if not _plain(query, attention_mask, kwargs):
        return delegate(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    batch, heads, count, width = query.shape
    groups, keys = key.shape[1:3]
    scale = width**-0.5 if scaling is None else scaling
    grouped = query.reshape(batch, groups, heads // groups * count, width)  # all that read one KV head
    half = reads_half(query)
    scores = product(grouped, key.mT) * scale if half else (grouped.float() * scale) @ key.float().mT
    if attention_mask is not None:
        seen = attention_mask[:, :, None, :, :keys]
        scores = scores.view(batch, groups, heads // groups, count, keys)
        scores = scores.masked_fill(~seen, -torch.inf) if seen.dtype == torch.bool else scores + seen
        scores = scores.view(batch, groups, -1, keys)
    weights = scores.softmax(-1)
    output = weights.to(value.dtype) @ value if half else weights @ value.float()
    return output.view(batch, heads, count, value.shape[-1]).transpose(1, 2).to(query.dtype), None


def _device(states: torch.Tensor) -> str:
    return states.device.type


def reads_half(states: torch.Tensor) -> bool:
    """Whether [`product`] can read these as they lie: half precision on a GPU."""
    return _device(states) == "cuda" and states.dtype in (torch.bfloat16, torch.float16)


def product(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Matrix products `[B, G, N, D]` x `[B, G, D, S]` of half precision in fp32, without a copy of the inputs in fp32."""
    product = torch.bmm(first.flatten(0, 1), second.flatten(0, 1), out_dtype=torch.float32)
    return product.unflatten(0, first.shape[:2])


def _plain(query, attention_mask, kwargs: dict[str, Any]) -> bool:
    count = query.shape[2]
    device = _device(query)
    if count > _MOST_QUERIES or device not in ("cpu", "cuda") or (torch.is_grad_enabled() and query.requires_grad):
        return False
    if any(kwargs.get(name) is not None for name in ("softcap", "s_aux", "sliding_window")) or kwargs.get("dropout"):
        return False
    if attention_mask is None:
        return count == 1 and device == "cpu"
    return isinstance(attention_mask, torch.Tensor) and attention_mask.shape[1:3] == (1, count)


def few_query_steps(model: Any) -> contextlib.AbstractContextManager[None]:
    """Use [`step_attention`] in all full-attention layers of a model on a CPU, or on an NVIDIA GPU where the attention is
    sdpa or eager; does nothing for other models."""
    device = hf.device_of(model).type
    if device != "cpu" and (device != "cuda" or torch.version.hip or not hf.takes_any_mask(model)):
        return contextlib.nullcontext()
    return hf.attached(model, dict.fromkeys(hf.attention_modules(model), step_attention), innermost=True)
