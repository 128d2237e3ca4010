"""Metrics of one row each: `METRICS[name](prediction, example)` is a number, or `None` where the row cannot be scored."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from faithgen.errors import FaithgenError
from faithgen.evaluation.metrics import conflict, long_answer, ranking, refusal, short_answer


@dataclass(frozen=True)
class Metric:
    """One metric and what it needs.

    Attributes:
        name (`str`): as in reports.
        function (`Callable`): `function(prediction, **fields)` for one row; a float, or `None` where it is not defined.
        needs (`tuple[str, ...]`):
            Fields of the example that it reads: `answers`; `references` (else `long_answer`); `relevance` (else the gold
            labels of the documents); `passages` (else the texts of the documents); or a name in `meta`.
        higher_is_better (`bool`, *optional*): `None` where neither is.
        description (`str`): one line for a report.
        reads (`str`):
            What a prediction is: `"text"` (the answer), `"ranking"` (document ids, best first) or `"scores"` (one a choice).
        may_need (`tuple[str, ...]`): fields that are passed on where the example has them.
        share (`bool`): its values lie from 0 to 1.
    """

    name: str
    function: Callable[..., float | None]
    needs: tuple[str, ...]
    higher_is_better: bool | None
    description: str
    reads: str = "text"
    may_need: tuple[str, ...] = ()
    share: bool = True

    def __call__(self, prediction: Any, example: Any) -> float | None:
        """Score one row.

        Args:
            prediction (`str` or `Sequence`): see `reads`; `None` where there is none.
            example: an `Example`, or a mapping of the same fields, with or without `meta`.

        Returns:
            `float`, *optional*: `None` where there is no prediction, the example lacks a field, or the metric is not
            defined for the row. `statistics.bootstrap_interval` counts these.

        Raises:
            FaithgenError: If the prediction is of the wrong type.
        """
        if prediction is None:
            return None
        if isinstance(prediction, str) != (self.reads == "text") or not isinstance(prediction, Sequence):
            raise FaithgenError(
                f"{self.name} reads {self.reads}; the prediction is of type {type(prediction).__name__}"
            )
        fields = {name: field_of(example, name) for name in self.needs}
        if any(value is None for value in fields.values()):
            return None
        more = {name: field_of(example, name) for name in self.may_need}
        return self.function(
            prediction, **fields, **{name: value for name, value in more.items() if value is not None}
        )

    def applies_to(self, example: Any) -> bool:
        """Whether an example has all that the metric needs; only `wrong_answers` may be empty."""
        values = {name: field_of(example, name) for name in self.needs}
        return all(
            value not in (None, "", [], {}) or (name, value) == ("wrong_answers", []) for name, value in values.items()
        )


def field_of(example: Any, name: str) -> Any:
    """A field of an example, from `meta` where it has it there; `None` where it has none."""
    meta = _get(example, "meta") or {}
    value = _get(example, name)
    if value is None:
        value = meta.get(name)
    if value is None and name == "references":
        value = _get(example, "long_answer")
    if value is None and name == "relevance":
        documents = _get(example, "documents") or []
        value = {_get(document, "id"): 1 for document in documents if _get(document, "gold")}
    if value is None and name == "passages":
        value = [_get(document, "text") or "" for document in _get(example, "documents") or []] or None
    return value


def get_metric(name: str) -> Metric:
    """A metric by name; ranking metrics at any depth, e.g. `"recall@7"`.

    Raises:
        FaithgenError: If there is none of that name.
    """
    if name in METRICS:
        return METRICS[name]
    parts = re.fullmatch(r"(recall|success|mrr|ndcg)@([1-9]\d{0,4})", name)
    if parts is None:
        raise FaithgenError(
            f"the metric {name!r} is not known; use one of {', '.join(METRICS)}, or another depth than these"
        )
    return _at(parts[1], int(parts[2]))


def is_share(name: str) -> bool:
    """Whether a metric's values lie from 0 to 1, so that an interval may be had where all are 0 or all 1. Those that are not
    of [`METRICS`] (support by a scorer, needles) are shares too."""
    return name not in METRICS or METRICS[name].share


def _get(holder: Any, name: str) -> Any:
    return holder.get(name) if isinstance(holder, Mapping) else getattr(holder, name, None)


def _at(measure: str, k: int) -> Metric:
    function, text = {
        "recall": (ranking.recall_at, "share of the relevant documents among the first"),
        "success": (ranking.success_at, "a relevant document among the first"),
        "mrr": (ranking.reciprocal_rank, "1 / rank of the first relevant document, 0 beyond"),
        "ndcg": (
            ranking.ndcg_at,
            "gain of the grades found, discounted by rank, of the best possible among the first",
        ),
    }[measure]
    graded = () if measure == "ndcg" else ("min_relevance",)
    return Metric(f"{measure}@{k}", partial(function, k=k), ("relevance",), True, f"{text} {k}", "ranking", graded)


def _rouge(kind: str, text: str) -> Metric:
    description = f"{text} shared with a reference (ROUGE F-measure, stemmed)"
    return Metric(kind, partial(long_answer.rouge, kind=kind), ("references",), True, description)


_BOTH_SIDES = ("answers", "memory_answers")

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("sub_em", short_answer.sub_em, ("answers",), True, "a gold answer is in the answer, as whole words"),
        Metric(
            "sub_em_substring",
            short_answer.sub_em_substring,
            ("answers",),
            True,
            "a gold answer is in the first line, as a plain substring (Lost in the Middle)",
        ),
        Metric("em", short_answer.exact_match, ("answers",), True, "the answer is a gold answer (SQuAD)"),
        Metric("f1", short_answer.token_f1, ("answers",), True, "words shared with the closest gold answer (SQuAD)"),
        _rouge("rouge1", "words"),
        _rouge("rouge2", "pairs of words"),
        _rouge("rougeL", "longest common subsequence"),
        _rouge("rougeLsum", "longest common subsequences of sentences"),
        Metric("str_em", long_answer.str_em, ("short_answers",), True, "share of the short answers found (ASQA)"),
        Metric(
            "short_answer_recall",
            long_answer.short_answer_recall,
            ("short_answers",),
            True,
            "share of the short answers found, as whole words",
        ),
        Metric("copied", long_answer.copied, ("passages",), None, "share of the sentences copied word for word"),
        Metric("answer_words", long_answer.answer_words, (), None, "length of the answer in words", share=False),
        Metric("refused", refusal.refused, (), None, "the answer says that it cannot be answered"),
        Metric(
            "abstained_rightly",
            refusal.abstained_rightly,
            ("answerable",),
            True,
            "refused if unanswerable, answered if not",
        ),
        Metric("context_answer", conflict.context_answer, _BOTH_SIDES, True, "the documents' answer is given"),
        Metric("memory_answer", conflict.memory_answer, _BOTH_SIDES, False, "the remembered answer is given"),
        Metric("both_answers", conflict.both_answers, _BOTH_SIDES, None, "both answers are given"),
        Metric(
            "all_and_only",
            conflict.all_and_only,
            ("answers", "wrong_answers"),
            True,
            "all right answers are given and no wrong one (RAMDocs)",
        ),
        Metric("choice", conflict.choice, ("answer_index",), True, "the wanted ending is the most likely", "scores"),
        Metric(
            "choice_margin",
            conflict.choice_margin,
            ("answer_index",),
            True,
            "score of the wanted ending above the best other",
            "scores",
            share=False,
        ),
        *(_at("recall", k) for k in (1, 2, 4, 5, 10)),
        *(_at("success", k) for k in (1, 4, 10)),
        Metric(
            "mrr",
            ranking.reciprocal_rank,
            ("relevance",),
            True,
            "1 / rank of the first relevant document",
            "ranking",
            ("min_relevance",),
        ),
        _at("mrr", 10),
        *(_at("ndcg", k) for k in (5, 10)),
    )
}
"""All metrics by name."""
