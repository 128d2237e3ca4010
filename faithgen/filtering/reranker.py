"""`HeadReranker`: retrieval heads as a re-ranker with the shape of sentence-transformers' `CrossEncoder`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from faithgen import hf
from faithgen.documents import Document
from faithgen.errors import FaithgenError
from faithgen.filtering.coarse import FilterConfig, Ranking, rank_documents
from faithgen.heads.head_set import HeadSet
from faithgen.heads.resolve import HeadsLike, resolve_scoring_heads
from faithgen.models import LoadedModel, load_model
from faithgen.prompting import PromptBuilder

if TYPE_CHECKING:
    import numpy as np
    import torch


class HeadReranker:
    """Ranks documents for a question by the attention of a language model's retrieval heads.

    Where a `CrossEncoder` scores one (query, document) pair at a time, heads score *listwise*: all documents of a query
    share one context, and the score of a document depends on which others it stands among. Scores of one query compare,
    scores of different queries do not.

    One reranker may be used from several threads, and share its model with a generator: they take turns.

    ```python
    reranker = HeadReranker(generator.loaded, generator.scoring_heads)
    ```

    Args:
        loaded ([`LoadedModel`]): the model.
        heads ([`HeadSet`]): heads that rank (query-focused).
        config ([`FilterConfig`], *optional*): number of heads and calibration.
    """

    def __init__(self, loaded: LoadedModel, heads: HeadSet, config: FilterConfig | None = None):
        shape = hf.head_shape(loaded.model)
        heads.check(shape.num_layers, shape.num_heads, loaded.model_id, loaded.revision)
        self.loaded, self.heads, self.config = loaded, heads, config or FilterConfig()
        self.builder = PromptBuilder(loaded.tokenizer, hf.context_window(loaded.model))

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str] | None = None,
        *,
        heads: HeadsLike | Sequence[HeadsLike] = "auto",
        config: FilterConfig | None = None,
        **load_arguments: Any,
    ) -> HeadReranker:
        """Load a model and the heads that rank; arguments as in [`FaithfulGenerator.from_pretrained`]."""
        loaded = load_model(model, **load_arguments)
        return cls(loaded, resolve_scoring_heads(loaded, heads), config)

    def score(self, query: str, documents: Sequence[str | Document]) -> list[float]:
        """Scores of documents for one query, in their order: the sum over heads of each document's attention share.

        Returns:
            One `float` a document, 0 to the number of heads. Documents that do not fit one window together are ranked in
            rounds; those that do not reach the last one get scores below 0.

        Raises:
            FaithgenError: If the query is empty.
        """
        return self.score_in_full(query, documents).scores

    def score_in_full(self, query: str, documents: Sequence[str | Document]) -> Ranking:
        """As `score`, with the scores of both passes, votes and costs; arguments and errors as there."""
        if not isinstance(query, str) or not query.strip():
            raise FaithgenError("the query is empty; ask something")
        if not documents:
            return Ranking([], [])
        given = [Document(text=text) if isinstance(text, str) else text for text in documents]
        heads = self.config.scoring_heads(self.heads)
        with self.loaded.lock:
            return rank_documents(self.loaded.model, self.builder, heads, query, given, self.config)

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        return_documents: bool = False,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: Callable | None = None,
        apply_softmax: bool | None = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: Any = None,
        pool: Any = None,
        chunk_size: int | None = None,
        **kwargs: Any,
    ) -> list[dict[str, Any]]:
        """Rank documents for a query.

        Args:
            query (`str`), documents (`Sequence[str]`): what to rank.
            top_k (`int`, *optional*): return only the best.
            return_documents (`bool`, *optional*, defaults to `False`): put each document's text under `"text"`.
            activation_fn (`Callable`, *optional*): applied to the tensor of scores.
            apply_softmax (`bool`, *optional*, defaults to `False`): softmax over the documents of the query.
            prompt_name, prompt, batch_size, show_progress_bar, convert_to_numpy, convert_to_tensor, device, pool,
            chunk_size: accepted so that this class stands where a `CrossEncoder` does; they change nothing here.

        Returns:
            `list[dict]`: `{"corpus_id", "score"}` (and `"text"`), best first.
        """
        scores = self._finish(self.score(query, documents), activation_fn, apply_softmax)
        order = sorted(range(len(documents)), key=lambda i: (-scores[i], i))[:top_k]
        found: list[dict[str, Any]] = [{"corpus_id": i, "score": scores[i]} for i in order]
        if return_documents:
            for entry in found:
                document = documents[entry["corpus_id"]]
                entry["text"] = document.text if isinstance(document, Document) else document
        return found

    def predict(
        self,
        inputs: Sequence[Sequence[str]] | Sequence[str],
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: Callable | None = None,
        apply_softmax: bool | None = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: Any = None,
        pool: Any = None,
        chunk_size: int | None = None,
        **kwargs: Any,
    ) -> np.ndarray | torch.Tensor | list[torch.Tensor]:
        """Scores of (query, document) pairs; pairs with the same query are ranked together.

        Args:
            inputs: pairs, or one pair.
            The other arguments: as in `rank`; `apply_softmax` is over the pairs of each query.

        Returns:
            One score a pair, in their order: an fp32 numpy array, or a tensor (`convert_to_tensor`), or a list of 0-d
            tensors (`convert_to_numpy=False`). One pair gives a single score.
        """
        import torch

        one = len(inputs) > 0 and isinstance(inputs[0], str)
        given: list[Any] = [inputs] if one else list(inputs)
        if any(isinstance(pair, str) or len(pair) != 2 for pair in given):
            raise FaithgenError("predict takes (query, document) pairs")
        pairs: list[tuple[str, str]] = [(pair[0], pair[1]) for pair in given]
        queries: dict[str, list[int]] = {}
        for index, (query, _) in enumerate(pairs):
            queries.setdefault(query, []).append(index)
        scores = torch.zeros(len(pairs))
        for query, places in queries.items():
            values = self._finish(self.score(query, [pairs[i][1] for i in places]), activation_fn, apply_softmax)
            scores[places] = torch.tensor(values)
        result = scores[0] if one else scores
        if convert_to_tensor:
            return result
        if convert_to_numpy:
            return result.numpy()[()]  # a scalar, not a 0-d array, for one pair
        return result if one else list(scores)

    @staticmethod
    def _finish(scores: list[float], activation_fn: Callable | None, apply_softmax: bool | None) -> list[float]:
        if not scores or (activation_fn is None and not apply_softmax):
            return scores
        import torch

        values = torch.tensor(scores)
        if activation_fn is not None:
            values = activation_fn(values)
        return (values.softmax(0) if apply_softmax else values).tolist()
