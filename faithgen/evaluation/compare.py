"""Two runs side by side: paired differences on the questions they share."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from faithgen.errors import FaithgenError
from faithgen.evaluation.metrics import is_share
from faithgen.evaluation.resampling import Estimate
from faithgen.evaluation.statistics import PairedDifference, bootstrap_interval, holm, paired_bootstrap
from faithgen.evaluation.store import Row, differing, load_run
from faithgen.evaluation.summary import values_of

_NOTED = 8
"""Differences of model and settings that are named; those of data and scorer all are."""

_CHECKED = (
    "Rows that are compared have the same question, answers and ids of documents; texts of documents are not kept"
)


@dataclass
class Comparison:
    """One metric of one set and method in two runs.

    Attributes:
        dataset (`str`)
        methods (`tuple[str, str]`): of the first and the second run.
        metric (`str`)
        first ([`Estimate`]), second ([`Estimate`]): on the common questions.
        difference ([`PairedDifference`]): second minus first; `p_holm` is corrected over all comparisons of the two runs.
    """

    dataset: str
    methods: tuple[str, str]
    metric: str
    first: Estimate
    second: Estimate
    difference: PairedDifference


@dataclass
class ComparedRuns:
    """What two runs have in common, and in what they differ.

    Attributes:
        comparisons (`list[Comparison]`)
        notes (`list[str]`): what the reader should know: other settings, questions that only one has.
    """

    comparisons: list[Comparison]
    notes: list[str]


def compare_runs(
    first: str | os.PathLike[str], second: str | os.PathLike[str], *, resamples: int = 10_000
) -> ComparedRuns:
    """Compare two result folders by paired bootstrap on their common questions.

    Methods are paired by name; where no name is common and each run has one method, these two are compared. Support by
    different scorers is not.

    Args:
        first (`str` or `PathLike`), second (`str` or `PathLike`): folders that `faithgen eval --output` wrote.
        resamples (`int`, *optional*, defaults to 10,000): of the bootstrap.

    Raises:
        FaithgenError: If a folder holds no run, or they share no questions or methods, or a question of one id is another
            question in the other run, or has other documents.
    """
    runs = [load_run(path) for path in (first, second)]
    names = (str(first), str(second))
    tables = [_by_place(rows) for _, rows in runs]
    sets = [name for name in tables[0] if name in tables[1]]
    if not sets:
        have = [", ".join(table) for table in tables]
        raise FaithgenError(
            f"{names[0]!r} and {names[1]!r} are runs on different data sets ({have[0]}; {have[1]}); compare runs on the same"
        )
    notes = _settings_notes(runs[0][0], runs[1][0])
    comparisons: list[Comparison] = []
    shared = paired = 0
    for dataset in sets:
        for methods in _pairs(tables[0][dataset], tables[1][dataset]):
            paired += 1
            one, other = tables[0][dataset][methods[0]], tables[1][dataset][methods[1]]
            common = [name for name in one if name in other]
            _check_questions(dataset, common, one, other, names)
            _check_documents(dataset, common, one, other, names)
            shared += len(common)
            if not common:
                continue
            label = f"{dataset}, {methods[0] if methods[0] == methods[1] else ' and '.join(methods)}"
            alone = len(one) + len(other) - 2 * len(common)
            if alone:
                notes.append(f"{label}: {len(common)} common questions; {alone} that only one run has")
            found = _compare(dataset, methods, common, one, other, runs[0][0]["tasks"][dataset], resamples)
            scorers = [_scorers(rows[name] for name in common) for rows in (one, other)]
            if scorers[0] != scorers[1] and all(scorers):
                notes.append(f"{label}: support is not compared; it was judged by {scorers[0]} and by {scorers[1]}")
                found = [pair for pair in found if not pair.metric.startswith("support_")]
            comparisons += found
    if not paired:
        have = [", ".join(dict.fromkeys(m for methods in table.values() for m in methods)) for table in tables]
        raise FaithgenError(f"the runs have no method in common ({have[0]}; {have[1]}); run the same method in both")
    if not shared:
        raise FaithgenError(
            f"{names[0]!r} and {names[1]!r} are runs on different questions; run both with the same --seed, --skip and data"
        )
    corrected = holm({str(number): pair.difference.p_value for number, pair in enumerate(comparisons)})
    for number, pair in enumerate(comparisons):
        pair.difference = replace(pair.difference, p_holm=corrected[str(number)])
    return ComparedRuns(comparisons, notes)


def _by_place(rows: Sequence[Row]) -> dict[str, dict[str, dict[str, Row]]]:
    """Rows by set, method and id."""
    found: dict[str, dict[str, dict[str, Row]]] = {}
    for row in rows:
        found.setdefault(row["dataset"], {}).setdefault(row["method"], {})[row["id"]] = row
    return found


def _pairs(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[tuple[str, str]]:
    common = [(method, method) for method in first if method in second]
    if not common and len(first) == len(second) == 1:
        return [(next(iter(first)), next(iter(second)))]
    return common


def _check_questions(
    dataset: str, common: Sequence[str], one: Mapping[str, Row], other: Mapping[str, Row], names: tuple[str, str]
) -> None:
    for name in common:
        if one[name]["question"] != other[name]["question"] or one[name]["answers"] != other[name]["answers"]:
            raise FaithgenError(
                f"{dataset} {name!r} is another question in {names[0]!r} than in {names[1]!r}; compare runs on the same data"
            )


def _check_documents(
    dataset: str, common: Sequence[str], one: Mapping[str, Row], other: Mapping[str, Row], names: tuple[str, str]
) -> None:
    for name in common:
        found = _documents(one[name]), _documents(other[name])
        if None not in found and found[0] != found[1]:
            raise FaithgenError(
                f"{dataset} {name!r} has other documents in {names[0]!r} than in {names[1]!r}, or in another order; compare "
                "runs on the same data with the same --seed"
            )


def _documents(row: Row) -> list[tuple[str, Any]] | None:
    """What a row tells of its documents: ids and evidence, in order, which a ranking does not know; `None` where nothing."""
    if "documents" in row:
        return [(document["id"], document.get("gold")) for document in row["documents"]]
    if "ranking" in row:
        return sorted((document["id"], document.get("relevance")) for document in row["ranking"])
    return [(option, None) for option in row["options"]] if "options" in row else None


def _scorers(rows: Iterable[Row]) -> str:
    """Who judged support, `""` where nobody did."""
    return ", ".join(sorted({judged["name"] for row in rows if (judged := row.get("scorer"))}))


def _compare(
    dataset: str,
    methods: tuple[str, str],
    common: Sequence[str],
    one: Mapping[str, Row],
    other: Mapping[str, Row],
    task: Mapping[str, Any],
    resamples: int,
) -> list[Comparison]:
    values = [{name: values_of(rows[name]) for name in common} for rows in (one, other)]
    metrics = list(dict.fromkeys(metric for found in values[0].values() for metric in found))
    metrics = [metric for metric in metrics if any(metric in found for found in values[1].values())]
    front = task["headline"]
    metrics.sort(key=lambda metric: front.index(metric) if metric in front else len(front))
    questions = [one[name]["question"] for name in common]
    clusters = questions if len(set(questions)) < len(questions) and task["set"] != "niah" else None
    found = []
    for metric in metrics:
        columns = [[part[name].get(metric) for name in common] for part in values]
        options: dict[str, Any] = {"resamples": resamples, "clusters": clusters, "shares": is_share(metric)}
        first, second = (bootstrap_interval(column, **options) for column in columns)
        difference = paired_bootstrap(columns[1], columns[0], resamples=resamples, clusters=clusters)
        found.append(Comparison(dataset, methods, metric, first, second, difference))
    return found


def _settings_notes(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """In what the runs differ, so that a difference is laid to the right cause: data and scorer before all else."""

    data: list[dict[str, dict[str, Any]]] = [dict(record["datasets"]) for record in (first, second)]
    found = []
    for name in [name for name in data[0] if name in data[1]]:
        if data[0][name].get("sha256") != data[1][name].get("sha256"):
            found.append(f"datasets: {name}: the files or draws differ (checksum). {_CHECKED}")
        for one in data:
            one[name] = {key: value for key, value in one[name].items() if key != "sha256"}
    found += [f"datasets: {text}" for text in differing(data[0], data[1])]
    found += [f"scorer: {text}" for text in differing(first.get("scorer") or {}, second.get("scorer") or {})]
    rest = [
        f"{part}: {text}"
        for part in ("model", "settings")
        for text in differing(first.get(part) or {}, second.get(part) or {})
    ]
    more = len(rest) - _NOTED
    return found + rest[:_NOTED] + ([f"and {more} more differences of the settings"] if more > 0 else [])
