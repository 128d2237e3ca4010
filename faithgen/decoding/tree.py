"""Both branches over one stored prefix: a step feeds two tokens a question, one of each branch, and reads the prefix once.

The branches grow as the two arms of a tree on the same cache: columns of the prefix are seen by both, the columns after it
by the branch that wrote them. Rows of the batch are questions, so a pair costs the keys, values and weights of one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch

from faithgen import hf
from faithgen.decoding.branches import BranchModel, PairPrompt, common_prefix

_UNFAITHFUL, _FAITHFUL = 0, 1
"""Order of the two queries of a question: the faithful one is last, where attention is read."""
_LONGEST_TAIL = 64
"""Tokens from where prompts part to their end; a control token in front of the documents leaves nothing to share."""


def can_branch(through: BranchModel, prompts: Sequence[PairPrompt]) -> bool:
    """Whether the branches can share their prefix.

    They can where all prompts have two branches of equal length that part after the documents, nothing is masked before
    that, and the model's attention takes a mask of our own in every layer.
    """
    if any(prompt.unfaithful is None for prompt in prompts) or not hf.takes_any_mask(through.model):
        return False
    if through.mask_prefill and through.masked_heads:
        return False
    tails = set()
    for prompt in prompts:
        assert prompt.unfaithful is not None
        shared = common_prefix(prompt.faithful, prompt.unfaithful)
        done = 0 if prompt.prefix is None else prompt.prefix.get_seq_length()
        if shared < max(1, done, *(end for _, end in prompt.documents)):
            return False
        tails |= {len(prompt.faithful) - shared, len(prompt.unfaithful) - shared}
    return len(tails) == 1 and max(tails) <= _LONGEST_TAIL


class TreeBranches:
    """The branches of questions for which [`can_branch`] holds; the same interface as [`RowBranches`].

    Args:
        through ([`BranchModel`]): the model.
        prompts (`Sequence[PairPrompt]`): with both branches.

    Attributes:
        logits (`torch.Tensor` of shape `[2 * B, V]`): of the next token, faithful ones first.
    """

    logits: torch.Tensor
    pair = True

    def __init__(self, through: BranchModel, prompts: Sequence[PairPrompt]):
        self.through, self.prompts = through, prompts

    def prefill(self) -> torch.Tensor | None:
        """Read all prompts; returns the attention of the last prompt token of each question to the parts `[B, P]`."""
        through, device = self.through, self.through.device
        caches, tails = [], []
        for prompt in self.prompts:
            assert prompt.unfaithful is not None
            shared = common_prefix(prompt.faithful, prompt.unfaithful)
            cache = prompt.prefix if prompt.prefix is not None else hf.new_cache()
            if shared > (done := cache.get_seq_length()):
                through.forward([prompt.faithful[done:shared]], cache)
            caches.append(cache)
            tails.append((prompt.unfaithful[shared:], prompt.faithful[shared:]))
        lengths = [len(prompt.faithful) - len(tail) for prompt, (_, tail) in zip(self.prompts, tails, strict=True)]
        longest, new = max(lengths), len(tails[0][0])
        self._cache = caches[0] if len(caches) == 1 or not longest else hf.join_caches(caches)
        self._lengths = torch.tensor(lengths, device=device)
        prefix = torch.arange(longest, device=device) >= (longest - self._lengths)[:, None]
        self._seen = prefix[:, None].expand(-1, 2, -1)  # by the unfaithful and by the faithful query
        self._segments = None
        if through.watched_heads:
            rows = [through.segment_row(prompt, longest + new)[:longest] for prompt in self.prompts]
            self._segments = torch.stack(rows)
        ids = torch.tensor(
            [[token for pair in zip(*tail, strict=True) for token in pair] for tail in tails], device=device
        )
        return self._forward(ids)

    def advance(self, tokens: torch.Tensor) -> torch.Tensor | None:
        """Feed a token `[B]` to both branches of each question; returns their attention to the parts `[B, P]`."""
        with self.through.stepping():
            return self._forward(tokens[:, None].expand(-1, 2))

    def _forward(self, ids: torch.Tensor) -> torch.Tensor | None:
        """Run `[B, 2 T]` tokens, the branches' in turns."""
        through, (count, width) = self.through, ids.shape
        own = torch.eye(2, dtype=torch.bool, device=ids.device).repeat(
            1, width // 2
        )  # [2, 2 T]: a branch's own columns
        earlier = self._seen.repeat(1, width // 2, 1)
        within = own.repeat(width // 2, 1).tril().expand(count, -1, -1)
        seen = torch.cat([earlier, within], dim=-1)[:, None]
        offsets = torch.arange(width // 2, device=ids.device).repeat_interleave(2)
        with contextlib.ExitStack() as stack:
            capture = None
            if self._segments is not None:
                capture = stack.enter_context(through.watch(self._segments))
            stack.enter_context(through.masking(queries=slice(_UNFAITHFUL, None, 2)))
            output = through.model(
                input_ids=ids,
                attention_mask=hf.ready_mask(through.model, seen),
                position_ids=self._lengths[:, None] + offsets,
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=2,
            )
        self._lengths = self._lengths + width // 2
        self._seen = torch.cat([self._seen, own.expand(count, -1, -1)], dim=-1)
        self.logits = torch.cat([output.logits[:, _FAITHFUL], output.logits[:, _UNFAITHFUL]])
        return None if capture is None else capture.result().mean(1)

    def select(self, alive: list[int], count: int) -> None:
        """Keep some of `count` questions."""
        rows = torch.tensor(alive, device=self._lengths.device)
        self._cache.batch_select_indices(rows)
        self._seen, self._lengths = self._seen[rows], self._lengths[rows]
        if self._segments is not None:
            self._segments = self._segments[rows]
