"""One answer over some nodes: the documents that go in, the source nodes and the report that come out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore

from faithgen import Answer, Document, FaithfulGenerator, FaithgenError
from faithgen.session import Session

KEPT = "faithgen_kept"
"""Metadata key of a source node: whether the answer was written from it."""

GIVEN_SCORE = "faithgen_given_score"
"""Metadata key of a source node: the score it came with, from a retriever or a reranker."""


class Synthesis:
    """An answer that is being written over some nodes; iterate for the pieces of its text, which joined are `text`.

    Once the first piece is there, the documents are ranked: `source_nodes()` and the report's `documents` are final.

    Args:
        generator ([`faithgen.FaithfulGenerator`]): the model; not asked where no node holds text.
        question (`str`): what is asked.
        nodes (`Sequence[NodeWithScore]`): what was retrieved; not changed. Nodes without text are dropped.
        options (`Mapping`): all of [`OPTIONS`], checked.
        empty_response (`str`): the text where there is nothing to answer from, or the model says nothing.

    Attributes:
        report (`dict`): what `Response.metadata["faithgen"]` holds: `documents` and `warnings`, `tokens` as they come, and
            when the answer has ended the rest of [`faithgen.Answer.to_dict`].
    """

    def __init__(
        self,
        generator: FaithfulGenerator,
        question: str,
        nodes: Sequence[NodeWithScore],
        options: Mapping[str, Any],
        empty_response: str,
    ):
        self._generator, self._question, self._options = generator, encodable(question), options
        self._nodes, self._empty_response = list(nodes), empty_response
        names = _unique([encodable(node.node_id) or str(place) for place, node in enumerate(self._nodes, 1)])
        self._documents = [_document(given.node, name) for given, name in zip(self._nodes, names, strict=True)]
        self._read = [place for place, document in enumerate(self._documents) if document.text.strip()]
        read = set(self._read)
        self._left_out = {document.id for place, document in enumerate(self._documents) if place not in read}
        left_out = [document.id for document in self._documents if document.id in self._left_out]
        warnings = [f"without text, left out: {', '.join(left_out)}"] if left_out else []
        self.report: dict[str, Any] = {"documents": self._entries(), "tokens": [], "warnings": warnings}
        texts = [self._documents[place] for place in self._read]
        self._stream = generator.stream(self._question, texts, **options) if texts else None
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
        """The nodes with the scores of the heads: those the answer is written from first, the best before the others, and
        those without text last.

        Each holds a copy of its node, with `KEPT` and `GIVEN_SCORE` in its metadata, where neither a language model nor an
        embedding sees them. All scores are of one scale: the heads', with 0 for a node without text, or those that the
        nodes came with where the heads gave none: filtering was off, or there was one document only.
        """
        entries = self._entries()
        found = [(_marked(node, entry), entry) for node, entry in zip(self._nodes, entries, strict=True)]
        found.sort(key=lambda one: (not one[1]["kept"], one[1]["id"] in self._left_out, -one[0].get_score()))
        return [node for node, _ in found]

    def _entries(self) -> list[dict[str, Any]]:
        """What became of each node, in the order given; with its text where the answer is explained."""
        ranked = any(document.score is not None for document in self._documents)
        return [
            {
                "id": document.id,
                "title": document.title,
                "kept": bool(document.kept),
                "score": 0.0 if ranked and document.id in self._left_out else document.score,
                "coarse_score": document.coarse_score,
                "fine_score": document.fine_score,
                "truncated": document.truncated,
                "given_score": _finite(given.score),
                **({"text": document.text} if self._options["explain"] else {}),
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
            answer = Session(self._generator, [], **self._options).unasked(self._question).to_dict()
        else:
            try:
                answer = self._stream.answer.to_dict()
            except RuntimeError:
                return False
            self._follow()
        if "explanation" in answer:
            answer["explanation"]["dropped"].update(dict.fromkeys(self._left_out, "it holds no text"))
        warnings = self.report["warnings"] + answer["warnings"]
        self.report.update(answer, documents=self.report["documents"], warnings=warnings)
        return True


def explained_answer(response: Any) -> Answer:
    """The answer that a response was made of, with its explanation.

    Raises:
        FaithgenError: If the response is not of a `FaithfulSynthesizer`, was not explained, or not read to its end.
    """
    report = (getattr(response, "metadata", None) or {}).get("faithgen")
    if report is None:
        raise FaithgenError("this is no response of a FaithfulSynthesizer; give what its query engine returned")
    if "finish_reason" not in report:
        raise FaithgenError("the response has not been read to its end; read its stream first")
    if "explanation" not in report:
        raise FaithgenError("the response has no explanation to report; ask with FaithfulSynthesizer(explain=True)")
    return Answer.from_dict(report)


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


def _finite(score: float | None) -> float | None:
    """A retriever's score as JSON can hold it."""
    return None if score is None or not math.isfinite(score) else float(score)


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
