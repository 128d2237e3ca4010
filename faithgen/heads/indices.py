"""Index tensors, made once for each device: made anew in every step, they would be copied there, and a GPU waited for."""

from __future__ import annotations

import functools
from collections.abc import Iterable

import torch


def indices(places: Iterable[int], device: torch.device, width: int = 1) -> torch.Tensor:
    """`place * width` to `(place + 1) * width - 1` of each place, in order; a `torch.LongTensor` that is shared, not to be
    written to."""
    return _indices(tuple(places), device, width)


@functools.lru_cache(maxsize=1024)
def _indices(places: tuple[int, ...], device: torch.device, width: int) -> torch.Tensor:
    every = [place * width + i for place in places for i in range(width)]
    with torch.inference_mode(False):  # they may be saved for a backward pass
        return torch.tensor(every, dtype=torch.long, device=device)
