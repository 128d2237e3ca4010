"""GGUF files are converted once, whole or not at all, and what was converted is checked before it is used."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from faithgen import hf
from faithgen.gguf import converted_gguf
from faithgen.model_cache import intact, sha256
from faithgen.models import load_model
from tests.conftest import ROOT
from tests.loading import fails


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FAITHGEN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def gguf(tmp_path):
    file = tmp_path / "small.Q4.gguf"
    file.write_bytes(b"GGUF the weights")
    return file


@pytest.fixture
def conversions(monkeypatch):
    """Files converted so far, by a stand-in for the conversion."""
    calls = []

    def convert(file, folder):
        calls.append(file)
        (folder / "config.json").write_text('{"model_type": "llama"}')
        (folder / "model.safetensors").write_bytes(file.read_bytes()[::-1])

    monkeypatch.setattr("faithgen.gguf._convert", convert)
    return calls


def leftovers(cache: Path) -> list[str]:
    """What stands in the cache beside converted models and their locks."""
    return [path.name for path in (cache / "models").iterdir() if path.name.startswith(".")]


def test_a_gguf_file_is_converted_once(gguf, conversions, cache):
    folder = converted_gguf(gguf)
    assert folder.parent == cache / "models"
    assert folder.name.startswith("small.Q4-")
    assert (folder / "model.safetensors").read_bytes() == b"GGUF the weights"[::-1]
    assert converted_gguf(gguf) == folder
    assert conversions == [gguf]
    assert leftovers(cache) == []
    manifest = json.loads((folder / "faithgen.json").read_text())
    assert manifest["source"] == "small.Q4.gguf"
    assert manifest["source_sha256"] == sha256(gguf)
    assert folder.name.endswith(manifest["source_sha256"][:16])
    assert manifest["files"].keys() == {"config.json", "model.safetensors"}
    assert manifest["files"]["model.safetensors"]["size"] == 16


def test_a_copy_of_the_file_is_the_same_model_and_a_changed_file_is_another(gguf, conversions, tmp_path):
    folder = converted_gguf(gguf)
    (tmp_path / "moved").mkdir()
    assert converted_gguf(Path(shutil.copy(gguf, tmp_path / "moved"))) == folder
    gguf.write_bytes(b"GGUF new weights")
    assert converted_gguf(gguf) != folder
    assert len(conversions) == 2


def test_the_folder_appears_only_when_it_is_whole(gguf, monkeypatch, cache):
    seen = []

    def convert(file, folder):
        (folder / "config.json").write_text("{}")
        seen.append([path.name for path in (cache / "models").iterdir() if path.is_dir()])
        assert folder.parent == cache / "models", "on the same disk, so that it can be renamed"

    monkeypatch.setattr("faithgen.gguf._convert", convert)
    converted_gguf(gguf)
    assert len(seen) == 1
    assert all(name.startswith(".") for name in seen[0])


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 16),
        lambda folder: (folder / "model.safetensors").write_bytes(b"x"),
        lambda folder: (folder / "config.json").unlink(),
        lambda folder: (folder / "faithgen.json").unlink(),
        lambda folder: (folder / "faithgen.json").write_text("{"),
        lambda folder: (folder / "faithgen.json").write_text("[]"),
        lambda folder: (folder / "faithgen.json").write_text('{"files": {"config.json": {}}}'),
    ],
    ids=["same size", "cut", "file gone", "manifest gone", "no JSON", "another JSON", "no checksum"],
)
def test_a_damaged_folder_is_made_again(gguf, conversions, cache, damage):
    folder = converted_gguf(gguf)
    damage(folder)
    assert converted_gguf(gguf) == folder
    assert len(conversions) == 2
    assert (folder / "model.safetensors").read_bytes() == b"GGUF the weights"[::-1]
    assert intact(folder)
    assert leftovers(cache) == []


def test_a_new_time_stamp_alone_is_no_damage(gguf, conversions):
    folder = converted_gguf(gguf)
    os.utime(folder / "model.safetensors", (1, 1))
    assert converted_gguf(gguf) == folder
    assert len(conversions) == 1


def test_an_error_in_the_conversion_leaves_nothing_behind(gguf, monkeypatch, cache):
    def convert(file, folder):
        (folder / "half.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("faithgen.gguf._convert", convert)
    with pytest.raises(KeyboardInterrupt):
        converted_gguf(gguf)
    assert [path for path in (cache / "models").iterdir() if path.is_dir()] == []


@pytest.mark.parametrize("content", [b"", b"not a GGUF file at all", b"GGUF" + b"\xff" * 200])
def test_a_broken_gguf_file(tmp_path, cache, content):
    file = tmp_path / "broken.gguf"
    file.write_bytes(content)
    fails(file, match="could not be read as a GGUF model .*is the file whole")
    assert [path for path in (cache / "models").iterdir() if path.is_dir()] == []


def test_a_cache_that_cannot_be_written(gguf, conversions, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FAITHGEN_CACHE", str(tmp_path / "file"))
    fails(gguf, match="cannot convert .*set FAITHGEN_CACHE to a folder that can be written")
    assert conversions == []


def test_a_full_disk(gguf, monkeypatch, cache):
    def convert(file, folder):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("faithgen.gguf._convert", convert)
    fails(gguf, match="No space left on device")
    assert leftovers(cache) == []


def test_a_converted_file_is_loaded_under_its_own_name(gguf, monkeypatch, tiny_folder):
    def convert(file, folder):
        shutil.copytree(tiny_folder, folder, dirs_exist_ok=True)

    monkeypatch.setattr("faithgen.gguf._convert", convert)
    loaded = load_model(gguf)
    assert loaded.model_id == "small.Q4"
    assert loaded.revision == sha256(gguf)[:16]
    assert hf.head_shape(loaded.model).num_layers == 4


PROCESS = """
    import os, sys, time
    from pathlib import Path
    from faithgen import gguf
    from faithgen.model_cache import intact

    def convert(file, folder):
        with open(sys.argv[2], "a") as stream:
            stream.write("x")
        (folder / "config.json").write_text("{}")
        if sys.argv[3] == "die":
            os._exit(9)
        time.sleep(float(sys.argv[3]))
        (folder / "model.safetensors").write_text("whole")

    gguf._convert = convert
    folder = gguf.converted_gguf(Path(sys.argv[1]))
    assert (folder / "model.safetensors").read_text() == "whole"
    assert intact(folder)
    print(folder)
"""


def process(*arguments) -> subprocess.Popen:
    command = [sys.executable, "-c", textwrap.dedent(PROCESS), *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_processes_at_once_convert_once(gguf, tmp_path, cache):
    counter = tmp_path / "counter"
    running = [process(gguf, counter, 1.0) for _ in range(2)]
    printed = [one.communicate(timeout=60) for one in running]
    assert [one.returncode for one in running] == [0, 0], printed
    assert printed[0][0] == printed[1][0]
    assert counter.read_text() == "x"
    assert leftovers(cache) == []


def test_a_process_that_dies_while_converting_is_in_nobodys_way(gguf, tmp_path):
    counter = tmp_path / "counter"
    assert process(gguf, counter, "die").wait(timeout=60) == 9
    second = process(gguf, counter, 0.0)
    output, errors = second.communicate(timeout=60)
    assert second.returncode == 0, errors
    assert output.strip()
    assert counter.read_text() == "xx"
