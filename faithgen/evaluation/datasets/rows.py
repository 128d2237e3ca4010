"""Rows of data files: JSONL read line by line, each row with the place that error messages call it by."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from faithgen.errors import FaithgenError


class Row:
    """One object of a data file.

    A field that is not there, or of the wrong type, is an error that names the place; one that is there but blank is
    returned as blank, for the loader to count.

    Args:
        values (`Mapping[str, Any]`): the fields.
        place (`str`): e.g. `"dev.jsonl, line 3"`.
        number (`int`, *optional*, defaults to 1): 1-based number of the row in its file.
    """

    __slots__ = ("number", "place", "values")

    def __init__(self, values: Mapping[str, Any], place: str, number: int = 1):
        self.values = values
        self.place = place
        self.number = number

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def first(self, *names: str) -> Any:
        """The value of the first of `names` that the row has."""
        for name in names:
            if name in self.values:
                return self.values[name]
        has = ", ".join(map(str, self.values)) or "no fields"
        raise FaithgenError(f"{self.place} has no field {names[0]!r} (it has {has}); add it, or leave the row out")

    def text(self, *names: str) -> str:
        """A string; `""` where it is null."""
        value = self.first(*names)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise self._wrong(names, value, "a string")
        return value

    def strings(self, *names: str) -> list[str]:
        """All strings of a list, as they are; one string counts as a list of one, null as an empty list."""
        value = self.first(*names)
        items = list(value) if _is_list(value) else [] if value is None else [value]
        for item in items:
            if not isinstance(item, str):
                raise self._wrong(names, item, "a string or a list of strings")
        return items

    def texts(self, *names: str) -> list[str]:
        """The different strings of a list that are not blank, in order."""
        return list(dict.fromkeys(item for item in self.strings(*names) if item.strip()))

    def object(self, *names: str) -> Row:
        """An object; one without fields where it is null."""
        value = self.first(*names)
        if value is not None and not isinstance(value, Mapping):
            raise self._wrong(names, value, "an object")
        return Row(value or {}, f"{self.place}, {names[0]}")

    def rows(self, *names: str) -> list[Row]:
        """The objects of a list."""
        value = self.first(*names)
        items = [] if value is None else value
        if not _is_list(items) or not all(isinstance(item, Mapping) for item in items):
            raise self._wrong(names, value, "a list of objects")
        return [Row(item, f"{self.place}, {names[0]} {number}", number) for number, item in enumerate(items, 1)]

    def identity(self, *names: str) -> str:
        """An id as a string; the row's number where it has none."""
        value = next((self.values[name] for name in names if self.values.get(name) is not None), self.number)
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            raise self._wrong(names, value, "a string or a whole number")
        return str(value).strip() or str(self.number)

    def flag(self, *names: str) -> bool | None:
        """True, false, or `None` where it is null; 0 and 1 count too."""
        value = self.first(*names)
        if value is not None and not (isinstance(value, (bool, int)) and value in (0, 1)):
            raise self._wrong(names, value, "true, false or null")
        return None if value is None else bool(value)

    def integer(self, *names: str) -> int:
        """A whole number."""
        value = self.first(*names)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._wrong(names, value, "a whole number")
        return value

    def _wrong(self, names: Sequence[str], value: Any, wanted: str) -> FaithgenError:
        name = next((name for name in names if name in self.values), names[0])
        return FaithgenError(f"{self.place}: {name!r} is of type {type(value).__name__}; give {wanted}")


def read_jsonl(path: Path) -> list[Row]:
    """Read a JSONL file (`.jsonl`, also packed as `.jsonl.gz`); blank lines are skipped.

    Args:
        path (`Path`): the file, UTF-8, one object a line. `NaN` and infinities are read as null.

    Returns:
        `list[Row]`: one a line, with the file's name and the line's number.

    Raises:
        FaithgenError: If the file cannot be read or a line is not a JSON object.
    """
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or ("not UTF-8" if isinstance(error, ValueError) else str(error))
        raise FaithgenError(f"cannot read {path} ({reason}); give a JSONL file in UTF-8") from error
    return list(_rows(text, path))


def _rows(text: str, path: Path) -> Iterator[Row]:
    # not splitlines: JSON strings may hold U+2028 and other characters that it splits at
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            values = json.loads(line, parse_constant=lambda _: None)
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", "nested too deeply, or a number too long")
            raise FaithgenError(f"{place} is not valid JSON ({reason}); write one object a line") from error
        if not isinstance(values, dict):
            raise FaithgenError(f"{place} is of type {type(values).__name__}; write one object a line")
        if "\\u" in line and _has_surrogate(values):
            raise FaithgenError(f"{place} holds half of a surrogate pair, which UTF-8 cannot encode; replace it")
        yield Row(values, place, number)


def _has_surrogate(values: dict[str, Any]) -> bool:
    try:
        json.dumps(values, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))
