"""Processes that share a run, each with a shard of the batches.

Started by `accelerate launch -m faithgen eval ...` on several GPUs. On CPUs accelerate starts several
processes by MPI alone; `torchrun --nproc-per-node 2 -m faithgen eval ...` does without.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from faithgen.errors import FaithgenError

_T = TypeVar("_T")

# as accelerate reads them: torchrun's, and those of MPI
_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")

_PATIENCE = timedelta(days=7)
"""How long a process waits for the slowest one: a shard may take hours longer than another."""


@dataclass(frozen=True)
class Processes:
    """The processes of a run, seen from one of them.

    Attributes:
        rank (`int`): this process, from 0; process 0 is the main one.
        count (`int`): all of them.
        device (`str`, *optional*): where this one's model goes; `None` where there is but one process.
    """

    rank: int = 0
    count: int = 1
    device: str | None = None

    @property
    def main(self) -> bool:
        return self.rank == 0

    def share(self, items: Sequence[_T]) -> list[_T]:
        """Every `count`-th item, so that shards of items sorted by length take equally long."""
        return list(items[self.rank :: self.count])

    @contextmanager
    def together(self) -> Iterator[None]:
        """Run a part in all processes; an error of one is raised in all, and none goes on before the others are here.

        Raises:
            FaithgenError: That of the first process that has one.
        """
        error = None
        try:
            yield
        except FaithgenError as raised:
            error = raised
        if self.count == 1:
            if error is not None:
                raise error
            return
        from accelerate.utils import gather_object

        found = [text for text in gather_object([None if error is None else str(error)]) if text is not None]
        if error is not None:
            raise error
        if found:
            raise FaithgenError(found[0])


def processes() -> Processes:
    """The processes that accelerate (or torchrun) started; one alone where none were.

    Raises:
        FaithgenError: If they cannot reach each other.
    """
    if _number(_SIZES, 1) < 2:
        return Processes()
    import torch
    from accelerate import PartialState

    options: dict[str, Any] = {"timeout": _PATIENCE}
    try:
        state = PartialState(cpu=not torch.cuda.is_available(), **options)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise FaithgenError(f"the processes of accelerate launch cannot be joined ({reason})") from error
    return Processes(state.process_index, state.num_processes, str(state.device))


def leave() -> None:
    """End the processes' connection, if there is one."""
    if _number(_SIZES, 1) > 1:
        from accelerate import PartialState

        PartialState().destroy_process_group()


def main_process() -> bool:
    """Whether this process may print (known before the processes are joined)."""
    return _number(_RANKS, 0) == 0


def _number(names: Sequence[str], otherwise: int) -> int:
    found = (os.environ.get(name, "") for name in names)
    return next((int(text) for text in found if text.isdigit()), otherwise)
