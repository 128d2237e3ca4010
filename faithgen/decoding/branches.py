"""The branches of a batch of questions on the way through the model: prefill, then one forward a step.

[`RowBranches`] gives every branch a row of the batch with a cache of its own, whatever the prompts and the model. It is the
reference. [`faithgen.decoding.tree.TreeBranches`] stores what both branches share once, where it can.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import torch
from torch import nn

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


class Branches(ABC):
    """The branches of a batch of questions after some tokens; what rows and trees of branches have in common.

    A question has `rows_a_question` rows in the cache, and in a step each row has `queries` tokens; one of the two is 2 for
    a pair. `read` makes the branches of one question, `join` a batch of several.

    Attributes:
        logits (`torch.Tensor` of shape `[B, branches, V]`): of the next token, the faithful branch's first.
        attention (`torch.Tensor` of shape `[B, P]`, *optional*):
            Share of the watched heads' attention on each part of the documents, at the last token read.
    """

    def __init__(
        self,
        through: BranchModel,
        cache: DynamicCache,
        seen: torch.Tensor,
        lengths: torch.Tensor,
        logits: torch.Tensor,
        attention: torch.Tensor | None = None,
        segments: torch.Tensor | None = None,
    ):
        self.through, self.cache, self.logits, self.attention = through, cache, logits, attention
        self.seen = seen  # [rows, queries, columns]: what the next queries may see
        self.lengths = lengths  # [rows]: position of the next token
        self.segments = segments  # [rows, columns of the prompt]: part of each column, or -1
        self.rows_a_question = len(lengths) // len(logits)
        self.padded = not bool(seen.all())
        self.kind: type[Branches] = type(self)

    @abstractmethod
    def advance(self, tokens: torch.Tensor) -> None:
        """Feed a token `[B]` to the branches of each question."""

    @classmethod
    def join(cls, several: Sequence[Self]) -> Self:
        """One batch of several, in order; their prompts may have any length."""
        if len(several) == 1:
            return several[0]
        for one in several:
            one._drop_unseen()
        longest = max(one.seen.shape[-1] for one in several)
        attention = [one.attention for one in several if one.attention is not None]
        segments = [_widened(one.segments, one.seen.shape[-1], longest) for one in several if one.segments is not None]
        return cls(
            several[0].through,
            hf.join_caches([one.cache for one in several]),
            torch.cat([nn.functional.pad(one.seen, (longest - one.seen.shape[-1], 0)) for one in several]),
            torch.cat([one.lengths for one in several]),
            torch.cat([one.logits for one in several]),
            torch.cat(attention) if attention else None,
            torch.cat(segments) if segments else None,
        )

    def select(self, questions: Sequence[int]) -> None:
        """Keep some questions."""
        chosen = torch.tensor(list(questions), device=self.lengths.device)
        rows = (
            chosen[:, None] * self.rows_a_question + torch.arange(self.rows_a_question, device=chosen.device)
        ).flatten()
        self.cache.batch_select_indices(rows)
        self.seen, self.lengths, self.logits = self.seen[rows], self.lengths[rows], self.logits[chosen]
        self.attention = None if self.attention is None else self.attention[chosen]
        self.segments = None if self.segments is None else self.segments[rows]

    def _drop_unseen(self) -> None:
        """Leave out the first columns, as far as only finished questions saw them."""
        if not self.padded:
            return
        start = int(self.seen.flatten(0, 1).any(0).int().argmax())
        hf.drop_first(self.cache, start)
        self.seen = self.seen[..., start:]
        self.segments = None if self.segments is None else self.segments[:, start:]

    def _watching(self, stack: contextlib.ExitStack) -> AttentionCapture | None:
        return None if self.segments is None else stack.enter_context(self.through.watch(self.segments))


class RowBranches(Branches):
    """Every branch is a row with a cache of its own: a question's faithful one, then its unfaithful one."""

    @classmethod
    def read(cls, through: BranchModel, prompt: PairPrompt) -> RowBranches:
        """Run the prompts of one question through the model, what they share once."""
        cache = prompt.prefix if prompt.prefix is not None else hf.new_cache()
        done = cache.get_seq_length()
        if prompt.unfaithful is None:
            with through.masking():
                logits, attention = through.forward([prompt.faithful[done:]], cache, watch=prompt)
            return cls._of(through, prompt, cache, logits, attention)
        shared = common_prefix(prompt.faithful, prompt.unfaithful)
        apart = shared < done or (through.mask_prefill and bool(through.masked_heads))
        if not apart and shared > done:
            through.forward([prompt.faithful[done:shared]], cache)
            done = shared
        tails = [prompt.faithful[done:], prompt.unfaithful[0 if apart else done :]]
        if len(tails[0]) == len(tails[1]) and not apart:
            cache.batch_repeat_interleave(2)
            with through.masking([1]):
                logits, attention = through.forward(tails, cache, watch=prompt)
            return cls._of(through, prompt, cache, logits, attention)
        other = hf.new_cache() if apart or not done else hf.join_caches([cache])
        faithful, attention = through.forward(tails[:1], cache, watch=prompt)
        with through.masking([0]):
            unfaithful, _ = through.forward(tails[1:], other)
        both = hf.join_caches([cache, other])
        return cls._of(through, prompt, both, torch.cat([faithful, unfaithful]), attention)

    @classmethod
    def _of(
        cls,
        through: BranchModel,
        prompt: PairPrompt,
        cache: DynamicCache,
        logits: torch.Tensor,
        attention: torch.Tensor | None,
    ) -> RowBranches:
        prompts = [prompt.faithful, *([] if prompt.unfaithful is None else [prompt.unfaithful])]
        lengths = torch.tensor([len(ids) for ids in prompts], device=logits.device)
        longest = cache.get_seq_length()
        seen = torch.arange(longest, device=logits.device) >= (longest - lengths)[:, None]
        segments = None
        if attention is not None:
            row = through.segment_row(prompt, longest)
            segments = torch.stack([row, *[torch.full_like(row, -1)] * (len(prompts) - 1)])
            attention = attention[None]
        return cls(through, cache, seen[:, None], lengths, logits[None], attention, segments)

    def advance(self, tokens: torch.Tensor) -> None:
        through, ways = self.through, self.rows_a_question
        self.seen = nn.functional.pad(self.seen, (0, 1), value=True)
        with contextlib.ExitStack() as stack:
            stack.enter_context(through.stepping())
            capture = self._watching(stack)
            stack.enter_context(through.masking(range(1, len(self.lengths), 2) if ways == 2 else None))
            output = through.model(
                input_ids=tokens.repeat_interleave(ways)[:, None],
                attention_mask=self.seen[:, 0].long() if self.padded else None,
                position_ids=self.lengths[:, None],
                past_key_values=self.cache,
                use_cache=True,
            )
        self.lengths = self.lengths + 1
        self.logits = output.logits[:, -1].unflatten(0, (-1, ways))
        self.attention = None if capture is None else capture.result()[::ways].mean(1)


def _widened(segments: torch.Tensor, columns: int, longest: int) -> torch.Tensor:
    """Segments over all columns up to now, padded on the left to the longest."""
    return nn.functional.pad(segments, (longest - columns, columns - segments.shape[-1]), value=-1)


def common_prefix(first: list[int], second: list[int]) -> int:
    """Tokens both prompts start with, leaving at least one of each to run."""
    limit = min(len(first), len(second)) - 1
    return next((i for i in range(limit) if first[i] != second[i]), limit)
