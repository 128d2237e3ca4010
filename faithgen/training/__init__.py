"""Training a model to answer from its documents: unfaithful samples, RHIO, RetMask, and what comes after.

Names are imported on first use, so that `import faithgen.training` loads neither torch nor TRL.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from faithgen.training.export import export_checkpoint
    from faithgen.training.retmask_config import RetMaskConfig
    from faithgen.training.retmask_trainer import RetMaskTrainer
    from faithgen.training.rhio_config import RHIOConfig
    from faithgen.training.rhio_trainer import RHIOTrainer
    from faithgen.training.rows import read_rows
    from faithgen.training.unfaithful import build_unfaithful
    from faithgen.training.unfaithful_config import UnfaithfulConfig

_HOMES = {
    "RHIOConfig": "rhio_config",
    "RHIOTrainer": "rhio_trainer",
    "RetMaskConfig": "retmask_config",
    "RetMaskTrainer": "retmask_trainer",
    "UnfaithfulConfig": "unfaithful_config",
    "build_unfaithful": "unfaithful",
    "export_checkpoint": "export",
    "read_rows": "rows",
}

__all__ = [
    "RHIOConfig",
    "RHIOTrainer",
    "RetMaskConfig",
    "RetMaskTrainer",
    "UnfaithfulConfig",
    "build_unfaithful",
    "export_checkpoint",
    "read_rows",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'faithgen.training' has no attribute {name!r}")
    module = f"faithgen.training.{_HOMES[name]}"
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError as error:
        if error.name is not None and error.name.partition(".")[0] in ("trl", "peft", "datasets"):
            from faithgen.errors import MissingExtraError

            raise MissingExtraError("training", "train") from error
        raise


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
