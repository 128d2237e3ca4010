"""Sentences and claims of an answer."""

from __future__ import annotations

import re
from dataclasses import dataclass

from faithgen.sentences import Sentence, split_sentences

__all__ = ["Claim", "Sentence", "clean", "count_words", "split_claims", "split_sentences"]

_CITATION = re.compile(
    r"""\s*(?:
        \[\s*\d+(?:\s*[,;–-]\s*\d+)*\s*\]                                  # [1] [1, 2] [1-3]
      | [\[(]\s*(?:see\s+|ref(?:erence)?s?[:.]?\s*|sources?:\s*)?          # (Passage 2) [Document 1 and 3] (Ref: Passage 1)
        (?:passage|document|source|doc|context)s?\s*\#?\d+
        (?:\s*(?:,|;|&|and|–|-)\s*(?:(?:passage|document|source|doc|context)s?\s*)?\#?\d+)*\s*[\])]
    )""",
    re.IGNORECASE | re.VERBOSE,
)
# No "A." among the bullets: it is as often the initial of a name.
_BULLET = re.compile(r"^\s*(?:[-*•‣▪–]\s+|\d{1,3}[.)]\s+|\((?:\d{1,3}|[a-z])\)\s+|[a-z]\)\s+)+")
_HEADING = re.compile(r"^\s*(?:#{1,6}\s.*|\*\*[^*]+\*\*:?|__[^_]+__:?)\s*$")
_EMPHASIS = re.compile(r"(\*\*|__|`)(?=\S)(.+?)(?<=\S)\1", re.DOTALL)
_WORD = re.compile(r"[^\W_]")


@dataclass(frozen=True)
class Claim:
    """A sentence that asserts something.

    Attributes:
        text (`str`): the sentence without bullets, emphasis and citation marks, white space folded: what a scorer reads.
        start (`int`), end (`int`): place of the sentence it was made from, in characters of the answer.
    """

    text: str
    start: int
    end: int


def split_claims(answer: str) -> list[Claim]:
    """Split an answer into the sentences whose support can be judged.

    Left out, because they assert nothing of their own: sentences without a letter or digit (a citation mark alone),
    headings (`## ...`, a line wholly in bold), lead-ins that end with a colon, and questions. A sentence is not divided
    further and its pronouns are not resolved: a judge that needs more than the sentence must read it in its answer.

    Args:
        answer (`str`): a model's answer; may be empty.

    Returns:
        `list[Claim]`: in order. Empty for an answer that asserts nothing.
    """
    claims = []
    for sentence in split_sentences(answer):
        text = clean(sentence.text)
        asserts = _WORD.search(text) and not text.endswith((":", "?")) and not _HEADING.match(sentence.text)
        if asserts:
            claims.append(Claim(text, sentence.start, sentence.end))
    return claims


def clean(text: str) -> str:
    """A text without its leading bullet, Markdown emphasis and citation marks such as `[1]` or `(Passage 2)`.

    White space is folded to single blanks. Bracketed text that is no citation stays.
    """
    text = _CITATION.sub("", _BULLET.sub("", text))
    return " ".join(_EMPHASIS.sub(r"\2", text).split())


def count_words(text: str) -> int:
    """Words in a text: pieces between white space that hold a letter or digit; `well-known` is one word."""
    return sum(bool(_WORD.search(piece)) for piece in text.split())
