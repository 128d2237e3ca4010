"""Documents that contradict what a model remembers: NQ-Swap, FaithEval, TriState, RAMDocs, RGB.

`answers` are always what the *documents* say: a faithful answer. In `meta`, where a set has them: `memory_answers` (true
in the world, contradicted by the documents: what a model may remember; empty where the set does not tell), `wrong_answers`
(right neither way, or of misleading documents) and `options` with `answer_index` (multiple choice).
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from faithgen.errors import FaithgenError
from faithgen.evaluation.metrics.short_answer import holds, normalise_words

from .base import DataSet, Tables, Tally, numbered
from .rows import Row
from .schema import EvalDocument, Example

_TAG = re.compile(r"</?[A-Za-z]+>")
_STATES = ("C_right_P_right", "C_right_P_wrong", "C_wrong_P_right")
_LEFT = "the remembered answer is still in the documents"


def nq_swap(
    tables: Tables,
    generator: random.Random,
    tally: Tally,
    *,
    all_substitutions: bool = False,
    keep_tags: bool = False,
    swapped: bool = True,
) -> Iterator[Example]:
    """Natural Questions with the answer in the passage replaced by another entity (NQ-Swap, 2109.05052).

    Args:
        all_substitutions (`bool`, *optional*, defaults to `False`):
            Serve every row, as published figures do: the file has several substitutions for most questions, so the rows
            are not independent (give the question as cluster to the intervals). By default one a question, drawn by the
            seed.
        keep_tags (`bool`, *optional*, defaults to `False`): keep NQ's `<P>`, `<Table>`, ... in the passages.
        swapped (`bool`, *optional*, defaults to `True`): `False` serves the passage as it was, a control.
    """
    seen: set[str] = set()
    for row in tables["rows"]:
        question = row.text("question")
        memory, substitute = row.texts("org_answer"), row.texts("sub_answer")
        text = row.text("sub_context" if swapped else "org_context")
        if not keep_tags:
            text = " ".join(_TAG.sub(" ", text).split())
        answers = substitute if swapped else memory
        if question in seen and not all_substitutions:
            tally.dropped["another substitution of the same question"] += 1
        elif not _found(text, answers):
            tally.dropped["the answer is not in the passage"] += 1
        elif swapped and _found(text, memory, less=substitute):
            tally.dropped[_LEFT] += 1
        else:
            seen.add(question)
            meta = {"memory_answers": memory if swapped else []}
            yield Example(row.identity("id"), question, [EvalDocument("1", "", text, True)], answers, None, meta)


def faitheval(
    tables: Tables, generator: random.Random, tally: Tally, *, show_options: bool = True
) -> Iterator[Example]:
    """Multiple choice over a passage that argues for a false answer (FaithEval, counterfactual task; 2410.03727).

    The file does not say which option is true in the world, so `memory_answers` is empty; `wrong_answers` are the other
    options, one of which it is.

    Args:
        show_options (`bool`, *optional*, defaults to `True`): write the options below the question, as `A. ...`.
    """
    for row in tables["rows"]:
        labels, options = _choices(row)
        answer, key = row.text("answer"), row.text("answerKey")
        if answer not in options:
            tally.dropped["the answer is not among the options"] += 1
            continue
        if not row.text("context").strip():
            tally.dropped["no passage"] += 1
            continue
        question = row.text("question")
        if show_options:
            question = "\n".join(
                [question, *(f"{label}. {text}" for label, text in zip(labels, options, strict=True))]
            )
        meta = {
            "memory_answers": [],
            "wrong_answers": [option for option in options if option != answer],
            "options": options,
            "answer_index": options.index(answer),
            "answer_key": key,
        }
        document = EvalDocument("1", "", row.text("context"), True)
        yield Example(row.identity("id"), question, [document], [answer], None, meta)


def tristate(tables: Tables, generator: random.Random, tally: Tally, *, state: str | None = None) -> Iterator[Example]:
    """Facts with a passage that is right or wrong, and a model (Llama-3-8B-Instruct) that knew them or not (TriState).

    `meta["state"]`: `C_right_P_right`, `C_right_P_wrong` or `C_wrong_P_right` (C: passage, P: what that model knew). Only
    the last is a conflict; there `answers` is what the passage claims and `memory_answers` the truth.

    Args:
        state (`str`, *optional*): serve one state only.
    """
    if state is not None and state not in _STATES:
        raise FaithgenError(f"state is {state!r}; give one of {', '.join(_STATES)}, or None for all")
    for row in tables["rows"]:
        found = row.text("state")
        if state not in (None, found):
            tally.dropped["another state"] += 1
            continue
        text, truth, wrong = row.text("context"), row.texts("gold_answers"), row.texts("wrong_answer")
        answers, memory = (wrong, truth) if found == "C_wrong_P_right" else (truth, [])
        if not _found(text, answers):
            tally.dropped["the answer is not in the passage"] += 1
        elif {*map(normalise_words, answers)} & {*map(normalise_words, memory)}:
            tally.dropped["the claimed answer is right"] += 1
        elif _found(text, memory, less=answers):
            tally.dropped[_LEFT] += 1
        else:
            meta = {"memory_answers": memory, "state": found}
            name = f"{found}-{row.identity('fact_id')}"
            yield Example(name, row.text("question"), [EvalDocument("1", "", text, True)], answers, None, meta)


def ramdocs(tables: Tables, generator: random.Random, tally: Tally) -> Iterator[Example]:
    """Ambiguous questions with right, misleading and noise documents (RAMDocs, 2504.13079).

    `answers` are all right answers: the published score asks for each of them and for none of `meta["wrong_answers"]`.
    `meta["unsupported_answers"]`: right answers that no document gives. `meta["kinds"]`: `correct`, `misinfo` or `noise`
    by document id. Gold: `correct`.
    """
    for row in tables["rows"]:
        answers = row.texts("gold_answers")
        right = {normalise_words(answer) for answer in answers}
        wrong = [answer for answer in row.texts("wrong_answers") if normalise_words(answer) not in right]
        if len(wrong) < len(row.texts("wrong_answers")):
            tally.changed["wrong answer that is also a right one left out"] += 1
        parts, kinds, given = [], {}, set()
        for part in row.rows("documents"):
            kind, text = part.text("type"), part.text("text")
            parts.append(("", text, kind == "correct"))
            kinds[text] = kind
            if kind == "correct":
                given.add(normalise_words(part.text("answer")))
        documents = numbered(parts, tally)
        if not any(document.gold for document in documents) or not answers:
            tally.dropped["no document is right" if answers else "no answer"] += 1
            continue
        meta = {
            "wrong_answers": wrong,
            "unsupported_answers": [answer for answer in answers if normalise_words(answer) not in given],
            "kinds": {document.id: kinds[document.text] for document in documents},
        }
        yield Example(row.identity("id"), row.text("question"), documents, answers, None, meta)


def rgb(
    tables: Tables,
    generator: random.Random,
    tally: Tally,
    *,
    passages: int = 5,
    noise_rate: float = 0.0,
    altered: bool = True,
) -> Iterator[Example]:
    """News questions whose passages had their answer replaced (RGB, counterfactual robustness; 2309.01431).

    Passages that were not in fact altered, or still hold the true answer, are left out. Gold: those that hold the answer
    of the documents.

    Args:
        passages (`int`, *optional*, defaults to 5): documents at most; many rows have fewer that answer.
        noise_rate (`float`, *optional*, defaults to 0.0):
            Share of the documents that do not answer, rounded up to whole ones; 0 up to, not with, 1. They are RGB's own
            noise passages, less those that hold either answer.
        altered (`bool`, *optional*, defaults to `True`): `False` serves the passages as they were, a control.
    """
    if isinstance(passages, bool) or not isinstance(passages, int) or passages < 1:
        raise FaithgenError(f"passages is {passages!r}; give a whole number, 1 or more")
    if not 0 <= noise_rate < 1:
        raise FaithgenError(f"noise_rate is {noise_rate!r}; give a number from 0 up to, not with, 1")
    noise_count = min(math.ceil(passages * noise_rate), passages - 1)
    for row in tables["rows"]:
        truth = _flat(row.first("answer"), row)
        fake = row.texts("fakeanswer")
        answers, memory = (fake, truth) if altered else (truth, [])
        unaltered = row.texts("positive")
        texts = row.texts("positive_wrong") if altered else unaltered
        usable = [t for t in texts if not (altered and (t in unaltered or _found(t, memory, less=fake)))]
        tally.changed["passage without altered answer left out"] += len(texts) - len(usable)
        if not any(_found(text, answers) for text in usable):
            tally.dropped["no passage with the answer"] += 1
            continue
        noise = [t for t in row.texts("negative") if not _found(t, [*truth, *fake])]
        chosen = generator.sample(usable, min(len(usable), passages - noise_count))
        if not any(_found(text, answers) for text in chosen):
            chosen[0] = next(text for text in usable if _found(text, answers))
        chosen += noise[:noise_count]
        generator.shuffle(chosen)
        documents = [EvalDocument(str(i), "", t, _found(t, answers)) for i, t in enumerate(dict.fromkeys(chosen), 1)]
        yield Example(row.identity("id"), row.text("query"), documents, answers, None, {"memory_answers": memory})


def _found(text: str, answers: Sequence[str], less: Sequence[str] = ()) -> bool:
    """Whether an answer is in the text, other than as part of one of `less`."""
    if less:
        text = normalise_words(text)
        for phrase in filter(None, map(normalise_words, less)):
            text = f" {text} ".replace(f" {phrase} ", " | ")
    return any(holds(text, answer) for answer in answers)


def _choices(row: Row) -> tuple[list[str], list[str]]:
    if isinstance(row.first("choices"), Mapping):  # the hub: lists side by side
        both = row.object("choices")
        labels, options = both.strings("label"), both.strings("text")
        if len(labels) != len(options):
            raise FaithgenError(f"{both.place} has {len(labels)} labels for {len(options)} texts; give one each")
        return labels, options
    options = row.strings("choices")
    return [chr(ord("A") + number) for number in range(len(options))], options


def _flat(value: Any, row: Row) -> list[str]:
    """RGB's answers: one string, or a list of groups of spellings of which any will do."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Sequence):
        return list(dict.fromkeys(text for item in value for text in _flat(item, row)))
    raise FaithgenError(f"{row.place}: 'answer' is of type {type(value).__name__}; give a string or lists of strings")


SETS = {
    "nq_swap": DataSet(
        nq_swap,
        {"dev": {"rows": "nq_swap/dev.jsonl"}},
        "Natural Questions (dev) with the answer in the passage replaced by another entity",
    ),
    "faitheval": DataSet(
        faitheval,
        {"test": {"rows": "faitheval_counterfactual/counterfactual.jsonl"}},
        "science questions over a passage that argues for a false option; FaithEval's counterfactual task, its only split",
    ),
    "tristate": DataSet(
        tristate,
        {"test": {"rows": "tristate/llama3_8b_instruct.jsonl"}},
        "facts with right or wrong passages; TriState as built for Llama-3-8B-Instruct, its only split",
    ),
    "ramdocs": DataSet(
        ramdocs,
        {"test": {"rows": "ramdocs/test.jsonl"}},
        "ambiguous questions with right, misleading and noise documents; RAMDocs' test split",
    ),
    "rgb": DataSet(
        rgb,
        {"test": {"rows": "rgb_en_fact/en_fact.jsonl"}},
        "news questions whose passages had their answer replaced; RGB's English counterfactual set, its only split",
    ),
}
