"""Pair decoding: the faithful and the unfaithful branch of a batch of questions advance in one forward a step.

The engine knows token ids only, no text. Both branches share one prefill up to the token where they part, and, where the
model's attention allows, one stored prefix.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from faithgen import hf
from faithgen.decoding.branches import BranchModel, PairPrompt, RowBranches
from faithgen.decoding.contrast import ContrastConfig, combine, jensen_shannon
from faithgen.decoding.packing import refresh_packed
from faithgen.decoding.sampling import Sampler, SamplingConfig
from faithgen.decoding.tree import TreeBranches, can_branch
from faithgen.heads.head_set import Head

if TYPE_CHECKING:
    from transformers import PreTrainedModel

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
        branches (`"auto"`, `"rows"` or `"tree"`, *optional*, defaults to `"auto"`):
            How two branches are stored: `"rows"` gives each a copy of the prefix, `"tree"` stores it once (see
            [`can_branch`]), `"auto"` does that where it can. The same tokens, to the rounding of near ties.

    Raises:
        ValueError: If some prompts have an unfaithful branch and others have none, the model's state is not keys and
            values, or `branches="tree"` cannot be.
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
        branches: Literal["auto", "rows", "tree"] = "auto",
    ):
        hf.check_cache_supported(model)
        self.pair = prompts[0].unfaithful is not None
        if any((prompt.unfaithful is not None) != self.pair for prompt in prompts):
            raise ValueError("either all prompts have an unfaithful branch or none")
        self.contrast, self.max_new_tokens, self.end_tokens = contrast, max_new_tokens, frozenset(end_tokens)
        self.prompts, self.alternatives = prompts, alternatives
        parts = max(1, *(len(prompt.documents) for prompt in prompts)) if alternatives else 1
        through = BranchModel(model, masked_heads, contrast.ablation, contrast.mask_prefill, watched_heads, parts)
        tree = branches != "rows" and can_branch(through, prompts)
        if branches == "tree" and not tree:
            raise ValueError("these branches cannot share a stored prefix (see `can_branch`); leave branches='auto'")
        self._branches = (TreeBranches if tree else RowBranches)(through, prompts)
        self._questions = list(range(len(prompts)))
        sampling = sampling or SamplingConfig()
        seeds = [sampling.seed if prompt.seed is None else prompt.seed for prompt in prompts]
        self._sampler = Sampler(sampling, seeds, hf.device_of(model))
        self._stopped: set[int] = set()
        refresh_packed(model)

    def finish(self, question: int) -> None:
        """Stop a question before the next step (a stop string was found in its text)."""
        self._stopped.add(question)

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
    def _prefill(self) -> torch.Tensor | None:
        return self._branches.prefill()

    @torch.inference_mode()
    def _advance(self, alive: list[int], tokens: torch.Tensor) -> torch.Tensor | None:
        if len(alive) < len(self._questions):
            self._branches.select(alive, len(self._questions))
            self._questions = [self._questions[i] for i in alive]
            tokens = tokens[alive]
        return self._branches.advance(tokens)

    @torch.inference_mode()
    def _choose(self, last: bool, shares: torch.Tensor | None) -> tuple[list[StepRow], torch.Tensor]:
        count = len(self._questions)
        logits = self._branches.logits
        faithful = logits[:count].float().log_softmax(-1)
        jsd = unfaithful = None
        scores = faithful
        if self.pair:
            unfaithful = logits[count:].float().log_softmax(-1)
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
        counts = [len(self.prompts[question].documents) for question in self._questions]
        read = [[0.0] * count for count in counts] if shares is None else shares.tolist()
        return [StepDetail(tops[i], others[i], own[i], read[i][: counts[i]]) for i in range(len(tops))]


def _likeliest(logprobs: torch.Tensor, count: int) -> list[list[tuple[int, float]]]:
    """The likeliest tokens of each row of log-probabilities `[B, V]`, with their probabilities."""
    found = logprobs.topk(min(count, logprobs.shape[-1]))
    return [
        list(zip(*row, strict=True)) for row in zip(found.indices.tolist(), found.values.exp().tolist(), strict=True)
    ]
