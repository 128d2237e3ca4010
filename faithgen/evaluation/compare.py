"""Two runs side by side: paired differences on the questions they share."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from faithgen.errors import FaithgenError
from faithgen.evaluation.statistics import Estimate, PairedDifference, bootstrap_interval, paired_bootstrap
from faithgen.evaluation.store import Row, differing, load_run
from faithgen.evaluation.summary import values_of

_NOTED = 8


@dataclass
class Comparison:
    """One metric of one set and method in two runs.

    Attributes:
        dataset (`str`)
        methods (`tuple[str, str]`): of the first and the second run.
        metric (`str`)
        first ([`Estimate`]), second ([`Estimate`]): on the common questions.
        difference ([`PairedDifference`]): second minus first.
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

    Methods are paired by name; where no name is common and each run has one method, these two are compared.

    Args:
        first (`str` or `PathLike`), second (`str` or `PathLike`): folders that `faithgen eval --output` wrote.
        resamples (`int`, *optional*, defaults to 10,000): of the bootstrap.

    Raises:
        FaithgenError: If a folder holds no run, or they share no questions or methods, or a question of one id is another
            question in the other run.
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
            shared += len(common)
            if not common:
                continue
            alone = len(one) + len(other) - 2 * len(common)
            if alone:
                label = methods[0] if methods[0] == methods[1] else " and ".join(methods)
                notes.append(f"{dataset}, {label}: {len(common)} common questions; {alone} that only one run has")
            comparisons += _compare(dataset, methods, common, one, other, runs[0][0]["tasks"][dataset], resamples)
    if not paired:
        have = [", ".join(dict.fromkeys(m for methods in table.values() for m in methods)) for table in tables]
        raise FaithgenError(f"the runs have no method in common ({have[0]}; {have[1]}); run the same method in both")
    if not shared:
        raise FaithgenError(
            f"{names[0]!r} and {names[1]!r} are runs on different questions; run both with the same --seed, --skip and data"
        )
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
        first, second = (bootstrap_interval(c, resamples=resamples, clusters=clusters) for c in columns)
        difference = paired_bootstrap(columns[1], columns[0], resamples=resamples, clusters=clusters)
        found.append(Comparison(dataset, methods, metric, first, second, difference))
    return found


def _settings_notes(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """In what the runs differ, so that a difference is laid to the right cause."""
    found: list[str] = []
    for part in ("model", "settings", "scorer", "datasets"):
        found += [f"{part}: {text}" for text in differing(first.get(part) or {}, second.get(part) or {})]
    more = len(found) - _NOTED
    return found[:_NOTED] + ([f"and {more} more differences of the settings"] if more > 0 else [])
