"""Rows to train on: `{id, question, documents, answer}` and, once sampled, `unfaithful`; from JSONL or `datasets`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from faithgen.documents import Document, as_documents
from faithgen.errors import FaithgenError, MissingExtraError

if TYPE_CHECKING:
    from datasets import Dataset

Source = str | os.PathLike[str] | Iterable[Mapping[str, Any]]
"""A JSONL file, a folder or hub name of a data set, a `datasets.Dataset`, or rows in memory."""


@dataclass(frozen=True)
class Row:
    """One question with its documents and answers.

    Attributes:
        id (`str`): unique in its source; the row's number (from 1) where it has none.
        question (`str`): what is asked.
        documents (`list[Document]`): what it is answered from, at least one.
        answer (`str`, *optional*): the faithful answer.
        unfaithful (`str`, *optional*): the answer of the masked model.
        instruction (`str`, *optional*): first line of this row's prompt; that of the run if not given.
        made (`dict`): how `unfaithful` was made (see [`build_unfaithful`]); empty for other rows.
    """

    id: str
    question: str
    documents: list[Document]
    answer: str | None = None
    unfaithful: str | None = None
    instruction: str | None = None
    made: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The row with its documents as `{id, title, text}`, as JSONL and `datasets` take it."""
        documents = [{"id": d.id, "title": d.title, "text": d.text} for d in self.documents]
        row = {"id": self.id, "question": self.question, "documents": documents}
        answers = {"answer": self.answer, "unfaithful": self.unfaithful}
        return row | answers | ({"instruction": self.instruction} if self.instruction else {})


def read_rows(
    source: Source, *, split: str = "train", needs: Sequence[str] = ("answer",), limit: int | None = None
) -> list[Row]:
    """Read and check rows.

    Args:
        source (path, name, `Dataset` or iterable of mappings):
            A file that ends in `.jsonl` (or `.json` with the same lines), a folder or hub name of a data set (see
            [`load_split`]), or the rows.
        split (`str`, *optional*, defaults to `"train"`): split of a data set by folder or name.
        needs (`Sequence[str]`, *optional*, defaults to `("answer",)`):
            Columns that must hold text beside `question` and `documents`: `"answer"`, `"unfaithful"`.
        limit (`int`, *optional*): read at most this many.

    Returns:
        `list[Row]`: in the order of the source.

    Raises:
        FaithgenError: If the source cannot be read, is empty, lacks a column, repeats an id, or a row is unusable; the
            message names the place.
        MissingExtraError: If a data set by name needs the `datasets` package.
    """
    name, items = _open(source, split)
    rows: list[Row] = []
    places: dict[str, str] = {}
    for number, (place, item) in enumerate(items, 1):
        row = _row(item, f"{name}, {place}", str(number), needs)
        if row.id in places:
            raise FaithgenError(
                f"{name}, {place} has the id {row.id!r}, as {places[row.id]} has; give each its own id"
            )
        places[row.id] = place
        rows.append(row)
        if limit is not None and len(rows) >= limit:
            break
    if not rows:
        raise FaithgenError(f"{name} is empty; give at least one row of question, documents and answer")
    return rows


def as_dataset(rows: Sequence[Row]) -> Dataset:
    """Rows as a `datasets.Dataset` with the columns id, question, documents, answer, unfaithful and, if any row has one,
    instruction."""
    from datasets import Dataset, Features, List, Value

    text = Value("string")
    features = Features(
        {
            "id": text,
            "question": text,
            "documents": List({"id": text, "title": text, "text": text}),
            "answer": text,
            "unfaithful": text,
            **({"instruction": text} if any(row.instruction for row in rows) else {}),
        }
    )
    return Dataset.from_list([dict.fromkeys(features) | row.to_dict() for row in rows], features=features)


def row_from(item: Mapping[str, Any], place: str, needs: Sequence[str] = ("answer",)) -> Row:
    """Check one row; as [`read_rows`], with `place` as its name in errors."""
    return _row(item, place, place, needs)


def load_split(name: str, split: str, config_name: str | None = None) -> Any:
    """A split of a data set on the hub, in a folder that `load_dataset` reads, or in one that `save_to_disk` wrote.

    A folder that holds a single saved set is that set, whatever the split.

    Args:
        name (`str`): hub name, or path of a folder.
        split (`str`): e.g. `"train"`.
        config_name (`str`, *optional*): configuration of a set that has several.

    Raises:
        FaithgenError: If it cannot be read or has no such split.
        MissingExtraError: If the `datasets` package is not installed.
    """
    try:
        from datasets import DatasetDict, load_dataset, load_from_disk
    except ImportError as error:
        raise MissingExtraError(f"reading the data set {name!r}", "train") from error
    try:
        if not any((Path(name) / file).is_file() for file in ("state.json", "dataset_dict.json")):
            return load_dataset(name, name=config_name, split=split)
        found = load_from_disk(name)
        if not isinstance(found, DatasetDict):
            return found
        if split not in found:
            raise ValueError(f"it has {', '.join(map(str, found))}")
        return found[split]
    except Exception as error:  # `datasets` raises anything from ConnectionError to its own classes
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise FaithgenError(
            f"data set {name!r} (split {split!r}) could not be read ({reason}); give a JSONL file, or a folder or the name "
            "of a data set"
        ) from error


def _open(source: Source, split: str) -> tuple[str, Iterator[tuple[str, Any]]]:
    """Name of the source, and its rows with their places."""
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        if path.is_file():
            return str(path), _lines(path)
        if not path.is_dir() and (path.suffix in (".jsonl", ".json") or path.is_absolute()):
            raise FaithgenError(f"there is no file {str(path)!r}; give a JSONL file or the name of a data set")
        return str(source), _numbered(load_split(str(source), split))
    if isinstance(source, Mapping):
        raise FaithgenError("the rows are one mapping; give a list of them")
    return "the data", _numbered(source)


def _numbered(items: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    return ((f"row {number}", item) for number, item in enumerate(items, 1))


def _lines(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise FaithgenError(f"cannot read {str(path)!r} ({reason}); give a JSONL file in UTF-8") from error
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield f"line {number}", json.loads(line)
            except (ValueError, RecursionError) as error:
                raise FaithgenError(f"{path}, line {number} is not valid JSON; put one object on each line") from error


def _row(item: Any, place: str, number: str, needs: Sequence[str]) -> Row:
    if not isinstance(item, Mapping):
        raise FaithgenError(f"{place} is not an object; give {{id, question, documents, answer}}")
    wanted = ["question", "documents", *needs]
    missing = [name for name in wanted if item.get(name) is None]
    if missing:
        has = ", ".join(map(str, item)) or "none"
        raise FaithgenError(f"{place} has no {missing[0]!r}; the columns needed are {', '.join(wanted)}, it has {has}")
    for name in ("question", *needs):
        if not isinstance(item[name], str) or not item[name].strip():
            raise FaithgenError(f"{place}: {name!r} is not text; give one non-empty string")
    for name in ("id", "question", "answer", "unfaithful", "instruction"):
        if isinstance(item.get(name), str) and not _is_utf8(item[name]):
            raise FaithgenError(f"{place}: {name!r} holds a surrogate, which UTF-8 cannot encode; replace it")
    try:
        documents = as_documents([_without_none(document) for document in _listed(item["documents"])])
    except FaithgenError as error:
        raise FaithgenError(f"{place}: {error}") from error
    identity, made, instruction = item.get("id"), item.get("made"), item.get("instruction")
    if instruction is not None and (not isinstance(instruction, str) or not instruction.strip()):
        raise FaithgenError(f"{place}: 'instruction' is not text; give one non-empty string, or leave it out")
    return Row(
        number if identity in (None, "") else str(identity),
        item["question"],
        documents,
        item.get("answer"),
        item.get("unfaithful"),
        instruction,
        dict(made) if isinstance(made, Mapping) else {},
    )


def _is_utf8(text: str) -> bool:
    try:
        return text.encode("utf-8") is not None
    except UnicodeEncodeError:
        return False


def _listed(documents: Any) -> list[Any]:
    if isinstance(documents, str | bytes | Mapping) or not isinstance(documents, Iterable):
        raise FaithgenError("the documents are not a list; give strings or objects with `text`")
    return list(documents)


def _without_none(document: Any) -> Any:
    """Arrow fills the fields a document does not have with `None`."""
    if isinstance(document, Mapping):
        return {key: value for key, value in document.items() if value is not None}
    return document
