"""What an answer was made of: the tokens it was chosen among, and the sentences that its copying heads looked at."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from faithgen.documents import Document
from faithgen.sentences import split_sentences

if TYPE_CHECKING:
    from faithgen.decoding.engine import StepDetail
    from faithgen.heads.head_set import Head
    from faithgen.prompting import PromptDocument, Span

ALTERNATIVES = 5
"""Tokens of each branch that are told for each token of an answer."""

LEAST_SHARE = 0.01
"""Share of attention below which a passage is not said to be looked at."""

_MOST = 12
_BEFORE = 4
"""Tokens before an alternative that are enough to decode it as it would stand there."""


@dataclass(frozen=True)
class Alternative:
    """A token that could have stood there.

    Attributes:
        text (`str`): what it would have added to the answer; an end token as its name.
        id (`int`): token id.
        probability (`float`): in its branch.
    """

    text: str
    id: int
    probability: float


@dataclass(frozen=True)
class TokenDetail:
    """How one token of an answer was chosen.

    Attributes:
        faithful (`list[Alternative]`): the likeliest tokens of the faithful branch, best first.
        unfaithful (`list[Alternative]`, *optional*): of the other branch; `None` without one.
        unfaithful_probability (`float`, *optional*): of the token itself in the other branch.
        looked_at (`list[tuple[int, float]]`):
            Passages that the watched heads looked at when the token was chosen, most first: index into
            `Explanation.passages`, share (0 to 1) of the heads' whole attention.
    """

    faithful: list[Alternative]
    unfaithful: list[Alternative] | None
    unfaithful_probability: float | None
    looked_at: list[tuple[int, float]]


@dataclass(frozen=True)
class Passage:
    """A sentence of a document, or its heading, as the model read it.

    Attributes:
        document (`str`): id of the document.
        start (`int`), end (`int`): place in the document's text, in characters; both 0 for the heading.
        heading (`bool`): the line with the title in front of the text.
    """

    document: str
    start: int
    end: int
    heading: bool = False


@dataclass(frozen=True)
class AnswerSentence:
    """A sentence of an answer and where it came from.

    Attributes:
        start (`int`), end (`int`): place in the answer's text, in characters.
        tokens (`tuple[int, int]`): its tokens, as `Answer.tokens[first:last]`.
        looked_at (`list[tuple[int, float]]`): as in [`TokenDetail`], mean over its tokens.
    """

    start: int
    end: int
    tokens: tuple[int, int]
    looked_at: list[tuple[int, float]]


@dataclass(frozen=True)
class Explanation:
    """What `generate(..., explain=True)` adds to an answer, beside the detail of each token.

    Attributes:
        heads (`list[tuple[int, int]]`): the copying heads whose attention was read, as `(layer, head)`.
        scoring_heads (`list[tuple[int, int]]`): heads that ranked the documents; empty where they were not ranked.
        masked_heads (`list[tuple[int, int]]`): heads masked in the unfaithful branch; empty for another branch.
        passages (`list[Passage]`): all that was read of the documents, in prompt order. Dropped documents have none.
        sentences (`list[AnswerSentence]`): of the answer, in order.
        dropped (`dict[str, str]`): why a document was dropped, by its id.
    """

    heads: list[Head]
    scoring_heads: list[Head] = field(default_factory=list)
    masked_heads: list[Head] = field(default_factory=list)
    passages: list[Passage] = field(default_factory=list)
    sentences: list[AnswerSentence] = field(default_factory=list)
    dropped: dict[str, str] = field(default_factory=dict)


def read_passages(documents: Sequence[Document], places: Sequence[PromptDocument]) -> tuple[list[Passage], list[Span]]:
    """The sentences of documents in a prompt, and the tokens of each: together all tokens of all documents.

    A token belongs to the sentence that it ends in; white space after a sentence to that sentence. What was cut off a
    document has no tokens and is not among them.

    Args:
        documents (`Sequence[Document]`): in prompt order.
        places (`Sequence[PromptDocument]`): where they stand in the prompt.
    """
    passages: list[Passage] = []
    spans: list[Span] = []
    for document, place in zip(documents, places, strict=True):
        read = max(place.ends, default=0)
        found = [one for one in split_sentences(document.text) if one.start < read]
        passages.append(Passage(document.id, 0, 0, heading=True))
        spans.append((place.span[0], place.text[0] if found else place.text[1]))
        first = place.text[0]
        for number, sentence in enumerate(found):
            last = place.text[1]
            if number + 1 < len(found):
                last = place.text[0] + bisect_left(place.ends, found[number + 1].start + 1)
            passages.append(Passage(document.id, sentence.start, min(sentence.end, read)))
            spans.append((first, last))
            first = last
    return passages, spans


class Explainer:
    """Takes in one question's tokens and explains the answer that they make.

    Args:
        tokenizer (`PreTrainedTokenizerFast`): of the model.
        passages (`Sequence[Passage]`): what the attention of the engine's rows refers to.
        heads (`Mapping[str, list[tuple[int, int]]]`): the heads of [`Explanation`] by the names of its attributes.
        dropped (`Mapping[str, str]`): why a document was dropped, by its id.
    """

    def __init__(
        self,
        tokenizer: Any,
        passages: Sequence[Passage],
        heads: Mapping[str, list[Head]],
        dropped: Mapping[str, str],
    ):
        self.tokenizer, self.passages, self.heads, self.dropped = tokenizer, list(passages), heads, dict(dropped)
        self._attention: list[list[float]] = []

    def token(self, detail: StepDetail, before: Sequence[int]) -> TokenDetail:
        """Explain the next token.

        Args:
            detail ([`StepDetail`]): from the engine.
            before (`Sequence[int]`): the answer's token ids before it.
        """
        self._attention.append(detail.attention)
        return TokenDetail(
            self._alternatives(detail.faithful, before),
            None if detail.unfaithful is None else self._alternatives(detail.unfaithful, before),
            detail.unfaithful_probability,
            _most_looked_at(detail.attention),
        )

    def _alternatives(self, found: Sequence[tuple[int, float]], before: Sequence[int]) -> list[Alternative]:
        return [Alternative(self._text(index, before), index, probability) for index, probability in found]

    def _text(self, index: int, before: Sequence[int]) -> str:
        """What a token adds to the tokens before it (some decoders take the space in front of a lone token away)."""
        near = list(before[-_BEFORE:])
        lead, whole = (self.tokenizer.decode(ids) for ids in (near, [*near, index]))
        return whole[len(lead) :] if near and whole.startswith(lead) else self.tokenizer.decode([index])

    def finish(self, text: str, tokens: Sequence[str]) -> Explanation:
        """The explanation of the whole answer.

        Args:
            text (`str`): the answer.
            tokens (`Sequence[str]`): texts of its tokens, which are the answer but for white space around it.
        """
        ends, place = [], -(len(whole := "".join(tokens)) - len(whole.lstrip()))
        for token in tokens:
            place += len(token)
            ends.append(place)
        found = split_sentences(text)
        sentences = []
        first = 0
        for number, sentence in enumerate(found):
            last = len(tokens)
            if number + 1 < len(found):
                last = bisect_left(ends, found[number + 1].start + 1)
            rows = self._attention[first:last]
            mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
            sentences.append(AnswerSentence(sentence.start, sentence.end, (first, last), _most_looked_at(mean)))
            first = last
        return Explanation(**self.heads, passages=self.passages, sentences=sentences, dropped=self.dropped)


def _most_looked_at(attention: Sequence[float]) -> list[tuple[int, float]]:
    order = sorted(range(len(attention)), key=lambda i: (-attention[i], i))[:_MOST]
    return [(i, round(attention[i], 4)) for i in order if attention[i] >= LEAST_SHARE]
