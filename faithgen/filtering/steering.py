"""CAFE stage 2: steer the attention of the question to the evidence while the prompt is read (2505.10063, eq. 7-9)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from faithgen import hf
from faithgen.filtering.coarse import FilterConfig
from faithgen.heads.capture import AttentionCapture
from faithgen.heads.head_set import Head
from faithgen.prompting import Prompt

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel

_CHUNK = 4096


@torch.inference_mode()
def steered_prefill(
    model: PreTrainedModel, prompt: Prompt, heads: Sequence[Head], config: FilterConfig
) -> tuple[DynamicCache, list[int]]:
    """Read a prompt up to the end of its question with attention steered to the evidence.

    The documents are read once. The question is read on top of them twice: unsteered, for the heads' votes, then with
    `delta` added to the scaled attention logits from its tokens to the evidence, in all heads and layers. Tokens after
    the question, and generated ones, are not steered.

    Args:
        model (`PreTrainedModel`), prompt ([`Prompt`]): the kept documents, in their final order.
        heads (`Sequence[tuple[int, int]]`): K2 heads that vote.
        config ([`FilterConfig`]): `steer_top_m` and `delta`.

    Returns:
        The cache of the first `prompt.question[1]` tokens, and the indices of the documents steered to.
    """
    device = hf.device_of(model)
    start, end = prompt.question
    ids = torch.tensor([prompt.input_ids[:end]], device=device)
    cache = hf.new_cache()
    for part in ids[:, :start].split(_CHUNK, dim=1):
        model(input_ids=part, past_key_values=cache, use_cache=True, logits_to_keep=1)
    evidence = _evidence(model, prompt, heads, config, ids, cache)
    hf.crop_cache(cache, start)
    read_steered(model, prompt, evidence, config.delta, cache)
    return cache, evidence


def _evidence(model, prompt: Prompt, heads, config: FilterConfig, ids: torch.Tensor, cache: DynamicCache) -> list[int]:
    """Documents among the `steer_top_m` of any head (eq. 7)."""
    start, end = prompt.question
    segments = torch.full((1, end), -1, device=ids.device)
    for index, document in enumerate(prompt.documents):
        segments[0, document.span[0] : document.span[1]] = index
    rows = torch.arange(start, end, device=ids.device)
    count = len(prompt.documents)
    with AttentionCapture(
        model, heads, rows, keep="documents", segments=segments, num_documents=count, early_exit=True
    ) as capture:
        capture.run(input_ids=ids[:, start:], past_key_values=cache, use_cache=True)
    best = capture.result()[0].topk(min(config.steer_top_m, count), dim=1).indices
    return sorted(set(best.flatten().tolist()))


@torch.inference_mode()
def read_steered(
    model: PreTrainedModel, prompt: Prompt, evidence: Sequence[int], delta: float, cache: DynamicCache
) -> torch.Tensor:
    """Read the question on top of its cached documents with a log-bias on the evidence (eq. 8-9).

    Args:
        model (`PreTrainedModel`), prompt ([`Prompt`])
        evidence (`Sequence[int]`): indices of documents.
        delta (`float`): the bias; 0 changes nothing.
        cache (`DynamicCache`): holds the first `prompt.question[0]` tokens; the question's are added.

    Returns:
        `torch.Tensor` of shape `[1, V]`: logits after the question's last token.
    """
    device = hf.device_of(model)
    start, end = prompt.question
    bias = torch.zeros(end - start, end, device=device)
    for index in evidence:
        first, last = prompt.documents[index].span
        bias[:, first:last] = delta
    mask = hf.biased_mask(model, bias, model.dtype)
    ids = torch.tensor([prompt.input_ids[start:end]], device=device)
    with hf.accepts_4d_mask(model):
        output = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=torch.arange(start, end, device=device)[None],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
    return output.logits[:, -1]
