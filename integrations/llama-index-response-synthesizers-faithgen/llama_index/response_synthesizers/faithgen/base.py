"""`FaithfulSynthesizer`: [`faithgen.FaithfulGenerator`] as a LlamaIndex response synthesizer."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import llama_index.core.instrumentation as instrument
from llama_index.core.base.response.schema import RESPONSE_TYPE, AsyncStreamingResponse, Response, StreamingResponse
from llama_index.core.callbacks.base import CallbackManager
from llama_index.core.callbacks.schema import CBEventType, EventPayload
from llama_index.core.instrumentation.events.synthesis import SynthesizeEndEvent, SynthesizeStartEvent
from llama_index.core.llms import MockLLM
from llama_index.core.prompts import BasePromptTemplate, PromptTemplate
from llama_index.core.prompts.mixin import PromptDictType
from llama_index.core.prompts.utils import get_template_vars
from llama_index.core.response_synthesizers.base import BaseSynthesizer
from llama_index.core.schema import NodeWithScore, QueryBundle, QueryType, TextNode
from llama_index.response_synthesizers.faithgen.options import OPTIONS, check_options, load_generator
from llama_index.response_synthesizers.faithgen.synthesis import Synthesis, explained_answer

from faithgen import ContrastConfig, FaithfulGenerator, FaithgenError, FilterConfig
from faithgen.decoding.sampling import SamplingConfig
from faithgen.heads.resolve import HeadsLike

dispatcher = instrument.get_dispatcher(__name__)

INSTRUCTION = "instruction"
"""Name of the one prompt: the first line of what the model is told, before the documents and the question."""


class FaithfulSynthesizer(BaseSynthesizer):
    """Answers from the retrieved nodes: its own language model ranks and filters them and writes the answer.

    A response's `source_nodes` carry the scores of the retrieval heads, kept ones first; `node.metadata["faithgen_kept"]`
    says which the answer was written from. `response.metadata["faithgen"]` holds, JSON-ready:

    - `documents`: of each node in the order given `id`, `title`, `kept`, `score`, `coarse_score`, `fine_score`, `truncated`,
      `given_score`;
    - `tokens`: of each token of the answer `text`, `logprob`, `jsd` and `context_share` (see [`faithgen.AnswerToken`]);
    - `doubt`, `prompt_order`, `finish_reason`, `timings`, `settings`, `warnings`, as in [`faithgen.Answer`]. Where no node
      holds text, `finish_reason` is `"empty"`: the model was not asked.

    With `explain` it holds the nodes' texts and the answer's explanation, too, and `write_report` makes a page of it.

    A streaming response is returned with its first piece decided: its source nodes and `documents` are final, `tokens` grow
    while it is read, and the rest is there at its end.

    No other language model is asked. One synthesizer may be used from several threads and tasks at once, and several may
    share one generator: they take turns, step by step. A task that is cancelled, or a stream that is closed or dropped,
    ends its decoding and frees its memory after the step under way.

    ```python
    engine = RetrieverQueryEngine(index.as_retriever(), FaithfulSynthesizer())
    ```

    Args:
        generator ([`faithgen.FaithfulGenerator`], *optional*): one that is loaded already, in place of `model` and `heads`.
        model (`str` or `PathLike`, *optional*): hub id, folder or GGUF file; the model packaged with faithgen if not given.
        heads (`"auto"`, path, [`faithgen.HeadSet`] or a list of these, *optional*, defaults to `"auto"`):
            Head sets. `"auto"` takes those that ship with faithgen, and detects the heads of another model.
        filter ([`faithgen.FilterConfig`], *optional*): which nodes are kept, and steering.
        contrast ([`faithgen.ContrastConfig`], *optional*): the unfaithful branch and its weight.
        sampling (`SamplingConfig`, *optional*): greedy by default.
        max_new_tokens (`int`, *optional*, defaults to 128): most tokens of an answer.
        stop (`Sequence[str]`, *optional*): strings that end an answer; they are not part of it.
        explain (`bool`, *optional*, defaults to `False`): keep what `write_report` shows; it changes no answer.
        instruction (`str` or `PromptTemplate`, *optional*): see [`INSTRUCTION`]; the generator's own if not given.
        streaming (`bool`, *optional*, defaults to `False`): return streaming responses.
        empty_response (`str`, *optional*, defaults to `"Empty Response"`):
            The answer where no nodes were retrieved or none holds text; the model is not asked then. Also where it says
            nothing.
        callback_manager (`CallbackManager`, *optional*): of LlamaIndex; that of its `Settings` by default.

    Raises:
        FaithgenError: If the model cannot be loaded, or an argument cannot be used.
    """

    def __init__(
        self,
        generator: FaithfulGenerator | None = None,
        *,
        model: str | os.PathLike[str] | None = None,
        heads: HeadsLike | Sequence[HeadsLike] = "auto",
        filter: FilterConfig | None = None,
        contrast: ContrastConfig | None = None,
        sampling: SamplingConfig | None = None,
        max_new_tokens: int = 128,
        stop: Sequence[str] = (),
        explain: bool = False,
        instruction: str | BasePromptTemplate | None = None,
        streaming: bool = False,
        empty_response: str | None = None,
        callback_manager: CallbackManager | None = None,
    ):
        settings = (filter, contrast, sampling, max_new_tokens, stop, explain)
        self._settings: dict[str, Any] = dict(zip(OPTIONS, settings, strict=True))
        check_options(self._settings)
        if not isinstance(empty_response, str | None):
            raise FaithgenError(f"empty_response is of type {type(empty_response).__name__}; give a string")
        # the base class wants a language model and would take OpenAI's; this one is never asked
        super().__init__(llm=MockLLM(), callback_manager=callback_manager, streaming=streaming)
        self._empty_response = empty_response or "Empty Response"
        self._generator = load_generator(generator, model, heads)
        self._instruction = PromptTemplate(self._generator.builder.instruction)
        if instruction is not None:
            self._instruct(instruction)
        # steps of async answers queue here in turn, and leave the event loop's own threads to others
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="faithgen")

    # --- prompts ------------------------------------------------------------------------------------------------------

    def _get_prompts(self) -> PromptDictType:
        return {INSTRUCTION: self._instruction}

    def _update_prompts(self, prompts: PromptDictType) -> None:
        """Take a new instruction; other users of the generator keep theirs.

        Raises:
            FaithgenError: If there is no such prompt, or it is no template of plain text, or has variables left open.
        """
        unknown = sorted(set(prompts) - {INSTRUCTION})
        if unknown:
            raise FaithgenError(f"there is no prompt {unknown[0]!r}; the one to update is {INSTRUCTION!r}")
        if INSTRUCTION in prompts:
            self._instruct(prompts[INSTRUCTION])

    def _instruct(self, prompt: str | BasePromptTemplate) -> None:
        template = PromptTemplate(prompt) if isinstance(prompt, str) else prompt
        if not isinstance(template, PromptTemplate):
            raise FaithgenError(f"the instruction is a {type(template).__name__}; give a string or a PromptTemplate")
        text = template.format()
        if variables := get_template_vars(text):
            places = "documents and question have places of their own; fill other variables with partial_format"
            raise FaithgenError(f"the instruction leaves the variable {{{variables[0]}}} open; {places}")
        if not text.strip():
            raise FaithgenError("the instruction is empty; say what the model shall do")
        old = self._generator
        self._generator = FaithfulGenerator(
            old.loaded, old.scoring_heads, old.copying_heads, instruction=text, compiled=old.compiled
        )
        self._instruction = template

    # --- from nodes ---------------------------------------------------------------------------------------------------

    @dispatcher.span
    def synthesize(
        self,
        query: QueryType,
        nodes: list[NodeWithScore],
        additional_source_nodes: Sequence[NodeWithScore] | None = None,
        **response_kwargs: Any,
    ) -> RESPONSE_TYPE:
        """Answer a query from nodes.

        Args:
            query (`str` or `QueryBundle`): the question.
            nodes (`list[NodeWithScore]`): what was retrieved; not changed.
            additional_source_nodes (`Sequence[NodeWithScore]`, *optional*): put at the end of the source nodes as they are.
            response_kwargs: any of [`OPTIONS`], for this call.

        Returns:
            `Response`, or `StreamingResponse` if `streaming`.

        Raises:
            FaithgenError: If the question is empty, there is no such option, or the nodes do not fit the model's window.
        """
        streaming = self._streaming  # chat engines turn it on and off while others wait for their answers
        with self._events(query) as (question, told):
            synthesis = self._synthesis(question, nodes, response_kwargs)
            if streaming:
                pieces = _pieces(next(synthesis, None), synthesis)
                return told(StreamingResponse(pieces, *self._sources(synthesis, additional_source_nodes)))
            for _ in synthesis:
                pass
            return told(Response(synthesis.text, *self._sources(synthesis, additional_source_nodes)))

    @dispatcher.span
    async def asynthesize(
        self,
        query: QueryType,
        nodes: list[NodeWithScore],
        additional_source_nodes: Sequence[NodeWithScore] | None = None,
        **response_kwargs: Any,
    ) -> RESPONSE_TYPE:
        """As `synthesize`, without blocking the event loop; returns `Response` or `AsyncStreamingResponse`."""
        streaming = self._streaming  # chat engines turn it on and off while others wait for their answers
        with self._events(query) as (question, told):
            synthesis = self._synthesis(question, nodes, response_kwargs)
            first = await self._next(synthesis)
            if streaming:
                pieces = self._apieces(first, synthesis)
                return told(AsyncStreamingResponse(pieces, *self._sources(synthesis, additional_source_nodes)))
            async for _ in self._apieces(first, synthesis):
                pass
            return told(Response(synthesis.text, *self._sources(synthesis, additional_source_nodes)))

    # --- from strings -------------------------------------------------------------------------------------------------

    def get_response(
        self, query_str: str, text_chunks: Sequence[str], **response_kwargs: Any
    ) -> str | Generator[str, None, None]:
        """Answer a question from texts: the answer's text, or a generator of its pieces if `streaming`.

        Arguments and errors as in `synthesize`.
        """
        streaming = self._streaming
        synthesis = self._synthesis(query_str, _as_nodes(text_chunks), response_kwargs)
        if streaming:
            return _pieces(next(synthesis, None), synthesis)
        for _ in synthesis:
            pass
        return synthesis.text

    async def aget_response(
        self, query_str: str, text_chunks: Sequence[str], **response_kwargs: Any
    ) -> str | AsyncGenerator[str, None]:
        """As `get_response`, without blocking the event loop; an asynchronous generator if `streaming`."""
        streaming = self._streaming
        synthesis = self._synthesis(query_str, _as_nodes(text_chunks), response_kwargs)
        first = await self._next(synthesis)
        if streaming:
            return self._apieces(first, synthesis)
        async for _ in self._apieces(first, synthesis):
            pass
        return synthesis.text

    # --- the report ---------------------------------------------------------------------------------------------------

    def write_report(self, response: RESPONSE_TYPE, path: str | os.PathLike[str]) -> None:
        """Write one HTML page that shows how an answer came about, as `faithgen generate --report` does.

        Args:
            response (`Response`): one that was asked for with `explain=True`; a streaming one when it has been read.
            path (`str` or `PathLike`): file to write, or to replace.

        Raises:
            FaithgenError: If the response was not explained or not read to its end, or the file cannot be written.
        """
        from faithgen.report import write_report

        heads = {"scoring_heads": self._generator.scoring_heads, "copying_heads": self._generator.copying_heads}
        write_report(explained_answer(response), path, **heads)

    # --- both ---------------------------------------------------------------------------------------------------------

    def _synthesis(self, question: str, nodes: Sequence[NodeWithScore], options: dict[str, Any]) -> Synthesis:
        check_options(options)
        return Synthesis(self._generator, question, nodes, {**self._settings, **options}, self._empty_response)

    def _sources(
        self, synthesis: Synthesis, additional: Sequence[NodeWithScore] | None
    ) -> tuple[list[NodeWithScore], dict[str, Any]]:
        """`source_nodes` and `metadata` of a response."""
        nodes = [*synthesis.source_nodes(), *(additional or ())]
        metadata = self._get_metadata_for_response([given.node for given in nodes]) or {}
        return nodes, {**metadata, "faithgen": synthesis.report}

    @contextmanager
    def _events(self, query: QueryType) -> Iterator[tuple[str, Callable[[RESPONSE_TYPE], RESPONSE_TYPE]]]:
        """Tell LlamaIndex's callbacks and instrumentation of a query and its response."""
        query = QueryBundle(query) if isinstance(query, str) else query
        made: list[RESPONSE_TYPE] = []

        def told(response: RESPONSE_TYPE) -> RESPONSE_TYPE:
            made.append(response)
            return response

        dispatcher.event(SynthesizeStartEvent(query=query))
        with self._callback_manager.event(
            CBEventType.SYNTHESIZE, payload={EventPayload.QUERY_STR: query.query_str}
        ) as event:
            yield query.query_str, told
            event.on_end(payload={EventPayload.RESPONSE: made[0]})
        dispatcher.event(SynthesizeEndEvent(query=query, response=made[0]))

    async def _next(self, synthesis: Synthesis) -> str | None:
        """The next piece, or `None` at the end; the model works in another thread."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._worker, next, synthesis, None)
        except asyncio.CancelledError:
            synthesis.close()
            raise

    async def _apieces(self, piece: str | None, synthesis: Synthesis) -> AsyncGenerator[str, None]:
        try:
            while piece is not None:
                yield piece
                piece = await self._next(synthesis)
        finally:
            synthesis.close()


def _pieces(piece: str | None, synthesis: Synthesis) -> Generator[str, None, None]:
    try:
        while piece is not None:
            yield piece
            piece = next(synthesis, None)
    finally:
        synthesis.close()


def _as_nodes(texts: Sequence[str]) -> list[NodeWithScore]:
    return [NodeWithScore(node=TextNode(text=text)) for text in texts]
