"""One run of a generator: questions come in, the text of their answers comes out step by step."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from faithgen import hf
from faithgen.answer import Answer, AnswerToken
from faithgen.decoding.contrast import ContrastConfig
from faithgen.decoding.engine import PairDecoder, PairPrompt, StepRow
from faithgen.decoding.sampling import SamplingConfig
from faithgen.documents import Document, as_documents
from faithgen.errors import FaithgenError
from faithgen.explanation import Explainer
from faithgen.filtering.coarse import FilterConfig
from faithgen.prompting import UNFAITHFUL
from faithgen.text_stream import TextStream

if TYPE_CHECKING:
    from faithgen.generator import FaithfulGenerator

DocumentLike = Document | Mapping[str, Any] | str


@dataclass
class Prepared:
    """One question, ready to decode."""

    question: str
    documents: list[Document]
    prompt_order: list[str]
    pair: PairPrompt | None
    timings: dict[str, float]
    warnings: list[str]
    explainer: Explainer | None


@dataclass
class Question:
    """A question on its way to the answer; `index` is that of its request."""

    index: int
    prepared: Prepared
    text: TextStream
    answer: Answer | None = None
    ready: float = field(default_factory=time.perf_counter)
    first: float = 0.0

    def take_prompt(self) -> PairPrompt:
        """The prompt, once; its keys and values are the decoder's from then on."""
        prompt, self.prepared.pair = self.prepared.pair, None
        assert prompt is not None
        return prompt

    def times(self) -> dict[str, float]:
        """Seconds of this question up to now; in a batch they hold the work on others that was done meanwhile."""
        before, now = self.prepared.timings, time.perf_counter()
        times = {"prefill": before.pop("steer") + self.first - self.ready, "decode": now - self.first}
        return {**times, "total": before["filter"] + sum(times.values()), "new_tokens": len(self.text.tokens)}


@dataclass(frozen=True)
class Piece:
    """What a step adds to the answer of a request; with the last one comes the answer (or why there is none)."""

    index: int
    text: str
    answer: Answer | FaithgenError | None = None


class Session:
    """Some questions from their documents to their answers; arguments as in [`FaithfulGenerator.generate_each`].

    Attributes:
        questions (`dict[int, Question]`):
            Those whose documents are ranked, by their place among them; of the finished ones the first alone.
    """

    def __init__(
        self,
        generator: FaithfulGenerator,
        requests: Iterable[tuple[str, Sequence[DocumentLike]]],
        *,
        batch_size: int | None = None,
        filter: FilterConfig | None = None,
        contrast: ContrastConfig | None = None,
        sampling: SamplingConfig | None = None,
        max_new_tokens: int = 128,
        stop: Sequence[str] = (),
        explain: bool = False,
        keep_errors: bool = False,
    ):
        if max_new_tokens < 1:
            raise FaithgenError(f"max_new_tokens is {max_new_tokens}; give 1 or more")
        if isinstance(stop, str) or not all(isinstance(text, str) and text for text in stop):
            raise FaithgenError("stop must be a list of non-empty strings")
        if batch_size is not None and batch_size < 1:
            raise FaithgenError(f"batch_size is {batch_size}; give 1 or more")
        self.generator, self.batch_size, self.keep_errors = generator, batch_size, keep_errors
        self.requests: Iterable[tuple[str, Sequence[DocumentLike]]] = requests
        if not keep_errors and isinstance(requests, Sequence):
            self.requests = [_checked(*request) for request in requests]  # before anything is computed
        self.filter, self.contrast = filter or FilterConfig(), generator.resolved(contrast or ContrastConfig())
        self.sampling, self.max_new_tokens, self.stop = sampling or SamplingConfig(), max_new_tokens, tuple(stop)
        self.explain = explain
        shape = hf.head_shape(generator.loaded.model)
        total = shape.num_layers * shape.num_heads
        asked = max(self.filter.num_heads, self.filter.steer_heads, self.contrast.num_heads or 1)
        if asked > total:
            raise FaithgenError(f"cannot take {asked} heads of {total}; ask for fewer")
        hf.check_cache_supported(generator.loaded.model)
        if self.contrast.source == "control":
            generator.builder.control_id(UNFAITHFUL)
        self._ready = 0
        self.questions: dict[int, Question] = {}

    def steps(self) -> Generator[list[Piece], None, None]:
        """Run the session; yields what each step adds.

        Requests are read when there is room for them. What takes memory (caches, decoder) lives in this generator alone, so
        that closing it frees it.
        """
        failed: list[Piece] = []
        waiting = self._ranked(failed)
        first = list(islice(waiting, self.batch_size))
        yield failed.copy()  # documents are ranked; a stream that is closed now spares the prefill
        failed.clear()
        decoder = self.generator._decoder(
            (question.take_prompt() for question in chain(_emptied(first), waiting)),
            self.contrast,
            self.sampling,
            self.max_new_tokens,
            self.explain,
            self.batch_size,
        )
        steps = iter(decoder)
        while True:
            with self.generator._lock:
                rows = next(steps, [])
            pieces = [*failed, *(self._take(decoder, row) for row in rows)]
            failed.clear()
            if pieces:
                yield pieces
            if not rows:
                return

    def _ranked(self, failed: list[Piece]) -> Iterator[Question]:
        """The questions with their prompts; where errors are kept, those that cannot be asked go to `failed`."""
        for index, (question, documents) in enumerate(self.requests):
            try:
                with self.generator._lock:
                    prepared = self.generator._prepare(
                        *_checked(question, documents), self.filter, self.contrast, self.max_new_tokens, self.explain
                    )
            except FaithgenError as error:
                if not self.keep_errors:
                    raise
                failed.append(Piece(index, "", error))
                continue
            text = TextStream(self.generator.loaded.tokenizer, self.stop, self.generator._ends, prepared.explainer)
            place = self._ready
            self._ready += 1
            self.questions[place] = Question(index, prepared, text)
            yield self.questions[place]

    def _take(self, decoder: PairDecoder, row: StepRow) -> Piece:
        one = self.questions[row.question]
        one.first = one.first or time.perf_counter()
        text = one.text.add(row)
        if not (row.finished or one.text.finished):
            return Piece(one.index, text)
        decoder.finish(row.question)
        one.answer = self._answer(one.prepared, one.text)
        one.answer.timings.update(one.times())
        if row.question:
            del self.questions[row.question]
        return Piece(one.index, text + one.text.rest(), one.answer)

    def _answer(self, one: Prepared, text: TextStream) -> Answer:
        loaded = self.generator.loaded
        settings = {
            "model": loaded.model_id,
            "revision": loaded.revision,
            "dtype": str(loaded.model.dtype).removeprefix("torch."),
            "heads": {"scoring": self.generator.scoring_heads.method, "copying": self.generator.copying_heads.method},
            "filter": asdict(self.filter),
            "contrast": asdict(self.contrast),
            "sampling": asdict(self.sampling),
            "max_new_tokens": self.max_new_tokens,
            "stop": list(self.stop),
        }
        whole = text.text.strip()
        explanation = None
        if one.explainer is not None:
            explanation = one.explainer.finish(whole, [token.text for token in text.tokens])
        return Answer(
            question=one.question,
            text=whole,
            documents=one.documents,
            prompt_order=one.prompt_order,
            tokens=text.tokens,
            finish_reason=text.finished or "length",
            timings=one.timings,
            settings=settings,
            warnings=one.warnings,
            explanation=explanation,
        )


def _checked(question: str, documents: Sequence[DocumentLike]) -> tuple[str, list[Document]]:
    if not isinstance(question, str) or not question.strip():
        raise FaithgenError("the question is empty; ask something")
    return question, as_documents(documents)


def _emptied(questions: list[Question]) -> Iterator[Question]:
    """Hand over the questions of a list without keeping them."""
    while questions:
        yield questions.pop(0)


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
