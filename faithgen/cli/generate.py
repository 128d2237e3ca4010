"""`faithgen generate`: answer one question, or a file of them."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from faithgen.cli import completion, options
from faithgen.cli.console import document_table, note, safe, stdout
from faithgen.errors import FaithgenError

if TYPE_CHECKING:
    from faithgen.answer import Answer
    from faithgen.generator import FaithfulGenerator


def generate(
    question: Annotated[str | None, typer.Argument(help="The question.", show_default=False)] = None,
    documents: options.Documents = None,
    input: Annotated[
        Path | None, typer.Option("--input", "-i", help="JSONL of {question, documents, id?} to answer in a batch.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSONL of answers, for --input.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an --output that was cut off.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions decoded together, for --input.")] = 4,
    model: options.Model = None,
    heads: options.Heads = None,
    random_heads: options.RandomHeads = None,
    contrast: Annotated[
        str,
        typer.Option(
            help="Unfaithful branch: auto, control (trained), heads (masked), context (no documents), none.",
            autocompletion=completion.one_of(*completion.SOURCES),
        ),
    ] = "auto",
    contrast_method: Annotated[
        str,
        typer.Option(
            help=f"{completion.either(*completion.CONTRASTS)}.",
            autocompletion=completion.one_of(*completion.CONTRASTS),
        ),
    ] = "rhio",
    alpha: Annotated[
        float | None,
        typer.Option(
            help="Contrast strength, 0 or more; else the model's own (the packaged one's: 0.5), 0.2, adacad and decore 1; "
            "0 for an untrained model with neither --contrast nor --contrast-method."
        ),
    ] = None,
    plausibility: Annotated[
        float | None, typer.Option(help="Keep tokens with this share (0-1) of the top probability.")
    ] = None,
    keep: Annotated[int | None, typer.Option(help="Keep at most this many documents.")] = None,
    mass: Annotated[
        float | None,
        typer.Option(help="Keep the best until they hold this share (0-1) of the heads' attention; 1 keeps all."),
    ] = None,
    no_filter: Annotated[bool, typer.Option("--no-filter", help="Keep all documents, in their order.")] = False,
    steer: Annotated[
        bool | None, typer.Option("--steer/--no-steer", help="Steer attention to the evidence (CAFE stage 2).")
    ] = None,
    calibrate: options.Calibrate = None,
    refine: options.Refine = None,
    max_new_tokens: Annotated[int, typer.Option(help="Most tokens of an answer.")] = 128,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Nucleus, above 0 to 1.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.")] = 0,
    stop: Annotated[list[str] | None, typer.Option(help="String that ends an answer (repeatable).")] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write an HTML page that shows how the answer came about.", metavar="HTML")
    ] = None,
    format: options.Format = "text",
    no_stream: Annotated[bool, typer.Option("--no-stream", help="Print the answer when it is whole.")] = False,
    compile: Annotated[
        bool,
        typer.Option("--compile", help="Decode through torch.compile: for long --input files, most of all on a GPU."),
    ] = False,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
) -> None:
    """Answer a question from documents, and show which were used and where the answer is shaky."""
    if (question is None) == (input is None):
        raise FaithgenError("give a question, or --input with a file of them (not both)")
    if input is None and (output is not None or resume):
        raise FaithgenError("--output and --resume go with --input; redirect standard output for a single question")
    if input is not None and output is None:
        raise FaithgenError("--input needs --output, the file the answers go to")
    if input is not None and documents is not None:
        raise FaithgenError("--documents goes with one question; the rows of --input carry their own documents")
    if report is not None:
        _check_report(report, batch=input is not None)
    if question is not None and not question.strip():
        raise FaithgenError("the question is empty; ask something")
    settings = _settings(
        contrast, contrast_method, alpha, plausibility, keep, mass, no_filter, steer, calibrate, refine
    )
    settings |= _sampling(temperature, top_p, seed) | {"max_new_tokens": max_new_tokens, "stop": stop or []}
    if max_new_tokens < 1:
        raise FaithgenError(f"max_new_tokens is {max_new_tokens}; give 1 or more")

    if input is not None:
        assert output is not None
        from faithgen.cli.batch import answer_file

        arguments = (model, heads, random_heads, dtype, device, compile)
        failed = answer_file(input, output, resume, batch_size, settings, lambda: _generator(*arguments))
        raise typer.Exit(1 if failed else 0)

    assert question is not None
    read = options.documents_from(documents)
    generator = _generator(model, heads, random_heads, dtype, device, compile)
    settings["explain"] = report is not None
    if format == "json":
        answer = generator.generate(question, read, **settings)
        _write_report(answer, report, generator)
        print(json.dumps(answer.to_dict(), ensure_ascii=False, indent=1, allow_nan=False))  # noqa: T201
        return
    if no_stream:
        answer = generator.generate(question, read, **settings)
        print(safe(answer.text))  # noqa: T201
    else:
        stream = generator.stream(question, read, **settings)
        for number, piece in enumerate(stream):
            sys.stdout.write(safe(piece.lstrip() if number == 0 else piece))
            sys.stdout.flush()
        sys.stdout.write("\n")
        answer = stream.answer
    _print_evidence(answer)
    _write_report(answer, report, generator)


def _check_report(path: Path, *, batch: bool) -> None:
    """Say that a report cannot be written before the question is answered for it."""
    if batch:
        raise FaithgenError("--report shows one question, not --input; ask the question by itself to see its report")
    if path.is_dir():
        raise FaithgenError(f"--report {str(path)!r} is a folder; give the file to write, e.g. answer.html")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise FaithgenError(f"cannot write in {str(path.parent)!r}; choose another --report")


def _write_report(answer: Answer, path: Path | None, generator: FaithfulGenerator) -> None:
    if path is None:
        return
    from faithgen.report import write_report

    write_report(answer, path, scoring_heads=generator.scoring_heads, copying_heads=generator.copying_heads)
    note(f"report written to {path}")


def _settings(
    contrast: str,
    method: str,
    alpha: float | None,
    plausibility: float | None,
    keep: int | None,
    mass: float | None,
    no_filter: bool,
    steer: bool | None,
    calibrate: bool | None,
    refine: int | None,
) -> dict[str, Any]:
    from faithgen.decoding.contrast import ContrastConfig
    from faithgen.filtering.coarse import FilterConfig

    branch = {"source": contrast, "method": method, "alpha": alpha, "plausibility": plausibility}
    filtering = {
        "enabled": not no_filter,
        "keep": keep,
        "mass": mass,
        "steer": steer,
        "calibrate": calibrate,
        "refine": refine,
    }
    given = {name: value for name, value in branch.items() if value is not None}
    chosen = {name: value for name, value in filtering.items() if value is not None}
    return {"contrast": ContrastConfig(**given), "filter": FilterConfig(**chosen)}  # type: ignore[arg-type]


def _sampling(temperature: float, top_p: float, seed: int) -> dict[str, Any]:
    from faithgen.decoding.sampling import SamplingConfig

    return {"sampling": SamplingConfig(temperature, top_p, seed)}


def _generator(
    model: str | None, heads: list[str] | None, random_heads: int | None, dtype: str, device: str, compiled: bool
) -> FaithfulGenerator:
    from faithgen.generator import FaithfulGenerator

    return FaithfulGenerator(*options.load(model, heads, random_heads, dtype, device), compiled=compiled)


def _print_evidence(answer: Answer) -> None:
    console = stdout()
    console.print()
    ranked = any(document.score is not None for document in answer.documents)
    console.print(document_table(answer.documents, ranked=ranked))
    console.print()
    console.print(safe(str(answer.doubt)), markup=False)
    for warning in answer.warnings:
        note(f"warning: {warning}")
    if answer.finish_reason == "length":
        note(f"warning: the answer was cut at {len(answer.tokens)} tokens; raise --max-new-tokens")
