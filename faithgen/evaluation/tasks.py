"""How the rows of each set are asked and scored: instruction, length of the answer, metrics, and the one in front."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from faithgen.evaluation.datasets.schema import Example
from faithgen.evaluation.metrics import METRICS
from faithgen.evaluation.metrics.long_answer import rouge

Kind = Literal["short", "long", "choice", "rank"]

LONG_INSTRUCTION = (
    "Read the passages and answer the question in a few sentences. Say so if the passages do not answer it."
)
LONG_WITHOUT_DOCUMENTS = "Answer the question in a few sentences. Say so if you do not know the answer."
ENDING_INSTRUCTION = "Complete the text."

FOUND = 0.5
"""Share of the needle's words from which it counts as found (Wu et al., 2404.15574)."""

_OPTION = re.compile(r"\(?([A-Za-z]|\d)\)?[.:)]?")


@dataclass(frozen=True)
class Task:
    """How a set is asked and scored.

    Attributes:
        kind (`str`): `"short"` or `"long"` answers, `"choice"` between given endings, or `"rank"`.
        headline (`tuple[str, ...]`): metrics for the front of a report; the first that has a value is the main one.
        max_new_tokens (`int`): most tokens of an answer.
        instruction (`str`, *optional*), without_documents (`str`, *optional*): first line of the prompt; the generator's own
            where `None`.
        group (`str`, *optional*): name in `meta` by which figures are broken down.
    """

    kind: Kind
    headline: tuple[str, ...]
    max_new_tokens: int = 32
    instruction: str | None = None
    without_documents: str | None = None
    group: str | None = None


_SHORT = Task("short", ("sub_em", "f1"))
_LONG = Task("long", ("support_mean", "rougeLsum", "answer_words"), 200, LONG_INSTRUCTION, LONG_WITHOUT_DOCUMENTS)
_CONFLICT = ("sub_em", "memory_answer")
RANK = Task("rank", ("ndcg@10", "recall@1", "recall@4"))
"""The re-ranking suite, whatever the set."""

TASKS: dict[str, Task] = {
    **dict.fromkeys(("nq_hard", "nq_random", "hotpotqa", "2wiki"), _SHORT),
    "musique": Task("short", ("sub_em", "f1"), group="hops"),
    "nq_swap": Task("short", _CONFLICT),
    "rgb": Task("short", _CONFLICT),
    "tristate": Task("short", _CONFLICT, group="state"),
    # a small model may list all options: that holds the right one, and the wrong ones
    "faitheval": Task("short", ("all_and_only", "sub_em")),
    "ramdocs": Task("short", ("all_and_only", "sub_em"), 48),
    "niah": Task("short", ("needle_recall", "needle_found"), 48),
    **dict.fromkeys(("eli5_webgpt", "expertqa", "hagrid"), _LONG),
    "clapnq": Task("long", (*_LONG.headline, "refused"), 200, LONG_INSTRUCTION, LONG_WITHOUT_DOCUMENTS),
    "clapnq_unanswerable": Task("long", ("abstained_rightly",), 200, LONG_INSTRUCTION, LONG_WITHOUT_DOCUMENTS),
    "quotesum": Task("long", (*_LONG.headline, "short_answer_recall"), 200, LONG_INSTRUCTION, LONG_WITHOUT_DOCUMENTS),
    "memotrap": Task("choice", ("choice", "choice_margin"), 1, None, ENDING_INSTRUCTION, "task"),
    **dict.fromkeys(("scifact", "trec_dl19"), RANK),
}
"""Tasks by the name of the set, without its options."""

_RELEVANT_FROM = {"trec_dl19": 2}

_TEXT_METRICS: dict[Kind, tuple[str, ...]] = {
    "short": (
        *("sub_em", "sub_em_substring", "em", "f1", "context_answer", "memory_answer", "both_answers"),
        *("all_and_only", "answer_words", "refused", "abstained_rightly"),
    ),
    "long": (
        *("rougeL", "rougeLsum", "short_answer_recall", "str_em", "copied"),
        *("answer_words", "refused", "abstained_rightly"),
    ),
}
_RANK_METRICS = ("ndcg@10", "recall@1", "recall@4", "recall@10", "success@1", "success@4", "mrr@10")


def task_of(name: str, examples: Iterable[Example]) -> Task:
    """The task of a set; that of a set of a user's own is told from its rows.

    Args:
        name (`str`): the set, without options.
        examples (`Iterable[Example]`): its rows.
    """
    if name in TASKS:
        return TASKS[name]
    examples = list(examples)
    if any(example.answers for example in examples):
        return _SHORT
    if any(example.meta.get("relevance") for example in examples):
        return RANK
    return _LONG


def score_text(name: str, task: Task, prediction: str, example: Example) -> dict[str, float | None]:
    """All metrics of an answer that apply to its row.

    Args:
        name (`str`): the set.
        task ([`Task`]): of kind `"short"` or `"long"`.
        prediction (`str`): the answer. Where the row has options and the answer is one's letter alone, that option is read.
        example ([`Example`]): the row.

    Returns:
        `dict[str, float | None]`: by metric; `None` where it is not defined for the row.
    """
    text = chosen_option(prediction, example) or prediction
    scores = {n: METRICS[n](text, example) for n in _TEXT_METRICS[task.kind] if _applies(n, example)}
    if name == "niah":
        recalls = (rouge(prediction, answer, "rouge1", "recall") for answer in example.answers)
        recall = max((value for value in recalls if value is not None), default=None)
        scores = {"needle_recall": recall, "needle_found": None if recall is None else float(recall > FOUND), **scores}
    return scores


def score_choice(logprobs: Sequence[float], example: Example) -> dict[str, float | None]:
    """Metrics of the endings' log-probabilities."""
    return {name: METRICS[name](list(logprobs), example) for name in ("choice", "choice_margin")}


def score_ranking(name: str, ranking: Sequence[str], example: Example) -> dict[str, float | None]:
    """Metrics of a ranking of document ids, best first."""
    fields: dict[str, Any] = {"relevance": example.relevance}
    if name in _RELEVANT_FROM:
        fields["min_relevance"] = _RELEVANT_FROM[name]
    return {metric: METRICS[metric](list(ranking), fields) for metric in _RANK_METRICS}


def chosen_option(prediction: str, example: Example) -> str | None:
    """The option that an answer names by its letter or number alone, if the row has options."""
    options = example.meta.get("options")
    match = _OPTION.fullmatch(prediction.strip())
    if not options or match is None:
        return None
    mark = match[1].upper()
    index = int(mark) - 1 if mark.isdigit() else ord(mark) - ord("A")
    return options[index] if 0 <= index < len(options) else None


@cache
def higher_is_better(metric: str) -> bool | None:
    """Whether more is better; `None` where neither is."""
    if metric in METRICS:
        return METRICS[metric].higher_is_better
    return None if metric == "doubt" else metric != "memorisation_ratio"


def describe(metric: str) -> str:
    """One line on a metric."""
    if metric in METRICS:
        return METRICS[metric].description
    return {
        "needle_recall": "share of the needle's words in the answer (ROUGE-1 recall)",
        "needle_found": f"more than {FOUND:.0%} of them",
        "support_mean": "mean probability that a sentence of the answer is supported by the documents, by the scorer",
        "support_minimum": "that of the least supported sentence",
        "support_share": "share of the answer's sentences that the scorer calls supported",
        "memorisation_ratio": "remembered answers among those remembered or read (M_R)",
        "doubt": "the model's own doubt, 0 to 1",
    }.get(metric, metric)


def _applies(name: str, example: Example) -> bool:
    metric = METRICS[name]
    return not metric.needs or metric.applies_to(example)
