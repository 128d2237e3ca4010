"""Where a run writes, and what it goes on from: a whole checkpoint of the same run, and nothing else."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from faithgen.errors import FaithgenError
from faithgen.training.record import read_record

logger = logging.getLogger(__name__)

SETTINGS = (
    *("unfaithful_weight", "control_position", "instruction", "max_length", "overlong"),
    *("loss_type", "loss_weights", "beta", "label_smoothing", "ld_alpha", "use_weighting", "discopop_tau"),
    *("f_divergence_type", "f_alpha_divergence_coef", "sync_ref_model", "disable_dropout", "neftune_noise_alpha"),
    *("learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "weight_decay", "max_grad_norm"),
    *("optim", "optim_args", "adam_beta1", "adam_beta2", "adam_epsilon", "seed", "data_seed", "shuffle_dataset"),
)
"""What may not change: it makes another loss or order of the rows, or would have no effect beside what was saved."""
_WEIGHTS = ("adapter_model.*", "model*.safetensors", "pytorch_model*")
_OPTIMIZER = ("optimizer*", "global_step*")  # the second is DeepSpeed's


@contextlib.contextmanager
def output_folder(config: Any) -> Iterator[str | None]:
    """Make the output folder of a run, before anything is loaded; if the block fails, it is not left behind empty.

    Args:
        config (`TrainingArguments`): its `output_dir` and `resume_from_checkpoint`.

    Yields:
        `str`, the checkpoint to go on from, or `None`.

    Raises:
        FaithgenError: If the folder cannot be written, holds something and is not to be resumed, or the checkpoint is not
            there or not whole.
    """
    folder = Path(config.output_dir)
    try:
        resume = _checkpoint(config, folder)
        made = not folder.exists()
        config.distributed_state.wait_for_everyone()  # no process may write before all have looked
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise FaithgenError(
            f"output_dir {str(folder)!r} cannot be written ({error.strerror}); choose another"
        ) from error
    try:
        yield resume
    except BaseException:
        if made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def _checkpoint(config: Any, folder: Path) -> str | None:
    """What to resume from; an output folder with something in it is refused unless it is resumed."""
    resume = {"true": True, "false": None}.get(
        str(config.resume_from_checkpoint).lower(), config.resume_from_checkpoint
    )
    if folder.exists() and not folder.is_dir():
        raise FaithgenError(f"output_dir {str(folder)!r} is a file; give a folder")
    if resume is True:
        resume = last_whole_checkpoint(folder)
        if resume is None:
            raise FaithgenError(
                f"output_dir {str(folder)!r} holds no whole checkpoint to resume from; remove it, and leave "
                "resume_from_checkpoint out"
            )
    elif resume is not None:
        if not Path(resume).is_dir():
            raise FaithgenError(
                f"resume_from_checkpoint {resume!r} is no folder; give a checkpoint, or true for the last one"
            )
        damage = damage_of(Path(resume))
        if damage is not None:
            raise FaithgenError(
                f"resume_from_checkpoint {resume!r} is no whole checkpoint ({damage}); give another, or true for the last "
                "whole one"
            )
    elif folder.is_dir() and any(folder.iterdir()):
        raise FaithgenError(
            f"output_dir {str(folder)!r} is not empty; add --resume_from_checkpoint true to go on from its last checkpoint, "
            "or choose another"
        )
    return resume


def last_whole_checkpoint(folder: Path) -> str | None:
    """The latest checkpoint of a run that is whole; those after it are named in a warning."""
    for path in sorted(folder.glob("checkpoint-*"), key=_step, reverse=True):
        damage = damage_of(path)
        if damage is None:
            return str(path)
        logger.warning("%s is passed over: %s", path, damage)
    return None


def _step(checkpoint: Path) -> int:
    number = checkpoint.name.partition("-")[2]
    return int(number) if number.isdecimal() else -1


def damage_of(checkpoint: Path) -> str | None:
    """What keeps a checkpoint from being resumed, by its files: one missing, cut off or of another kind.

    Weights and optimizer are not read, only what says where their parts end.
    """
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))["global_step"]
    except OSError:
        return "trainer_state.json is missing"
    except (ValueError, KeyError, TypeError):
        return "trainer_state.json is damaged"
    for what, patterns in (("weights are", _WEIGHTS), ("optimizer's state is", _OPTIMIZER)):
        if not any(next(checkpoint.glob(pattern), None) for pattern in patterns):
            return f"the {what} missing"
    for path in sorted(checkpoint.iterdir()):
        if not _is_whole(path):
            return f"{path.name} is damaged"
    return None


def check_same_run(checkpoint: str, record: dict[str, Any]) -> None:
    """Refuse a checkpoint of another method, model, data, adapter or loss.

    Steps, epochs, logging, saving, evaluation, devices and paths may change.

    Args:
        checkpoint (`str`): to go on from.
        record (`dict`): the training record of the run (see [`training_record`]).

    Raises:
        FaithgenError: If its own record has another value; names the first key that differs.
    """
    before = read_record(checkpoint)
    for key, then, now in _compared(before, record):
        if then != now:
            raise FaithgenError(
                f"resume_from_checkpoint {checkpoint!r} was trained with {key} {then}, not {now}; set it back, or train in "
                "another output_dir from the start"
            )


def _compared(before: dict[str, Any], now: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Keys that the user can set, with their values in both records."""
    yield "method", before["method"], now["method"]
    yield "model_name_or_path", _model_name(before["base"]), _model_name(now["base"])
    then, this = before["data"], now["data"]
    same_file = then.get("sha256") is not None and then.get("sha256") == this.get("sha256")
    if not same_file:  # which may have another name
        yield "dataset_name", _data_name(then), _data_name(this)
    yield "rows", then.get("rows"), this.get("rows")
    then, this = before["adapter"], now["adapter"]
    yield "use_peft", bool(then), bool(this)
    for name in then or ():
        if name in (this or ()):
            yield name if name.startswith(("lora_", "use_")) else f"lora_{name}", then[name], this[name]
    for key in SETTINGS:
        yield key, before["settings"].get(key, "(the default)"), now["settings"].get(key, "(the default)")
    if "rows_per_step" in before:
        key = "per_device_train_batch_size * gradient_accumulation_steps * processes"
        yield key, before["rows_per_step"], now["rows_per_step"]


def _model_name(base: dict[str, Any]) -> str:
    return f"{base['model_id']} {base['revision']}".strip()


def _data_name(data: dict[str, Any]) -> str:
    checksum = data.get("sha256")
    return f"{data.get('source')} (sha256 {checksum[:12]})" if checksum else str(data.get("source"))


def _is_whole(path: Path) -> bool:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return True
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt"):
                return True
        except (OSError, SafetensorError):
            return False
    return path.suffix not in (".pt", ".pth") or zipfile.is_zipfile(path)
