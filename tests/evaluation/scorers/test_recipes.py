"""The recipes and the benchmark, run as a user runs them, on labelled rows written here."""

import contextlib
import importlib.util
import io
import json
import random
import sys

import pytest

from faithgen.evaluation.scorers import load_scorer
from faithgen.evaluation.scorers.logistic import LogisticHead
from tests.conftest import ROOT

THINGS = ["the lamp", "the ferry", "the keeper", "the tower", "the storm", "the tram line"]
PLACES = ["the harbour", "the sound", "the night", "twenty minutes", "skarnholm"]


def run(script, *arguments, fails=False):
    """Run a script's `main` in this process; what it printed, or the message it ended with."""
    file, printed = ROOT / script, io.StringIO()
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(sys, "argv", [str(file), *map(str, arguments)])
        patch.syspath_prepend(file.parent)
        spec.loader.exec_module(module)
        if fails:
            with pytest.raises(SystemExit) as ended:
                module.main()
            return str(ended.value)
        module.main()
    return printed.getvalue()


def write(root, path, rows):
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two sets in the shapes of BEGIN and ARES: a claim is supported if it says the place its document says."""
    root, rng = tmp_path_factory.mktemp("data"), random.Random(0)

    def row(number):
        thing, place, wrong = rng.choice(THINGS), *rng.sample(PLACES, 2)
        label = number % 2
        document = f"Day {number}. {thing.capitalize()} was in {place}. The ticket costs {number}."
        return document, f"{thing.capitalize()} was in {place if label else wrong}.", label

    dev, ares = [row(number) for number in range(40)], [row(number) for number in range(100, 130)]
    names = {1: "Fully attributable", 0: "Not fully attributable"}
    begin = [{"model": "m", "knowledge": d, "message": "?", "response": r, "label": names[x]} for d, r, x in dev]
    write(root, "begin_wow/dev.jsonl", begin)
    write(
        root,
        "ares_human/human200.jsonl",
        [{"question": "q", "document": d, "answer": a, "faithfulness": x} for d, a, x in ares],
    )
    return root


@pytest.fixture(scope="module")
def trained(data, embedding_folder, tmp_path_factory):
    """A cross-encoder trained on the BEGIN rows, and what the recipe printed."""
    folder = tmp_path_factory.mktemp("trained")
    done = run(
        "recipes/scorer/train_cross_encoder.py",
        *("--base", embedding_folder, "--output", folder / "tiny", "--data", data, "--hold-out", "ares_human"),
        *("--sets", "begin_wow_dev", "ares_human", "--rows", 40, "--epochs", 1, "--batch-size", 8, "--max-length", 64),
    )
    return folder, done


def test_a_trained_cross_encoder_is_a_scorer(trained):
    folder, printed = trained
    assert "40 pairs from 1 sets, base embedding" in printed
    assert "ares_human, not trained on: AUROC" in printed
    scorer = load_scorer("cross_encoder", model=folder / "tiny")
    assert (scorer.name, scorer.trained_on, scorer.max_length) == ("cross_encoder:tiny", ("begin_wow_dev",), 64)
    (value,) = scorer.score(["The lamp was in the harbour."], [["The lamp was in the harbour."]])
    assert 0 < value < 1
    files = {file.name for file in (folder / "tiny").iterdir()}
    assert "model.safetensors" in files
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pkl"))]
    about = json.loads((folder / "tiny" / "faithgen_scorer.json").read_text())
    assert about["rows"] == {"begin_wow_dev": {"0": 20, "1": 20}}
    assert about["licences"] == {"begin_wow_dev": "CC BY 4.0"}
    assert (about["held_out"], about["settings"]["seed"]) == (["ares_human"], 0)


def test_scores_of_the_held_out_set_are_those_of_the_trained_folder(trained, data):
    folder, _ = trained
    rows = [json.loads(line) for line in (folder / "left_out/ares_human.jsonl").read_text().splitlines()]
    assert len(rows) == 30
    source = [json.loads(line) for line in (data / "ares_human/human200.jsonl").read_text().splitlines()]
    scorer = load_scorer("cross_encoder", model=folder / "tiny")
    again = scorer.score([row["answer"] for row in source], [[row["document"]] for row in source])
    assert [row["probability"] for row in rows] == pytest.approx(again, abs=1e-5)


def test_an_output_that_exists_is_not_written_over(trained, data, embedding_folder):
    folder, _ = trained
    done = run(
        "recipes/scorer/train_cross_encoder.py",
        *("--base", embedding_folder, "--output", folder / "tiny", "--data", data, "--sets", "begin_wow_dev"),
        fails=True,
    )
    assert "exists already; choose another --output" in done


def test_the_benchmark_judges_scores_of_left_out_sets(trained, data):
    folder, _ = trained
    arguments = ("--data", data, "--scores", folder / "left_out", "--name", "cross_encoder:tiny")
    done = run("benchmarks/scorers.py", *arguments)
    assert "cross_encoder:tiny, one set left out" in done
    line = json.loads(done.splitlines()[-1])
    assert line["headline"] is False
    assert list(line["auroc_low_high_ba"]) == ["ares_human"]


def test_the_benchmark_judges_a_scorer(data):
    done = run("benchmarks/scorers.py", "--data", data, "--sets", "ares_human", "begin_wow_dev", "--limit", 20)
    line = json.loads(done.splitlines()[-1])
    assert line["scorer"] == "lexical"
    assert all(auroc > 0.9 for auroc, *_ in line["auroc_low_high_ba"].values()), "words tell these rows apart"
    refused = run("benchmarks/scorers.py", "--data", data, "--sets", "ares_human", "--write", fails=True)
    assert "--write keeps figures over all rows of all sets" in refused


# --- heads ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def signals(data, tmp_path):
    """What `fit_heads.py read` keeps: the signal `gap` tells the labels apart, the others are noise."""
    rng = random.Random(0)
    names = ["context_share", "logprob", "logprob_min", "jsd", "gap", "lookback:2-1", "lookback:0-3"]
    about = {"model_id": "tiny", "revision": "0", "watched": [[2, 1]], "masked": [[0, 3]], "heads": [[2, 1], [0, 3]]}
    (tmp_path / "about.json").write_text(json.dumps(about))
    for name, count in (("begin_wow_dev", 40), ("ares_human", 30)):
        rows = []
        for number in range(1, count + 1):
            values = {signal: rng.gauss(0, 1) for signal in names}
            values["gap"] += 3 * (1 - number % 2)  # the second row of a file is the first that is supported
            rows.append({"id": f"{number}/0", "parts": [values]})
        write(tmp_path, f"{name}.jsonl", rows)
    return tmp_path


def test_a_head_is_fitted_and_judged_by_leaving_a_set_out(signals, data):
    done = run("recipes/scorer/fit_heads.py", "fit", "--output", signals, "--data", data, "--train", "begin_wow_dev")
    head = LogisticHead.load(signals / "reading.json")
    assert head.features[:5] == ["context_share", "logprob", "logprob_min", "jsd", "gap"]
    assert head.features[5:] == ["lookback:2-1", "lookback:0-3"]
    assert head.weights[4] > 1 > max(abs(weight) for place, weight in enumerate(head.weights) if place != 4)
    assert (head.model_id, head.watched, head.masked) == ("tiny", [(2, 1)], [(0, 3)])
    assert head.trained_on == ["begin_wow_dev"]
    assert head.provenance["licences"] == {"begin_wow_dev": "CC BY 4.0"}
    assert head.provenance["rows"] == {"begin_wow_dev": {"supported": 20, "not supported": 20}}
    assert LogisticHead.load(signals / "signals.json").features == ["context_share", "logprob", "logprob_min", "jsd"]
    judged = [line for line in done.splitlines() if line.startswith("reading: ares_human")]
    assert float(judged[0].split("AUROC ")[1].split()[0]) > 0.85
    assert len((signals / "left_out_reading/ares_human.jsonl").read_text().splitlines()) == 30


def test_signals_cut_short_by_a_kill_are_dropped(signals, data):
    file = signals / "ares_human.jsonl"
    whole = file.read_text()
    file.write_text(whole[:-40])
    run("recipes/scorer/fit_heads.py", "fit", "--output", signals, "--data", data, "--train", "begin_wow_dev")
    assert file.read_text() == "".join(whole.splitlines(keepends=True)[:-1])
    assert len((signals / "left_out_reading/ares_human.jsonl").read_text().splitlines()) == 29


def test_train_sets_that_were_not_read(signals, data):
    done = run(
        "recipes/scorer/fit_heads.py", "fit", "--output", signals, "--data", data, "--train", "qags", fails=True
    )
    assert "none of the --train sets was read with both labels" in done
