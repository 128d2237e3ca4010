"""The text of an answer while it is decoded, for one reader."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from faithgen.answer import Answer, AnswerToken
from faithgen.documents import Document

if TYPE_CHECKING:
    from faithgen.session import Session


class AnswerStream:
    """Pieces of an answer's text, as they are decided; `.answer` holds the whole once they have run out.

    A stream is read once, by any thread. Its keys and values are freed when it has been read, is closed or is dropped.
    """

    def __init__(self, session: Session):
        self._session = session
        self._steps = session.steps()
        self._turn = threading.Lock()
        self._closed = False
        self._answer: Answer | None = None

    def __iter__(self) -> Iterator[str]:
        if self._answer is not None:
            raise RuntimeError("a stream is read once; its text is in .answer")
        return self

    def __next__(self) -> str:
        piece = ""
        while not piece:
            with self._turn:
                pieces = next(self._steps, None)
            if self._closed:  # by another thread, during this step
                self.close()
            if pieces is None and not self._closed:
                self._answer = self._session.questions[0].answer
            if pieces is None or self._closed:
                raise StopIteration
            piece = "".join(one.text for one in pieces)
        return piece

    def close(self) -> None:
        """End the stream early: nothing more is decoded, and the memory of its keys and values is freed.

        Any thread may call it, and it does not wait: where a step is at work in another thread, that thread ends the
        stream after this step. To close again, or after the end, does nothing.
        """
        self._closed = True
        if self._turn.acquire(blocking=False):
            try:
                self._steps.close()
            finally:
                self._turn.release()

    @property
    def documents(self) -> list[Document]:
        """All documents in the order given, with what became of them; there from the first piece on.

        Raises:
            RuntimeError: If no piece has been read.
        """
        if not self._session.questions:
            raise RuntimeError("read the first piece of the stream first")
        return self._session.questions[0].prepared.documents

    @property
    def tokens(self) -> list[AnswerToken]:
        """The tokens decided so far; a stop string may take back the last of them."""
        return list(self._session.questions[0].text.tokens) if self._session.questions else []

    @property
    def answer(self) -> Answer:
        """The answer.

        Raises:
            RuntimeError: If the stream has not been read to its end.
        """
        if self._answer is None:
            raise RuntimeError("read the stream to its end first")
        return self._answer
