"""Rankings: recall@k, success@k, MRR and nDCG@k, computed by trec_eval (package pytrec-eval-terrier)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from faithgen.errors import FaithgenError, MissingExtraError


def recall_at(ranking: Sequence[str], relevance: Mapping[str, int], k: int, min_relevance: int = 1) -> float | None:
    """recall@k: share of the relevant documents that stand among the first k.

    Args:
        ranking (`Sequence[str]`):
            Document ids, best first. The order is taken as it is: a ranking holds no ties. `rank_by_score` makes one from
            scores and says how it breaks them.
        relevance (`Mapping[str, int]`):
            Grade by document id; 0 or less is irrelevant, and so is a document that is not named. Relevant documents that
            the ranking lacks count as missed, so give the grades of the whole pool that recall is asked for.
        k (`int`): depth, 1 or more.
        min_relevance (`int`, *optional*, defaults to 1): lowest grade that is relevant; 2 for TREC-DL passages.

    Returns:
        `float`, *optional*: 0 to 1; `None` where no document is relevant.

    Raises:
        FaithgenError: If a document is ranked twice or `k` is below 1.
    """
    return _measure("recall", ranking, relevance, k, min_relevance)


def success_at(ranking: Sequence[str], relevance: Mapping[str, int], k: int, min_relevance: int = 1) -> float | None:
    """success@k (hit rate): 1.0 if a relevant document stands among the first k. Arguments as in `recall_at`."""
    return _measure("success", ranking, relevance, k, min_relevance)


def reciprocal_rank(
    ranking: Sequence[str], relevance: Mapping[str, int], k: int | None = None, min_relevance: int = 1
) -> float | None:
    """1 over the rank of the first relevant document, 0.0 where there is none in the first `k`; its mean is MRR(@k).

    Arguments as in `recall_at`; `k=None` reads the whole ranking.
    """
    return _measure("recip_rank", ranking, relevance, k, min_relevance)


def ndcg_at(ranking: Sequence[str], relevance: Mapping[str, int], k: int) -> float | None:
    """nDCG@k with graded relevance, as trec_eval and BEIR compute it: gain = grade, discount = log2(rank + 1).

    The ideal ranking is made of all documents in `relevance`. TREC's official figures hold those that first-stage
    retrieval missed too; with the grades of a re-ranking pool alone, the figure is the higher one.

    Args:
        ranking (`Sequence[str]`), relevance (`Mapping[str, int]`), k (`int`): as in `recall_at`.

    Returns:
        `float`, *optional*: 0 to 1; `None` where no document has a grade above 0.

    Raises:
        FaithgenError: If a document is ranked twice or `k` is below 1.
    """
    return _measure("ndcg_cut", ranking, relevance, k, 1)


def rank_by_score(scores: Mapping[str, float]) -> list[str]:
    """Document ids by falling score; equal scores by falling id, compared as strings, as trec_eval breaks ties.

    That rule knows nothing of where a document stood, so a ranker that scores all documents alike gains nothing from a
    gold document that happens to be first.

    Raises:
        FaithgenError: If a score is not finite.
    """
    for name, score in scores.items():
        if not math.isfinite(score):
            raise FaithgenError(f"the score of document {name!r} is {score}; give a finite number")
    return sorted(sorted(scores, reverse=True), key=lambda name: -scores[name])


def _measure(
    measure: str, ranking: Sequence[str], relevance: Mapping[str, int], k: int | None, min_relevance: int
) -> float | None:
    if k is not None and k < 1:
        raise FaithgenError(f"k is {k}; give 1 or more")
    if min_relevance < 1:
        raise FaithgenError(f"min_relevance is {min_relevance}; give 1 or more")
    if len(set(ranking)) < len(ranking):
        twice = next(name for i, name in enumerate(ranking) if name in ranking[:i])
        raise FaithgenError(f"document {twice!r} is ranked twice; name each document once")
    if not any(grade >= min_relevance for grade in relevance.values()):
        return None
    try:
        import pytrec_eval
    except ImportError as error:
        raise MissingExtraError("scoring a ranking", "eval") from error
    top = list(ranking[:k])
    if not top:
        return 0.0
    # trec_eval sorts by score: falling whole numbers, which single precision keeps apart, hold the order given
    run = {"q": {name: float(len(top) - place) for place, name in enumerate(top)}}
    grades = {"q": {name: int(grade) for name, grade in relevance.items()}}
    name = measure if k is None or measure == "recip_rank" else f"{measure}.{k}"
    evaluator = pytrec_eval.RelevanceEvaluator(grades, {name}, relevance_level=min_relevance)
    return float(evaluator.evaluate(run)["q"][name.replace(".", "_")])
