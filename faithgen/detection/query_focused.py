"""Query-focused retrieval heads: which heads look from the question to its evidence (QRHead, 2506.09944, eq. 2-4)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from faithgen import hf
from faithgen.detection.instances import DetectionInstance
from faithgen.errors import FaithgenError
from faithgen.filtering.attention import document_attention
from faithgen.prompting import PromptBuilder

if TYPE_CHECKING:
    from faithgen.models import LoadedModel


def query_focused_scores(
    loaded: LoadedModel,
    instances: Sequence[DetectionInstance],
    *,
    normalise: bool = True,
    calibrate: bool = True,
    max_instances: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[list[float]], int, Counter[str]]:
    """Score every head by the attention it gives, from the question, to the gold documents.

    Args:
        loaded ([`LoadedModel`]): the model.
        instances (`Sequence[DetectionInstance]`): at least two documents each; more, and harder, distractors tell heads
            apart better.
        normalise (`bool`, *optional*, defaults to `True`):
            Divide by the attention to all documents (CAFE's beta, eq. 1-2): heads that spend most of their attention
            elsewhere compete on equal terms. `False` is QRHead's eq. 2.
        calibrate (`bool`, *optional*, defaults to `True`): subtract the content-free question's attention first (QRHead
            eq. 4), as the ranking does.
        max_instances (`int`, *optional*): stop after this many used.
        progress (`Callable[[int, int], None]`, *optional*): called with (done, total).

    Returns:
        Scores `[layers][heads]`, the mean over instances (0 to 1 if normalised); heads without full attention score 0. The
        number of instances used, and those dropped by reason.
    """
    builder = PromptBuilder(loaded.tokenizer, hf.context_window(loaded.model))
    shape = hf.head_shape(loaded.model)
    layers = sorted(hf.attention_modules(loaded.model))
    heads = [(layer, head) for layer in layers for head in range(shape.num_heads)]
    total = torch.zeros(len(heads), dtype=torch.float64)
    used, dropped = 0, Counter[str]()
    wanted = min(len(instances), max_instances or len(instances))
    for instance in instances:
        if used == wanted:
            break
        if len(set(range(len(instance.documents))) - set(instance.gold)) == 0:
            dropped["no distractor document"] += 1
            continue
        try:
            attention, prompt = document_attention(
                loaded.model, builder, heads, instance.question, instance.documents, calibrate=calibrate
            )
        except FaithgenError:
            dropped["longer than the model's window"] += 1
            continue
        if any(prompt.documents[index].truncated for index in instance.gold):
            dropped["gold document cut by the model's window"] += 1
            continue
        if normalise:
            attention = attention.clamp(min=0)
            attention = attention / attention.sum(1, keepdim=True).clamp(min=1e-12)
        total += attention[:, instance.gold].sum(1).double()
        used += 1
        if progress is not None:
            progress(used, wanted)
    scores = [[0.0] * shape.num_heads for _ in range(shape.num_layers)]
    for (layer, head), score in zip(heads, (total / max(1, used)).tolist(), strict=True):
        scores[layer][head] = score
    return scores, used, dropped
