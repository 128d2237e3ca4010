"""From a training run's folder to a checkpoint others can load: merged, or a clean adapter, each with its card."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

from faithgen import models
from faithgen.adapters import is_adapter, merge_adapter
from faithgen.decoding.contrast import ContrastConfig
from faithgen.errors import FaithgenError
from faithgen.models import hub_commit
from faithgen.prompting import CONTROL_MARK, control_settings
from faithgen.training.card import model_card
from faithgen.training.loading import Base
from faithgen.training.record import read_record, write_record

DTYPES = ("auto", "float32", "bfloat16", "float16")


def export_checkpoint(
    checkpoint: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    merge: bool = False,
    base: str | None = None,
    dtype: str = "auto",
    results: str | os.PathLike[str] | None = None,
    alpha: float | None = None,
) -> Path:
    """Export a trained checkpoint.

    Args:
        checkpoint (`str` or `PathLike`): folder that `faithgen train` wrote (or one of its `checkpoint-*`).
        output (`str` or `PathLike`): folder to make; written under a temporary name and renamed.
        merge (`bool`, *optional*, defaults to `False`):
            Merge the adapter into its base model: an ordinary checkpoint for transformers, vLLM and others. Otherwise the
            adapter alone, which faithgen puts on its base when it loads it. A checkpoint of a whole model is whole already.
        base (`str`, *optional*):
            The base model, where it is not found under the name it was trained by, or has changed there. If it is not of the
            revision that was trained, this is warned of; without `base` it is an error.
        dtype (`str`, *optional*, defaults to `"auto"`): of the weights; `"auto"` keeps that of the base, or of the adapter.
        results (`str` or `PathLike`, *optional*): JSON of figures for the card: a list of rows, or name to figure.
        alpha (`float`, *optional*):
            Contrast strength that [`FaithfulGenerator`] is to use with this model where it is given none; as chosen on
            rows that are not reported on. Without it, RHIO's 0.2.

    Returns:
        `Path` of the folder: weights, tokenizer with the control tokens, `faithgen_training.json` and `README.md`.

    Raises:
        FaithgenError: If the checkpoint is none, does not fit its base, or the output is not empty or cannot be written.
    """
    source, target = Path(checkpoint), Path(output)
    if dtype not in DTYPES:
        raise FaithgenError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    ContrastConfig(alpha=alpha)  # its range
    record = read_record(source)
    if alpha is not None:
        if not record.get("control"):
            raise FaithgenError(f"{str(source)!r} has no control tokens to contrast; leave --alpha out")
        record["control"]["alpha"] = alpha
    trained = Base.from_record(record)
    record["base"]["name"] = base or trained.name
    adapter = is_adapter(source)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FaithgenError(f"output {str(target)!r} is not empty; choose another")
    whole = merge or not adapter
    tokenizer = _tokenizer(source, record)
    settings = _adapter_settings(source) if adapter else {}
    card = model_card(target.name, record, merged=whole, results=Path(results) if results is not None else None)
    temporary = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        os.chmod(temporary, 0o755)
        if not whole:
            settings |= {
                "base_model_name_or_path": base or trained.name,
                "revision": trained.commit if (base or trained.name) == trained.name else None,
            }
            _write_adapter(source, temporary, settings, dtype)
        elif adapter:
            _load_merged(source, tokenizer, trained, base, dtype).save_pretrained(temporary)
        else:
            _load(
                str(source), dtype, "its weights or config.json are damaged, give another checkpoint of the run"
            ).save_pretrained(temporary)
        if alpha is not None:
            tokenizer.init_kwargs[CONTROL_MARK]["alpha"] = alpha
        tokenizer.save_pretrained(temporary)
        write_record(temporary, {**record, "merged": whole})
        (temporary / "README.md").write_text(card, encoding="utf-8")
        for file in temporary.iterdir():  # weights are written for their owner alone
            file.chmod(0o644)
        if target.exists():
            target.rmdir()
        temporary.rename(target)
    except OSError as error:
        raise FaithgenError(
            f"cannot write {str(target)!r} ({error.strerror or error}); choose another output"
        ) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    return target


def _load(name: str, dtype: str, advice: str, revision: str | None = None) -> Any:
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    try:
        return AutoModelForCausalLM.from_pretrained(name, dtype=dtype, revision=revision, use_safetensors=True)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        at = f" (revision {revision})" if revision else ""
        raise FaithgenError(f"the model {name!r}{at} could not be loaded; {advice}") from error


def _load_merged(source: Path, tokenizer: Any, trained: Base, base: str | None, dtype: str) -> Any:
    """The base model with the adapter merged."""
    name = base or trained.name
    target, _, checksum = models.locate(name)
    pinned = trained.commit if checksum is None and name == trained.name else None
    advice = "name the base that was trained with --base"
    model = _load(target, dtype, advice, pinned)
    found = checksum or pinned or hub_commit(target) or "unknown"
    if trained.revision not in ("", found):
        what = f"the base model {name!r} has revision {found}, and the adapter was trained on {trained.revision}"
        if base is None:
            raise FaithgenError(f"{what}; {advice}")
        warnings.warn(f"{what}; are they the same model?", UserWarning, stacklevel=3)
    return merge_adapter(model, tokenizer, source, name, advice)[0]


def _adapter_settings(source: Path) -> dict[str, Any]:
    """The config of an adapter whose files are whole."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(source / "adapter_model.safetensors", framework="pt"):
            settings = json.loads((source / "adapter_config.json").read_text(encoding="utf-8"))
        if not isinstance(settings, dict) or "peft_type" not in settings:
            raise ValueError("no config of an adapter")
    except (OSError, ValueError, SafetensorError) as error:
        raise FaithgenError(
            f"adapter {str(source)!r} is damaged or not there; give a folder of faithgen train"
        ) from error
    return settings


def _write_adapter(source: Path, folder: Path, settings: dict[str, Any], dtype: str) -> None:
    """The adapter's weights in the dtype asked for, and its config."""
    import torch
    from safetensors.torch import load_file, save_file

    weights = load_file(source / "adapter_model.safetensors")
    if dtype != "auto":
        weights = {name: weight.to(getattr(torch, dtype)) for name, weight in weights.items()}
    save_file(weights, folder / "adapter_model.safetensors", {"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _tokenizer(source: Path, record: dict[str, Any]) -> Any:
    """The checkpoint's tokenizer, with the control tokens if it was trained with them."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        if record["control"] and control_settings(tokenizer) is None:
            raise ValueError("it has lost the control tokens")
    except Exception as error:  # `tokenizers` raises nothing more exact for a file of another kind
        reason = " ".join(str(error).split())[:200]
        raise FaithgenError(
            f"the tokenizer of {str(source)!r} is damaged or not there ({reason}); give another checkpoint of the run, or "
            "copy the file from one"
        ) from error
    return tokenizer
