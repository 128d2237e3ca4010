"""Re-ranking of first-stage candidates: SciFact (BM25 built here) and TREC Deep Learning 2019 passages.

Documents come in the order of the first stage, under the ids of their collection. `meta["relevance"]` holds the grades
that ranking metrics need, `meta["first_stage"]` the BM25 scores by document id. There are no answers.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from functools import cache

from faithgen.errors import FaithgenError, MissingExtraError

from .base import DataSet, Tables, Tally
from .rows import Row
from .schema import EvalDocument, Example


def scifact(tables: Tables, generator: random.Random, tally: Tally, *, candidates: int = 100) -> Iterator[Example]:
    """Scientific claims with the abstracts that BM25 finds (SciFact, 2004.14974; queries and grades as in BEIR).

    BM25 by rank-bm25 (Okapi, k1=0.9, b=0.4 as Anserini) over title and abstract, lower case, Porter stems: nDCG@10 of
    0.666 on the 300 validation claims, where BEIR reports 0.665. Cited abstracts that it does not find among the
    candidates are not added; they stay in `meta["relevance"]`, so that metrics count them as missed. Reads BEIR's field
    names too. `gold`: cited by the claim.

    Args:
        candidates (`int`, *optional*, defaults to 100): documents a claim.

    Raises:
        MissingExtraError: If rank-bm25 is not installed.
    """
    _check(candidates)
    relevance: dict[str, dict[str, int]] = {}
    for row in tables["qrels"]:
        grade = row.integer("relevance", "score")
        relevance.setdefault(str(row.first("query_id", "query-id")), {})[str(row.first("doc_id", "corpus-id"))] = grade
    corpus: dict[str, tuple[str, str]] = {}
    for row in tables["corpus"]:
        parts = row.texts("abstract_sentences") if "abstract_sentences" in row else [row.text("text")]
        corpus[row.identity("doc_id", "_id")] = (row.text("title"), " ".join(part.strip() for part in parts))
    index = None
    for row in tables["rows"]:
        name = row.identity("id", "_id")
        grades = {document: grade for document, grade in relevance.get(name, {}).items() if document in corpus}
        if not any(grade > 0 for grade in grades.values()):
            tally.dropped["no relevant document is known"] += 1
            continue
        if len(grades) < len(relevance[name]):
            tally.changed["relevant document that is not in the corpus left out"] += 1
        index = index or _Bm25(corpus)
        question = row.text("claim", "text")
        found = index.search(question, candidates)
        documents = [EvalDocument(i, *corpus[i], grades.get(i, 0) > 0) for i in found]
        yield Example(name, question, documents, [], None, {"relevance": grades, "first_stage": found})


def trec_dl19(tables: Tables, generator: random.Random, tally: Tally, *, candidates: int = 100) -> Iterator[Example]:
    """Web queries with BM25's first 100 passages and NIST's grades (TREC Deep Learning 2019, passages; 2003.07820).

    Grades 0 to 3; `gold` from 2 up, as TREC counts passages as relevant, false below, `None` where nobody judged. In
    `meta["relevance"]` are the grades of the candidates: those of relevant passages that BM25 missed are not at hand, so
    an nDCG from it is above the official one. `meta["num_relevant"]`: passages of grade 2 or 3 in all of NIST's
    judgements, candidates or not.

    Args:
        candidates (`int`, *optional*, defaults to 100): documents a query, 100 at most.
    """
    _check(candidates)
    for row in tables["rows"]:
        hits = sorted(row.rows("hits"), key=lambda hit: hit.integer("rank"))[:candidates]
        documents: dict[str, EvalDocument] = {}
        grades: dict[str, int] = {}
        scores: dict[str, float] = {}
        for hit in hits:
            name, judged = hit.identity("docid"), hit.first("relevance") is not None
            if judged:
                grades[name] = hit.integer("relevance")
            scores[name] = _number(hit, "score")
            documents[name] = EvalDocument(name, "", hit.text("text"), grades[name] >= 2 if judged else None)
        if not any(grade > 0 for grade in grades.values()):
            tally.dropped["no relevant document among the candidates"] += 1
            continue
        meta = {"relevance": grades, "first_stage": scores}
        if "num_relevant_in_qrels" in row:
            meta["num_relevant"] = row.integer("num_relevant_in_qrels")
        yield Example(row.identity("qid"), row.text("query"), list(documents.values()), [], None, meta)


class _Bm25:
    """BM25 over titles and texts."""

    def __init__(self, corpus: dict[str, tuple[str, str]]):
        try:
            from nltk.stem.porter import PorterStemmer
            from rank_bm25 import BM25Okapi
        except ImportError as error:
            raise MissingExtraError("finding candidates by BM25", "eval") from error
        self.stem = cache(PorterStemmer().stem)
        self.names = list(corpus)
        self.index = BM25Okapi([self.words(f"{title} {text}") for title, text in corpus.values()], k1=0.9, b=0.4)

    def words(self, text: str) -> list[str]:
        return [self.stem(word) for word in re.findall(r"\w+", text.lower())]

    def search(self, query: str, count: int) -> dict[str, float]:
        """Scores by id of the best documents, best first; ties in the order of the corpus."""
        scores = self.index.get_scores(self.words(query))
        return {self.names[i]: round(float(scores[i]), 4) for i in (-scores).argsort(kind="stable")[:count]}


def _check(candidates: int) -> None:
    if isinstance(candidates, bool) or not isinstance(candidates, int) or candidates < 2:
        raise FaithgenError(f"candidates is {candidates!r}; give a whole number, 2 or more")


def _number(row: Row, name: str) -> float:
    value = row.first(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise FaithgenError(f"{row.place}: {name!r} is of type {type(value).__name__}; give a number")
    return float(value)


SETS = {
    "scifact": DataSet(
        scifact,
        {
            split: {
                "rows": f"scifact/claims_{file}.jsonl",
                "qrels": f"scifact/qrels_{file}.jsonl",
                "corpus": "scifact/corpus.jsonl",
            }
            for split, file in (("dev", "validation"), ("train", "train"))
        },
        "scientific claims and the abstracts they cite, BM25 candidates; SciFact's validation split (BEIR calls it test)",
        hub={
            split: {
                "rows": ("", "queries", "queries"),
                "corpus": ("", "corpus", "corpus"),
                "qrels": ("-qrels", "", found),
            }
            for split, found in (("dev", "test"), ("train", "train"))
        },
    ),
    "trec_dl19": DataSet(
        trec_dl19,
        {"test": {"rows": "trec_dl_bm25_top100/dl19.jsonl"}},
        "web queries with BM25's first 100 passages and graded relevance; TREC Deep Learning 2019, passages",
    ),
}
