"""Pair decoding: the faithful and the unfaithful branch of a batch of questions advance in one forward a step.

The engine knows token ids only, no text. Both branches share one prefill up to the token where they part.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from faithgen import hf
from faithgen.decoding.contrast import ContrastConfig, combine, jensen_shannon
from faithgen.decoding.packing import packed_linears, refresh_packed
from faithgen.decoding.sampling import Sampler, SamplingConfig
from faithgen.decoding.step_attention import single_query_steps
from faithgen.heads.ablation import mask_heads
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
class StepDetail:
    """What a token was chosen among, and where the watched heads looked then.

    Attributes:
        faithful (`list[tuple[int, float]]`): the likeliest tokens of the faithful branch with their probabilities.
        unfaithful (`list[tuple[int, float]]`, *optional*): the same of the other branch; `None` without one.
        unfaithful_probability (`float`, *optional*): of the chosen token in the other branch.
        attention (`list[float]`): share (0 to 1) of the watched heads' attention on each span of `PairPrompt.documents`.
    """

    faithful: list[tuple[int, float]]
    unfaithful: list[tuple[int, float]] | None
    unfaithful_probability: float | None
    attention: list[float]


@dataclass(frozen=True)
class StepRow:
    """One new token of one question.

    Attributes:
        question (`int`): index into the prompts.
        token (`int`): token id.
        logprob (`float`): its log-probability in the faithful branch, in nats.
        jsd (`float`, *optional*): Jensen-Shannon divergence of the two branches, in nats (0 to 0.693).
        context_share (`float`, *optional*): share (0 to 1) of the watched heads' attention that lies on the documents.
        finished (`bool`): the token ends the answer, or it is the last one allowed.
        detail ([`StepDetail`], *optional*): where alternatives were asked for.
    """

    question: int
    token: int
    logprob: float
    jsd: float | None
    context_share: float | None
    finished: bool
    detail: StepDetail | None = None


@dataclass(frozen=True)
class _Prefilled:
    """One question after its prefill: a cache of two rows or one cache a branch, next-token logits `[1, V]` of each."""

    caches: list[DynamicCache]
    logits: list[torch.Tensor]
    share: torch.Tensor | None


class PairDecoder:
    """Decodes a batch of questions; iterate to get a list of [`StepRow`] a step.

    Args:
        model (`PreTrainedModel`): a decoder with attention layers only.
        prompts (`Sequence[PairPrompt]`): all with an unfaithful branch, or none.
        contrast ([`ContrastConfig`]): how the branches are combined.
        sampling ([`SamplingConfig`]): how a token is chosen.
        max_new_tokens (`int`): most tokens an answer gets.
        end_tokens (`Sequence[int]`): ids that end an answer.
        masked_heads (`Sequence[tuple[int, int]]`, *optional*):
            Heads masked in the unfaithful rows; without an unfaithful branch in the one there is, prefill and steps.
        watched_heads (`Sequence[tuple[int, int]]`, *optional*): heads whose attention on the documents is reported.
        alternatives (`int`, *optional*, defaults to 0):
            Above 0, rows carry a [`StepDetail`] with this many tokens of each branch. It changes no token.

    Raises:
        ValueError: If some prompts have an unfaithful branch and others have none, or the model's state is not keys and
            values.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        prompts: Sequence[PairPrompt],
        contrast: ContrastConfig,
        sampling: SamplingConfig | None = None,
        *,
        max_new_tokens: int,
        end_tokens: Sequence[int],
        masked_heads: Sequence[Head] = (),
        watched_heads: Sequence[Head] = (),
        alternatives: int = 0,
    ):
        hf.check_cache_supported(model)
        self.pair = prompts[0].unfaithful is not None
        if any((prompt.unfaithful is not None) != self.pair for prompt in prompts):
            raise ValueError("either all prompts have an unfaithful branch or none")
        self.model, self.prompts, self.contrast = model, prompts, contrast
        self.max_new_tokens, self.end_tokens = max_new_tokens, frozenset(end_tokens)
        self.masked_heads, self.watched_heads = masked_heads, watched_heads
        self.alternatives = alternatives
        self._parts = max(len(prompt.documents) for prompt in prompts) if alternatives else 1
        self.device = hf.device_of(model)
        sampling = sampling or SamplingConfig()
        seeds = [sampling.seed if prompt.seed is None else prompt.seed for prompt in prompts]
        self._sampler = Sampler(sampling, seeds, self.device)
        self._stopped: set[int] = set()
        refresh_packed(model)

    def finish(self, question: int) -> None:
        """Stop a question before the next step (a stop string was found in its text)."""
        self._stopped.add(question)

    @torch.inference_mode()
    def _prefill(self) -> torch.Tensor | None:
        """Read all prompts; returns the attention of the last prompt token of each question to its parts `[B, P]`."""
        read = [self._prefill_question(prompt) for prompt in self.prompts]
        branches = 2 if self.pair else 1
        self._questions = list(range(len(self.prompts)))
        self._logits = torch.cat([one.logits[branch] for branch in range(branches) for one in read])
        if len(read) == 1 and len(read[0].caches) == 1:
            self._cache = read[0].caches[0]
        else:
            single = [one.caches if len(one.caches) == branches else hf.split_cache(one.caches[0]) for one in read]
            self._cache = hf.join_caches([caches[branch] for branch in range(branches) for caches in single])
        lengths = [len(_ids(prompt, branch)) for branch in range(branches) for prompt in self.prompts]
        longest = max(lengths)
        self._lengths = torch.tensor(lengths, device=self.device)
        self._mask = (torch.arange(longest, device=self.device) >= (longest - self._lengths)[:, None]).long()
        self._padded = min(lengths) < longest
        self._segments = None
        if self.watched_heads:
            rows = [self._segment_row(prompt, longest) for prompt in self.prompts]
            self._segments = torch.stack(rows + [torch.full_like(rows[0], -1)] * (len(lengths) - len(rows)))
        return torch.stack([one.share for one in read]) if self.watched_heads else None  # type: ignore[misc]

    def _prefill_question(self, prompt: PairPrompt) -> _Prefilled:
        cache = prompt.prefix if prompt.prefix is not None else hf.new_cache()
        done = cache.get_seq_length()
        if prompt.unfaithful is None:
            with self._masked_rows(None):
                logits, share = self._forward([prompt.faithful[done:]], cache, watch=prompt)
            return _Prefilled([cache], [logits], share)
        shared = _common_prefix(prompt.faithful, prompt.unfaithful)
        apart = shared < done or (self.contrast.mask_prefill and bool(self.masked_heads))
        if not apart and shared > done:
            self._forward([prompt.faithful[done:shared]], cache)
            done = shared
        tails = [prompt.faithful[done:], prompt.unfaithful[0 if apart else done :]]
        if len(tails[0]) == len(tails[1]) and not apart:
            cache.batch_repeat_interleave(2)
            with self._masked_rows([1]):
                logits, share = self._forward(tails, cache, watch=prompt)
            return _Prefilled([cache], [logits[:1], logits[1:]], share)
        other = hf.new_cache() if apart or not done else hf.join_caches([cache])
        faithful, share = self._forward(tails[:1], cache, watch=prompt)
        with self._masked_rows([0]):
            unfaithful, _ = self._forward(tails[1:], other)
        return _Prefilled([cache, other], [faithful, unfaithful], share)

    def _forward(
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
        segments = self._segment_row(watch, len(watch.faithful)).expand(len(ids), -1)
        with self._watch(segments) as capture:
            logits = self.model(input_ids=last, **inputs).logits[:, -1]
        return logits, capture.result()[0].mean(0)

    def _watch(self, segments: torch.Tensor) -> AttentionCapture:
        return AttentionCapture(
            self.model, self.watched_heads, keep="documents", segments=segments, num_documents=self._parts
        )

    def _masked_rows(self, rows: Sequence[int] | None) -> contextlib.AbstractContextManager[None]:
        if not self.masked_heads:
            return contextlib.nullcontext()
        return mask_heads(self.model, self.masked_heads, rows=rows, mode=self.contrast.ablation)

    def _segment_row(self, prompt: PairPrompt, length: int) -> torch.Tensor:
        """`[length]` with the part of each column and -1 outside of documents; the prompt stands at the end.

        Each document is a part where details are asked for, else they are one."""
        row = torch.full((length,), -1, device=self.device)
        offset = length - len(prompt.faithful)
        for index, (start, end) in enumerate(prompt.documents):
            row[offset + start : offset + end] = index if self.alternatives else 0
        return row

    # --- steps --------------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[list[StepRow]]:
        shares = self._prefill()
        for step in range(1, self.max_new_tokens + 1):
            rows, tokens = self._choose(last=step == self.max_new_tokens, shares=shares)
            yield rows
            alive = [i for i, row in enumerate(rows) if not row.finished and row.question not in self._stopped]
            if not alive:
                return
            shares = self._advance(alive, tokens)

    @torch.inference_mode()
    def _choose(self, last: bool, shares: torch.Tensor | None) -> tuple[list[StepRow], torch.Tensor]:
        count = len(self._questions)
        faithful = self._logits[:count].float().log_softmax(-1)
        jsd = unfaithful = None
        scores = faithful
        if self.pair:
            unfaithful = self._logits[count:].float().log_softmax(-1)
            jsd = jensen_shannon(faithful, unfaithful).tolist()
            scores = combine(faithful, unfaithful, self.contrast)
        tokens = self._sampler(scores, self._questions)
        logprobs = faithful.gather(-1, tokens[:, None])[:, 0].tolist()
        share = None if shares is None else shares.sum(-1).tolist()
        details = self._details(faithful, unfaithful, tokens, shares) if self.alternatives else [None] * count
        rows = [
            StepRow(
                question,
                token,
                logprobs[i],
                None if jsd is None else jsd[i],
                None if share is None else share[i],
                last or token in self.end_tokens,
                details[i],
            )
            for i, (question, token) in enumerate(zip(self._questions, tokens.tolist(), strict=True))
        ]
        return rows, tokens

    def _details(
        self,
        faithful: torch.Tensor,
        unfaithful: torch.Tensor | None,
        tokens: torch.Tensor,
        shares: torch.Tensor | None,
    ) -> list[StepDetail | None]:
        """The detail of each live question, from log-probabilities `[B, V]`, chosen tokens and attention `[B, P]`."""
        tops = _likeliest(faithful, self.alternatives)
        others: Sequence[Any] = [None] * len(tops)
        own: Sequence[Any] = [None] * len(tops)
        if unfaithful is not None:
            others = _likeliest(unfaithful, self.alternatives)
            own = unfaithful.gather(-1, tokens[:, None])[:, 0].exp().tolist()
        read = [[0.0] * self._parts] * len(tops) if shares is None else shares.tolist()
        parts = [len(self.prompts[question].documents) for question in self._questions]
        return [StepDetail(tops[i], others[i], own[i], read[i][: parts[i]]) for i in range(len(tops))]

    @torch.inference_mode()
    def _advance(self, alive: list[int], tokens: torch.Tensor) -> torch.Tensor | None:
        """Feed the chosen tokens of the live questions to both branches; returns their attention to the parts `[B, P]`."""
        count = len(self._questions)
        if len(alive) < count:
            self._select(alive, count)
            tokens = tokens[alive]
            count = len(alive)
        branches = 2 if self.pair else 1
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(self._lengths), 1)], dim=1)
        with contextlib.ExitStack() as stack:
            stack.enter_context(packed_linears(self.model))
            stack.enter_context(single_query_steps(self.model))
            capture = None
            if self._segments is not None:
                capture = stack.enter_context(self._watch(self._segments))
            stack.enter_context(self._masked_rows(range(count, 2 * count) if self.pair else None))
            output = self.model(
                input_ids=tokens.repeat(branches)[:, None],
                attention_mask=self._mask if self._padded else None,
                position_ids=self._lengths[:, None],
                past_key_values=self._cache,
                use_cache=True,
            )
        self._lengths = self._lengths + 1
        self._logits = output.logits[:, -1]
        return None if capture is None else capture.result()[:count].mean(1)

    def _select(self, alive: list[int], count: int) -> None:
        """Drop the rows of finished questions."""
        rows = torch.tensor([*alive, *(count + i for i in alive)] if self.pair else alive, device=self.device)
        self._cache.batch_select_indices(rows)
        self._mask, self._lengths = self._mask[rows], self._lengths[rows]
        if self._segments is not None:
            self._segments = self._segments[rows]
        self._questions = [self._questions[i] for i in alive]


def _ids(prompt: PairPrompt, branch: int) -> list[int]:
    return prompt.faithful if branch == 0 or prompt.unfaithful is None else prompt.unfaithful


def _likeliest(logprobs: torch.Tensor, count: int) -> list[list[tuple[int, float]]]:
    """The likeliest tokens of each row of log-probabilities `[B, V]`, with their probabilities."""
    found = logprobs.topk(min(count, logprobs.shape[-1]))
    return [
        list(zip(*row, strict=True)) for row in zip(found.indices.tolist(), found.values.exp().tolist(), strict=True)
    ]


def _common_prefix(first: list[int], second: list[int]) -> int:
    """Tokens both prompts start with, leaving at least one of each to run."""
    limit = min(len(first), len(second)) - 1
    return next((i for i in range(limit) if first[i] != second[i]), limit)
