"""What a machine grants the process, as its files say: a container's limits count, those around it too."""

import os

import pytest
import torch

from faithgen import machine
from faithgen.decoding.packing import packed_linears
from faithgen.models import load_model
from tests import tiny


def test_free_memory_is_a_number_of_bytes():
    assert machine.free_memory() > 2**20


MIB = 2**20
V2, V1 = ("0::{}", "sys/fs/cgroup", machine._V2), ("4:memory:{}", "sys/fs/cgroup/memory", machine._V1)


def fake_group(root, version, path, folder, limit, usage, droppable):
    """A process in the group `path`, and a group with a limit in `folder`."""
    line, mounted, names = version
    (root / "proc/self").mkdir(parents=True, exist_ok=True)
    (root / "proc/meminfo").write_text("MemTotal: 9000000 kB\nMemAvailable: 2048000 kB\n")
    (root / "proc/self/cgroup").write_text(f"9:cpu,cpuacct:/elsewhere\n{line.format(path)}\n")
    group = root / mounted / folder
    group.mkdir(parents=True)
    for name, value in zip(
        (*names[:2], "memory.stat"), (limit, usage, f"anon 1\n{names[2]} {droppable}"), strict=True
    ):
        (group / name).write_text(f"{value}\n")


@pytest.mark.parametrize("version", [V2, V1])
@pytest.mark.parametrize(
    ("path", "folder"),
    [("/", ""), ("/docker/abc", ""), ("/user.slice/job.scope", "user.slice/job.scope"), ("/a/b", "a"), ("/../b", "")],
)
def test_a_containers_limit_bounds_the_free_memory(tmp_path, monkeypatch, version, path, folder):
    fake_group(tmp_path, version, path, folder, 900 * MIB, 700 * MIB, 50 * MIB)
    monkeypatch.setattr(machine, "_ROOT", tmp_path)
    assert machine.free_memory() == 250 * MIB


@pytest.mark.parametrize("version", [V2, V1])
@pytest.mark.parametrize("limit", ["max", 9223372036854771712, 9000 * MIB])
def test_the_machines_memory_bounds_it_where_no_limit_does(tmp_path, monkeypatch, version, limit):
    fake_group(tmp_path, version, "/a", "a", limit, 700 * MIB, 0)
    monkeypatch.setattr(machine, "_ROOT", tmp_path)
    assert machine.free_memory() == 2000 * MIB


def test_a_group_over_its_limit_leaves_nothing(tmp_path, monkeypatch):
    fake_group(tmp_path, V2, "/a", "a", 500 * MIB, 700 * MIB, 0)
    monkeypatch.setattr(machine, "_ROOT", tmp_path)
    assert machine.free_memory() == 0
    with packed_linears(tiny.llama()) as count:
        assert count == 0


def test_a_system_without_these_files_says_something(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "_ROOT", tmp_path)
    assert machine.free_memory() > MIB


@pytest.fixture
def quota(tmp_path, monkeypatch):
    """A process bound to 64 processors, in a group with a quota."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.setattr(machine, "_ROOT", tmp_path)
    (tmp_path / "proc/self").mkdir(parents=True)

    def write(version, folder, quota, period):
        line, mounted = ("0::{}", "") if version == 2 else ("9:cpu,cpuacct:{}", "cpu")
        (tmp_path / "proc/self/cgroup").write_text(f"5:memory:/elsewhere\n{line.format('/a/b')}\n")
        group = tmp_path / "sys/fs/cgroup" / mounted / folder
        group.mkdir(parents=True)
        if version == 2:
            (group / "cpu.max").write_text(f"{quota} {period}\n")
        else:
            (group / "cpu.cfs_quota_us").write_text(f"{quota}\n")
            (group / "cpu.cfs_period_us").write_text(f"{period}\n")

    return write


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("folder", ["", "a", "a/b"])
def test_a_containers_quota_bounds_the_processors(quota, version, folder):
    quota(version, folder, 250000, 100000)
    assert machine.usable_cpus() == 2.5


@pytest.mark.parametrize(("version", "quota_of", "period"), [(1, -1, 100000), (2, "max", 100000), (1, 100000, 0)])
def test_without_a_quota_all_that_it_is_bound_to_are_its_own(quota, version, quota_of, period):
    quota(version, "a/b", quota_of, period)
    assert machine.usable_cpus() == 64


def test_a_system_without_affinity_or_groups_counts_its_processors(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "_ROOT", tmp_path)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    assert machine.usable_cpus() == 12


@pytest.fixture
def threads(monkeypatch):
    """Threads that torch is given, on a machine where it took 64."""
    given = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: given[-1] if given else 64)
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    return given


@pytest.mark.parametrize(("granted", "expected"), [(2.5, [2]), (0.5, [1]), (64, []), (128, [])])
def test_torch_computes_with_the_processors_that_are_granted(tiny_folder, threads, monkeypatch, granted, expected):
    monkeypatch.setattr(machine, "usable_cpus", lambda: granted)
    load_model(tiny_folder, device="cpu")
    assert threads == expected


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "MKL_NUM_THREADS"])
def test_a_number_of_threads_that_was_asked_for_stays(tiny_folder, threads, monkeypatch, name):
    monkeypatch.setenv(name, "16")
    monkeypatch.setattr(machine, "usable_cpus", lambda: 2)
    load_model(tiny_folder, device="cpu")
    assert threads == []
