"""The folder of a run: `run.json` says what was run, `rows.jsonl` keeps one whole line for each answer."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from faithgen.errors import FaithgenError
from faithgen.files import take_lock, write_text

FORMAT = "faithgen-eval-1"
_COMPARED = ("settings", "datasets", "model", "methods", "scorer")
_SHOWN = 3
_LEFT_OVER = (".probe-", ".run.json-", ".rows.jsonl-")
"""Beginnings of the temporary names that a run killed in the middle of a write leaves behind."""

Row = dict[str, Any]
Key = tuple[str, str, str]
"""Data set, method and id: what a row is known by."""


def key_of(row: Mapping[str, Any]) -> Key:
    return (row["dataset"], row["method"], row["id"])


class RunFolder:
    """The output of one run.

    Args:
        path (`Path`): the folder; [`RunFolder.create`] makes and checks it.
    """

    def __init__(self, path: Path):
        self.path = path
        self.made = False
        self.rows_file, self.record_file = path / "rows.jsonl", path / "run.json"

    @classmethod
    def create(cls, path: str | os.PathLike[str], *, resume: bool) -> RunFolder:
        """Make the folder, or take one up again.

        Raises:
            FaithgenError: If it cannot be written, or holds another run or other files.
        """
        folder = cls(Path(path))
        shown = repr(str(path))
        try:
            folder.made = not folder.path.exists()
            folder.path.mkdir(parents=True, exist_ok=True)
            held = [
                entry.name
                for entry in folder.path.iterdir()
                if entry.name != ".lock" and not entry.name.startswith(_LEFT_OVER)
            ]
            if folder.record_file.exists() and not resume:
                raise FaithgenError(
                    f"--output {shown} holds another run; add --resume to go on with it, or choose another folder"
                )
            if held and not folder.record_file.exists():
                raise FaithgenError(f"--output {shown} is not empty and holds no run; choose another folder")
            descriptor, probe = tempfile.mkstemp(prefix=".probe-", dir=folder.path)
            os.close(descriptor)
            Path(probe).unlink(missing_ok=True)  # another process that holds the lock may tidy it up
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise FaithgenError(f"cannot write --output {shown} ({reason}); choose another folder") from error
        return folder

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from writing the same run; what a killed one left half written is removed. A folder that
        nothing was written to is removed again.

        Raises:
            FaithgenError: If one does.
        """
        busy = f"another process is writing --output {str(self.path)!r}; wait for it, or choose another folder"
        lock = take_lock(self.path / ".lock", busy)
        try:
            for entry in list(self.path.iterdir()):
                if entry.name.startswith(_LEFT_OVER) and entry.is_file():
                    entry.unlink(missing_ok=True)
            yield
        finally:
            lock.release()
            if [entry.name for entry in self.path.iterdir()] == [".lock"]:
                (self.path / ".lock").unlink()
                if self.made:
                    self.path.rmdir()

    # --- run.json -----------------------------------------------------------------------------------------------------

    def record(self) -> dict[str, Any]:
        """What `run.json` holds; empty where there is none.

        Raises:
            FaithgenError: If it cannot be read.
        """
        if not self.record_file.exists():
            return {}
        try:
            record = json.loads(self.record_file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise FaithgenError(f"{self.record_file} cannot be read; choose another folder") from error
        if not isinstance(record, dict) or record.get("format") != FORMAT:
            raise FaithgenError(f"{self.record_file} is no record of an evaluation; choose another folder")
        return record

    def check_same(self, record: Mapping[str, Any]) -> None:
        """Raise where a run taken up again is another one.

        Args:
            record (`Mapping`): of the new run; what it lacks is not compared.

        Raises:
            FaithgenError: Naming the settings that differ.
        """
        before = self.record()
        if not before:
            return
        differences = []
        for part in _COMPARED:
            if part in record and part in before:
                place = "" if part == "settings" else part
                differences += differing(before[part], json.loads(json.dumps(record[part])), place)
        if differences:
            more = len(differences) - _SHOWN
            text = "; ".join(differences[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")
            raise FaithgenError(
                f"--output {str(self.path)!r} holds a run with other settings: {text}; give the same, or choose another "
                "folder"
            )

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Write `run.json`, to a temporary name first."""
        write_text(
            self.record_file,
            json.dumps({"format": FORMAT, **finite(record)}, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        )

    # --- rows ---------------------------------------------------------------------------------------------------------

    def shard_file(self, rank: int) -> Path:
        """Rows of one process of several."""
        return self.path / f"rows-{rank}.jsonl"

    def shard_files(self) -> list[Path]:
        return sorted(self.path.glob("rows-*.jsonl"))

    def rows(self) -> list[Row]:
        """All whole rows, each once, the last written of a key; shards, which are newer than `rows.jsonl`, included."""
        paths = (self.rows_file, *self.shard_files())
        return list({key_of(row): row for path in paths for row in read_rows(path)}.values())

    def merge(self, order: Iterable[Key]) -> list[Row]:
        """Write all rows into `rows.jsonl` in one order and remove the shards; safe to be killed at any point.

        Args:
            order (`Iterable[Key]`): of the rows; rows that are not in it come last.
        """
        place = {key: number for number, key in enumerate(order)}
        rows = sorted(self.rows(), key=lambda row: place.get(key_of(row), len(place)))
        if not rows:
            return []
        write_text(self.rows_file, "".join(map(line_of, rows)))
        for path in self.shard_files():
            path.unlink()
        return rows

    @contextmanager
    def appending(self, path: Path) -> Iterator[RowWriter]:
        """Write rows at the end of a file; a torn last line is cut off first."""
        try:
            if path.exists():
                whole = path.read_bytes()
                with path.open("rb+") as stream:
                    stream.truncate(whole.rfind(b"\n") + 1)
            with path.open("a", encoding="utf-8", newline="\n") as stream:
                yield RowWriter(stream)
        except OSError as error:
            raise FaithgenError(f"cannot write {path} ({error.strerror or type(error).__name__})") from error


class RowWriter:
    """Writes whole lines, each flushed."""

    def __init__(self, stream: Any):
        self.stream = stream

    def write(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self.stream.write(line_of(row))
            self.stream.flush()
        os.fsync(self.stream.fileno())


def line_of(row: Row) -> str:
    return json.dumps(finite(row), ensure_ascii=False, allow_nan=False) + "\n"


def read_rows(path: Path) -> list[Row]:
    """The whole rows of a file; a torn last line is left out.

    Raises:
        FaithgenError: If a line before the last is damaged.
    """
    if not path.exists():
        return []
    try:
        data = path.read_bytes()
        lines = data[: data.rfind(b"\n") + 1].decode("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise FaithgenError(f"cannot read {path} ({reason}); choose another folder") from error
    rows = []
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            row = json.loads(line)
            key_of(row)
        except (ValueError, KeyError, TypeError) as error:
            raise FaithgenError(f"{path}, line {number} is damaged; remove that line and add --resume") from error
        rows.append(row)
    return rows


def load_run(path: str | os.PathLike[str]) -> tuple[dict[str, Any], list[Row]]:
    """Record and rows of a finished or unfinished run.

    Raises:
        FaithgenError: If the folder is missing or holds no run.
    """
    folder = RunFolder(Path(path))
    record = folder.record() if folder.path.is_dir() else {}
    if not record:
        raise FaithgenError(f"{str(path)!r} holds no run; give a folder that faithgen eval --output wrote")
    rows = folder.rows()
    if not rows:
        raise FaithgenError(f"{str(path)!r} holds no rows; finish the run with --resume")
    return record, rows


def finite(value: Any) -> Any:
    """JSON values, with `None` for numbers that are not finite."""
    if isinstance(value, Mapping):
        return {str(name): finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def differing(before: Any, after: Any, name: str = "") -> list[str]:
    """What two JSON values differ in, e.g. `"limit was 10 and is 20"`."""
    if isinstance(before, dict) and isinstance(after, dict):
        found = []
        for key in [*before, *(key for key in after if key not in before)]:
            place = f"{name}.{key}" if name else str(key)
            found += differing(before.get(key), after.get(key), place)
        return found
    if before == after:
        return []
    texts = [json.dumps(value, ensure_ascii=False) for value in (before, after)]
    first, second = (text if len(text) <= 80 else text[:77] + "..." for text in texts)
    return [f"{name} was {first} and is {second}"]
