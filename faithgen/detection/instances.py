"""Detection data: JSONL rows of `{question, documents, answer, gold}`."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from faithgen.documents import Document, as_documents
from faithgen.errors import FaithgenError

BUILTIN = "builtin"


@dataclass(frozen=True)
class DetectionInstance:
    """One question with its evidence among distractors.

    Attributes:
        question (`str`), answer (`str`): what is asked, and the words that answer it.
        documents (`list[Document]`): evidence and distractors, in prompt order.
        gold (`list[int]`): indices of the evidence documents; never empty.
    """

    question: str
    documents: list[Document]
    answer: str
    gold: list[int]


def load_instances(source: str | os.PathLike[str]) -> tuple[list[DetectionInstance], Counter[str]]:
    """Read detection data; rows that cannot be used are counted by reason, not lost in silence.

    Args:
        source (`str` or `PathLike`): a JSONL file, or `"builtin"` for the 48 instances that ship with faithgen. Each row
            has `question` (string), `documents` (list of `{"id", "title", "text"}` or strings), `answer` (string, or list
            of strings of which the first counts) and `gold` (ids or 0-based indices of the evidence documents).

    Returns:
        The instances, and a counter of dropped rows by reason.

    Raises:
        FaithgenError: If the file cannot be read or no row of it can be used.
    """
    dropped: Counter[str] = Counter()
    instances = []
    for line in _lines(source):
        try:
            instances.append(_instance(json.loads(line)))
        except FaithgenError as error:
            dropped[str(error)] += 1
        except (ValueError, RecursionError):
            dropped["row is not JSON"] += 1
    if not instances:
        reasons = "; ".join(f"{reason}: {count}" for reason, count in dropped.most_common(3)) or "it is empty"
        raise FaithgenError(
            f"no usable row in {str(source)!r} ({reasons}); rows need question, documents, answer and gold"
        )
    return instances, dropped


def _lines(source: str | os.PathLike[str]) -> Iterator[str]:
    if str(source) == BUILTIN:
        text = (resources.files("faithgen.detection") / "builtin.jsonl").read_text(encoding="utf-8")
    else:
        try:
            text = Path(source).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8"
            raise FaithgenError(f"cannot read {str(source)!r} ({reason}); give a JSONL file in UTF-8") from error
    # not splitlines: JSON strings may hold U+2028 and other characters that it splits at
    return (line for line in text.split("\n") if line.strip())


def _instance(row: Any) -> DetectionInstance:
    if not isinstance(row, dict):
        raise FaithgenError("row is not an object")
    for name in ("question", "documents", "answer", "gold"):
        if name not in row:
            raise FaithgenError(f"no {name!r}")
    answer = row["answer"][0] if isinstance(row["answer"], list) and row["answer"] else row["answer"]
    if not isinstance(row["question"], str) or not row["question"].strip():
        raise FaithgenError("empty question")
    if not isinstance(answer, str) or not answer.strip():
        raise FaithgenError("empty answer")
    try:
        documents = as_documents(row["documents"])
    except FaithgenError as error:
        raise FaithgenError("unusable documents") from error
    named = any(isinstance(document, dict) and "id" in document for document in row["documents"])
    return DetectionInstance(row["question"], documents, answer, _gold(row["gold"], documents, named))


def _gold(gold: Any, documents: Sequence[Document], named: bool) -> list[int]:
    """Indices of the gold entries; where the documents have ids, a number is first taken for one of these."""
    places = {document.id: index for index, document in enumerate(documents)}
    found = []
    for entry in gold if isinstance(gold, list) else [gold]:
        known = str(entry) if isinstance(entry, str) or (named and type(entry) is int) else None
        if known in places:
            found.append(places[known])
        elif isinstance(entry, int) and not isinstance(entry, bool) and 0 <= entry < len(documents):
            found.append(entry)
        else:
            raise FaithgenError("gold is not among the documents")
    if not found:
        raise FaithgenError("no gold document")
    return sorted(set(found))
