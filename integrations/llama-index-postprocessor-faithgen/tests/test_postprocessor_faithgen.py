import asyncio
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("llama_index.core", reason="pip install 'faithgen[llama-index]'")

from llama_index.core import QueryBundle
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload, LlamaDebugHandler
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers import BaseSynthesizer
from llama_index.core.schema import MetadataMode, NodeWithScore, TextNode
from llama_index.postprocessor.faithgen import RetrievalHeadRerank

from faithgen import FaithgenError, FilterConfig, HeadReranker

QUESTION = "Who built the tide mill?"
README = Path(__file__).parent.parent / "README.md"


@pytest.fixture(scope="module")
def tiny_reranker(tiny_generator):
    """Keeps nothing of what it read: documents that were read before round differently."""
    return HeadReranker(tiny_generator.loaded, tiny_generator.scoring_heads, FilterConfig(kept_bytes=0))


@pytest.fixture(scope="module")
def reranker(default_generator):
    return HeadReranker(default_generator.loaded, default_generator.scoring_heads)


def ids(nodes):
    return [node.node_id for node in nodes]


def scores(nodes):
    return [node.score for node in nodes]


def test_class():
    names_of_base_classes = [b.__name__ for b in RetrievalHeadRerank.__mro__]
    assert BaseNodePostprocessor.__name__ in names_of_base_classes
    assert RetrievalHeadRerank.class_name() == "RetrievalHeadRerank"


# --- ranking ----------------------------------------------------------------------------------------------------------


@pytest.mark.default_model
def test_the_node_with_the_answer_comes_first(reranker, retrieved):
    for question, name in [
        (QUESTION, "mill"),
        ("When was the lamp of the lighthouse first lit?", "lamp"),
        ("How long does the crossing to Lomsey take?", "ferry"),
    ]:
        found = RetrievalHeadRerank(top_n=3, reranker=reranker).postprocess_nodes(retrieved, query_str=question)
        assert ids(found)[0] == name
        assert len(found) == 3
        assert scores(found) == sorted(scores(found), reverse=True)
        assert all(type(score) is float for score in scores(found))


@pytest.mark.default_model
@pytest.mark.parametrize("asynchronous", [False, True])
def test_in_a_query_engine_over_a_vector_store(reranker, index, asynchronous):
    """Retrieve all, rerank, and show what reaches the synthesizer."""

    class Nodes(BaseSynthesizer):
        def get_response(self, query_str, text_chunks, **kwargs):
            return "\n".join(text_chunks)

        async def aget_response(self, query_str, text_chunks, **kwargs):
            return self.get_response(query_str, text_chunks)

        def _get_prompts(self):
            return {}

        def _update_prompts(self, prompts):
            pass

    from llama_index.core.llms import MockLLM

    postprocessor = RetrievalHeadRerank(top_n=2, reranker=reranker)
    retriever = index.as_retriever(similarity_top_k=7)
    engine = RetrieverQueryEngine(retriever, Nodes(llm=MockLLM()), node_postprocessors=[postprocessor])
    question = "Whom does the bakery sell bread to?"
    response = asyncio.run(engine.aquery(question)) if asynchronous else engine.query(question)
    assert len(response.source_nodes) == 2
    assert response.source_nodes[0].node_id == "bakery"
    assert "ferrymen" in response.response
    assert "slippers" not in response.response
    assert postprocessor.callback_manager is engine.callback_manager


def test_scores_are_the_reranker_s_over_embedding_text(tiny_reranker, retrieved):
    texts = [given.node.get_content(metadata_mode=MetadataMode.EMBED) for given in retrieved]
    assert all("title: " in text and "file_name" not in text and "walrus" not in text for text in texts)
    expected = tiny_reranker.score(QUESTION, texts)
    assert expected != tiny_reranker.score(QUESTION, [given.node.get_content() for given in retrieved])
    found = RetrievalHeadRerank(top_n=99, reranker=tiny_reranker).postprocess_nodes(retrieved, QueryBundle(QUESTION))
    assert {node.node_id: node.score for node in found} == dict(zip(ids(retrieved), expected, strict=True))
    assert scores(found) == sorted(expected, reverse=True)


def test_top_n(tiny_reranker, retrieved):
    whole = RetrievalHeadRerank(top_n=7, reranker=tiny_reranker).postprocess_nodes(retrieved, query_str=QUESTION)
    assert len(whole) == 7
    for top_n in (1, 2, 5):
        rerank = RetrievalHeadRerank(top_n=top_n, reranker=tiny_reranker)
        assert rerank.postprocess_nodes(retrieved, query_str=QUESTION) == whole[:top_n]
    assert len(RetrievalHeadRerank(reranker=tiny_reranker).postprocess_nodes(retrieved, query_str=QUESTION)) == 2


def test_what_was_given_is_not_changed(tiny_reranker, retrieved):
    before = [given.model_copy(deep=True) for given in retrieved]
    rerank = RetrievalHeadRerank(top_n=7, reranker=tiny_reranker, keep_retrieval_score=True)
    found = rerank.postprocess_nodes(retrieved, query_str=QUESTION)
    assert retrieved == before
    came_with = {given.node_id: given.score for given in before}
    for node in found:
        assert node.node.metadata["retrieval_score"] == came_with[node.node_id]
        for mode in (MetadataMode.LLM, MetadataMode.EMBED):
            assert node.node.get_content(metadata_mode=mode) == next(
                given.node.get_content(metadata_mode=mode) for given in before if given.node_id == node.node_id
            )
    plain = RetrievalHeadRerank(reranker=tiny_reranker).postprocess_nodes(retrieved, query_str=QUESTION)
    assert all("retrieval_score" not in node.node.metadata for node in plain)


def test_nothing_to_rank(tiny_reranker):
    assert RetrievalHeadRerank(reranker=tiny_reranker).postprocess_nodes([], query_str=QUESTION) == []


def test_hostile_nodes(tiny_reranker):
    """Texts that break tokenizers, or are empty, are ranked like any other; so is a query."""
    texts = [
        "",
        " \n",
        "a lone \ud800 surrogate",
        "<|im_end|><|im_start|>system",
        "\0",
        "{metadata_str} {content}",
        "x" * 9999,
    ]
    given = [NodeWithScore(node=TextNode(text=text, id_=str(i))) for i, text in enumerate(texts)]
    found = RetrievalHeadRerank(top_n=9, reranker=tiny_reranker).postprocess_nodes(given, query_str="who \udfff {x}?")
    assert sorted(ids(found)) == [str(i) for i in range(len(texts))]
    assert all(node.score == node.score for node in found)  # no NaN


# --- asynchronous and threads -----------------------------------------------------------------------------------------


def test_asynchronous(tiny_reranker, retrieved):
    rerank = RetrievalHeadRerank(top_n=3, reranker=tiny_reranker)
    expected = rerank.postprocess_nodes(retrieved, query_str=QUESTION)

    async def both():
        calls = (rerank.apostprocess_nodes(retrieved, query_str=QUESTION) for _ in range(2))
        return await asyncio.gather(*calls)

    assert asyncio.run(both()) == [expected, expected]


def test_eight_threads_get_the_ranking_of_one(tiny_generator, retrieved):
    """Also while a generator answers with the same model."""
    reranker = HeadReranker(tiny_generator.loaded, tiny_generator.scoring_heads)
    rerank = RetrievalHeadRerank(top_n=3, reranker=reranker)
    texts = [given.node.text for given in retrieved]
    questions = [QUESTION, "when?", "what does the bakery sell?", "how long is the herring?"]
    calls = [lambda q=q: rerank.postprocess_nodes(retrieved, query_str=q) for q in questions]
    calls.append(lambda: [token.id for token in tiny_generator.generate(QUESTION, texts, max_new_tokens=6).tokens])
    for call in calls:
        call()  # documents that were read before round differently
    expected = [call() for call in calls]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda call: call(), calls * 4)) == expected * 4


# --- events -----------------------------------------------------------------------------------------------------------


def test_rerank_events(tiny_reranker, retrieved, events):
    debug = LlamaDebugHandler(print_trace_on_end=False)
    manager = CallbackManager([debug])
    rerank = RetrievalHeadRerank(top_n=3, reranker=tiny_reranker, callback_manager=manager)
    found = rerank.postprocess_nodes(retrieved, query_str=QUESTION)
    start, end = [event for event in events if isinstance(event, (ReRankStartEvent, ReRankEndEvent))]
    assert isinstance(start, ReRankStartEvent)
    assert isinstance(end, ReRankEndEvent)
    assert (start.query.query_str, start.top_n, start.model_name) == (QUESTION, 3, "tiny")
    assert start.nodes == retrieved
    assert end.nodes == found
    [(began, ended)] = debug.get_event_pairs(CBEventType.RERANKING)
    assert began.payload[EventPayload.QUERY_STR] == QUESTION
    assert began.payload[EventPayload.TOP_K] == 3
    assert began.payload[EventPayload.MODEL_NAME] == "tiny"
    assert began.payload[EventPayload.NODES] == retrieved
    assert ended.payload[EventPayload.NODES] == found


def test_no_events_without_nodes(tiny_reranker, events):
    RetrievalHeadRerank(reranker=tiny_reranker).postprocess_nodes([], query_str=QUESTION)
    assert not [event for event in events if isinstance(event, (ReRankStartEvent, ReRankEndEvent))]


# --- making one -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [str, Path])
def test_model_and_heads(tiny_generator, tmp_path, retrieved, path):
    """Loaded from a folder and a file of heads; what `to_dict` holds makes the same again."""
    loaded = tiny_generator.loaded
    loaded.model.save_pretrained(tmp_path / "tiny")
    loaded.tokenizer.save_pretrained(tmp_path / "tiny")
    tiny_generator.scoring_heads.save(tmp_path / "heads.json")
    options = {"model": str(tmp_path / "tiny"), "heads": str(tmp_path / "heads.json"), "top_n": 3}
    rerank = RetrievalHeadRerank(model=path(options["model"]), heads=path(options["heads"]), top_n=3)
    assert RetrievalHeadRerank(heads=[path(options["heads"])], model=options["model"]).heads == [options["heads"]]
    again = RetrievalHeadRerank.from_dict(rerank.to_dict())
    assert {name: rerank.to_dict()[name] for name in options} == options
    assert again.to_dict() == rerank.to_dict()
    found = [one.postprocess_nodes(retrieved, query_str=QUESTION) for one in (rerank, again)]
    assert ids(found[0]) == ids(found[1])
    given = HeadReranker(loaded, tiny_generator.scoring_heads)
    expected = RetrievalHeadRerank(top_n=3, reranker=given).postprocess_nodes(retrieved, query_str=QUESTION)
    assert ids(found[0]) == ids(expected)


def test_settings_of_a_given_reranker_count(tiny_generator, retrieved):
    two = HeadReranker(tiny_generator.loaded, tiny_generator.scoring_heads, FilterConfig(num_heads=2))
    found = RetrievalHeadRerank(top_n=7, reranker=two).postprocess_nodes(retrieved, query_str=QUESTION)
    assert sum(scores(found)) == pytest.approx(2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda reranker, nodes: RetrievalHeadRerank(top_n=0, reranker=reranker), "top_n is 0"),
        (lambda reranker, nodes: RetrievalHeadRerank(top_n=1.5, reranker=reranker), "top_n is 1.5"),
        (lambda reranker, nodes: RetrievalHeadRerank(model="m", reranker=reranker), "leave out one"),
        (lambda reranker, nodes: RetrievalHeadRerank(heads="h.json", reranker=reranker), "leave out one"),
        (lambda reranker, nodes: RetrievalHeadRerank(model=3), "model is of type int; give a hub id"),
        (lambda reranker, nodes: RetrievalHeadRerank(heads=3), 'heads is of type int; give "auto"'),
        (lambda reranker, nodes: RetrievalHeadRerank(heads=["h", None]), "heads is of type NoneType"),
        (lambda reranker, nodes: RetrievalHeadRerank(reranker="org/model"), "reranker is of type str; give a HeadRe"),
        (lambda reranker, nodes: RetrievalHeadRerank(keep_retrieval_score="x", reranker=reranker), "give True or F"),
        (lambda reranker, nodes: RetrievalHeadRerank(model=Path("/no/such/folder")), "/no/such/folder"),
        (lambda reranker, nodes: RetrievalHeadRerank(model="/no/such/folder/anywhere"), "/no/such/folder"),
        (lambda reranker, nodes: RetrievalHeadRerank(reranker=reranker).postprocess_nodes(nodes), "no query"),
        (lambda reranker, nodes: RetrievalHeadRerank(reranker=reranker).postprocess_nodes([]), "no query"),
        (
            lambda reranker, nodes: RetrievalHeadRerank(reranker=reranker).postprocess_nodes(nodes, query_str=" "),
            "query is empty",
        ),
    ],
)
def test_errors_are_one_line(tiny_reranker, retrieved, call, message):
    with pytest.raises(FaithgenError, match=message) as caught:
        call(tiny_reranker, retrieved)
    assert "\n" not in str(caught.value)


@pytest.mark.default_model
def test_the_example_of_the_readme(monkeypatch, reranker, capsys):
    [example] = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.setattr(HeadReranker, "from_pretrained", lambda *_, **__: reranker)  # loaded once for all tests
    exec(compile(example, str(README), "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    [shown] = re.findall(r"```text\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(printed) == len(shown.splitlines()) == 2
    assert printed[0].split(maxsplit=1)[1] == shown.splitlines()[0].split(maxsplit=1)[1]  # scores differ by machine
    assert float(printed[0].split()[0]) > 2 > float(printed[1].split()[0])
