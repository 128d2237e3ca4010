"""What this machine grants the process: memory and processors, within the limits of a container."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/")
_V2 = ("memory.max", "memory.current", "inactive_file")
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def usable_cpus() -> float:
    """Processors that the process may use at a time: those it is bound to, within the quota of its control groups (which may
    grant parts of one)."""
    try:
        bound = len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        bound = os.cpu_count() or 1
    return min([float(bound), *(_granted(group, new) for group, new in _groups("cpu"))])


def cpu_threads() -> int:
    """Threads that torch computes with once a model is loaded on a CPU.

    By itself it takes one for each core of the machine, and threads that wait for each other's turn are slow: so no more
    than processors are granted, unless the environment says how many (`OMP_NUM_THREADS`, `MKL_NUM_THREADS`).
    """
    import torch

    if {"OMP_NUM_THREADS", "MKL_NUM_THREADS"} & os.environ.keys():
        return torch.get_num_threads()
    return min(torch.get_num_threads(), max(1, int(usable_cpus())))


def bound_threads() -> None:
    """Let torch compute with [`cpu_threads`]."""
    import torch

    count = cpu_threads()
    if count != torch.get_num_threads():
        torch.set_num_threads(count)


def free_memory() -> float:
    """Bytes of memory that are free or hold what the system can drop, on the machine and within the limits of a container;
    unlimited where neither says."""
    return min(_free_on_host(), _free_in_groups())


def _free_on_host() -> float:
    try:
        lines = (_ROOT / "proc/meminfo").read_text(encoding="ascii").splitlines()
        return 1024.0 * int(next(line.split()[1] for line in lines if line.startswith("MemAvailable")))
    except (OSError, StopIteration, ValueError):
        pass
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, OSError, ValueError):
        return float("inf")


def _free_in_groups() -> float:
    """What the memory limits of this process' control groups leave, v2 and v1, those of the groups around them included (a
    container sees its own as the root). File pages not in use count as free."""
    return min((_left(group, *(_V2 if new else _V1)) for group, new in _groups("memory")), default=float("inf"))


def _left(group: Path, limit: str, usage: str, droppable: str) -> float:
    try:
        most, used = (int((group / name).read_text(encoding="ascii")) for name in (limit, usage))
        stat = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
        return max(0.0, float(most - used + int(stat.get(droppable, 0))))
    except (OSError, ValueError):  # no limit is the word "max", or no file
        return float("inf")


def _granted(group: Path, new: bool) -> float:
    """Processors that one control group grants."""
    try:
        if new:
            quota, period = (group / "cpu.max").read_text(encoding="ascii").split()
        else:
            quota, period = (
                (group / f"cpu.cfs_{name}_us").read_text(encoding="ascii") for name in ("quota", "period")
            )
        granted = int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # no limit is the word "max", or no file
        return float("inf")
    return granted if granted > 0 else float("inf")  # v1 says -1


def _groups(controller: str) -> Iterator[tuple[Path, bool]]:
    """The control groups of this process that limit something, those around them included (a container sees its own as the
    root), and whether they are of version 2."""
    with contextlib.suppress(OSError, ValueError):
        for line in (_ROOT / "proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and controller not in controllers.split(","):
                continue
            root = _ROOT / (f"sys/fs/cgroup/{controller}" if controllers else "sys/fs/cgroup")
            group = root / path.lstrip("/")
            yield from ((one, not controllers) for one in (group, *group.parents) if one.is_relative_to(root))
