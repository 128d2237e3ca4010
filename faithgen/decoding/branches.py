"""The branches of a batch of questions on the way through the model: prefill, then one forward a step.

[`RowBranches`] gives every branch a row of the batch with a cache of its own, whatever the prompts and the model. It is the
reference. [`faithgen.decoding.tree.TreeBranches`] stores what both branches share once, where it can.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from faithgen import hf
from faithgen.decoding.packing import packed_linears
from faithgen.decoding.step_attention import few_query_steps
from faithgen.heads.ablation import Ablation, mask_heads
from faithgen.heads.capture import AttentionCapture
from faithgen.heads.head_set import Head

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel

_CHUNK = 4096
"""Tokens a prefill forward takes at most; bounds the activations of long prompts."""


@dataclass
class PairPrompt:
    """The two branches of one question, as token ids.

    Attributes:
        faithful (`list[int]`): prompt of the faithful branch.
        unfaithful (`list[int]`, *optional*): prompt of the other branch (the same ids for masked heads); `None` decodes
            plainly.
        prefix (`DynamicCache`, *optional*): keys and values of the first tokens of `faithful` if they are computed already
            (a steered prefill). It is used up. Both branches must share these tokens.
        documents (`list[tuple[int, int]]`): token spans of the documents, or of their parts, in `faithful`: where attention
            is read.
        seed (`int`, *optional*): of this question's random stream; the sampling's own if not given.
    """

    faithful: list[int]
    unfaithful: list[int] | None = None
    prefix: DynamicCache | None = None
    documents: list[tuple[int, int]] = field(default_factory=list)
    seed: int | None = None


@dataclass(frozen=True)
class BranchModel:
    """The model that the branches go through, and which of its heads are masked and watched.

    Attributes:
        model (`PreTrainedModel`): a decoder with attention layers only.
        masked_heads (`Sequence[tuple[int, int]]`), ablation (`"zero"` or `"uniform"`), mask_prefill (`bool`):
            Heads masked in the unfaithful branch (or in the only one), how, and whether in the prefill, too.
        watched_heads (`Sequence[tuple[int, int]]`): heads whose attention on the documents is reported.
        parts (`int`): above 1, the attention on each of `PairPrompt.documents` is told apart, for at most so many.
    """

    model: PreTrainedModel
    masked_heads: Sequence[Head] = ()
    ablation: Ablation = "zero"
    mask_prefill: bool = False
    watched_heads: Sequence[Head] = ()
    parts: int = 1

    @property
    def device(self) -> torch.device:
        """Where the model takes its input."""
        return hf.device_of(self.model)

    def forward(
        self, ids: list[list[int]], cache: DynamicCache, watch: PairPrompt | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Run rows of equal length on top of a cache, in chunks.

        Returns:
            Logits of the last position `[rows, V]`, and its attention to the parts in the first row `[P]` (if `watch` is
            given).
        """
        *chunks, last = torch.tensor(ids, device=self.device).split(_CHUNK, dim=1)
        inputs = {"past_key_values": cache, "use_cache": True, "logits_to_keep": 1}
        for chunk in chunks:
            self.model(input_ids=chunk, **inputs)
        if watch is None or not self.watched_heads:
            return self.model(input_ids=last, **inputs).logits[:, -1], None
        segments = self.segment_row(watch, len(watch.faithful)).expand(len(ids), -1)
        with self.watch(segments) as capture:
            logits = self.model(input_ids=last, **inputs).logits[:, -1]
        return logits, capture.result()[0].mean(0)

    def watch(self, segments: torch.Tensor) -> AttentionCapture:
        """Read the watched heads' attention on the parts of the documents from the last query of a forward."""
        return AttentionCapture(
            self.model, self.watched_heads, keep="documents", segments=segments, num_documents=self.parts
        )

    def masking(
        self, rows: Sequence[int] | None = None, queries: slice | None = None
    ) -> contextlib.AbstractContextManager[None]:
        """Mask the heads in some rows of the batch, or some queries of the forward; in all where neither is given."""
        if not self.masked_heads:
            return contextlib.nullcontext()
        return mask_heads(self.model, self.masked_heads, rows=rows, queries=queries, mode=self.ablation)

    @contextlib.contextmanager
    def stepping(self):
        """What makes a forward of one or two tokens a row fast; changes no more than the rounding."""
        with packed_linears(self.model), few_query_steps(self.model):
            yield

    def segment_row(self, prompt: PairPrompt, length: int) -> torch.Tensor:
        """`[length]` with the part of each column, -1 outside of the documents; the prompt stands at the end."""
        row = torch.full((length,), -1, device=self.device)
        offset = length - len(prompt.faithful)
        for part, (start, end) in enumerate(prompt.documents):
            row[offset + start : offset + end] = part if self.parts > 1 else 0
        return row


@dataclass(frozen=True)
class _Prefilled:
    """One question after its prefill: a cache of two rows or one cache a branch, next-token logits `[1, V]` of each."""

    caches: list[DynamicCache]
    logits: list[torch.Tensor]
    share: torch.Tensor | None


class RowBranches:
    """Every branch is a row: the faithful ones of all questions first, then the unfaithful ones.

    Args:
        through ([`BranchModel`]): the model.
        prompts (`Sequence[PairPrompt]`): all with an unfaithful branch, or none.

    Attributes:
        logits (`torch.Tensor` of shape `[branches * B, V]`): of the next token, faithful rows first.
    """

    logits: torch.Tensor

    def __init__(self, through: BranchModel, prompts: Sequence[PairPrompt]):
        self.through, self.prompts = through, prompts
        self.pair = prompts[0].unfaithful is not None

    def prefill(self) -> torch.Tensor | None:
        """Read all prompts; returns the attention of the last prompt token of each question to the parts `[B, P]`."""
        through, device = self.through, self.through.device
        read = [self._prefill_question(prompt) for prompt in self.prompts]
        branches = 2 if self.pair else 1
        self.logits = torch.cat([one.logits[branch] for branch in range(branches) for one in read])
        if len(read) == 1 and len(read[0].caches) == 1:
            self._cache = read[0].caches[0]
        else:
            single = [one.caches if len(one.caches) == branches else hf.split_cache(one.caches[0]) for one in read]
            self._cache = hf.join_caches([caches[branch] for branch in range(branches) for caches in single])
        lengths = [len(_ids(prompt, branch)) for branch in range(branches) for prompt in self.prompts]
        longest = max(lengths)
        self._lengths = torch.tensor(lengths, device=device)
        self._mask = (torch.arange(longest, device=device) >= (longest - self._lengths)[:, None]).long()
        self._padded = min(lengths) < longest
        self._segments = None
        if through.watched_heads:
            rows = [through.segment_row(prompt, longest) for prompt in self.prompts]
            self._segments = torch.stack(rows + [torch.full_like(rows[0], -1)] * (len(lengths) - len(rows)))
        return torch.stack([one.share for one in read]) if through.watched_heads else None  # type: ignore[misc]

    def _prefill_question(self, prompt: PairPrompt) -> _Prefilled:
        through = self.through
        cache = prompt.prefix if prompt.prefix is not None else hf.new_cache()
        done = cache.get_seq_length()
        if prompt.unfaithful is None:
            with through.masking():
                logits, share = through.forward([prompt.faithful[done:]], cache, watch=prompt)
            return _Prefilled([cache], [logits], share)
        shared = common_prefix(prompt.faithful, prompt.unfaithful)
        apart = shared < done or (through.mask_prefill and bool(through.masked_heads))
        if not apart and shared > done:
            through.forward([prompt.faithful[done:shared]], cache)
            done = shared
        tails = [prompt.faithful[done:], prompt.unfaithful[0 if apart else done :]]
        if len(tails[0]) == len(tails[1]) and not apart:
            cache.batch_repeat_interleave(2)
            with through.masking([1]):
                logits, share = through.forward(tails, cache, watch=prompt)
            return _Prefilled([cache], [logits[:1], logits[1:]], share)
        other = hf.new_cache() if apart or not done else hf.join_caches([cache])
        faithful, share = through.forward(tails[:1], cache, watch=prompt)
        with through.masking([0]):
            unfaithful, _ = through.forward(tails[1:], other)
        return _Prefilled([cache, other], [faithful, unfaithful], share)

    def advance(self, tokens: torch.Tensor) -> torch.Tensor | None:
        """Feed a token `[B]` to both branches of each question; returns their attention to the parts `[B, P]`."""
        through, count = self.through, len(tokens)
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(self._lengths), 1)], dim=1)
        with contextlib.ExitStack() as stack:
            stack.enter_context(through.stepping())
            capture = None
            if self._segments is not None:
                capture = stack.enter_context(through.watch(self._segments))
            stack.enter_context(through.masking(range(count, 2 * count) if self.pair else None))
            output = through.model(
                input_ids=tokens.repeat(2 if self.pair else 1)[:, None],
                attention_mask=self._mask if self._padded else None,
                position_ids=self._lengths[:, None],
                past_key_values=self._cache,
                use_cache=True,
            )
        self._lengths = self._lengths + 1
        self.logits = output.logits[:, -1]
        return None if capture is None else capture.result()[:count].mean(1)

    def select(self, alive: list[int], count: int) -> None:
        """Keep some of `count` questions."""
        chosen = [*alive, *(count + i for i in alive)] if self.pair else alive
        rows = torch.tensor(chosen, device=self._lengths.device)
        self._cache.batch_select_indices(rows)
        self._mask, self._lengths = self._mask[rows], self._lengths[rows]
        if self._segments is not None:
            self._segments = self._segments[rows]


def _ids(prompt: PairPrompt, branch: int) -> list[int]:
    return prompt.faithful if branch == 0 or prompt.unfaithful is None else prompt.unfaithful


def common_prefix(first: list[int], second: list[int]) -> int:
    """Tokens both prompts start with, leaving at least one of each to run."""
    limit = min(len(first), len(second)) - 1
    return next((i for i in range(limit) if first[i] != second[i]), limit)
