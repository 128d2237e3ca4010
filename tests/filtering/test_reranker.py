import inspect
import random

import numpy as np
import pytest
import torch

from faithgen.documents import Document
from faithgen.errors import FaithgenError
from faithgen.filtering.coarse import FilterConfig, rank_documents
from faithgen.filtering.reranker import HeadReranker
from faithgen.heads.head_set import HeadSet
from faithgen.models import LoadedModel
from tests import tiny

QUERY = "who was the keeper?"
TEXTS = [text[:60] for text in tiny.CORPUS[:4]]


def head_set(model_id="tiny", revision="0", layers=4, method="query_focused"):
    generator = random.Random(0)
    scores = [[generator.random() for _ in range(8)] for _ in range(layers)]
    return HeadSet(scores, method, model_id, revision)


@pytest.fixture(scope="module")
def reranker(byte_level):
    loaded = LoadedModel(tiny.llama(initializer_range=0.1), byte_level, "tiny", "0")
    return HeadReranker(loaded, head_set())


# --- score ------------------------------------------------------------------------------------------------------------


def test_score_is_the_filter_s(reranker):
    documents = [Document(text) for text in TEXTS]
    heads = FilterConfig().scoring_heads(reranker.heads)
    expected = rank_documents(reranker.loaded.model, reranker.builder, heads, QUERY, documents, FilterConfig()).scores
    assert reranker.score(QUERY, TEXTS) == expected
    assert reranker.score(QUERY, documents) == expected
    assert all(0 <= score <= 4 for score in expected)
    assert len(set(expected)) == 4


def test_config_counts(reranker):
    two = HeadReranker(reranker.loaded, reranker.heads, FilterConfig(num_heads=2))
    assert sum(two.score(QUERY, TEXTS)) == pytest.approx(2)
    for config in (FilterConfig(calibrate=False), FilterConfig(refine=0)):
        other = HeadReranker(reranker.loaded, reranker.heads, config)
        assert other.score(QUERY, TEXTS) != reranker.score(QUERY, TEXTS)


def test_titles_are_read(reranker):
    assert reranker.score(QUERY, [Document(TEXTS[0], title="Maren Oduya"), *TEXTS[1:]]) != reranker.score(QUERY, TEXTS)


# --- rank -------------------------------------------------------------------------------------------------------------


def test_rank_has_the_shape_of_a_cross_encoder_s(reranker):
    found = reranker.rank(QUERY, TEXTS)
    scores = reranker.score(QUERY, TEXTS)
    assert [set(entry) for entry in found] == [{"corpus_id", "score"}] * 4
    assert [entry["corpus_id"] for entry in found] == sorted(range(4), key=lambda i: -scores[i])
    assert [entry["score"] for entry in found] == sorted(scores, reverse=True)


def test_top_k(reranker):
    whole = reranker.rank(QUERY, TEXTS)
    assert reranker.rank(QUERY, TEXTS, top_k=2) == whole[:2]
    assert reranker.rank(QUERY, TEXTS, 1) == whole[:1]
    assert reranker.rank(QUERY, TEXTS, top_k=99) == whole


def test_return_documents(reranker):
    found = reranker.rank(QUERY, [Document(TEXTS[0]), *TEXTS[1:]], return_documents=True)
    assert all(entry["text"] == TEXTS[entry["corpus_id"]] for entry in found)
    assert "text" not in reranker.rank(QUERY, TEXTS)[0]


def test_empty_documents(reranker):
    assert reranker.rank(QUERY, []) == []
    assert reranker.score(QUERY, []) == []
    assert reranker.rank(QUERY, [], apply_softmax=True, activation_fn=torch.sigmoid) == []
    assert len(reranker.predict([])) == 0


def test_an_empty_text_is_ranked(reranker):
    found = reranker.rank(QUERY, ["", TEXTS[0]])
    assert sorted(entry["corpus_id"] for entry in found) == [0, 1]
    assert all(np.isfinite(entry["score"]) for entry in found)


@pytest.mark.parametrize("query", ["", "  \n", None])
def test_empty_query(reranker, query):
    for call in (reranker.score, reranker.rank):
        with pytest.raises(FaithgenError, match="query is empty") as caught:
            call(query, TEXTS)
        assert "\n" not in str(caught.value)
    with pytest.raises(FaithgenError, match="query is empty"):
        reranker.predict([(query, TEXTS[0])])


def test_activation_and_softmax(reranker):
    plain = torch.tensor(reranker.score(QUERY, TEXTS))

    def scores(**options):
        found = reranker.rank(QUERY, TEXTS, **options)
        return torch.tensor([entry["score"] for entry in sorted(found, key=lambda entry: entry["corpus_id"])])

    torch.testing.assert_close(scores(activation_fn=torch.sigmoid), plain.sigmoid())
    torch.testing.assert_close(scores(apply_softmax=True), plain.softmax(0))
    torch.testing.assert_close(
        scores(activation_fn=torch.nn.Sigmoid(), apply_softmax=True), plain.sigmoid().softmax(0)
    )
    turned = reranker.rank(QUERY, TEXTS, activation_fn=torch.neg)
    assert [entry["corpus_id"] for entry in turned] == [e["corpus_id"] for e in reranker.rank(QUERY, TEXTS)][::-1]


# --- predict ----------------------------------------------------------------------------------------------------------


def test_predict_groups_pairs_by_query(reranker):
    other = "what does a ticket cost?"
    pairs = [(QUERY, TEXTS[0]), (other, TEXTS[1]), (QUERY, TEXTS[2]), (other, TEXTS[3]), [QUERY, TEXTS[1]]]
    found = reranker.predict(pairs)
    assert isinstance(found, np.ndarray)
    assert found.shape == (5,)
    assert found.dtype == np.float32
    first = reranker.score(QUERY, [TEXTS[0], TEXTS[2], TEXTS[1]])
    second = reranker.score(other, [TEXTS[1], TEXTS[3]])
    assert found.tolist() == pytest.approx([first[0], second[0], first[1], second[1], first[2]], rel=1e-6)


def test_predict_agrees_with_rank(reranker):
    found = reranker.predict([(QUERY, text) for text in TEXTS])
    for entry in reranker.rank(QUERY, TEXTS):
        assert found[entry["corpus_id"]] == pytest.approx(entry["score"], rel=1e-6)


def test_predict_softmax_is_by_query(reranker):
    pairs = [(query, text) for text in TEXTS for query in (QUERY, "what does a ticket cost?")]
    found = reranker.predict(pairs, apply_softmax=True)
    assert found[::2].sum() == pytest.approx(1)
    assert found[1::2].sum() == pytest.approx(1)


def test_convert_flags(reranker):
    pairs = [(QUERY, text) for text in TEXTS]
    numbers = reranker.predict(pairs)
    tensor = reranker.predict(pairs, convert_to_tensor=True)
    assert isinstance(tensor, torch.Tensor)
    assert tensor.tolist() == numbers.tolist()
    listed = reranker.predict(pairs, convert_to_numpy=False)
    assert isinstance(listed, list)
    assert [item.shape for item in listed] == [()] * 4
    assert [item.item() for item in listed] == numbers.tolist()
    # as in sentence-transformers, the tensor wins
    assert isinstance(reranker.predict(pairs, convert_to_tensor=True, convert_to_numpy=True), torch.Tensor)


def test_one_pair_gives_one_score(reranker):
    score = reranker.predict((QUERY, TEXTS[0]))
    assert isinstance(score, np.float32)
    assert float(score) == pytest.approx(4.0)
    assert reranker.predict([QUERY, TEXTS[0]]) == score
    assert reranker.predict((QUERY, TEXTS[0]), convert_to_tensor=True).shape == ()
    one = reranker.predict((QUERY, TEXTS[0]), convert_to_numpy=False)
    assert isinstance(one, torch.Tensor)
    assert one.shape == ()
    assert reranker.predict([(QUERY, TEXTS[0])]).shape == (1,)


def test_pairs_in_an_array(reranker):
    pairs = [(QUERY, text) for text in TEXTS]
    assert reranker.predict(np.array(pairs)).tolist() == reranker.predict(pairs).tolist()
    assert reranker.predict(np.array(pairs[0])) == reranker.predict(pairs[0])


@pytest.mark.parametrize("inputs", [["a", "b", "c"], [("a",)], [("a", "b", "c")], [("a", "b"), "cd"]])
def test_what_is_no_pair(reranker, inputs):
    with pytest.raises(FaithgenError, match="pairs"):
        reranker.predict(inputs)


# --- a CrossEncoder's place -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["rank", "predict"])
def test_takes_all_that_a_cross_encoder_takes(reranker, method):
    cross_encoder = pytest.importorskip("sentence_transformers").CrossEncoder
    theirs = inspect.signature(getattr(cross_encoder, method)).parameters
    ours = inspect.signature(getattr(HeadReranker, method)).parameters
    named = [name for name, p in theirs.items() if p.kind is not p.VAR_KEYWORD]
    assert set(named) <= set(ours)
    positional = [name for name in named if theirs[name].kind is theirs[name].POSITIONAL_OR_KEYWORD]
    assert [name for name in ours if name in positional] == positional
    for name in named:
        assert theirs[name].default == ours[name].default, name
    required = {"self", "query", "documents", "inputs"}
    values = {name: theirs[name].default for name in named if name not in required}
    values |= {"show_progress_bar": False, "batch_size": 2}
    arguments = (QUERY, TEXTS) if method == "rank" else ([(QUERY, text) for text in TEXTS],)
    found = getattr(reranker, method)(*arguments, **values)
    plain = getattr(reranker, method)(*arguments)
    assert list(found) == list(plain)


def test_in_llama_index_s_reranker_for_cross_encoders(reranker, monkeypatch):
    """`SentenceTransformerRerank` makes a `CrossEncoder`, hands it pairs and reads the scores."""
    sentence_transformers = pytest.importorskip("sentence_transformers")
    pytest.importorskip("llama_index.core", reason="pip install 'faithgen[llama-index]'")
    from llama_index.core.postprocessor import SentenceTransformerRerank
    from llama_index.core.schema import NodeWithScore, TextNode

    monkeypatch.setattr(sentence_transformers, "CrossEncoder", lambda *_, **__: reranker)
    nodes = [NodeWithScore(node=TextNode(text=text, id_=str(place)), score=0.5) for place, text in enumerate(TEXTS)]
    ranked = SentenceTransformerRerank(top_n=3, model="heads", device="cpu").postprocess_nodes(nodes, query_str=QUERY)
    expected = reranker.rank(QUERY, TEXTS, top_k=3)
    assert [node.node_id for node in ranked] == [str(entry["corpus_id"]) for entry in expected]
    assert [node.score for node in ranked] == pytest.approx([entry["score"] for entry in expected])


def test_heads_of_another_model_are_refused(reranker):
    with pytest.raises(FaithgenError, match="detected in 'other'"):
        HeadReranker(reranker.loaded, head_set("other", "1"))
    with pytest.raises(FaithgenError, match="out of range"):
        HeadReranker(reranker.loaded, head_set(layers=3))


def test_from_pretrained(tiny_folder):
    both = [head_set(method="copying"), head_set()]
    one = HeadReranker.from_pretrained(tiny_folder, heads=both, dtype="float32", device="cpu")
    assert one.heads == head_set()
    assert len(one.rank(QUERY, TEXTS, top_k=3)) == 3
