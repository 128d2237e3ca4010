"""Lexical support: how much of a claim stands in its best document, numbers, dates and names weighed more.

For a claim c and a document d

```
support(c, d) = (P(c, d) + max_w P(c, w) + B(c, d)) / 3
P(c, x) = sum of the weights of c's content words that x holds / sum of their weights
B(c, d) = share of c's pairs of neighbouring words (all words) that are neighbours in d
```

where w are the windows of three neighbouring sentences of d, and the best document counts. Numbers and dates weigh 3, names
2, other content words 1. Words are compared by their Snowball stem, numbers without thousands separators, number words to
twenty as numbers. A share, used as a probability; it is not calibrated. Terms and weights were chosen on begin_wow_dev,
refchecker_nq, qags and aggrefact_cliff_goyal; no other labelled set was looked at.

Weakness: it reads words, not meaning. Negation, exchanged roles and a wrong relation between right words pass; a true
paraphrase, a rounded number or a conclusion does not. Stop words and stems are English.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import pairwise
from typing import Any, Literal

from faithgen.errors import MissingExtraError
from faithgen.evaluation.scorers.base import ClaimContext, check_pairs
from faithgen.evaluation.text import split_sentences

Kind = Literal["number", "name", "word", "stop"]

WEIGHTS: dict[Kind, float] = {"number": 3.0, "name": 2.0, "word": 1.0, "stop": 0.0}
WINDOW = 3
"""Sentences of a window."""

TUNED_ON = ("begin_wow_dev", "refchecker_nq", "qags", "aggrefact_cliff_goyal")
"""Labelled sets that terms and weights were chosen on."""

_WORD = re.compile(r"\d+(?:[.,:/]\d+)*|[^\W\d_]+(?:['’][^\W\d_]+)*")
_COUNTING = """one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
eighteen nineteen twenty"""
_CALENDAR = """January February March April May June July August September October November December
Monday Tuesday Wednesday Thursday Friday Saturday Sunday"""
# Words of the Glasgow list that scikit-learn ships which carry content (Nothman et al., 2018, name most of them), and words
# that it lacks.
_CONTENT = """amount bill bottom call cry describe detail empty fifty fill fire first forty front full hundred interest mill
mine move name serious side sincere sixty system thick thin third top"""
_LACKING = "ain aren couldn did didn does doesn doing don hadn hasn haven having isn just wasn weren wouldn"
_NUMBERS = {word: str(value) for value, word in enumerate(_COUNTING.split(), 1)}
_DATES = frozenset(_CALENDAR.split())

_stemming = threading.Lock()  # a Snowball stemmer keeps the word it works on


@dataclass(frozen=True)
class Token:
    """A word of a text.

    Attributes:
        stem (`str`): what it is compared by.
        kind (`str`): `"number"` (dates too), `"name"`, `"word"` or `"stop"`.
        opens (`bool`): it is the first word of its sentence, where a capital says nothing.
        capital (`bool`): it is written with a capital.
    """

    stem: str
    kind: Kind
    opens: bool
    capital: bool


def read_words(text: str) -> list[list[Token]]:
    """The words of a text, sentence by sentence.

    Raises:
        MissingExtraError: If snowballstemmer or scikit-learn is not installed.
    """
    return [_sentence(sentence.text) for sentence in split_sentences(text)]


def content_stems(text: str) -> list[str]:
    """Stems of the words of a text that are no stop words, in order."""
    return [token.stem for sentence in read_words(text) for token in sentence if token.kind != "stop"]


class LexicalScorer:
    """Judges claims by the words they share with their best document; see the module for the formula.

    No model is loaded. Cost: some 2,000 claims a second on one core once their documents are read.
    """

    name = "lexical"
    trained_on: tuple[str, ...] = ()
    tuned_on: tuple[str, ...] = TUNED_ON

    def __init__(self) -> None:
        self._read = lru_cache(128)(_Document.read)

    def score(
        self,
        claims: Sequence[str],
        documents: Sequence[Sequence[str]],
        *,
        contexts: Sequence[ClaimContext | None] | None = None,
    ) -> list[float]:
        """See [`Scorer.score`]; `contexts` are not read."""
        check_pairs(claims, documents, contexts)
        scores = []
        for claim, texts in zip(claims, documents, strict=True):
            words = read_words(claim)
            scores.append(max((_support(words, self._read(text)) for text in texts), default=0.0))
        return scores


@dataclass(frozen=True)
class _Document:
    words: frozenset[str]
    names: frozenset[str]
    pairs: frozenset[tuple[str, str]]
    windows: list[frozenset[str]]

    @classmethod
    def read(cls, text: str) -> _Document:
        sentences = read_words(text)
        stems = [[token.stem for token in sentence] for sentence in sentences]
        windows = [
            frozenset(stem for sentence in stems[start : start + WINDOW] for stem in sentence)
            for start in range(max(1, len(stems) - WINDOW + 1))
        ]
        return cls(
            frozenset().union(*stems),
            frozenset(token.stem for sentence in sentences for token in sentence if token.kind == "name"),
            frozenset(pair for sentence in stems for pair in pairwise(sentence)),
            windows,
        )


def _support(sentences: list[list[Token]], document: _Document) -> float:
    weighed = [
        (token.stem, WEIGHTS["name" if _is_name(token, document) else token.kind])
        for sentence in sentences
        for token in sentence
    ]
    total = sum(weight for _, weight in weighed)
    if not total:  # "Yes, it is.": nothing but stop words, which then are all there is to compare
        weighed = [(stem, 1.0) for stem, _ in weighed]
        total = float(len(weighed))
    if not total:
        return 0.0
    parts = [sum(weight for stem, weight in weighed if stem in document.words) / total]
    parts.append(max(sum(w for stem, w in weighed if stem in window) for window in document.windows) / total)
    pairs = [(first.stem, second.stem) for sentence in sentences for first, second in pairwise(sentence)]
    if pairs:
        parts.append(sum(pair in document.pairs for pair in pairs) / len(pairs))
    return sum(parts) / len(parts)


def _is_name(token: Token, document: _Document) -> bool:
    """The first word of a sentence is a name where the document writes it with a capital elsewhere."""
    return token.opens and token.capital and token.kind == "word" and token.stem in document.names


def _sentence(text: str) -> list[Token]:
    words = _WORD.findall(text)
    return [
        Token(_stem(word), _kind(word, first=place == 0), place == 0, word[0].isupper())
        for place, word in enumerate(words)
    ]


def _kind(word: str, *, first: bool) -> Kind:
    lower = word.lower()
    if lower[0].isdigit() or lower in _NUMBERS or word in _DATES:
        return "number"
    if lower in _stop_words() or len(lower) == 1 or _bare(lower) in _stop_words():
        return "stop"
    return "name" if word[0].isupper() and not first else "word"


def _bare(word: str) -> str:
    """Without what an apostrophe joins to it: possessive and shortened verbs."""
    return re.split("['’]", word)[0]


@cache
def _stop_words() -> frozenset[str]:
    try:
        from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS
    except ImportError as error:
        raise MissingExtraError("the lexical scorer", "eval") from error
    return frozenset(ENGLISH_STOP_WORDS.difference(_CONTENT.split(), _NUMBERS).union(_LACKING.split()))


@cache
def _stemmer() -> Any:
    try:
        import snowballstemmer
    except ImportError as error:
        raise MissingExtraError("the lexical scorer", "eval") from error
    return snowballstemmer.stemmer("english")


@lru_cache(1 << 16)
def _stem(word: str) -> str:
    lower = word.lower().replace("’", "'").removesuffix("'s")
    if lower[:1].isdigit():
        return lower.replace(",", "")
    if lower in _NUMBERS:
        return _NUMBERS[lower]
    with _stemming:
        return _stemmer().stemWord(lower)
