"""`faithgen export`: a trained checkpoint for others to load."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from faithgen.cli import options
from faithgen.cli.console import note


def export(
    checkpoint: Annotated[Path, typer.Option("--checkpoint", "-c", help="Folder that faithgen train wrote.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")],
    merge: Annotated[
        bool, typer.Option("--merge", help="Merge the adapter into its base model, for transformers, vLLM and others.")
    ] = False,
    base: Annotated[
        str | None, typer.Option(help="Base model, where it is not found under the name it was trained by.")
    ] = None,
    results: Annotated[Path | None, typer.Option(help="JSON of figures for the model card.")] = None,
    alpha: Annotated[
        float | None, typer.Option(help="Contrast strength to use with the model where none is given.")
    ] = None,
    dtype: options.Dtype = "auto",
) -> None:
    """Write a trained model (merged, or the adapter alone) with its tokenizer, training record and model card."""
    from faithgen.training.export import export_checkpoint

    folder = export_checkpoint(checkpoint, output, merge=merge, base=base, dtype=dtype, results=results, alpha=alpha)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    note(f"written to {folder} ({size / 2**20:.1f} MiB)")
