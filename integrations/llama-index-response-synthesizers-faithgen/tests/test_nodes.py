"""What goes in and what comes out: nodes and strings, source nodes, the empty response, prompts, events, errors."""

import asyncio
import json
from pathlib import Path

import pytest

pytest.importorskip("llama_index.core", reason="pip install 'faithgen[llama-index]'")

import llama_index.response_synthesizers
from llama_index.core import QueryBundle
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload, LlamaDebugHandler
from llama_index.core.instrumentation.events.synthesis import SynthesizeEndEvent, SynthesizeStartEvent
from llama_index.core.prompts import ChatPromptTemplate, PromptTemplate
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import ImageNode, IndexNode, NodeWithScore, TextNode
from llama_index.response_synthesizers.faithgen import FaithfulSynthesizer

from faithgen import ContrastConfig, FaithfulGenerator, FaithgenError, FilterConfig, HeadReranker
from faithgen.prompting import PromptBuilder

QUESTION = "Where does the tram go?"
WAYS = ["plain", "streamed", "asynchronous", "asynchronous and streamed"]
everyway = pytest.mark.parametrize("way", WAYS)


@pytest.fixture
def asked(tiny_generator, monkeypatch):
    """The (question, documents, options) that reach the generator."""
    seen = []
    stream = FaithfulGenerator.stream

    def spy(self, question, documents, **options):
        seen.append((question, documents, options))
        return stream(self, question, documents, **options)

    monkeypatch.setattr(FaithfulGenerator, "stream", spy)
    return seen


def respond(generator, nodes, way="plain", **options):
    """The whole response, whichever way it came."""
    per_call = options.pop("per_call", {})
    synthesizer = FaithfulSynthesizer(generator, streaming="streamed" in way, **{"max_new_tokens": 8, **options})
    if not way.startswith("asynchronous"):
        response = synthesizer.synthesize(QUESTION, nodes, **per_call)
        return response.get_response() if synthesizer._streaming else response

    async def run():
        response = await synthesizer.asynthesize(QUESTION, nodes, **per_call)
        return await response.get_response() if synthesizer._streaming else response

    return asyncio.run(run())


def steady(report):
    return {name: value for name, value in report.items() if name != "timings"}


def ids(nodes):
    return [node.node_id for node in nodes]


def kept(nodes):
    return [node.metadata["faithgen_kept"] for node in nodes]


def test_namespace():
    """A package file in a folder that LlamaIndex's packages share would hide the others' parts of it."""
    root = Path(__file__).parent.parent / "llama_index"
    assert [file.parent.name for file in root.rglob("__init__.py")] == ["faithgen"]
    assert llama_index.response_synthesizers.__file__ is None


# --- nodes and strings ------------------------------------------------------------------------------------------------


@everyway
def test_every_way_gives_the_answer_of_the_generator(tiny_generator, retrieved, way):
    retrieved, fresh = retrieved[:6], FilterConfig(kept_bytes=0)  # documents that were read before round differently
    expected = tiny_generator.generate(
        QUESTION,
        [
            {
                "id": given.node_id,
                "title": given.metadata["title"],
                "text": f"file_name: {given.node_id}.txt\n\n{given.text}",
            }
            for given in retrieved
        ],
        filter=fresh,
        max_new_tokens=8,
    ).to_dict()
    response = respond(tiny_generator, retrieved, way, filter=fresh)
    assert response.response == expected["answer"] != ""
    report = response.metadata["faithgen"]
    assert steady(report) == {
        **steady(expected),
        "documents": [
            {
                **{name: document[name] for name in ("id", "title", "kept", "score", "coarse_score", "truncated")},
                "fine_score": document.get("fine_score"),
                "given_score": given.score,
            }
            for document, given in zip(expected["documents"], retrieved, strict=True)
        ],
    }
    assert 0 < sum(document["kept"] for document in report["documents"]) < len(retrieved)


@everyway
def test_strings(tiny_generator, retrieved, way):
    texts = [given.node.text for given in retrieved]
    expected = tiny_generator.generate(QUESTION, texts, max_new_tokens=8).text
    assert expected != tiny_generator.generate(QUESTION, texts[::-1], max_new_tokens=8).text
    streamed = "streamed" in way
    synthesizer = FaithfulSynthesizer(tiny_generator, max_new_tokens=8, streaming=streamed)
    if way.startswith("asynchronous"):

        async def ask():
            found = await synthesizer.aget_response(QUESTION, texts)
            return [piece async for piece in found] if streamed else found

        found = asyncio.run(ask())
    else:
        found = synthesizer.get_response(QUESTION, texts)
        found = list(found) if streamed else found
    assert isinstance(found, list) is streamed
    assert "".join(found) == expected
    assert len(found) > 2


def test_white_space_around_an_answer_is_not_part_of_it(tiny_generator, retrieved, say):
    """Also where it is streamed: within the answer it is held back until more text follows."""
    words = tiny_generator.loaded.tokenizer("\n one \n\n two \n", add_special_tokens=False)["input_ids"]
    say(words)
    synthesizer = FaithfulSynthesizer(tiny_generator, max_new_tokens=len(words), streaming=True)
    response = synthesizer.synthesize(QUESTION, retrieved)
    assert "".join(response.response_gen) == response.metadata["faithgen"]["answer"] == "one \n\n two"


def test_what_the_model_reads(tiny_generator, retrieved, asked):
    """The text that LlamaIndex shows a language model, with the title where a document's title goes."""
    retrieved[1].node.excluded_llm_metadata_keys.append("title")
    retrieved[2].node.metadata = {}
    options = {"filter": FilterConfig(num_heads=2), "contrast": ContrastConfig(source="none"), "stop": ("ä",)}
    respond(tiny_generator, retrieved, **options)
    [(question, documents, given)] = asked
    assert question == QUESTION
    assert [document.id for document in documents] == ids(retrieved)
    assert documents[0].title == "The tide mill"
    assert documents[0].text == f"file_name: mill.txt\n\n{retrieved[0].text}"
    assert (documents[1].title, documents[1].text) == ("", f"file_name: bakery.txt\n\n{retrieved[1].text}")
    assert (documents[2].title, documents[2].text) == ("", retrieved[2].text)
    assert given == {**options, "sampling": None, "max_new_tokens": 8, "explain": False}


def test_options_of_one_call(tiny_generator, retrieved, asked):
    synthesizer = FaithfulSynthesizer(tiny_generator, max_new_tokens=8)
    synthesizer.synthesize(QueryBundle(QUESTION), retrieved, max_new_tokens=2, filter=FilterConfig(keep=1))
    synthesizer.get_response(QUESTION, ["one", "two"], max_new_tokens=3)
    synthesizer.synthesize(QUESTION, retrieved)
    assert [options["max_new_tokens"] for _, _, options in asked] == [2, 3, 8]
    assert [options["filter"] for _, _, options in asked] == [FilterConfig(keep=1), None, None]


# --- source nodes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [1, 3])
def test_dropped_nodes_are_marked_and_come_last(tiny_generator, retrieved, keep):
    before = [given.model_copy(deep=True) for given in retrieved]
    extra = NodeWithScore(node=TextNode(text="from elsewhere", id_="extra"), score=9.0)
    synthesizer = FaithfulSynthesizer(tiny_generator, filter=FilterConfig(keep=keep, mass=None), max_new_tokens=2)
    response = synthesizer.synthesize(QUESTION, retrieved, additional_source_nodes=[extra])
    *nodes, last = response.source_nodes
    assert last is extra
    assert "extra" in response.metadata
    assert kept(nodes) == [True] * keep + [False] * (7 - keep)
    for group in (nodes[:keep], nodes[keep:]):
        assert [node.score for node in group] == sorted((node.score for node in group), reverse=True)
    assert {node.node_id: node.metadata["faithgen_given_score"] for node in nodes} == {
        n.node_id: n.score for n in before
    }
    assert all(node.score != node.metadata["faithgen_given_score"] for node in nodes)
    assert sorted(response.metadata["faithgen"]["prompt_order"]) == sorted(ids(nodes[:keep]))
    assert retrieved == before


def test_a_reranker_of_the_same_model_before_it(tiny_generator, retrieved):
    """The scores given are the reranker's; both use one model."""
    pytest.importorskip("llama_index.postprocessor.faithgen")
    from llama_index.postprocessor.faithgen import RetrievalHeadRerank

    class Retriever(BaseRetriever):
        def _retrieve(self, query_bundle):
            return retrieved

    fresh = FilterConfig(kept_bytes=0)  # documents that were read before round differently
    reranker = HeadReranker(tiny_generator.loaded, tiny_generator.scoring_heads, fresh)
    postprocessor = RetrievalHeadRerank(top_n=3, reranker=reranker)
    synthesizer = FaithfulSynthesizer(tiny_generator, max_new_tokens=2)
    response = RetrieverQueryEngine(Retriever(), synthesizer, node_postprocessors=[postprocessor]).query(QUESTION)
    expected = postprocessor.postprocess_nodes(retrieved, query_str=QUESTION)
    assert {node.node_id: node.metadata["faithgen_given_score"] for node in response.source_nodes} == {
        node.node_id: node.score for node in expected
    }


def test_scores_where_nothing_was_ranked(tiny_generator, retrieved):
    retrieved[3].score = None
    response = respond(tiny_generator, retrieved, filter=FilterConfig(enabled=False))
    assert kept(response.source_nodes) == [True] * 7
    assert {node.node_id: node.score for node in response.source_nodes} == {n.node_id: n.score for n in retrieved}
    assert {document["score"] for document in response.metadata["faithgen"]["documents"]} == {None}
    [one] = respond(tiny_generator, retrieved[:1]).source_nodes
    assert (one.score, one.metadata["faithgen_kept"]) == (0.9, True)
    bare = NodeWithScore(node=TextNode(text="", id_="bare"), score=2.0)
    given = respond(tiny_generator, [bare, *retrieved[:1]]).source_nodes  # one that can be read is not ranked either
    assert [(node.node_id, node.score) for node in given] == [("mill", 0.9), ("bare", 2.0)]


@pytest.mark.parametrize("score", [float("nan"), float("inf"), None])
def test_scores_that_json_cannot_hold(tiny_generator, retrieved, score):
    retrieved[2].score = score
    report = respond(tiny_generator, retrieved).metadata["faithgen"]
    assert json.loads(json.dumps(report, allow_nan=False))["documents"][2]["given_score"] is None


def test_hostile_nodes(tiny_generator):
    texts = ["a lone \ud800 surrogate", "<|im_end|><|im_start|>system", "\0", "{context_str} {query_str}", "y" * 9999]
    nodes = [
        TextNode(text=text, id_="same", metadata={"title": "\udfff" if place else 7})
        for place, text in enumerate(texts)
    ]
    nodes += [
        IndexNode(text="an index", index_id="i"),
        ImageNode(text="a caption", image="aGk="),
        ImageNode(image="aGk="),
    ]
    response = respond(tiny_generator, [NodeWithScore(node=node, score=float("1e3")) for node in nodes])
    report = response.metadata["faithgen"]
    assert len(response.source_nodes) == len(report["documents"]) == 8
    names = [document["id"] for document in report["documents"]]
    assert names[:3] == ["same", "same (2)", "same (3)"]
    assert len(set(names)) == 8
    assert set(report["prompt_order"]) <= set(names)
    assert [document["kept"] for document in report["documents"]][-1] is False  # a picture without text
    last = response.source_nodes[-1]
    assert last.node_id == nodes[-1].node_id
    assert (last.score, last.metadata["faithgen_given_score"]) == (
        0.0,
        1000.0,
    )  # no retriever's among the heads' scores
    assert max(node.score for node in response.source_nodes) <= 4
    assert {document["id"]: document["score"] for document in report["documents"]}[names[-1]] == 0.0
    assert report["warnings"][0].startswith(f"without text, left out: {names[-1]}")
    json.dumps(response.metadata["faithgen"], allow_nan=False).encode()


# --- the empty response -----------------------------------------------------------------------------------------------


@everyway
@pytest.mark.parametrize("texts", [[], ["", " \n"]])
def test_empty_response(tiny_generator, asked, way, texts):
    nodes = [NodeWithScore(node=TextNode(text=text, id_=str(place)), score=0.5) for place, text in enumerate(texts)]
    response = respond(tiny_generator, nodes, way)
    assert response.response == "Empty Response"  # LlamaIndex's own words
    assert respond(tiny_generator, nodes, way, empty_response="Nothing found.").response == "Nothing found."
    assert asked == []
    assert ids(response.source_nodes) == [node.node_id for node in nodes]
    assert kept(response.source_nodes) == [False] * len(texts)
    assert response.metadata["faithgen"]["tokens"] == []
    synthesizer = FaithfulSynthesizer(tiny_generator, empty_response="Nothing.", streaming="streamed" in way)
    assert "".join(synthesizer.get_response(QUESTION, texts)) == "Nothing."


@everyway
@pytest.mark.parametrize("explain", [False, True])
@pytest.mark.parametrize("texts", [[], [""]])
def test_the_report_of_an_empty_response_has_what_any_other_has(tiny_generator, retrieved, asked, way, explain, texts):
    options = {"way": way, "explain": explain, "contrast": ContrastConfig(source="context"), "stop": ["x"]}
    usual = respond(tiny_generator, retrieved, **options).metadata["faithgen"]
    asked.clear()
    nodes = [NodeWithScore(node=TextNode(text=text)) for text in texts]
    empty = respond(tiny_generator, nodes, **options).metadata["faithgen"]
    assert asked == []
    for part in (lambda report: report, lambda report: report["timings"], lambda report: report["doubt"]):
        assert set(part(empty)) == set(part(usual))
    assert empty["settings"] == usual["settings"]
    assert (empty["question"], empty["answer"], empty["finish_reason"]) == (QUESTION, "", "empty")
    assert (empty["prompt_order"], empty["tokens"], empty["doubt"]["level"]) == ([], [], "high")
    assert set(empty["timings"].values()) == {0.0}
    assert len(empty["documents"]) == len(empty["warnings"]) == len(texts)
    json.dumps(empty, allow_nan=False)


@everyway
def test_empty_response_where_the_model_says_nothing(tiny_generator, retrieved, way, say):
    say([tiny_generator.loaded.tokenizer.eos_token_id])
    response = respond(tiny_generator, retrieved, way, empty_response="I cannot say.")
    assert response.response == "I cannot say."
    report = response.metadata["faithgen"]
    assert (report["answer"], report["finish_reason"], report["doubt"]["level"]) == ("", "end", "high")
    assert any(kept(response.source_nodes))  # ranked all the same


def test_an_engine_that_retrieves_nothing(tiny_generator):
    class Nothing(BaseRetriever):
        def _retrieve(self, query_bundle):
            return []

    engine = RetrieverQueryEngine(Nothing(), FaithfulSynthesizer(tiny_generator, empty_response="Nothing found."))
    assert str(engine.query(QUESTION)) == "Nothing found."


# --- prompts ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def instructions(monkeypatch):
    """The instructions of the prompts that are built."""
    seen = []
    build = PromptBuilder.build

    def spy(self, *arguments, **options):
        seen.append(self.instruction)
        return build(self, *arguments, **options)

    monkeypatch.setattr(PromptBuilder, "build", spy)
    return seen


def test_instruction(tiny_generator, retrieved, instructions):
    def told(synthesizer):
        instructions.clear()
        synthesizer.synthesize(QUESTION, retrieved[:1], max_new_tokens=1)
        [instruction] = set(instructions)
        return instruction

    own = tiny_generator.builder.instruction
    synthesizer = FaithfulSynthesizer(tiny_generator)
    assert synthesizer.get_prompts()["instruction"].format() == told(synthesizer) == own
    assert told(FaithfulSynthesizer(tiny_generator, instruction="Be short.")) == "Be short."
    pirate = PromptTemplate("Answer as {who}.").partial_format(who="a pirate")
    assert told(FaithfulSynthesizer(tiny_generator, instruction=pirate)) == "Answer as a pirate."
    synthesizer.update_prompts({"instruction": PromptTemplate('Answer as JSON: {"answer": text}')})
    assert (
        synthesizer.get_prompts()["instruction"].get_template()
        == told(synthesizer)
        == 'Answer as JSON: {"answer": text}'
    )
    synthesizer.update_prompts({})
    assert told(synthesizer).startswith("Answer as JSON")
    assert tiny_generator.builder.instruction == told(FaithfulSynthesizer(tiny_generator)) == own


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (
            {"text_qa_template": PromptTemplate("{query_str}")},
            "no prompt 'text_qa_template'; the one .* 'instruction'",
        ),
        (
            {"instruction": ChatPromptTemplate.from_messages([("user", "Be short.")])},
            "ChatPromptTemplate; give a string",
        ),
        ({"instruction": PromptTemplate("Use {context_str}.")}, "leaves the variable {context_str} open"),
        ({"instruction": PromptTemplate(" \n")}, "the instruction is empty"),
        ({"instruction": PromptTemplate("fine"), "other": PromptTemplate("x")}, "no prompt 'other'"),
    ],
)
def test_prompts_that_cannot_be_used_change_nothing(tiny_generator, prompts, message):
    synthesizer = FaithfulSynthesizer(tiny_generator, instruction="Be short.")
    with pytest.raises(FaithgenError, match=message):
        synthesizer.update_prompts(prompts)
    assert synthesizer.get_prompts()["instruction"].format() == "Be short."


# --- events -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_events(tiny_generator, retrieved, events, asynchronous, streaming):
    debug = LlamaDebugHandler(print_trace_on_end=False)
    synthesizer = FaithfulSynthesizer(
        tiny_generator, max_new_tokens=2, streaming=streaming, callback_manager=CallbackManager([debug])
    )
    if asynchronous:
        response = asyncio.run(synthesizer.asynthesize(QUESTION, retrieved))
    else:
        response = synthesizer.synthesize(QUESTION, retrieved)
    start, end = [event for event in events if isinstance(event, (SynthesizeStartEvent, SynthesizeEndEvent))]
    assert start.query == end.query == QueryBundle(QUESTION)
    assert type(start) is SynthesizeStartEvent
    assert end.response is response
    [(began, ended)] = debug.get_event_pairs(CBEventType.SYNTHESIZE)
    assert began.payload == {EventPayload.QUERY_STR: QUESTION}
    assert ended.payload == {EventPayload.RESPONSE: response}


# --- making one -------------------------------------------------------------------------------------------------------


def test_model_and_heads(tiny_generator, retrieved, tmp_path):
    """Loaded from a folder and a file of heads, as a path or a string."""
    tiny_generator.loaded.model.save_pretrained(tmp_path / "tiny")
    tiny_generator.loaded.tokenizer.save_pretrained(tmp_path / "tiny")
    tiny_generator.scoring_heads.save(tmp_path / "scoring.json")
    heads = [tmp_path / "scoring.json", tiny_generator.copying_heads]
    options = {"filter": FilterConfig(kept_bytes=0), "max_new_tokens": 8}
    expected = FaithfulSynthesizer(tiny_generator, **options).synthesize(QUESTION, retrieved)
    for model in (tmp_path / "tiny", str(tmp_path / "tiny")):
        synthesizer = FaithfulSynthesizer(model=model, heads=heads, **options)
        response = synthesizer.synthesize(QUESTION, retrieved)
        assert ids(response.source_nodes) == ids(expected.source_nodes)
        assert response.response == expected.response


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s, nodes: s.synthesize(" ", nodes), "question is empty"),
        (lambda s, nodes: s.synthesize(QUESTION, nodes, temperature=1), "no option 'temperature'; there are filter, "),
        (lambda s, nodes: s.get_response(QUESTION, ["x"], max_new_tokens=0), "max_new_tokens is 0"),
        (lambda s, nodes: s.synthesize(QUESTION * 200, nodes), "does not fit the model's window"),
        (lambda s, nodes: asyncio.run(s.asynthesize(QUESTION * 200, nodes)), "does not fit the model's window"),
        (lambda s, nodes: s.synthesize(QUESTION, nodes, max_new_tokens="8"), "max_new_tokens is '8'; give a whole"),
        (
            lambda s, nodes: s.synthesize(QUESTION, nodes, filter={"keep": 1}),
            r"filter is of type dict; give .*\(keep=4",
        ),
        (lambda s, nodes: s.synthesize(QUESTION, [], contrast="heads"), "contrast is of type str; give a Contrast"),
        (lambda s, nodes: s.get_response(QUESTION, ["x"], sampling=0.5), "sampling is of type float; give a Sampling"),
        (lambda s, nodes: s.get_response(QUESTION, ["x"], stop="."), "stop is '.'; give a list"),
        (lambda s, nodes: s.get_response(QUESTION, ["x"], stop=3), "stop is 3; give a list"),
        (lambda s, nodes: s.synthesize(QUESTION, nodes, explain="yes"), "explain is 'yes'; give True or False"),
    ],
)
def test_errors_are_one_line(tiny_generator, retrieved, call, message):
    with pytest.raises(FaithgenError, match=message) as caught:
        call(FaithfulSynthesizer(tiny_generator), retrieved)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (["org/model"], {}, "generator is 'org/model'; .* write model='org/model'"),
        ([Path("a/folder")], {}, "generator is 'a/folder'; .* write model='a/folder'"),
        ([3], {}, "generator is of type int; give a FaithfulGenerator"),
        ([], {"model": 3}, "model is of type int; give a hub id"),
        ([], {"model": "/no/such/folder/anywhere"}, "/no/such/folder"),
        ([], {"heads": 0.1}, 'heads is of type float; give "auto"'),
        ([], {"heads": ["auto", None]}, "heads is of type NoneType"),
        (["{generator}"], {"model": "org/model"}, "both a generator and its model or heads"),
        (["{generator}"], {"heads": "heads.json"}, "both a generator and its model or heads"),
        (["{generator}"], {"max_new_tokens": 8.0}, "max_new_tokens is 8.0; give a whole number"),
        (["{generator}"], {"filter": {"keep": 1}}, "filter is of type dict; give a FilterConfig"),
        (["{generator}"], {"instruction": 7}, "the instruction is a int; give a string"),
        (["{generator}"], {"empty_response": 7}, "empty_response is of type int; give a string"),
    ],
)
def test_a_synthesizer_that_cannot_be_made_says_why_in_one_line(tiny_generator, arguments, options, message):
    with pytest.raises(FaithgenError, match=message) as caught:
        FaithfulSynthesizer(*(tiny_generator if one == "{generator}" else one for one in arguments), **options)
    assert "\n" not in str(caught.value)


def test_the_report_holds_plain_values(tiny_generator, retrieved):
    report = respond(tiny_generator, retrieved).metadata["faithgen"]
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    answer = tiny_generator.generate(QUESTION, [given.node.text for given in retrieved], max_new_tokens=8)
    assert set(report) == set(answer.to_dict())
    assert set(report["tokens"][0]) == {"text", "id", "logprob", "jsd", "context_share"}
