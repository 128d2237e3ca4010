"""A support cross-encoder fine-tuned on labelled claims by `recipes/scorer/train_cross_encoder.py`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from faithgen.errors import FaithgenError
from faithgen.evaluation.scorers.nli import NliScorer

PROVENANCE = "faithgen_scorer.json"
"""File of a trained scorer's folder that says how it was made."""

FORMAT = "faithgen-support-cross-encoder-1"
_TRAIN = "train one: python recipes/scorer/train_cross_encoder.py (recipes/scorer/README.md)"


class CrossEncoderScorer(NliScorer):
    """Judges claims with a fine-tuned support cross-encoder; chunks and reading as [`NliScorer`], by the sigmoid.

    Args:
        model (`str` or `PathLike`): folder that `recipes/scorer/train_cross_encoder.py` wrote.
        device (`str`, *optional*, defaults to `"auto"`): `"auto"` is `"cuda"` where there is one, else `"cpu"`.
        batch_size (`int`, *optional*, defaults to 32): pairs a forward.
        max_length (`int`, *optional*): tokens of a pair; what it was trained with by default.
        top_chunks (`int`, *optional*, defaults to 3):
            Read only as many chunks for a claim, those with the most lexical support (it was trained on the one with the
            most); `None` reads all.

    Raises:
        FaithgenError: If no folder is given, or it is not a trained support cross-encoder.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        device: str = "auto",
        batch_size: int = 32,
        max_length: int | None = None,
        top_chunks: int | None = 3,
    ):
        if model is None:
            raise FaithgenError(f"the scorer cross_encoder needs the folder of a trained one (model=FOLDER); {_TRAIN}")
        self.provenance = read_provenance(Path(model))
        length = max_length or int(self.provenance["max_length"])
        super().__init__(
            model, device=device, batch_size=batch_size, max_length=length, label=0, top_chunks=top_chunks
        )
        config: Any = self.model.config
        if config.num_labels != 1:
            raise FaithgenError(f"scorer model {str(model)!r} has {config.num_labels} outputs, not one; {_TRAIN}")
        self.name = f"cross_encoder:{self.provenance['name']}"
        self.trained_on = tuple(self.provenance["trained_on"])


def read_provenance(folder: Path) -> dict[str, Any]:
    """How a trained scorer was made.

    Returns:
        `dict`: at least `name` (`str`), `trained_on` (`list[str]`) and `max_length` (`int`).

    Raises:
        FaithgenError: If the folder or its file is missing or damaged.
    """
    try:
        data = json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not valid JSON"
        raise FaithgenError(f"cannot read {str(folder / PROVENANCE)!r} ({reason}); {_TRAIN}") from error
    shape = {"name": str, "trained_on": list, "max_length": int}
    whole = isinstance(data, dict) and data.get("format") == FORMAT
    if not whole or not all(isinstance(data.get(key), kind) for key, kind in shape.items()):
        raise FaithgenError(
            f"{str(folder / PROVENANCE)!r} is not the file of a trained support cross-encoder; {_TRAIN}"
        )
    return data
