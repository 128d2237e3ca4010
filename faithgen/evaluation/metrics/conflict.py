"""Documents against memory: which answer is given (NQ-Swap, FaithEval, RAMDocs), which ending is preferred (MemoTrap)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from faithgen.errors import FaithgenError
from faithgen.evaluation.metrics.short_answer import normalise_words
from faithgen.evaluation.resampling import Estimate
from faithgen.evaluation.statistics import ratio_interval


def context_answer(prediction: str, answers: Sequence[str], memory_answers: Sequence[str]) -> float | None:
    """1.0 if the answer of the documents (the substitute) is in the prediction; its mean is p_s of Longpre et al.

    Whole words count, as in `sub_em`. Where one answer holds the other ("York" and "New York"), the longer one's words
    are not read as the shorter one.

    Args:
        prediction (`str`): the model's answer.
        answers (`Sequence[str]`): what the documents say; any of them will do.
        memory_answers (`Sequence[str]`): what the model is supposed to remember (the original); any of them will do.

    Returns:
        `float`, *optional*: 1.0 or 0.0; `None` where the row tests nothing: one side has no usable answer, or an answer
        is on both sides.
    """
    sides = _sides(answers, memory_answers)
    return float(_holds(prediction, *sides)) if sides else None


def memory_answer(prediction: str, answers: Sequence[str], memory_answers: Sequence[str]) -> float | None:
    """1.0 if the remembered answer (the original) is in the prediction; its mean is p_o. Arguments as `context_answer`."""
    sides = _sides(answers, memory_answers)
    return float(_holds(prediction, *reversed(sides))) if sides else None


def conflict_outcome(prediction: str, answers: Sequence[str], memory_answers: Sequence[str]) -> str | None:
    """`"context"`, `"memory"`, `"both"` or `"neither"`; `None` as in `context_answer`."""
    from_context = context_answer(prediction, answers, memory_answers)
    from_memory = memory_answer(prediction, answers, memory_answers)
    if from_context is None or from_memory is None:
        return None
    return {(1, 1): "both", (1, 0): "context", (0, 1): "memory", (0, 0): "neither"}[
        int(from_context), int(from_memory)
    ]


def both_answers(prediction: str, answers: Sequence[str], memory_answers: Sequence[str]) -> float | None:
    """1.0 if the prediction holds both answers: high where a model lists what it read and what it knows."""
    outcome = conflict_outcome(prediction, answers, memory_answers)
    return None if outcome is None else float(outcome == "both")


def memorisation_ratio(
    memory: Sequence[float | None],
    context: Sequence[float | None],
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    clusters: Sequence[object] | None = None,
) -> Estimate:
    """M_R = p_o / (p_o + p_s), the share of memory among the answers that are one of the two (Longpre et al. 2021).

    As in the code of Context-faithful Prompting (2303.11315), a row that holds both answers counts on both sides.

    Args:
        memory (`Sequence[float | None]`): `memory_answer` of each row.
        context (`Sequence[float | None]`): `context_answer` of the same rows.
        confidence, resamples, seed, clusters: see `statistics.ratio_interval`. NQ-Swap asks each question several times:
            give the question as cluster.

    Returns:
        [`Estimate`]: 0 (documents only) to 1 (memory only). Without a mean, and with the reason, where neither answer was
        ever given.

    Raises:
        FaithgenError: If the two differ in length.
    """
    if len(memory) != len(context):
        raise FaithgenError(f"{len(memory)} memory values for {len(context)} context values; give both for each row")
    both = [None if m is None or c is None else m + c for m, c in zip(memory, context, strict=True)]
    options: dict[str, Any] = {"confidence": confidence, "resamples": resamples, "seed": seed, "clusters": clusters}
    found = ratio_interval(memory, both, **options, shares=True)
    if found.mean is None and found.n:
        return Estimate(
            None, None, None, found.n, found.missing, "no row holds the answer of the documents or of memory"
        )
    return found


def all_and_only(prediction: str, answers: Sequence[str], wrong_answers: Sequence[str]) -> float | None:
    """RAMDocs' strict exact match (2504.13079): 1.0 if all right answers are in the prediction and no wrong one is.

    Args:
        prediction (`str`): the model's answer.
        answers (`Sequence[str]`): right answers; each of them is asked for.
        wrong_answers (`Sequence[str]`): answers of misleading documents; may be empty. One that is right too is passed
            over, and so are its words within a longer right answer.

    Returns:
        `float`, *optional*: 1.0 or 0.0; `None` where no right answer can be used.
    """
    right = _words(answers)
    wrong = [words for words in _words(wrong_answers) if words not in right]
    if not right:
        return None
    found = all(_holds(prediction, [words], [other for other in wrong if other != words]) for words in right)
    return float(found and not _holds(prediction, wrong, right))


def choice(scores: Sequence[float], answer_index: int) -> float:
    """1.0 if the wanted ending has the highest score, strictly; a tie is no preference and counts 0.0.

    MemoTrap and multiple-choice FaithEval: the scores are the model's log-probabilities of the endings, summed over their
    tokens (divide by the number of tokens before, where lengths differ much; say which was done).

    Args:
        scores (`Sequence[float]`): one a choice, two or more, higher is more likely. Negative infinity is allowed.
        answer_index (`int`): place of the wanted one, counted from 0.

    Raises:
        FaithgenError: If there are fewer than two scores, one of them is no number, or the index is out of range.
    """
    _check_choice(scores, answer_index)
    return float(all(scores[answer_index] > score for i, score in enumerate(scores) if i != answer_index))


def choice_margin(scores: Sequence[float], answer_index: int) -> float | None:
    """Score of the wanted ending minus the best other one, in nats for log-probabilities; arguments as in `choice`.

    `None` where a score that it needs is infinite.
    """
    _check_choice(scores, answer_index)
    wanted, other = scores[answer_index], max(score for i, score in enumerate(scores) if i != answer_index)
    return float(wanted - other) if math.isfinite(wanted) and math.isfinite(other) else None


def _check_choice(scores: Sequence[float], answer_index: int) -> None:
    if len(scores) < 2:
        raise FaithgenError(f"a choice of {len(scores)} cannot be scored; give the scores of two or more endings")
    if any(math.isnan(score) or score == math.inf for score in scores):
        raise FaithgenError(f"the scores {list(scores)} hold one that is no number; give log-probabilities")
    if not 0 <= answer_index < len(scores):
        raise FaithgenError(f"answer_index is {answer_index} for {len(scores)} choices; count from 0")


def _sides(answers: Sequence[str], memory_answers: Sequence[str]) -> tuple[list[str], list[str]] | None:
    context, memory = _words(answers), _words(memory_answers)
    return (context, memory) if context and memory and not set(context) & set(memory) else None


def _words(answers: Sequence[str]) -> list[str]:
    return [words for words in map(_spaced, answers) if words]


def _spaced(text: str) -> str:
    # Each word with blanks of its own, so that one phrase can be cut out without a blank of the next.
    return "".join(f" {word} " for word in normalise_words(text).split())


def _holds(prediction: str, wanted: Sequence[str], others: Sequence[str]) -> bool:
    """Whether a wanted phrase (as `_words` writes it) is in the prediction outside of longer phrases of the others."""
    text = _spaced(prediction)
    for phrase in wanted:
        rest = text
        for other in sorted((other for other in others if phrase in other), key=len, reverse=True):
            rest = rest.replace(other, " | ")
        if phrase in rest:
            return True
    return False
