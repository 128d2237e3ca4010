import pytest

from faithgen.errors import FaithgenError, MissingExtraError
from faithgen.evaluation.datasets import load_dataset

CORPUS = {
    "10": ("Zinc", "Zinc shortens colds."),
    "11": ("Garlic", "Garlic does nothing for colds."),
    "12": ("Sleep", "Sleeping shortened their colds most."),
    "13": ("Stars", "Stars burn hydrogen."),
    "14": ("Rocks", "Rocks are old."),
}
CLAIMS = {"1": "Zinc shortens colds", "2": "Rocks burn", "3": "Nobody cites this", "4": "Cites what is not there"}
QRELS = [("1", "10"), ("1", "14"), ("2", "13"), ("4", "99")]


@pytest.fixture
def root(write):
    write(
        "scifact/corpus.jsonl",
        [{"doc_id": i, "title": t, "abstract_sentences": [s, " "]} for i, (t, s) in CORPUS.items()],
    )
    write("scifact/claims_validation.jsonl", [{"id": i, "claim": c, "evidence": []} for i, c in CLAIMS.items()])
    qrels = [{"query_id": q, "doc_id": d, "relevance": 1} for q, d in QRELS]
    write("scifact/claims_train.jsonl", [{"id": "7", "claim": "Stars burn"}])
    write("scifact/qrels_train.jsonl", [{"query_id": "7", "doc_id": "13", "relevance": 1}])
    return write("scifact/qrels_validation.jsonl", [*qrels, {"query_id": "2", "doc_id": "99", "relevance": 1}])


def test_scifact_candidates_are_ranked_by_bm25(root):
    loaded = load_dataset("scifact", root, candidates=3)
    by_id = {example.id: example for example in loaded}
    assert sorted(by_id) == ["1", "2"]
    assert loaded.dropped == {"no relevant document is known": 2}
    assert loaded.changed == {"relevant document that is not in the corpus left out": 1}
    example = by_id["1"]
    # 12 shares two stems with the claim (shorten, cold), 11 one
    assert [document.id for document in example.documents] == ["10", "12", "11"]
    assert [document.gold for document in example.documents] == [True, False, False]
    assert example.documents[0].text == "Zinc shortens colds."
    scores = list(example.meta["first_stage"].values())
    assert list(example.meta["first_stage"]) == ["10", "12", "11"]
    assert scores == sorted(scores, reverse=True)
    assert example.relevance == {"10": 1, "14": 1}, "one that BM25 missed still counts"
    assert by_id["2"].relevance == {"13": 1}
    assert example.answers == []


def test_scifact_training_claims(root):
    loaded = load_dataset("scifact", root, split="train")
    assert [(example.id, example.question) for example in loaded] == [("7", "Stars burn")]
    assert len(loaded[0].documents) == 5


def test_scifact_as_beir_has_it_on_the_hub(root, write, hub_cache, tmp_path):
    configs = "".join(
        f"- config_name: {name}\n  data_files:\n  - split: {name}\n    path: {name}.jsonl\n"
        for name in ("corpus", "queries")
    )
    write("hub/scifact/corpus.jsonl", [{"_id": i, "title": t, "text": s} for i, (t, s) in CORPUS.items()])
    write("hub/scifact/queries.jsonl", [{"_id": i, "title": "", "text": c} for i, c in CLAIMS.items()])
    (tmp_path / "hub/scifact/README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    rows = [{"query-id": int(q), "corpus-id": int(d), "score": 1} for q, d in QRELS]
    write("hub/scifact-qrels/train.jsonl", [{"query-id": 3, "corpus-id": 11, "score": 1}])
    write("hub/scifact-qrels/test.jsonl", rows)
    loaded = load_dataset("scifact", f"hub:{tmp_path / 'hub/scifact'}", candidates=3)
    local = {example.id: example for example in load_dataset("scifact", root, candidates=3)}
    assert {example.id: example for example in loaded} == local
    train = load_dataset("scifact", f"hub:{tmp_path / 'hub/scifact'}", split="train")
    assert [example.id for example in train] == ["3"]


def test_scifact_without_bm25_names_the_extra(root, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "rank_bm25", None)
    with pytest.raises(MissingExtraError, match=r"faithgen\[eval\]"):
        load_dataset("scifact", root)


def hit(name, rank, relevance):
    return {"docid": name, "rank": rank, "score": 20.0 - rank, "relevance": relevance, "text": f"Text of {name}."}


def test_trec_grades(write):
    rows = [
        {
            "qid": "5",
            "query": "fleas",
            "num_relevant_in_qrels": 40,
            "hits": [hit("b", 2, None), hit("a", 1, 1), hit("c", 3, 3), hit("d", 4, 2), hit("e", 5, 0)],
        },
        {"qid": "6", "query": "ticks", "num_relevant_in_qrels": 3, "hits": [hit("a", 1, 0), hit("b", 2, None)]},
    ]
    root = write("trec_dl_bm25_top100/dl19.jsonl", rows)
    loaded = load_dataset("trec_dl19", root)
    (example,) = loaded
    assert [(document.id, document.gold) for document in example.documents] == [
        ("a", False),
        ("b", None),
        ("c", True),
        ("d", True),
        ("e", False),
    ]
    assert example.relevance == {"a": 1, "c": 3, "d": 2, "e": 0}
    assert example.meta["first_stage"]["a"] == 19.0
    assert example.meta["num_relevant"] == 40
    assert loaded.dropped == {"no relevant document among the candidates": 1}
    assert [d.id for d in load_dataset("trec_dl19", root, candidates=2)[0].documents] == ["a", "b"]


def test_wrong_options_and_values(write):
    root = write(
        "trec_dl_bm25_top100/dl19.jsonl", [{"qid": "5", "query": "q", "hits": [hit("a", 1, 1) | {"score": "x"}]}]
    )
    with pytest.raises(FaithgenError, match="candidates is 1; give a whole number, 2 or more"):
        load_dataset("trec_dl19", root, candidates=1)
    with pytest.raises(FaithgenError, match="hits 1: 'score' is of type str; give a number"):
        load_dataset("trec_dl19", root)
