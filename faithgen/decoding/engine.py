"""Pair decoding: the faithful and the unfaithful branch of a batch of questions advance in one forward a step.

The engine knows token ids only, no text. Both branches share one prefill up to the token where they part, and, where the
model's attention allows, one stored prefix.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from faithgen import hf
from faithgen.decoding.branches import Branches, BranchModel, PairPrompt, RowBranches
from faithgen.decoding.compiled import CompiledBranches
from faithgen.decoding.contrast import ContrastConfig, combine, jensen_shannon
from faithgen.decoding.packing import refresh_packed
from faithgen.decoding.sampling import Sampler, SamplingConfig
from faithgen.decoding.tree import TreeBranches, can_branch
from faithgen.heads.head_set import Head

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_MIXED = "either all prompts have an unfaithful branch or none"
__all__ = ["PairDecoder", "PairPrompt", "StepDetail", "StepRow"]


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


class PairDecoder:
    """Decodes questions together; iterate to get a list of [`StepRow`] a step, one for each live question.

    Args:
        model (`PreTrainedModel`): a decoder with attention layers only.
        prompts (`Iterable[PairPrompt]`):
            All with an unfaithful branch, or none. One is taken when there is a slot for it, so they may be made on the way.
        contrast ([`ContrastConfig`]): how the branches are combined.
        sampling ([`SamplingConfig`]): how a token is chosen.
        max_new_tokens (`int`): most tokens an answer gets.
        end_tokens (`Sequence[int]`): ids that end an answer.
        masked_heads (`Sequence[tuple[int, int]]`, *optional*):
            Heads masked in the unfaithful branch; without one, in the only branch there is, prefill and steps.
        watched_heads (`Sequence[tuple[int, int]]`, *optional*): heads whose attention on the documents is reported.
        alternatives (`int`, *optional*, defaults to 0):
            Above 0, rows carry a [`StepDetail`] with this many tokens of each branch. It changes no token.
        slots (`int`, *optional*): questions decoded together, by default all; a finished one makes room for the next.
        branches (`"auto"`, `"rows"` or `"tree"`, *optional*, defaults to `"auto"`):
            How two branches are stored: `"rows"` gives each a copy of the prefix, `"tree"` stores it once (see
            [`can_branch`]), `"auto"` does that where it can. The same tokens, to the rounding of near ties.
        compiled (`bool`, *optional*, defaults to `False`):
            Run the steps at fixed shapes through `torch.compile`. The first step of a shape takes a minute; models that it
            cannot run ([`faithgen.hf.compiles`]: sliding windows, several devices, ...) go without.

    Raises:
        ValueError: If some prompts have an unfaithful branch and others have none, the model's state is not keys and
            values, or `branches="tree"` cannot be.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        prompts: Iterable[PairPrompt],
        contrast: ContrastConfig,
        sampling: SamplingConfig | None = None,
        *,
        max_new_tokens: int,
        end_tokens: Sequence[int],
        masked_heads: Sequence[Head] = (),
        watched_heads: Sequence[Head] = (),
        alternatives: int = 0,
        slots: int | None = None,
        branches: Literal["auto", "rows", "tree"] = "auto",
        compiled: bool = False,
    ):
        hf.check_cache_supported(model)
        parts = 1
        if alternatives:
            prompts = list(prompts)
            parts = max(1, *(len(prompt.documents) for prompt in prompts))
        if isinstance(prompts, Sequence) and len({prompt.unfaithful is None for prompt in prompts}) > 1:
            raise ValueError(_MIXED)
        self.contrast, self.max_new_tokens, self.end_tokens = contrast, max_new_tokens, frozenset(end_tokens)
        self.alternatives, self.slots, self.branches = alternatives, slots, branches
        self._through = BranchModel(
            model, masked_heads, contrast.ablation, contrast.mask_prefill, watched_heads, parts
        )
        self.compiled = compiled and hf.compiles(model)
        self._waiting = enumerate(prompts)
        self._sampler = Sampler(sampling or SamplingConfig(), hf.device_of(model))
        self._groups: list[_Group] = []
        self._made: dict[int, int] = {}
        self._parts: dict[int, int] = {}
        self._stopped: set[int] = set()
        self._pair: bool | None = None
        refresh_packed(model)

    def finish(self, question: int) -> None:
        """Stop a question before the next step (a stop string was found in its text)."""
        self._stopped.add(question)

    def __iter__(self) -> Iterator[list[StepRow]]:
        self._admit()
        while self._groups:
            chosen = [self._choose(group) for group in self._groups]
            yield [row for rows, _ in chosen for row in rows]
            self._advance(chosen)
            self._admit()

    # --- questions come and go ----------------------------------------------------------------------------------------

    @torch.inference_mode()
    def _admit(self) -> None:
        """Read prompts while there are slots for them."""
        live = sum(len(group.questions) for group in self._groups)
        new: list[_Group] = []
        while self.slots is None or live + len(new) < self.slots:
            question, prompt = next(self._waiting, (-1, None))
            if prompt is None:
                break
            new.append(_Group(self._read(prompt), [question]))
            self._made[question], self._parts[question] = 0, len(prompt.documents)
            self._sampler.add(question, prompt.seed)
        if new:
            self._groups = self._joined(new)

    def _joined(self, new: list[_Group]) -> list[_Group]:
        """All groups, the new ones joined to those of their kind."""
        kinds: dict[type[Branches], list[_Group]] = {}
        for group in [*self._groups, *new]:
            kinds.setdefault(group.branches.kind, []).append(group)
        return [self._one(several) for several in kinds.values()]

    def _one(self, several: list[_Group]) -> _Group:
        """One group of several of a kind; compiled branches, if there are any, come first and take the others in."""
        questions = [question for group in several for question in group.questions]
        running = several[0].branches
        dynamic = [group.branches for group in several if isinstance(group.branches, Branches)]
        joined = running.kind.join(dynamic) if dynamic else None
        if isinstance(running, CompiledBranches):
            if joined is not None:
                running.admit(joined)
            return _Group(running, questions)
        assert joined is not None
        if self.compiled:
            return _Group(CompiledBranches(joined, self.slots or len(questions), self.max_new_tokens), questions)
        return _Group(joined, questions)

    def _read(self, prompt: PairPrompt) -> Branches:
        pair = prompt.unfaithful is not None
        if self._pair is None:
            self._pair = pair
        if self._pair != pair:
            raise ValueError(_MIXED)
        tree = self.branches != "rows" and can_branch(self._through, prompt)
        if self.branches == "tree" and not tree:
            raise ValueError("these branches cannot share a stored prefix (see `can_branch`); leave branches='auto'")
        return (TreeBranches if tree else RowBranches).read(self._through, prompt)

    @torch.inference_mode()
    def _advance(self, chosen: list[tuple[list[StepRow], torch.Tensor]]) -> None:
        """Let finished questions go and feed the others their tokens."""
        groups, self._groups = self._groups, []
        for group, (rows, tokens) in zip(groups, chosen, strict=True):
            alive = [i for i, row in enumerate(rows) if not row.finished and row.question not in self._stopped]
            for question in {row.question for row in rows} - {rows[i].question for i in alive}:
                self._forget(question)
            if not alive:
                continue
            if len(alive) < len(rows):
                group.branches.select(alive)
                group.questions = [group.questions[i] for i in alive]
                tokens = tokens[alive]
            group.branches.advance(tokens)
            self._groups.append(group)

    def _forget(self, question: int) -> None:
        self._stopped.discard(question)
        del self._made[question], self._parts[question]
        self._sampler.drop(question)

    # --- a token each -------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def _choose(self, group: _Group) -> tuple[list[StepRow], torch.Tensor]:
        logits, shares = group.branches.logits, group.branches.attention
        faithful = logits[:, 0].float().log_softmax(-1)
        unfaithful, scores = None, faithful
        if self._pair:
            unfaithful = logits[:, 1].float().log_softmax(-1)
            scores = combine(faithful, unfaithful, self.contrast)
        tokens = self._sampler(scores, group.questions)
        details = self._details(group, faithful, unfaithful, tokens) if self.alternatives else [None] * len(logits)
        found = [tokens.float(), faithful.gather(-1, tokens[:, None])[:, 0]]  # ids are below 2^24: exact
        if unfaithful is not None:
            found.append(jensen_shannon(faithful, unfaithful))
        if shares is not None:
            found.append(shares.sum(-1))
        rows = []
        for question, values, detail in zip(group.questions, torch.stack(found, 1).tolist(), details, strict=True):
            token, logprob, *signals = values
            jsd = signals.pop(0) if self._pair else None
            share = signals.pop(0) if signals else None
            self._made[question] += 1
            finished = token in self.end_tokens or self._made[question] == self.max_new_tokens
            rows.append(StepRow(question, int(token), logprob, jsd, share, finished, detail))
        return rows, tokens

    def _details(
        self, group: _Group, faithful: torch.Tensor, unfaithful: torch.Tensor | None, tokens: torch.Tensor
    ) -> list[StepDetail | None]:
        """The detail of each question, from log-probabilities `[B, V]` and chosen tokens `[B]`."""
        tops = _likeliest(faithful, self.alternatives)
        others: Sequence[Any] = [None] * len(tops)
        own: Sequence[Any] = [None] * len(tops)
        if unfaithful is not None:
            others = _likeliest(unfaithful, self.alternatives)
            own = unfaithful.gather(-1, tokens[:, None])[:, 0].exp().tolist()
        shares, counts = group.branches.attention, [self._parts[question] for question in group.questions]
        read = [[0.0] * count for count in counts] if shares is None else shares.tolist()
        return [StepDetail(tops[i], others[i], own[i], read[i][: counts[i]]) for i in range(len(tops))]


@dataclass
class _Group:
    """Questions whose branches go through the model together."""

    branches: Branches | CompiledBranches
    questions: list[int]


def _likeliest(logprobs: torch.Tensor, count: int) -> list[list[tuple[int, float]]]:
    """The likeliest tokens of each row of log-probabilities `[B, V]`, with their probabilities."""
    found = logprobs.topk(min(count, logprobs.shape[-1]))
    return [
        list(zip(*row, strict=True)) for row in zip(found.indices.tolist(), found.values.exp().tolist(), strict=True)
    ]
