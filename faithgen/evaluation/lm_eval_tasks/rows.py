"""Rows of our lm-eval tasks: read from local JSONL by `datasets`, cleaned by our loaders, scored by our metrics.

lm-eval loads this file by its path, with any model: nothing here needs faithgen's own.
"""

from __future__ import annotations

import random
from typing import Any

from faithgen.evaluation.datasets import DATASETS
from faithgen.evaluation.datasets.base import Tally
from faithgen.evaluation.datasets.rows import Row
from faithgen.evaluation.metrics import METRICS


def nq_swap(dataset: Any) -> Any:
    """All substitutions, as published figures have them."""
    return _examples("nq_swap", dataset, all_substitutions=True)


def faitheval(dataset: Any) -> Any:
    return _examples("faitheval", dataset, show_options=False)


def memotrap(dataset: Any) -> Any:
    return _examples("memotrap", dataset)


def ramdocs(dataset: Any) -> Any:
    return _examples("ramdocs", dataset)


def conflict_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Does the answer hold what the passage says (SubEM, EM), and what the model may remember?"""
    return _scores(("sub_em", "em", "f1", "memory_answer"), doc, results[0])


def ramdocs_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """All right answers and no wrong one, as RAMDocs scores."""
    return _scores(("all_and_only", "sub_em"), doc, results[0])


def _scores(names: tuple[str, ...], doc: dict[str, Any], answer: str) -> dict[str, float]:
    """The metrics that are defined for the row; lm-eval's means are over those."""
    found = {name: METRICS[name](answer, doc) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def _examples(name: str, dataset: Any, **options: Any) -> Any:
    from datasets import Dataset

    rows = [Row(values, f"{name}, row {number}", number) for number, values in enumerate(dataset, 1)]
    found = DATASETS[name].build({"rows": rows}, random.Random(0), Tally(), **options)
    columns = [
        {
            "id": example.id,
            "question": example.question,
            "passages": [document.text for document in example.documents],
            "answers": example.answers,
            "memory_answers": example.meta.get("memory_answers") or [],
            "wrong_answers": example.meta.get("wrong_answers") or [],
            "options": example.meta.get("options") or [],
            "answer_index": example.meta.get("answer_index", -1),
        }
        for example in found
    ]
    return Dataset.from_list(columns)
