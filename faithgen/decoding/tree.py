"""Both branches over one stored prefix: a step feeds two tokens a question, one of each branch, and reads the prefix once.

The branches grow as the two arms of a tree on the same cache: columns of the prefix are seen by both, the columns after it
by the branch that wrote them. Rows of the batch are questions, so a pair costs the keys, values and weights of one.
"""

from __future__ import annotations

import contextlib

import torch

from faithgen import hf
from faithgen.decoding.branches import Branches, BranchModel, PairPrompt, common_prefix

_UNFAITHFUL = 0
"""Place of the unfaithful one of a question's two queries: the faithful one is last, where attention is read."""


def can_branch(through: BranchModel, prompt: PairPrompt) -> bool:
    """Whether the branches of a question can share their prefix.

    They can where both prompts have the same length and part after the documents, nothing is masked before that, and the
    model's attention takes a mask of our own in every layer.
    """
    if prompt.unfaithful is None or len(prompt.faithful) != len(prompt.unfaithful):
        return False
    if (through.mask_prefill and through.masked_heads) or not hf.takes_any_mask(through.model):
        return False
    done = 0 if prompt.prefix is None else prompt.prefix.get_seq_length()
    return common_prefix(prompt.faithful, prompt.unfaithful) >= max(1, done, *(end for _, end in prompt.documents))


class TreeBranches(Branches):
    """The branches of questions for which [`can_branch`] holds: a row a question, two queries a step."""

    @classmethod
    def read(cls, through: BranchModel, prompt: PairPrompt) -> TreeBranches:
        """Run the prompts of one question, for which [`can_branch`] holds, through the model."""
        assert prompt.unfaithful is not None
        shared = common_prefix(prompt.faithful, prompt.unfaithful)
        cache = prompt.prefix if prompt.prefix is not None else hf.new_cache()
        if shared > (done := cache.get_seq_length()):
            through.forward([prompt.faithful[done:shared]], cache)
        tails = zip(prompt.unfaithful[shared:], prompt.faithful[shared:], strict=True)
        ids = torch.tensor([[token for pair in tails for token in pair]], device=through.device)
        seen = torch.ones(1, 2, shared, dtype=torch.bool, device=ids.device)
        segments = through.segment_row(prompt, len(prompt.faithful))[None, :shared] if through.watched_heads else None
        lengths = torch.tensor([shared], device=ids.device)
        made = cls(through, cache, seen, lengths, torch.empty(1, 2, 0), segments=segments)
        made._forward(ids)
        return made

    def advance(self, tokens: torch.Tensor) -> None:
        with self.through.stepping():
            self._forward(tokens[:, None].expand(-1, 2))

    def _forward(self, ids: torch.Tensor) -> None:
        """Run `[B, 2 T]` tokens, the branches' in turns."""
        through, (count, width) = self.through, ids.shape
        own = torch.eye(2, dtype=torch.bool, device=ids.device).repeat(
            1, width // 2
        )  # [2, 2 T]: a branch's own columns
        within = own.repeat(width // 2, 1).tril().expand(count, -1, -1)
        seen = torch.cat([self.seen.repeat(1, width // 2, 1), within], dim=-1)[:, None]
        offsets = torch.arange(width // 2, device=ids.device).repeat_interleave(2)
        with contextlib.ExitStack() as stack:
            capture = self._watching(stack)
            stack.enter_context(through.masking(queries=slice(_UNFAITHFUL, None, 2)))
            output = through.model(
                input_ids=ids,
                attention_mask=hf.ready_mask(through.model, seen),
                position_ids=self.lengths[:, None] + offsets,
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=2,
            )
        self.lengths = self.lengths + width // 2
        self.seen = torch.cat([self.seen, own.expand(count, -1, -1)], dim=-1)
        self.logits = output.logits.flip(1)  # the faithful branch's first
        self.attention = None if capture is None else capture.result().mean(1)
