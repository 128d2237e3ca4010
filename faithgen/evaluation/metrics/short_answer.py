"""Short answers: EM and token F1 as SQuAD scores them, SubEM with and without word boundaries; best of the gold answers."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_DELETED = str.maketrans("", "", string.punctuation)
_SPACED = str.maketrans(string.punctuation, " " * len(string.punctuation))


def normalise_squad(text: str) -> str:
    """SQuAD's normalisation: lower case; ASCII punctuation deleted ("U.S." is "us"); no articles; single blanks."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_DELETED)).split())


def normalise_words(text: str) -> str:
    """As `normalise_squad`, but punctuation parts words: "1914-1918" is "1914 1918", not "19141918"."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_SPACED)).split())


def exact_match(prediction: str, answers: Sequence[str]) -> float | None:
    """EM: 1.0 if the prediction is one of the gold answers after `normalise_squad`.

    Args:
        prediction (`str`): the model's answer.
        answers (`Sequence[str]`):
            Gold answers, any of which will do. Those of which normalisation leaves nothing ("The", "%") are passed over:
            an empty prediction would match them.

    Returns:
        `float`, *optional*: 1.0 or 0.0; `None` where no gold answer can be used.
    """
    golds = _usable(answers, normalise_squad)
    return float(normalise_squad(prediction) in golds) if golds else None


def token_f1(prediction: str, answers: Sequence[str]) -> float | None:
    """F1 of the words of prediction and gold answer as bags, after `normalise_squad`; the best over the gold answers.

    Args:
        prediction (`str`): the model's answer.
        answers (`Sequence[str]`): gold answers, see `exact_match`.

    Returns:
        `float`, *optional*: 0 to 1; `None` where no gold answer can be used.
    """
    golds = _usable(answers, normalise_squad)
    words = Counter(normalise_squad(prediction).split())
    return max((_f1(words, Counter(gold.split())) for gold in golds), default=None)


def sub_em(prediction: str, answers: Sequence[str]) -> float | None:
    """SubEM: 1.0 if the words of a gold answer stand in the prediction, next to each other and in order.

    Both are read by `normalise_words`. Whole words count: "1" is not in "2015", nor "Ireland" in "Irelands". This is
    stricter than `sub_em_substring`, the plain substring of Lost in the Middle (2307.03172); for nearly all rows both
    agree.

    Args:
        prediction (`str`): the model's answer, all of its lines.
        answers (`Sequence[str]`): gold answers, see `exact_match`.

    Returns:
        `float`, *optional*: 1.0 or 0.0; `None` where no gold answer can be used.
    """
    golds = _usable(answers, normalise_words)
    return float(any(holds(prediction, gold) for gold in golds)) if golds else None


def sub_em_substring(prediction: str, answers: Sequence[str]) -> float | None:
    """`best_subspan_em` of Lost in the Middle (2307.03172): a gold answer is a substring of the prediction's first line.

    Both are read by `normalise_squad`. Letters within a word count: "1" is in "2015". Only the first line is read, as in
    the authors' script, so that copying the documents does not pay. Use it to compare with figures published so.

    Args:
        prediction (`str`): the model's answer.
        answers (`Sequence[str]`): gold answers, see `exact_match`.

    Returns:
        `float`, *optional*: 1.0 or 0.0; `None` where no gold answer can be used.
    """
    golds = _usable(answers, normalise_squad)
    line = normalise_squad(prediction.split("\n")[0])
    return float(any(gold in line for gold in golds)) if golds else None


def holds(text: str, phrase: str) -> bool:
    """Whether the words of a phrase stand in a text, by the rule of `sub_em`; never for a phrase without words."""
    words = normalise_words(phrase)
    return bool(words) and f" {words} " in f" {normalise_words(text)} "


def _usable(answers: Sequence[str], normalise: Callable[[str], str]) -> list[str]:
    return [gold for gold in map(normalise, answers) if gold]


def _f1(words: Counter[str], gold: Counter[str]) -> float:
    same = (words & gold).total()
    return 2 * same / (words.total() + gold.total())
