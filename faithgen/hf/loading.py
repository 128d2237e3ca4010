"""Around loading: what the processor can do, transformers' output, tokens that end an answer."""

from __future__ import annotations

import os
from typing import Any

import torch

from faithgen.hf.shape import text_config


def cpu_bf16_features() -> list[str]:
    """What this CPU has for bf16 matrix products, of AMX and avx512_bf16."""
    probes = {"AMX": "_is_amx_tile_supported", "avx512_bf16": "_is_avx512_bf16_supported"}
    return [name for name, probe in probes.items() if getattr(torch.cpu, probe, bool)()]


def cpu_has_bf16() -> bool:
    """True where bf16 matrix products are native on this CPU (AMX or avx512_bf16)."""
    return bool(cpu_bf16_features())


def quiet() -> None:
    """Keep transformers' progress bars and advice off our stderr; its errors still come through."""
    from transformers.utils import logging

    if "TRANSFORMERS_VERBOSITY" not in os.environ:
        logging.set_verbosity_error()
    logging.disable_progress_bar()


def end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """Ids that end an answer, from the generation config, the config and the tokenizer."""
    found: set[int | None] = set()
    for source in (getattr(model, "generation_config", None), text_config(model), tokenizer):
        value = getattr(source, "eos_token_id", None)
        found.update(value if isinstance(value, list | tuple) else [value])
    return frozenset(token for token in found if token is not None)
