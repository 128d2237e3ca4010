import contextlib
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faithgen import FaithgenError
from faithgen.evaluation import worker as worker_module
from faithgen.evaluation.methods import Answerer, get_method
from faithgen.evaluation.plan import ANSWERING, Batch, EvalSettings, make_plan, parse_spec, suite_sets
from faithgen.evaluation.runner import check_methods, evaluate
from faithgen.evaluation.scorers import load_scorer
from faithgen.evaluation.tasks import TASKS
from faithgen.evaluation.worker import Worker
from tests.conftest import SHARED
from tests.evaluation.running import example, make_generator, read, rows_file, without_times

SHORT = TASKS["nq_hard"]


@pytest.fixture(scope="module")
def generator():
    return make_generator()


@pytest.fixture
def settings(tmp_path):
    path = rows_file(tmp_path / "data.jsonl", 7)
    return EvalSettings((str(path),), ("base", "cafe", "heads"), max_new_tokens=5, scorer="lexical", batch_size=2)


@pytest.fixture
def run(generator, tmp_path):
    """`run(settings, **options)`: the outcome, and the notes."""

    def call(settings, output="out", **options):
        notes = []
        arguments = {"load": lambda *_: generator, "note": notes.append, **options}
        return evaluate(settings, tmp_path / output, **arguments), notes

    return call


class Stopped(Exception):
    pass


# --- plan -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "name", "options"),
    [
        ("nq_hard", "nq_hard", {}),
        ("nq_hard:passages=10,gold_position=0", "nq_hard", {"passages": 10, "gold_position": 0}),
        ("niah:lengths=[200,400],depths=[0]", "niah", {"lengths": [200, 400], "depths": [0]}),
        ("tristate:state=C_right_P_right", "tristate", {"state": "C_right_P_right"}),
        ("rgb:altered=false", "rgb", {"altered": False}),
        ("rgb:altered=False", "rgb", {"altered": False}),
        ("nq_swap:keep_tags=yes,swapped=No", "nq_swap", {"keep_tags": True, "swapped": False}),
        ("niah:tokenizer=org/model", "niah", {"tokenizer": "org/model"}),
        ("rows/a:b=1.jsonl", "rows/a:b=1.jsonl", {}),
        ("hub:org/name:config", "hub:org/name:config", {}),
    ],
)
def test_sets_with_options(spec, name, options):
    assert parse_spec(spec) == (name, options)


@given(st.text(max_size=20))
def test_any_spec_is_read_or_refused(text):
    with contextlib.suppress(FaithgenError):
        name, options = parse_spec(text)
        assert text.startswith(name)
        assert all(option.isidentifier() or option.isalnum() for option in options)


def test_options_that_are_none():
    with pytest.raises(FaithgenError, match="is no option"):
        parse_spec("nq_hard:ten")
    with pytest.raises(FaithgenError, match="suite 'odd' is not known"):
        suite_sets("odd")


def test_batches_are_cut_by_length_and_cover_all(settings):
    plan = make_plan(settings)
    batches = list(plan.batches(["base", "cafe"]))
    assert [len(batch.examples) for batch in batches] == [2, 2, 2, 1] * 2
    lengths = [len(example.documents) for batch in batches[:4] for example in batch.examples]
    assert lengths == sorted(lengths, reverse=True)
    assert sorted(key for batch in batches for key in batch.row_keys()) == sorted(
        key for key in plan.order() if key[1] != "heads"
    )


def test_skip_reads_the_rows_after_those_of_another_run(settings):
    whole = [one.id for one in make_plan(settings).sets[0].examples]
    first = make_plan(replace(settings, limit=3)).sets[0]
    rest = make_plan(replace(settings, limit=3, skip=3)).sets[0]
    assert [one.id for one in first.examples + rest.examples] == whole[:6]
    assert first.record()["sha256"] != rest.record()["sha256"]
    with pytest.raises(FaithgenError, match="no rows after the first 7"):
        make_plan(replace(settings, skip=7))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"datasets": ()}, "nothing to evaluate"),
        ({"datasets": ("odd",)}, "'odd' is not known"),
        ({"datasets": ("nq_hard:odd=1",), "data": "."}, "no option 'odd'"),
        ({"datasets": ("nq_hard:limit=1",), "data": "."}, "cannot be given here"),
        ({"datasets": ("nq_hard",), "data": "/no/such"}, "does not exist"),
        ({"datasets": ("nq_hard",), "data": "."}, "no nq_mdqa_bm25"),
        ({"datasets": ("/no/such.jsonl",)}, "does not exist"),
        ({"limit": 0}, "limit is 0"),
        ({"skip": -1}, "skip is -1"),
        ({"methods": ()}, "no method"),
        ({"methods": ("base", "odd")}, "'odd' is not known"),
        ({"methods": ("base", "base")}, "given twice"),
        ({"scorer": "odd"}, "no scorer 'odd'"),
    ],
)
def test_wrong_settings_leave_no_folder_behind(settings, run, tmp_path, changes, words):
    with pytest.raises(FaithgenError, match=words):
        run(replace(settings, **changes))
    assert not (tmp_path / "out").exists()


def test_methods_of_a_run_that_names_none_have_their_random_heads_beside_them():
    methods = [get_method(name) for name in ANSWERING]
    assert EvalSettings(("toy",)).methods == ANSWERING
    with_heads = [method.name for method in methods if method.uses_heads and method.random_heads is None]
    assert with_heads == ["cafe", "full"]
    assert [method.name for method in methods if method.random_heads is not None] == [
        f"{name}:random1" for name in with_heads
    ]


def test_baseline_is_among_the_methods(settings):
    assert check_methods(settings, None) == "base"
    assert check_methods(replace(settings, methods=("heads", "cafe")), None) == "heads"
    assert check_methods(replace(settings, methods=("heads", "bm25"), mode="rank"), None) == "bm25"
    with pytest.raises(FaithgenError, match="not among"):
        check_methods(settings, "full")


def test_a_suite_leaves_out_what_is_not_at_hand(tmp_path):
    folder = tmp_path / "sets"
    folder.mkdir()
    row = {"id": "1", "input": "who?", "passages": [{"title": "T", "text": "Ada."}], "output": [{"answer": "Ada."}]}
    (folder / "dev_answerable.jsonl").write_text(json.dumps(row) + "\n")
    asked = EvalSettings(suite_sets("groundbench"), suite="groundbench", data=str(folder))
    plan = make_plan(asked)
    assert [one.spec for one in plan.sets] == ["clapnq"]
    assert set(plan.missing) == {"eli5_webgpt", "expertqa", "hagrid", "clapnq_unanswerable", "quotesum"}
    assert "no hagrid/dev.jsonl" in plan.missing["hagrid"]
    (folder / "dev_answerable.jsonl").unlink()
    with pytest.raises(FaithgenError, match="no set of groundbench is at hand"):
        make_plan(asked)


def test_rerank_sets_have_no_answers(tmp_path):
    row = {
        "qid": "1",
        "query": "q",
        "hits": [{"docid": str(k), "rank": k, "score": 1.0, "relevance": k, "text": "t"} for k in (1, 2)],
    }
    path = tmp_path / "dl19.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(FaithgenError, match="no answers"):
        make_plan(EvalSettings(("trec_dl19",), data=str(path)))
    assert make_plan(EvalSettings(("trec_dl19",), ("bm25",), "rank", data=str(path))).sets[0].task.kind == "rank"


# --- rows -------------------------------------------------------------------------------------------------------------


def test_a_row_tells_all_of_its_answer(generator, settings):
    worker = Worker(settings, generator, load_scorer("lexical"), 0.5)
    one = example(1, documents=5, meta={"hops": 2})
    row = worker.run(Batch("toy", "cafe", [one]), "musique", replace(SHORT, group="hops"))[0]
    given = [{"id": d.id, "title": d.title, "text": d.text} for d in one.documents]
    method = worker.method("cafe")
    answer = generator.generate(one.question, given, filter=method.filter, contrast=method.contrast, max_new_tokens=5)
    assert row["answer"] == answer.text
    assert (row["dataset"], row["id"], row["method"], row["question"]) == ("toy", "q1", "cafe", one.question)
    assert row["answers"] == ["1807"]
    assert row["prompt_order"] == answer.prompt_order
    assert [d["id"] for d in row["documents"] if d["kept"]] == [d.id for d in answer.documents if d.kept]
    assert [d["score"] for d in row["documents"]] == pytest.approx([d.score for d in answer.documents], abs=1e-5)
    assert [d["id"] for d in row["documents"] if d["gold"]] == ["d1"]
    assert row["doubt"]["score"] == pytest.approx(answer.doubt.score, abs=1e-4)
    assert row["scorer"]["name"] == "lexical"
    assert row["meta"] == {"group": "2"}
    assert row["metrics"]["sub_em"] in (0.0, 1.0)
    assert row["timings"]["new_tokens"] == 5
    assert len(row["settings"]) == 12


def test_documents_that_a_method_left_out_are_not_kept(generator, settings):
    worker = Worker(settings, generator)
    (gold,) = worker.run(Batch("toy", "gold", [example(0)]), "toy", SHORT)
    assert [d["id"] for d in gold["documents"] if d["kept"]] == ["d1"]
    (closed,) = worker.run(Batch("toy", "closed_book", [example(0)]), "toy", SHORT)
    assert not any(d["kept"] for d in closed["documents"])
    assert closed["scorer"] is None


def test_checksum_tells_settings_apart(generator, settings):
    def checksum(name="heads", task=SHORT, **changes):
        worker = Worker(replace(settings, **changes), generator)
        return worker.checksum(worker.method(name), task)

    found = [
        checksum(),
        checksum("base"),
        checksum("heads@0.3"),
        checksum("heads:random1"),
        checksum(max_new_tokens=6),
        checksum(task=TASKS["clapnq"]),
    ]
    assert len(set(found)) == len(found)
    assert checksum() == checksum(batch_size=9) == checksum(data="elsewhere") == checksum(device="cuda")


def test_a_row_that_fails_does_not_take_its_batch_with_it(generator, settings):
    worker = Worker(settings, generator)
    huge = example(1, question="why? " * 2000)
    batch = Batch("toy", "base", [example(0), huge, example(2)])
    rows = worker.run(batch, "toy", SHORT)
    assert ["error" in row for row in rows] == [False, True, False]
    assert "window of 1024" in rows[1]["error"]
    alone = worker.run(Batch("toy", "base", [example(2)]), "toy", SHORT)
    assert rows[2]["answer"] == alone[0]["answer"]


def test_any_exception_becomes_a_row(generator, settings, monkeypatch):
    original = Answerer.answer

    def answer(self, method, rows, **options):
        if any(example.id == "q1" for example, _ in rows):
            raise RuntimeError("CUDA out of memory\nTried to allocate")
        return original(self, method, rows, **options)

    monkeypatch.setattr(Answerer, "answer", answer)
    rows = Worker(settings, generator).run(Batch("toy", "base", [example(0), example(1)]), "toy", SHORT)
    assert rows[1]["error"] == "RuntimeError: CUDA out of memory Tried to allocate"
    assert "answer" in rows[0]


class Judge:
    """A scorer whose probability for a claim is given by a function."""

    name, trained_on = "judge", ()

    def __init__(self, probability):
        self.probability, self.calls = probability, []

    def score(self, claims, documents, *, contexts=None):
        self.calls.append(list(claims))
        return [self.probability(claim) for claim in claims]


@pytest.fixture
def say(monkeypatch):
    """`say("It was lit.", ...)`: what the model answers to q0, q1, ...; returns the sizes of the batches answered."""

    def call(*texts):
        original, asked = Answerer.answer, []

        def answer(self, method, rows, **options):
            asked.append(len(rows))
            found = original(self, method, rows, **options)
            return [
                replace(one, text=texts[int(example.id[1:])]) for one, (example, _) in zip(found, rows, strict=True)
            ]

        monkeypatch.setattr(Answerer, "answer", answer)
        return asked

    return call


def judged(settings, generator, scorer, count=3):
    batch = Batch("toy", "base", [example(i) for i in range(count)])
    return Worker(settings, generator, scorer, 0.5).run(batch, "toy", SHORT)


def test_a_scorer_that_fails_costs_its_figure_and_not_the_answer(generator, settings, say):
    def probability(claim):
        if "stop" in claim:
            raise RuntimeError("CUDA out of memory\nTried")
        return 0.75

    asked = say("It was 1807.", "The stop was built.", "It was not.")
    rows = judged(settings, generator, Judge(probability))
    assert asked == [3]  # nothing is generated again
    assert [row["answer"] for row in rows] == ["It was 1807.", "The stop was built.", "It was not."]
    assert [row["scorer"]["mean"] for row in rows] == [0.75, None, 0.75]
    reason = "scorer failed: RuntimeError: CUDA out of memory Tried"
    empty = {"name": "judge", "mean": None, "minimum": None, "share": None, "sentences": 0, "reason": reason}
    assert rows[1]["scorer"] == empty
    assert not any("error" in row for row in rows)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.1, 1.5, None])
def test_what_is_no_probability_is_no_figure(generator, settings, say, value):
    say("One.", "Two.", "Three.")
    rows = judged(settings, generator, Judge(lambda claim: value if claim == "Two." else 1.0))
    assert [row["scorer"]["share"] for row in rows] == [1.0, None, 1.0]
    assert "let it give a probability from 0 to 1" in rows[1]["scorer"]["reason"]


def test_a_refusal_claims_nothing(generator, settings, say):
    say("I don't know.", "It was 1807.", "The passages do not mention it.")
    scorer = Judge(lambda claim: 0.5)
    rows = judged(settings, generator, scorer)
    assert scorer.calls == [["It was 1807."]]
    assert [row["scorer"]["mean"] for row in rows] == [None, 0.5, None]
    assert [row["scorer"]["reason"] for row in rows] == ["refusal", None, "refusal"]
    assert [row["metrics"]["refused"] for row in rows] == [1.0, 0.0, 1.0]
    say("I don't know.", "I don't know.", "I don't know.")
    assert all(row["scorer"]["reason"] == "refusal" for row in judged(settings, generator, scorer))
    assert len(scorer.calls) == 1


def test_memotrap_rows_hold_the_scores_of_both_endings(generator, settings):
    worker = Worker(settings, generator)
    meta = {"options": [" late.", " never."], "answer_index": 0}
    rows = [
        example(0, documents=0, question='Write a quote that ends in the word "late": Better', meta=meta),
        example(1, documents=0, question="A. Flat.\nB. Round.\nAnswer:", meta=meta),
    ]
    found = {
        name: worker.run(Batch("memotrap", name, rows), "memotrap", TASKS["memotrap"])
        for name in ("base", "heads", "context", "cafe")
    }
    for row in [*found["base"], *found["heads"], found["context"][0]]:
        best = max((0, 1), key=row["logprobs"].__getitem__)
        assert row["answer"] == ["late.", "never."][best]
        assert row["metrics"]["choice"] == float(best == 0)
        assert row["metrics"]["choice_margin"] == pytest.approx(row["logprobs"][0] - row["logprobs"][1], abs=1e-4)
    assert found["base"][0]["logprobs"] != found["heads"][0]["logprobs"] != found["context"][0]["logprobs"]
    assert "no instruction" in found["context"][1]["skipped"]
    assert all("no documents" in row["skipped"] for row in found["cafe"])


def test_control_methods_need_the_chat_style_for_endings(settings):
    trained = make_generator(control=True)
    row = example(0, documents=0, question="Better", meta={"options": [" late", " never"], "answer_index": 0})
    batch = Batch("memotrap", "rhio", [row])
    (bare,) = Worker(settings, trained).run(batch, "memotrap", TASKS["memotrap"])
    assert "chat" in bare["skipped"]
    (chat,) = Worker(replace(settings, choice_style="chat"), trained).run(batch, "memotrap", TASKS["memotrap"])
    assert len(chat["logprobs"]) == 2


def test_the_trained_contrast_has_the_models_own_strength(settings):
    row = example(0, documents=0, question="Better", meta={"options": [" late", " never"], "answer_index": 0})

    def scores(method, saved=None):
        trained = make_generator(control=True)
        if saved is not None:
            trained.loaded.tokenizer.init_kwargs["faithgen"]["alpha"] = saved
        worker = Worker(replace(settings, choice_style="chat"), trained)
        (found,) = worker.run(Batch("memotrap", method, [row]), "memotrap", TASKS["memotrap"])
        return found["logprobs"]

    assert scores("rhio", saved=3.0) == scores("rhio@3") != scores("rhio") == scores("rhio@0.2")


# --- runs -------------------------------------------------------------------------------------------------------------


def test_a_run_writes_one_row_for_each_answer(run, settings, tmp_path):
    reports = []
    outcome, notes = run(
        settings, progress=lambda done, total: reports.append((done, total)), command=["faithgen", "eval"]
    )
    rows = read(tmp_path / "out/rows.jsonl")
    assert (outcome.rows, outcome.failed, outcome.skipped) == (21, 0, 0)
    assert [(r["dataset"], r["method"], r["id"]) for r in rows] == make_plan(settings).order()
    assert reports[0] == (0, 21)
    assert reports[-1] == (21, 21)
    assert outcome.empty == sum(row["answer"] == "" for row in rows)
    assert outcome.empty == 0 or any("answers are empty" in text for text in notes)
    record = json.loads((tmp_path / "out/run.json").read_text())
    assert record["settings"]["methods"] == ["base", "cafe", "heads"]
    assert record["model"] == {"id": "tiny", "revision": "0", "dtype": "float32", "heads": record["model"]["heads"]}
    assert record["runs"][0]["command"] == ["faithgen", "eval"]
    assert {"python", "torch", "transformers"} <= record["runs"][0]["versions"].keys()
    assert record["runs"][0]["finished"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *(".lock", "plots", "report.html", "report.md", "rows.jsonl", "run.json", "summary.json"),
    ]


def test_resume_answers_only_what_is_missing(run, settings, tmp_path, monkeypatch):
    run(settings, "whole")
    original = Worker.run
    batches = []

    def stop_at_fifth(self, batch, *arguments):
        batches.append(batch)
        if len(batches) == 5:
            raise Stopped
        return original(self, batch, *arguments)

    monkeypatch.setattr(Worker, "run", stop_at_fifth)
    with pytest.raises(Stopped):
        run(settings)
    path = tmp_path / "out/rows.jsonl"
    written = path.read_text()
    assert written.count("\n") == 7 or written.count("\n") == 8
    with path.open("a") as stream:
        stream.write('{"dataset": "x", "id"')
    monkeypatch.setattr(Worker, "run", original)
    outcome, _ = run(settings, resume=True)
    assert outcome.rows == 21
    assert without_times(read(path)) == without_times(read(tmp_path / "whole/rows.jsonl"))
    assert set(written.splitlines()) <= set(path.read_text().splitlines())
    assert len(json.loads((tmp_path / "out/run.json").read_text())["runs"]) == 2


def test_a_finished_run_is_not_loaded_again(run, settings, tmp_path):
    run(settings)
    (tmp_path / "out/report.html").unlink()

    def load(*_):
        raise AssertionError("loaded")

    outcome, _ = run(settings, resume=True, load=load)
    assert outcome.rows == 21
    assert (tmp_path / "out/report.html").exists()


def test_resume_tries_failed_rows_again(run, settings, tmp_path, monkeypatch):
    run(settings, "whole")
    original, asked = Answerer.answer, []

    def answer(self, method, rows, **options):
        if any(example.id == "q2" for example, _ in rows) and not asked:
            raise RuntimeError("CUDA out of memory")
        return original(self, method, rows, **options)

    monkeypatch.setattr(Answerer, "answer", answer)
    outcome, notes = run(settings)
    assert outcome.failed == 3
    assert any("3 of 21 rows failed, --resume tries them again" in text for text in notes)
    written = (tmp_path / "out/rows.jsonl").read_text().splitlines()
    asked.append("again")
    outcome, _ = run(settings, resume=True)
    assert (outcome.rows, outcome.failed) == (21, 0)
    rows = (tmp_path / "out/rows.jsonl").read_text().splitlines()
    assert len(rows) == 21
    assert set(rows) >= {line for line in written if '"error"' not in line}  # what there was is kept byte for byte
    assert [row["answer"] for row in map(json.loads, rows)] == [
        row["answer"] for row in read(tmp_path / "whole/rows.jsonl")
    ]


def test_resume_with_another_baseline(run, settings, tmp_path):
    def load(*_):
        raise AssertionError("loaded")

    def baselines():
        summary = json.loads((tmp_path / "out/summary.json").read_text())
        (figures,) = summary.values()
        compared = [one["method"] for one in figures["methods"] if one["differences"]]
        return json.loads((tmp_path / "out/run.json").read_text())["baseline"], figures["baseline"], compared

    run(settings)
    assert baselines() == ("base", "base", ["cafe", "heads"])
    run(settings, resume=True, baseline="heads", load=load)
    assert baselines() == ("heads", "heads", ["base", "cafe"])
    run(settings, resume=True, load=load)  # none is named: that of the run stays
    assert baselines() == ("heads", "heads", ["base", "cafe"])
    lines = (tmp_path / "out/rows.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "out/rows.jsonl").write_text("".join(lines[:-1]))
    run(settings, resume=True)
    assert baselines() == ("heads", "heads", ["base", "cafe"])


def test_a_scorer_that_fails_is_told(run, settings, tmp_path, monkeypatch):
    from faithgen.evaluation import runner

    def probability(claim):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(runner, "_load_scorer", lambda *_: (Judge(probability), 0.5))
    outcome, notes = run(replace(settings, methods=("base",), limit=3))
    assert (outcome.rows, outcome.failed) == (3, 0)
    assert any("3 of 3 answers have no support" in text and "no such kernel" in text for text in notes)
    (figures,) = json.loads((tmp_path / "out/summary.json").read_text()).values()
    estimate = figures["methods"][0]["metrics"]["support_mean"]
    assert (estimate["mean"], estimate["reason"]) == (None, "scorer failed: RuntimeError: no such kernel")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": 3}, "seed was 0 and is 3"),
        ({"limit": 3}, "limit was null and is 3"),
        ({"methods": ("base",)}, "methods was"),
        ({"scorer": None}, 'scorer was "lexical" and is null'),
    ],
)
def test_resume_with_other_settings_is_an_error(run, settings, changes, words, tmp_path):
    run(replace(settings, methods=("base", "heads"), limit=None))
    before = (tmp_path / "out/rows.jsonl").read_bytes()
    with pytest.raises(FaithgenError, match=words):
        run(replace(settings, **{"methods": ("base", "heads"), **changes}), resume=True)
    with pytest.raises(FaithgenError, match="holds another run"):
        run(replace(settings, methods=("base", "heads")))
    assert (tmp_path / "out/rows.jsonl").read_bytes() == before


def test_resume_with_other_data_is_an_error(run, settings, tmp_path):
    run(replace(settings, methods=("base",)))
    path = tmp_path / "data.jsonl"
    path.write_text(path.read_text().replace("line 2", "line two"))
    with pytest.raises(FaithgenError, match="sha256"):
        run(replace(settings, methods=("base",)), resume=True)


def test_resume_with_another_model_is_an_error(run, settings, tmp_path, monkeypatch):
    monkeypatch.setattr(Worker, "run", lambda *_: (_ for _ in ()).throw(Stopped))
    with pytest.raises(Stopped):
        run(settings)
    other = make_generator()
    other.loaded = replace(other.loaded, revision="1")
    with pytest.raises(FaithgenError, match='revision was "0" and is "1"'):
        run(settings, resume=True, load=lambda *_: other)


def test_methods_that_the_model_cannot_run_are_left_out(run, settings, tmp_path):
    outcome, notes = run(replace(settings, methods=("base", "rhio", "control")))
    assert set(outcome.unavailable) == {"rhio", "control"}
    assert outcome.rows == 7
    assert sum("train them" in text for text in notes) == 2
    assert "train them" in (tmp_path / "out/report.md").read_text()
    again, _ = run(replace(settings, methods=("base", "rhio", "control")), resume=True)
    assert again.unavailable == outcome.unavailable
    with pytest.raises(FaithgenError, match="rhio cannot run: the model has no control tokens"):
        run(replace(settings, methods=("rhio",)), "alone")


def test_rhio_and_control_run_with_a_trained_model(run, settings):
    trained = make_generator(control=True)
    outcome, _ = run(replace(settings, methods=("base", "control", "rhio"), limit=3), load=lambda *_: trained)
    assert (outcome.rows, outcome.failed, outcome.unavailable) == (9, 0, {})


def test_error_rows_are_counted_and_stay_missing(run, settings, tmp_path):
    lines = [json.loads(line) for line in (tmp_path / "data.jsonl").read_text().splitlines()]
    lines[2]["question"] = "why? " * 2000
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    outcome, notes = run(replace(settings, methods=("base", "heads")))
    assert outcome.failed == 2
    assert any("2 of 14 rows failed" in text and "q2 by base" in text for text in notes)
    report = (tmp_path / "out/report.md").read_text()
    assert "1: 1 error: FaithgenError" in report
    assert "nan" not in report.lower().replace("finance", "")


def test_empty_answers_are_counted_and_warned_of(run, settings, tmp_path, monkeypatch):
    original = Answerer.answer

    def empty(self, *arguments, **options):
        return [replace(answer, text="") for answer in original(self, *arguments, **options)]

    monkeypatch.setattr(Answerer, "answer", empty)
    outcome, notes = run(replace(settings, methods=("base", "heads"), limit=3))
    assert outcome.empty == 6
    assert "warning: 6 of 6 answers are empty (base 3, heads 3)" in notes
    assert "6 of 6 answers are empty" in (tmp_path / "out/report.html").read_text()
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    estimate = summary[settings.datasets[0]]["methods"][0]["metrics"]["support_mean"]
    assert estimate["mean"] is None
    assert "no sentence" in estimate["reason"]


def test_rankers_run_without_a_model(run, settings, tmp_path):
    def load(*_):
        raise AssertionError("loaded")

    outcome, _ = run(replace(settings, methods=("bm25",), mode="rank", scorer=None), load=load)
    rows = read(tmp_path / "out/rows.jsonl")
    assert outcome.rows == len(rows) == 7
    assert all(0 <= row["metrics"]["ndcg@10"] <= 1 for row in rows)


def test_the_heads_scorer_reads_with_the_generators_own_model(settings, generator, monkeypatch):
    from faithgen.evaluation import runner, scorers

    seen = []

    class Fake:
        name, trained_on = "heads:tiny", ()

    monkeypatch.setattr(scorers, "load_scorer", lambda name, **options: seen.append((name, options)) or Fake())
    worker = runner.load_worker(replace(settings, scorer="heads"), "cpu", lambda *_: generator)
    assert seen == [("heads", {"model": generator.loaded})]
    assert worker.scorer.name == "heads:tiny"


def test_a_scorer_whose_model_is_not_there(run, settings, tmp_path):
    with pytest.raises(FaithgenError, match=r"nothing"):
        run(replace(settings, scorer=f"nli:{tmp_path}/nothing"))


def test_long_answers_are_asked_for_in_sentences(run, tmp_path, generator, monkeypatch):
    seen = []
    original = Answerer.variant

    def variant(self, method, instruction=None, without_documents=None):
        seen.append((instruction, without_documents))
        return original(self, method, instruction, without_documents)

    monkeypatch.setattr(worker_module.Answerer, "variant", variant)
    one = example(0, answers=[], long_answer="Long ago.")
    (tmp_path / "long.jsonl").write_text(json.dumps(one.to_dict()) + "\n")
    run(EvalSettings((str(tmp_path / "long.jsonl"),), ("base", "closed_book"), max_new_tokens=4))
    assert all("few sentences" in text for pair in seen for text in pair)


@pytest.mark.shared_data
@pytest.mark.parametrize("suite", ["conflict", "groundbench"])
def test_suites_on_real_rows(run, suite, tmp_path):
    asked = EvalSettings(
        suite_sets(suite),
        ("base", "heads"),
        suite=suite,
        data=str(SHARED),
        limit=1,
        max_new_tokens=4,
        scorer="lexical",
    )
    short = make_generator(max_position_embeddings=16384)
    outcome, _ = run(asked, load=lambda *_: short)
    sets = [name for name in suite_sets(suite) if name != "hagrid"]
    assert outcome.rows == 2 * len(sets)
    assert outcome.failed == 0
    assert list(outcome.missing) == (["hagrid"] if suite == "groundbench" else [])
    text = (tmp_path / "out/report.html").read_text()
    assert all(f'<h2 id="{name}">{name}</h2>' in text for name in sets)


@pytest.mark.shared_data
def test_one_set_at_several_gold_positions(run, tmp_path):
    sets = tuple(f"nq_hard:passages=3,gold_position={place}" for place in range(3))
    asked = EvalSettings(sets, ("base", "cafe"), data=str(SHARED), limit=1, max_new_tokens=4)
    long = make_generator(max_position_embeddings=8192)
    outcome, _ = run(asked, load=lambda *_: long)
    assert (outcome.rows, outcome.failed) == (6, 0)
    rows = read(tmp_path / "out/rows.jsonl")
    assert len({row["question"] for row in rows}) == 1
    places = [[document["gold"] for document in row["documents"]].index(True) for row in rows]
    assert places == [0, 0, 1, 1, 2, 2]
