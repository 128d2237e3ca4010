"""Attention of a few chosen heads, read while any attention backend runs.

The model's own attention (sdpa, flash, flex, eager) does the work; beside it the weights of chosen heads x chosen
query rows are computed from the same queries and keys, in fp32, and reduced inside the layer. Memory is O(heads x rows
x keys) for one layer at a time and O(heads x documents) in all, never n^2.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn

from faithgen import hf
from faithgen.heads.head_set import Head, by_layer
from faithgen.heads.indices import indices

Keep = Literal["rows", "tokens", "documents"]


class _EarlyExit(Exception):
    """Control flow: the deepest chosen layer has been read, nothing above it is needed."""


class AttentionCapture:
    """Reads the attention of chosen heads from chosen query rows.

    ```python
    capture = AttentionCapture(model, heads=[(18, 7), (15, 6)], rows=question_positions)
    with capture:
        model(input_ids)
    capture.result()  # [1, 2, len(question_positions), sequence length]
    ```

    Args:
        model (`PreTrainedModel`): model whose attention goes through transformers' attention interface.
        heads (`Sequence[tuple[int, int]]`): `(layer, query head)` pairs; the result keeps this order.
        rows (`torch.LongTensor` of shape `[R]` or `[B, R]`, *optional*):
            Positions (as in `position_ids`, so padding does not count) of the query rows; -1 fills short rows of a
            batch. A prefill in chunks may bring them in any call. `None` reads the last query of each call.
        keep (`"rows"`, `"tokens"` or `"documents"`, *optional*, defaults to `"rows"`):
            `"rows"` keeps the weights `[B, H', R, S]`; `"tokens"` their mean over rows `[B, H', S]`; `"documents"` the
            mean over rows of the sum over each document's tokens `[B, H', D]` (QRscore, QRHead eq. 2).
        segments (`torch.LongTensor` of shape `[B, S]`, *optional*):
            For `"documents"`: document index of each key column, -1 for none. Columns past its end count as none.
        num_documents (`int`, *optional*, defaults to 0): D, for `"documents"`.
        padding (`torch.LongTensor` of shape `[B]`, *optional*): left-padding columns of each row of the batch.
        early_exit (`bool`, *optional*, defaults to `False`):
            With [`AttentionCapture.run`]: end each forward in the deepest chosen layer, right after its keys are cached
            and its rows read; no attention output, MLP, later layer or lm_head is computed.
    """

    def __init__(
        self,
        model: nn.Module,
        heads: Sequence[Head],
        rows: torch.Tensor | None = None,
        *,
        keep: Keep = "rows",
        segments: torch.Tensor | None = None,
        num_documents: int = 0,
        padding: torch.Tensor | None = None,
        early_exit: bool = False,
    ):
        if not heads:
            raise ValueError("no heads to capture")
        if keep == "documents" and segments is None:
            raise ValueError('keep="documents" needs segments')
        self.model, self.heads, self.keep = model, list(heads), keep
        self.rows = None if rows is None else torch.atleast_2d(rows)
        self.segments, self.num_documents, self.padding = segments, num_documents, padding
        self.early_exit = early_exit
        self._by_layer = by_layer(heads)
        self._sums: dict[int, torch.Tensor] = {}
        self._context: Any = None

    def __enter__(self) -> AttentionCapture:
        self._context = hf.attached(self.model, dict.fromkeys(self._by_layer, self._attention))
        self._context.__enter__()
        return self

    def __exit__(self, *details: Any) -> None:
        context, self._context = self._context, None
        context.__exit__(*details)

    def run(self, **inputs: Any) -> Any:
        """One forward of the model (`input_ids`, `past_key_values`, …), ended early if so asked.

        Returns:
            The model's output, or `None` after an early exit.
        """
        with contextlib.suppress(_EarlyExit):
            return self.model(**inputs)
        return None

    def reset(self) -> None:
        """Forget what was read, to read the next call afresh."""
        self._sums.clear()

    def result(self) -> torch.Tensor:
        """What was read since the start or the last `reset`, in the order of `heads`; fp32, shape as `keep` says."""
        missing = sorted(set(self._by_layer) - set(self._sums))
        if missing:
            raise RuntimeError(f"no forward of the model reached the chosen rows in layers {missing}")
        width = max(part.shape[-1] for part in self._sums.values())
        parts = {layer: nn.functional.pad(part, (0, width - part.shape[-1])) for layer, part in self._sums.items()}
        device = next(iter(parts.values())).device
        picked = [parts[layer][:, self._by_layer[layer].index(head)].to(device) for layer, head in self.heads]
        return torch.stack(picked, dim=1)

    def _attention(self, module, query, key, value, attention_mask, *, delegate, **kwargs):
        layer = module.layer_idx
        self._read(layer, module, query, key, attention_mask, kwargs)
        if self.early_exit and layer == max(self._by_layer):
            raise _EarlyExit
        return delegate(module, query, key, value, attention_mask, **kwargs)

    @torch.no_grad()
    def _read(self, layer: int, module: nn.Module, query, key, attention_mask, kwargs: dict[str, Any]) -> None:
        index, present = self._query_index(query, key, kwargs.get("position_ids"))
        if self.rows is not None and not present.any():  # the last query is always there: no look, no wait for a GPU
            return
        weights = attention_weights(module, query, key, attention_mask, self._by_layer[layer], index, **kwargs)
        weights = weights.masked_fill(~present[:, None, :, None], 0.0)
        if self.keep != "rows":
            count = present if self.rows is None else self.rows.to(present.device) >= 0
            weights = weights.sum(2) / count.sum(1).clamp(min=1)[:, None, None]
        if self.keep == "documents":
            weights = self._document_sums(weights)
        before = self._sums.get(layer)
        if before is not None:
            weights = weights + nn.functional.pad(before, (0, weights.shape[-1] - before.shape[-1]))
        self._sums[layer] = weights

    def _query_index(self, query, key, position_ids) -> tuple[torch.Tensor, torch.Tensor]:
        """For each asked row its index in this call's queries, and whether it is there: both `[B, R]`."""
        batch, queries = query.shape[0], query.shape[2]
        if self.rows is None:
            last = torch.full((batch, 1), queries - 1, device=query.device)
            return last, torch.ones_like(last, dtype=torch.bool)
        rows = self.rows.to(query.device).expand(batch, -1)
        if position_ids is not None and position_ids.dim() == 2:
            here = position_ids.expand(batch, -1)
        else:
            padding = 0 if self.padding is None else self.padding.to(query.device)[:, None]
            first = key.shape[2] - queries
            here = torch.arange(first, first + queries, device=query.device).expand(batch, -1) - padding
        match = here[:, None, :] == rows[:, :, None]
        # padding columns repeat a real token's position and stand before it, so the last match is the real one
        index = queries - 1 - match.flip(-1).int().argmax(-1)
        return index, match.any(-1)

    def _document_sums(self, weights: torch.Tensor) -> torch.Tensor:
        assert self.segments is not None
        batch, heads, keys = weights.shape
        segments = nn.functional.pad(
            self.segments.to(weights.device), (0, max(0, keys - self.segments.shape[1])), value=-1
        )
        segments = segments[:, None, :keys].expand(batch, heads, keys)
        sums = weights.new_zeros(batch, heads, self.num_documents + 1)
        sums.scatter_add_(2, torch.where(segments < 0, self.num_documents, segments), weights)
        return sums[:, :, : self.num_documents]


def attention_weights(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    attention_mask: Any,
    heads: Sequence[int],
    index: torch.Tensor,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> torch.Tensor:
    """Post-softmax attention of some heads of one layer from some of its queries, in fp32.

    Args:
        module (`nn.Module`): the attention module (for its scaling).
        query (`torch.Tensor` of shape `[B, H, Q, D]`), key (`torch.Tensor` of shape `[B, H_kv, S, D]`): as the
            attention function gets them.
        attention_mask: the mask it gets, of any kind (see [`hf.visible`]).
        heads (`Sequence[int]`): query heads.
        index (`torch.LongTensor` of shape `[B, R]`): query indices within this call.
        scaling, sliding_window, softcap, s_aux: what the model passes to its attention function (`s_aux`: logits of
            attention sinks, one a head).

    Returns:
        `torch.Tensor` of shape `[B, len(heads), R, S]`; rows that see nothing are zero.
    """
    group = query.shape[1] // key.shape[1]
    rows = index[:, None, :, None].expand(-1, len(heads), -1, query.shape[-1])
    asked = indices(heads, query.device)
    chosen = query[:, asked].gather(2, rows).float()
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    scores = chosen @ key[:, indices((head // group for head in heads), key.device)].float().mT * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores + hf.visible(attention_mask, index, key.shape[2], query.shape[2], sliding_window)
    if s_aux is not None:
        sinks = s_aux[asked].float().view(1, -1, 1, 1).expand(*scores.shape[:-1], 1)
        return torch.cat([scores, sinks], dim=-1).softmax(-1)[..., :-1]
    return scores.softmax(-1).nan_to_num(0.0)
