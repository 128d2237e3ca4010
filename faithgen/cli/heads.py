"""`faithgen heads`: detect which heads of a model retrieve, look at them, bake a model without them."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from faithgen.cli import completion, options
from faithgen.cli.console import note, progress_bar, safe
from faithgen.default_model import DEFAULT_BASE
from faithgen.errors import FaithgenError

if TYPE_CHECKING:
    from faithgen.heads.head_set import HeadSet

app = typer.Typer(help="Detect, show and bake heads.", no_args_is_help=True)

SetFile = Annotated[
    str,
    typer.Argument(
        help="Head set file, or copying / query_focused for the packaged default's.",
        show_default=False,
        autocompletion=completion.detectors,
    ),
]


@app.command()
def detect(
    output: Annotated[Path, typer.Option("--output", "-o", help="JSON file to write.")],
    method: Annotated[
        str,
        typer.Option(
            help="query_focused (ranks documents) or copying (to mask).", autocompletion=completion.detectors
        ),
    ] = "query_focused",
    data: Annotated[
        str, typer.Option(help="JSONL of {question, documents, answer, gold}, or builtin (48 instances).")
    ] = "builtin",
    max_instances: Annotated[int | None, typer.Option(min=1, help="Use at most this many.")] = None,
    normalise: Annotated[
        bool, typer.Option(help="query_focused: each head's share over documents (CAFE), or raw attention (QRHead).")
    ] = True,
    calibrate: Annotated[bool, typer.Option(help="query_focused: subtract a content-free question.")] = True,
    seed: Annotated[int, typer.Option(help="Order in which instances are tried.")] = 0,
    model: options.UntrainedModel = DEFAULT_BASE,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
) -> None:
    """Detect the retrieval heads of a model."""
    if not output.parent.is_dir() or not os.access(output.parent, os.W_OK):
        raise FaithgenError(f"cannot write in {str(output.parent)!r}; choose another --output")
    from faithgen.detection import detect_heads
    from faithgen.models import load_model

    settings: dict[str, Any] = {"normalise": normalise, "calibrate": calibrate} if method == "query_focused" else {}
    loaded = load_model(model, dtype=dtype, device=device)
    with progress_bar(f"detecting {method} heads") as report, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # `_describe` says it in its own words
        head_set = detect_heads(
            loaded,
            method,  # type: ignore[arg-type]
            data,
            max_instances=max_instances,
            seed=seed,
            progress=report,
            **settings,
        )
    head_set.save(output)
    _describe(head_set, 10)
    note(f"written to {output}")


@app.command()
def show(
    head_set: SetFile,
    top: Annotated[int, typer.Option(min=1, help="How many heads to list and to mark in the plot.")] = 20,
    plot: Annotated[Path | None, typer.Option(help="Draw the layers x heads map to this .png or .svg.")] = None,
    format: options.Format = "text",
) -> None:
    """Show a head set: where it comes from, and its best heads."""
    found = _open(head_set)
    if plot is not None:
        from faithgen.report.plots import plot_heads

        plot_heads(found, plot, mark=top)
        note(f"drawn to {plot}")
    if format == "json":
        print(json.dumps(found.to_dict(), indent=1))  # noqa: T201
    else:
        _describe(found, top)


@app.command()
def bake(
    output: Annotated[Path, typer.Option("--output", "-o", help="Checkpoint folder to write.")],
    head_set: Annotated[
        str, typer.Option("--heads", help="Head set file; the copying heads if not given.")
    ] = "copying",
    top: Annotated[int | None, typer.Option(min=1, help="Mask this many of the best heads.")] = None,
    share: Annotated[
        float | None, typer.Option(help="Mask this share (0-1) of all heads; 0.05 if nothing is given.")
    ] = None,
    threshold: Annotated[float | None, typer.Option(help="Mask heads with at least this score.")] = None,
    random_heads: options.RandomHeads = None,
    model: options.UntrainedModel = DEFAULT_BASE,
    dtype: options.Dtype = "auto",
) -> None:
    """Write a checkpoint with heads masked for good, for any engine (vLLM, ...) to run."""
    from faithgen import hf
    from faithgen.heads.ablation import bake_mask
    from faithgen.models import load_model
    from faithgen.training.sampling import choose_heads

    found = _open(head_set)
    loaded = load_model(model, dtype=dtype, device="cpu")
    shape = hf.head_shape(loaded.model)
    found.check(shape.num_layers, shape.num_heads, loaded.model_id, loaded.revision)
    if random_heads is not None:
        found = found.random_like(random_heads)
    heads = choose_heads(found, count=top, share=share, threshold=threshold)
    provenance = {"method": found.method, "data": found.data, "seed": found.seed}
    folder = bake_mask(loaded, heads, output, provenance=provenance)
    note(f"{len(heads)} of {shape.num_layers * shape.num_heads} heads masked; written to {folder}")


def _open(name: str) -> HeadSet:
    from faithgen.heads.head_set import HeadSet, packaged_head_sets

    if not Path(name).exists():
        for path in packaged_head_sets():
            if path.stem == name:
                return HeadSet.load(path)
    return HeadSet.load(name)


def _describe(head_set: HeadSet, top: int) -> None:
    from faithgen.detection import weaknesses

    total = head_set.num_layers * head_set.num_heads
    lines = [
        f"{head_set.method} heads of {head_set.model_id} (revision {head_set.revision or 'unknown'})",
        f"{head_set.num_layers} layers x {head_set.num_heads} heads; Gini {head_set.gini:.2f}",
        f"detected on {head_set.data or 'unknown data'}, seed {head_set.seed}: {head_set.used} instances used",
    ]
    lines += [f"  {count} dropped: {reason}" for reason, count in head_set.dropped.items()]
    if head_set.threshold is not None:
        lines.append(f"{len(head_set.above(head_set.threshold))} of {total} heads score {head_set.threshold} or more")
    lines.append("best heads (layer-head score):")
    best = [f"  {layer}-{head} {head_set.scores[layer][head]:.3f}" for layer, head in head_set.top(min(top, total))]
    for line in lines + best:
        print(safe(line))  # noqa: T201
    for weakness in weaknesses(head_set):
        note(f"warning: {weakness}")
