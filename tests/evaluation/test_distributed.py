import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from faithgen import FaithgenError
from faithgen.evaluation import ray_workers
from faithgen.evaluation.distributed import Processes, main_process, processes
from faithgen.evaluation.plan import EvalSettings
from faithgen.evaluation.runner import evaluate
from tests.evaluation.running import heads, make_generator, read, rows_file, without_times

WITHOUT_RAY = importlib.util.find_spec("ray") is None
NO_RAY = pytest.mark.skipif(WITHOUT_RAY, reason="pip install 'ray[data]' (the ray extra)")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A checkpoint folder with sharp attention, and its head sets."""
    folder = tmp_path_factory.mktemp("models")
    loaded = make_generator().loaded
    loaded.model.save_pretrained(folder / "tiny")
    loaded.tokenizer.save_pretrained(folder / "tiny")
    for seed, method in ((1, "query_focused"), (2, "copying")):
        heads(method, seed).save(folder / f"{method}.json")
    return folder


@pytest.fixture
def settings(model, tmp_path):
    path = rows_file(tmp_path / "data.jsonl", 9)
    return EvalSettings(
        (str(path),),
        ("base", "cafe", "heads"),
        max_new_tokens=6,
        scorer="lexical",
        batch_size=2,
        model=str(model / "tiny"),
        heads=(str(model / "query_focused.json"), str(model / "copying.json")),
        dtype="float32",
        device="cpu",
    )


@pytest.fixture
def alone(settings, tmp_path):
    """Rows of the same run in one process."""
    evaluate(settings, tmp_path / "alone")
    return without_times(read(tmp_path / "alone/rows.jsonl"))


def arguments(settings, output):
    """The same run on the command line."""
    given = ["--dataset", settings.datasets[0], "--methods", ",".join(settings.methods), "--max-new-tokens", "6"]
    given += [
        "--batch-size",
        "2",
        "--dtype",
        "float32",
        "--device",
        "cpu",
        "--model",
        settings.model,
        "--output",
        str(output),
    ]
    for path in settings.heads:
        given += ["--heads", path]
    return ["-m", "faithgen", "eval", *given]


def launched(settings, output, *more, count=2):
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(count)]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    command = [*launch, *arguments(settings, output), *more]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


# --- accelerate -------------------------------------------------------------------------------------------------------


def test_shares_are_disjoint_and_whole():
    items = list(range(11))
    shares = [Processes(rank, 3).share(items) for rank in range(3)]
    assert sorted(item for share in shares for item in share) == items
    assert max(map(len, shares)) - min(map(len, shares)) == 1
    assert Processes().share(items) == items


def test_one_process_alone(monkeypatch):
    for name in ("WORLD_SIZE", "RANK", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert processes() == Processes(0, 1, None)
    assert main_process()
    with pytest.raises(FaithgenError, match="mine"), Processes().together():
        raise FaithgenError("mine")
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "1")
    assert not main_process()


def test_two_processes_write_the_rows_of_one(settings, alone, tmp_path):
    run = launched(settings, tmp_path / "two")
    out, err = run.communicate(timeout=240)
    assert run.returncode == 0, err
    assert without_times(read(tmp_path / "two/rows.jsonl")) == alone
    record = json.loads((tmp_path / "two/run.json").read_text())
    assert record["runs"][0]["processes"] == 2
    assert not list((tmp_path / "two").glob("rows-*.jsonl"))
    assert out.count("report.md") == 1  # one process speaks
    assert err.count("rows answered") == 1


def test_two_killed_processes_lose_no_row(settings, alone, tmp_path):
    output = tmp_path / "two"
    run = launched(settings, output)
    deadline = time.monotonic() + 200
    while run.poll() is None and time.monotonic() < deadline:
        shards = list(output.glob("rows-*.jsonl"))
        if len(shards) == 2 and all(path.read_bytes().count(b"\n") >= 1 for path in shards):
            break
        time.sleep(0.005)
    children = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(run.pid)], capture_output=True, text=True, check=False
    )
    for child in (*children.stdout.split(), str(run.pid)):
        os.kill(int(child), signal.SIGKILL)
    run.communicate()
    written = {line for path in output.glob("rows*.jsonl") for line in path.read_text().splitlines()}
    assert 2 <= len(written) <= 27
    with (output / "rows-1.jsonl").open("a") as stream:
        stream.write('{"dataset": "torn')
    done = evaluate(settings, output, resume=True)  # by one process now
    assert done.rows == 27
    rows = output / "rows.jsonl"
    assert without_times(read(rows)) == alone
    assert len(written - set(rows.read_text().splitlines())) <= 1  # the line that was being written


def test_an_error_of_the_main_process_ends_all(settings, tmp_path):
    (tmp_path / "used").mkdir()
    (tmp_path / "used/other.txt").write_text("x")
    run = launched(settings, tmp_path / "used")
    _, err = run.communicate(timeout=240)
    assert run.returncode != 0
    assert err.count("is not empty and holds no run") == 1


# --- Ray --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ray():
    ray = pytest.importorskip("ray", reason="pip install 'ray[data]' (the ray extra)")
    yield ray
    ray.shutdown()


@NO_RAY
def test_ray_workers_write_the_rows_of_one_process_though_one_is_killed(settings, alone, tmp_path, ray):
    output = tmp_path / "ray"
    killed = []

    def kill():
        """Kill a worker once rows have come in and others are still to come."""
        import psutil

        deadline = time.monotonic() + 100
        while time.monotonic() < deadline and not killed:
            path = output / "rows.jsonl"
            if path.exists() and path.read_bytes().count(b"\n") >= 2:
                children = psutil.Process().children(recursive=True)
                workers = [child for child in children if "ray::MapWorker" in "".join(child.cmdline())]
                if workers:
                    workers[0].kill()
                    killed.append(workers[0].pid)
            time.sleep(0.01)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    outcome = evaluate(settings, output, ray_workers=2)
    thread.join(timeout=5)
    assert killed
    assert (outcome.rows, outcome.failed) == (27, 0)
    assert without_times(read(output / "rows.jsonl")) == alone
    assert json.loads((output / "run.json").read_text())["runs"][0]["ray_workers"] == 2


@NO_RAY
def test_an_error_of_a_ray_worker_is_one_line(settings, tmp_path, ray):
    with pytest.raises(FaithgenError, match="control tokens"):
        evaluate(replace(settings, methods=("rhio",)), tmp_path / "ray", ray_workers=2)


@NO_RAY
@pytest.mark.parametrize(
    ("describe", "words"),
    [
        (lambda given: 1 // 0, "ZeroDivisionError: integer division or modulo by zero"),
        (lambda given: os._exit(1), "worker"),
    ],
    ids=["a foreign error", "a lost worker"],
)
def test_what_a_ray_worker_cannot_tell_is_one_line(settings, tmp_path, ray, monkeypatch, describe, words):
    monkeypatch.setattr(ray_workers, "_describe", ray.remote(max_retries=0)(describe))
    monkeypatch.setattr(ray, "remote", lambda function: function)
    with pytest.raises(FaithgenError, match=words) as caught:
        evaluate(settings, tmp_path / "ray", ray_workers=2)
    assert str(caught.value).startswith("no Ray worker can describe the model (")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ray").exists()


def test_ray_needs_its_extra(settings, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(FaithgenError, match=r"faithgen\[ray\]"):
        evaluate(settings, tmp_path / "ray", ray_workers=2)
    assert not (tmp_path / "ray").exists()
    with pytest.raises(FaithgenError, match="1 worker or more"):
        evaluate(settings, tmp_path / "ray", ray_workers=0)
