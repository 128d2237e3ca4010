"""A run on Ray workers: each loads the model once, batches go to whichever is free.

A lost worker's batch goes to another: Ray Data restarts actors and their tasks without limit. Rows are kept as they come in,
so that a lost driver costs no more than the batches under way (`--resume`).
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from faithgen.errors import FaithgenError, MissingExtraError
from faithgen.evaluation.datasets.schema import Example
from faithgen.evaluation.plan import Batch, EvalSettings, Plan
from faithgen.evaluation.store import Row
from faithgen.evaluation.tasks import Task


def run_batches(settings: EvalSettings, plan: Plan, batches: Sequence[Batch], workers: int) -> Iterator[list[Row]]:
    """Rows of all batches, as they come in.

    Ray is taken as it is set up (`RAY_ADDRESS` names a cluster); without one a local Ray is started. Only text travels:
    settings and questions out, rows back, all as JSON. Model and head files must be readable where the workers run.

    Args:
        settings ([`EvalSettings`]), plan ([`Plan`]): of the run.
        batches (`Sequence[Batch]`): what is left to do.
        workers (`int`): how many, 1 or more.

    Raises:
        MissingExtraError: If Ray is not installed.
        FaithgenError: If it cannot be started or fails.
    """
    ray = start(workers)
    if not batches:
        return
    items = []
    for batch in batches:
        one = plan.set_of(batch.dataset)
        examples = [example.to_dict() for example in batch.examples]
        item = {"dataset": batch.dataset, "method": batch.method, "set": one.name, "task": asdict(one.task)}
        items.append({"batch": json.dumps(item | {"examples": examples})})
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # from_items makes blocks of many items; one item a block, so that a free worker never waits behind a busy one
    data = ray.data.from_items(items, override_num_blocks=len(items))
    mapped = data.map(
        RayWorker,
        fn_constructor_args=(json.dumps(asdict(settings)),),
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=1,
        num_gpus=_gpus(ray, workers),
    )
    try:
        for row in mapped.iter_rows():
            yield json.loads(row["rows"])
    except ray.exceptions.RayError as error:
        raise FaithgenError(f"Ray failed ({_reason(error)}); mend it and go on with --resume") from error


def describe_remotely(settings: EvalSettings, workers: int) -> dict[str, Any]:
    """What `run.json` keeps of the model, found out by a worker, so that this process need not load it.

    Raises:
        MissingExtraError: If Ray is not installed.
        FaithgenError: If the model cannot be loaded there, no method can run with it, or the worker is lost.
    """
    ray = start(workers)
    task = ray.remote(_describe).options(num_cpus=1, num_gpus=_gpus(ray, workers))
    try:
        found = ray.get(task.remote(json.dumps(asdict(settings))))
    except ray.exceptions.RayError as error:
        raise FaithgenError(
            f"no Ray worker can describe the model ({_reason(error)}); mend it and run again"
        ) from error
    if "error" in found:
        raise FaithgenError(found["error"])
    return found


def start(workers: int) -> Any:
    """Ray, started.

    Raises:
        MissingExtraError: If it is not installed.
        FaithgenError: If it cannot be started, or `workers` is below 1.
    """
    if workers < 1:
        raise FaithgenError(f"--ray is {workers}; give 1 worker or more")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingExtraError("running on Ray workers", "ray") from error
    if not ray.is_initialized():
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if "RAY_ADDRESS" not in os.environ:
            options |= {"num_cpus": workers, "include_dashboard": False}
        try:
            ray.init(**options)
        except (RuntimeError, ConnectionError, ValueError, OSError) as error:
            reason = " ".join(str(error).split())[:300]
            raise FaithgenError(f"Ray cannot be started ({reason}); check RAY_ADDRESS") from error
    return ray


class RayWorker:
    """One worker: model, heads and scorer, loaded once; one batch at a time."""

    def __init__(self, settings: str):
        from faithgen.evaluation.runner import load_worker

        given = _settings(settings)
        self.worker = load_worker(given, given.device)

    def __call__(self, item: dict[str, Any]) -> dict[str, str]:
        batch = json.loads(item["batch"])
        examples = [Example.from_dict(example) for example in batch["examples"]]
        task = Task(**{**batch["task"], "headline": tuple(batch["task"]["headline"])})
        rows = self.worker.run(Batch(batch["dataset"], batch["method"], examples), batch["set"], task)
        return {"rows": json.dumps(rows, allow_nan=False)}


def _describe(settings: str) -> dict[str, Any]:
    from faithgen.evaluation.provenance import describe
    from faithgen.evaluation.runner import load_worker

    given = _settings(settings)
    try:
        return describe(load_worker(given, given.device))
    except FaithgenError as error:
        return {"error": str(error)}


def _settings(text: str) -> EvalSettings:
    values: dict[str, Any] = json.loads(text)
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return EvalSettings(**values)


def _reason(error: Exception) -> str:
    """What went wrong, in one line: the end of a text that begins with Ray's traceback."""
    return " ".join(str(error).split())[-300:]


def _gpus(ray: Any, workers: int) -> float:
    """The share of a GPU that each worker gets; none where there is none."""
    total = ray.cluster_resources().get("GPU", 0)
    return min(1.0, total / workers)
