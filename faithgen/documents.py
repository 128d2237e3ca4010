"""Documents the model has to answer from: given in memory, or read from files, folders and standard input."""

import csv
import io
import json
import logging
import math
import os
import re
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain, count
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from .errors import FaithgenError, MissingExtraError

# The first of these that a row has is its text.
TEXT_FIELDS = ("text", "content", "contents", "passage", "page_content")
ROW_EXTENSIONS = (".jsonl", ".json", ".csv")
EXTENSIONS = (*ROW_EXTENSIONS, ".txt", ".md", ".html", ".htm", ".pdf")

# A row as read, with the place that error messages call it by, e.g. "rows.jsonl, line 3".
_Row = tuple[str, Any]


@dataclass
class Document:
    """One passage of text that the model may answer from.

    Args:
        text (`str`): the passage itself.
        id (`str`, *optional*, defaults to `""`): name of the document; its 1-based position where left empty.
        title (`str`, *optional*, defaults to `""`): title shown to the model beside the text.
        source (`str`, *optional*): file it came from, as the user named it; `None` when given in memory.
        passage (`int`, *optional*): 1-based number within the source; `None` when the source is one passage.
        metadata (`dict`, *optional*): the other fields of the row, untouched.
        score (`float`, *optional*): relevance, filled by filtering.
        kept (`bool`, *optional*): whether filtering kept the document.
        truncated (`bool`, *optional*, defaults to `False`): whether the text was cut to fit the model's context.
        coarse_score (`float`, *optional*): score of the filter's first pass.
        fine_score (`float`, *optional*): score of the best ones read once more; `.score` is this where it is given, else
            the first pass's.
    """

    text: str
    id: str = ""
    title: str = ""
    source: str | None = None
    passage: int | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    score: float | None = None
    kept: bool | None = None
    truncated: bool = False
    coarse_score: float | None = None
    fine_score: float | None = None

    @property
    def origin(self) -> str:
        """File and passage, or the id where it came from no file."""
        if self.source is None:
            return self.id
        if self.passage is not None:
            return f"{self.source}, passage {self.passage}"
        return self.source if self.source.endswith(self.id) else f"{self.source}, id {self.id}"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dictionary that any JSON writer takes.

        Returns:
            `dict`: the fields, less `source` and `passage` where `None` and `metadata` where empty. Values that JSON
            has no form for become strings; numbers that are not finite become `None`.
        """
        values = _json_safe(vars(self))
        return {name: value for name, value in values.items() if value not in (None, {}) or name in ("score", "kept")}


def as_documents(items: Iterable[Document | str | Mapping[str, Any]]) -> list[Document]:
    """Check documents given in memory and bring them into one form.

    Args:
        items (`Iterable[Document | str | Mapping]`): a sequence or iterator of documents. A mapping has its text under
            `text` (or `content`, `contents`, `passage`, `page_content`) and may have an `id` and a `title`; its other
            fields become the metadata.

    Returns:
        `list[Document]`: copies in the given order, each with an id of its own.

    Raises:
        `FaithgenError`: where there are no documents, or one has no usable text or the id of another.
    """
    if isinstance(items, (str, bytes, bytearray, Mapping)) or not isinstance(items, (Sequence, Iterator)):
        given = f"the documents are one {type(items).__name__}, not a list"
        raise FaithgenError(f"{given}; pass a list of strings, mappings or Documents (read_documents reads files)")
    documents = _from_rows((f"document {position}", item) for position, item in enumerate(items, 1))
    if not documents:
        raise FaithgenError("there are no documents; pass at least one")
    return documents


def read_documents(
    path: str | Path, *, stdin: TextIO | BinaryIO | None = None, max_characters: int = 1500
) -> list[Document]:
    """Read documents from a file, from the files of a folder, or from standard input.

    Rows (`.jsonl`, `.json`, `.csv`) are taken whole. Running text (`.txt`, `.md`, `.html`, `.htm`, `.pdf`) is split
    into passages. A folder is read recursively, in sorted order; hidden files, other extensions and links that leave
    the folder are skipped.

    Args:
        path (`str` or `Path`): a file, a folder, or `"-"` for standard input (JSON lines, a JSON array or plain text).
        stdin (`TextIO` or `BinaryIO`, *optional*, defaults to `sys.stdin`): what `"-"` reads.
        max_characters (`int`, *optional*, defaults to 1500): length that no passage of running text exceeds.

    Returns:
        `list[Document]`: the documents, each with an id of its own. In a folder the ids begin with the name of the
        file within the folder, e.g. `"notes.md#2"`.

    Raises:
        `FaithgenError`: where the input cannot be read, is not UTF-8, is empty, or holds an unusable row.
        `MissingExtraError`: where reading HTML or PDF needs the `files` extra.
    """
    if type(max_characters) is not int or max_characters < 1:
        raise FaithgenError(f"max_characters is {max_characters!r}; give a whole number of at least 1")
    if str(path) == "-":
        return _read_stdin(sys.stdin if stdin is None else stdin, max_characters)
    if not isinstance(path, (str, Path)) or not os.path.exists(path):
        raise FaithgenError(f"there is no file or folder {_printable(path)!r}; check the path")
    path = Path(path)
    try:
        return _read_folder(path, max_characters) if path.is_dir() else _read_file(path, path.name, max_characters)
    except OSError as error:
        name = _printable(error.filename or path)
        raise FaithgenError(f"cannot read {name} ({error.strerror}); check the path and its permissions") from error


def _read_stdin(stream: Any, max_characters: int) -> list[Document]:
    name = "standard input"
    try:
        # The bytes below a text stream, where it has them: its own encoding may not be UTF-8.
        data = getattr(stream, "buffer", stream).read()
    except (OSError, ValueError, AttributeError) as error:
        raise FaithgenError(f"cannot read {name}; pipe UTF-8 text into it or name a file") from error
    text = _decoded(data, name)
    first, whole = _json_or_none(text.strip().partition("\n")[0]), _json_or_none(text)
    extension = ".json" if isinstance(whole, (dict, list)) else ".txt"
    if isinstance(first, dict) and not (isinstance(whole, dict) and "documents" in whole):
        extension = ".jsonl"
    documents = _parsed(text, extension, name, "stdin", "", max_characters)
    return [replace(document, source="-") for document in documents]


def _read_folder(folder: Path, max_characters: int) -> list[Document]:
    def fail(error: OSError) -> None:
        raise error

    files = []
    for parent, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [Path(parent, name) for name in names if not name.startswith(".")]
    rows: list[_Row] = []
    for path in sorted(files):
        supported = path.suffix.lower() in EXTENSIONS and path.is_file()
        if supported and path.resolve().is_relative_to(folder.resolve()):
            name = path.relative_to(folder).as_posix()
            documents = _read_file(path, name, max_characters)
            if path.suffix.lower() in ROW_EXTENSIONS:
                documents = [replace(document, id=f"{_printable(name)}#{document.id}") for document in documents]
            rows += [(f"a document of {document.source}", document) for document in documents]
    if not rows:
        raise FaithgenError(f"nothing in {_printable(folder)} can be read; put {', '.join(EXTENSIONS)} files in it")
    return _from_rows(rows)


def _read_file(path: Path, name: str, max_characters: int) -> list[Document]:
    source, extension = _printable(path), path.suffix.lower()
    if extension not in EXTENSIONS:
        raise FaithgenError(f"cannot tell what {source} holds; give a file that ends in {', '.join(EXTENSIONS)}")
    return _parsed(path.read_bytes(), extension, source, _printable(name), _printable(path.stem), max_characters)


def _parsed(
    data: bytes | str, extension: str, source: str, name: str, stem: str, max_characters: int
) -> list[Document]:
    content: Any = data if extension == ".pdf" else _decoded(data, source)
    if extension in ROW_EXTENSIONS:
        rows = _jsonl if extension == ".jsonl" else _json if extension == ".json" else _csv
        documents = _from_rows(rows(content, source))
    else:
        titled: dict[str, Callable[[Any, str], tuple[str, str]]] = {".pdf": _pdf, ".html": _html, ".htm": _html}
        title, text = titled[extension](content, source) if extension in titled else ("", content)
        title = _first_heading(text) if extension == ".md" else title
        _check(text, f"the text of {source}")
        from semantic_text_splitter import MarkdownSplitter, TextSplitter

        splitter = (MarkdownSplitter if extension == ".md" else TextSplitter)(max_characters)
        chunks = [chunk for chunk in splitter.chunks(text.replace("\r\n", "\n")) if chunk.strip()]
        ids = [name] if len(chunks) == 1 else [f"{name}#{number}" for number in range(1, len(chunks) + 1)]
        documents = [Document(chunk, id=i, title=title or stem) for chunk, i in zip(chunks, ids, strict=True)]
    if not documents:
        raise FaithgenError(f"{source} is empty; put at least one document in it")
    passages = range(1, len(documents) + 1) if len(documents) > 1 else [None]
    return [replace(doc, source=source, passage=number) for doc, number in zip(documents, passages, strict=True)]


def _jsonl(text: str, source: str) -> Iterator[_Row]:
    # Not splitlines: JSON strings may hold U+2028 and other characters that it splits at.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield f"{source}, line {number}", _load_json(line, source, "put one JSON object on each line", number)


def _json(text: str, source: str) -> Iterator[_Row]:
    value = _load_json(text, source, "mend it, or use .jsonl for one object per line")
    if isinstance(value, dict):
        value = value.get("documents", [value])
    if not isinstance(value, list):
        raise FaithgenError(f'{source} holds no list of documents; write [{{"text": "..."}}, ...]')
    yield from ((f"{source}, document {position}", item) for position, item in enumerate(value, 1))


def _csv(text: str, source: str) -> Iterator[_Row]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    known = {"id", "title", *TEXT_FIELDS}
    try:
        header = [name.strip().lower() if name.strip().lower() in known else name for name in reader.fieldnames or ()]
        if len(set(header)) < len(header) or not set(header) & set(TEXT_FIELDS):
            raise FaithgenError(f"{source}, line 1 names no text column, or one twice; name one `text` in a header")
        reader.fieldnames = header
        for row in reader:
            # `DictReader` files cells too many under None, and gives None for cells too few.
            line = reader.line_num - sum(str(cell).count("\n") for cell in row.values())
            if None in row or None in row.values():
                cells = f"more or fewer cells than the {len(header)} of the header"
                raise FaithgenError(f"{source}, line {line} has {cells}; put quotes around cells with commas")
            yield f"{source}, line {line}", row
    except csv.Error as error:
        place = f"{source}, line {reader.line_num + 1}"
        raise FaithgenError(f"{place} is not valid CSV ({error}); mend its quotes, or use .jsonl") from error


def _first_heading(text: str) -> str:
    without_code = re.sub(r"^ {0,3}(```+|~~~+)[\s\S]*?(^ {0,3}\1|\Z)", "", text, flags=re.MULTILINE)
    heading = re.search(r"^ {0,3}#{1,6}[ \t]+(.+)$|^(.+)\n=+\s*$", without_code, flags=re.MULTILINE)
    return re.sub(r"[ \t]#+$", "", (heading[1] or heading[2]).strip()) if heading else ""


def _html(text: str, source: str) -> tuple[str, str]:
    try:
        import trafilatura
        from lxml import etree
    except ImportError as error:
        raise MissingExtraError("reading .html files", "files") from error
    page: Any = None
    with _extracting(source, "HTML", "trafilatura", "htmldate"):
        tree = trafilatura.load_html(text)
        if tree is not None:
            # Where a page has little text, trafilatura would fall back on what its scripts say it holds.
            etree.strip_elements(tree, "script", "style", with_tail=False)
            page = trafilatura.bare_extraction(tree, include_comments=False, with_metadata=True)
    if page is None or not (page.text or "").strip():
        raise FaithgenError(f"no text can be extracted from {source}; save what it should hold as .txt or .md")
    return " ".join(_well_formed(page.title or "").split()), _well_formed(page.text)


def _pdf(data: bytes, source: str) -> tuple[str, str]:
    try:
        import pypdf
    except ImportError as error:
        raise MissingExtraError("reading .pdf files", "files") from error
    title = text = ""
    with _extracting(source, "PDF", "pypdf"):
        reader = pypdf.PdfReader(io.BytesIO(data))
        if reader.is_encrypted:
            raise FaithgenError(f"{source} is encrypted; save it without a password")
        text = "\n\n".join(page.extract_text() for page in reader.pages)
        title = str((reader.metadata and reader.metadata.title) or "")
    if not text.strip():
        raise FaithgenError(f"{source} is empty or holds only images; run text recognition (OCR) on it")
    return " ".join(_well_formed(title).split()), _well_formed(text)


@contextmanager
def _extracting(source: str, kind: str, *loggers: str) -> Iterator[None]:
    """Keep a parser of files that may be broken or hostile from logging, and from failing in ways of its own."""
    levels = {logger: logger.level for logger in map(logging.getLogger, loggers)}
    for logger in levels:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    except FaithgenError:
        raise
    except Exception as error:
        mend = "export it again, or save its text as .txt"
        raise FaithgenError(f"{source} is not readable {kind} ({type(error).__name__}); {mend}") from error
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)


def _from_rows(rows: Iterable[_Row]) -> list[Document]:
    """Check the rows and give every document an id of its own."""
    documents: list[Document] = []
    places: dict[str, str] = {}
    for place, item in rows:
        document = _from_item(item, place)
        if document.id in places:
            clash = f"{place} has the id {document.id!r}, which {places[document.id]} has too"
            raise FaithgenError(f"{clash}; give each document its own id")
        if document.id:
            places[document.id] = place
        documents.append(document)
    for position, document in enumerate(documents, 1):
        candidates = chain([str(position)], (f"{position}-{number}" for number in count(2)))
        document.id = document.id or next(name for name in candidates if name not in places)
    return documents


def _from_item(item: Any, place: str) -> Document:
    if isinstance(item, Document):
        document = replace(item, metadata=dict(item.metadata or {}))
    elif isinstance(item, str):
        document = Document(item)
    elif isinstance(item, Mapping):
        name = next((name for name in TEXT_FIELDS if name in item), None)
        if name is None:
            raise FaithgenError(f"{place} has no text; give it a `text` field (or `{'`, `'.join(TEXT_FIELDS[1:])}`)")
        metadata = {key: value for key, value in item.items() if key not in ("id", "title", name)}
        document = Document(item[name], item.get("id", ""), item.get("title", ""), metadata=metadata)
    else:
        raise FaithgenError(f"{place} is of type {type(item).__name__}; give a string, or an object with `text`")
    for label in ("id", "title"):
        value = getattr(document, label)
        value = "" if value is None else str(value) if type(value) is int else value
        _check(value, f"the `{label}` of {place}", may_be_empty=True)
        setattr(document, label, value if value.strip() else "")
    _check(document.text, f"the text of {place}" + (f" (id {document.id!r})" if document.id else ""))
    return document


def _check(text: Any, what: str, may_be_empty: bool = False) -> None:
    if not isinstance(text, str):
        raise FaithgenError(f"{what} is of type {type(text).__name__}; give a string")
    if not (may_be_empty or text.strip()):
        raise FaithgenError(f"{what} is empty; fill it in or leave the document out")
    if _well_formed(text) != text:
        raise FaithgenError(f"{what} holds a surrogate, which UTF-8 cannot encode; replace it")


def _decoded(data: bytes | str, source: str) -> str:
    try:
        text = data.removeprefix("\ufeff") if isinstance(data, str) else data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FaithgenError(f"{source} is not UTF-8 text (see byte {error.start}); convert it to UTF-8") from error
    if "\0" in text:
        raise FaithgenError(f"{source} holds NUL bytes, so it is no UTF-8 text; convert it to UTF-8")
    if not text.strip():
        raise FaithgenError(f"{source} is empty; put at least one document in it")
    return text


def _load_json(text: str, source: str, mend: str, line: int | None = None) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        place = f"{source}, line {line or getattr(error, 'lineno', 1)}"
        reason = getattr(error, "msg", "nested too deeply, or a number too long")
        raise FaithgenError(f"{place} is not valid JSON ({reason}); {mend}") from error


def _json_or_none(text: str) -> Any:
    try:
        return _load_json(text, "", "")
    except FaithgenError:
        return None


def _json_safe(value: Any, depth: int = 0) -> Any:
    if isinstance(value, (Mapping, list, tuple)) and depth > 50:  # far below Python's own limit; ends cycles too
        return "..."
    if isinstance(value, Mapping):
        return {_well_formed(str(key)): _json_safe(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_safe(item, depth + 1) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, int) else _well_formed(str(value))


def _well_formed(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _printable(name: Any) -> str:
    """Escape what a file name may hold but a message of one line, or UTF-8, may not."""
    unfit = ("Cc", "Cs", "Zl", "Zp")
    return "".join(c.encode("unicode_escape").decode() if unicodedata.category(c) in unfit else c for c in str(name))
