import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("trl")

from tests.conftest import ROOT

RECIPE = ROOT / "recipes/rhio/default_cpu.yaml"


def command_of(processes):
    """The command for one process, or for two, as the recipe says it."""
    start = "# faithgen train rhio " if processes == 1 else "# torchrun "
    (line,) = (line for line in RECIPE.read_text(encoding="utf-8").splitlines() if line.startswith(start))
    program, *arguments = shlex.split(line.removeprefix("# "))
    return [str(Path(sys.executable).with_name(program)), *arguments]


def run(folder, output, processes, **changes):
    """Train by the recipe's own command, in this many processes, a tiny model; returns the logs of the steps."""
    settings = {
        "model_name_or_path": str(folder),
        "dataset_name": str(output.parent / "rows.jsonl"),
        "output_dir": str(output),
        "unfaithful_weight": 1.0,
        "dtype": "float32",
        "bf16": False,
        "lora_r": 4,
        "max_steps": 4,
        "per_device_train_batch_size": 4 // processes,
        "gradient_accumulation_steps": 1,
        "learning_rate": 0.01,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
        **changes,
    }
    arguments = [text for key, value in settings.items() for text in (f"--{key}", str(value))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command_of(processes), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=environment,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((output / "faithgen_training.json").read_text()), done.stdout


def steps(printed):
    """Losses that the run printed, by step."""
    import ast

    logs = [
        ast.literal_eval(line) for line in printed.splitlines() if line.startswith("{") and "loss_faithful" in line
    ]
    return [[float(log[key]) for key in ("loss", "loss_faithful", "loss_unfaithful", "num_tokens")] for log in logs]


@pytest.mark.timeout(300)
def test_two_processes_reach_the_loss_of_one(tiny_folder, pairs, tmp_path):
    rows = [{**row, "id": f"{row['id']}-{copy}"} for copy in range(2) for row in pairs]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    one_record, one = run(tiny_folder, tmp_path / "one", 1)
    two_record, two = run(tiny_folder, tmp_path / "two", 2)
    assert len(steps(one)) == 4
    for alone, together in zip(steps(one), steps(two), strict=True):
        assert together[:3] == pytest.approx(alone[:3], abs=1e-3)
        assert together[3] == alone[3]
    assert steps(one)[-1][0] < steps(one)[0][0] - 0.01
    assert one_record["steps"] == two_record["steps"] == 4
    assert one_record["data"]["sha256"] == two_record["data"]["sha256"]
    from safetensors.torch import load_file

    weights = [load_file(tmp_path / name / "adapter_model.safetensors") for name in ("one", "two")]
    for name, weight in weights[0].items():
        assert (weight - weights[1][name]).abs().max() < 2e-3, name
