"""Copying retrieval heads: which heads look at the token that is about to be written (Wu et al., 2404.15574)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from faithgen import hf
from faithgen.detection.instances import DetectionInstance
from faithgen.errors import FaithgenError
from faithgen.heads.capture import AttentionCapture
from faithgen.heads.head_set import Head
from faithgen.prompting import PromptBuilder

if TYPE_CHECKING:
    from faithgen.models import LoadedModel

THRESHOLD = 0.1
"""Copy score from which the paper calls a head a retrieval head."""


def copying_scores(
    loaded: LoadedModel,
    instances: Sequence[DetectionInstance],
    *,
    max_new_tokens: int = 50,
    min_rouge: float = 0.5,
    max_instances: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[list[float]], int, Counter[str]]:
    """Score every head by the share of the needle's tokens that it copies.

    The model answers greedily. Head h copies token w at a step if w is written, its highest attention weight from the
    step's query lies inside a gold document, and the token there is w. `score = |copied by h and in the needle| /
    |needle|` with the needle's tokens as a set, averaged over the instances that the model answers.

    Args:
        loaded ([`LoadedModel`]): the model.
        instances (`Sequence[DetectionInstance]`): `answer` is the needle; it should stand in a gold document.
        max_new_tokens (`int`, *optional*, defaults to 50): most tokens of an answer; it also ends at a line break.
        min_rouge (`float`, *optional*, defaults to 0.5): an instance counts if the ROUGE-1 recall of the needle in the
            model's answer is above this; the others say nothing about copying and are counted as dropped.
        max_instances (`int`, *optional*): stop after this many used.
        progress (`Callable[[int, int], None]`, *optional*): called with (instances read, total).

    Returns:
        Scores `[layers][heads]` from 0 to 1, the number of instances used, and those dropped by reason.
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rouge1"], use_stemmer=True)
    builder = PromptBuilder(loaded.tokenizer, hf.context_window(loaded.model))
    shape = hf.head_shape(loaded.model)
    heads = [(layer, head) for layer in sorted(hf.attention_modules(loaded.model)) for head in range(shape.num_heads)]
    total = torch.zeros(len(heads), dtype=torch.float64)
    used, dropped = 0, Counter[str]()
    for number, instance in enumerate(instances, 1):
        if used == max_instances:
            break
        if progress is not None:
            progress(number, len(instances))
        try:
            prompt = builder.build(instance.question, instance.documents, reserve=max_new_tokens)
        except FaithgenError:
            dropped["longer than the model's window"] += 1
            continue
        gold = [prompt.documents[index] for index in instance.gold]
        inside = {token for place in gold for token in prompt.input_ids[place.text[0] : place.text[1]]}
        needle = {token for lead in ("", " ") for token in builder.data_ids(lead + instance.answer)} & inside
        if any(place.truncated for place in gold):
            dropped["gold document cut by the model's window"] += 1
        elif not needle:
            dropped["the answer's tokens are not in the gold documents"] += 1
        else:
            spans = [place.text for place in gold]
            written, copied = _answer(loaded, heads, prompt.input_ids, spans, needle, max_new_tokens)
            text = loaded.tokenizer.decode(written, skip_special_tokens=True)
            if scorer.score(instance.answer, text)["rouge1"].recall > min_rouge:
                total += torch.tensor([len(tokens) / len(needle) for tokens in copied], dtype=torch.float64)
                used += 1
            else:
                dropped[f"the model's answer misses the needle (ROUGE-1 recall {min_rouge:g} or less)"] += 1
    scores = [[0.0] * shape.num_heads for _ in range(shape.num_layers)]
    for (layer, head), score in zip(heads, (total / max(1, used)).tolist(), strict=True):
        scores[layer][head] = score
    return scores, used, dropped


@torch.inference_mode()
def _answer(
    loaded: LoadedModel,
    heads: Sequence[Head],
    prompt: list[int],
    gold: Sequence[tuple[int, int]],
    needle: set[int],
    max_new_tokens: int,
) -> tuple[list[int], list[set[int]]]:
    """The model's greedy answer, and the needle tokens that each head copied from the gold spans."""
    model, tokenizer = loaded.model, loaded.tokenizer
    device = hf.device_of(model)
    ends = hf.end_tokens(model, tokenizer)
    in_gold = torch.zeros(len(prompt) + max_new_tokens, dtype=torch.bool)
    for start, end in gold:
        in_gold[start:end] = True
    ids = list(prompt)
    cache = hf.new_cache()
    copied: list[set[int]] = [set() for _ in heads]
    step = torch.tensor([ids], device=device)
    with AttentionCapture(model, heads) as capture:
        for _ in range(max_new_tokens):
            logits = model(input_ids=step, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
            places = capture.result()[0, :, 0].argmax(-1).tolist()
            capture.reset()
            token = int(logits[0, -1].argmax())
            if token in ends or "\n" in tokenizer.decode([token]):
                break
            if token in needle:
                for head, place in enumerate(places):
                    if in_gold[place] and ids[place] == token:
                        copied[head].add(token)
            ids.append(token)
            step = torch.tensor([[token]], device=device)
    return ids[len(prompt) :], copied
