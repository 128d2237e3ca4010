"""LlamaIndex reranker that ranks nodes by the attention of a language model's retrieval heads."""

from llama_index.postprocessor.faithgen.base import RetrievalHeadRerank

__all__ = ["RetrievalHeadRerank"]
