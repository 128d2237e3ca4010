"""What the scoring heads' attention gives each document: one prefill, ended early, read as it goes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from faithgen import hf
from faithgen.documents import Document
from faithgen.filtering.prefix_store import Prefix, PrefixStore
from faithgen.heads.capture import AttentionCapture
from faithgen.heads.head_set import Head
from faithgen.prompting import Prompt, PromptBuilder

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel

NULL_QUESTION = "N/A"
"""The content-free question of ICR's calibration."""
_CHUNK = 4096
"""Tokens a forward of the scoring pass takes at most; bounds the activations of long prompts."""


def document_attention(
    model: PreTrainedModel,
    builder: PromptBuilder,
    heads: Sequence[Head],
    question: str,
    documents: Sequence[Document],
    *,
    calibrate: bool = False,
    store: PrefixStore | None = None,
) -> tuple[torch.Tensor, Prompt]:
    """Attention from the question to each document, by head (CAFE's alpha; QRscore, QRHead eq. 2).

    One prefill of the prompt up to the end of the question, ended in the deepest chosen layer. The calibration reads
    the content-free question on top of the same cached documents: never a second full pass.

    Args:
        model (`PreTrainedModel`), builder ([`PromptBuilder`]): the model and its prompts.
        heads (`Sequence[tuple[int, int]]`): `(layer, query head)` pairs.
        question (`str`), documents (`Sequence[Document]`)
        calibrate (`bool`, *optional*, defaults to `False`): subtract the content-free question's attention.
        store ([`PrefixStore`], *optional*):
            Where the documents' keys and values are kept: asked about the same documents again, only the question is read.

    Returns:
        `torch.Tensor` of shape `[len(heads), len(documents)]`, fp32 on the CPU: mean over question tokens of the sum
        over document tokens, 0 to 1 (a difference of such where calibrated); and the [`Prompt`] that was read.
    """
    asked, null, prompt = attention_and_null(
        model, builder, heads, question, documents, calibrate=calibrate, store=store
    )
    return (asked if null is None else asked - null), prompt


@torch.inference_mode()
def attention_and_null(
    model: PreTrainedModel,
    builder: PromptBuilder,
    heads: Sequence[Head],
    question: str,
    documents: Sequence[Document],
    *,
    calibrate: bool = True,
    store: PrefixStore | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None, Prompt]:
    """The two parts of [`document_attention`]: the question's, and the content-free question's if `calibrate`."""
    prompt = builder.build(question, documents)
    start, end = prompt.question
    ids, depth = prompt.input_ids, max(layer for layer, _ in heads)
    prefix = None if store is None else store.take(ids[:start], depth)
    if prefix is None and (store is not None or calibrate or len(ids) > _CHUNK):
        prefix = Prefix(tuple(ids[:start]), depth, hf.new_cache())
    cache = None if prefix is None else prefix.cache
    asked = _question_attention(model, heads, prompt, ids[:end], (start, end), cache)
    null = None
    if calibrate:
        assert prefix is not None
        key, rest = tuple(heads), null_question(builder)
        if key not in prefix.nulls:
            hf.crop_cache(prefix.cache, start)
            span = (start, start + len(rest))
            prefix.nulls[key] = _question_attention(model, heads, prompt, ids[:start] + rest, span, prefix.cache)
        null = prefix.nulls[key]
    if store is not None and prefix is not None:
        hf.crop_cache(prefix.cache, start)
        store.put(prefix)
    return asked, null, prompt


def null_question(builder: PromptBuilder) -> list[int]:
    """Token ids of the content-free question, as they stand in the place of a question."""
    return builder.data_ids(" " + NULL_QUESTION)


def _question_attention(
    model: PreTrainedModel,
    heads: Sequence[Head],
    prompt: Prompt,
    ids: list[int],
    rows: tuple[int, int],
    cache: DynamicCache | None,
) -> torch.Tensor:
    """Attention `[H, D]` of the tokens `rows` to the documents; reads what the cache does not hold of `ids`."""
    device = hf.device_of(model)
    segments = torch.full((1, len(ids)), -1, device=device)
    for index, document in enumerate(prompt.documents):
        segments[0, document.span[0] : document.span[1]] = index
    capture = AttentionCapture(
        model,
        heads,
        torch.arange(*rows, device=device),
        keep="documents",
        segments=segments,
        num_documents=len(prompt.documents),
        early_exit=True,
    )
    done = cache.get_seq_length() if cache is not None else 0
    with capture:
        for part in torch.tensor([ids[done:]], device=device).split(_CHUNK, dim=1):
            capture.run(input_ids=part, past_key_values=cache, use_cache=cache is not None)
    return capture.result()[0].cpu()
