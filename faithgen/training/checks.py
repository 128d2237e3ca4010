"""Checks of settings that both trainers share; an error names the key and what is allowed."""

from __future__ import annotations

from typing import Any

from faithgen.errors import FaithgenError
from faithgen.training.prompts import OVERLONG


def check_choice(name: str, value: object, allowed: tuple) -> None:
    """Raise unless `value` is one of `allowed`."""
    if value not in allowed:
        names = ", ".join("null" if choice is None else str(choice) for choice in allowed)
        raise FaithgenError(f"{name} is {value!r}; allowed: {names}")


def check_number(name: str, value: object, least: float) -> None:
    """Raise unless `value` is a finite number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < float("inf"):
        raise FaithgenError(f"{name} is {value!r}; allowed: a number of {least} or more")


def check_prompt_settings(config: Any) -> None:
    """The settings of prompts and lengths."""
    check_choice("overlong", config.overlong, OVERLONG)
    if config.max_length is not None:
        check_number("max_length", config.max_length, 32)
    if not isinstance(config.instruction, str) or not config.instruction.strip():
        raise FaithgenError("instruction is empty; give one line, or leave it out for the generator's own")
