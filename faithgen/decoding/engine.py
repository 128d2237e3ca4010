"""Pair decoding: the faithful and the unfaithful branch of a batch of questions advance in one forward a step.

The engine knows token ids only, no text. Both branches share one prefill up to the token where they part, and, where the
model's attention allows, one stored prefix.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

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

__all__ = ["PairDecoder", "PairPrompt", "StepRow"]


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
    """

    question: int
    token: int
    logprob: float
    jsd: float | None
    context_share: float | None
    finished: bool


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
        branches: Literal["auto", "rows", "tree"] = "auto",
    ):
        hf.check_cache_supported(model)
        self.pair = prompts[0].unfaithful is not None
        if any((prompt.unfaithful is not None) != self.pair for prompt in prompts):
            raise ValueError("either all prompts have an unfaithful branch or none")
        self.contrast, self.max_new_tokens, self.end_tokens = contrast, max_new_tokens, frozenset(end_tokens)
        through = BranchModel(model, masked_heads, contrast.ablation, contrast.mask_prefill, watched_heads)
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
        jsd = None
        scores = faithful
        if self.pair:
            unfaithful = logits[count:].float().log_softmax(-1)
            jsd = jensen_shannon(faithful, unfaithful).tolist()
            scores = combine(faithful, unfaithful, self.contrast)
        tokens = self._sampler(scores, self._questions)
        logprobs = faithful.gather(-1, tokens[:, None])[:, 0].tolist()
        share = None if shares is None else shares.tolist()
        rows = [
            StepRow(
                question,
                token,
                logprobs[i],
                None if jsd is None else jsd[i],
                None if share is None else share[i],
                last or token in self.end_tokens,
            )
            for i, (question, token) in enumerate(zip(self._questions, tokens.tolist(), strict=True))
        ]
        return rows, tokens
