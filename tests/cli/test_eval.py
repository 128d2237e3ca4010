import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.evaluation.running import read, row, rows_file, run_folder, without_times


@pytest.fixture
def data(tmp_path):
    return rows_file(tmp_path / "data.jsonl", 6)


@pytest.fixture
def ask(run, model_options, data, tmp_path):
    """`ask("--methods", "base")`: a run on the rows by hand, into a fresh folder."""

    def call(*arguments, output="out"):
        given = ["--dataset", data, "--output", tmp_path / output, "--max-new-tokens", 4, *arguments, *model_options]
        return run("eval", *given)

    return call


def test_a_run_writes_rows_and_reports(ask, tmp_path):
    code, out, err = ask("--methods", "base,cafe,heads@0.5,heads:random", "--limit", 4)
    assert code == 0
    assert out.strip() == str(tmp_path / "out/report.md")
    assert "16 rows answered, 0 failed, 0 skipped" in err
    rows = read(tmp_path / "out/rows.jsonl")
    assert [row["method"] for row in rows[::4]] == ["base", "cafe", "heads@0.5", "heads:random"]
    record = json.loads((tmp_path / "out/run.json").read_text())
    assert record["methods"]["heads@0.5"]["contrast"]["alpha"] == 0.5
    assert record["methods"]["heads:random"]["random_heads"] == 0
    assert record["scorer"]["name"] == "lexical"
    assert record["runs"][0]["command"][1] == "eval"
    assert "heads:random" in (tmp_path / "out/report.html").read_text()


def test_options_reach_the_run(ask, tmp_path):
    code, _, err = ask(
        *("--methods", "cafe,heads", "--baseline", "heads", "--scorer", "none", "--alpha", 0.7, "--seed", 5),
        *("--limit", 2, "--skip", 1, "--instruction", "Sing.", "--batch-size", 3),
    )
    assert code == 0, err
    record = json.loads((tmp_path / "out/run.json").read_text())
    settings = record["settings"]
    assert (settings["alpha"], settings["seed"], settings["limit"], settings["skip"]) == (0.7, 5, 2, 1)
    assert (settings["scorer"], settings["instruction"], record["baseline"]) == (None, "Sing.", "heads")
    assert record["methods"]["heads"]["contrast"]["alpha"] == 0.7
    assert all(row["scorer"] is None for row in read(tmp_path / "out/rows.jsonl"))


def test_rerank_has_methods_of_its_own(run, model_options, tmp_path):
    hits = [
        {"docid": f"d{k}", "rank": k, "score": 9.0 - k, "relevance": k % 4, "text": f"Passage {k}."}
        for k in range(1, 7)
    ]
    path = tmp_path / "dl19.jsonl"
    path.write_text("".join(json.dumps({"qid": str(q), "query": f"passage {q}", "hits": hits}) + "\n" for q in (2, 3)))
    given = [
        "--dataset",
        "trec_dl19",
        "--data",
        path,
        "--output",
        tmp_path / "out",
        "--methods",
        "heads,icr,heads:random,bm25",
    ]
    code, _, err = run("eval", *given, *model_options)
    assert code == 0, err
    rows = read(tmp_path / "out/rows.jsonl")
    assert len(rows) == 8
    assert all(0 <= row["metrics"]["ndcg@10"] <= 1 for row in rows)
    assert [entry["id"] for entry in rows[-1]["ranking"]] == [f"d{k}" for k in range(1, 7)]


def test_some_sets_of_a_suite_are_run_as_the_suite_runs_them(run, tmp_path):
    texts = [f"Passage {k} of the sea." for k in range(4)]
    paragraphs = [{"title": f"T{k}", "text": text, "is_supporting": k == 1} for k, text in enumerate(texts)]
    row = {"id": "a", "question": "Which passage?", "answer": "sea", "paragraphs": paragraphs}
    (tmp_path / "hotpotqa").mkdir()
    (tmp_path / "hotpotqa/dev.jsonl").write_text(json.dumps(row) + "\n")
    given = ["--suite", "rerank", "--dataset", "hotpotqa", "--data", tmp_path, "--output", tmp_path / "out"]
    code, _, err = run("eval", *given, "--methods", "bm25")
    assert code == 0, err
    rows = read(tmp_path / "out/rows.jsonl")
    assert [row["dataset"] for row in rows] == ["hotpotqa"]
    assert "ndcg@10" in rows[0]["metrics"]


def test_failed_rows_give_exit_code_1(ask, data):
    lines = [json.loads(line) for line in data.read_text().splitlines()]
    lines[1]["question"] = "why? " * 2000
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, _, err = ask("--methods", "base")
    assert code == 1
    assert "1 of 6 rows failed" in err
    assert "5 rows answered, 1 failed" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "nothing to evaluate"),
        (["--suite", "odd"], "suite 'odd' is not known; use one of groundbench"),
        (["--suite", "multidoc", "--dataset", "{data}"], "is no set of multidoc, which has nq_hard"),
        (["--suite", "multidoc", "--data", "{missing}"], "does not exist"),
        (["--suite", "multidoc", "--data", "{empty}"], "no set of multidoc is at hand"),
        (["--dataset", "odd"], "'odd' is not known; give one of"),
        (["--dataset", "nq_hard", "--data", "{missing}"], "does not exist"),
        (["--dataset", "nq_hard:odd=1", "--data", "{empty}"], "no option 'odd'"),
        (["--dataset", "rgb:altered=odd", "--data", "{empty}"], "altered of rgb is 'odd'; give true or false"),
        (["--dataset", "{missing}.jsonl"], "does not exist"),
        (["--dataset", "{blank}"], "no usable row"),
        (["--dataset", "{unusable}"], "no usable row"),
        (["--dataset", "{broken}"], "line 1 is not valid JSON"),
        (["--dataset", "nq_hard", "--dataset", "scifact"], "evaluate them apart"),
        (["--dataset", "{data}", "--methods", "odd"], "method 'odd' is not known"),
        (["--dataset", "{data}", "--methods", ","], "names no method"),
        (["--dataset", "{data}", "--methods", "base@0.5"], "no contrast"),
        (["--dataset", "{data}", "--methods", "heads", "--alpha", "nan"], "alpha"),
        (["--dataset", "{data}", "--methods", "rhio"], "rhio cannot run: the model has no control tokens"),
        (["--dataset", "{data}", "--baseline", "full", "--methods", "base"], "'full' is not among"),
        (["--dataset", "{data}", "--scorer", "odd"], "no scorer 'odd'"),
        (["--dataset", "{data}", "--scorer", "nli:{missing}/model"], "missing/model"),
        (["--dataset", "{data}", "--choice-style", "odd"], "completion or chat"),
        (["--dataset", "{data}", "--ray", "0"], "--ray is 0"),
        (["--dataset", "{data}", "--heads", "{missing}"], "heads detect"),
        (["--dataset", "{data}", "--output", "{data}"], "cannot write --output"),
        (["--dataset", "{data}", "--output", "{full}"], "is not empty and holds no run"),
        (["--dataset", "{data}", "--output", "{used}"], "holds another run; add --resume"),
        (["--dataset", "{data}", "--output", "{used}", "--resume"], "holds a run with other settings"),
        (["--compare", "{used}", "{missing}"], "holds no run"),
        (["--compare", "{used}", "{apart}"], "different questions"),
        (["--compare", "{used}", "{used}", "--suite", "niah"], "stands alone"),
        (["--compare", "{used}", "{used}", "--lm-eval", "x"], "stands alone"),
        (["--lm-eval", "faithgen_nq_swap", "--data", "{empty}"], "no nq_swap/dev.jsonl"),
        (["--lm-eval", "faithgen_nq_swap", "--data", "{empty}", "--methods", "base,heads"], "one method and 2"),
        (["--lm-eval", "faithgen_nq_swap", "--data", "{broken}"], "line 1 is not valid JSON"),
        (["--lm-eval", "faithgen_nq_swap", "--data", "{blank}"], "no usable row"),
        (["--lm-eval", ","], "no lm-eval task"),
        (["--lm-eval", "faithgen_nq_swap", "--resume"], "in one go"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(run, model_options, data, tmp_path, monkeypatch, arguments, words):
    if "--lm-eval" in arguments:
        pytest.importorskip("lm_eval", reason="pip install lm-eval")
    monkeypatch.delenv("FAITHGEN_SHARED_DATA", raising=False)
    files = {name: tmp_path / name for name in ("missing", "empty", "full", "used", "apart")}
    files |= {name: tmp_path / f"{name}.jsonl" for name in ("blank", "unusable", "broken")} | {"data": data}
    files["empty"].mkdir()
    files["full"].mkdir()
    (files["full"] / "thesis.txt").write_text("mine")
    run_folder(files["used"], [row(i, "base", 1.0) for i in range(4)])
    run_folder(files["apart"], [row(i, "base", 1.0) for i in range(4, 8)])
    files["blank"].write_text("\n")
    files["unusable"].write_text('{"question": "?", "documents": []}\n')
    files["broken"].write_text("{\n")
    before = sorted(path for path in tmp_path.rglob("*"))
    given = [argument.format(**files) for argument in arguments]
    if "--output" not in given and "--compare" not in given:
        given += ["--output", tmp_path / "fresh"]
    rest = model_options[:2] if "--heads" in given else model_options
    code, out, err = run("eval", *given, *rest)
    assert code == 2, err
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    assert words in err
    assert sorted(path for path in tmp_path.rglob("*") if path.name != ".lock") == before


def test_output_is_needed(run, data):
    assert run("eval", "--dataset", data)[::2] == (2, "error: no --output; give a folder for rows and report\n")


def test_compare_prints_paired_differences(run, tmp_path):
    for name, shift in (("first", 0), ("second", 1)):
        rows = [row(i, "base", float((i + shift) % 3 == 0)) for i in range(12)]
        run_folder(tmp_path / name, rows, methods=("base",), settings={"methods": ["base"], "seed": shift})
    code, out, err = run("eval", "--compare", tmp_path / "first", tmp_path / "second")
    assert code == 0
    assert "seed was 0 and is 1" in err
    assert "p is two-sided, after Holm's correction over the 3 comparisons of the table" in err
    assert "p (Holm)" in out
    line = next(line for line in out.splitlines() if "sub_em" in line)
    assert "+0.000 [" in line
    assert "0.333 [" in line


def test_lm_eval_prints_a_table_and_keeps_the_samples(run, model_options, tmp_path):
    pytest.importorskip("lm_eval", reason="pip install lm-eval")
    folder = tmp_path / "data/memotrap"
    folder.mkdir(parents=True)
    lines = [
        {
            "task": "1",
            "id": i,
            "prompt": f'End in "late": Better {i}',
            "classes": [" late.", " never."],
            "answer_index": 0,
        }
        for i in range(3)
    ]
    (folder / "memotrap.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    given = ["--lm-eval", "faithgen_memotrap", "--data", tmp_path / "data", "--methods", "heads@2", "--limit", 2]
    code, out, err = run("eval", *given, "--output", tmp_path / "out", *model_options)
    assert code == 0, err
    assert "faithgen_memotrap" in out
    assert "acc" in out
    results = json.loads((tmp_path / "out/lm_eval.json").read_text())
    assert len(results["samples"]["faithgen_memotrap"]) == 2
    assert results["config"]["faithgen_alpha"] == 2


def test_a_killed_run_resumes_with_no_row_lost_or_doubled(ask, model_options, data, tmp_path):
    rows_file(data, 30)
    output = tmp_path / "out/rows.jsonl"
    command = [
        sys.executable,
        "-m",
        "faithgen",
        "eval",
        "--dataset",
        data,
        "--output",
        tmp_path / "out",
        "--batch-size",
        1,
    ]
    command = [*map(str, command), "--methods", "base,heads", "--max-new-tokens", "4", *map(str, model_options)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    killed = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment)
    deadline = time.monotonic() + 120
    while killed.poll() is None and time.monotonic() < deadline:
        if output.exists() and output.read_bytes().count(b"\n") >= 3:
            killed.send_signal(signal.SIGKILL)
            break
        time.sleep(0.005)
    assert killed.wait() == -signal.SIGKILL
    written = output.read_text()
    whole = written[: written.rfind("\n") + 1].splitlines()
    assert 3 <= len(whole) < 60
    with output.open("a") as stream:  # what a kill in the middle of a write leaves
        stream.write('{"dataset": "x", "id": "q3", "answ')
    finished = subprocess.run([*command, "--resume"], capture_output=True, env=environment, check=False)
    assert finished.returncode == 0, finished.stderr.decode()
    lines = output.read_text().splitlines()
    assert len(lines) == 60
    assert set(whole) <= set(lines)  # kept byte for byte
    ask("--methods", "base,heads", "--batch-size", 1, output="whole")
    assert without_times(read(output)) == without_times(read(tmp_path / "whole/rows.jsonl"))


def test_help_does_not_load_torch():
    check = (
        "import sys, faithgen.cli as c\ntry:\n    c.app(['eval', '--help'])\nexcept SystemExit:\n    pass\n"
        "bad = {'torch', 'transformers', 'matplotlib', 'numpy', 'jinja2'} & set(sys.modules)\n"
        "sys.exit(f'loaded {bad}' if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
