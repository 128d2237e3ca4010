"""One answer over some nodes: the documents that go in, the source nodes and the report that come out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore

from faithgen import Document
from faithgen.session import AnswerStream

KEPT = "faithgen_kept"
"""Metadata key of a source node: whether the answer was written from it."""

GIVEN_SCORE = "faithgen_given_score"
"""Metadata key of a source node: the score it came with, from a retriever or a reranker."""


class Synthesis:
    """An answer that is being written over some nodes; iterate for the pieces of its text, which joined are `text`.

    Once the first piece is there, the documents are ranked: `source_nodes()` and the report's `documents` are final.

    Args:
        nodes (`Sequence[NodeWithScore]`): what was retrieved; not changed. Nodes without text are dropped.
        empty_response (`str`): the text where there is nothing to answer from, or the model says nothing.
        answer (`Callable[[list[Document]], AnswerStream]`):
            Starts the answer from documents; not called if there are none. Their ids are those of the nodes.

    Attributes:
        report (`dict`): what `Response.metadata["faithgen"]` holds: `documents` and `warnings`, `tokens` as they come, and
            when the answer has ended the rest of [`faithgen.Answer.to_dict`].
    """

    def __init__(
        self,
        nodes: Sequence[NodeWithScore],
        empty_response: str,
        answer: Callable[[list[Document]], AnswerStream],
    ):
        self._nodes, self._empty_response = list(nodes), empty_response
        names = _unique([encodable(node.node_id) or str(place) for place, node in enumerate(self._nodes, 1)])
        self._documents = [_document(given.node, name) for given, name in zip(self._nodes, names, strict=True)]
        self._read = [place for place, document in enumerate(self._documents) if document.text.strip()]
        left_out = [document.id for place, document in enumerate(self._documents) if place not in self._read]
        warnings = [f"without text, left out: {', '.join(left_out)}"] if left_out else []
        self.report: dict[str, Any] = {"documents": self._entries(), "tokens": [], "warnings": warnings}
        self._stream = answer([self._documents[place] for place in self._read]) if self._read else None
        self._said = self._ended = False
        self._space = ""  # ends the text so far; part of the answer only if more follows

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        piece: str | None = ""
        while not piece:
            if self._ended:
                raise StopIteration
            piece = next(self._stream, None) if self._stream else None
            if piece is None:
                self._ended = True
                piece = self._empty_response if self._finish() and not self._said else ""
            else:
                self._follow()
                whole = self._space + piece if self._said else piece.lstrip()
                piece = whole.rstrip()
                self._space = whole[len(piece) :]
        self._said = True
        return piece

    def close(self) -> None:
        """End the answer where it is: decoding stops, its memory is freed. Any thread may call it, and it does not wait."""
        self._ended = True
        if self._stream:
            self._stream.close()

    @property
    def text(self) -> str:
        """The answer's text when it has ended; the empty response where there is none."""
        return self.report.get("answer") or self._empty_response

    def source_nodes(self) -> list[NodeWithScore]:
        """The nodes with the scores of the heads: those the answer is written from first, the best before the others.

        Each holds a copy of its node, with `KEPT` and `GIVEN_SCORE` in its metadata, where neither a language model nor an
        embedding sees them. The score is the one it came with where the heads gave none: filtering was off, or there was
        one document only.
        """
        found = [_marked(node, entry) for node, entry in zip(self._nodes, self._entries(), strict=True)]
        return sorted(found, key=lambda node: (not node.metadata[KEPT], -node.get_score()))

    def _entries(self) -> list[dict[str, Any]]:
        """What became of each node, in the order given."""
        return [
            {
                "id": document.id,
                "kept": bool(document.kept),
                "score": document.score,
                "truncated": document.truncated,
                "given_score": None if given.score is None else float(given.score),
            }
            for given, document in zip(self._nodes, self._documents, strict=True)
        ]

    def _follow(self) -> None:
        """Take over what the stream knows by now."""
        assert self._stream is not None
        tokens = self.report["tokens"]
        if not tokens:
            for place, document in zip(self._read, self._stream.documents, strict=True):
                self._documents[place] = document
            self.report["documents"] = self._entries()
        tokens += [token.to_dict() for token in self._stream.tokens[len(tokens) :]]

    def _finish(self) -> bool:
        """Take over the whole answer; `False` where it was closed before its end."""
        if self._stream is None:
            return True
        try:
            answer = self._stream.answer.to_dict()
        except RuntimeError:
            return False
        self._follow()
        warnings = self.report["warnings"] + answer["warnings"]
        self.report.update(answer, documents=self.report["documents"], warnings=warnings)
        return True


def encodable(text: str) -> str:
    """The text with lone surrogates replaced, which broken files bring and no tokenizer takes."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _document(node: BaseNode, name: str) -> Document:
    """A node as the generator reads it: what LlamaIndex shows a language model, with its title in the title's place."""
    title = node.metadata.get("title")
    if isinstance(title, str) and "title" not in node.excluded_llm_metadata_keys:
        node = node.model_copy(update={"excluded_llm_metadata_keys": [*node.excluded_llm_metadata_keys, "title"]})
    else:
        title = ""
    return Document(encodable(node.get_content(metadata_mode=MetadataMode.LLM)), id=name, title=encodable(title))


def _marked(given: NodeWithScore, entry: dict[str, Any]) -> NodeWithScore:
    node, marks = given.node, {KEPT: entry["kept"], GIVEN_SCORE: entry["given_score"]}
    copied = node.model_copy(
        update={
            "metadata": {**node.metadata, **marks},
            "excluded_llm_metadata_keys": [*node.excluded_llm_metadata_keys, *marks],
            "excluded_embed_metadata_keys": [*node.excluded_embed_metadata_keys, *marks],
        }
    )
    return NodeWithScore(node=copied, score=entry["given_score"] if entry["score"] is None else entry["score"])


def _unique(names: Sequence[str]) -> list[str]:
    """The names, numbered where one comes twice: `"a"`, `"a (2)"`."""
    found: dict[str, None] = {}
    for name in names:
        unique, number = name, 1
        while unique in found:
            number += 1
            unique = f"{name} ({number})"
        found[unique] = None
    return list(found)
