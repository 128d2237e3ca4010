"""Documents as the report shows them: ranked, with the scores of both passes, and cut into what the heads could look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from faithgen.documents import Document
    from faithgen.explanation import Explanation, Passage


@dataclass(frozen=True)
class Piece:
    """A piece of a document's text.

    Attributes:
        text (`str`): as in the document.
        passage (`int`, *optional*): index into `Explanation.passages`; `None` for what lies between and behind them.
        unread (`bool`): cut off, the model never saw it.
    """

    text: str
    passage: int | None = None
    unread: bool = False


@dataclass(frozen=True)
class Bar:
    """A score.

    Attributes:
        name (`str`): of the pass.
        score (`float`): as the filter gave it.
        width (`float`): 0 to 100, of the highest score in the report.
    """

    name: str
    score: float
    width: float


@dataclass(frozen=True)
class DocumentView:
    """A document.

    Attributes:
        title (`str`), origin (`str`): what it is called and where it came from; the title may be empty.
        state (`str`): what became of it, in words.
        kept (`bool`): whether the model read it.
        heading (`int`, *optional*): index of the passage that its heading is.
        bars (`list[Bar]`): its scores; empty where documents were not ranked.
        pieces (`list[Piece]`): its text, whole and in order.
    """

    title: str
    origin: str
    state: str
    kept: bool
    heading: int | None
    bars: list[Bar]
    pieces: list[Piece]


def view_documents(
    documents: Sequence[Document], explanation: Explanation, prompt_order: Sequence[str]
) -> list[DocumentView]:
    """All documents, those that were kept first, and each part best first (in their order where they were not ranked).

    Args:
        documents (`Sequence[Document]`): of the answer.
        explanation ([`Explanation`]): of the answer.
        prompt_order (`Sequence[str]`): ids of those that were kept, as they were read.
    """
    scores = [score for one in documents for score in (one.coarse_score, one.fine_score) if score is not None]
    most = max([*scores, 0.0]) or 1.0
    places = {id: (place, len(prompt_order)) for place, id in enumerate(prompt_order, 1)}
    order = sorted(documents, key=lambda one: (one.id not in places, -(one.score or 0.0)))
    views = []
    for document in order:
        passages = [(i, one) for i, one in enumerate(explanation.passages) if one.document == document.id]
        views.append(
            DocumentView(
                title=(document.title or "").strip(),
                origin=document.origin,
                state=_state(document, places.get(document.id), explanation.dropped.get(document.id)),
                kept=document.id in places,
                heading=next((i for i, one in passages if one.heading), None),
                bars=_bars(document, most),
                pieces=_pieces(document.text, [(i, one) for i, one in passages if not one.heading]),
            )
        )
    return views


def _state(document: Document, place: tuple[int, int] | None, reason: str | None) -> str:
    if place is None:
        return f"dropped: {reason}" if reason else "dropped"
    first, last = place[0] == 1, place[0] == place[1]
    where = "alone" if first and last else "first" if first else "last" if last else f"number {place[0]}"
    cut = "; cut to fit the model's window" if document.truncated else ""
    return f"kept, {where} in the prompt{cut}"


def _bars(document: Document, most: float) -> list[Bar]:
    found = (("coarse", document.coarse_score), ("fine", document.fine_score))
    return [
        Bar(name, score, round(100 * min(1.0, max(0.0, score / most)), 2))
        for name, score in found
        if score is not None
    ]


def _pieces(text: str, passages: Sequence[tuple[int, Passage]]) -> list[Piece]:
    pieces, end = [], 0
    for index, passage in passages:
        if passage.start > end:
            pieces.append(Piece(text[end : passage.start]))
        pieces.append(Piece(text[passage.start : passage.end], index))
        end = passage.end
    if end < len(text):
        pieces.append(Piece(text[end:], unread=bool(passages) and bool(text[end:].strip())))
    return pieces
