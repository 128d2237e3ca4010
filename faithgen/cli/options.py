"""Options that several commands share, and how they become configs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from faithgen.cli import completion
from faithgen.cli.console import progress_bar
from faithgen.errors import FaithgenError

if TYPE_CHECKING:
    from faithgen.documents import Document
    from faithgen.heads.head_set import HeadSet
    from faithgen.models import LoadedModel


def check_format(format: str) -> str:
    """`--format` itself, if it is one."""
    if format not in completion.FORMATS:
        raise FaithgenError(f"format {format!r} is not {' or '.join(completion.FORMATS)}")
    return format


Documents = Annotated[
    str | None,
    typer.Option("--documents", "-d", help="File (.jsonl .json .csv .txt .md .html .pdf), folder, or - for stdin."),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", help="Hub id, folder, .gguf file or default-base; the packaged default if not given."
    ),
]
UntrainedModel = Annotated[
    str | None,
    typer.Option("--model", "-m", help="Hub id, folder, .gguf file; default-base, the default without its adapter."),
]
Heads = Annotated[
    list[str] | None, typer.Option("--heads", help="Head set file (repeatable), or auto: shipped, cached or detected.")
]
RandomHeads = Annotated[
    int | None, typer.Option("--random-heads", metavar="SEED", help="Control: as many random heads instead.")
]
Dtype = Annotated[
    str,
    typer.Option(
        "--dtype", help="auto, float32, bfloat16 or float16.", autocompletion=completion.one_of(*completion.DTYPES)
    ),
]
Device = Annotated[
    str,
    typer.Option(
        "--device", help="auto, cpu, cuda, cuda:1, ...", autocompletion=completion.one_of(*completion.DEVICES)
    ),
]
Format = Annotated[
    str,
    typer.Option(help="text or json.", callback=check_format, autocompletion=completion.one_of(*completion.FORMATS)),
]
Calibrate = Annotated[
    bool | None,
    typer.Option("--calibrate/--no-calibrate", help="Subtract the attention a content-free question gives."),
]
Refine = Annotated[
    int | None,
    typer.Option("--refine", min=0, metavar="N", help="Read the best N once more to order them; 0: do not."),
]


def documents_from(source: str | None) -> list[Document]:
    """Read `--documents`."""
    from faithgen.documents import read_documents

    if source is None:
        raise FaithgenError("no documents given; add --documents FILE, a folder, or - for standard input")
    return read_documents(source)


def load(
    model: str | None, heads: list[str] | None, random_heads: int | None, dtype: str, device: str
) -> tuple[LoadedModel, HeadSet, HeadSet]:
    """Load `--model` and its scoring and copying heads, with progress where heads must be detected first."""
    from faithgen.heads.resolve import resolve_heads

    loaded, (scoring, copying) = _load(model, heads, dtype, device, resolve_heads)
    if random_heads is not None:
        scoring, copying = scoring.random_like(random_heads), copying.random_like(random_heads)
    return loaded, scoring, copying


def load_scoring(
    model: str | None, heads: list[str] | None, random_heads: int | None, dtype: str, device: str
) -> tuple[LoadedModel, HeadSet]:
    """As `load`, for the heads that rank alone: no others are detected."""
    from faithgen.heads.resolve import resolve_scoring_heads

    loaded, scoring = _load(model, heads, dtype, device, resolve_scoring_heads)
    return loaded, scoring if random_heads is None else scoring.random_like(random_heads)


def _load(
    model: str | None, heads: list[str] | None, dtype: str, device: str, resolve: Callable[..., Any]
) -> tuple[LoadedModel, Any]:
    paths = [entry for entry in heads or [] if entry != "auto"]
    for entry in paths:
        if not Path(entry).is_file():
            raise FaithgenError(f"head set {entry!r} does not exist; make one with: faithgen heads detect")
    from faithgen.heads.head_set import HeadSet
    from faithgen.models import load_model

    sets = [HeadSet.load(entry) for entry in paths]
    loaded = load_model(model, dtype=dtype, device=device)
    with progress_bar(f"detecting heads of {loaded.model_id}, once") as report:
        return loaded, resolve(loaded, sets, progress=lambda _, done, total: report(done, total))
