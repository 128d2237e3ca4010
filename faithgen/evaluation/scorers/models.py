"""What scorers with a model of their own share: loading errors in one line, text that is data, documents in chunks."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from faithgen.errors import FaithgenError
from faithgen.evaluation.text import split_sentences

MIN_BUDGET = 32
"""Tokens that a document chunk gets at least, however long the claim."""


@contextmanager
def loading(model: str | os.PathLike[str], extra: str = "") -> Iterator[None]:
    """Turn what goes wrong while a scorer's model is loaded into one line.

    Args:
        model (`str` or `PathLike`): hub name or folder, as the user gave it.
        extra (`str`, *optional*): what to do besides, e.g. the command that makes the model.

    Raises:
        FaithgenError: In place of the errors of transformers, huggingface_hub and safetensors.
    """
    from safetensors import SafetensorError

    try:
        yield
    except FaithgenError:
        raise
    except (OSError, ValueError, KeyError, TypeError, ImportError, RuntimeError, SafetensorError) as error:
        local = Path(model).exists()
        advice = "give a folder with config.json, tokenizer and safetensors weights" + (
            f", or {extra}" if extra else ""
        )
        if local or _is_path(str(model)):
            what = "could not be loaded" if local else "does not exist"
            raise FaithgenError(f"scorer model {str(model)!r} {what} ({_reason(error)}); {advice}") from error
        raise FaithgenError(
            f"scorer model {str(model)!r} is not on this machine and could not be fetched ({_reason(error)}); where there "
            f"is a network run: hf download {model}, or {advice}"
        ) from error


def _is_path(name: str) -> bool:
    return name.startswith((".", "/", "~")) or name.count("/") > 1


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:160]


def check_classifier(model: str | os.PathLike[str], config: Any) -> None:
    """Raise for a model without a trained classifier: transformers would load one with random weights and say nothing.

    Raises:
        FaithgenError: If the checkpoint is no sequence classification model.
    """
    architectures = getattr(config, "architectures", None) or []
    if not any(name.endswith("ForSequenceClassification") for name in architectures):
        raise FaithgenError(
            f"scorer model {str(model)!r} is a {', '.join(architectures) or 'model of no stated kind'}, not a sequence "
            "classification model; give a cross-encoder, e.g. cross-encoder/nli-deberta-v3-base"
        )


def as_data(text: str, tokenizer: Any) -> str:
    """A text from which no special token of the tokenizer can come: such strings become a blank."""
    specials = sorted(filter(None, map(str, tokenizer.all_special_tokens)), key=len, reverse=True)
    return re.sub("|".join(map(re.escape, specials)), " ", text) if specials else text


def chunk_documents(
    documents: Sequence[str], measure: Callable[[str], int], budget: int, *, together: bool = True
) -> list[str]:
    """Documents as chunks of whole sentences.

    Args:
        documents (`Sequence[str]`): texts; blank ones are left out.
        measure (`Callable[[str], int]`): length of a text, e.g. in tokens.
        budget (`int`): most that a chunk may measure. A sentence that is longer is cut between words, a word within.
        together (`bool`, *optional*, defaults to `True`): let neighbouring documents share a chunk.

    Returns:
        `list[str]`: chunks in order. Every word of the documents is in one of them.
    """
    chunks: list[list[str]] = []
    used = budget
    for document in documents:
        first = True
        for sentence in split_sentences(document):
            for piece in _pieces(sentence.text, measure, budget):
                length = measure(piece)
                if not chunks or used + length > budget or (first and not together):
                    chunks.append([])
                    used = 0
                elif first:
                    chunks[-1].append("\n")
                chunks[-1].append(piece)
                used += length
                first = False
    return [" ".join(chunk).replace(" \n ", "\n") for chunk in chunks]


def _pieces(sentence: str, measure: Callable[[str], int], budget: int) -> list[str]:
    """A sentence cut into halves, between words where it can be, until each fits."""
    if measure(sentence) <= budget or len(sentence) < 2:
        return [sentence]
    middle = len(sentence) // 2
    blanks = [match.start() for match in re.finditer(r"\s", sentence)]
    cut = min(blanks, key=lambda blank: abs(blank - middle), default=middle)
    return [piece for half in (sentence[:cut], sentence[cut:]) for piece in _pieces(half.strip(), measure, budget)]
