"""Log-probabilities of given endings, with the two branches combined at each position as decoding combines them."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from faithgen.errors import FaithgenError

if TYPE_CHECKING:
    import torch
    from transformers import DynamicCache, PreTrainedModel

    from faithgen.decoding.contrast import ContrastConfig
    from faithgen.heads.head_set import Head

_CHUNK = 4096


@dataclass(frozen=True)
class EndingPrompt:
    """A prompt and the endings to be scored after it, as token ids.

    Attributes:
        faithful (`list[int]`): prompt of the faithful branch, one token or more.
        endings (`list[list[int]]`): one token or more each.
        unfaithful (`list[int]`, *optional*): prompt of the other branch (the same ids for masked heads); `None` scores
            the faithful branch alone.
    """

    faithful: list[int]
    endings: list[list[int]]
    unfaithful: list[int] | None = None


@dataclass(frozen=True)
class EndingScore:
    """Score of one ending.

    Attributes:
        logprob (`float`): sum over its tokens of the log-probability in the combined distribution, in nats.
        greedy (`bool`): whether greedy decoding would write it.
        tokens (`int`): its length.
    """

    logprob: float
    greedy: bool
    tokens: int


def score_endings(
    model: PreTrainedModel,
    prompts: Sequence[EndingPrompt],
    contrast: ContrastConfig,
    *,
    masked_heads: Sequence[Head] = (),
    batch_size: int = 8,
) -> list[list[EndingScore]]:
    """Score endings as [`PairDecoder`] would have decoded them.

    At each position the two branches are combined by [`combine`] and normalised over the vocabulary. Heads are masked
    where decoding masks them: from the last prompt token on, or throughout with `contrast.mask_prefill`. A prompt's
    endings share its prefill; the scores do not depend on what else is in the batch.

    Args:
        model (`PreTrainedModel`): a decoder with attention layers only.
        prompts (`Sequence[EndingPrompt]`): all with an unfaithful branch, or none.
        contrast ([`ContrastConfig`]): how the branches are combined.
        masked_heads (`Sequence[tuple[int, int]]`, *optional*): heads masked in the unfaithful branch.
        batch_size (`int`, *optional*, defaults to 8): endings in one forward (twice as many rows with two branches).

    Returns:
        `list[list[EndingScore]]`: for each prompt its endings in order.

    Raises:
        FaithgenError: If a prompt or ending is empty, or both together are longer than the model's window.
        ValueError: If some prompts have an unfaithful branch and others have none.
    """
    from faithgen import hf

    hf.check_cache_supported(model)
    if len({prompt.unfaithful is None for prompt in prompts}) > 1:
        raise ValueError("either all prompts have an unfaithful branch or none")
    window = hf.context_window(model)
    for prompt in prompts:
        branches = [prompt.faithful] + ([] if prompt.unfaithful is None else [prompt.unfaithful])
        if not all(branches) or not all(prompt.endings):
            raise FaithgenError("a prompt or an ending has no tokens; give text for both")
        longest = max(map(len, branches)) + max(map(len, prompt.endings), default=1) - 1
        if longest > window:
            raise FaithgenError(f"prompt and ending are {longest} tokens, more than the model's window of {window}")
    scores: list[list[EndingScore | None]] = [[None] * len(prompt.endings) for prompt in prompts]
    items = [(p, e) for p, prompt in enumerate(prompts) for e in range(len(prompt.endings))]
    # a cache without positions cannot be joined with others: prompts of one token go apart
    for alone in (False, True):
        chosen = [(p, e) for p, e in items if (_shortest(prompts[p]) == 1) == alone]
        for start in range(0, len(chosen), batch_size):
            part = chosen[start : start + batch_size]
            rows = [(prompts[p], prompts[p].endings[e]) for p, e in part]
            for (p, e), score in zip(part, _score(model, rows, contrast, masked_heads, alone), strict=True):
                scores[p][e] = score
    return scores  # type: ignore[return-value]


def _shortest(prompt: EndingPrompt) -> int:
    return min(len(prompt.faithful), len(prompt.faithful if prompt.unfaithful is None else prompt.unfaithful))


def _score(
    model: PreTrainedModel,
    rows: list[tuple[EndingPrompt, list[int]]],
    contrast: ContrastConfig,
    masked_heads: Sequence[Head],
    alone: bool,
) -> list[EndingScore]:
    import torch

    from faithgen.decoding.contrast import combine

    with torch.inference_mode():
        logits = _tail_logits(model, rows, contrast, masked_heads, alone)
        found = []
        for index, (prompt, ending) in enumerate(rows):
            n = len(ending)
            combined = logits[index, :n].float().log_softmax(-1)
            if prompt.unfaithful is not None:
                other = logits[len(rows) + index, :n].float().log_softmax(-1)
                combined = combine(combined, other, contrast).log_softmax(-1)
            target = torch.tensor(ending, device=combined.device)
            picked = combined.gather(-1, target[:, None])[:, 0]
            greedy = bool((combined.argmax(-1) == target).all())
            found.append(EndingScore(float(picked.double().sum()), greedy, n))
    return found


def _tail_logits(model, rows, contrast, masked_heads: Sequence[Head], alone: bool) -> torch.Tensor:
    """Logits `[rows of the faithful, then of the unfaithful branch, longest ending, V]` that predict each ending."""
    import torch

    from faithgen import hf

    device = hf.device_of(model)
    pair = rows[0][0].unfaithful is not None
    prefixes: dict[int, list[DynamicCache]] = {}
    for prompt, _ in rows:
        if id(prompt) not in prefixes and not alone:
            prefixes[id(prompt)] = _prefill(model, prompt, contrast, masked_heads)
    tails, lengths, caches = [], [], []
    for branch in range(2 if pair else 1):
        for prompt, ending in rows:
            ids = prompt.faithful if branch == 0 else prompt.unfaithful
            # without a cache the whole prompt is in the tail, and masked heads are masked throughout; of a prompt of one
            # token that is its last one, as in decoding
            tails.append((ids if alone else ids[-1:]) + ending[:-1])
            lengths.append(0 if alone else len(ids) - 1)
            if not alone:
                caches.append(prefixes[id(prompt)][branch])
    longest, width = max(lengths), max(map(len, tails))
    ids = torch.zeros(len(tails), width, dtype=torch.long, device=device)
    mask = torch.zeros(len(tails), longest + width, dtype=torch.long, device=device)
    for index, (tail, length) in enumerate(zip(tails, lengths, strict=True)):
        ids[index, : len(tail)] = torch.tensor(tail, device=device)
        mask[index, longest - length : longest + len(tail)] = 1
    positions = torch.tensor(lengths, device=device)[:, None] + torch.arange(width, device=device)
    cache = hf.new_cache() if alone else hf.join_caches(caches)
    with _masked(model, masked_heads, range(len(rows), 2 * len(rows)) if pair else (), contrast):
        logits = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        ).logits
    if not alone:
        return logits
    shifted = []
    for index, tail in enumerate(tails):
        n = len(rows[index % len(rows)][1])
        part = logits[index, len(tail) - n : len(tail)]
        shifted.append(torch.nn.functional.pad(part, (0, 0, 0, width - n)))
    return torch.stack(shifted)


def _prefill(model, prompt: EndingPrompt, contrast, masked_heads: Sequence[Head]) -> list[DynamicCache]:
    """A cache of all tokens of the prompt but the last, for each branch."""
    from faithgen import hf

    first = prompt.faithful[:-1]
    cache = hf.new_cache()
    if prompt.unfaithful is None:
        _read(model, first, cache)
        return [cache]
    second = prompt.unfaithful[:-1]
    apart = contrast.mask_prefill and bool(masked_heads)
    limit = 0 if apart else min(len(first), len(second))
    shared = next((i for i in range(limit) if first[i] != second[i]), limit)
    _read(model, first[:shared], cache)
    other = hf.join_caches([cache]) if shared else hf.new_cache()
    _read(model, first[shared:], cache)
    with _masked(model, masked_heads, [0], contrast) if apart else contextlib.nullcontext():
        _read(model, second[shared:], other)
    return [cache, other]


def _read(model, ids: list[int], cache: DynamicCache) -> None:
    import torch

    from faithgen import hf

    if ids:
        for part in torch.tensor([ids], device=hf.device_of(model)).split(_CHUNK, dim=1):
            model(input_ids=part, past_key_values=cache, use_cache=True, logits_to_keep=1)


def _masked(model, heads: Sequence[Head], rows: Sequence[int], contrast) -> contextlib.AbstractContextManager[None]:
    from faithgen.heads.ablation import mask_heads

    if not heads or not rows:
        return contextlib.nullcontext()
    return mask_heads(model, heads, rows=rows, mode=contrast.ablation)
