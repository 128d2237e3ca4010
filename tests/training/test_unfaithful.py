import json
import random
from dataclasses import replace

import pytest

from faithgen.documents import as_documents
from faithgen.errors import FaithgenError
from faithgen.heads.ablation import bake_mask
from faithgen.heads.head_set import HeadSet
from faithgen.prompting import INSTRUCTION, PromptBuilder
from faithgen.training import UnfaithfulConfig, build_unfaithful
from faithgen.training.filters import Sample
from faithgen.training.rows import read_rows
from faithgen.training.sampling import EngineSampler
from faithgen.training.unfaithful_samplers import samplers
from tests.training.test_endpoint import completion, running, server  # noqa: F401 (a fixture)


@pytest.fixture
def heads():
    generator = random.Random(0)
    return HeadSet([[generator.random() for _ in range(8)] for _ in range(4)], "copying", "tiny", data="d", seed=3)


CONFIG = UnfaithfulConfig(count=3, max_new_tokens=8, keep=("unfinished", "degenerate"))


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


class Words:
    """A scorer of its own: a text is supported if it holds the word."""

    name, trained_on = "words", ()

    def score(self, claims, documents, *, contexts=None):
        return [float("1868" in claim) for claim in claims]


def test_every_sample_says_how_it_was_made(tiny_loaded, pairs, heads, tmp_path):
    output = tmp_path / "out.jsonl"
    seen = []
    report = lambda done, total: seen.append((done, total))  # noqa: E731
    summary = build_unfaithful(
        tiny_loaded, pairs, output, CONFIG, heads=heads, scorer=Words(), batch_size=3, progress=report
    )
    rows = lines(output)
    assert (summary.kept, summary.rows, summary.finished) == (len(rows), 4, True)
    assert summary.kept >= 1
    assert seen[0] == (0, 4)
    assert seen[-1] == (4, 4)
    for row in rows:
        source = next(pair for pair in pairs if pair["id"] == row["id"])
        assert (row["question"], row["answer"]) == (source["question"], source["answer"])
        assert row["documents"] == source["documents"]
        assert row["unfaithful"]
        assert row["support"].keys() == {"answer", "unfaithful"}
        made = row["made"]
        assert made["head_set"] == {"method": "copying", "model_id": "tiny", "revision": "", "data": "d", "seed": 3}
        assert (made["masked_heads"], made["ablation"], made["model"], made["scorer"]) == (3, "zero", "tiny", "words")
        assert (made["temperature"], made["top_p"], made["max_new_tokens"], made["documents_cut"]) == (
            1.0,
            0.95,
            8,
            False,
        )
    assert len({row["made"]["row_seed"] for row in rows}) == len(rows)
    written = json.loads((tmp_path / "out.summary.json").read_text())
    assert written["settings"]["count"] == 3
    assert written["kept"] == summary.kept
    assert len(lines(tmp_path / "out.dropped.jsonl")) == sum(summary.dropped.values())


def test_samples_depend_on_neither_batch_nor_order(tiny_loaded, pairs, heads, tmp_path):
    found = []
    for number, (rows, size) in enumerate([(pairs, 1), (pairs[::-1], 4)]):
        output = tmp_path / f"{number}.jsonl"
        build_unfaithful(tiny_loaded, rows, output, CONFIG, heads=heads, scorer=None, batch_size=size)
        found.append({row["id"]: row["unfaithful"] for row in lines(output)})
    assert found[0] == found[1]
    longest = lines(tmp_path / "1.jsonl")[0]
    assert len(longest["question"]) == max(len(row["question"]) for row in lines(tmp_path / "1.jsonl"))


def test_the_runs_own_instruction_goes_with_its_rows(tiny_loaded, pairs, heads, tmp_path):
    mixed = [{**pairs[0], "instruction": "Answer at length."}, *pairs[1:]]
    config = replace(CONFIG, instruction="Be brief.")
    output = tmp_path / "out.jsonl"
    for resume in (False, True):
        build_unfaithful(tiny_loaded, mixed, output, config, heads=heads, scorer=None, resume=resume)
        rows = lines(output) + lines(tmp_path / "out.dropped.jsonl")
        found = {row["id"]: row["instruction"] for row in rows}
        assert found == {"0": "Answer at length.", "1": "Be brief.", "2": "Be brief.", "3": "Be brief."}
    with pytest.raises(FaithgenError, match="instruction is empty; give one line"):
        replace(CONFIG, instruction=" ")


def test_rows_with_an_instruction_are_asked_with_it(tiny_loaded, pairs, heads, tmp_path, monkeypatch):
    def repeat(self, prompts, seeds):
        return [Sample(self.loaded.tokenizer.decode(prompt), True) for prompt in prompts]

    monkeypatch.setattr("faithgen.training.sampling.EngineSampler.__call__", repeat)
    mixed = [{**pairs[0], "instruction": "Answer at length."}, *pairs[1:]]
    keep = ("unfinished", "equal", "degenerate", "no_claim", "supported")
    config = UnfaithfulConfig(max_new_tokens=12, keep=keep)
    build_unfaithful(tiny_loaded, mixed, tmp_path / "own.jsonl", config, heads=heads, scorer=None)
    build_unfaithful(tiny_loaded, pairs, tmp_path / "all.jsonl", config, heads=heads, scorer=None)
    own, all_same = (
        {row["id"]: row for row in map(json.loads, (tmp_path / name).read_text().splitlines())}
        for name in ("own.jsonl", "all.jsonl")
    )
    assert own["0"]["instruction"] == "Answer at length."
    assert "Answer at length." in own["0"]["unfaithful"]
    assert INSTRUCTION in all_same["0"]["unfaithful"]
    assert own["1"]["unfaithful"] == all_same["1"]["unfaithful"]
    assert "instruction" not in own["1"]


def test_other_heads_give_other_samples(tiny_loaded, pairs, heads, tmp_path):
    def unfaithful(name, **changes):
        config = UnfaithfulConfig(max_new_tokens=8, keep=CONFIG.keep, temperature=0.0, **changes)
        build_unfaithful(tiny_loaded, pairs, tmp_path / name, config, heads=heads, scorer=None)
        rows = lines(tmp_path / name)
        return [row["unfaithful"] for row in rows], rows[0]["made"]

    many, made = unfaithful("a.jsonl", share=0.4)
    control, control_made = unfaithful("b.jsonl", share=0.4, random_heads=1)
    assert many != control
    assert made["masked_heads"] == control_made["masked_heads"] == 13
    assert control_made["head_set"]["method"] == "random(copying)"
    assert unfaithful("c.jsonl", threshold=0.5)[1]["masked_heads"] == len(heads.above(0.5))
    assert unfaithful("d.jsonl", share=0.4, ablation="uniform")[0] != many


def test_what_is_left_out_is_counted_by_reason(tiny_loaded, pairs, heads, tmp_path, monkeypatch):
    said = {
        "0": Sample("", True),
        "1": Sample("twenty minutes", True),
        "2": Sample("so so so so so", True),
        "3": Sample("It was in 1868.", True),
    }
    from faithgen.training import unfaithful

    def fake(loaded, model, config, heads, endpoint, own_endpoint):
        made, *_ = samplers(loaded, model, config, heads, endpoint, own_endpoint)
        return made, lambda prompts, seeds: [answer(tiny_loaded.tokenizer.decode(prompt)) for prompt in prompts], None

    def answer(prompt):
        return said[next(pair["id"] for pair in pairs if pair["question"] in prompt)]

    monkeypatch.setattr(unfaithful, "samplers", fake)
    summary = build_unfaithful(tiny_loaded, pairs, tmp_path / "out.jsonl", heads=heads, scorer=Words(), batch_size=4)
    assert summary.dropped == {"empty": 1, "equal": 1, "degenerate": 1, "supported": 1}
    assert str(summary) == "0 of 4 samples kept (dropped: 1 degenerate, 1 empty, 1 equal, 1 supported)"
    dropped = {row["id"]: row for row in lines(tmp_path / "out.dropped.jsonl")}
    assert dropped["3"]["dropped"] == "supported"
    assert dropped["3"]["support"] == {"answer": 0.0, "unfaithful": 1.0}
    assert dropped["0"]["support"]["unfaithful"] is None


def test_rows_that_do_not_fit_are_counted(tiny_loaded, pairs, heads, tmp_path):
    rows = [
        pairs[0],
        {**pairs[1], "question": "word " * 2000},
        {**pairs[2], "documents": ["sentence one. " * 800]},
    ]
    summary = build_unfaithful(tiny_loaded, rows, tmp_path / "out.jsonl", CONFIG, heads=heads, scorer=None)
    assert summary.dropped["too_long"] == 1
    assert summary.documents_cut == sum(row["made"]["documents_cut"] for row in lines(tmp_path / "out.jsonl")) == 1
    dropped = next(row for row in lines(tmp_path / "out.dropped.jsonl") if row["dropped"] == "too_long")
    assert "does not fit" in dropped["error"]


def test_a_run_that_was_killed_goes_on_and_ends_the_same(tiny_loaded, pairs, heads, tmp_path):
    whole, part = tmp_path / "whole.jsonl", tmp_path / "part.jsonl"
    arguments = {"heads": heads, "scorer": None, "batch_size": 1}
    build_unfaithful(tiny_loaded, pairs, whole, CONFIG, **arguments)

    def stop(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_unfaithful(tiny_loaded, pairs, part, CONFIG, progress=stop, **arguments)
    assert json.loads((tmp_path / "part.summary.json").read_text())["finished"] is False
    with part.open("a") as stream:
        stream.write('{"id": "3", "unfaith')  # a line that was cut off
    with pytest.raises(FaithgenError, match="--resume"):
        build_unfaithful(tiny_loaded, pairs, part, CONFIG, **arguments)
    summary = build_unfaithful(tiny_loaded, pairs, part, CONFIG, resume=True, **arguments)
    key = lambda row: row["id"]  # noqa: E731
    assert sorted(lines(part), key=key) == sorted(lines(whole), key=key)
    assert summary.to_dict() == json.loads((tmp_path / "whole.summary.json").read_text())
    again = build_unfaithful(tiny_loaded, pairs, part, CONFIG, resume=True, **arguments)
    assert again.to_dict() == summary.to_dict()


def test_two_runs_do_not_write_the_same_file(tiny_loaded, pairs, heads, tmp_path):
    output, refused = tmp_path / "out.jsonl", []
    arguments = {"heads": heads, "scorer": None, "batch_size": 1, "resume": True}

    def start_another(done, total):
        with pytest.raises(FaithgenError, match="another process is writing"):
            build_unfaithful(tiny_loaded, pairs, output, CONFIG, **arguments)
        refused.append(done)

    build_unfaithful(tiny_loaded, pairs, output, CONFIG, progress=start_another, **arguments)
    rows = lines(output) + lines(tmp_path / "out.dropped.jsonl")
    assert refused
    assert sorted(row["id"] for row in rows) == sorted(row["id"] for row in pairs)
    assert {path.name for path in tmp_path.iterdir()} == {"out.jsonl", "out.dropped.jsonl", "out.summary.json"}


def test_an_output_in_a_folder_that_is_not_there(tiny_loaded, pairs, heads, tmp_path):
    with pytest.raises(FaithgenError, match=r"cannot write .*No such file or directory.*choose another output"):
        build_unfaithful(tiny_loaded, pairs, tmp_path / "missing" / "out.jsonl", CONFIG, heads=heads, scorer=None)
    assert not list(tmp_path.iterdir())


def test_an_output_of_other_settings_or_rows_is_not_gone_on_with(tiny_loaded, pairs, heads, tmp_path):
    output = tmp_path / "out.jsonl"
    arguments = {"heads": heads, "scorer": None, "resume": True}
    build_unfaithful(tiny_loaded, pairs, output, CONFIG, **arguments)
    other = UnfaithfulConfig(count=3, max_new_tokens=8, keep=CONFIG.keep, seed=1)
    with pytest.raises(FaithgenError, match="made with seed 0, not 1"):
        build_unfaithful(tiny_loaded, pairs, output, other, **arguments)
    with pytest.raises(FaithgenError, match="other rows"):
        build_unfaithful(tiny_loaded, [{**pairs[0], "id": "new"}], output, CONFIG, **arguments)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize(
    "change",
    [
        {"question": "Who lit it?"},
        {"documents": ["Another text."]},
        {"answer": "In 1999."},
        {"instruction": "Answer at length."},
    ],
)
def test_rows_that_have_changed_under_their_ids_are_not_gone_on_with(
    tiny_loaded, pairs, heads, tmp_path, change, own, monkeypatch
):
    said = iter(f"Answer {number}." for number in range(99))
    monkeypatch.setattr(EngineSampler, "__call__", lambda self, ids, seeds: [Sample(next(said), True) for _ in ids])
    long = {**pairs[0], "id": "long", "question": "word " * 2000}
    output = tmp_path / "out.jsonl"
    config = UnfaithfulConfig(count=3, max_new_tokens=8, own_answers=own)
    arguments = {"heads": heads, "scorer": None}
    build_unfaithful(tiny_loaded, [*pairs[:2], long], output, config, **arguments)
    more = build_unfaithful(tiny_loaded, [*pairs, long], output, config, resume=True, **arguments)
    assert (more.rows, more.finished) == (5, True)  # more rows are no other rows
    summary = (tmp_path / "out.summary.json").read_text()
    for number, name in ((0, "0"), (4, "long")):
        rows = [*pairs, long]
        rows[number] = {**rows[number], **change}
        with pytest.raises(FaithgenError, match=f"a sample of row {name} with another"):
            build_unfaithful(tiny_loaded, rows, output, config, resume=True, **arguments)
    assert (tmp_path / "out.summary.json").read_text() == summary


def test_rows_that_answer_themselves_need_no_reference_to_go_on(tiny_loaded, pairs, heads, tmp_path):
    config = UnfaithfulConfig(count=8, max_new_tokens=8, keep=CONFIG.keep, own_answers=True)
    bare = [{key: row[key] for key in ("id", "question", "documents")} for row in pairs]
    arguments = {"heads": heads, "scorer": None, "resume": True}
    first = build_unfaithful(tiny_loaded, bare, tmp_path / "out.jsonl", config, **arguments)
    again = build_unfaithful(tiny_loaded, bare, tmp_path / "out.jsonl", config, **arguments)
    assert again.to_dict() == first.to_dict()


def test_own_answers_come_from_the_whole_model(tiny_loaded, pairs, heads, tmp_path):
    config = UnfaithfulConfig(count=8, max_new_tokens=8, keep=CONFIG.keep, own_answers=True, temperature=0.0)
    bare = [{key: row[key] for key in ("id", "question", "documents")} for row in pairs[:2]]
    build_unfaithful(tiny_loaded, [*bare, pairs[2]], tmp_path / "own.jsonl", config, heads=heads, scorer=None)
    rows = lines(tmp_path / "own.jsonl")
    assert {row["id"]: row.get("reference") for row in rows} == {"0": None, "1": None, "2": "4.50"}
    builder = PromptBuilder(tiny_loaded.tokenizer, 1024)
    prompts = {row.id: builder.build(row.question, row.documents, reserve=8).input_ids for row in read_rows(pairs)}
    whole = EngineSampler(tiny_loaded, [], "zero", temperature=0.0, top_p=1.0, max_new_tokens=8)
    answers = {identity: whole([ids], [0])[0].text for identity, ids in prompts.items()}
    assert all(row["answer"] == answers[row["id"]] != row["unfaithful"] for row in rows)


def test_a_server_samples_with_the_same_prompts(tiny_loaded, tiny_folder, pairs, heads, tmp_path, server):  # noqa: F811
    server.handler = lambda body: (200, completion("Nobody at all."))
    control = heads.random_like(7)
    provenance = {"method": control.method, "data": control.data, "seed": control.seed}
    baked = bake_mask(tiny_loaded, control.top(5), tmp_path / "baked", provenance=provenance)
    config = UnfaithfulConfig(max_new_tokens=8)
    summary = build_unfaithful(baked, pairs, tmp_path / "out.jsonl", config, endpoint=server.url, scorer=None)
    assert summary.kept == 4
    made = lines(tmp_path / "out.jsonl")[0]["made"]
    assert (made["endpoint"], made["served_model"], made["masked_heads"]) == (server.url, "masked-model", 5)
    assert made["head_set"] == {
        "method": "random(copying)",
        "model_id": "tiny",
        "revision": "0",
        "data": "d",
        "seed": 7,
    }
    builder = PromptBuilder(tiny_loaded.tokenizer, 1024)
    expected = {tuple(builder.build(row.question, row.documents, reserve=8).input_ids) for row in read_rows(pairs)}
    assert {tuple(body["prompt"]) for _, body, _ in server.asked} == expected
    for wrong, message in (
        (UnfaithfulConfig(count=3), "masked already"),
        (UnfaithfulConfig(own_answers=True), "own_endpoint"),
    ):
        with pytest.raises(FaithgenError, match=message):
            build_unfaithful(tiny_folder, pairs, tmp_path / "x.jsonl", wrong, endpoint=server.url, scorer=None)


def test_two_servers_give_own_and_masked_answers(tiny_loaded, pairs, heads, tmp_path):
    baked = bake_mask(tiny_loaded, heads.top(5), tmp_path / "baked")
    config = UnfaithfulConfig(max_new_tokens=8, own_answers=True, temperature=0.6, top_p=1.0, keep=("supported",))
    bare = [{key: row[key] for key in ("id", "question", "documents")} for row in pairs]
    with running("masked-model") as masked, running("whole-model") as whole:
        masked.handler = lambda body: (200, completion(f"Nobody knew {body['seed']}."))
        whole.handler = lambda body: (200, completion(f"It was {body['seed']}."))
        servers = {"endpoint": masked.url, "own_endpoint": whole.url}
        summary = build_unfaithful(baked, bare, tmp_path / "out.jsonl", config, scorer=None, **servers)
    assert summary.kept == 4
    asked = {
        name: {tuple(body["prompt"]): body for _, body, _ in one.asked} for name, one in (("m", masked), ("w", whole))
    }
    assert asked["m"].keys() == asked["w"].keys()
    assert len(asked["m"]) == 4
    assert {body["model"] for body in asked["w"].values()} == {"whole-model"}
    assert {(body["temperature"], body["top_p"]) for one in asked.values() for body in one.values()} == {(0.6, 1.0)}
    builder = PromptBuilder(tiny_loaded.tokenizer, 1024)
    for row in lines(tmp_path / "out.jsonl"):
        prompt = tuple(builder.build(row["question"], as_documents(row["documents"]), reserve=8).input_ids)
        own, other = asked["w"][prompt]["seed"], asked["m"][prompt]["seed"]
        assert (row["answer"], row["unfaithful"]) == (f"It was {own}.", f"Nobody knew {other}.")
        assert own != other  # a stream of its own for each


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ablation": "half"}, "zero, uniform"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"keep": ("empty",)}, "no filter 'empty'"),
        ({"margin": float("nan")}, "margin"),
    ],
)
def test_settings_are_checked(changes, message):
    with pytest.raises(FaithgenError, match=message):
        UnfaithfulConfig(**changes)


def test_heads_of_another_model_are_refused(tiny_loaded, pairs, tmp_path):
    other = HeadSet([[0.0] * 8] * 4, "copying", "another")
    with pytest.raises(FaithgenError, match="detected in 'another'"):
        build_unfaithful(tiny_loaded, pairs, tmp_path / "out.jsonl", CONFIG, heads=[other], scorer=None)
    assert not (tmp_path / "out.jsonl").exists()


def test_the_lexical_scorer_judges_support(tiny_loaded, pairs, heads, tmp_path):
    build_unfaithful(tiny_loaded, pairs, tmp_path / "out.jsonl", CONFIG, heads=heads)
    rows = lines(tmp_path / "out.jsonl") + lines(tmp_path / "out.dropped.jsonl")
    found = {row["id"]: row["support"] for row in rows}
    assert found["0"]["answer"] > 0.5
    assert all(row["made"]["scorer"] == "lexical" for row in rows)
