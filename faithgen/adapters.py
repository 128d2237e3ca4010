"""Adapters of PEFT: found, and merged into their base model."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

from faithgen.errors import FaithgenError

TRAINING_RECORD = "faithgen_training.json"
"""File of a checkpoint that faithgen trained: what it was made from and how."""


def is_adapter(name: str | os.PathLike[str]) -> bool:
    """Whether this is a folder of a PEFT adapter without its base model."""
    folder = Path(name).expanduser()
    return (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file()


def base_of(folder: Path) -> tuple[str, str | None]:
    """Name and hub revision of the model that an adapter is for.

    Raises:
        FaithgenError: If its settings cannot be read.
    """
    try:
        settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        name, revision = settings["base_model_name_or_path"], settings.get("revision")
        if not isinstance(name, str):
            raise TypeError("it names no base model")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FaithgenError(f"adapter {str(folder)!r} is damaged ({error}); export it again") from error
    return name, revision


def merge_adapter(model: Any, tokenizer: Any, folder: Path, base: str, advice: str) -> tuple[Any, Any]:
    """The model with the adapter's weights added to its own, and the adapter's tokenizer.

    Args:
        model (`PreTrainedModel`), tokenizer (`PreTrainedTokenizerFast`): its base; the model is changed.
        folder (`Path`): of the adapter.
        base (`str`), advice (`str`): what errors call the base, and what to do about them.

    Raises:
        FaithgenError: If the adapter does not fit the model.
    """
    from peft import PeftModel
    from safetensors import SafetensorError
    from transformers import AutoTokenizer

    try:
        if (folder / "tokenizer_config.json").is_file():
            tokenizer = AutoTokenizer.from_pretrained(folder)
        grow_vocabulary(model, len(tokenizer))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PEFT's use of names that transformers has changed
            return PeftModel.from_pretrained(model, folder).merge_and_unload(safe_merge=True).eval(), tokenizer
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise FaithgenError(
            f"adapter {str(folder)!r} does not fit its base model {base!r} ({reason[:200]}); {advice}"
        ) from error


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
