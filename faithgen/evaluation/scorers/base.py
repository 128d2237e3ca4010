"""What a faithfulness scorer is: claims and documents in, the probability that each claim is supported out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from faithgen.errors import FaithgenError
from faithgen.evaluation.text import split_claims


@dataclass(frozen=True)
class ClaimContext:
    """What a claim was said in. Scorers that read text pairs do not need it; `heads` does.

    Attributes:
        question (`str`): what was asked; may be empty.
        answer (`str`): the whole answer the claim is from; empty where the claim stands alone.
        start (`int`), end (`int`): place of the claim in the answer, in characters.
    """

    question: str = ""
    answer: str = ""
    start: int = 0
    end: int = 0


class Scorer(Protocol):
    """Judges whether claims are supported by documents.

    Attributes:
        name (`str`): kind and, where there is one, model: what its judged figures are kept under.
        trained_on (`tuple[str, ...]`): labelled sets whose labels it has seen; figures on these say nothing.
    """

    @property
    def name(self) -> str: ...

    @property
    def trained_on(self) -> tuple[str, ...]: ...

    def score(
        self,
        claims: Sequence[str],
        documents: Sequence[Sequence[str]],
        *,
        contexts: Sequence[ClaimContext | None] | None = None,
    ) -> list[float]:
        """Probability that each claim is supported by its documents.

        Args:
            claims (`Sequence[str]`): one sentence or so each.
            documents (`Sequence[Sequence[str]]`): for each claim the texts that may support it, together or one alone.
            contexts (`Sequence[ClaimContext | None]`, *optional*): what each claim was said in.

        Returns:
            `list[float]`: 0 (not supported) to 1, in the order given. A claim without any document text gets 0.

        Raises:
            FaithgenError: If the lengths differ, or a claim is empty.
        """
        ...


@dataclass(frozen=True)
class SentenceScore:
    """Support of one sentence of an answer.

    Attributes:
        text (`str`): the sentence without bullets and citation marks.
        probability (`float`): that the documents support it, 0 to 1.
        start (`int`), end (`int`): its place in the answer, in characters.
    """

    text: str
    probability: float
    start: int
    end: int


@dataclass(frozen=True)
class Support:
    """Support of a whole answer.

    Attributes:
        mean (`float`, *optional*): mean over its sentences.
        minimum (`float`, *optional*): that of its least supported sentence.
        share (`float`, *optional*): share of sentences with a probability of at least the threshold.
        sentences (`int`): sentences that were judged.
        reason (`str`, *optional*): why there is no figure.
    """

    mean: float | None
    minimum: float | None
    share: float | None
    sentences: int
    reason: str | None = None


def score_answers(
    scorer: Scorer,
    answers: Sequence[str],
    documents: Sequence[Sequence[str]],
    questions: Sequence[str] | None = None,
) -> list[list[SentenceScore]]:
    """Score each sentence of each answer, all in one call of the scorer.

    Args:
        scorer ([`Scorer`]): the judge.
        answers (`Sequence[str]`): answers; may be empty strings.
        documents (`Sequence[Sequence[str]]`): what each was to be answered from.
        questions (`Sequence[str]`, *optional*): what was asked.

    Returns:
        `list[list[SentenceScore]]`: for each answer its claims in order (see [`split_claims`]); an empty list for one
        that asserts nothing.

    Raises:
        FaithgenError: If the lengths differ, or the scorer's answer is not one number from 0 to 1 for each claim.
    """
    questions = [""] * len(answers) if questions is None else questions
    if not len(answers) == len(documents) == len(questions):
        raise FaithgenError(
            f"there are {len(answers)} answers, {len(documents)} lists of documents and {len(questions)} questions; "
            "give one of each a row"
        )
    split = [split_claims(answer) for answer in answers]
    owners = [row for row, claims in enumerate(split) for _ in claims]
    claims = [claim for row in split for claim in row]
    probabilities = scorer.score(
        [claim.text for claim in claims],
        [documents[row] for row in owners],
        contexts=[
            ClaimContext(questions[row], answers[row], claim.start, claim.end)
            for row, claim in zip(owners, claims, strict=True)
        ],
    )
    if len(probabilities) != len(claims):
        raise FaithgenError(
            f"scorer {scorer.name!r} gave {len(probabilities)} numbers for {len(claims)} claims; let it give one for each"
        )
    for claim, probability in zip(claims, probabilities, strict=True):
        if probability is None or not 0 <= probability <= 1:  # NaN is neither
            raise FaithgenError(
                f"scorer {scorer.name!r} gave {probability} for {claim.text[:80]!r}; let it give a probability from 0 to 1"
            )
    scored: list[list[SentenceScore]] = [[] for _ in answers]
    for row, claim, probability in zip(owners, claims, probabilities, strict=True):
        scored[row].append(SentenceScore(claim.text, probability, claim.start, claim.end))
    return scored


def score_answer(scorer: Scorer, answer: str, documents: Sequence[str], question: str = "") -> list[SentenceScore]:
    """Score each sentence of one answer; as [`score_answers`]."""
    return score_answers(scorer, [answer], [documents], [question])[0]


def summarise(sentences: Sequence[SentenceScore], threshold: float = 0.5) -> Support:
    """Bring the sentences of an answer into figures of the answer.

    Args:
        sentences (`Sequence[SentenceScore]`): as [`score_answer`] gives them.
        threshold (`float`, *optional*, defaults to 0.5):
            Probability from which a sentence counts as supported; [`SCORERS`] knows the one each scorer was judged with.

    Returns:
        [`Support`]: without figures where there is no sentence.
    """
    if not sentences:
        return Support(None, None, None, 0, "the answer has no sentence that asserts something")
    values = [sentence.probability for sentence in sentences]
    share = sum(value >= threshold for value in values) / len(values)
    return Support(math.fsum(values) / len(values), min(values), share, len(values))


def check_pairs(
    claims: Sequence[str],
    documents: Sequence[Sequence[str]],
    contexts: Sequence[ClaimContext | None] | None = None,
) -> None:
    """Raise the errors that every scorer has in common.

    Raises:
        FaithgenError: If the lengths differ, a claim is empty, or the documents of a claim are one string.
    """
    if len(claims) != len(documents):
        raise FaithgenError(
            f"there are {len(claims)} claims and {len(documents)} lists of documents; give one list for each claim"
        )
    if contexts is not None and len(contexts) != len(claims):
        raise FaithgenError(f"there are {len(claims)} claims and {len(contexts)} contexts; give one for each claim")
    for number, (claim, texts) in enumerate(zip(claims, documents, strict=True), 1):
        if not claim.strip():
            raise FaithgenError(f"claim {number} is empty; leave it out")
        if isinstance(texts, str):
            raise FaithgenError(f"the documents of claim {number} are one string; give a list of strings")
