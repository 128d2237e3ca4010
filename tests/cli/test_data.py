import json

import pytest

from tests.training.conftest import DOCUMENTS, QUESTIONS
from tests.training.test_endpoint import completion, server  # noqa: F401 (a fixture)


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source.jsonl"
    rows = [
        {"id": str(i), "question": q, "documents": DOCUMENTS, "answer": a} for i, (q, a, _) in enumerate(QUESTIONS)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def options(source, output, *more):
    return ["data", "unfaithful", "--input", source, "--output", output, "--max-new-tokens", 8, *more]


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_samples_are_written_with_their_summary(run, model_options, source, tmp_path):
    output = tmp_path / "out.jsonl"
    keep = ["--keep", "unfinished", "--keep", "degenerate", "--scorer", "none"]
    code, _, err = run(*options(source, output, "--top", 4, *keep, *model_options))
    assert code == 0, err
    assert f"{output}: {len(lines(output))} of 4 samples kept" in err
    assert "sampling unfaithful answers: 4/4" in err
    made = lines(output)[0]["made"]
    assert (made["masked_heads"], made["head_set"]["method"]) == (4, "copying")
    code, _, err = run(*options(source, output, "--top", 4, *keep, *model_options))
    assert code == 2
    assert "--resume" in err
    code, _, err = run(*options(source, output, "--top", 4, "--resume", *keep, *model_options))
    assert code == 0
    assert run(*options(source, output, "--top", 5, "--resume", *keep, *model_options))[0] == 2


def test_the_control_masks_as_many_random_heads(run, model_options, source, tmp_path):
    keep = ["--keep", "unfinished", "--keep", "degenerate", "--scorer", "none"]
    for name, more in (("a", []), ("b", ["--random-heads", 7])):
        code, _, err = run(
            *options(source, tmp_path / f"{name}.jsonl", "--threshold", 0.5, *more, *keep, *model_options)
        )
        assert code == 0, err
    first, control = (lines(tmp_path / f"{name}.jsonl")[0]["made"] for name in "ab")
    assert first["masked_heads"] == control["masked_heads"]
    assert control["head_set"]["method"] == "random(copying)"


def test_a_server_of_a_baked_model_samples(run, model_options, tiny_heads, tiny_folder, source, tmp_path, server):  # noqa: F811
    server.handler = lambda body: (200, completion("Nobody knows."))
    bake = ["--heads", tiny_heads[1], "--top", 3, "--model", tiny_folder, "--dtype", "float32"]
    assert run("heads", "bake", "--output", tmp_path / "baked", *bake)[0] == 0
    more = ["--endpoint", server.url, "--model", tmp_path / "baked", "--scorer", "none"]
    code, _, err = run(*options(source, tmp_path / "out.jsonl", *more))
    assert code == 0, err
    rows = lines(tmp_path / "out.jsonl")
    assert {row["unfaithful"] for row in rows} == {"Nobody knows."}
    assert rows[0]["made"]["masked_heads"] == 3
    assert len(server.asked) == 4


def test_bad_input_is_one_line_and_exit_code_2(run, model_options, source, tiny_heads, tiny_folder, tmp_path):
    output = tmp_path / "out.jsonl"
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    wrong = tmp_path / "wrong.jsonl"
    wrong.write_text('{"text": "x"}\n')
    for arguments, message in (
        (options(empty, output, *model_options), "is empty"),
        (options(wrong, output, *model_options), "has no 'question'"),
        (options(tmp_path / "none.jsonl", output, *model_options), "there is no file"),
        (options(source, tmp_path / "no" / "out.jsonl", *model_options), "there is no folder"),
        (options(source, output, "--top", 3, "--share", 0.1, *model_options), "only one of them"),
        (options(source, output, "--threshold", 5, *model_options), "no head has a score"),
        (options(source, output, "--keep", "empty", *model_options), "no filter 'empty'"),
        (options(source, output, "--scorer", "magic", *model_options), "no scorer 'magic'"),
        (
            options(source, output, "--endpoint", "http://127.0.0.1:9/v1", "--model", tiny_folder, "--scorer", "none"),
            "endpoint",
        ),
    ):
        code, _, err = run(*arguments)
        assert code == 2, message
        assert message in err.splitlines()[-1]
        assert not output.exists()
