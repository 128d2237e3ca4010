"""Sampling answers with heads masked, on our own engine."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from faithgen import hf
from faithgen.decoding.contrast import ContrastConfig
from faithgen.decoding.engine import PairDecoder, PairPrompt
from faithgen.decoding.sampling import SamplingConfig
from faithgen.errors import FaithgenError
from faithgen.heads.ablation import Ablation
from faithgen.heads.head_set import Head, HeadSet
from faithgen.training.filters import Sample

if TYPE_CHECKING:
    from faithgen.models import LoadedModel

DEFAULT_SHARE = 0.05
"""Share of all heads that is masked where nothing else is said; that of contrastive decoding's masked branch."""


class EngineSampler:
    """Samples answers of a model, with heads masked in prefill and decoding or whole.

    Args:
        loaded ([`LoadedModel`]): the model.
        heads (`Sequence[tuple[int, int]]`): heads to mask; none: the model as it is.
        ablation (`"zero"` or `"uniform"`): what masking does, see [`mask_heads`].
        temperature (`float`), top_p (`float`), max_new_tokens (`int`): of the sampling.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        heads: Sequence[Head],
        ablation: Ablation,
        *,
        temperature: float,
        top_p: float,
        max_new_tokens: int,
    ):
        self.loaded, self.heads, self.ablation = loaded, list(heads), ablation
        self.sampling, self.max_new_tokens = SamplingConfig(temperature, top_p), max_new_tokens
        self._ends = hf.end_tokens(loaded.model, loaded.tokenizer)

    def __call__(self, prompts: Sequence[list[int]], seeds: Sequence[int]) -> list[Sample]:
        """Sample one answer a prompt, all together; each draws from a stream of its own seed."""
        decoder = PairDecoder(
            self.loaded.model,
            [PairPrompt(prompt, seed=seed) for prompt, seed in zip(prompts, seeds, strict=True)],
            ContrastConfig(source="none", ablation=self.ablation),
            self.sampling,
            max_new_tokens=self.max_new_tokens,
            end_tokens=sorted(self._ends),
            masked_heads=self.heads,
        )
        ids: list[list[int]] = [[] for _ in prompts]
        for rows in decoder:
            for row in rows:
                ids[row.question].append(row.token)
        return [self._sample(tokens) for tokens in ids]

    def _sample(self, tokens: list[int]) -> Sample:
        finished = bool(tokens) and tokens[-1] in self._ends
        text = self.loaded.tokenizer.decode(tokens[:-1] if finished else tokens, skip_special_tokens=True)
        return Sample(str(text).strip(), finished)


def choose_heads(
    head_set: HeadSet, *, count: int | None = None, share: float | None = None, threshold: float | None = None
) -> list[Head]:
    """The best heads of a set, best first, by number, by share of all heads, or from a score on.

    RHIO masks 100 of 1,024 heads (a share of 0.098), RetMask those of at least 0.1 (33 of Llama-3.1-8B's 1,024).

    Raises:
        FaithgenError: If more than one is given, a value is out of range, or no head reaches the threshold.
    """
    if sum(value is not None for value in (count, share, threshold)) > 1:
        raise FaithgenError("give the heads to mask by count (--top), share or threshold, only one of them")
    if threshold is not None:
        heads = head_set.above(threshold)
        if not heads:
            raise FaithgenError(
                f"no head has a score of {threshold} or more; lower the threshold or give a count or share"
            )
        return heads
    total = head_set.num_layers * head_set.num_heads
    if count is None:
        share = DEFAULT_SHARE if share is None else share
        if not 0 < share <= 1:
            raise FaithgenError(f"share is {share}; give a share of the heads above 0 and up to 1")
        count = max(1, round(share * total))
    return head_set.top(count)


def row_seed(seed: int, identity: str, branch: str = "") -> int:
    """A seed for one row, so that its sample depends on neither the order nor the batch."""
    digest = hashlib.sha256(f"{seed}\x1f{identity}\x1f{branch}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
