"""What `run.json` keeps: settings, data, model, versions and hardware, so that a figure can be traced and a run repeated."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from faithgen.errors import FaithgenError
from faithgen.evaluation.plan import EvalSettings, Plan

if TYPE_CHECKING:
    from faithgen.evaluation.worker import Worker

_PACKAGES = (
    "faithgen",
    "torch",
    "transformers",
    "accelerate",
    "datasets",
    "sentence-transformers",
    "rank-bm25",
    "numpy",
)


def describe(worker: Worker) -> dict[str, Any]:
    """What `run.json` keeps of a loaded model: the part that is compared, the methods, and those that it cannot run."""
    from faithgen.evaluation.scorers import headline_allowed
    from faithgen.evaluation.worker import head_checksum

    names = worker.settings.methods
    found: dict[str, Any] = {
        "methods": {name: worker.method_record(name) for name in names},
        "unavailable": {name: reason for name in names if (reason := worker.unavailable(name)) is not None},
    }
    generator = worker.generator
    if generator is not None:
        heads = {"scoring": generator.scoring_heads, "copying": generator.copying_heads}
        found["model"] = {
            "id": generator.loaded.model_id,
            "revision": generator.loaded.revision,
            "dtype": str(generator.loaded.model.dtype).removeprefix("torch."),
            "heads": {
                role: {
                    "method": one.method,
                    "detected_in": one.model_id,
                    "data": one.data,
                    "checksum": head_checksum(one),
                }
                for role, one in heads.items()
            },
        }
    if worker.scorer is not None:
        allowed, reason = headline_allowed(worker.scorer.name)
        found["scorer"] = {
            "name": worker.scorer.name,
            "headline": allowed,
            "reason": reason,
            "threshold": worker.threshold,
            "trained_on": list(worker.scorer.trained_on),
        }
    if len(found["unavailable"]) == len(names):
        first = next(iter(found["unavailable"]))
        raise FaithgenError(f"{first} cannot run: {found['unavailable'][first]}")
    return found


def run_record(settings: EvalSettings, plan: Plan, found: Mapping[str, Any], baseline: str) -> dict[str, Any]:
    """`run.json` but for its `runs`: what was asked, of which data, by which model.

    Args:
        settings ([`EvalSettings`]), plan ([`Plan`]): of the run.
        found (`Mapping`): what [`describe`] gives.
        baseline (`str`): method that the others are compared with.
    """
    return {
        "settings": settings.record(),
        "baseline": baseline,
        "suite": settings.suite,
        "datasets": plan.record(),
        "tasks": {one.spec: {"set": one.name, **asdict(one.task)} for one in plan.sets},
        "sources": {one.spec: one.loaded.source for one in plan.sets},
        "missing": plan.missing,
        **found,
    }


def now() -> str:
    """The time, in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def machine(count: int, ray_workers: int | None) -> dict[str, Any]:
    """Versions and hardware."""
    import torch

    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    hardware: dict[str, Any] = {"cpu": _cpu(), "threads": torch.get_num_threads()}
    if torch.cuda.is_available():
        hardware["gpu"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"processes": count, "ray_workers": ray_workers, "versions": versions, "hardware": hardware}


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration, IndexError):
        return platform.processor()
