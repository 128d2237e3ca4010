"""Long answers: ROUGE against references, recall of short answers (STR-EM of ASQA), what is copied, length."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from faithgen.errors import FaithgenError
from faithgen.evaluation.metrics.short_answer import holds, normalise_squad, normalise_words
from faithgen.evaluation.text import count_words, split_sentences

ROUGE_KINDS = ("rouge1", "rouge2", "rougeL", "rougeLsum")
_TOKEN = re.compile("[a-zA-Z0-9]")
_WORDS = re.compile(r"\w+")
_PARTS = ("precision", "recall", "fmeasure")


def rouge(
    prediction: str, references: str | Sequence[str], kind: str = "rougeL", part: str = "fmeasure"
) -> float | None:
    """ROUGE by Google's rouge-score, with Porter stemming; the best over the references.

    The tokens are runs of ASCII letters and digits, so text in another script scores nothing.

    Args:
        prediction (`str`): the model's answer.
        references (`str` or `Sequence[str]`): one or more good answers.
        kind (`str`, *optional*, defaults to `"rougeL"`):
            `"rouge1"`, `"rouge2"`, `"rougeL"` (longest common subsequence of the whole texts) or `"rougeLsum"` (of their
            sentences, as ALCE and summarisation papers report it).
        part (`str`, *optional*, defaults to `"fmeasure"`): or `"precision"`, `"recall"`.

    Returns:
        `float`, *optional*: 0 to 1; `None` where no reference holds a token.

    Raises:
        FaithgenError: If `kind` or `part` is not known.
    """
    if kind not in ROUGE_KINDS:
        raise FaithgenError(f"the ROUGE kind {kind!r} is not known; use one of {', '.join(ROUGE_KINDS)}")
    if part not in _PARTS:
        raise FaithgenError(f"the part of ROUGE {part!r} is not known; use one of {', '.join(_PARTS)}")
    scorer = _scorer(kind)
    texts = [references] if isinstance(references, str) else references
    texts = [text for text in texts if _TOKEN.search(text)]
    if kind == "rougeLsum":
        prediction, *texts = map(_one_sentence_a_line, (prediction, *texts))
    scores = (getattr(scorer.score(text, prediction)[kind], part) for text in texts)
    return max(map(float, scores), default=None)


def str_em(prediction: str, short_answers: Sequence[Sequence[str]]) -> float | None:
    """STR-EM (ASQA, ALCE): share of the questions behind the question whose short answer is in the prediction.

    A short answer counts where it is a plain substring after `normalise_squad`, as in the authors' scripts: short ones
    are found by chance within words. `short_answer_recall` asks for whole words.

    Args:
        prediction (`str`): the model's answer.
        short_answers (`Sequence[Sequence[str]]`): one list of accepted answers for each question behind the question.

    Returns:
        `float`, *optional*: 0 to 1; `None` where there are no short answers.
    """
    text = normalise_squad(prediction)
    groups = [[gold for gold in map(normalise_squad, group) if gold] for group in short_answers]
    return _mean([any(gold in text for gold in group) for group in groups if group])


def short_answer_recall(prediction: str, short_answers: Sequence[Sequence[str]]) -> float | None:
    """`str_em` by the whole-word rule of `sub_em`.

    Args:
        prediction (`str`): the model's answer.
        short_answers (`Sequence[Sequence[str]]`): one list of accepted answers for each question behind the question.

    Returns:
        `float`, *optional*: 0 to 1; `None` where there are no short answers.
    """
    groups = [[gold for gold in group if normalise_words(gold)] for group in short_answers]
    return _mean([any(holds(prediction, gold) for gold in group) for group in groups if group])


def copied(prediction: str, passages: Sequence[str]) -> float:
    """Share of the answer's sentences that stand word for word in one of the documents.

    An answer copied as a whole is supported whatever was asked: read support beside this and a metric of the answer. Case
    and punctuation do not count.

    Args:
        prediction (`str`): the model's answer.
        passages (`Sequence[str]`): texts of the documents.

    Returns:
        `float`: 0 to 1; 0 where the answer holds no word.
    """
    texts = [f" {_words(text)} " for text in passages]
    sentences = [words for words in (_words(sentence.text) for sentence in split_sentences(prediction)) if words]
    return _mean([any(f" {sentence} " in text for text in texts) for sentence in sentences]) or 0.0


def answer_words(prediction: str) -> float:
    """Length of the prediction in words: pieces between white space that hold a letter or digit."""
    return float(count_words(prediction))


def _words(text: str) -> str:
    return " ".join(_WORDS.findall(text.lower()))


def _mean(hits: Sequence[bool]) -> float | None:
    return sum(hits) / len(hits) if hits else None


def _one_sentence_a_line(text: str) -> str:
    return "\n".join(" ".join(sentence.text.split()) for sentence in split_sentences(text))


@cache
def _scorer(kind: str) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([kind], use_stemmer=True)
