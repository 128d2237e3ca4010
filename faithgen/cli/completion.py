"""Values that a shell offers after an option. They are written out here, and held equal to the registries by a test:
to read them there would import torch at every Tab."""

from __future__ import annotations

from collections.abc import Callable

import typer

FORMATS = ("text", "json")
DTYPES = ("auto", "float32", "bfloat16", "float16")
DEVICES = ("auto", "cpu", "cuda", "mps")
SOURCES = ("auto", "control", "heads", "context", "none")
CONTRASTS = ("rhio", "cad", "adacad", "decore")
ABLATIONS = ("zero", "uniform")
FILTERS = ("unfinished", "equal", "degenerate", "no_claim", "supported")
SCORERS = ("lexical", "heads", "cross_encoder", "nli", "minicheck", "none")
CHOICE_STYLES = ("completion", "chat")
SUITES = {
    "groundbench": ("eli5_webgpt", "expertqa", "hagrid", "clapnq", "clapnq_unanswerable", "quotesum"),
    "multidoc": ("nq_hard", "nq_random", "hotpotqa", "musique", "2wiki"),
    "conflict": ("nq_swap", "faitheval", "tristate", "ramdocs", "rgb"),
    "niah": ("niah",),
    "rerank": ("nq_hard", "hotpotqa", "musique", "scifact", "trec_dl19"),
}
WITHOUT_SUITE = ("memotrap", "jsonl")
METHODS = (
    *("base", "closed_book", "gold", "embedding", "bm25", "cafe", "cafe_no_steer", "filter"),
    *("heads", "context", "adacad", "decore", "control", "rhio", "full"),
)
RANKERS = ("heads", "cafe", "icr", "bm25", "bm25_corpus", "embedding", "cross_encoder")
LM_EVAL_TASKS = ("faithgen_nq_swap", "faithgen_faitheval", "faithgen_memotrap", "faithgen_ramdocs")

Completer = Callable[[str], list[str]]


def one_of(*values: str) -> Completer:
    """Offers each of these values."""

    def complete(incomplete: str) -> list[str]:
        return [value for value in values if value.startswith(incomplete)]

    return complete


def either(*values: str) -> str:
    """The values as a help text lists them: `"a, b or c"`."""
    return " or ".join(part for part in (", ".join(values[:-1]), values[-1]) if part)


def some_of(*values: str) -> Completer:
    """Offers these values for a list that is separated by commas: those that it does not hold yet."""

    def complete(incomplete: str) -> list[str]:
        return _last_of_list(incomplete, values)

    return complete


def detectors(incomplete: str) -> list[str]:
    """Offers the detection methods, from their registry: it is light."""
    from typing import get_args

    from faithgen.detection import DetectionMethod

    return [name for name in get_args(DetectionMethod) if name.startswith(incomplete)]


def data_sets(context: typer.Context, incomplete: str) -> list[str]:
    """Offers the data sets, or those of the `--suite` that stands before."""
    names = SUITES.get(context.params.get("suite") or "")
    if names is None:
        names = tuple(dict.fromkeys([*(name for suite in SUITES.values() for name in suite), *WITHOUT_SUITE]))
    return [name for name in names if name.startswith(incomplete)]


def methods(context: typer.Context, incomplete: str) -> list[str]:
    """Offers the methods of an evaluation, separated by commas: rankers after `--suite rerank`."""
    return _last_of_list(incomplete, RANKERS if context.params.get("suite") == "rerank" else METHODS)


def _last_of_list(incomplete: str, values: tuple[str, ...]) -> list[str]:
    before, comma, last = incomplete.rpartition(",")
    held = set(before.split(","))
    return [f"{before}{comma}{value}" for value in values if value.startswith(last) and value not in held]
