"""The default model and our recipes on real rows. They are beside the checkout, never in it."""

import importlib.util
import json
import subprocess
import sys

import pytest

from faithgen.detection.instances import load_instances
from tests.conftest import ROOT, SHARED

pytestmark = pytest.mark.shared_data


def benchmark_module(name):
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def common():
    return benchmark_module("common")


@pytest.mark.parametrize("distractors", ["hard", "random"])
@pytest.mark.parametrize("passages", [10, 20])
def test_benchmark_rows_hold_one_gold_passage_among_others(common, passages, distractors):
    rows = common.multidoc_rows(passages, distractors, 60)
    assert rows == common.multidoc_rows(passages, distractors, 60), "the sample is fixed"
    assert {len(row["documents"]) for row in rows} == {passages}
    places = [row["gold"] for row in rows]
    assert min(places) == 0
    assert max(places) == passages - 1
    for row in rows:
        golds = [common.normalised(answer) for answer in row["answers"]]
        texts = [common.normalised(document["text"]) for document in row["documents"]]
        holding = [i for i, text in enumerate(texts) if any(gold in text for gold in golds)]
        assert row["gold"] in holding
        if distractors == "random":
            assert holding == [row["gold"]]
        assert len({document["text"] for document in row["documents"]}) == passages


def test_no_training_row_of_the_heads_is_a_dev_question(common, tmp_path):
    command = [sys.executable, ROOT / "recipes/heads/build_detection_data.py", "--shared", SHARED]
    subprocess.run([*command, "--output", tmp_path, "--count", "60"], check=True, timeout=250)
    instances, dropped = load_instances(tmp_path / "qed_bm25_10.jsonl")
    assert not dropped
    assert len(instances) == 60
    for instance in instances:
        assert len(instance.documents) == 10
        holding = [
            i
            for i, d in enumerate(instance.documents)
            if common.normalised(instance.answer) in common.normalised(d.text)
        ]
        assert set(instance.gold) <= set(holding)
    questions = {common.normalised(row["question"]) for row in common.multidoc_rows(20, "hard", 10_000)}
    assert not questions & {common.normalised(instance.question) for instance in instances}
    needles = [json.loads(line) for line in (tmp_path / "niah.jsonl").read_text().splitlines()]
    assert all(row["answer"] and row["gold"] for row in needles)


@pytest.mark.default_model
def test_retrieval_heads_find_real_evidence_and_random_heads_do_not(common, default_generator):
    """10 passages, 9 of them random: the four best heads put the gold one first; as many random heads rarely do."""
    from faithgen.documents import as_documents
    from faithgen.filtering.attention import document_attention

    rows = common.multidoc_rows(10, "random", 8)
    best = default_generator.scoring_heads.top(4)
    control = default_generator.scoring_heads.random_like(0).top(4)
    hits = {"best": 0, "control": 0}
    for row in rows:
        attention, _ = document_attention(
            default_generator.loaded.model,
            default_generator.builder,
            [*best, *control],
            row["question"],
            as_documents(row["documents"]),
        )
        shares = attention / attention.sum(1, keepdim=True)
        hits["best"] += int(shares[:4].sum(0).argmax()) == row["gold"]
        hits["control"] += int(shares[4:].sum(0).argmax()) == row["gold"]
    assert hits["best"] >= 6, hits
    assert hits["control"] <= 4, hits


@pytest.mark.default_model
def test_an_answer_to_a_real_question_names_its_evidence(common, default_generator):
    row = common.multidoc_rows(10, "random", 1)[0]
    documents = [{"id": f"p{i}", **document} for i, document in enumerate(row["documents"])]
    answer = default_generator.generate(row["question"], documents, max_new_tokens=8)
    kept = [document.id for document in answer.documents if document.kept]
    assert f"p{row['gold']}" in kept
    assert sorted(answer.prompt_order) == sorted(kept)
    assert len(kept) < 10
    assert answer.tokens
