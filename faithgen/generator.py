"""`FaithfulGenerator`: question and documents in, answer with its evidence out (DESIGN 1)."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from faithgen import hf
from faithgen.answer import Answer
from faithgen.answer_stream import AnswerStream
from faithgen.decoding.contrast import ContrastConfig
from faithgen.decoding.engine import PairDecoder, PairPrompt
from faithgen.decoding.sampling import SamplingConfig
from faithgen.documents import Document
from faithgen.explanation import ALTERNATIVES, Explainer, read_passages
from faithgen.filtering.coarse import FilterConfig, rank_documents
from faithgen.filtering.steering import steered_prefill
from faithgen.heads.head_set import Head, HeadSet
from faithgen.heads.resolve import resolve_heads
from faithgen.models import LoadedModel, load_model
from faithgen.prompting import FAITHFUL, UNFAITHFUL, Prompt, PromptBuilder
from faithgen.session import DocumentLike, Prepared, Session

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
        copying_heads ([`HeadSet`]):
            Heads watched for the context share, and masked in the unfaithful branch where its source is `"heads"`.
        instruction (`str`, *optional*): first line of the prompt's user turn; the model's own by default.
        compiled (`bool`, *optional*, defaults to `False`):
            Decode at fixed shapes through `torch.compile`; pays where many questions are answered, or long answers written.
            The first question of a shape waits a minute or so. On a CPU it needs a C++ compiler.

    Raises:
        FaithgenError: If the heads are of another model, or there is no C++ compiler where `compiled` needs one.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        scoring_heads: HeadSet,
        copying_heads: HeadSet,
        *,
        instruction: str | None = None,
        compiled: bool = False,
    ):
        shape = hf.head_shape(loaded.model)
        for heads in (scoring_heads, copying_heads):
            heads.check(shape.num_layers, shape.num_heads, loaded.model_id, loaded.revision)
        self.loaded, self.scoring_heads, self.copying_heads = loaded, scoring_heads, copying_heads
        self.builder = PromptBuilder(loaded.tokenizer, hf.context_window(loaded.model), instruction or "")
        self._ends = hf.end_tokens(loaded.model, loaded.tokenizer)
        if compiled:
            hf.check_compiler(loaded.model)
        self.compiled = compiled
        self._lock = loaded.lock

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str] | None = None,
        *,
        heads: str | os.PathLike[str] | HeadSet | Sequence[str | os.PathLike[str] | HeadSet] = "auto",
        random_heads: int | None = None,
        instruction: str | None = None,
        compiled: bool = False,
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
            compiled (`bool`, *optional*, defaults to `False`): decode through `torch.compile`, see above.
            load_arguments: of [`load_model`], e.g. `dtype`, `device`, `revision`.

        Raises:
            FaithgenError: If model or heads cannot be loaded, or the heads are another model's.
        """
        loaded = load_model(model, **load_arguments)
        scoring, copying = resolve_heads(loaded, heads)
        if random_heads is not None:
            scoring, copying = scoring.random_like(random_heads), copying.random_like(random_heads)
        return cls(loaded, scoring, copying, instruction=instruction, compiled=compiled)

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
        """Answer several questions, decoding them together; in order, with the arguments of `generate_each`."""
        answers = dict(self.generate_each(requests, **options))
        return [answers[index] for index in sorted(answers)]

    def generate_each(
        self, requests: Iterable[tuple[str, Sequence[DocumentLike]]], **options: Any
    ) -> Iterator[tuple[int, Any]]:
        """Answer many questions; each answer comes when it is finished, and its place in the batch goes to the next.

        Args:
            requests (`Iterable`): pairs of a question and its documents; read when there is room for them.
            batch_size (`int`, *optional*): questions decoded together; all of them by default.
            keep_errors (`bool`, *optional*, defaults to `False`):
                Yield the `FaithgenError` of a request that cannot be answered in place of its answer, and go on.
            options: as in `generate`, for all of them.

        Yields:
            `tuple[int, Answer]`: the index of the request and its answer.

        Raises:
            FaithgenError: As `generate`. In a list of requests a wrong one is found before anything is computed.
        """
        for pieces in Session(self, requests, **options).steps():
            for piece in pieces:
                if piece.answer is not None:
                    yield piece.index, piece.answer

    def stream(self, question: str, documents: Sequence[DocumentLike], **options: Any) -> AnswerStream:
        """Answer one question piece by piece; iterate for strings, then read `.answer`. Arguments as in `generate`."""
        return AnswerStream(Session(self, [(question, documents)], **options))

    def contrast_source(self, contrast: ContrastConfig) -> str:
        """The source that `"auto"` stands for with this model."""
        return self.resolved(contrast).source

    def resolved(self, contrast: ContrastConfig) -> ContrastConfig:
        """The settings that a config stands for with this model: no `"auto"`, and a number for `alpha`."""
        source, alpha = contrast.source, contrast.alpha
        if source == "auto":
            source = "control" if self.builder.has_control_tokens else "heads"
            if source == "heads" and alpha is None and contrast.method == ContrastConfig.method:  # nothing asked for
                alpha = 0.0
        if source == "control" and alpha is None and contrast.constant:
            alpha = self.builder.control_alpha
        return replace(contrast, source=source, alpha=contrast.strength if alpha is None else alpha)

    # --- the way of a request -----------------------------------------------------------------------------------------

    def _prepare(
        self,
        question: str,
        documents: list[Document],
        filtering: FilterConfig,
        contrast: ContrastConfig,
        reserve: int,
        explain: bool = False,
    ) -> Prepared:
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
        timings["prompt_tokens"] = len(prompt.input_ids)
        other = self._unfaithful(source, question, chosen, prompt, reserve)
        spans, explainer = [place.span for place in prompt.documents], None
        if explain:
            passages, spans = read_passages(chosen, prompt.documents)
            heads = {"heads": self._watched(), "scoring_heads": scoring, "masked_heads": self._masked(contrast)}
            explainer = Explainer(self.loaded.tokenizer, passages, heads, dropped)
        pair = PairPrompt(prompt.input_ids, other, prefix, spans)
        return Prepared(question, documents, [document.id for document in chosen], pair, timings, warnings, explainer)

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
        prompts: Iterable[PairPrompt],
        contrast: ContrastConfig,
        sampling: SamplingConfig,
        max_new_tokens: int,
        explain: bool,
        slots: int | None,
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
            slots=slots,
            compiled=self.compiled,
        )
