"""Judging scorers against people: AUROC and balanced accuracy on labelled sets, with intervals.

A set labelled by the answer is judged by the mean over the answer's sentences. Intervals are clustered bootstraps: whole
questions or source texts are drawn, because answers to one question are not independent. The threshold of balanced accuracy
is never chosen on the rows it is reported on: it is the one that is best on the other sets, each weighing the same; for a
set alone it is the best of a fixed half of its clusters, and the figure is that of the other half.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np

from faithgen.errors import FaithgenError
from faithgen.evaluation.agreement import auroc_interval, balanced_accuracy_interval
from faithgen.evaluation.resampling import Estimate
from faithgen.evaluation.scorers.base import ClaimContext, Scorer
from faithgen.evaluation.scorers.judged import How, Judgement, SetFigures
from faithgen.evaluation.scorers.labelled import LabelledClaim, LabelledSet
from faithgen.evaluation.text import split_claims

Aggregate = Literal["mean", "min"]
Progress = Callable[[int, int], None]

RESAMPLES = 2_000
_BATCH = 512  # parts handed to a scorer at a time, whole answers together


def judge(
    scorer: Scorer,
    sets: Sequence[LabelledSet],
    *,
    limit: int | None = None,
    seed: int = 0,
    aggregate: Aggregate = "mean",
    progress: Progress | None = None,
) -> Judgement:
    """Score labelled sets and compare with people.

    Args:
        scorer ([`Scorer`]): the scorer.
        sets (`Sequence[LabelledSet]`): as [`load_labelled`] gives them.
        limit (`int`, *optional*): about as many claims a set, whole answers drawn at random; all by default.
        seed (`int`, *optional*, defaults to 0): of the draw and of the bootstrap.
        aggregate (`"mean"` or `"min"`, *optional*, defaults to `"mean"`): over the sentences of an answer.
        progress (`Callable[[int, int], None]`, *optional*): called with (done, total) claims of all sets.

    Returns:
        [`Judgement`]

    Raises:
        FaithgenError: If there is no set, or the scorer gives no probability for a claim.
    """
    chosen = [draw(one, limit, seed) for one in sets]
    total = sum(len(one.claims) for one in chosen)
    scores: dict[str, list[float]] = {}
    for one in chosen:
        done = sum(map(len, scores.values()))
        report = None if progress is None else partial(_report, progress, done, total)
        scores[one.name] = score_set(scorer, one, aggregate=aggregate, progress=report)
    tuned = getattr(scorer, "tuned_on", ())
    judgement = compare(scorer.name, chosen, scores, seen=scorer.trained_on, tuned=tuned, seed=seed)
    return replace(judgement, settings={"limit": limit, "seed": seed, "aggregate": aggregate})


def draw(labelled: LabelledSet, limit: int | None, seed: int = 0) -> LabelledSet:
    """A sample of whole answers with about `limit` claims: the last answer drawn may exceed it.

    Raises:
        FaithgenError: If `limit` is below 1.
    """
    if limit is None:
        return labelled
    if limit < 1:
        raise FaithgenError(f"limit is {limit}; give 1 or more")
    answers: dict[str, list[LabelledClaim]] = {}
    for claim in labelled.claims:
        answers.setdefault(claim.answer, []).append(claim)
    order = list(answers)
    random.Random(seed).shuffle(order)
    kept: set[str] = set()
    count = 0
    for answer in order:
        if count >= limit:
            break
        kept.add(answer)
        count += len(answers[answer])
    return replace(labelled, claims=[claim for claim in labelled.claims if claim.answer in kept])


def split_parts(claim: LabelledClaim, unit: str) -> list[tuple[str, ClaimContext]]:
    """What a scorer reads for one labelled claim: the claim itself, or the sentences of a whole answer.

    Returns:
        `list[tuple[str, ClaimContext]]`: at least one.
    """
    if unit != "answer":
        return [(claim.claim, claim.context)]
    parts = [(part.text, replace(claim.context, start=part.start, end=part.end)) for part in split_claims(claim.claim)]
    return parts or [(claim.claim, claim.context)]


def score_set(
    scorer: Scorer,
    labelled: LabelledSet,
    *,
    aggregate: Aggregate = "mean",
    progress: Progress | None = None,
) -> list[float]:
    """One probability for each claim of a set; arguments as in [`judge`].

    Raises:
        FaithgenError: If `aggregate` is unknown, or the scorer's answer is not one number from 0 to 1 for each claim.
    """
    if aggregate not in ("mean", "min"):
        raise FaithgenError(f"aggregate {aggregate!r} is not one of mean, min")
    parts = [split_parts(claim, labelled.unit) for claim in labelled.claims]
    texts = [text for row in parts for text, _ in row]
    contexts = [context for row in parts for _, context in row]
    rows_of = [number for number, row in enumerate(parts) for _ in row]
    documents = [labelled.claims[number].documents for number in rows_of]
    answers = [labelled.claims[number].answer for number in rows_of]
    values: list[float] = []
    while (start := len(values)) < len(texts):
        end = min(start + _BATCH, len(texts))
        while end < len(texts) and answers[end] == answers[end - 1]:  # so that an answer is read once
            end += 1
        found = scorer.score(texts[start:end], documents[start:end], contexts=contexts[start:end])
        if len(found) != end - start or not all(0 <= value <= 1 for value in found):
            raise FaithgenError(f"scorer {scorer.name!r} gave no probability for some claims of set {labelled.name!r}")
        values += found
        if progress is not None:
            progress(len(set(rows_of[:end])), len(parts))
    rest = iter(values)
    rows = [[next(rest) for _ in row] for row in parts]
    return [min(row) if aggregate == "min" else sum(row) / len(row) for row in rows]


def compare(
    name: str,
    sets: Sequence[LabelledSet],
    scores: Mapping[str, Sequence[float]],
    *,
    seen: Sequence[str] = (),
    tuned: Sequence[str] = (),
    how: How = "as it is",
    seed: int = 0,
) -> Judgement:
    """Compare scores with people.

    Args:
        name (`str`): the scorer's name.
        sets (`Sequence[LabelledSet]`): the sets that were scored.
        scores (`Mapping[str, Sequence[float]]`): by set, one for each of its claims.
        seen (`Sequence[str]`, *optional*): sets whose labels the scorer was trained on.
        tuned (`Sequence[str]`, *optional*): sets that were looked at while the scorer was built.
        how (`str`, *optional*, defaults to `"as it is"`): see [`Judgement`].
        seed (`int`, *optional*, defaults to 0): of the bootstrap.

    Returns:
        [`Judgement`]

    Raises:
        FaithgenError: If there is no set, or a set's scores are not one for each claim.
    """
    if not sets:
        raise FaithgenError("there is no labelled set to judge on; name at least one")
    for one in sets:
        if len(scores.get(one.name, ())) != len(one.claims):
            raise FaithgenError(
                f"there are {len(scores.get(one.name, ()))} scores for {len(one.claims)} claims of set {one.name!r}; give "
                "one for each"
            )
    figures = [
        replace(_set_figures(one, sets, scores, one.name in seen, seed), tuned=one.name in tuned) for one in sets
    ]
    use = [one for one in sets if one.kind == "qa"]
    return Judgement(name, how, figures, choose_threshold([(_labels(one), scores[one.name]) for one in use]))


def _set_figures(
    one: LabelledSet, sets: Sequence[LabelledSet], scores: Mapping[str, Sequence[float]], seen: bool, seed: int
) -> SetFigures:
    labels, values = _labels(one), list(scores[one.name])
    clusters = [claim.cluster for claim in one.claims]
    options: dict[str, Any] = {"resamples": RESAMPLES, "seed": seed}
    others = [other for other in sets if other is not one and _apart(one, other)]
    threshold = choose_threshold([(_labels(other), scores[other.name]) for other in others])
    rows, source = list(range(len(labels))), "other sets"
    if threshold is None:
        half = [_first_half(cluster) for cluster in clusters]
        rows = [row for row in rows if not half[row]]
        chosen = [row for row in range(len(labels)) if half[row]]
        threshold = choose_threshold([([labels[row] for row in chosen], [values[row] for row in chosen])])
        source = "half of this set; reported on the other half"
    if threshold is None:
        reason = "no rows of both labels to choose a threshold on"
        balanced, source = Estimate(None, None, None, len(labels), 0, reason), "nowhere"
    else:
        balanced = balanced_accuracy_interval(
            [labels[row] for row in rows],
            [values[row] for row in rows],
            threshold=threshold,
            clusters=[clusters[row] for row in rows],
            **options,
        )
    parts = {}
    for part in sorted({claim.part for claim in one.claims} - {""}):
        inside = [row for row, claim in enumerate(one.claims) if claim.part == part]
        parts[part] = auroc_interval(
            [labels[row] for row in inside],
            [values[row] for row in inside],
            clusters=[clusters[row] for row in inside],
            **options,
        )
    return SetFigures(
        name=one.name,
        kind=one.kind,
        unit=one.unit,
        n=len(labels),
        supported=one.supported,
        answers=len({claim.answer for claim in one.claims}),
        clusters=len(set(clusters)),
        auroc=auroc_interval(labels, values, clusters=clusters, **options),
        parts=parts,
        balanced_accuracy=balanced,
        threshold=threshold,
        threshold_from=source,
        seen=seen,
        excluded={reason: count for reason, count in one.excluded.items() if count},
    )


def choose_threshold(groups: Sequence[tuple[Sequence[int], Sequence[float]]]) -> float | None:
    """The threshold with the best balanced accuracy, averaged over groups of rows.

    Args:
        groups (`Sequence[tuple[Sequence[int], Sequence[float]]]`): labels and scores; those of one label do not count.

    Returns:
        `float`, *optional*: midway between two neighbouring scores, the lowest of equally good ones; `None` without a group
        that holds both labels.
    """
    usable = [
        (np.asarray(labels), np.asarray(scores, dtype=float)) for labels, scores in groups if len(set(labels)) == 2
    ]
    if not usable:
        return None
    every = np.unique(np.concatenate([scores for _, scores in usable]))
    candidates = np.concatenate([(every[1:] + every[:-1]) / 2, [every[0], every[-1]]])
    candidates.sort()
    total = np.zeros(len(candidates))
    for labels, scores in usable:
        above = [
            len(part) - np.searchsorted(np.sort(part), candidates)
            for part in (scores[labels == 1], scores[labels == 0])
        ]
        total += above[0] / (labels == 1).sum() + 1 - above[1] / (labels == 0).sum()
    return float(candidates[int(np.argmax(np.round(total, 12)))])


def _report(progress: Progress, before: int, total: int, done: int, _: int) -> None:
    progress(before + done, total)


def _labels(one: LabelledSet) -> list[int]:
    return [claim.label for claim in one.claims]


def _apart(one: LabelledSet, other: LabelledSet) -> bool:
    """Whether two sets share no question or source text."""
    return not {claim.cluster for claim in one.claims} & {claim.cluster for claim in other.claims}


def _first_half(cluster: str) -> bool:
    return hashlib.sha256(cluster.encode()).digest()[0] < 128
