"""The answer as the report shows it: sentences to click, tokens to point at, and what the script says of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from faithgen.report.look import level
from faithgen.report.page import percent

if TYPE_CHECKING:
    from faithgen.answer import AnswerToken
    from faithgen.explanation import Alternative, Explanation


@dataclass(frozen=True)
class TokenView:
    """A token that adds text.

    Attributes:
        index (`int`): in `Answer.tokens`.
        space (`str`): white space that it adds in front of `text`; not shaded.
        text (`str`): what it adds, never empty.
        level (`int`): step of the ramp behind it.
    """

    index: int
    space: str
    text: str
    level: int


@dataclass(frozen=True)
class SentenceView:
    """A sentence of the answer.

    Attributes:
        index (`int`): in `Explanation.sentences`.
        tokens (`list[TokenView]`): in order, never empty.
    """

    index: int
    tokens: list[TokenView]


def view_sentences(tokens: Sequence[AnswerToken], explanation: Explanation) -> list[SentenceView]:
    """Sentences with their tokens; their texts together are the answer.

    Args:
        tokens (`Sequence[AnswerToken]`): of the answer.
        explanation ([`Explanation`]): of the answer.
    """
    texts = _without_margins([token.text for token in tokens])
    found = []
    for index, sentence in enumerate(explanation.sentences):
        places = [place for place in range(*sentence.tokens) if texts[place]]
        if places:
            found.append(SentenceView(index, [_view(place, texts[place], tokens[place]) for place in places]))
    return found


def _view(place: int, text: str, token: AnswerToken) -> TokenView:
    word = text.lstrip() or text
    return TokenView(place, text[: len(text) - len(word)], word, level(_shade(token)))


def _without_margins(texts: list[str]) -> list[str]:
    """The texts less white space before the first letter and behind the last."""
    for order, strip in ((range(len(texts)), str.lstrip), (range(len(texts) - 1, -1, -1), str.rstrip)):
        for place in order:
            texts[place] = strip(texts[place])
            if texts[place]:
                break
    return texts


def _shade(token: AnswerToken) -> float:
    """How deep (0 to 1) a token is shaded: how far the branches disagree, or without two how improbable it was."""
    return 1 - math.exp(token.logprob) if token.jsd is None else token.jsd / math.log(2)


def script_data(tokens: Sequence[AnswerToken], explanation: Explanation) -> dict[str, Any]:
    """What the page's script needs: the detail of each token, and what to light up for each sentence.

    Args:
        tokens (`Sequence[AnswerToken]`): of the answer.
        explanation ([`Explanation`]): of the answer.
    """
    return {
        "tokens": [_token(token) for token in tokens],
        "sentences": [_lights(sentence.looked_at) for sentence in explanation.sentences],
    }


def _token(token: AnswerToken) -> dict[str, Any]:
    facts = [["probability", percent(math.exp(token.logprob))]]
    detail = token.detail
    if detail is not None and detail.unfaithful_probability is not None:
        facts.append(["unfaithful branch", percent(detail.unfaithful_probability)])
    if token.jsd is not None:
        facts.append(["disagreement", percent(min(1.0, token.jsd / math.log(2)))])
    if token.context_share is not None:
        facts.append(["attention on documents", percent(token.context_share)])
    branches = []
    if detail is not None:
        branches.append(["faithful", _rows(detail.faithful, token.id)])
        if detail.unfaithful is not None:
            branches.append(["unfaithful", _rows(detail.unfaithful, token.id)])
    return {"text": token.text, "facts": facts, "branches": branches}


def _rows(alternatives: Sequence[Alternative], chosen: int) -> list[list[Any]]:
    """Text, probability to read, probability to draw, and whether it was chosen."""
    return [[one.text, percent(one.probability), round(one.probability, 4), one.id == chosen] for one in alternatives]


def _lights(looked_at: Sequence[tuple[int, float]]) -> list[list[Any]]:
    """Passage, share to read, and step of the ramp, of which the first has the highest."""
    most = max((share for _, share in looked_at), default=0.0) or 1.0
    return [[passage, percent(share), max(1, level(share / most))] for passage, share in looked_at]
