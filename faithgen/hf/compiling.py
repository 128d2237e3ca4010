"""Which models run through `torch.compile` in one piece, and whether it has what it needs."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from typing import Any

import torch
import transformers
from torch import nn
from torch.torch_version import TorchVersion

from faithgen.errors import FaithgenError
from faithgen.hf.attention import takes_any_mask
from faithgen.hf.shape import attention_modules, device_of, text_config


def compiles(model: Any) -> bool:
    """Whether the compiled step of decoding runs this model; where it does not, the steps run uncompiled.

    It does not for a model:

    - whose layers do more than our written-out attention: windows ([`takes_any_mask`]), capped logits, sinks;
    - with rotary embeddings that choose their code by the positions: type `"dynamic"`, and `"longrope"` in transformers
      before 5.21;
    - that lies on several devices, or whose weights come and go (accelerate's hooks): a table is on one device;
    - on CUDA with torch before 2.13: CUDA graphs fail in another thread than the one that imported torch
      (pytorch issue 123177), and Inductor breaks `torch.bmm(out_dtype=...)` in 2.9 (165892).
    """
    if device_of(model).type == "cuda" and torch.__version__ < "2.13":  # compares versions, not strings
        return False
    return _is_written_out(model) and not _is_spread(model) and not any(map(_looks_at_positions, _ropes(model)))


def check_compiler(model: Any) -> None:
    """Raise a [`FaithgenError`] where `torch.compile` would look in vain for a C++ compiler, which it needs on a CPU."""
    usual = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    name = os.environ.get("CXX", usual)
    if device_of(model).type == "cpu" and compiles(model) and shutil.which(name) is None:
        raise FaithgenError(
            f"a compiled step on a CPU needs a C++ compiler, and {name!r} is not found; install one (Debian: "
            "apt install g++), name yours in CXX, or do without --compile (compiled=True)"
        )


def _is_written_out(model: Any) -> bool:
    capped = getattr(text_config(model), "attn_logit_softcapping", None)
    return takes_any_mask(model) and not capped and not hasattr(next(iter(attention_modules(model).values())), "sinks")


def _is_spread(model: nn.Module) -> bool:
    hooked = any(hasattr(module, "_hf_hook") for module in model.modules())
    return hooked or len({parameter.device for parameter in model.parameters()}) > 1


def _ropes(model: nn.Module) -> Iterator[str]:
    """Types of the rotary embeddings; some models have one for each type of layer."""
    for module in model.modules():
        found: Any = getattr(module, "rope_type", None)
        yield from found.values() if isinstance(found, dict) else [found] if isinstance(found, str) else []


def _looks_at_positions(rope: str) -> bool:
    return "dynamic" in rope or (rope == "longrope" and TorchVersion(transformers.__version__) < "5.21")
