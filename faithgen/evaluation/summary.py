"""Figures of a run: for each set, method and metric a mean with its interval, and the difference from the baseline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from faithgen.evaluation.metrics import is_share
from faithgen.evaluation.metrics.conflict import memorisation_ratio
from faithgen.evaluation.metrics.refusal import abstention
from faithgen.evaluation.resampling import Estimate
from faithgen.evaluation.statistics import PairedDifference, bootstrap_interval, compare_with_baseline
from faithgen.evaluation.store import Row

_SUPPORT = ("mean", "minimum", "share")
_GROUPS = 25
_BY_QUESTION_ALONE = ("niah",)
"""Sets of few questions asked in many settings: rows are the units, not questions."""

_UNANSWERABLE = "_unanswerable"
"""What the name of a set's unanswerable part adds to that of the set."""


@dataclass
class MethodFigures:
    """One method on one set.

    Attributes:
        method (`str`)
        rows (`int`): rows it has, those without a value included.
        metrics (`dict[str, Estimate]`): by metric.
        differences (`dict[str, PairedDifference]`): from the baseline, by metric; none for the baseline itself.
        empty (`int`): empty answers.
        without (`dict[str, int]`): rows without any value, by reason.
        seconds (`float`, *optional*): mean time a row took, as part of its batch.
        reason (`str`, *optional*): why there is no row at all.
    """

    method: str
    rows: int
    metrics: dict[str, Estimate] = field(default_factory=dict)
    differences: dict[str, PairedDifference] = field(default_factory=dict)
    empty: int = 0
    without: dict[str, int] = field(default_factory=dict)
    seconds: float | None = None
    reason: str | None = None


@dataclass
class Abstention:
    """Refusing as the detection of unanswerable questions, see [`abstention`].

    Attributes:
        datasets (`list[str]`): whose rows are counted together.
        answerable (`int`), unanswerable (`int`): their questions.
        methods (`dict[str, dict[str, Estimate]]`): `precision`, `recall`, `f1` and `false_refusals` by method.
    """

    datasets: list[str]
    answerable: int
    unanswerable: int
    methods: dict[str, dict[str, Estimate]]


@dataclass
class SetFigures:
    """All methods on one set.

    Attributes:
        dataset (`str`): with its options.
        kind (`str`): of its task.
        headline (`list[str]`): metrics for the front, the main one first.
        metrics (`list[str]`): all metrics that a row has.
        baseline (`str`)
        methods (`list[MethodFigures]`): in the order of the run.
        groups (`dict[str, dict[str, Estimate]]`): the main metric by group, then by method.
        clustered (`bool`): intervals are over questions, which have several rows each.
        abstention ([`Abstention`], *optional*): where the set has unanswerable questions, and it or its counterpart
            answerable ones: `clapnq` and `clapnq_unanswerable`.
    """

    dataset: str
    kind: str
    headline: list[str]
    metrics: list[str]
    baseline: str
    methods: list[MethodFigures]
    groups: dict[str, dict[str, Estimate]] = field(default_factory=dict)
    clustered: bool = False
    abstention: Abstention | None = None

    @property
    def main(self) -> str | None:
        return self.headline[0] if self.headline else None


def summarise_run(record: Mapping[str, Any], rows: Sequence[Row], *, resamples: int = 10_000) -> list[SetFigures]:
    """Figures of all sets of a run.

    Args:
        record (`Mapping`): `run.json`.
        rows (`Sequence[dict]`): `rows.jsonl`.
        resamples (`int`, *optional*, defaults to 10,000): of the bootstrap.
    """
    by_place: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        by_place.setdefault((row["dataset"], row["method"]), {})[row["id"]] = row
    methods = record["settings"]["methods"]
    found = []
    for dataset, task in record["tasks"].items():
        table = {method: by_place.get((dataset, method), {}) for method in methods}
        found.append(_summarise_set(dataset, task, table, record, resamples))
    for one in found:
        family = [s.dataset for s in found if _counterpart(s.dataset) == _counterpart(one.dataset)]
        one.abstention = _abstention(one.dataset, family, methods, by_place, resamples)
    return found


def values_of(row: Row) -> dict[str, float | None]:
    """All figures of a row by name."""
    values = dict(row.get("metrics") or {})
    judged = row.get("scorer")
    if judged:
        values |= {f"support_{name}": judged.get(name) for name in _SUPPORT}
    return values


def why_without(row: Row) -> str | None:
    """Why a row has no figures at all."""
    if "error" in row:
        return f"error: {row['error'].split(':')[0]}"
    return row.get("skipped")


def _summarise_set(
    dataset: str, task: Mapping[str, Any], table: dict[str, dict[str, Row]], record: Mapping[str, Any], resamples: int
) -> SetFigures:
    ids = list(dict.fromkeys(name for rows in table.values() for name in rows))
    metrics = list(dict.fromkeys(n for rows in table.values() for row in rows.values() for n in values_of(row)))
    questions = {name: row["question"] for rows in table.values() for name, row in rows.items()}
    clusters = [questions[name] for name in ids]
    clustered = len(set(clusters)) < len(clusters) and task["set"] not in _BY_QUESTION_ALONE
    options: dict[str, Any] = {"resamples": resamples, "clusters": clusters if clustered else None}
    judged = record.get("scorer") or {}
    fit = [name for name in metrics if judged.get("headline", True) or not name.startswith("support_")]
    headline = [name for name in task["headline"] if name in fit] or fit[:2]
    baseline = record["baseline"]
    figures = {method: _method(method, rows, record) for method, rows in table.items()}
    columns: dict[str, dict[str, list[float | None]]] = {
        metric: {
            method: [values_of(rows[name]).get(metric) if name in rows else None for name in ids]
            for method, rows in table.items()
            if rows
        }
        for metric in metrics
    }
    for metric, values in columns.items():
        for method, column in values.items():
            estimate = bootstrap_interval(column, **options, shares=is_share(metric))
            if estimate.mean is None and metric.startswith("support_"):
                estimate = replace(estimate, reason=_why_unjudged(table[method].values()) or estimate.reason)
            figures[method].metrics[metric] = estimate
        others = {method: column for method, column in values.items() if method != baseline}
        if baseline in values and others:
            compared = compare_with_baseline(values[baseline], others, **options)
            for method, difference in compared.items():
                figures[method].differences[metric] = difference
    if {"context_answer", "memory_answer"} <= columns.keys():
        metrics.append("memorisation_ratio")
        for method in columns["memory_answer"]:
            pair = columns["memory_answer"][method], columns["context_answer"][method]
            figures[method].metrics["memorisation_ratio"] = memorisation_ratio(*pair, **options)
    groups = _groups(table, headline[0], resamples) if headline else {}
    return SetFigures(dataset, task["kind"], headline, metrics, baseline, list(figures.values()), groups, clustered)


def _method(method: str, rows: dict[str, Row], record: Mapping[str, Any]) -> MethodFigures:
    without = Counter(reason for row in rows.values() if (reason := why_without(row)) is not None)
    times = [row["seconds"] for row in rows.values() if "seconds" in row and "skipped" not in row]
    return MethodFigures(
        method,
        len(rows),
        empty=sum(row.get("answer") == "" for row in rows.values()),
        without=dict(without),
        seconds=sum(times) / len(times) if times else None,
        reason=None if rows else record.get("unavailable", {}).get(method, "no rows; go on with --resume"),
    )


def _why_unjudged(rows: Iterable[Row]) -> str | None:
    """The scorer's most frequent reason for giving no figure."""
    reasons = Counter(reason for row in rows if (reason := (row.get("scorer") or {}).get("reason")))
    return reasons.most_common(1)[0][0] if reasons else None


def _groups(table: dict[str, dict[str, Row]], metric: str, resamples: int) -> dict[str, dict[str, Estimate]]:
    """The main metric by group, where the set has groups."""
    values: dict[str, dict[str, list[float | None]]] = {}
    for method, rows in table.items():
        for row in rows.values():
            group = (row.get("meta") or {}).get("group")
            if group is not None:
                values.setdefault(group, {}).setdefault(method, []).append(values_of(row).get(metric))
    if not 1 < len(values) <= _GROUPS:
        return {}
    return {
        group: {
            method: bootstrap_interval(column, resamples=resamples, shares=is_share(metric))
            for method, column in by_method.items()
        }
        for group, by_method in sorted(values.items())
    }


def _counterpart(dataset: str) -> str:
    return dataset.replace(_UNANSWERABLE, "")


def _abstention(
    dataset: str,
    family: Sequence[str],
    methods: Sequence[str],
    by_place: Mapping[tuple[str, str], Mapping[str, Row]],
    resamples: int,
) -> Abstention | None:
    """Abstention over a set with unanswerable questions and its counterpart; `None` where one kind is lacking."""
    answerable: dict[tuple[str, str], bool] = {}
    questions: dict[tuple[str, str], str] = {}
    refused: dict[str, dict[tuple[str, str], float]] = {method: {} for method in methods}
    for name in family:
        for method in methods:
            for row in by_place.get((name, method), {}).values():
                key, values = (name, row["id"]), values_of(row)
                told, right = values.get("refused"), values.get("abstained_rightly")
                if told is not None and right is not None:
                    refused[method][key], questions[key] = told, row["question"]
                    answerable[key] = told != right  # right is to refuse just the unanswerable ones
    own = {kind for (name, _), kind in answerable.items() if name == dataset}
    if False not in own or len(set(answerable.values())) < 2:
        return None
    kinds = list(answerable.values())
    asked = [questions[key] for key in answerable]
    options: dict[str, Any] = {"resamples": resamples, "clusters": asked if len(set(asked)) < len(asked) else None}
    found = {
        method: abstention([values.get(key) for key in answerable], kinds, **options)
        for method, values in refused.items()
        if values
    }
    return Abstention(list(family), sum(kinds), len(kinds) - sum(kinds), found)


def figures_record(sets: Sequence[SetFigures]) -> dict[str, Any]:
    """JSON form of the figures: `summary.json`."""
    return {one.dataset: asdict(one) for one in sets}
