"""faithgen: make a language model answer from the documents it is given, and show how."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from faithgen.answer import Answer
    from faithgen.decoding.contrast import ContrastConfig
    from faithgen.detection import detect_heads
    from faithgen.documents import Document
    from faithgen.errors import FaithgenError
    from faithgen.filtering.coarse import FilterConfig
    from faithgen.filtering.reranker import HeadReranker
    from faithgen.generator import FaithfulGenerator
    from faithgen.heads.ablation import mask_heads
    from faithgen.heads.head_set import HeadSet
    from faithgen.models import load_model
    from faithgen.training.unfaithful import build_unfaithful

_HOMES = {
    "Answer": "answer",
    "ContrastConfig": "decoding.contrast",
    "Document": "documents",
    "FaithfulGenerator": "generator",
    "FaithgenError": "errors",
    "FilterConfig": "filtering.coarse",
    "HeadReranker": "filtering.reranker",
    "HeadSet": "heads.head_set",
    "build_unfaithful": "training.unfaithful",
    "detect_heads": "detection",
    "load_model": "models",
    "mask_heads": "heads.ablation",
}

__all__ = [
    "Answer",
    "ContrastConfig",
    "Document",
    "FaithfulGenerator",
    "FaithgenError",
    "FilterConfig",
    "HeadReranker",
    "HeadSet",
    "build_unfaithful",
    "detect_heads",
    "load_model",
    "mask_heads",
]


def __getattr__(name: str) -> Any:
    """Import on first use: `import faithgen` and `faithgen --help` do not load torch."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"faithgen.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'faithgen' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
