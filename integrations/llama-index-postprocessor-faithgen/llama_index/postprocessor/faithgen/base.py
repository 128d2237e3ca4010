"""`RetrievalHeadRerank`: [`faithgen.HeadReranker`] as a LlamaIndex node postprocessor."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import llama_index.core.instrumentation as instrument
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.callbacks import CBEventType, EventPayload
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle

from faithgen import FaithgenError, HeadReranker

dispatcher = instrument.get_dispatcher(__name__)

RETRIEVAL_SCORE = "retrieval_score"
"""Metadata key of the score a node came with, as the other rerankers name it."""


class RetrievalHeadRerank(BaseNodePostprocessor):
    """Ranks nodes by the attention that retrieval heads of a language model pay them while they read the query.

    The heads read all nodes in one context, so that scores are listwise: a node's score (0 to the number of heads that
    vote, 4 by default) depends on the nodes beside it and compares within one query only. The nodes given are not changed.

    ```python
    reranker = RetrievalHeadRerank(top_n=3)
    engine = RetrieverQueryEngine(retriever, synthesizer, node_postprocessors=[reranker])
    ```

    Args:
        top_n (`int`, *optional*, defaults to 2): most nodes to return.
        model (`str` or `PathLike`, *optional*): hub id, folder or GGUF file; the model packaged with faithgen if not given.
        heads (`str`, `PathLike` or a list of these, *optional*, defaults to `"auto"`):
            Files of head sets. `"auto"` takes those that ship with faithgen, and detects the heads of another model.
        keep_retrieval_score (`bool`, *optional*, defaults to `False`):
            Keep the score a node came with in the metadata of the node returned, under `"retrieval_score"`, where neither
            a language model nor an embedding sees it.
        reranker ([`faithgen.HeadReranker`], *optional*):
            One that is loaded already, in place of `model` and `heads`:
            `HeadReranker(generator.loaded, generator.scoring_heads)` shares its model with a generator. It is not part of
            `to_dict()`.
        callback_manager (`CallbackManager`, *optional*): of LlamaIndex; a query engine sets its own.

    Raises:
        FaithgenError: If an argument cannot be used, `reranker` stands beside `model` or `heads`, or these cannot be loaded.
    """

    top_n: int = Field(default=2, description="Most nodes to return.")
    model: str | None = Field(
        default=None, description="Hub id, folder or GGUF file; the packaged model if not given."
    )
    heads: str | list[str] = Field(default="auto", description='Files of head sets, or "auto".')
    keep_retrieval_score: bool = Field(
        default=False, description="Whether to keep the score a node came with in its metadata."
    )
    _reranker: HeadReranker = PrivateAttr()

    def __init__(
        self,
        top_n: int = 2,
        model: str | os.PathLike[str] | None = None,
        heads: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = "auto",
        keep_retrieval_score: bool = False,
        reranker: HeadReranker | None = None,
        **kwargs: Any,
    ):
        if type(top_n) is not int or top_n < 1:
            raise FaithgenError(f"top_n is {top_n!r}; give a whole number of at least 1")
        if type(keep_retrieval_score) is not bool:
            raise FaithgenError(f"keep_retrieval_score is {keep_retrieval_score!r}; give True or False")
        if not isinstance(reranker, HeadReranker | None):
            kind = type(reranker).__name__
            raise FaithgenError(f"reranker is of type {kind}; give a HeadReranker, or model= the name of one to load")
        model = None if model is None else _name(model, "model", "a hub id, a folder or a GGUF file")
        if isinstance(heads, list | tuple):
            heads = [_name(one, "heads", '"auto" or files of head sets') for one in heads]
        else:
            heads = _name(heads, "heads", '"auto" or files of head sets')
        if reranker is not None and (model is not None or heads != "auto"):
            raise FaithgenError("both a reranker and its model or heads are given; leave out one of them")
        fields: dict[str, Any] = {
            "top_n": top_n,
            "model": model,
            "heads": heads,
            "keep_retrieval_score": keep_retrieval_score,
        }
        super().__init__(**fields, **kwargs)
        self._reranker = reranker or HeadReranker.from_pretrained(model, heads=heads)

    @classmethod
    def class_name(cls) -> str:
        return "RetrievalHeadRerank"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        """The best `top_n` nodes, best first, with the heads' scores; ties in the order given.

        Raises:
            FaithgenError: If there is no query, or it is empty.
        """
        if query_bundle is None:
            raise FaithgenError("there is no query to rank for; pass query_bundle or query_str")
        if not nodes:
            return []
        query, name = query_bundle.query_str, self._reranker.loaded.model_id
        dispatcher.event(ReRankStartEvent(query=query_bundle, nodes=nodes, top_n=self.top_n, model_name=name))
        with self.callback_manager.event(
            CBEventType.RERANKING,
            payload={
                EventPayload.NODES: nodes,
                EventPayload.MODEL_NAME: name,
                EventPayload.QUERY_STR: query,
                EventPayload.TOP_K: self.top_n,
            },
        ) as event:
            texts = [_encodable(node.node.get_content(metadata_mode=MetadataMode.EMBED)) for node in nodes]
            scores = self._reranker.score(_encodable(query), texts)
            best = sorted(range(len(nodes)), key=lambda i: (-scores[i], i))[: self.top_n]
            found = [self._scored(nodes[i], scores[i]) for i in best]
            event.on_end(payload={EventPayload.NODES: found})
        dispatcher.event(ReRankEndEvent(nodes=found))
        return found

    def _scored(self, given: NodeWithScore, score: float) -> NodeWithScore:
        node = given.node
        if self.keep_retrieval_score:
            node = node.model_copy(
                update={
                    "metadata": {**node.metadata, RETRIEVAL_SCORE: given.score},
                    "excluded_llm_metadata_keys": [*node.excluded_llm_metadata_keys, RETRIEVAL_SCORE],
                    "excluded_embed_metadata_keys": [*node.excluded_embed_metadata_keys, RETRIEVAL_SCORE],
                }
            )
        return NodeWithScore(node=node, score=score)


def _name(value: Any, argument: str, wanted: str) -> str:
    """A name or path as a string, which `to_dict` can hold."""
    if not isinstance(value, str | os.PathLike):
        raise FaithgenError(f"{argument} is of type {type(value).__name__}; give {wanted}")
    return os.fsdecode(value)


def _encodable(text: str) -> str:
    """The text with lone surrogates replaced, which broken files bring and no tokenizer takes."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
