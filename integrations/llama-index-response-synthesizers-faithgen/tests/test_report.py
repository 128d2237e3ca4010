"""The page of a response: what `explain` keeps for it, and what is said of responses that have none."""

import asyncio
import json

import pytest

pytest.importorskip("llama_index.core", reason="pip install 'faithgen[llama-index]'")

from llama_index.core.base.response.schema import Response
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.response_synthesizers.faithgen import FaithfulSynthesizer

from faithgen import Answer, FaithgenError, FilterConfig
from faithgen.report import render_report
from tests.report.parsing import Page

QUESTION = "Where does the tram go?"
FRESH = FilterConfig(kept_bytes=0)  # documents that were read before round differently


@pytest.fixture
def engine(retrieved):
    class Retriever(BaseRetriever):
        def _retrieve(self, query_bundle):
            return retrieved

    return lambda synthesizer: RetrieverQueryEngine(Retriever(), synthesizer)


def explained(generator, **options):
    return FaithfulSynthesizer(generator, **{"explain": True, "max_new_tokens": 8, "filter": FRESH, **options})


def test_the_page_shows_the_answer_and_the_nodes(tiny_generator, retrieved, engine, tmp_path):
    retrieved[0].node.metadata["title"] = "<script>alert(1)</script>"
    synthesizer = explained(tiny_generator)
    response = engine(synthesizer).query(QUESTION)
    synthesizer.write_report(response, tmp_path / "answer.html")
    page = Page((tmp_path / "answer.html").read_text(encoding="utf-8"))
    assert page.texts("h1") == [QUESTION]
    assert page.texts(id="answer") == [response.response]
    assert len(page.find("svg", kind="map")) == 2
    names = [text.split("\n")[0] for text in page.texts("span", kind="name")]
    assert sorted(names) == sorted(given.metadata["title"] for given in retrieved)
    kept = [node for node in response.source_nodes if node.metadata["faithgen_kept"]]
    assert len(page.find("li", kind="kept")) == len(kept) >= 1
    best = page.texts("p", kind="text")[0]
    assert kept[0].text in best
    assert "file_name: " in best  # as the model read it
    coarse = [one["coarse_score"] for one in response.metadata["faithgen"]["documents"]]
    assert sum("coarse" in text for text in page.texts("span", kind="bar")) == len(coarse) == 7
    data = json.loads(page.texts(id="data")[0])
    assert len(data["tokens"]) == len(response.metadata["faithgen"]["tokens"])
    assert data["sentences"][0]


def test_explaining_changes_nothing_and_the_answer_is_the_generator_s(tiny_generator, retrieved):
    plain = explained(tiny_generator, explain=False).synthesize(QUESTION, retrieved)
    whole = explained(tiny_generator, explain=False).synthesize(QUESTION, retrieved, explain=True)
    assert whole.response == plain.response
    assert whole.source_nodes == plain.source_nodes
    before, after = plain.metadata["faithgen"], whole.metadata["faithgen"]
    assert set(after) - set(before) == {"explanation"}
    assert all("text" not in one for one in before["documents"])
    again = Answer.from_dict(json.loads(json.dumps(after)))
    documents = [{"id": one["id"], "title": one["title"], "text": one["text"]} for one in after["documents"]]
    expected = tiny_generator.generate(QUESTION, documents, filter=FRESH, max_new_tokens=8, explain=True)
    assert again.explanation == expected.explanation
    assert again.documents == expected.documents
    assert [token.detail for token in again.tokens] == [token.detail for token in expected.tokens]
    assert again.doubt == expected.doubt


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_stream_has_a_page_once_it_is_read(tiny_generator, engine, tmp_path, decoding, asynchronous):
    synthesizer = explained(tiny_generator, streaming=True)
    path = tmp_path / "answer.html"

    async def ask():
        response = await engine(synthesizer).aquery(QUESTION)
        with pytest.raises(FaithgenError, match="not been read to its end; read its stream first"):
            synthesizer.write_report(response, path)
        return await response.get_response()

    if asynchronous:
        response = asyncio.run(ask())
    else:
        response = engine(synthesizer).query(QUESTION)
        with pytest.raises(FaithgenError, match="not been read to its end; read its stream first"):
            synthesizer.write_report(response, path)
        response = response.get_response()
    assert not path.exists()
    synthesizer.write_report(response, path)
    assert Page(path.read_text(encoding="utf-8")).texts(id="answer") == [response.response]


def test_nodes_without_text_and_no_nodes_have_a_page_too(tiny_generator, retrieved, tmp_path):
    synthesizer, path = explained(tiny_generator), tmp_path / "answer.html"
    bare = NodeWithScore(node=TextNode(text=" ", id_="bare", metadata={"title": "Bare"}), score=0.5)
    synthesizer.write_report(synthesizer.synthesize(QUESTION, [*retrieved, bare]), path)
    page = Page(path.read_text(encoding="utf-8"))
    assert "dropped: it holds no text" in page.texts("span", kind="state")
    for nodes in ([], [bare]):
        synthesizer.write_report(synthesizer.synthesize(QUESTION, nodes), path)
        page = Page(path.read_text(encoding="utf-8"))
        assert "The model wrote nothing." in page.texts("p", kind="warning")
        assert "no document held text; the model was not asked" in page.texts("dd")
        assert len(page.find("li", kind="document")) == len(nodes)


def test_what_has_no_page_says_so_in_one_line(tiny_generator, retrieved, tmp_path):
    synthesizer = explained(tiny_generator)
    plain = synthesizer.synthesize(QUESTION, retrieved, explain=False)
    for response, message in [
        (plain, r"no explanation .* FaithfulSynthesizer\(explain=True\)"),
        (Response("from elsewhere"), "no response of a FaithfulSynthesizer"),
        ("a string", "no response of a FaithfulSynthesizer"),
    ]:
        with pytest.raises(FaithgenError, match=message) as caught:
            synthesizer.write_report(response, tmp_path / "answer.html")
        assert "\n" not in str(caught.value)
    whole = synthesizer.synthesize(QUESTION, retrieved)
    with pytest.raises(FaithgenError, match="choose another file"):
        synthesizer.write_report(whole, tmp_path / "none" / "answer.html")
    assert render_report(Answer.from_dict(whole.metadata["faithgen"]))
