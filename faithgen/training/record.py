"""What a trained checkpoint says of itself: `faithgen_training.json` beside its weights."""

from __future__ import annotations

import json
import os
from dataclasses import MISSING, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

from faithgen.adapters import TRAINING_RECORD
from faithgen.errors import FaithgenError
from faithgen.files import write_text

FORMAT = "faithgen-training-1"
# Paths, secrets, and what the configs set themselves.
_LEFT_OUT = (
    *(
        "output_dir",
        "logging_dir",
        "hub_token",
        "push_to_hub_token",
        "resume_from_checkpoint",
        "run_name",
        "local_rank",
    ),
    *("accelerator_config", "activation_checkpointing", "dataloader_pin_memory", "debug", "disable_tqdm"),
    *("model_init_kwargs", "pad_to_multiple_of", "report_to"),
)
_ADAPTER = (
    *("peft_type", "r", "lora_alpha", "lora_dropout", "target_modules", "modules_to_save", "use_dora", "use_rslora"),
)
_PACKAGES = ("faithgen", "torch", "transformers", "trl", "peft")


def training_record(trainer: Any, method: str, control: dict[str, Any] | None) -> dict[str, Any]:
    """The record of a run so far.

    Args:
        trainer (`Trainer`): with `base` ([`Base`]), `length_reports` and `data_info`.
        method (`str`): `"rhio"` or `"retmask"`.
        control (`dict`, *optional*): the tokenizer's control settings.

    Returns:
        `dict` that JSON takes: base, control tokens, data, settings that differ from the defaults, adapter, last log, steps
        and library versions.
    """
    adapter = None
    if hasattr(trainer.model, "peft_config"):
        config = trainer.model.peft_config["default"].to_dict()
        adapter = {key: config.get(key) for key in _ADAPTER}
    args, state = trainer.args, trainer.state
    return _jsonable(
        {
            "format": FORMAT,
            "method": method,
            "base": trainer.base.to_dict(),
            "control": control,
            "data": {**trainer.data_info, "lengths": {k: r.to_dict() for k, r in trainer.length_reports.items()}},
            "settings": _settings(args),
            "adapter": adapter,
            "rows_per_step": args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
            "steps": state.global_step,
            "epochs": state.epoch,
            "log": _last(state.log_history, "loss"),
            "evaluation": _last(state.log_history, "eval_loss"),
            "versions": {name: version(name) for name in _PACKAGES},
        }
    )


def write_record(folder: str | os.PathLike[str], record: dict[str, Any]) -> None:
    """Write the record into a checkpoint folder, to a temporary name first."""
    text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    write_text(Path(folder) / TRAINING_RECORD, text, mend="choose another output", parents=True)


def read_record(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the record of a checkpoint folder.

    Raises:
        FaithgenError: If there is none, or it is damaged.
    """
    path = Path(folder) / TRAINING_RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["format"] != FORMAT:
            raise ValueError("another format")
        _check_shape(record)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = getattr(error, "strerror", None) or "not a training record"
        raise FaithgenError(
            f"cannot read {str(path)!r} ({reason}); give a folder that faithgen train has written"
        ) from error
    return record


def _check_shape(record: dict[str, Any]) -> None:
    """Raise `KeyError` or `TypeError` unless what the card and a resumed run read is there, each of its kind."""
    from faithgen.training.run import METHODS

    if record["method"] not in METHODS:
        raise KeyError(record["method"])
    for key in ("base", "data", "settings", "versions"):
        if not isinstance(record[key], dict):
            raise TypeError(key)
    for key in ("control", "adapter", "log"):
        if not isinstance(record[key], dict | None):
            raise TypeError(key)
    names = [record["base"][key] for key in ("name", "model_id", "revision")]
    if not all(isinstance(name, str) for name in [*names, record["versions"]["faithgen"]]):
        raise TypeError("base")
    if not isinstance(record["steps"], int):
        raise TypeError("steps")


def _settings(args: Any) -> dict[str, Any]:
    """Fields of the config that are not at their default."""
    values = args.to_dict()
    chosen = {}
    for field in fields(args):
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        if (
            field.init
            and field.name not in _LEFT_OUT
            and field.name in values
            and getattr(args, field.name) != default
        ):
            chosen[field.name] = values[field.name]
    return chosen


def _last(history: list[dict[str, Any]], key: str) -> dict[str, Any] | None:
    return next((entry for entry in reversed(history) if key in entry), None)


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = sorted(value, key=str) if isinstance(value, set | frozenset) else value
        return [_jsonable(item) for item in items]
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)
