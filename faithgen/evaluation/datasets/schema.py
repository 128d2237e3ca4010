"""The one schema of all data sets: a question, its documents, and what a good answer holds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

from faithgen.errors import FaithgenError

from .rows import Row


@dataclass
class EvalDocument:
    """One passage of a question.

    Args:
        id (`str`): its name, unique within the question.
        title (`str`): `""` where it has none.
        text (`str`): the passage.
        gold (`bool`, *optional*): whether it is evidence for the answer; `None` where nobody judged it.
    """

    id: str
    title: str
    text: str
    gold: bool | None = None

    def to_dict(self) -> dict[str, Any]:
        return {"id": self.id, "title": self.title, "text": self.text, "gold": self.gold}


@dataclass
class Example:
    """One question of an evaluation set.

    Args:
        id (`str`): unique within its set, the same in every run.
        question (`str`): as the model is asked.
        documents (`list[EvalDocument]`): what it may answer from, in prompt order.
        answers (`list[str]`):
            Short answers, any of which is right *by the documents*. Empty where a set has only long ones, or where the
            question cannot be answered.
        long_answer (`str`, *optional*): a reference of one or more sentences.
        meta (`dict[str, Any]`): what else scoring needs, JSON values only. Each loader says which names it fills.
    """

    id: str
    question: str
    documents: list[EvalDocument] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    long_answer: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def gold(self) -> list[int]:
        """Indices of the gold documents."""
        return [index for index, document in enumerate(self.documents) if document.gold]

    @property
    def relevance(self) -> dict[str, int]:
        """Grade by document id for ranking metrics: `meta["relevance"]` where the set is graded, else 1 for gold ones."""
        grades = self.meta.get("relevance") or {document.id: 1 for document in self.documents if document.gold}
        # the hub's tables give every row the ids of all rows, as nulls
        return {name: grade for name, grade in grades.items() if grade is not None}

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values; numbers that are not finite become `None`."""
        return {
            "id": self.id,
            "question": self.question,
            "documents": [document.to_dict() for document in self.documents],
            "answers": list(self.answers),
            "long_answer": self.long_answer,
            "meta": _finite(self.meta),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any] | Row) -> Example:
        """Read what [`~Example.to_dict`] wrote, or a row that a user wrote.

        Args:
            values (`Mapping` or [`Row`]): `question` and `documents` are needed. A document is a string or an object
                with `text`; without an `id` it gets its 1-based position. `answers` may be one string.

        Raises:
            FaithgenError: If a field is missing, of the wrong type, or two documents have one id.
        """
        row = values if isinstance(values, Row) else Row(values, "the example")
        documents = _documents(row)
        meta = row.values.get("meta") or {}
        if not isinstance(meta, Mapping):
            raise FaithgenError(f"{row.place}: 'meta' is of type {type(meta).__name__}; give an object")
        return cls(
            id=row.identity("id"),
            question=row.text("question"),
            documents=documents,
            answers=row.texts("answers") if "answers" in row else [],
            long_answer=(row.text("long_answer") if "long_answer" in row else "") or None,
            meta=_finite(meta),
        )


@dataclass
class Loaded(Sequence[Example]):
    """The examples of one data set, used as a list, with what became of its rows.

    Attributes:
        name (`str`), split (`str`), source (`str`): what was read.
        examples (`list[Example]`): in the order of the seed; a run with a smaller `limit` has the first of these.
        dropped (`Counter[str]`): rows that could not be used, by reason. With a `limit`, of the rows read until then.
        changed (`Counter[str]`): what was mended or left out within the rows that were used, by reason.
    """

    name: str
    split: str
    source: str
    examples: list[Example]
    dropped: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        return self.examples[index]

    def __len__(self) -> int:
        return len(self.examples)

    def __iter__(self) -> Iterator[Example]:
        return iter(self.examples)

    def describe(self) -> str:
        """One line for a report, e.g. `"hotpotqa (dev): 146 examples; dropped: no distractors (1)"`."""
        line = f"{self.name} ({self.split}): {len(self)} examples"
        for label, counts in (("dropped", self.dropped), ("changed", self.changed)):
            if counts:
                line += f"; {label}: " + ", ".join(f"{reason} ({count})" for reason, count in counts.most_common())
        return line


def _documents(row: Row) -> list[EvalDocument]:
    items = row.first("documents")
    if not isinstance(items, (list, tuple)):
        raise FaithgenError(f"{row.place}: 'documents' is of type {type(items).__name__}; give a list")
    documents: list[EvalDocument] = []
    for number, item in enumerate(items, 1):
        place = f"{row.place}, document {number}"
        if not isinstance(item, (str, Mapping)):
            raise FaithgenError(f"{place} is of type {type(item).__name__}; give a string, or an object with 'text'")
        part = Row({"text": item} if isinstance(item, str) else item, place, number)
        title = part.text("title") if "title" in part else ""
        gold = part.flag("gold") if "gold" in part else None
        documents.append(EvalDocument(part.identity("id"), title, part.text("text"), gold))
        if not documents[-1].text.strip():
            raise FaithgenError(f"{place} has no text; fill it in or leave the document out")
    repeated = [name for name, count in Counter(document.id for document in documents).items() if count > 1]
    if repeated:
        raise FaithgenError(f"{row.place} has two documents with the id {repeated[0]!r}; give each its own")
    return documents


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
