"""What ends a run and is no bug: settings that a library refuses before the first step, and a disk that is full."""

from __future__ import annotations

import contextlib
import errno
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import TrainerCallback

from faithgen.errors import FaithgenError
from faithgen.training.resuming import last_whole_checkpoint

_REFUSALS = (ValueError, ImportError, OSError, RuntimeError, SafetensorError, pickle.UnpicklingError)
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


class Started(TrainerCallback):
    """Knows whether the first step has begun; model, optimizer and schedule stand by then.

    Attributes:
        yes (`bool`): whether it has.
    """

    def __init__(self) -> None:
        self.yes = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.yes = True


@contextlib.contextmanager
def in_one_line(started: Started, output_dir: str, resume: str | None) -> Iterator[None]:
    """Say errors of the block in one line where the user can mend them; all others keep their traceback.

    Args:
        started ([`Started`]):
            Before the first step what libraries raise is about settings or the checkpoint; later it is a bug, unless a file
            cannot be written.
        output_dir (`str`): where the run writes.
        resume (`str`, *optional*): the checkpoint that it goes on from.

    Raises:
        FaithgenError: In place of these errors.
    """
    try:
        yield
    except FaithgenError:
        raise
    except _REFUSALS as error:
        if started.yes:
            reason = _unwritten(error)
            if reason is None:
                raise
            last = last_whole_checkpoint(Path(output_dir))
            mend = f"make room, then --resume_from_checkpoint true goes on from {last}" if last else "choose another"
            raise FaithgenError(f"cannot write to output_dir {output_dir!r} ({reason}); {mend}") from error
        reason = first_line(error)
        if resume is not None:
            raise FaithgenError(
                f"training cannot go on from {resume!r} ({reason}); change what the reason names, or give another checkpoint"
            ) from error
        raise FaithgenError(f"training cannot start ({reason}); change the setting that the reason names") from error


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def _unwritten(error: BaseException) -> str | None:
    """Why a file was not written, if that is what the error says."""
    if isinstance(error, OSError):
        return error.strerror if error.errno in _UNWRITABLE else None
    text = first_line(error)
    if isinstance(error, SafetensorError):
        return text.rpartition("I/O error: ")[2] if "I/O error" in text else None
    # torch.save says no more
    return "a file could not be written whole" if "inline_container" in text or "iostream error" in text else None
