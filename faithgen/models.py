"""Loading a model: hub id, local folder, GGUF file or the packaged default, with dtype and device chosen for you."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from faithgen.adapters import TRAINING_RECORD, base_of, is_adapter, merge_adapter
from faithgen.default_model import DEFAULT_BASE, DEFAULT_MODEL, packaged_model, trained_default
from faithgen.errors import FaithgenError
from faithgen.gguf import converted_gguf, gguf_revision
from faithgen.machine import bound_threads

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

_DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass
class LoadedModel:
    """A causal language model ready for inference.

    Attributes:
        model (`PreTrainedModel`): in eval mode, on one device (or dispatched by `device_map`).
        tokenizer (`PreTrainedTokenizerFast`): its tokenizer.
        model_id (`str`): hub id, folder name or GGUF file stem; what a head set is bound to.
        revision (`str`): hub commit, or a checksum of the weights for local files.
        chat_template (`str`, *optional*): the tokenizer's chat template, `None` for a base model.
        lock (`threading.RLock`): held while the model or the tokenizer is at work; all that share them share it.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    model_id: str
    revision: str
    lock: threading.RLock = field(default_factory=threading.RLock, init=False, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        """For copies and other processes, which take a lock of their own."""
        return {name: value for name, value in vars(self).items() if name != "lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, lock=threading.RLock())

    @property
    def chat_template(self) -> str | None:
        return self.tokenizer.chat_template


def load_model(
    name: str | os.PathLike[str] | None = None,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
) -> LoadedModel:
    """Load a causal language model and its tokenizer.

    Args:
        name (`str` or `PathLike`, *optional*, defaults to `"default"`):
            `"default"` (SmolLM2-135M-Instruct with the packaged adapter), `"default-base"` (the same without), hub id
            (`"Qwen/Qwen3-0.6B"`), local folder in the transformers layout, or path of a `.gguf` file. GGUF files
            are converted once to safetensors in the cache folder (`FAITHGEN_CACHE`, or the platform's). A folder of a PEFT
            adapter is put on its base model and merged. What faithgen trained has the id of its base, whose heads it keeps,
            and a revision of its own.
        revision (`str`, *optional*): Hub revision; ignored for local files.
        dtype (`str`, *optional*, defaults to `"auto"`):
            `"auto"` is bfloat16 where the GPU or the CPU (AMX, avx512_bf16) computes in it, else float32.
        device (`str`, *optional*, defaults to `"auto"`):
            `"auto"` is `"cuda"` where there is one, else `"cpu"`. On a CPU, torch gets no more threads than the processors
            that a container's quota grants, unless `OMP_NUM_THREADS` is set.
        attn_implementation (`str`, *optional*): as in transformers; its own default otherwise.
        trust_remote_code (`bool`, *optional*, defaults to `False`): run code that a hub repository ships.

    Returns:
        [`LoadedModel`]

    Raises:
        FaithgenError: If the model is not found, is not a causal language model with a fast tokenizer, or the
            packaged model is not installed.
    """
    from faithgen import hf

    hf.quiet()
    if dtype not in _DTYPES:
        raise FaithgenError(f"dtype {dtype!r} is not one of {', '.join(_DTYPES)}")
    if name is not None and is_adapter(name):
        return _with_adapter(
            Path(name).expanduser(),
            dtype=dtype,
            device=device,
            attn_implementation=attn_implementation,
            trust_remote_code=trust_remote_code,
        )
    target, model_id, found_revision = locate(name)
    arguments: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if found_revision is None:
        arguments["revision"] = revision
    chosen_device = default_device() if device == "auto" else device
    if chosen_device.startswith("cuda") and default_device() != "cuda":
        raise FaithgenError(f"device {device!r} is not available on this machine; use cpu")
    if chosen_device == "cpu":
        bound_threads()
    with hf.collector_at_rest():
        model, tokenizer = _from_pretrained(
            target,
            str(name or DEFAULT_MODEL),
            arguments,
            resolve_dtype(dtype, chosen_device),
            chosen_device,
            attn_implementation,
        )
    return LoadedModel(model, tokenizer, model_id, found_revision or hub_commit(target, revision))


def _from_pretrained(
    target: str, asked: str, arguments: dict[str, Any], dtype: torch.dtype, device: str, attention: str | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any
    model: Any
    try:
        tokenizer = AutoTokenizer.from_pretrained(target, **arguments)
        model = AutoModelForCausalLM.from_pretrained(
            target, dtype=dtype, attn_implementation=attention, use_safetensors=True, **arguments
        )
        model = model.to(device).eval()
    except (OSError, ValueError, KeyError, TypeError, ImportError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise FaithgenError(
            f"model {asked!r} could not be loaded ({reason[:200]}); give a hub id, a folder with config.json and "
            "safetensors weights, or a .gguf file"
        ) from error
    if not getattr(tokenizer, "is_fast", False):
        raise FaithgenError(f"model {asked!r} has no fast tokenizer (tokenizer.json), which exact spans need")
    return model, tokenizer


def default_device() -> str:
    """`"cuda"` where there is one, else `"cpu"`."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def resolve_dtype(dtype: str, device: str) -> torch.dtype:
    """The dtype to compute in: bfloat16 where the device computes in it natively, else float32."""
    import torch

    from faithgen import hf

    if dtype != "auto":
        return getattr(torch, dtype)
    if device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if device == "cpu" and hf.cpu_has_bf16() else torch.float32


def locate(name: str | os.PathLike[str] | None) -> tuple[str, str, str | None]:
    """Where a model is read from.

    Args:
        name (`str` or `PathLike`, *optional*): as for [`load_model`].

    Returns:
        `(target, model_id, revision)`: what `from_pretrained` takes, the id of [`LoadedModel`], and a checksum of local
        weights (`None` for a hub id).

    Raises:
        FaithgenError: If there is no such file or folder, or it is no model.
    """
    source = _resolve(name)
    if isinstance(source, str):
        return source, source, None
    folder, model_id, revision = _local(source)
    return str(folder), model_id, revision


def _with_adapter(folder: Path, **load_arguments: Any) -> LoadedModel:
    """The adapter's base model with the adapter merged: an unmerged one costs time at every step."""
    name, revision = base_of(folder)
    base = load_model(DEFAULT_BASE if name == DEFAULT_MODEL else name, revision=revision, **load_arguments)
    trained_on = _recorded_base(folder).get("revision")
    if trained_on and base.revision and trained_on != base.revision:
        raise FaithgenError(
            f"adapter {str(folder)!r} was trained on {name!r} at {trained_on}, which is now {base.revision}; "
            "give it the base that it was trained on (faithgen export --base merges it onto another)"
        )
    model, tokenizer = merge_adapter(base.model, base.tokenizer, folder, name, "give the base it was trained on")
    return LoadedModel(model, tokenizer, base.model_id, f"{base.revision}+{folder_revision(folder)}")


def _resolve(name: str | os.PathLike[str] | None) -> Path | str:
    if name is None or str(name) == DEFAULT_MODEL:
        return trained_default()
    if str(name) == DEFAULT_BASE:
        return packaged_model()
    if not str(name).strip():
        raise FaithgenError("the model name is empty; give a hub id, a folder or a .gguf file")
    path = Path(name).expanduser()
    if path.exists():
        return path
    text = str(name)
    if text.endswith(".gguf") or text.startswith((".", "/", "~")) or text.count("/") > 1:
        raise FaithgenError(f"model {text!r} does not exist; give a hub id, a folder or a .gguf file")
    return text


def _local(path: Path) -> tuple[Path, str, str]:
    """Folder to load, id and revision of a local model; a GGUF file is converted on first use."""
    if path.is_file():
        if path.suffix != ".gguf":
            raise FaithgenError(f"model {str(path)!r} is a file but not a .gguf; give its folder")
        folder = converted_gguf(path)
        return folder, path.stem, gguf_revision(folder)
    if is_adapter(path):
        raise FaithgenError(f"{str(path)!r} is an adapter; merge it with its base first: faithgen export --merge")
    if not (path / "config.json").is_file():
        raise FaithgenError(f"model folder {str(path)!r} has no config.json; give a folder written by save_pretrained")
    revision = folder_revision(path)
    base = _recorded_base(path)
    if "model_id" in base:
        return path, base["model_id"], f"{base.get('revision', '')}+{revision}"
    return path, path.resolve().name, revision


def _recorded_base(folder: Path) -> dict[str, str]:
    """What a folder that faithgen trained says of the model it started from; empty for others."""
    try:
        base = json.loads((folder / TRAINING_RECORD).read_text(encoding="utf-8"))["base"]
        return {name: value for name, value in base.items() if isinstance(value, str)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def hub_commit(name: str, revision: str | None = None) -> str:
    """Commit of a model that has been loaded from the hub, as the hub's cache says; empty where it does not."""
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(name, "config.json", revision=revision)
    except ValueError:  # no name of a repository
        return ""
    return Path(found).parent.name if isinstance(found, str) else ""


def folder_revision(folder: Path) -> str:
    """Checksum (16 hex digits) of a checkpoint folder: config, and name, size and edges of its weight files."""
    config = next(file for name in ("config.json", "adapter_config.json") if (file := folder / name).is_file())
    digest = hashlib.sha256(config.read_bytes())
    for file in sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")]):
        size = file.stat().st_size
        digest.update(f"{file.name}:{size}".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(1 << 20))
            stream.seek(max(0, size - (1 << 20)))
            digest.update(stream.read(1 << 20))
    return digest.hexdigest()[:16]
