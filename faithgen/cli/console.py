"""What goes to a terminal: results on stdout, everything else on stderr, nothing in it that a document controls."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from faithgen.documents import Document

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def safe(text: str) -> str:
    """Text without terminal control characters or direction overrides (documents are hostile input)."""
    return _CONTROL.sub("\ufffd", text)


def note(text: str) -> None:
    """A line on stderr."""
    print(safe(text), file=sys.stderr, flush=True)  # noqa: T201


@contextmanager
def progress_bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """Progress on stderr, from the first report on: a bar on a terminal, a plain line each tenth when piped.

    Yields:
        A function of (done, total).
    """
    bar: Progress | None = None
    last = -1

    def report(done: int, total: int) -> None:
        nonlocal bar, last
        if sys.stderr.isatty():
            if bar is None:
                columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
                bar = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True))
                bar.start()
                bar.add_task(label, total=total)
            bar.update(bar.task_ids[0], completed=done, total=total)
        elif (tenth := 10 * done // max(1, total)) != last:
            last = tenth
            note(f"{label}: {done}/{total}")

    try:
        yield report
    finally:
        if bar is not None:
            bar.stop()


def document_table(documents: list[Document], *, ranked: bool) -> Table:
    """Documents with what became of them; best first if they were scored."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, justify in (("", "left"), ("score", "right"), ("document", "left"), ("text", "left")):
        table.add_column(name, justify=justify, no_wrap=True, overflow="ellipsis")  # type: ignore[arg-type]
    if ranked:
        documents = sorted(documents, key=lambda document: -(document.score or 0.0))
    for document in documents:
        state = "kept" if document.kept else "dropped"
        score = "" if document.score is None else f"{document.score:.3f}"
        table.add_row(
            state + (" (cut)" if document.truncated else ""), score, escape(safe(document.origin)), _excerpt(document)
        )
    return table


def _excerpt(document: Document) -> str:
    text = " ".join(f"{document.title}: {document.text}".split() if document.title else document.text.split())
    return escape(safe(text[:90]))


def stdout() -> Console:
    """A console for results; wide when piped so that lines are not broken."""
    console = Console(highlight=False, soft_wrap=False)
    return console if console.is_terminal else Console(highlight=False, width=160)
