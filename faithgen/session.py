"""One run of a generator: questions come in, the text of their answers comes out step by step."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from faithgen import hf
from faithgen.answer import Answer
from faithgen.decoding.contrast import ContrastConfig
from faithgen.decoding.engine import PairDecoder, PairPrompt, StepRow
from faithgen.decoding.sampling import SamplingConfig
from faithgen.documents import Document, as_documents
from faithgen.errors import FaithgenError
from faithgen.explanation import Explainer, Explanation
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

    def unasked(self, question: str) -> Answer:
        """The answer where there is nothing to answer from: all that any other has, and the model is not asked."""
        names = ("filter", "prefill", "decode", "total", "scored_tokens", "prompt_tokens", "new_tokens")
        prepared = Prepared(question, [], [], None, dict.fromkeys(names, 0.0), [], None)
        answer = self._answer(prepared, TextStream(self.generator.loaded.tokenizer, (), frozenset()))
        answer.finish_reason = "empty"
        answer.explanation = Explanation(heads=[]) if self.explain else None
        return answer

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
