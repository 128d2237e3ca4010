import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.report.parsing import Page

ASK = ["generate", "What was first lit?", "--max-new-tokens", "6"]


def test_text_output_holds_answer_table_and_doubt(run, model_options, documents):
    code, out, _ = run(*ASK, "--documents", documents, *model_options)
    assert code == 0
    assert all(name in out for name in ("kept", "Lighthouse", "Ferry", "Tram", "Doubt: "))
    answer = out.split("\n\n")[0]
    code, again, _ = run(*ASK, "--documents", documents, "--no-stream", *model_options)
    assert again.split("\n\n")[0].strip() == answer.strip()


def test_json_output_is_one_object_with_every_document(run, model_options, documents):
    code, out, err = run(*ASK, "--documents", documents, "--format", "json", "--keep", 1, *model_options)
    answer = json.loads(out)
    assert code == 0
    assert [d["id"] for d in answer["documents"]] == ["a", "b", "c"]
    assert sum(d["kept"] for d in answer["documents"]) == 1
    assert all(isinstance(d["score"], float) for d in answer["documents"])
    assert len(answer["tokens"]) == answer["timings"]["new_tokens"] <= 6
    assert {"logprob", "jsd", "context_share"} <= answer["tokens"][0].keys()
    assert answer["settings"]["contrast"]["source"] == "heads"
    assert "Traceback" not in err


def test_report_shows_the_answer_that_is_printed(run, model_options, documents, tmp_path):
    path = tmp_path / "answer.html"
    asked = [*ASK, "--documents", documents, "--keep", 2, "--contrast", "heads"]
    plain = run(*asked, *model_options)[1]
    code, out, err = run(*asked, "--report", path, *model_options)
    assert code == 0
    assert out == plain
    assert f"report written to {path}" in err
    page = Page(path.read_text(encoding="utf-8"))
    assert page.texts("h1") == ["What was first lit?"]
    assert page.texts(id="answer")[0].split() == out.split("\n\n")[0].split()
    kept = [line.split()[2] for line in out.splitlines() if line.startswith("kept")]
    assert len(page.find("li", kind="kept")) == len(kept) >= 1
    assert len(page.find("svg", kind="map")) == 2
    data = json.loads(page.texts(id="data")[0])
    assert all([name for name, _ in token["branches"]] == ["faithful", "unfaithful"] for token in data["tokens"])
    assert data["sentences"][0]

    path.write_text("an older report")
    _, out, _ = run(*asked, "--report", path, "--format", "json", *model_options)
    answer = json.loads(out)
    assert answer["explanation"]["passages"]
    assert len(answer["tokens"]) == len(data["tokens"])
    assert len(Page(path.read_text(encoding="utf-8")).find(kind="document")) == 3


def test_no_filter_keeps_all_in_order(run, model_options, documents):
    _, out, _ = run(*ASK, "-d", documents, "--no-filter", "--contrast", "none", "--format", "json", *model_options)
    answer = json.loads(out)
    assert answer["prompt_order"] == ["a", "b", "c"]
    assert all(d["score"] is None and d["kept"] for d in answer["documents"])
    assert answer["tokens"][0]["jsd"] is None


def test_seed_decides_a_sampled_answer(run, model_options, documents):
    def ask(seed):
        options = ["--temperature", 2, "--seed", seed, "--format", "json"]
        return [t["id"] for t in json.loads(run(*ASK, "-d", documents, *options, *model_options)[1])["tokens"]]

    assert ask(1) == ask(1) != ask(2)


def test_random_heads_is_a_control(run, model_options, documents):
    _, out, _ = run(*ASK, "-d", documents, "--format", "json", "--random-heads", 7, *model_options)
    assert json.loads(out)["settings"]["heads"]["scoring"] == "random(query_focused)"


def test_terminal_escapes_in_documents_are_not_printed(run, model_options, tmp_path):
    path = tmp_path / "d.jsonl"
    rows = [{"text": "\x1b[31mred\x1b]0;title\x07 [bold]x[/bold]", "title": "\x1b[2J"}, {"text": "plain \u202e text"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, _ = run(*ASK, "-d", path, *model_options)
    assert code == 0
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert "[bold]x[/bold]" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["generate", "  ", "-d", "{documents}"], "question is empty"),
        (["generate", "q"], "no documents given"),
        (["generate", "q", "-d", "{missing}"], "missing"),
        (["generate", "q", "-d", "{empty}"], "empty"),
        (["generate", "q", "-d", "{binary}"], "UTF-8"),
        (["generate", "q", "-d", "{fieldless}"], "line 2"),
        (["generate", "q", "-d", "{documents}", "--alpha", "nan"], "alpha"),
        (["generate", "q", "-d", "{documents}", "--alpha", "-1"], "alpha"),
        (["generate", "q", "-d", "{documents}", "--contrast", "odd"], "contrast"),
        (["generate", "q", "-d", "{documents}", "--contrast", "control"], "control token"),
        (["generate", "q", "-d", "{documents}", "--top-p", "0"], "top_p"),
        (["generate", "q", "-d", "{documents}", "--temperature", "inf"], "temperature"),
        (["generate", "q", "-d", "{documents}", "--keep", "0"], "keep"),
        (["generate", "q", "-d", "{documents}", "--max-new-tokens", "0"], "max_new_tokens"),
        (["generate", "q", "-d", "{documents}", "--max-new-tokens", "2000"], "window"),
        (["generate", "q", "-d", "{documents}", "--format", "xml"], "text or json"),
        (["heads", "show", "copying", "--format", "yaml"], "text or json"),
        (["generate", "q", "-d", "{documents}", "--heads", "{missing}"], "heads detect"),
        (["generate", "q", "-d", "{documents}", "--heads", "{documents}"], "head set"),
        (["generate", "q", "-d", "{documents}", "--heads", "{other}"], "heads detect"),
        (["generate", "q", "-d", "{documents}", "--model", "{missing}/model"], "model"),
        (["generate", "q", "-d", "{documents}", "--dtype", "int3"], "dtype"),
        (["generate", "--input", "{missing}", "--output", "{fresh}"], "--input"),
        (["generate", "--input", "{documents}"], "--output"),
        (["generate", "--input", "{documents}", "--output", "{nowhere}/x.jsonl"], "--output"),
        (["generate", "--input", "{documents}", "--output", "{documents}"], "--resume"),
        (["generate", "--input", "{documents}", "--output", "{empty}", "-d", "{documents}"], "--documents"),
        (["generate", "q", "--output", "{fresh}", "-d", "{documents}"], "--input"),
        (["generate", "--input", "{documents}", "--output", "{fresh}", "--report", "{fresh}"], "one question"),
        (["generate", "q", "-d", "{documents}", "--report", "{nowhere}/x.html"], "--report"),
        (["generate", "q", "-d", "{documents}", "--report", "{folder}"], "is a folder"),
        (["rank", " ", "-d", "{documents}"], "empty"),
        (["rank", "q", "-d", "{documents}", "--plot", "{fresh}.jpg"], ".png or .svg"),
        (["rank", "q", "-d", "{documents}", "--plot", "{nowhere}/x.png"], "--plot"),
        (["heads", "show", "copying", "--plot", "{fresh}.pdf"], ".png or .svg"),
        (["heads", "show", "{missing}"], "head set"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(run, model_options, documents, tmp_path, arguments, words):
    from faithgen import HeadSet

    files = {name: tmp_path / name for name in ("missing", "nowhere", "fresh")}
    files |= {
        "folder": tmp_path,
        "documents": documents,
        "empty": tmp_path / "empty.jsonl",
        "binary": tmp_path / "binary.txt",
    }
    files |= {"fieldless": tmp_path / "fieldless.jsonl", "other": tmp_path / "other.json"}
    files["empty"].write_text("")
    files["binary"].write_bytes(b"\xff\xfe\x00\x01" * 40)
    files["fieldless"].write_text('{"text": "x"}\n{"title": "y"}\n')
    HeadSet([[0.1] * 8] * 5, "query_focused", "other-model").save(files["other"])
    before = sorted(tmp_path.iterdir())
    given = [argument.format(**files) for argument in arguments]
    rest = [] if given[0] == "heads" else [str(option) for option in model_options]
    if "--model" in given:
        rest = rest[2:]
    if "--dtype" in given:
        rest = rest[:-2]
    code, out, err = run(*given, *rest)
    assert code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert words in err
    assert sorted(tmp_path.iterdir()) == before


def rows_file(tmp_path, count):
    path = tmp_path / "questions.jsonl"
    with path.open("w") as stream:
        for i in range(count):
            documents = [{"id": str(k), "text": f"Stop {k} of line {i} was built in {1800 + k}."} for k in range(3)]
            stream.write(
                json.dumps({"id": f"q{i}", "question": f"When was line {i} built?", "documents": documents}) + "\n"
            )
    return path


def test_batch_writes_a_row_for_each_row_and_goes_on_after_bad_ones(run, model_options, tmp_path):
    path = rows_file(tmp_path, 5)
    lines = path.read_text().splitlines()
    lines[1] = "{not json"
    lines[3] = json.dumps({"id": "empty", "question": "x", "documents": []})
    path.write_text("\n".join(lines) + "\n")
    output = tmp_path / "answers.jsonl"
    code, _, err = run("generate", "-i", path, "-o", output, "--max-new-tokens", 3, "--batch-size", 2, *model_options)
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert code == 1
    assert [row["line"] for row in rows] == [1, 2, 3, 4, 5]
    assert ["error" in row for row in rows] == [False, True, False, True, False]
    assert rows[1]["error"].startswith("line 2: ")
    assert "3 answered, 2 failed" in err
    # the same run again has nothing left to do
    before = output.read_bytes()
    code, _, err = run("generate", "-i", path, "-o", output, "--resume", "--max-new-tokens", 3, *model_options)
    assert code == 1
    assert output.read_bytes() == before


def test_documents_of_a_row_may_be_a_path_beside_the_input_but_not_outside(run, model_options, documents, tmp_path):
    path = tmp_path / "in.jsonl"
    rows = [{"question": "q", "documents": documents.name}, {"question": "q", "documents": "../../etc/passwd"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    output = tmp_path / "out.jsonl"
    assert run("generate", "-i", path, "-o", output, "--max-new-tokens", 2, *model_options)[0] == 1
    first, second = [json.loads(line) for line in output.read_text().splitlines()]
    assert len(first["documents"]) == 3
    assert "outside" in second["error"]


def test_resume_refuses_the_output_of_another_input(run, model_options, tmp_path):
    path = rows_file(tmp_path, 2)
    output = tmp_path / "answers.jsonl"
    output.write_text('{"line": 1, "question": "something else"}\n')
    code, _, err = run("generate", "-i", path, "-o", output, "--resume", *model_options)
    assert code == 2
    assert "no answers to this --input" in err
    assert output.read_text() == '{"line": 1, "question": "something else"}\n'


def test_a_killed_run_resumes_with_no_row_lost_or_doubled(model_options, tmp_path):
    path = rows_file(tmp_path, 40)
    output = tmp_path / "answers.jsonl"
    command = [sys.executable, "-m", "faithgen", "generate", "-i", path, "-o", output, "--batch-size", "1"]
    command = [*map(str, command), "--max-new-tokens", "8", *map(str, model_options)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    killed = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment)
    deadline = time.monotonic() + 120
    while killed.poll() is None and time.monotonic() < deadline:
        if output.exists() and output.read_bytes().count(b"\n") >= 3:
            killed.send_signal(signal.SIGKILL)
            break
        time.sleep(0.01)
    assert killed.wait() == -signal.SIGKILL
    written = output.read_bytes()
    assert 3 <= written.count(b"\n") < 40
    with output.open("ab") as stream:  # what a kill in the middle of a write leaves
        stream.write(b'{"line": 39, "id": "q38", "answ')
    finished = subprocess.run([*command, "--resume"], capture_output=True, env=environment, check=False)
    assert finished.returncode == 0, finished.stderr.decode()
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["id"] for row in rows] == [f"q{i}" for i in range(40)]
    assert output.read_bytes().startswith(written)


def test_help_does_not_load_torch():
    check = (
        "import sys, faithgen.cli as c\ntry:\n    c.app(['--help'])\nexcept SystemExit:\n    pass\n"
        "bad = {'torch', 'transformers', 'matplotlib', 'numpy', 'jinja2', 'faithgen.report'} & set(sys.modules)\n"
        "sys.exit(f'loaded {bad}' if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.default_model
def test_the_demo_question_is_answered_from_its_document(default_generator):
    from faithgen.documents import read_documents
    from tests.conftest import ROOT

    question = (ROOT / "examples/README.md").read_text().split("```")[1].strip()
    answer = default_generator.generate(question, read_documents(ROOT / "examples/documents"), max_new_tokens=32)
    best = max(answer.documents, key=lambda document: document.score)
    assert "Benedikta Orne" in answer.text
    assert "Benedikta Orne" in best.text
    assert best.kept
    assert not all(document.kept for document in answer.documents)
