"""What a request returns: the text, which documents were used, and where the answer is shaky."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from faithgen.documents import Document
from faithgen.errors import FaithgenError
from faithgen.explanation import Alternative, AnswerSentence, Explanation, Passage, TokenDetail

SOME_DOUBT = 0.35
"""Doubt score from which an answer is called shaky; see `benchmarks/README.md` for what it separates."""
HIGH_DOUBT = 0.65
SURE_EVIDENCE = 0.4
"""Share of the best document from which it was the right one in 92 of 93 questions (training rows)."""


@dataclass(frozen=True)
class AnswerToken:
    """One generated token and its signals.

    Attributes:
        text (`str`): what the token added to the answer.
        id (`int`): token id.
        logprob (`float`): log-probability in the faithful branch, in nats.
        jsd (`float`, *optional*): Jensen-Shannon divergence of the two branches in nats, 0 to 0.693. Where it is high, the
            token depends on what sets them apart: masked heads, documents left out, or a control token that was trained
            (which may be no more than the form of an answer). `None` without a second branch.
        context_share (`float`, *optional*): share (0 to 1) of the copying heads' attention that lay on the documents when
            the token was chosen.
        detail ([`TokenDetail`], *optional*): how it was chosen; where `explain` was asked for.
    """

    text: str
    id: int
    logprob: float
    jsd: float | None
    context_share: float | None
    detail: TokenDetail | None = None

    def to_dict(self) -> dict[str, Any]:
        """The token as an object of [`Answer.to_dict`]."""
        return _without_nothing(asdict(self), "detail")


@dataclass(frozen=True)
class Doubt:
    """How far an answer can be doubted, from the model's own signals.

    Attributes:
        score (`float`):
            0 (no doubt) to 1: one minus the product of two confidences. One is the geometric mean of the tokens'
            probabilities. The other is `evidence / 0.4`, at most 1, or 1 where documents were not ranked.
        level (`str`): `"low"`, `"some"` or `"high"`, by `SOME_DOUBT` and `HIGH_DOUBT`.
        evidence (`float`, *optional*):
            Share (0 to 1) of the scoring heads' attention that lies on the best document. Where it is small, the heads
            do not agree on what the answer should come from.
        weakest (`str`): the token with the lowest probability.
        probability (`float`): its probability.
    """

    score: float
    level: str
    evidence: float | None
    weakest: str
    probability: float

    def __str__(self) -> str:
        found = "" if self.evidence is None else f"; the best document has {self.evidence:.0%} of the attention"
        return (
            f"Doubt: {self.level} ({self.score:.2f} of 1){found}; least sure of {self.weakest.strip()!r} "
            f"(probability {self.probability:.2f})"
        )


@dataclass
class Answer:
    """An answer and how it came about.

    Attributes:
        question (`str`), text (`str`): what was asked and answered.
        documents (`list[Document]`): all documents in the order given, with `.kept`, `.score` (sum over the voting heads of
            the document's share of their attention; `None` unfiltered), `.coarse_score` and `.fine_score` (its two
            passes) and `.truncated`.
        prompt_order (`list[str]`): ids of the kept documents in the order the model read them.
        tokens (`list[AnswerToken]`): the answer's tokens with their signals.
        finish_reason (`str`): `"end"` (the model ended it), `"stop"` (a stop string) or `"length"`; of LlamaIndex's
            synthesizer also `"empty"` (no node held text; the model was not asked).
        timings (`dict[str, float]`): seconds `filter`, `prefill`, `decode`, `total`; counts `scored_tokens`,
            `prompt_tokens`, `new_tokens`.
        settings (`dict`): model and methods used.
        warnings (`list[str]`): what the reader should know, e.g. documents that were cut.
        explanation ([`Explanation`], *optional*): where the answer came from; where `explain` was asked for.
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
    explanation: Explanation | None = None

    @property
    def doubt(self) -> Doubt:
        """The model's doubt over the whole answer."""
        return measure_doubt(self.tokens, best_share([document.score for document in self.documents]))

    def to_dict(self) -> dict[str, Any]:
        """The JSON object that `faithgen generate --format json` prints.

        Returns:
            `dict`: the attributes, with `text` as `answer`, `doubt` as an object, and documents as `Document.to_dict` gives
            them. `explanation`, and `detail` of each token, are there only where `explain` was asked for; they are the
            dataclasses of `faithgen.explanation` as objects.
        """
        record = {
            "question": self.question,
            "answer": self.text,
            "documents": [document.to_dict() for document in self.documents],
            "prompt_order": self.prompt_order,
            "doubt": asdict(self.doubt),
            "tokens": [token.to_dict() for token in self.tokens],
            "finish_reason": self.finish_reason,
            "timings": {name: round(value, 4) for name, value in self.timings.items()},
            "settings": self.settings,
            "warnings": self.warnings,
            "explanation": None if self.explanation is None else asdict(self.explanation),
        }
        return _without_nothing(record, "explanation")

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Answer:
        """The answer that `to_dict` made an object of, e.g. to write its report later; also when it has been JSON since.

        Args:
            record (`Mapping`): the object; what else it holds is left out.

        Raises:
            FaithgenError: If it is no such object.
        """
        try:
            return cls(
                question=record["question"],
                text=record["answer"],
                documents=[Document(**_fields_of(Document, one)) for one in record["documents"]],
                tokens=[_token(one) for one in record["tokens"]],
                explanation=_explanation(record["explanation"]) if "explanation" in record else None,
                **{
                    name: record[name] for name in ("prompt_order", "finish_reason", "timings", "settings", "warnings")
                },
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = f"it lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
            raise FaithgenError(f"this is no answer ({reason}); give an object that Answer.to_dict() made") from error


def _without_nothing(record: dict[str, Any], name: str) -> dict[str, Any]:
    """The record, less a field that is `None`."""
    return {key: value for key, value in record.items() if key != name or value is not None}


def _fields_of(kind: Any, record: Mapping[str, Any]) -> dict[str, Any]:
    """What of a record are fields of a dataclass."""
    return {one.name: record[one.name] for one in fields(kind) if one.name in record}


def _token(record: Mapping[str, Any]) -> AnswerToken:
    values, detail = _fields_of(AnswerToken, record), record.get("detail")
    if detail is not None:
        branches = {
            name: None if detail[name] is None else [Alternative(**one) for one in detail[name]]
            for name in ("faithful", "unfaithful")
        }
        values["detail"] = TokenDetail(**{**detail, **branches, "looked_at": _pairs(detail["looked_at"])})
    return AnswerToken(**values)


def _explanation(record: Mapping[str, Any]) -> Explanation:
    heads = {name: _pairs(record[name]) for name in ("heads", "scoring_heads", "masked_heads")}
    sentences = [
        AnswerSentence(one["start"], one["end"], (one["tokens"][0], one["tokens"][1]), _pairs(one["looked_at"]))
        for one in record["sentences"]
    ]
    passages = [Passage(**one) for one in record["passages"]]
    return Explanation(**heads, passages=passages, sentences=sentences, dropped=dict(record["dropped"]))


def _pairs(rows: Sequence[Sequence[Any]]) -> list[tuple[Any, Any]]:
    """Pairs that JSON made lists of."""
    return [(first, second) for first, second in rows]


def best_share(scores: Sequence[float | None]) -> float | None:
    """Share (0 to 1) of the best document in the scores of all; `None` where documents were not ranked."""
    given = [max(0.0, score) for score in scores if score is not None]
    return max(given) / sum(given) if sum(given) > 0 else None


def measure_doubt(tokens: Sequence[AnswerToken], evidence: float | None = None) -> Doubt:
    """Doubt over some tokens; an empty answer is of high doubt.

    Args:
        tokens (`Sequence[AnswerToken]`): the answer, or a part of it.
        evidence (`float`, *optional*): share of the best document, see [`best_share`].
    """
    written = [token for token in tokens if token.text]
    if not written:
        return Doubt(1.0, "high", evidence, "", 0.0)
    weakest = min(written, key=lambda token: token.logprob)
    confidence = math.exp(sum(token.logprob for token in written) / len(written))
    if evidence is not None:
        confidence *= min(1.0, evidence / SURE_EVIDENCE)
    score = 1 - confidence
    level = "high" if score >= HIGH_DOUBT else "some" if score >= SOME_DOUBT else "low"
    return Doubt(score, level, evidence, weakest.text, math.exp(weakest.logprob))
