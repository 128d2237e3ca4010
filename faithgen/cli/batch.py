"""A file of questions to a file of answers: one row out for each row in, resumable after any kind of stop."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from faithgen.cli.console import note, progress_bar
from faithgen.documents import Document, as_documents, read_documents
from faithgen.errors import FaithgenError

if TYPE_CHECKING:
    from faithgen.generator import FaithfulGenerator


def answer_file(
    source: Path,
    target: Path,
    resume: bool,
    batch_size: int,
    settings: dict[str, Any],
    load: Callable[[], FaithfulGenerator],
) -> int:
    """Answer every row of a JSONL file.

    Rows are `{"question", "documents", "id"?}`; documents are a list, or a path relative to the file. Each answer is
    written as one whole line `{"line", "id", ...}` in input order and flushed. A row that cannot be answered becomes
    `{"line", "id", "error"}` and the run goes on.

    Args:
        source (`Path`), target (`Path`): input and output.
        resume (`bool`): keep the whole lines that `target` has and go on after them.
        batch_size (`int`): questions decoded together.
        settings (`dict`): options of [`FaithfulGenerator.generate_batch`].
        load: makes the generator; called once the files are known to be usable.

    Returns:
        The number of error rows in the whole output.

    Raises:
        FaithgenError: If a file cannot be read or written, or the output does not belong to the input.
    """
    lines = _read_lines(source)
    done, failed = _open_output(target, resume, lines)
    total = sum(1 for line in lines if line.strip())
    left = [(number, line) for number, line in enumerate(lines, 1) if line.strip() and number not in done]
    if not left:
        note(f"{target}: all {total} rows are answered already")
        return failed
    generator = load()
    with target.open("a", encoding="utf-8") as stream, progress_bar("answering") as report:
        finished = total - len(left)
        report(finished, total)
        for row in _answers(left, source.parent, generator, batch_size, settings):
            stream.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
            failed += "error" in row
            finished += 1
            report(finished, total)
    note(f"{target}: {total - failed} answered, {failed} failed")
    return failed


def _read_lines(source: Path) -> list[str]:
    try:
        return source.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise FaithgenError(f"cannot read --input {str(source)!r} ({reason}); give a JSONL file in UTF-8") from error


def _open_output(target: Path, resume: bool, lines: list[str]) -> tuple[set[int], int]:
    """Lines that `target` holds already (a last line that was cut off is removed), and how many are errors."""
    if target.exists() and not resume:
        raise FaithgenError(f"--output {str(target)!r} exists already; add --resume to go on with it, or remove it")
    done: set[int] = set()
    failed = 0
    try:
        if target.exists():
            text = target.read_bytes()
            whole = text[: text.rfind(b"\n") + 1]
            for line in whole.decode("utf-8").split("\n")[:-1]:
                row = json.loads(line)
                number = row["line"]
                if not 1 <= number <= len(lines) or row.get("question") not in (None, _question(lines[number - 1])):
                    raise ValueError
                done.add(number)
                failed += "error" in row
            with target.open("rb+") as stream:
                stream.truncate(len(whole))
        else:
            target.touch()
            if not os.access(target, os.W_OK):
                raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise FaithgenError(
            f"cannot write --output {str(target)!r} ({error.strerror}); choose another file"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FaithgenError(
            f"--output {str(target)!r} holds no answers to this --input; choose another file"
        ) from error
    return done, failed


def _question(line: str) -> Any:
    try:
        return json.loads(line)["question"]
    except (ValueError, KeyError, TypeError):
        return None


def _answers(
    lines: list[tuple[int, str]], folder: Path, generator: FaithfulGenerator, batch_size: int, settings: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """One output row for each line, in order: an answer waits for those of the lines before it."""
    found: dict[int, dict[str, Any]] = {}
    asked: list[tuple[int, Any]] = []

    def requests() -> Iterator[tuple[str, list[Document]]]:
        for number, line in lines:
            identity = None
            try:
                row = _parse(line)
                identity = row.get("id")
                request = (_checked_question(row), _documents(row, folder))
            except FaithgenError as error:
                found[number] = _error(number, identity, error)
                continue
            asked.append((number, identity))
            yield request

    waiting = deque(number for number, _ in lines)
    for index, answer in generator.generate_each(requests(), batch_size=batch_size, keep_errors=True, **settings):
        number, identity = asked[index]
        if isinstance(answer, FaithgenError):
            found[number] = _error(number, identity, answer)
        else:
            found[number] = {"line": number, "id": identity, **answer.to_dict()}
        while waiting and waiting[0] in found:
            yield found.pop(waiting.popleft())
    while waiting:
        yield found.pop(waiting.popleft())


def _parse(line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise FaithgenError("the row is not valid JSON") from error
    if not isinstance(row, dict):
        raise FaithgenError("the row is not a JSON object")
    return row


def _checked_question(row: dict[str, Any]) -> str:
    question = row.get("question")
    if not isinstance(question, str) or not question.strip():
        raise FaithgenError("the row has no question")
    return question


def _documents(row: dict[str, Any], folder: Path) -> list[Document]:
    documents = row.get("documents")
    if isinstance(documents, str):
        path = (folder / documents).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise FaithgenError(f"documents {documents!r} lie outside the folder of --input")
        return read_documents(path)
    if not isinstance(documents, list):
        raise FaithgenError("the row has no list of documents")
    return as_documents(documents)


def _error(number: int, identity: Any, error: FaithgenError) -> dict[str, Any]:
    return {"line": number, "id": identity, "error": f"line {number}: {error}"}
