import json

import pytest
import torch

from faithgen import HeadSet
from tests.conftest import ROOT


def test_rank_prints_best_first(run, model_options, documents):
    code, out, _ = run("rank", "What was lit?", "-d", documents, "--format", "json", *model_options)
    rows = json.loads(out)
    assert code == 0
    assert sorted(row["id"] for row in rows) == ["a", "b", "c"]
    assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)
    _, out, _ = run("rank", "What was lit?", "-d", documents, "--top-k", 1, *model_options)
    assert rows[0]["title"] in out
    assert rows[2]["title"] not in out


def test_rank_detects_no_heads_that_it_does_not_use(run, model_options, documents, tiny_folder, monkeypatch):
    from faithgen.heads import resolve

    sets, asked = [HeadSet.load(option) for option in model_options if str(option).endswith(".json")], []

    def automatic(loaded, method, *arguments):
        asked.append(method)
        return next(one for one in sets if one.method == method)

    monkeypatch.setattr(resolve, "_automatic", automatic)
    assert run("rank", "What was lit?", "-d", documents, "--model", tiny_folder, "--dtype", "float32")[0] == 0
    assert asked == [resolve.SCORING]


def test_rank_draws_the_scores_that_it_prints(run, model_options, documents, tmp_path):
    plot = tmp_path / "rank.png"
    asked = ["rank", "What was lit?", "-d", documents, "--format", "json", *model_options]
    code, out, err = run(*asked, "--refine", 2, "--plot", plot)
    assert code == 0
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert f"drawn to {plot}" in err
    rows = json.loads(out)
    assert all(isinstance(row["coarse_score"], float) for row in rows)
    assert [row.get("fine_score") for row in rows[:2]] == [row["score"] for row in rows[:2]]
    assert "fine_score" not in rows[2]
    run(*asked, "--refine", 0, "--plot", tmp_path / "coarse.png")
    assert (tmp_path / "coarse.png").read_bytes() != plot.read_bytes()


def test_detect_show_and_plot(run, tiny_folder, tmp_path):
    output, plot = tmp_path / "heads.json", tmp_path / "heads.png"
    data = ROOT / "tests/data/tiny_qa.jsonl"
    code, out, err = run("heads", "detect", "-o", output, "--data", data, "--model", tiny_folder, "--dtype", "float32")
    assert code == 0
    assert "8 instances used" in out
    assert "only 8 instances" in err
    found = HeadSet.load(output)
    assert (found.method, found.model_id, found.used, found.data) == ("query_focused", "tiny", 8, "tiny_qa.jsonl")
    code, out, _ = run("heads", "show", output, "--plot", plot, "--top", 3)
    assert code == 0
    assert plot.read_bytes().startswith(b"\x89PNG")
    best = found.top(1)[0]
    assert f"{best[0]}-{best[1]}" in out
    assert json.loads(run("heads", "show", output, "--format", "json")[1])["used"] == 8
    assert run("heads", "show", output, "--plot", tmp_path / "heads.svg")[0] == 0
    assert (tmp_path / "heads.svg").read_bytes().startswith(b"<?xml")


def test_bake_writes_a_checkpoint_that_equals_the_mask(run, tiny_folder, tiny_heads, tmp_path):
    from transformers import AutoModelForCausalLM

    from faithgen import mask_heads

    folder = tmp_path / "baked"
    arguments = ["--heads", tiny_heads[1], "--top", 3, "-o", folder, "--model", tiny_folder, "--dtype", "float32"]
    assert run("heads", "bake", *arguments)[0] == 0
    baked = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    whole = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    ids = torch.arange(5, 40)[None]
    with mask_heads(whole, HeadSet.load(tiny_heads[1]).top(3)):
        expected = whole(ids).logits
    assert torch.equal(baked(ids).logits, expected)
    assert not torch.equal(whole(ids).logits, expected)
    assert json.loads((folder / "faithgen_mask.json").read_text())["model_id"] == "tiny"
    code, _, err = run("heads", "bake", *arguments)
    assert code == 2
    assert "exists" in err


def test_bake_masks_what_sampling_would_mask_and_says_how_to_do_it_again(run, tiny_folder, tiny_heads, tmp_path):
    copying = HeadSet.load(tiny_heads[1])
    control = copying.random_like(7)
    for name, arguments, expected in (
        ("default", [], copying.top(2)),  # 5 % of 32
        ("share", ["--share", 0.25], copying.top(8)),
        ("threshold", ["--threshold", 0.5], copying.above(0.5)),
        ("random", ["--top", 3, "--random-heads", 7], control.top(3)),
    ):
        options = ["--heads", tiny_heads[1], "--model", tiny_folder, "--dtype", "float32", *arguments]
        code, _, err = run("heads", "bake", "--output", tmp_path / name, *options)
        assert code == 0, err
        record = json.loads((tmp_path / name / "faithgen_mask.json").read_text())
        assert [tuple(head) for head in record["heads"]] == expected
    assert record["seed"] == 7
    assert (record["method"], record["data"]) == ("random(copying)", copying.data)
    for arguments, message in (
        (["--top", 3, "--share", 0.1], "only one of them"),
        (["--share", 2], "share is 2"),
        (["--threshold", 5], "no head has a score"),
    ):
        options = ["--heads", tiny_heads[1], "--model", tiny_folder, "--dtype", "float32", *arguments]
        code, _, err = run("heads", "bake", "--output", tmp_path / "none", *options)
        assert code == 2
        assert message in err.splitlines()[-1]
        assert not (tmp_path / "none").exists()


def test_detect_refuses_an_output_that_cannot_be_written(run, tiny_folder, tmp_path):
    code, _, err = run("heads", "detect", "-o", tmp_path / "no" / "heads.json", "--model", tiny_folder)
    assert code == 2
    assert "--output" in err


@pytest.mark.parametrize("method", ["copying", "query_focused"])
def test_the_shipped_head_sets_carry_their_provenance(run, method):
    code, out, _ = run("heads", "show", method, "--format", "json")
    shipped = json.loads(out)
    assert code == 0
    assert shipped["method"] == method
    assert shipped["used"] >= 20
    assert shipped["revision"]
    assert shipped["data"]
    assert (len(shipped["scores"]), len(shipped["scores"][0])) == (30, 9)
