"""Files are written to a temporary name beside the target and renamed: whole, or not there; by one process at a time."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from faithgen.errors import FaithgenError

if TYPE_CHECKING:
    from filelock import BaseFileLock


@contextlib.contextmanager
def replacing(
    path: str | os.PathLike[str], *, mend: str = "choose another file", suffix: str = "", parents: bool = False
) -> Iterator[Path]:
    """A temporary file beside `path` that takes its name when the block ends, and is removed if it fails.

    Args:
        path (`str` or `PathLike`): the target.
        mend (`str`, *optional*): what the error tells the user to do.
        suffix (`str`, *optional*): ending of the temporary name, for writers that go by it.
        parents (`bool`, *optional*, defaults to `False`): make the target's folder if need be.

    Raises:
        FaithgenError: If the file cannot be written.
    """
    target = Path(path)
    temporary = None
    try:
        if parents:
            target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name[:100]}-", suffix=suffix, dir=target.parent)
        os.close(descriptor)
        yield Path(temporary)
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise FaithgenError(f"cannot write {str(target)!r} ({reason}); {mend}") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def write_text(
    path: str | os.PathLike[str], text: str, *, mend: str = "choose another file", parents: bool = False
) -> None:
    """Write a UTF-8 file through [`replacing`], flushed to the disk; arguments as there.

    Raises:
        FaithgenError: If it cannot be written.
    """
    with (
        replacing(path, mend=mend, parents=parents) as temporary,
        temporary.open("w", encoding="utf-8", newline="\n") as stream,
    ):
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def take_lock(path: str | os.PathLike[str], busy: str) -> BaseFileLock:
    """Take a lock file, so that one process at a time writes what it stands for; it is not waited for.

    Args:
        path (`str` or `PathLike`): of the lock file, in a folder that exists.
        busy (`str`): what the error says.

    Returns:
        `filelock.BaseFileLock`: to release.

    Raises:
        FaithgenError: If another process, or another lock of this one, holds it.
        OSError: If the file cannot be written.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise FaithgenError(busy) from error
    return lock
