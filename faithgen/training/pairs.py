"""Batches of pairs: the faithful and the unfaithful answer to one question, beside each other or in one sequence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from faithgen.training.prompts import sequence

FAITHFUL_BRANCH, UNFAITHFUL_BRANCH = 0, 1
_SHARED, _PADDING = 2, 3


@dataclass
class PairCollator:
    """Makes a batch of pairs.

    Args:
        pad_token_id (`int`): fills sequences up, on the right.
        unfaithful_id (`int`, *optional*): id of `[unfaithful]`; `None` makes batches of the faithful answers alone.
        share_prompt (`bool`, *optional*, defaults to `False`):
            One sequence a pair: the prompt up to the control slot once, then the rest of the faithful branch, then that of
            the unfaithful one. Positions go on from the shared part in both, and a 4D mask keeps the branches from seeing
            each other. Otherwise two sequences a pair, all faithful ones first.
        pad_to_multiple_of (`int`, *optional*): round the length of a batch up to a multiple of this.
    """

    pad_token_id: int
    unfaithful_id: int | None = None
    share_prompt: bool = False
    pad_to_multiple_of: int | None = None

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Collate.

        Args:
            examples (`Sequence[Mapping]`): as [`RowEncoder`] gives them.

        Returns:
            `dict` of `[rows, S]` tensors: `input_ids`, `labels` (-100 but on answers), `branches` (0 in sequences or parts
            that are faithful, 1 in unfaithful ones) and `attention_mask` (1 on tokens, 0 on padding). For `share_prompt` the
            mask is `[rows, 1, S, S]` of bool, True where a row attends to a column, and there are `position_ids`.
        """
        if self.share_prompt and self.unfaithful_id is not None:
            rows = [self._packed(example) for example in examples]
        else:
            rows = [self._plain(example, None) for example in examples]
            if self.unfaithful_id is not None:
                rows += [self._plain(example, self.unfaithful_id) for example in examples]
        ids, labels, positions, segments = (self._padded(rows, index, fill) for index, fill in enumerate(_FILLS))
        ids = ids.masked_fill(segments == _PADDING, self.pad_token_id)
        batch = {"input_ids": ids, "labels": labels, "branches": (segments == UNFAITHFUL_BRANCH).long()}
        if self.share_prompt and self.unfaithful_id is not None:
            return batch | {"attention_mask": branch_mask(segments), "position_ids": positions}
        return batch | {"attention_mask": (segments != _PADDING).long()}

    def _plain(self, example: Mapping[str, Any], unfaithful_id: int | None) -> _Row:
        ids, labels = sequence(example, unfaithful_id)
        branch = FAITHFUL_BRANCH if unfaithful_id is None else UNFAITHFUL_BRANCH
        return ids, labels, list(range(len(ids))), [branch] * len(ids)

    def _packed(self, example: Mapping[str, Any]) -> _Row:
        slot = example["slot"]
        ids, labels = sequence(example)
        other, other_labels = sequence(example, self.unfaithful_id)
        positions = [*range(len(ids)), *range(slot, len(other))]
        segments = [_SHARED] * slot + [FAITHFUL_BRANCH] * (len(ids) - slot) + [UNFAITHFUL_BRANCH] * (len(other) - slot)
        return ids + other[slot:], labels + other_labels[slot:], positions, segments

    def _padded(self, rows: list[_Row], index: int, fill: int) -> torch.Tensor:
        padded = pad_sequence([torch.tensor(row[index]) for row in rows], batch_first=True, padding_value=fill)
        multiple = self.pad_to_multiple_of or 1
        extra = -padded.shape[1] % multiple
        return torch.nn.functional.pad(padded, (0, extra), value=fill)


_Row = tuple[list[int], list[int], list[int], list[int]]
"""Ids, labels, positions and segments of one sequence."""
_FILLS = (0, -100, 0, _PADDING)


def branch_mask(segments: torch.Tensor) -> torch.Tensor:
    """What may attend to what in packed pairs.

    Args:
        segments (`torch.Tensor` of shape `[rows, S]`): shared part, faithful branch, unfaithful branch or padding.

    Returns:
        `torch.BoolTensor` of shape `[rows, 1, S, S]`: causal; a branch sees the shared part and itself. Padding sees the
        first column, so that no row of attention is empty (its softmax would be NaN).
    """
    length = segments.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    query, key = segments[:, :, None], segments[:, None, :]
    seen = causal & ((key == _SHARED) | (key == query)) & (query != _PADDING) & (key != _PADDING)
    seen[:, :, 0] |= segments == _PADDING
    return seen[:, None]


def real_tokens(attention_mask: torch.Tensor) -> torch.Tensor:
    """Tokens of a batch that are not padding, for either form of mask."""
    if attention_mask.dim() == 4:  # every real token attends to itself, padding does not (but in the first column)
        return attention_mask.diagonal(dim1=-2, dim2=-1).sum()
    return attention_mask.sum()
