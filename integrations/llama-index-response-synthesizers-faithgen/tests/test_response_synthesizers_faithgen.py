"""The synthesizer inside LlamaIndex: engines, streams, chat, prompts, events, with the model that is packaged."""

import asyncio
import json
import re
from pathlib import Path

import pytest

pytest.importorskip("llama_index.core", reason="pip install 'faithgen[llama-index]'")

from llama_index.core import Document, Settings, VectorStoreIndex
from llama_index.core.base.response.schema import AsyncStreamingResponse, Response, StreamingResponse
from llama_index.core.chat_engine import CondenseQuestionChatEngine
from llama_index.core.llms import CompletionResponse, MockLLM
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers import BaseSynthesizer
from llama_index.core.schema import MetadataMode
from llama_index.response_synthesizers.faithgen import FaithfulSynthesizer

from faithgen import FaithfulGenerator

QUESTION = "Who built the tide mill?"
EXAMPLES = Path(__file__).parents[3] / "examples" / "documents"
README = Path(__file__).parent.parent / "README.md"
pytestmark = pytest.mark.default_model


@pytest.fixture(scope="module")
def engine(index, default_generator):
    def make(**options):
        retriever = index.as_retriever(similarity_top_k=5)
        return RetrieverQueryEngine(retriever, FaithfulSynthesizer(default_generator, max_new_tokens=24, **options))

    return make


@pytest.fixture(scope="module")
def plain(engine):
    """What an engine that neither streams nor is asynchronous answers."""
    engine().query(QUESTION)  # documents that were read before round differently
    return engine().query(QUESTION)


def steady(report):
    """A report without what a clock says."""
    return {name: value for name, value in report.items() if name != "timings"}


async def gathered(response):
    """An asynchronous streaming response, read to its end."""
    pieces = [piece async for piece in response.async_response_gen()]
    return pieces, await response.get_response()


def test_class():
    names_of_base_classes = [b.__name__ for b in FaithfulSynthesizer.__mro__]
    assert BaseSynthesizer.__name__ in names_of_base_classes


def test_no_hosted_model_is_needed(engine):
    """LlamaIndex would ask for OpenAI's model here; the synthesizer does not."""
    with pytest.raises((ImportError, ValueError), match=r"(?i)openai"):
        _ = Settings.llm
    assert "Ada Brandt" in str(engine().query(QUESTION))
    assert Settings._llm is None


# --- a query engine over a vector store -------------------------------------------------------------------------------


def test_query(plain, index):
    response = plain
    assert isinstance(response, Response)
    assert "Ada Brandt" in response.response
    report = response.metadata["faithgen"]
    retrieved = index.as_retriever(similarity_top_k=5).retrieve(QUESTION)
    given = {node.node_id: node.score for node in retrieved}
    assert [document["id"] for document in report["documents"]] == [node.node_id for node in retrieved]
    assert [document["given_score"] for document in report["documents"]] == pytest.approx(list(given.values()))
    assert not any(document["truncated"] for document in report["documents"])
    kept = {document["id"] for document in report["documents"] if document["kept"]}
    assert "mill" in kept
    assert len(kept) < 5
    assert set(report["prompt_order"]) == kept

    nodes = response.source_nodes
    assert nodes[0].node_id == "mill"
    assert {node.node_id: node.score for node in nodes} == {d["id"]: d["score"] for d in report["documents"]}
    assert sum(node.score for node in nodes) == pytest.approx(4)  # heads
    assert [node.metadata["faithgen_kept"] for node in nodes] == [True] * len(kept) + [False] * (5 - len(kept))
    assert {node.node_id: node.metadata["faithgen_given_score"] for node in nodes} == pytest.approx(given)
    assert set(response.metadata) == {*given, "faithgen"}

    assert "".join(token["text"] for token in report["tokens"]).strip() == response.response
    for token in report["tokens"]:
        assert token["logprob"] <= 0
        assert 0 <= token["jsd"] < 0.6932
        assert 0 < token["context_share"] < 1
    assert report["answer"] == response.response
    assert report["finish_reason"] == "end"
    assert set(report["doubt"]) == {"score", "level", "evidence", "weakest", "probability"}
    assert report["warnings"] == []
    assert json.loads(json.dumps(response.metadata, allow_nan=False)) == response.metadata


def test_marks_stay_out_of_the_index_and_of_texts(plain, index, nodes):
    response = plain
    stored = {name: index.docstore.get_node(name) for name in (node.node_id for node in response.source_nodes)}
    original = {node.node_id: node for node in nodes}
    for found in response.source_nodes:
        for node in (stored[found.node_id], original[found.node_id]):
            assert "faithgen_kept" not in node.metadata
            for mode in (MetadataMode.LLM, MetadataMode.EMBED, MetadataMode.NONE):
                assert found.node.get_content(metadata_mode=mode) == node.get_content(metadata_mode=mode)
        assert found.node.get_content(metadata_mode=MetadataMode.LLM).count("faithgen") == 0


def test_streamed_query(engine, plain):
    response = engine(streaming=True).query(QUESTION)
    assert isinstance(response, StreamingResponse)
    assert response.source_nodes == plain.source_nodes  # before the rest is read
    report = response.metadata["faithgen"]
    assert report["documents"] == plain.metadata["faithgen"]["documents"]
    assert len(report["tokens"]) == 1
    seen = []
    pieces = []
    for piece in response.response_gen:
        pieces.append(piece)
        seen.append(len(report["tokens"]))
    assert len(pieces) >= len(plain.response.split()) > 1
    assert "".join(pieces) == plain.response
    assert seen == sorted(seen)
    assert len(set(seen)) == len(seen)
    assert steady(report) == steady(plain.metadata["faithgen"])


def test_asynchronous_query(engine, plain):
    response = asyncio.run(engine().aquery(QUESTION))
    assert isinstance(response, Response)
    assert response.response == plain.response
    assert response.source_nodes == plain.source_nodes
    assert steady(response.metadata["faithgen"]) == steady(plain.metadata["faithgen"])


def test_asynchronous_streamed_query(engine, plain):

    async def ask():
        response = await engine(streaming=True).aquery(QUESTION)
        assert isinstance(response, AsyncStreamingResponse)
        assert response.source_nodes == plain.source_nodes
        assert len(response.metadata["faithgen"]["tokens"]) == 1
        return await gathered(response)

    pieces, response = asyncio.run(ask())
    assert len(pieces) >= len(plain.response.split()) > 1
    assert "".join(pieces) == response.response == plain.response
    assert steady(response.metadata["faithgen"]) == steady(plain.metadata["faithgen"])


def test_through_the_index(index, default_generator):
    """`as_query_engine` loads OpenAI's model unless it is told of another; it is not asked either."""
    synthesizer = FaithfulSynthesizer(default_generator, max_new_tokens=24)
    engine = index.as_query_engine(llm=MockLLM(), response_synthesizer=synthesizer, similarity_top_k=3)
    response = engine.query("When was the lamp first lit?")
    assert response.source_nodes[0].node_id == "lamp"
    assert "1868" in response.response
    assert len(response.source_nodes) == 3


def test_files_cut_into_chunks(embedding, default_generator):
    """The example documents: retrieved by their embedding, read by the model with the header of their file."""
    files = sorted(path for path in EXAMPLES.iterdir() if path.suffix in (".md", ".txt"))
    documents = [Document(text=path.read_text(encoding="utf-8"), metadata={"file_name": path.name}) for path in files]
    splitter = SentenceSplitter(chunk_size=160, chunk_overlap=0)
    index = VectorStoreIndex.from_documents(documents, embed_model=embedding, transformations=[splitter])
    assert len(index.docstore.docs) > len(files)
    synthesizer = FaithfulSynthesizer(default_generator, max_new_tokens=32)
    engine = RetrieverQueryEngine(index.as_retriever(similarity_top_k=6), synthesizer)
    response = engine.query("Who founded the town library of Skarnholm?")
    assert "Benedikta Orne" in response.response
    first, *_, last = response.source_nodes
    assert "Benedikta Orne" in first.node.text
    assert first.node.metadata["file_name"] == "library.txt"
    assert first.metadata["faithgen_kept"]
    assert not last.metadata["faithgen_kept"]
    assert first.node.ref_doc_id in {document.doc_id for document in documents}  # where it comes from is kept
    assert response.metadata["faithgen"]["settings"]["model"].startswith("SmolLM2")


# --- chat -------------------------------------------------------------------------------------------------------------


class Condenser(MockLLM):
    """Stands for the language model that makes a standalone question of a chat's last message."""

    def complete(self, prompt, formatted=False, **kwargs):
        assert "Ada Brandt" in prompt  # the answer is part of the history
        return CompletionResponse(text="When was the tide mill of Skarnholm built?")


def test_chat(engine):
    chat = CondenseQuestionChatEngine.from_defaults(
        query_engine=engine(), llm=Condenser(), memory_cls=ChatMemoryBuffer
    )
    first = chat.chat(QUESTION)
    assert "Ada Brandt" in first.response
    assert first.source_nodes[0].node_id == "mill"
    second = chat.chat("And when?")
    assert "1921" in second.response
    assert second.sources[0].raw_output.metadata["faithgen"]["tokens"]
    assert [message.content for message in chat.chat_history][::2] == [QUESTION, "And when?"]


def test_streamed_chat(engine, plain):
    query_engine = engine()
    chat = CondenseQuestionChatEngine.from_defaults(
        query_engine=query_engine, llm=Condenser(), memory_cls=ChatMemoryBuffer
    )
    first = chat.stream_chat(QUESTION)
    assert first.source_nodes[0].node_id == "mill"  # although nothing has been read
    assert first.source_nodes[0].metadata["faithgen_kept"]
    pieces = list(first.response_gen)
    assert len(pieces) >= len(plain.response.split()) > 1
    assert "".join(pieces) == plain.response

    async def ask():
        response = await chat.astream_chat("And when?")
        return "".join([piece async for piece in response.async_response_gen()])

    assert "1921" in asyncio.run(ask())
    assert len(chat.chat_history) == 4


# --- prompts ----------------------------------------------------------------------------------------------------------


def test_prompts_of_an_engine(engine, plain, default_generator):
    told = engine()
    [(name, prompt)] = told.get_prompts().items()
    assert name == "response_synthesizer:instruction"
    assert prompt.get_template() == default_generator.builder.instruction
    told.update_prompts({name: type(prompt)("Say only 'quack', whatever is asked.")})
    assert told.get_prompts()[name].get_template() == "Say only 'quack', whatever is asked."
    changed = told.query(QUESTION)
    assert changed.metadata["faithgen"]["tokens"] != plain.metadata["faithgen"]["tokens"]
    again = engine().query(QUESTION)  # with the same generator: not told
    assert steady(again.metadata["faithgen"]) == steady(plain.metadata["faithgen"])


# --- the README ---------------------------------------------------------------------------------------------------------


def test_the_example_of_the_readme(monkeypatch, default_generator, capsys):
    [example] = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.setattr(FaithfulGenerator, "from_pretrained", lambda *_, **__: default_generator)  # loaded once
    exec(compile(example, str(README), "exec"), {})
    [shown] = re.findall(r"```text\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    printed, shown = capsys.readouterr().out.splitlines(), shown.splitlines()
    assert abs(len(printed) - len(shown)) <= 4
    for answer, *lines in (printed, shown):  # a near tie's words differ by machine
        assert "Ada Brandt" in answer
        assert "".join(re.fullmatch(r"-\d\.\d\d 0\.\d\d (.+)", line)[1] for line in lines[3:]) == answer
    for line, expected in zip(printed[1:4], shown[1:4], strict=True):
        assert line.split()[1:] == expected.split()[1:]
        assert float(line.split()[0]) == pytest.approx(float(expected.split()[0]), abs=0.3)
