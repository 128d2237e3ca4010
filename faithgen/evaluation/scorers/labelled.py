"""The shape of claims that people labelled as supported or not, and how answers and marked spans are brought into it."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from faithgen.errors import FaithgenError
from faithgen.evaluation.datasets.rows import Row
from faithgen.evaluation.scorers.base import ClaimContext
from faithgen.evaluation.text import clean, split_claims, split_sentences

Unit = Literal["sentence", "answer", "triplet"]
Kind = Literal["qa", "dialogue", "summary", "facts"]

SUMMARISE = "Summarise the passage."
"""What stands in for the question where a set has none."""

_WORD = re.compile(r"\w+")
_SHINGLE = 20

SILENT = "sentence asserts nothing (heading, lead-in, question)"


@dataclass(frozen=True)
class LabelledClaim:
    """One judgement of people.

    Attributes:
        id (`str`): names the row within its set.
        claim (`str`): a sentence, a whole answer or a triplet read as a sentence, as the set's `unit` says.
        documents (`tuple[str, ...]`): the texts it was judged against.
        label (`int`): 1 supported, 0 not.
        answer (`str`): id of the answer it is from.
        cluster (`str`): the question or source text, which several answers share; rows of a cluster are not independent.
        context ([`ClaimContext`]): question, whole answer and place in it.
        part (`str`): part of the set it is from; empty where there is only one.
    """

    id: str
    claim: str
    documents: tuple[str, ...]
    label: int
    answer: str
    cluster: str
    context: ClaimContext
    part: str = ""


@dataclass
class LabelledSet:
    """One set of judgements.

    Attributes:
        name (`str`): its folder's name (`begin_wow_dev` is the dev file of `begin_wow`).
        kind (`str`): `"qa"`, `"dialogue"`, `"summary"` or `"facts"`.
        unit (`str`): what one label is for: `"sentence"`, `"answer"` or `"triplet"`.
        claims (`list[LabelledClaim]`): in the order of the file.
        excluded (`Counter[str]`): what was left out, by reason.
    """

    name: str
    kind: Kind
    unit: Unit
    claims: list[LabelledClaim] = field(default_factory=list)
    excluded: Counter[str] = field(default_factory=Counter)

    @property
    def supported(self) -> int:
        """Claims with label 1."""
        return sum(claim.label for claim in self.claims)

    def add(
        self,
        number: str,
        place: str,
        claim: str,
        documents: tuple[str, ...],
        label: int,
        cluster: str,
        context: ClaimContext,
        part: str = "",
    ) -> None:
        """Append a claim without its citation marks; a blank one is counted instead.

        Args:
            number (`str`): the claim's number within its answer.
            place (`str`): the answer's id.
            claim, documents, label, cluster, context, part: as in [`LabelledClaim`].
        """
        text = clean(claim) if self.unit != "answer" else claim
        if not text.strip():
            self.excluded["claim is blank"] += 1
            return
        self.claims.append(LabelledClaim(f"{place}/{number}", text, documents, label, place, cluster, context, part))

    def add_answer(
        self, place: str, answer: str, documents: tuple[str, ...], label: int, question: str, part: str = ""
    ) -> None:
        """Append a whole answer; its cluster is its first document."""
        context = ClaimContext(question, answer, 0, len(answer))
        self.add("0", place, answer, documents, label, cluster_of(documents[0]), context, part)

    def add_marked(
        self,
        place: str,
        answer: str,
        documents: tuple[str, ...],
        spans: Sequence[tuple[int, int, int | None]],
        *,
        question: str,
        cluster: str,
        unclear: str,
    ) -> None:
        """Append the sentences of an answer, labelled by the spans that people marked in it.

        A sentence that a span with 0 touches is 0, one without a span 1, one with `None` alone is left out.

        Args:
            place, answer, documents, question, cluster: of all its sentences.
            spans (`Sequence[tuple[int, int, int | None]]`):
                Start and end in characters, and 0 (unsupported) or `None` (unclear).
            unclear (`str`): the reason under which the latter are counted.
        """
        claims = split_claims(answer)
        self.excluded[SILENT] += len(split_sentences(answer)) - len(claims)
        for start, end, _ in spans:
            if not any(_touches(answer, start, end, claim.start, claim.end) for claim in claims):
                self.excluded["marked span lies in no sentence that asserts something"] += 1
        for number, claim in enumerate(claims, 1):
            marks = {mark for start, end, mark in spans if _touches(answer, start, end, claim.start, claim.end)}
            if marks == {None}:
                self.excluded[unclear] += 1
                continue
            context = ClaimContext(question, answer, claim.start, claim.end)
            self.add(str(number), place, claim.text, documents, 0 if marks else 1, cluster, context)


def drop_shared(sets: Sequence[LabelledSet], held: LabelledSet) -> tuple[list[LabelledSet], Counter[str]]:
    """Training sets without the claims whose source text recurs in a held-out set.

    Source texts are the same if they share 20 words in a row, or if one that is shorter than that is wholly the other.

    Args:
        sets (`Sequence[LabelledSet]`): to train on; not changed.
        held (`LabelledSet`): to judge on.

    Returns:
        `(sets, dropped)`: the sets in order, and how many claims each lost; sets that lost none are not named.
    """
    texts = {document for claim in held.claims for document in claim.documents}
    seen = set().union(*map(_shingles, texts))
    known: dict[str, bool] = {}
    dropped: Counter[str] = Counter()
    left = []
    for one in sets:
        for text in {document for claim in one.claims for document in claim.documents} - known.keys():
            known[text] = not seen.isdisjoint(_shingles(text))
        kept = [claim for claim in one.claims if not any(known[document] for document in claim.documents)]
        dropped[one.name] = len(one.claims) - len(kept)
        left.append(replace(one, claims=kept))
    return left, +dropped


def _shingles(text: str) -> set[int]:
    words = _WORD.findall(text.lower())
    return {hash(" ".join(words[start : start + _SHINGLE])) for start in range(max(1, len(words) - _SHINGLE + 1))}


def joined(sentences: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """Sentences as one text, and the place of each in it."""
    places, end = [], -1
    for sentence in sentences:
        places.append((end + 1, end + 1 + len(sentence)))
        end += 1 + len(sentence)
    return " ".join(sentences), places


def cluster_of(text: str) -> str:
    """The same for the same source text, whatever its white space and case."""
    return hashlib.sha256(" ".join(text.lower().split()).encode()).hexdigest()[:16]


def label_of(row: Row, name: str, labels: dict[str, int]) -> int:
    """The 0 or 1 that the value of a field stands for.

    Raises:
        FaithgenError: If the value is none of `labels`.
    """
    value = row.text(name)
    if value not in labels:
        raise FaithgenError(f"{row.place}: {name!r} is {value!r}; give one of {', '.join(labels)}")
    return labels[value]


def _touches(text: str, start: int, end: int, other_start: int, other_end: int) -> bool:
    """Whether two places of a text share a character that is no white space."""
    return bool(text[max(start, other_start) : min(end, other_end)].strip())
