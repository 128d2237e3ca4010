"""Attention of one new token a row on a CPU, written out.

PyTorch's fused kernel is made for many queries and takes 2 to 10 times as long for one (worst in bfloat16).
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch

from faithgen import hf


def step_attention(module, query, key, value, attention_mask, *, delegate, scaling=None, **kwargs: Any):
    """Softmax attention in fp32 for a single query; anything else is left to the attention in use.

    Args:
        query (`torch.Tensor` of shape `[B, H, 1, D]`), key, value (`torch.Tensor` of shape `[B, H_kv, S, D]`)
        attention_mask (`torch.Tensor` of shape `[B or 1, 1, 1, S]`, *optional*): bool (True is seen) or added to the logits.
        scaling (`float`, *optional*): of the logits; `D ** -0.5` if not given.

    Returns:
        `torch.Tensor` of shape `[B, 1, H, D]` in the dtype of the query, and `None` for the weights.
    """
    if not _plain(query, attention_mask, kwargs):
        return delegate(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    batch, heads, _, width = query.shape
    groups = key.shape[1]
    scale = width**-0.5 if scaling is None else scaling
    grouped = query.reshape(batch, groups, heads // groups, width).float() * scale
    scores = grouped @ key.float().mT
    if attention_mask is not None:
        seen = attention_mask[..., : key.shape[2]]
        scores = scores.masked_fill(~seen, -torch.inf) if seen.dtype == torch.bool else scores + seen
    output = scores.softmax(-1) @ value.float()
    return output.reshape(batch, 1, heads, value.shape[-1]).to(query.dtype), None


def _plain(query, attention_mask, kwargs: dict[str, Any]) -> bool:
    if query.shape[2] != 1 or query.device.type != "cpu" or (torch.is_grad_enabled() and query.requires_grad):
        return False
    if any(kwargs.get(name) is not None for name in ("softcap", "s_aux", "sliding_window")) or kwargs.get("dropout"):
        return False
    return attention_mask is None or (isinstance(attention_mask, torch.Tensor) and attention_mask.shape[1:3] == (1, 1))


def single_query_steps(model: Any) -> contextlib.AbstractContextManager[None]:
    """Use [`step_attention`] in all full-attention layers; does nothing for a model that is not on a CPU."""
    if hf.device_of(model).type != "cpu":
        return contextlib.nullcontext()
    return hf.attached(model, dict.fromkeys(hf.attention_modules(model), step_attention), innermost=True)
