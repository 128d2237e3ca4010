"""What a synthesizer can be told, and what it says of values that it cannot take."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from faithgen import ContrastConfig, FaithfulGenerator, FaithgenError, FilterConfig, HeadSet
from faithgen.decoding.sampling import SamplingConfig
from faithgen.heads.resolve import HeadsLike

OPTIONS = ("filter", "contrast", "sampling", "max_new_tokens", "stop", "explain")
"""Settings that can be given for one call, too."""

_CONFIGS = {
    "filter": (FilterConfig, "FilterConfig(keep=4)"),
    "contrast": (ContrastConfig, 'ContrastConfig(source="none")'),
    "sampling": (SamplingConfig, "SamplingConfig(temperature=0.7)"),
}


def check_options(options: Mapping[str, Any]) -> None:
    """Say which option cannot be used before anything is read.

    Raises:
        FaithgenError: If there is no such option, or its value is of another type or out of its range.
    """
    unknown = sorted(set(options) - set(OPTIONS))
    if unknown:
        raise FaithgenError(f"there is no option {unknown[0]!r}; there are {', '.join(OPTIONS)}")
    for name, (kind, example) in _CONFIGS.items():
        value = options.get(name)
        if value is not None and not isinstance(value, kind):
            raise FaithgenError(f"{name} is of type {type(value).__name__}; give a {kind.__name__}, e.g. {example}")
    most, stop, explain = options.get("max_new_tokens", 1), options.get("stop", ()), options.get("explain", False)
    if type(most) is not int or most < 1:
        raise FaithgenError(f"max_new_tokens is {most!r}; give a whole number of at least 1")
    if (
        isinstance(stop, str)
        or not isinstance(stop, Sequence)
        or not all(isinstance(one, str) and one for one in stop)
    ):
        raise FaithgenError(f"stop is {stop!r}; give a list of non-empty strings")
    if type(explain) is not bool:
        raise FaithgenError(f"explain is {explain!r}; give True or False")


def load_generator(
    generator: FaithfulGenerator | None,
    model: str | os.PathLike[str] | None,
    heads: HeadsLike | Sequence[HeadsLike],
) -> FaithfulGenerator:
    """The generator given, or one of the model named; arguments as of `FaithfulSynthesizer`.

    Raises:
        FaithgenError: If both are given, one is of another type, or the model cannot be loaded.
    """
    if isinstance(generator, str | os.PathLike):
        name = os.fspath(generator)
        raise FaithgenError(f"generator is {name!r}; to load a model by its name, write model={name!r}")
    if generator is not None and not isinstance(generator, FaithfulGenerator):
        kind = type(generator).__name__
        raise FaithgenError(
            f"generator is of type {kind}; give a FaithfulGenerator, or model= the name of one to load"
        )
    if model is not None and not isinstance(model, str | os.PathLike):
        raise FaithgenError(f"model is of type {type(model).__name__}; give a hub id, a folder or a GGUF file")
    given = heads if isinstance(heads, list | tuple) else [heads]
    for one in given:
        if not isinstance(one, str | os.PathLike | HeadSet):
            raise FaithgenError(f'heads is of type {type(one).__name__}; give "auto", files of head sets or HeadSets')
    if generator is None:
        return FaithfulGenerator.from_pretrained(model, heads=heads)
    if model is not None or any(one != "auto" for one in given):
        raise FaithgenError("both a generator and its model or heads are given; leave out one of them")
    return generator
