import errno
import json
import os
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip("trl")

from tests.conftest import ROOT
from tests.training.conftest import DOCUMENTS, QUESTIONS


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    found = [
        {"id": str(i), "question": q, "documents": DOCUMENTS, "answer": a, "unfaithful": u}
        for i, (q, a, u) in enumerate(QUESTIONS)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    return path


@pytest.fixture
def recipe(tmp_path, tiny_folder, rows):
    path = tmp_path / "recipe.yaml"
    path.write_text(f"""\
model_name_or_path: {tiny_folder}
dataset_name: {rows}
output_dir: {tmp_path / "run"}
use_cpu: true
bf16: false
gradient_checkpointing: false
use_peft: true
lora_r: 4
lora_dropout: 0.0
lora_target_modules: all-linear
max_steps: 4
per_device_train_batch_size: 2
learning_rate: 1.0e-2
lr_scheduler_type: constant
warmup_steps: 0
logging_steps: 1
save_strategy: steps
save_steps: 2
report_to: none
disable_tqdm: true
""")
    return path


def losses(folder):
    state = json.loads((folder / "checkpoint-4" / "trainer_state.json").read_text())
    return [entry["loss"] for entry in state["log_history"] if "loss" in entry]


@pytest.mark.parametrize("method", ["rhio", "retmask"])
def test_a_recipe_trains_and_what_comes_out_is_exported(run, recipe, tmp_path, method):
    code, _, err = run("train", method, "--config", recipe, "--dataset_description", "Made up | by hand.")
    assert code == 0, err
    assert f"written to {tmp_path / 'run'}" in err
    record = json.loads((tmp_path / "run" / "faithgen_training.json").read_text())
    assert (record["method"], record["data"]["source"], record["data"]["rows"]) == (method, "rows.jsonl", 4)
    lengths = record["data"]["lengths"]["train"]
    assert (lengths["rows"], lengths["cut"], lengths["dropped"], lengths["limit"]) == (4, 0, 0, 1024)
    assert (record["settings"]["max_steps"], record["adapter"]["r"]) == (4, 4)
    code, _, err = run("export", "--checkpoint", tmp_path / "run", "--output", tmp_path / "merged", "--merge")
    assert code == 0, err
    assert "| description | Made up \\| by hand. |" in (tmp_path / "merged" / "README.md").read_text()
    code, _, err = run("train", method, "--config", recipe)
    assert code == 2
    assert "is not empty; add --resume_from_checkpoint true" in err


def test_evaluation_rows_are_of_their_own(run, recipe, rows, tmp_path):
    changes = ["--eval_strategy", "steps", "--eval_steps", "2", "--max_steps", "2", "--unfaithful_weight", "0.5"]
    code, _, err = run("train", "rhio", "--config", recipe, *changes)
    assert code == 2
    assert "eval_dataset_name" in err
    code, _, err = run("train", "rhio", "--config", recipe, *changes, "--eval_dataset_name", "none.jsonl")
    assert (code, "error: eval_dataset_name: there is no file 'none.jsonl'" in err) == (2, True)
    code, _, err = run("train", "rhio", "--config", recipe, *changes, "--eval_dataset_name", rows)
    assert code == 0, err
    record = json.loads((tmp_path / "run" / "faithgen_training.json").read_text())
    assert record["evaluation"]["eval_loss_unfaithful"] > 0
    assert record["settings"]["unfaithful_weight"] == 0.5


@pytest.mark.timeout(200)
def test_a_run_that_was_killed_reaches_the_same_loss(run, recipe, tmp_path):
    assert run("train", "rhio", "--config", recipe, "--output_dir", tmp_path / "whole")[0] == 0
    command = [sys.executable, "-m", "faithgen", "train", "rhio", "--config", str(recipe), "--max_steps", "4000"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    folder = tmp_path / "run"
    until = time.monotonic() + 120
    while not (folder / "checkpoint-2" / "trainer_state.json").exists() and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    for later in folder.glob("checkpoint-*"):  # it may have come further; be it killed while it wrote the next
        if later.name != "checkpoint-2":
            (later / "trainer_state.json").unlink(missing_ok=True)
    code, _, err = run("train", "rhio", "--config", recipe, "--resume_from_checkpoint", "true")
    assert code == 0, err
    assert losses(folder) == pytest.approx(losses(tmp_path / "whole"), abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--overlong", "cut"], "invalid choice: 'cut'"),
        (["--lerning_rate", "1"], "unknown arguments"),
        (["--dataset_name", "none.jsonl"], "there is no file 'none.jsonl'"),
        (["--dataset_name", "none"], "dataset_name is missing"),
        (["--model_name_or_path", "/none"], "does not exist"),
        (["--resume_from_checkpoint", "true"], "holds no whole checkpoint"),
        (["--resume_from_checkpoint", "gone"], "is no folder"),
        (["--max_length", "40"], "4 of 4 rows of the train data are longer than max_length 40"),
        (["--max_length", "40", "--overlong", "drop"], "all 4 rows"),
        (["--dataset_streaming"], "streamed"),
        (["--config", "gone.yaml"], "gone.yaml"),
        (["--lora_r", "0"], "lora_r is 0; allowed: a number of 1 or more"),
        (["--lora_dropout", "2"], "lora_dropout is 2.0; allowed: a number of 0 to 1"),
        (["--lora_target_modules", "nothing"], "training cannot start (Target modules"),
        (["--report_to", "nothing"], "training cannot start (nothing is not supported"),
        (["--adam_beta1", "2"], "training cannot start (Invalid beta parameter at index 0: 2.0)"),
        (["--lr_scheduler_type", "cosine_with_min_lr"], "training cannot start (One of min_lr or min_lr_rate"),
        (["--deepspeed", "/nope.json"], "settings cannot be used ("),
        (["--output_dir", "/proc/x/y"], "output_dir '/proc/x/y' cannot be written (No such file or directory)"),
        (["--output_dir", "{rows}/x"], "rows.jsonl/x' cannot be written (Not a directory); choose another"),
        (["--output_dir", "x" * 300], "cannot be written (File name too long)"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(run, recipe, rows, arguments, message, tmp_path):
    arguments = [argument.replace("{rows}", str(rows)) for argument in arguments]
    if arguments == ["--dataset_name", "none"]:
        recipe.write_text("\n".join(line for line in recipe.read_text().splitlines() if "dataset_name" not in line))
        arguments = []
    config = [] if "--config" in arguments else ["--config", recipe]
    code, _, err = run("train", "rhio", *config, *arguments)
    assert code == 2
    assert message in err.splitlines()[-1]
    assert err.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()


def test_a_reference_that_moves_is_not_for_adapters(run, recipe, tmp_path):
    code, _, err = run("train", "retmask", "--config", recipe, "--sync_ref_model", "true")
    assert code == 2
    assert "error: training cannot start (You passed `sync_ref_model=True` while using a PEFT model" in err
    assert not (tmp_path / "run").exists()


def test_a_full_disk_is_said_with_the_checkpoint_that_is_whole(run, recipe, tmp_path, monkeypatch):
    import torch

    def save(value, path, *rest, real=torch.save, **options):
        if "checkpoint-4" in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(value, path, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", save)
        code, _, err = run("train", "rhio", "--config", recipe)
    assert code == 2
    place = tmp_path / "run"
    assert err.splitlines()[-1] == (
        f"error: cannot write to output_dir '{place}' (No space left on device); make room, then "
        f"--resume_from_checkpoint true goes on from {place / 'checkpoint-2'}"
    )
    code, _, err = run("train", "rhio", "--config", recipe, "--resume_from_checkpoint", "true")
    assert code == 0, err


def test_a_run_goes_on_only_as_it_began(run, recipe, rows, tmp_path):
    assert run("train", "rhio", "--config", recipe)[0] == 0
    place = tmp_path / "run"
    one = tmp_path / "one.jsonl"
    one.write_text(rows.read_text().splitlines()[0] + "\n")
    resume = ["--config", recipe, "--resume_from_checkpoint", "true"]
    for method, changes, message in (
        ("retmask", [], "trained with method rhio, not retmask; set it back"),
        ("rhio", ["--dataset_name", one], "trained with dataset_name rows.jsonl (sha256 "),
        ("rhio", ["--lora_r", "8"], "trained with lora_r 4, not 8"),
        ("rhio", ["--use_peft", "false"], "trained with use_peft True, not False"),
        ("rhio", ["--unfaithful_weight", "0.5"], "trained with unfaithful_weight (the default), not 0.5"),
        ("rhio", ["--learning_rate", "1"], "trained with learning_rate 0.01, not 1.0"),
        ("rhio", ["--gradient_accumulation_steps", "2"], "gradient_accumulation_steps * processes 2, not 4"),
    ):
        code, _, err = run("train", method, *resume, "--max_steps", "6", *changes)
        assert (code, message in err.splitlines()[-1]) == (2, True), err
        assert f"resume_from_checkpoint '{place / 'checkpoint-4'}' was" in err
    # what may change: length, saving, logging, the name of the rows, and where it is written
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(rows.read_bytes())
    changes = ["--max_steps", "5", "--save_steps", "1", "--logging_steps", "2", "--dataset_name", copy]
    code, _, err = run("train", "rhio", *resume, *changes, "--share_prompt", "true")
    assert code == 0, err
    assert json.loads((place / "faithgen_training.json").read_text())["steps"] == 5


def test_a_damaged_checkpoint_is_refused_by_name_and_passed_over_otherwise(run, recipe, tiny_folder, tmp_path, caplog):
    assert run("train", "rhio", "--config", recipe)[0] == 0
    place = tmp_path / "run" / "checkpoint-4"
    whole = {path.name: path.read_bytes() for path in place.iterdir()}
    for name, data, message in (
        ("trainer_state.json", None, "trainer_state.json is missing"),
        ("trainer_state.json", b"{", "trainer_state.json is damaged"),
        ("adapter_model.safetensors", None, "the weights are missing"),
        ("adapter_model.safetensors", whole["adapter_model.safetensors"][:-9], "adapter_model.safetensors is damaged"),
        ("optimizer.pt", None, "the optimizer's state is missing"),
        ("optimizer.pt", whole["optimizer.pt"][:-9], "optimizer.pt is damaged"),
        ("scheduler.pt", b"x", "scheduler.pt is damaged"),
        ("rng_state.pth", b"", "rng_state.pth is damaged"),
        ("faithgen_training.json", b"{}", "not a training record"),
    ):
        (place / name).unlink()
        if data is not None:
            (place / name).write_bytes(data)
        code, _, err = run("train", "rhio", "--config", recipe, "--resume_from_checkpoint", place)
        assert (code, message in err.splitlines()[-1]) == (2, True), err
        (place / name).write_bytes(whole[name])
    code, _, err = run("train", "rhio", "--config", recipe, "--resume_from_checkpoint", tiny_folder)
    assert (code, "is no whole checkpoint (trainer_state.json is missing)" in err) == (2, True)
    (place / "optimizer.pt").write_bytes(b"x")
    code, _, err = run("train", "rhio", "--config", recipe, "--resume_from_checkpoint", "true")
    assert code == 0, err
    assert f"{place} is passed over: optimizer.pt is damaged" in caplog.text


def test_the_instruction_of_all_rows_is_the_models(run, recipe, rows, tmp_path):
    found = [{**json.loads(line), "instruction": "Be brief."} for line in rows.read_text().splitlines()]
    rows.write_text("".join(json.dumps(row) + "\n" for row in found))
    code, _, err = run("train", "rhio", "--config", recipe, "--max_steps", "1", "--save_strategy", "no")
    assert code == 0, err
    record = json.loads((tmp_path / "run" / "faithgen_training.json").read_text())
    assert record["control"]["instruction"] == record["settings"]["instruction"] == "Be brief."


def test_rows_without_unfaithful_answers_are_refused(run, recipe, rows):
    bare = [{k: v for k, v in json.loads(line).items() if k != "unfaithful"} for line in rows.read_text().splitlines()]
    rows.write_text("".join(json.dumps(row) + "\n" for row in bare))
    code, _, err = run("train", "rhio", "--config", recipe)
    assert code == 2
    assert "has no 'unfaithful'" in err
    code, _, err = run("train", "rhio", "--config", recipe, "--unfaithful_weight", "0", "--max_steps", "1")
    assert code == 0, err


def test_help_lists_the_keys(run):
    code, out, _ = run("train", "rhio", "--help")
    assert code == 0
    assert "--unfaithful_weight" in out
    assert "--learning_rate" in out
    code, out, _ = run("train", "--help")
    assert "retmask" in out


def test_a_missing_extra_says_how_to_install_it(run, recipe, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    code, _, err = run("train", "rhio", "--config", recipe)
    assert code == 2
    assert "pip install 'faithgen[train]'" in err
