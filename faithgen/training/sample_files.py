"""The files of a sampling run: kept samples, dropped ones and a summary; whole lines only, resumable after any stop."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from faithgen.errors import FaithgenError
from faithgen.files import take_lock, write_text


@dataclass
class Summary:
    """What a sampling run gave.

    Attributes:
        kept (`int`): samples in the output.
        dropped (`dict[str, int]`): samples that were left out, by reason.
        documents_cut (`int`): kept samples whose documents were cut to fit the model's window.
        finished (`bool`): every row of the source has been sampled.
        settings (`dict`): model, heads, sampling and filters.
    """

    kept: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    documents_cut: int = 0
    finished: bool = False
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return self.kept + sum(self.dropped.values())

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {"rows": self.rows, **vars(self)}

    def __str__(self) -> str:
        reasons = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in sorted(self.dropped.items()))
        cut = f"; documents cut in {self.documents_cut}" if self.documents_cut else ""
        return f"{self.kept} of {self.rows} samples kept" + (f" (dropped: {reasons})" if reasons else "") + cut


class SampleFiles:
    """Output, `*.dropped.jsonl` and `*.summary.json`.

    Args:
        output (`str` or `PathLike`): the output.
        resume (`bool`): go on with files that are there.

    Raises:
        FaithgenError: If the output exists and is not to be resumed.
    """

    def __init__(self, output: str | os.PathLike[str], resume: bool):
        self.output = Path(output)
        stem = self.output.stem if self.output.suffix else self.output.name
        self.dropped = self.output.with_name(f"{stem}.dropped.jsonl")
        self.summary_file = self.output.with_name(f"{stem}.summary.json")
        self.summary = Summary()
        self._streams: dict[Path, TextIO] = {}
        existing = [path for path in (self.output, self.dropped, self.summary_file) if path.exists()]
        if existing and not resume:
            raise FaithgenError(
                f"{str(existing[0])!r} exists already; add --resume to go on with it, or choose another output"
            )

    @contextlib.contextmanager
    def opened(self, settings: dict[str, Any], ids: set[str]) -> Iterator[set[str]]:
        """Open the files for a run with these settings over rows of these ids; yields the ids that are done."""
        settings = json.loads(json.dumps(settings, default=str))
        done: set[str] = set()
        with self._locked(), contextlib.ExitStack() as stack:
            self._check_settings(settings)
            try:
                for path in (self.output, self.dropped):
                    done |= self._read(path, ids)
                self.summary.settings = settings
                self._write_summary()
                for path in (self.output, self.dropped):
                    self._streams[path] = stack.enter_context(path.open("a", encoding="utf-8"))
            except OSError as error:
                raise self._unwritable(error) from error
            try:
                yield done
                self.summary.finished = True
            finally:
                self._streams.clear()
                with contextlib.suppress(OSError):
                    self._write_summary()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes from writing the same files; both would sample the same rows."""
        place = self.output.with_name(f".{self.output.name}.lock")
        try:
            place.parent.stat()  # filelock would make the folder
            lock = take_lock(
                place, f"another process is writing {str(self.output)!r}; wait for it, or choose another output"
            )
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            yield
        finally:
            lock.release()
            place.unlink(missing_ok=True)

    def write(self, item: dict[str, Any]) -> None:
        """Write one row, flushed, to the output or, with a reason in `dropped`, to the dropped ones."""
        stream = self._streams[self.dropped if "dropped" in item else self.output]
        try:
            stream.write(json.dumps(item, ensure_ascii=False, allow_nan=False) + "\n")
            stream.flush()
        except OSError as error:
            raise self._unwritable(error) from error
        self._count(item)

    def _unwritable(self, error: OSError) -> FaithgenError:
        return FaithgenError(f"cannot write {str(self.output)!r} ({error.strerror}); choose another output")

    def _count(self, item: dict[str, Any]) -> None:
        if "dropped" in item:
            self.summary.dropped[item["dropped"]] = self.summary.dropped.get(item["dropped"], 0) + 1
        else:
            self.summary.kept += 1
            self.summary.documents_cut += bool(item["made"]["documents_cut"])

    def _check_settings(self, settings: dict[str, Any]) -> None:
        if not self.summary_file.exists():
            if self.output.exists():
                raise FaithgenError(
                    f"{str(self.output)!r} has no {self.summary_file.name} beside it; choose another output"
                )
            return
        try:
            before = json.loads(self.summary_file.read_text(encoding="utf-8"))["settings"]
            changed = sorted(key for key in {*before, *settings} if before.get(key) != settings.get(key))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FaithgenError(f"{str(self.summary_file)!r} is damaged; choose another output") from error
        if changed:
            key = changed[0]
            raise FaithgenError(
                f"{str(self.output)!r} was made with {key} {before.get(key)!r}, not {settings.get(key)!r}; choose another "
                "output"
            )

    def _read(self, path: Path, ids: set[str]) -> set[str]:
        """Ids of the whole lines of a file; what follows the last of them is cut off."""
        if not path.exists():
            return set()
        data = path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        done = set()
        try:
            for line in whole.decode("utf-8").split("\n")[:-1]:
                item = json.loads(line)
                if item["id"] not in ids:
                    raise ValueError
                done.add(item["id"])
                self._count(item)
        except (ValueError, KeyError, TypeError) as error:
            raise FaithgenError(f"{str(path)!r} holds other rows than the input; choose another output") from error
        with path.open("rb+") as stream:
            stream.truncate(len(whole))
        return done

    def _write_summary(self) -> None:
        text = json.dumps(self.summary.to_dict(), indent=1, ensure_ascii=False) + "\n"
        write_text(self.summary_file, text, mend="choose another output")
