"""`FaithfulGenerator`: question and documents in, answer with its evidence out (DESIGN 1)."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from faithgen import hf
from faithgen.answer import Answer, AnswerToken
from faithgen.decoding.contrast import ContrastConfig
from faithgen.decoding.engine import PairDecoder, PairPrompt, StepRow
from faithgen.decoding.sampling import SamplingConfig
from faithgen.documents import Document, as_documents
from faithgen.errors import FaithgenError
from faithgen.explanation import ALTERNATIVES, Explainer, read_passages
from faithgen.filtering.coarse import FilterConfig, rank_documents
from faithgen.filtering.steering import steered_prefill
from faithgen.heads.head_set import Head, HeadSet
from faithgen.heads.resolve import resolve_heads
from faithgen.models import LoadedModel, load_model
from faithgen.prompting import FAITHFUL, UNFAITHFUL, Prompt, PromptBuilder

DocumentLike = Document | Mapping[str, Any] | str
WATCHED_HEADS = 8
"""Copying heads whose attention gives the context-attention share."""


class FaithfulGenerator:
    """Answers questions from documents.

    ```python
    generator = FaithfulGenerator.from_pretrained()
    answer = generator.generate("Who built it?", documents=[{"id": "1", "text": "Ada built it in 1921."}])
    ```

    One generator may be used from several threads: they take turns step by step, also with a [`HeadReranker`] or another
    generator of the same [`LoadedModel`].

    Args:
        loaded ([`LoadedModel`]): the model.
        scoring_heads ([`HeadSet`]): heads that rank documents (query-focused).
        copying_heads ([`HeadSet`]): heads masked for the unfaithful branch, and watched for the context share.
        instruction (`str`, *optional*): first line of the prompt's user turn; the model's own by default.
    """

    def __init__(
        self, loaded: LoadedModel, scoring_heads: HeadSet, copying_heads: HeadSet, *, instruction: str | None = None
    ):
        shape = hf.head_shape(loaded.model)
        for heads in (scoring_heads, copying_heads):
            heads.check(shape.num_layers, shape.num_heads, loaded.model_id, loaded.revision)
        self.loaded, self.scoring_heads, self.copying_heads = loaded, scoring_heads, copying_heads
        self.builder = PromptBuilder(loaded.tokenizer, hf.context_window(loaded.model), instruction or "")
        self._ends = hf.end_tokens(loaded.model, loaded.tokenizer)
        self._lock = loaded.lock

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str] | None = None,
        *,
        heads: str | os.PathLike[str] | HeadSet | Sequence[str | os.PathLike[str] | HeadSet] = "auto",
        random_heads: int | None = None,
        instruction: str | None = None,
        **load_arguments: Any,
    ) -> FaithfulGenerator:
        """Load a model and its heads.

        Args:
            model (`str` or `PathLike`, *optional*): hub id, folder, GGUF file; the packaged default if not given.
            heads (`"auto"`, path, [`HeadSet`] or a list of these, *optional*, defaults to `"auto"`):
                `"auto"` takes the head sets that ship with faithgen or were detected before, and else detects them on
                the built-in data (a minute or so, once). A given set replaces the one of its method.
            random_heads (`int`, *optional*): a seed; use as many random heads instead, as a control.
            instruction (`str`, *optional*): first line of the prompt's user turn.
            load_arguments: of [`load_model`], e.g. `dtype`, `device`, `revision`.

        Raises:
            FaithgenError: If model or heads cannot be loaded, or the heads are another model's.
        """
        loaded = load_model(model, **load_arguments)
        scoring, copying = resolve_heads(loaded, heads)
        if random_heads is not None:
            scoring, copying = scoring.random_like(random_heads), copying.random_like(random_heads)
        return cls(loaded, scoring, copying, instruction=instruction)

    # --- public -------------------------------------------------------------------------------------------------------

    def generate(self, question: str, documents: Sequence[DocumentLike], **options: Any) -> Answer:
        """Answer one question.

        Args:
            question (`str`): the question.
            documents (`Sequence`): [`Document`]s, mappings with `text` (and `id`, `title`), or strings.
            filter ([`FilterConfig`], *optional*): which documents are kept, and steering.
            contrast ([`ContrastConfig`], *optional*): the unfaithful branch and its weight.
            sampling ([`SamplingConfig`], *optional*): greedy by default.
            max_new_tokens (`int`, *optional*, defaults to 128): most tokens of the answer.
            stop (`Sequence[str]`, *optional*): strings that end the answer; they are not part of it.
            explain (`bool`, *optional*, defaults to `False`):
                Fill in `answer.explanation` and each token's `.detail`: the likeliest tokens of both branches, and the
                document sentences that the copying heads looked at. It changes no token; `faithgen.report` shows it.

        Returns:
            [`Answer`]

        Raises:
            FaithgenError: If the input cannot be used; the message says how to mend it.
        """
        return self.generate_batch([(question, documents)], **options)[0]

    def generate_batch(self, requests: Sequence[tuple[str, Sequence[DocumentLike]]], **options: Any) -> list[Answer]:
        """Answer several questions, decoding them together; arguments as in `generate`, for all of them."""
        session = _Session(self, requests, **options)
        for _ in session.steps():
            pass
        return session.answers

    def stream(self, question: str, documents: Sequence[DocumentLike], **options: Any) -> AnswerStream:
        """Answer one question piece by piece; iterate for strings, then read `.answer`. Arguments as in `generate`."""
        return AnswerStream(_Session(self, [(question, documents)], **options))

    def contrast_source(self, contrast: ContrastConfig) -> str:
        """The source that `"auto"` stands for with this model."""
        return self.resolved(contrast).source

    def resolved(self, contrast: ContrastConfig) -> ContrastConfig:
        """The settings that a config stands for with this model: no `"auto"`, and a number for `alpha`."""
        if contrast.source != "auto":
            return replace(contrast, alpha=contrast.strength)
        if self.builder.has_control_tokens:
            return replace(contrast, source="control", alpha=contrast.strength)
        return replace(contrast, source="heads", alpha=contrast.alpha or 0.0)

    # --- the way of a request -----------------------------------------------------------------------------------------

    def _prepare(
        self,
        question: str,
        documents: list[Document],
        filtering: FilterConfig,
        contrast: ContrastConfig,
        reserve: int,
        explain: bool = False,
    ) -> _Prepared:
        """Filter the documents and build (and, steered, read) the prompt."""
        started = time.perf_counter()
        clear: dict[str, Any] = {"score": None, "coarse_score": None, "fine_score": None, "truncated": False}
        documents = [replace(document, kept=True, **clear) for document in documents]
        kept, scored = list(range(len(documents))), 0
        scoring: list[Head] = []
        dropped: dict[str, str] = {}
        warnings = []
        if filtering.enabled and len(documents) > 1:
            scoring = filtering.scoring_heads(self.scoring_heads)
            ranking = rank_documents(self.loaded.model, self.builder, scoring, question, documents, filtering)
            kept, scored = ranking.kept(filtering), ranking.prefill_tokens
            for index, document in enumerate(documents):
                document.score, document.kept = ranking.scores[index], index in kept
                document.coarse_score, document.fine_score = ranking.coarse[index], ranking.fine[index]
            dropped = {documents[index].id: reason for index, reason in ranking.dropped(filtering).items()}
            cut = [documents[index].id for index in ranking.truncated]
            if cut:
                warnings.append(f"too long for the model's window, scored on their beginning: {', '.join(cut)}")
        source = contrast.source  # resolved: never "auto"
        control = FAITHFUL if source == "control" or self.builder.has_control_tokens else None
        chosen = [documents[index] for index in kept]
        prompt = self.builder.build(question, chosen, reserve=reserve, control=control)
        for document, place in zip(chosen, prompt.documents, strict=True):
            document.truncated = place.truncated
        cut = [document.id for document in chosen if document.truncated]
        if cut:
            warnings.append(f"too long for the model's window, read only in part: {', '.join(cut)}")
        filtered = time.perf_counter()
        prefix = None
        if filtering.steer and filtering.delta and len(chosen) > 1:
            prefix, _ = steered_prefill(
                self.loaded.model, prompt, self.scoring_heads.top(filtering.steer_heads), filtering
            )
        timings = {"filter": filtered - started, "steer": time.perf_counter() - filtered, "scored_tokens": scored}
        other = self._unfaithful(source, question, chosen, prompt, reserve)
        spans, explainer = [place.span for place in prompt.documents], None
        if explain:
            passages, spans = read_passages(chosen, prompt.documents)
            heads = {"heads": self._watched(), "scoring_heads": scoring, "masked_heads": self._masked(contrast)}
            explainer = Explainer(self.loaded.tokenizer, passages, heads, dropped)
        pair = PairPrompt(prompt.input_ids, other, prefix, spans)
        return _Prepared(question, documents, [document.id for document in chosen], pair, timings, warnings, explainer)

    def _unfaithful(
        self, source: str, question: str, documents: list[Document], prompt: Prompt, reserve: int
    ) -> list[int] | None:
        if source == "none":
            return None
        if source == "control":
            return self.builder.build(question, documents, reserve=reserve, control=UNFAITHFUL).input_ids
        if source == "context":
            return self.builder.build(question, [], reserve=reserve).input_ids
        return prompt.input_ids

    def _masked(self, contrast: ContrastConfig) -> list[Head]:
        """Heads masked in the unfaithful branch."""
        shape = hf.head_shape(self.loaded.model)
        if contrast.source != "heads":
            return []
        return self.copying_heads.top(contrast.heads_to_mask(shape.num_layers * shape.num_heads))

    def _watched(self) -> list[Head]:
        """Heads whose attention is read while the answer is written."""
        shape = hf.head_shape(self.loaded.model)
        return self.copying_heads.top(min(WATCHED_HEADS, shape.num_layers * shape.num_heads))

    def _decoder(
        self,
        prompts: list[PairPrompt],
        contrast: ContrastConfig,
        sampling: SamplingConfig,
        max_new_tokens: int,
        explain: bool,
    ) -> PairDecoder:
        return PairDecoder(
            self.loaded.model,
            prompts,
            contrast,
            sampling,
            max_new_tokens=max_new_tokens,
            end_tokens=sorted(self._ends),
            masked_heads=self._masked(contrast),
            watched_heads=self._watched(),
            alternatives=ALTERNATIVES if explain else 0,
        )


@dataclass
class _Prepared:
    """One question, ready to decode."""

    question: str
    documents: list[Document]
    prompt_order: list[str]
    pair: PairPrompt
    timings: dict[str, float]
    warnings: list[str]
    explainer: Explainer | None


class AnswerStream:
    """Pieces of an answer's text, as they are decided; `.answer` holds the whole once they have run out.

    A stream is read once, by any thread. Its keys and values are freed when it has been read, is closed or is dropped.
    """

    def __init__(self, session: _Session):
        self._session = session
        self._steps = session.steps()
        self._turn = threading.Lock()
        self._closed = False

    def __iter__(self) -> Iterator[str]:
        if self._session.answers:
            raise RuntimeError("a stream is read once; its text is in .answer")
        return self

    def __next__(self) -> str:
        piece = ""
        while not piece:
            with self._turn:
                pieces = next(self._steps, None)
            if self._closed:  # by another thread, during this step
                self.close()
            if pieces is None or self._closed:
                raise StopIteration
            piece = pieces[0]
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
        if not self._session.documents:
            raise RuntimeError("read the first piece of the stream first")
        return self._session.documents[0]

    @property
    def tokens(self) -> list[AnswerToken]:
        """The tokens decided so far; a stop string may take back the last of them."""
        return list(self._session.texts[0].tokens) if self._session.texts else []

    @property
    def answer(self) -> Answer:
        """The answer.

        Raises:
            RuntimeError: If the stream has not been read to its end.
        """
        if not self._session.answers:
            raise RuntimeError("read the stream to its end first")
        return self._session.answers[0]


class _Session:
    """Some questions from their documents to their answers."""

    def __init__(
        self,
        generator: FaithfulGenerator,
        requests: Sequence[tuple[str, Sequence[DocumentLike]]],
        *,
        filter: FilterConfig | None = None,
        contrast: ContrastConfig | None = None,
        sampling: SamplingConfig | None = None,
        max_new_tokens: int = 128,
        stop: Sequence[str] = (),
        explain: bool = False,
    ):
        if max_new_tokens < 1:
            raise FaithgenError(f"max_new_tokens is {max_new_tokens}; give 1 or more")
        if isinstance(stop, str) or not all(isinstance(text, str) and text for text in stop):
            raise FaithgenError("stop must be a list of non-empty strings")
        for question, _ in requests:
            if not isinstance(question, str) or not question.strip():
                raise FaithgenError("the question is empty; ask something")
        self.generator = generator
        self.requests = [(question, as_documents(documents)) for question, documents in requests]
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
        self.documents: list[list[Document]] = []
        self.texts: list[_Text] = []
        self.answers: list[Answer] = []

    def steps(self) -> Generator[list[str], None, None]:
        """Run the session; yields the new text of each question after each step.

        What takes memory (prompts' caches, decoder) lives in this generator alone, so that closing it frees it.
        """
        if not self.requests:
            return
        generator, started = self.generator, time.perf_counter()
        with generator._lock:
            prepared = [
                generator._prepare(question, documents, self.filter, self.contrast, self.max_new_tokens, self.explain)
                for question, documents in self.requests
            ]
            decoder = generator._decoder(
                [one.pair for one in prepared], self.contrast, self.sampling, self.max_new_tokens, self.explain
            )
        texts = [_Text(generator.loaded.tokenizer, self.stop, generator._ends, one.explainer) for one in prepared]
        self.documents, self.texts = [one.documents for one in prepared], texts
        yield [""] * len(texts)  # documents are ranked; a stream that is closed now spares the prefill
        steps = iter(decoder)
        ready = prefilled = time.perf_counter()
        first = True
        while True:
            with generator._lock:
                rows = next(steps, None)
            if first:
                prefilled, first = time.perf_counter(), False
            if rows is None:
                break
            pieces = [""] * len(texts)
            for row in rows:
                pieces[row.question] = texts[row.question].add(row)
                if texts[row.question].finished == "stop":
                    decoder.finish(row.question)
            yield pieces
        ended = time.perf_counter()
        for one, text in zip(prepared, texts, strict=True):
            one.timings["prefill"] = one.timings.pop("steer") + prefilled - ready
            one.timings["decode"] = ended - prefilled
            one.timings["total"] = ended - started
            one.timings["prompt_tokens"] = len(one.pair.faithful)
            one.timings["new_tokens"] = len(text.tokens)
            self.answers.append(self._answer(one, text))
        left = [text.rest() for text in texts]
        if any(left):
            yield left

    def _answer(self, one: _Prepared, text: _Text) -> Answer:
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


class _Text:
    """The text of one answer as its tokens come in: no half characters, and nothing from a stop string on."""

    def __init__(
        self, tokenizer: Any, stop: tuple[str, ...], ends: frozenset[int], explainer: Explainer | None = None
    ):
        self.tokenizer, self.stop, self.ends, self.explainer = tokenizer, stop, ends, explainer
        self.ids: list[int] = []
        self.tokens: list[AnswerToken] = []
        self.text = ""
        self.finished: str | None = None
        self._whole = ""
        self._shown = 0

    def add(self, row: StepRow) -> str:
        """Take in a token; returns the text that is certain by now and was not returned before."""
        if self.finished:
            return ""
        if row.token in self.ends:
            self.finished = "end"
            return self.rest()
        self.ids.append(row.token)
        whole = self.tokenizer.decode(self.ids, skip_special_tokens=True)
        if whole.endswith("\ufffd") and not row.finished:
            added = ""
        else:
            added, self._whole = whole[len(self._whole) :], whole
        detail = None
        if self.explainer is not None and row.detail is not None:
            detail = self.explainer.token(row.detail, self.ids[:-1])
        self.tokens.append(AnswerToken(added, row.token, row.logprob, row.jsd, row.context_share, detail))
        found = [place for text in self.stop if (place := self._whole.find(text)) >= 0]
        if found:
            self.finished = "stop"
            self.text = self._whole[: min(found)]
            self._drop_tokens(len(self.text))
        else:
            self.text = self._whole
        held = 0 if self.finished or row.finished else self._held()
        return self._show(len(self.text) - held)

    def _drop_tokens(self, length: int) -> None:
        """Keep the tokens that make up the first `length` characters, the last one cut to fit."""
        kept = []
        for token in self.tokens:
            if length <= 0 and token.text:
                break
            kept.append(replace(token, text=token.text[:length]))
            length -= len(token.text)
        self.tokens = kept

    def rest(self) -> str:
        """What was held back."""
        return self._show(len(self.text))

    def _show(self, end: int) -> str:
        piece = self.text[self._shown : end]
        self._shown = max(self._shown, end)
        return piece

    def _held(self) -> int:
        """Length of the longest end of the text that may be the beginning of a stop string."""
        longest = max(map(len, self.stop), default=1) - 1
        ends = (size for size in range(min(longest, len(self.text)), 0, -1))
        return next((size for size in ends if any(s.startswith(self.text[-size:]) for s in self.stop)), 0)
