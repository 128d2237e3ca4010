"""Sentences of a text. Boundaries come from nupunkt: its model is in its wheel, nothing is downloaded."""

from __future__ import annotations

import re
from dataclasses import dataclass

# Full stops of scripts that put no white space between sentences; they end nothing else.
_WIDE_STOP = re.compile(r"[。！？]++[」』”’）〕】\"')\]]*+(\s*+)(?=\S)")


@dataclass(frozen=True)
class Sentence:
    """A sentence and where it stands.

    Attributes:
        text (`str`): the sentence, without white space around it.
        start (`int`), end (`int`): its place in the whole text, in characters: `whole[start:end] == text`.
    """

    text: str
    start: int
    end: int


def split_sentences(text: str) -> list[Sentence]:
    """Split a text into sentences.

    A blank line, a heading and a list item end a sentence too, and so do the stops of Chinese and Japanese (`。！？`).
    Abbreviations, initials, decimals and web addresses do not; they are known for English.

    Args:
        text (`str`): any text; may be empty.

    Returns:
        `list[Sentence]`: in order, without overlap. What lies between them is white space.

    Example:

    ```python
    >>> [s.text for s in split_sentences("Dr. No was born in 1948. He lives in the U.S.")]
    ['Dr. No was born in 1948.', 'He lives in the U.S.']
    ```
    """
    import nupunkt

    found = []
    for start, end in nupunkt.sentence_spans(text, line_breaks=True):
        for stop in _WIDE_STOP.finditer(text, start, end):
            found.append(Sentence(text[start : stop.start(1)], start, stop.start(1)))
            start = stop.end()
        found.append(Sentence(text[start:end], start, end))
    return found
