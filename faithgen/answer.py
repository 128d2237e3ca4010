"""What a request returns: the text, which documents were used, and where the answer is shaky."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from faithgen.documents import Document

SOME_DOUBT = 0.35
"""Doubt score from which an answer is called shaky; see `benchmarks/README.md` for what it separates."""
HIGH_DOUBT = 0.65


@dataclass(frozen=True)
class AnswerToken:
    """One generated token and its signals.

    Attributes:
        text (`str`): what the token added to the answer.
        id (`int`): token id.
        logprob (`float`): log-probability in the faithful branch, in nats.
        jsd (`float`, *optional*): Jensen-Shannon divergence of the two branches in nats, 0 to 0.693: where it is high, the
            token depends on what the unfaithful branch lacks. `None` without a second branch.
        context_share (`float`, *optional*): share (0 to 1) of the copying heads' attention that lay on the documents when
            the token was chosen.
    """

    text: str
    id: int
    logprob: float
    jsd: float | None
    context_share: float | None


@dataclass(frozen=True)
class Doubt:
    """How far an answer can be doubted, from the model's own signals.

    Attributes:
        score (`float`): 0 (no doubt) to 1: one minus the geometric mean of the tokens' probabilities.
        level (`str`): `"low"`, `"some"` (from 0.35) or `"high"` (from 0.65).
        weakest (`str`): the token with the lowest probability.
        probability (`float`): its probability.
    """

    score: float
    level: str
    weakest: str
    probability: float

    def __str__(self) -> str:
        return (
            f"Doubt: {self.level} ({self.score:.2f} of 1); least sure of {self.weakest.strip()!r} "
            f"(probability {self.probability:.2f})"
        )


@dataclass
class Answer:
    """An answer and how it came about.

    Attributes:
        question (`str`), text (`str`): what was asked and answered.
        documents (`list[Document]`): all documents in the order given, with `.kept`, `.score` (sum over the voting heads of
            the document's share of their attention; `None` unfiltered) and `.truncated`.
        prompt_order (`list[str]`): ids of the kept documents in the order the model read them.
        tokens (`list[AnswerToken]`): the answer's tokens with their signals.
        finish_reason (`str`): `"end"` (the model ended it), `"stop"` (a stop string) or `"length"`.
        timings (`dict[str, float]`): seconds `filter`, `prefill`, `decode`, `total`; counts `scored_tokens`,
            `prompt_tokens`, `new_tokens`.
        settings (`dict`): model and methods used.
        warnings (`list[str]`): what the reader should know, e.g. documents that were cut.
    """

    question: str
    text: str
    documents: list[Document]
    prompt_order: list[str] = field(default_factory=list)
    tokens: list[AnswerToken] = field(default_factory=list)
    finish_reason: str = "end"
    timings: dict[str, float] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def doubt(self) -> Doubt:
        """The model's doubt over the whole answer."""
        return measure_doubt(self.tokens)

    def to_dict(self) -> dict[str, Any]:
        """The JSON object that `faithgen generate --format json` prints."""
        return {
            "question": self.question,
            "answer": self.text,
            "documents": [document.to_dict() for document in self.documents],
            "prompt_order": self.prompt_order,
            "doubt": asdict(self.doubt),
            "tokens": [asdict(token) for token in self.tokens],
            "finish_reason": self.finish_reason,
            "timings": {name: round(value, 4) for name, value in self.timings.items()},
            "settings": self.settings,
            "warnings": self.warnings,
        }


def measure_doubt(tokens: Sequence[AnswerToken]) -> Doubt:
    """Doubt over some tokens; an empty answer is of high doubt."""
    written = [token for token in tokens if token.text]
    if not written:
        return Doubt(1.0, "high", "", 0.0)
    weakest = min(written, key=lambda token: token.logprob)
    score = 1 - math.exp(sum(token.logprob for token in written) / len(written))
    level = "high" if score >= HIGH_DOUBT else "some" if score >= SOME_DOUBT else "low"
    return Doubt(score, level, weakest.text, math.exp(weakest.logprob))
