"""Which sampled answers are of use as unfaithful ones; every reason to leave one out has a name and is counted."""

from __future__ import annotations

import re
import string
import zlib
from dataclasses import dataclass

REASONS = ("empty", "unfinished", "equal", "degenerate", "no_claim", "supported")
"""Why a sample is left out, in the order they are looked at."""
COMPRESSION = 2.4
"""Ratio of length to compressed length from which text is repetition (Whisper's threshold)."""

_PHRASE = re.compile(r"(?:^|\s)((?:\S+\s+){0,3}?\S+)(?:\s+\1){3,}(?=\s|$)")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans(dict.fromkeys(string.punctuation, " "))


@dataclass(frozen=True)
class Sample:
    """One sampled answer.

    Attributes:
        text (`str`): without special tokens and white space around it.
        finished (`bool`): the model ended it; else it was cut at the most tokens.
    """

    text: str
    finished: bool


def reason_to_drop(
    sample: Sample,
    answer: str,
    support: tuple[float | None, float | None] = (None, None),
    *,
    keep: tuple[str, ...] = (),
    margin: float = 0.0,
) -> str | None:
    """Why this sample is no unfaithful answer.

    Args:
        sample ([`Sample`]): what the masked model said.
        answer (`str`): the faithful answer.
        support (`tuple[float | None, float | None]`, *optional*):
            Support of the faithful answer and of the sample by the documents, 0 to 1; `None` where nothing is asserted: a
            sample without a figure beside an answer with one is a refusal, a question or a beginning ("The answer is:").
        keep (`tuple[str, ...]`, *optional*): reasons that do not count; `"empty"` always does.
        margin (`float`, *optional*, defaults to 0.0):
            Of `"supported"`: the sample's support is at least that of the answer minus this.

    Returns:
        One of [`REASONS`], or `None` for a sample that is kept.
    """
    faithful, unfaithful = support
    found = {
        "empty": not normalised(sample.text),
        "unfinished": not sample.finished,
        "equal": normalised(sample.text) == normalised(answer),
        "degenerate": is_degenerate(sample.text),
        "no_claim": faithful is not None and unfaithful is None,
        "supported": faithful is not None and unfaithful is not None and unfaithful >= faithful - margin,
    }
    return next((name for name in REASONS if found[name] and (name == "empty" or name not in keep)), None)


def is_degenerate(text: str) -> bool:
    """Whether a text repeats itself: a phrase of up to four words four times on end, or text that compresses by 2.4."""
    data = text.encode()
    if len(data) >= 100 and len(data) / len(zlib.compress(data)) > COMPRESSION:
        return True
    return _PHRASE.search(text[:5000]) is not None


def normalised(text: str) -> str:
    """Lower case without punctuation and English articles, as SQuAD compares answers."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())
