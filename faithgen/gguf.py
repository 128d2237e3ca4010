"""GGUF files, converted once to folders in the transformers layout."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import sys
from pathlib import Path

from faithgen.errors import FaithgenError
from faithgen.model_cache import MANIFEST, cache_folder, intact, made_once, sha256

logger = logging.getLogger(__name__)


def converted_gguf(file: Path) -> Path:
    """Folder of the safetensors form of a GGUF file, converted on first use (15-40 s for the default).

    Keyed by the file's checksum (see [`made_once`]).

    Raises:
        FaithgenError: If the file cannot be read as GGUF or the cache folder cannot be written.
    """
    try:
        checksum = sha256(file)
        name = f"{file.stem}-{checksum[:16]}"
        return made_once(name, lambda folder: _convert(file, folder), file.name, checksum)
    except OSError as error:
        raise FaithgenError(
            f"cannot convert {str(file)!r} into the cache folder {str(cache_folder() / 'models')!r} "
            f"({error.strerror or error}); set FAITHGEN_CACHE to a folder that can be written"
        ) from error


def find_converted(file: Path) -> Path | None:
    """The folder that [`converted_gguf`] gives, where it is there already and whole; nothing is converted or written."""
    folder = cache_folder() / "models" / f"{file.stem}-{sha256(file)[:16]}"
    return folder if intact(folder) else None


def gguf_revision(folder: Path) -> str:
    """First 16 hex digits of the checksum of the file that a converted folder is of."""
    return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["source_sha256"][:16]


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
