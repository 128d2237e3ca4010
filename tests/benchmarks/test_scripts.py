"""Each script of the speed table runs on a tiny shape; its table and its JSON line say what was measured."""

import pytest
import torch


@pytest.fixture
def compilations(monkeypatch):
    """Steps that would have been compiled; they run as they are."""
    made = []

    def compile_nothing(function, **_):
        made.append(function)
        return function

    monkeypatch.setattr(torch, "compile", compile_nothing)
    return made


def test_decode_divides_each_way_by_its_own_plain(run, compilations):
    arguments = ["--tokens", 40, "--new", 5, "--repeats", 2, "--dtype", "float32", "--compiled"]
    _, rows, figures = run("decode", *arguments)
    time, ratio = figures["ms_per_token"], figures["over_plain"]
    assert set(rows) - {"way"} - set(time) == {"-" * 23}
    for name in ("pair", "heads", "rows", "loop", "pair with context share", "guidance"):
        assert ratio[name] == pytest.approx(time[name] / time["plain"])
    for name in ("pair compiled", "heads compiled"):
        assert ratio[name] == pytest.approx(time[name] / time["plain compiled"])
    for name in ("pair", "pair compiled"):
        assert figures["over_guidance"][name] == pytest.approx(time["guidance"] / time[name])
        assert rows[name][-1] == "≥ 2.0"
    assert rows["heads compiled"][2] == "≤ 1.25"
    assert all(figures["same_tokens"].values())
    assert {"heads", "heads compiled", "guidance", "plain compiled"} <= set(figures["same_tokens"])
    assert len(compilations) == 3, "a way is compiled once, not in each round"
    assert figures["machine"]["threads"] >= 1


def test_decode_brings_what_a_way_is_divided_by(run, compilations):
    _, _, figures = run("decode", "--tokens", 20, "--new", 4, "--repeats", 1, "--compiled", "--ways", "pair compiled")
    assert list(figures["ms_per_token"]) == ["plain", "plain compiled", "pair compiled"]
    assert figures["over_guidance"] == {}


def test_prefill_with_heads_down_to_a_depth(run):
    out, rows, figures = run("prefill", "--tokens", 200, "--repeats", 1, "--heads", 16)
    assert "16 scoring heads, the deepest in layer 2 of 5" in out
    assert figures["depth"] == 0.6
    assert rows["scoring"][2] == "≤ 0.68"
    found = figures["figures"]["200"]
    assert set(found["seconds"]) == {
        *("plain", "scoring", "calibrated", "ranking", "second question", "output_attentions")
    }
    assert found["second_question_hits"] == 1
    assert found["tokens_read"]["second question"] < found["tokens_read"]["ranking"]
    assert found["second_over_first"] == pytest.approx(
        found["seconds"]["second question"] / found["seconds"]["ranking"]
    )
    assert found["tokens_read"]["ranking"] > found["prompt_tokens"] - 60, "the first question finds nothing kept"
    assert found["eager_extra_mib"] > 0


def test_prefill_keeps_nothing_where_no_memory_is_given(run):
    _, rows, figures = run("prefill", "--tokens", 100, "--repeats", 1, "--kept-mib", 0, "--no-eager")
    found = figures["figures"]["100"]
    assert found["second_question_hits"] == 0
    assert "output_attentions" not in rows
    assert "eager_extra_mib" not in found


def test_the_ways_of_prefill_read_the_same_attention(module, tiny_folder):
    prefill, shapes, common = module("prefill"), module("shapes"), module("common")
    loaded, scoring, _ = shapes.load(tiny_folder, "tiny", "float32")
    heads = shapes.heads_to_depth(scoring, 5, 0.6)
    builder = prefill.PromptBuilder(loaded.tokenizer, 8192)
    ways = prefill.Ways(loaded, heads, common.example_documents(builder, 100), prefill.FilterConfig())
    read, _ = prefill.document_attention(loaded.model, ways.builder, heads, prefill.QUESTION, ways.documents)
    assert read.shape == (5, 6)
    torch.testing.assert_close(ways.scoring(), read, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ways.scoring(early_exit=False), read, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ways.output_attentions(), read, atol=1e-5, rtol=1e-4)
    assert loaded.model.config._attn_implementation == "sdpa"
    assert ways.matrices_fit()


def test_memory(run):
    _, rows, figures = run("memory", "--tokens", 120, "--new", 2, "--repeats", 1)
    mib, ratios = figures["mib"], figures["ratios"]
    assert rows["prefill with capture"][3] == "≤ 1.01 at 32K"
    assert ratios["prefill with capture"] == pytest.approx(
        mib["prefill with capture"] / max(mib["plain prefill"], 1e-9)
    )
    pair = "two branches, prefix once"
    assert ratios[pair] == pytest.approx(mib[pair] / max(mib["one branch"], 1e-9))
    assert "guidance_scale" in rows
    assert set(figures["share_of_least"]) == set(list(mib)[3:])


def test_startup(run, module, monkeypatch):
    startup = module("startup")
    monkeypatch.setattr(startup, "STARTS", {name: ["-S", "-c", "pass"] for name in startup.STARTS})
    _, rows, figures = run("startup", "--repeats", 1, shape=False)
    seconds = figures["seconds"]
    assert figures["over_imports"]["import and load"] == pytest.approx(
        seconds["import and load"] / seconds[startup.IMPORTS]
    )
    assert [rows[name][1] for name in ("faithgen --help", "import and load")] == ["≤ 1", "≤ 4"]


def test_end_to_end(run):
    arguments = ["--tokens", 200, "--new", 3, "--keep", 2, "--repeats", 2]
    _, rows, figures = run("end_to_end", *arguments)
    seconds, counts = figures["seconds"], figures["token_counts"]
    assert rows["faithgen"][2] == "≤ 0.8"
    for name in seconds:
        assert figures["ratios"][name] == pytest.approx(seconds[name] / seconds["plain generate"])
        assert figures["over_ours"][name] == pytest.approx(seconds[name] / seconds["plain, ours"])
    assert abs(counts["plain generate"]["prompt"] - counts["plain, ours"]["prompt"]) <= 1
    assert counts["faithgen"]["prompt"] < counts["plain generate"]["prompt"]
    assert counts["faithgen"]["scored"] > counts["plain generate"]["prompt"] - 60, (
        "nothing is kept from earlier rounds"
    )
    assert counts["faithgen, one branch"] == counts["faithgen"]
    assert counts["second question"]["scored"] < counts["faithgen"]["scored"]
    assert figures["shapes_changed"] == []


def test_end_to_end_names_prompts_that_were_not_warm(module, tiny_folder):
    end_to_end, common, shapes = module("end_to_end"), module("common"), module("shapes")
    loaded, *heads = shapes.load(tiny_folder, "tiny")
    generator = end_to_end.FaithfulGenerator(loaded, *heads)
    ways = end_to_end.Ways(generator, common.example_documents(generator.builder, 100), 4)
    ways.check("faithgen", (200, 300), 4)
    ways.check("faithgen", (200, 300), 4)
    assert ways.changed == set()
    ways.check("faithgen", (201, 300), 4)
    assert ways.changed == {"faithgen"}
    with pytest.raises(SystemExit, match="3 new tokens, not 4"):
        ways.check("faithgen", (200, 300), 3)


def test_throughput(run):
    arguments = ["--tokens", 100, "--new", 2, "--keep", 1, "--questions", 3, "--batch-size", 2, "--repeats", 1]
    _, rows, figures = run("end_to_end", *arguments)
    assert figures["benchmark"] == "throughput"
    assert figures["speedup"] == pytest.approx(figures["seconds"]["one by one"] / figures["seconds"]["batched"])
    assert rows["batched"][3] == "≥ 2"
    assert figures["shapes_changed"] == []


@pytest.fixture
def equality(module, tiny_folder, monkeypatch):
    """The script, for a model whose heads need not be detected."""
    found, (_, *heads) = module("equality"), module("shapes").load(tiny_folder, "tiny")
    monkeypatch.setattr(found, "resolve_heads", lambda loaded: heads)
    return found


def test_equality_of_all_ways(run, equality, tiny_folder, compilations):
    arguments = ["--model", tiny_folder, "--prompts", 2, "--new", 4, "--compiled"]
    _, rows, figures = run("equality", *arguments, shape=False)
    ways = ["tree", "rows", "tree in 4 slots", "compiled", "compiled in 4 slots"]
    assert rows == {name: ["2 of 2 the same", "[]"] for name in ways}
    assert list(figures["ways"]) == ways
    assert compilations


def test_answers_that_part_are_named_with_their_margin(run, equality, tiny_folder, monkeypatch):
    right = equality.formula

    def other(*arguments):
        tokens, scores = right(*arguments)
        return [*tokens[:2], (tokens[2] + 1) % 50, *tokens[3:]], scores

    monkeypatch.setattr(equality, "formula", other)
    arguments = ["--model", tiny_folder, "--prompts", 1, "--new", 4, "--ways", "tree"]
    _, rows, figures = run("equality", *arguments, shape=False)
    (parted,) = figures["ways"]["tree"]["parted"]
    assert list(rows) == ["tree"]
    assert rows["tree"][0] == "0 of 1 the same"
    assert (parted["token"], parted["behind"]) == (2, 0.0)
    assert parted["margin"] > 0
