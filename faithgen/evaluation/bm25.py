"""BM25 baselines: over a question's own documents, over all passages of a set, or as the first stage found them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from faithgen.errors import FaithgenError, MissingExtraError
from faithgen.evaluation.datasets.schema import EvalDocument, Example

CORPUS = "bm25_corpus"
"""The ranker, and what its scores are called in `Example.meta`."""

K1, B = 0.9, 0.4
"""As Anserini has them; of BM25 over all passages of a set."""


def bm25(question: str, documents: Sequence[EvalDocument]) -> list[float]:
    """Okapi BM25 (rank-bm25) over the question's own documents, words normalised as SubEM normalises them.

    A weak baseline where the documents were found by the question's words: each of these is then in most of them, and weighs
    little. [`with_corpus_scores`] weighs words by all passages of the set.

    Raises:
        MissingExtraError: If rank-bm25 is not installed.
    """
    from faithgen.evaluation.metrics.short_answer import normalise_words

    texts = [normalise_words(f"{document.title} {document.text}").split() for document in documents]
    if not any(texts):
        return [0.0] * len(texts)
    return [float(score) for score in _okapi(texts).get_scores(normalise_words(question).split())]


def first_stage(example: Example) -> list[float] | None:
    """BM25 scores over the whole collection, where the set has them; a document that it lacks comes last."""
    scores = example.meta.get("first_stage")
    if not scores:
        return None
    last = min(scores.values()) - 1.0
    return [float(scores.get(document.id, last)) for document in example.documents]


def with_corpus_scores(examples: Iterable[Example]) -> list[Example]:
    """The examples with BM25 scores of their documents in `meta["bm25_corpus"]`, by document id.

    Words are weighed (IDF) by all passages of these examples, each once; k1 = 0.9, b = 0.4, lower case, Porter stems. A run
    does this before it cuts its rows into batches, so that whoever ranks a batch needs none of the others.

    Raises:
        MissingExtraError: If rank-bm25 or nltk is not installed.
    """
    try:
        from nltk.stem.porter import PorterStemmer
    except ImportError as error:
        raise MissingExtraError("ranking by BM25 over a set", "eval") from error
    stem = cache(PorterStemmer().stem)

    def words(text: str) -> list[str]:
        return [stem(word) for word in re.findall(r"\w+", text.lower())]

    examples = list(examples)
    place: dict[tuple[str, str], int] = {}
    for example in examples:
        for document in example.documents:
            place.setdefault((document.title, document.text), len(place))
    texts = [words(f"{title} {text}") for title, text in place]
    index = _okapi(texts, k1=K1, b=B) if any(texts) else None
    scored = []
    for example in examples:
        places = [place[document.title, document.text] for document in example.documents]
        scores = [0.0] * len(places)
        if index is not None and places:
            scores = [float(score) for score in index.get_batch_scores(words(example.question), places)]
        found = dict(zip((document.id for document in example.documents), scores, strict=True))
        scored.append(replace(example, meta={**example.meta, CORPUS: found}))
    return scored


def corpus_scores(example: Example) -> list[float]:
    """The scores that [`with_corpus_scores`] put into an example.

    Raises:
        FaithgenError: If there are none.
    """
    scores = example.meta.get(CORPUS)
    if scores is None:
        raise FaithgenError(
            f"example {example.id!r} has no BM25 scores over its set; rank it in a run (faithgen eval), or give it to "
            "with_corpus_scores with the others"
        )
    return [float(scores[document.id]) for document in example.documents]


def _okapi(texts: list[list[str]], **options: float) -> Any:
    try:
        from rank_bm25 import BM25Okapi
    except ImportError as error:
        raise MissingExtraError("ranking by BM25", "eval") from error
    return BM25Okapi(texts, **options)
