"""The scripts around training: rows that are built, arms of equal size, means over sets."""

import importlib.util
import json
import random
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from tests.conftest import ROOT


def script(path):
    """A script of recipes/ or benchmarks/ as a module."""
    sys.path.insert(0, str((ROOT / path).parent))
    try:
        spec = importlib.util.spec_from_file_location(f"script_{(ROOT / path).stem}", ROOT / path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.pop(0)


# --- rows -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def building():
    pytest.importorskip("rank_bm25")
    pytest.importorskip("nltk")
    return script("recipes/rhio/build_training_data.py")


PLACES = ["harbour", "museum", "school", "bakery", "theatre", "chapel", "market", "brewery"]


def qed(number, **changes):
    """A question over one passage, as `train_grounded_qa` has it."""
    place = PLACES[number % len(PLACES)]
    text = f"The {place} of Skarnholm number {number} was opened in {1800 + number} by the town council "
    text += "after a long dispute over money ."
    row = {
        "id": f"q{number}",
        "source": "qed",
        "question": f"when was the {place} number {number} opened",
        "passages": [{"title": f"{place} {number}", "text": text, "gold": True}],
        "answer_short": [str(1800 + number)],
        "answer_long": f"It was opened in {1800 + number} , by the council .",
    }
    return row | changes


def test_a_row_has_its_passage_and_others_without_the_answer(building):
    rows = [qed(number) for number in range(20)]
    passages = building.Passages(rows, set())
    made = building.build(rows[3], False, passages, random.Random(0), 300)
    texts = [document["text"] for document in made["documents"]]
    assert rows[3]["passages"][0]["text"] in texts
    assert 2 <= len(texts) <= 3
    assert sum("1803" in text for text in texts) == 1
    assert (made["answer"], "instruction" in made) == ("1803", False)
    whole = building.build(rows[3], True, passages, random.Random(0), 300)
    assert whole["answer"] == "It was opened in 1803, by the council."
    assert whole["instruction"]


@pytest.mark.parametrize(
    "changes", [{"answer_short": ["1999"]}, {"answer_short": [""]}], ids=["not in the passage", "no answer"]
)
def test_a_row_whose_passage_does_not_answer_is_left_out(building, changes):
    passages = building.Passages([qed(number) for number in range(20)], set())
    assert building.build(qed(3, **changes), False, passages, random.Random(0), 300) is None


def test_passages_that_answer_an_evaluation_question_are_no_distractors(building):
    rows = [qed(number) for number in range(20)]
    seen = {building.normalised(rows[number]["passages"][0]["text"]) for number in range(1, 19)}
    passages = building.Passages(rows, seen)
    assert [p["title"] for p in passages.beside(rows[0], 5, 100)] == [rows[19]["passages"][0]["title"]]


def written(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_questions_and_passages_of_evaluation_sets_stay_out(building, tmp_path):
    rows = [qed(number) for number in range(40)]
    written(tmp_path / "shared/train_grounded_qa/train.jsonl", rows)
    written(tmp_path / "shared/clapnq/dev_answerable.jsonl", [{"input": "When was the museum number 1 opened?"}])
    gold = {"text": rows[2]["passages"][0]["text"], "isgold": True}
    written(tmp_path / "shared/nq_mdqa_bm25/mdqa20_600.jsonl", [{"question": "who?", "ctxs": [gold]}])
    command = [sys.executable, ROOT / "recipes/rhio/build_training_data.py", "--shared", tmp_path / "shared"]
    done = subprocess.run(
        [*command, "--output", tmp_path / "out", "--rows", "60"], capture_output=True, text=True, check=True
    )
    built = [json.loads(line) for line in (tmp_path / "out/train.jsonl").read_text().splitlines()]
    names = {row["id"].split("-")[1] for row in built}
    assert {"q1", "q2"}.isdisjoint(names)
    assert len(built) == 38
    assert not any(gold["text"] == document["text"] for row in built for document in row["documents"])
    assert "asked in an evaluation set': 1" in done.stdout
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["train.jsonl"]


def test_an_evaluation_set_without_questions_is_an_error(building, tmp_path):
    written(tmp_path / "nq_swap/dev.jsonl", [{"text": "renamed"}])
    with pytest.raises(SystemExit, match="a row without a question"):
        building.seen_in_evaluation(tmp_path)


# --- arms -------------------------------------------------------------------------------------------------------------


def test_arms_have_as_many_rows_of_the_same_questions_first(tmp_path):
    select = script("recipes/rhio/select_rows.py").select
    files = {
        "rhio": [{"id": str(i), "arm": "rhio"} for i in range(30)],
        "random": [{"id": str(i), "arm": "random"} for i in range(20, 45)],
    }
    chosen, shared = select(files)
    assert shared == 10
    assert {name: len(rows) for name, rows in chosen.items()} == {"rhio": 25, "random": 25}
    for name, rows in chosen.items():
        assert {row["arm"] for row in rows} == {name}
        assert {str(i) for i in range(20, 30)} <= {row["id"] for row in rows}
        assert len({row["id"] for row in rows}) == 25
    order = [[row["id"] for row in rows if 20 <= int(row["id"]) < 30] for rows in chosen.values()]
    assert order[0] == order[1] != sorted(order[0], key=int)
    assert select(files)[0] == chosen


def test_an_arm_without_rows_is_an_error(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"id": "1"}\n')
    (tmp_path / "b.jsonl").write_text("")
    command = [sys.executable, ROOT / "recipes/rhio/select_rows.py", "--output", tmp_path / "out"]
    done = subprocess.run(
        [*command, f"a={tmp_path}/a.jsonl", f"b={tmp_path}/b.jsonl"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "no rows are left in b" in done.stderr
    assert not (tmp_path / "out").exists()


# --- the table --------------------------------------------------------------------------------------------------------


def test_means_are_over_sets_and_paired_by_question():
    means = script("benchmarks/training.py").means
    first = {"a": {"1": 1.0, "2": 0.0, "3": 1.0}, "b": {"1": 0.5}}
    second = {"a": {"1": 0.0, "2": 0.0, "4": 1.0}, "b": {"1": 0.5}}
    samples, count = means([first], ("a", "b"))
    assert samples[0, 0] == pytest.approx((2 / 3 + 0.5) / 2)
    assert count == 4
    samples, count = means([first, second], ("a", "b"))
    assert count == 3
    assert (samples[0] - samples[1])[0] == pytest.approx(0.25)
    spread = np.unique(samples[0, 1:] - samples[1, 1:])
    assert set(np.round(spread, 6)) == {0.0, 0.25, 0.5}


def test_an_answer_without_a_figure_is_left_out_or_counted():
    """An arm that says nothing is not faithful by that alone."""
    means = script("benchmarks/training.py").means
    table = {"a": {"1": 1.0, "2": None}}
    assert [means([table], ("a",))[0][0, 0], means([table], ("a",))[1]] == [1.0, 1]
    samples, count = means([table], ("a",), missing=0.0)
    assert (samples[0, 0], count) == (0.5, 2)


@pytest.mark.parametrize("other", [{"a": {"2": 1.0}}, {}])
def test_a_set_without_rows_in_common_is_no_figure_and_not_left_out_of_the_mean(other):
    training = script("benchmarks/training.py")
    first = {"a": {"1": 1.0}, "b": {"1": 1.0}}
    samples, count = training.means([first, other | {"b": {"1": 1.0}}], ("a", "b"))
    assert training.show(samples[0], count) == "no rows in common"


def test_answers_are_judged_again_once_and_a_line_that_was_cut_off_anew(tmp_path, monkeypatch):
    training = script("benchmarks/training.py")
    example = SimpleNamespace(
        id="1", question="Who built it?", documents=[SimpleNamespace(title="Mill", text="Ada built it in 1921.")]
    )
    rows = [
        {"dataset": "long", "id": "1", "method": "base", "answer": "Ada built it in 1921."},
        {"dataset": "long", "id": "1", "method": "rhio", "answer": "I don't know."},
        {"dataset": "long", "id": "1", "method": "heads", "error": "x"},
        {"dataset": "short", "id": "1", "method": "base", "answer": "Ada"},
    ]
    monkeypatch.setattr(training, "load_run", lambda folder: (None, rows))
    monkeypatch.setattr(training, "load_dataset", lambda name, data: SimpleNamespace(examples=[example]))
    training.judge_again(tmp_path, "lexical", ("long",))
    path = tmp_path / "lexical.jsonl"
    whole = path.read_text()
    assert training.second(path) == {("long", "1", "base"): 1.0, ("long", "1", "rhio"): None}
    path.write_text(whole[:-3])
    training.judge_again(tmp_path, "lexical", ("long",))
    assert path.read_text() == whole
    monkeypatch.setattr(training, "load_scorer", None)  # nothing is left to judge
    training.judge_again(tmp_path, "lexical", ("long",))
    found = training.read({"arm": tmp_path}, "lexical")
    assert found["arm:base"]["second_mean"] == {"long": {"1": 1.0}}
    assert "second_mean" not in training.read({"arm": tmp_path})["arm:base"]
