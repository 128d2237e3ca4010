"""Python's cyclic garbage collector, at rest while a few thousand modules or modules of a network come to be."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_at_rest() -> Iterator[None]:
    """Collect no cycles inside.

    Importing torch and transformers makes a million objects that stay, which the collector walks again and again: about a
    sixth of the time. What has come to be inside goes straight to the oldest generation, so it is not walked at once
    afterwards either.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():  # nobody has frozen objects, for a fork, that would be thawed here
            gc.freeze()
            gc.unfreeze()  # the two together: young objects become old ones, in no time
        gc.enable()
