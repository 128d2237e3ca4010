"""Checks of settings that both trainers share; an error names the key and what is allowed."""

from __future__ import annotations

import math
from typing import Any

from faithgen.errors import FaithgenError
from faithgen.training.prompts import OVERLONG


def check_choice(name: str, value: object, allowed: tuple) -> None:
    """Raise unless `value` is one of `allowed`."""
    if value not in allowed:
        names = ", ".join("null" if choice is None else str(choice) for choice in allowed)
        raise FaithgenError(f"{name} is {value!r}; allowed: {names}")


def check_number(name: str, value: Any, least: float, most: float = math.inf, *, above: bool = False) -> None:
    """Raise unless `value` is a finite number of at least `least` (with `above`: more than that) and at most `most`."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and least <= value <= most and value != math.inf and not (above and value == least):
        return
    end = f" to {most}" if most != math.inf else " or more"
    raise FaithgenError(
        f"{name} is {value!r}; allowed: a number " + (f"above {least}" if above else f"of {least}{end}")
    )


def check_training_settings(config: Any) -> None:
    """The numbers of a run that libraries refuse late, or not at all."""
    for name in ("seed", "data_seed"):
        if getattr(config, name) is not None:
            check_number(name, getattr(config, name), 0, 2**32 - 1)
    for name in ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"):
        check_number(name, getattr(config, name), 1)
    for name in ("learning_rate", "weight_decay", "neftune_noise_alpha"):
        if getattr(config, name) is not None:
            check_number(name, getattr(config, name), 0)
    if config.max_steps <= 0:
        check_number("num_train_epochs", config.num_train_epochs, 0, above=True)


def check_adapter_settings(model: Any) -> None:
    """The numbers of LoRA, if it is used, in TRL's `ModelConfig`."""
    if model.use_peft:
        check_number("lora_r", model.lora_r, 1)
        check_number("lora_dropout", model.lora_dropout, 0, 1)


def check_prompt_settings(config: Any) -> None:
    """The settings of prompts and lengths."""
    check_choice("overlong", config.overlong, OVERLONG)
    if config.max_length is not None:
        check_number("max_length", config.max_length, 32)
    if not isinstance(config.instruction, str) or not config.instruction.strip():
        raise FaithgenError("instruction is empty; give one line, or leave it out for the generator's own")
