"""Prompts that only evaluation needs: without documents, without control tokens, endings of MemoTrap; and their decoding."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from faithgen.answer import AnswerToken
from faithgen.decoding.contrast import ContrastConfig
from faithgen.evaluation.continuations import EndingPrompt
from faithgen.prompting import FAITHFUL, UNFAITHFUL, PromptBuilder

if TYPE_CHECKING:
    from faithgen.decoding.engine import PairPrompt
    from faithgen.decoding.sampling import SamplingConfig
    from faithgen.generator import FaithfulGenerator
    from faithgen.heads.head_set import Head

ChoiceStyle = Literal["completion", "chat"]


@dataclass(frozen=True)
class Decoded:
    """Text that was decoded from a prompt of token ids.

    Attributes:
        text (`str`): without what follows a stop string, and without white space around it.
        tokens (`list[AnswerToken]`): its tokens with their signals.
        finish_reason (`str`): `"end"`, `"stop"` or `"length"`.
    """

    text: str
    tokens: list[AnswerToken]
    finish_reason: str


class _PlainBuilder(PromptBuilder):
    """Prompts of a model trained with control tokens as if it had none."""

    @property
    def has_control_tokens(self) -> bool:
        return False


def without_control(generator: FaithfulGenerator) -> FaithfulGenerator:
    """The same generator with prompts that hold no control token; itself where the model has none."""
    if not generator.builder.has_control_tokens:
        return generator
    plain = copy.copy(generator)
    builder = generator.builder
    plain.builder = _PlainBuilder(
        builder.tokenizer, builder.window, builder.instruction, builder.control_position, builder.without_documents
    )
    return plain


def masked_heads(generator: FaithfulGenerator, contrast: ContrastConfig) -> list[Head]:
    """The heads that a contrast masks; none for other sources than heads."""
    from faithgen import hf

    if generator.contrast_source(contrast) != "heads":
        return []
    shape = hf.head_shape(generator.loaded.model)
    return generator.copying_heads.top(contrast.heads_to_mask(shape.num_layers * shape.num_heads))


def decode_text(
    generator: FaithfulGenerator,
    prompts: Sequence[PairPrompt],
    contrast: ContrastConfig,
    *,
    sampling: SamplingConfig | None = None,
    max_new_tokens: int = 128,
    stop: Sequence[Sequence[str]] | None = None,
) -> list[Decoded]:
    """Decode prompts of token ids, all together.

    Args:
        generator ([`FaithfulGenerator`]): model and heads.
        prompts (`Sequence[PairPrompt]`): all with an unfaithful branch, or none.
        contrast ([`ContrastConfig`]): how the branches are combined.
        sampling ([`SamplingConfig`], *optional*): greedy by default.
        max_new_tokens (`int`, *optional*, defaults to 128): most tokens of a text.
        stop (`Sequence[Sequence[str]]`, *optional*): for each prompt the strings that end its text.

    Returns:
        `list[Decoded]`: in order.
    """
    from faithgen import hf
    from faithgen.decoding.engine import PairDecoder

    tokenizer = generator.loaded.tokenizer
    ends = hf.end_tokens(generator.loaded.model, tokenizer)
    decoder = PairDecoder(
        generator.loaded.model,
        prompts,
        contrast,
        sampling,
        max_new_tokens=max_new_tokens,
        end_tokens=sorted(ends),
        masked_heads=masked_heads(generator, contrast),
    )
    ids: list[list[int]] = [[] for _ in prompts]
    texts = [""] * len(prompts)
    tokens: list[list[AnswerToken]] = [[] for _ in prompts]
    reasons = ["length"] * len(prompts)
    for rows in decoder:
        for row in rows:
            at = row.question
            if reasons[at] == "stop":
                continue
            if row.token in ends:
                reasons[at] = "end"
                continue
            ids[at].append(row.token)
            whole = str(tokenizer.decode(ids[at], skip_special_tokens=True))
            added = "" if whole.endswith("\ufffd") and not row.finished else whole[len(texts[at]) :]
            tokens[at].append(AnswerToken(added, row.token, row.logprob, row.jsd, row.context_share))
            texts[at] += added
            places = [place for word in (stop[at] if stop else ()) if (place := texts[at].find(word)) >= 0]
            if places:
                texts[at], reasons[at] = texts[at][: min(places)], "stop"
                decoder.finish(at)
    return [Decoded(text.strip(), one, reason) for text, one, reason in zip(texts, tokens, reasons, strict=True)]


def closed_book_prompt(generator: FaithfulGenerator, question: str, reserve: int) -> PairPrompt:
    """The question without documents, in one branch: what the `context` contrast takes for its unfaithful branch."""
    from faithgen.decoding.engine import PairPrompt

    return PairPrompt(generator.builder.build(question, [], reserve=reserve).input_ids)


def stem(prompt: str) -> str | None:
    """A MemoTrap prompt without its instruction, which is its context in CAD (2305.14739); `None` where it has none.

    `Write a quote that ends in the word "heavy": Absence makes the heart grow` and the translations (`... to: ...`) have
    one; questions with options do not.
    """
    for mark in ("\nto:\n", '": '):
        before, found, after = prompt.partition(mark)
        if found and before.strip() and after.strip():
            return after
    return None


def ending_prompt(
    generator: FaithfulGenerator,
    prompt: str,
    endings: Sequence[str],
    contrast: ContrastConfig,
    style: ChoiceStyle = "completion",
) -> EndingPrompt | str:
    """A prompt and its possible endings as token ids, for [`score_endings`].

    Args:
        generator ([`FaithfulGenerator`]): its prompts hold control tokens if its model has them.
        prompt (`str`): text that breaks off.
        endings (`Sequence[str]`): with their leading blank.
        contrast ([`ContrastConfig`]): decides what the unfaithful branch reads.
        style (`str`, *optional*, defaults to `"completion"`):
            `"completion"`: the bare text, as the published figures have it. `"chat"`: the text as the user's question and
            the ending as the answer, the only place where a control token can stand.

    Returns:
        [`EndingPrompt`], or the reason (`str`) why there is none for this row.
    """
    builder, source = generator.builder, generator.contrast_source(contrast)
    other = prompt
    if source == "context":
        rest = stem(prompt)
        if rest is None:
            return "the prompt has no instruction that could be left out"
        other = rest
    if style == "completion":
        if builder.has_control_tokens or source == "control":
            return "a control token has no place in a bare text; use --choice-style chat"
        opening = builder.tokenizer("", verbose=False)["input_ids"][:1]
        faithful, unfaithful = (opening + builder.data_ids(text) for text in (prompt, other))
        ids = [builder.data_ids(ending) for ending in endings]
    else:
        control = FAITHFUL if builder.has_control_tokens else None
        faithful = builder.build(prompt, [], control=control).input_ids
        control = UNFAITHFUL if source == "control" else control
        unfaithful = builder.build(other, [], control=control).input_ids
        chat = builder.tokenizer.chat_template is not None  # a turn of its own begins without a blank
        ids = [builder.data_ids(ending.strip() if chat else ending) for ending in endings]
    return EndingPrompt(faithful, ids, None if source == "none" else unfaithful)
