"""`faithgen data`: make what a model is trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from faithgen.cli import completion, options
from faithgen.cli.console import note, progress_bar
from faithgen.default_model import DEFAULT_BASE
from faithgen.errors import FaithgenError

app = typer.Typer(help="Make data to train on.", no_args_is_help=True)


@app.callback()
def root() -> None:
    """Make data to train on."""


@app.command()
def unfaithful(
    input: Annotated[
        str, typer.Option("--input", "-i", help="JSONL of {id, question, documents, answer}, or a data set's name.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="JSONL to write; *.dropped.jsonl and *.summary.json too.")
    ],
    top: Annotated[
        int | None, typer.Option(min=1, help="Mask this many of the best heads (RHIO: 100 of 1024).")
    ] = None,
    share: Annotated[
        float | None, typer.Option(help="Mask this share (0-1) of all heads; 0.05 if nothing is given.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Mask heads with at least this score (RetMask: 0.1).")
    ] = None,
    heads: options.Heads = None,
    random_heads: options.RandomHeads = None,
    ablation: Annotated[
        str,
        typer.Option(
            help="What masking does: zero or uniform (attention).",
            autocompletion=completion.one_of(*completion.ABLATIONS),
        ),
    ] = "zero",
    own_answers: Annotated[
        bool, typer.Option("--own-answers", help="Sample the faithful answer from the whole model, too (RetMask).")
    ] = False,
    temperature: Annotated[float, typer.Option(help="0 is greedy. RHIO: 1.0, RetMask: 0.6.")] = 1.0,
    top_p: Annotated[float, typer.Option(help="Nucleus, above 0 to 1. RHIO: 0.95, RetMask: 1.0.")] = 0.95,
    seed: Annotated[int, typer.Option(help="Seed; each row has a stream of its own.")] = 0,
    max_new_tokens: Annotated[int, typer.Option(help="Most tokens of an answer.")] = 128,
    instruction: Annotated[str | None, typer.Option(help="First line of the prompt's user turn.")] = None,
    scorer: Annotated[
        str,
        typer.Option(
            help="Judges support by the documents (faithgen eval --help), or none.",
            autocompletion=completion.one_of(*completion.SCORERS),
        ),
    ] = "lexical",
    keep: Annotated[
        list[str] | None,
        typer.Option(
            help="Switch a filter off: unfinished, equal, degenerate, no_claim, supported (repeatable).",
            autocompletion=completion.one_of(*completion.FILTERS),
        ),
    ] = None,
    margin: Annotated[float, typer.Option(help="Supported means: from the answer's support minus this.")] = 0.0,
    endpoint: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Sample from this OpenAI-compatible server of a baked model (faithgen heads bake)."
        ),
    ] = None,
    own_endpoint: Annotated[
        str | None, typer.Option(metavar="URL", help="Server of the whole model, for --own-answers with --endpoint.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Rows sampled together; 8, or 64 with --endpoint.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Take at most this many rows.")] = None,
    split: Annotated[str, typer.Option(help="Split of a data set by name.")] = "train",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an --output that was cut off.")] = False,
    model: options.UntrainedModel = DEFAULT_BASE,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
) -> None:
    """Sample unfaithful answers from a model with its retrieval heads masked, and filter them."""
    parent = output.parent
    if not parent.is_dir():
        raise FaithgenError(f"there is no folder {str(parent)!r}; make it or choose another --output")
    from faithgen.training import UnfaithfulConfig, build_unfaithful

    given = {} if instruction is None else {"instruction": instruction}
    config = UnfaithfulConfig(
        count=top,
        share=share,
        threshold=threshold,
        random_heads=random_heads,
        ablation=ablation,  # type: ignore[arg-type]
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        max_new_tokens=max_new_tokens,
        own_answers=own_answers,
        keep=tuple(keep or ()),
        margin=margin,
        **given,
    )
    loaded: object = model
    if endpoint is None:
        from faithgen.models import load_model

        loaded = load_model(model, dtype=dtype, device=device)
    with progress_bar("sampling unfaithful answers") as report:
        summary = build_unfaithful(
            loaded,  # type: ignore[arg-type]
            input,
            output,
            config,
            heads=[entry for entry in heads or [] if entry != "auto"] or "auto",
            scorer=None if scorer == "none" else scorer,
            endpoint=endpoint,
            own_endpoint=own_endpoint,
            batch_size=batch_size or (8 if endpoint is None else 64),
            limit=limit,
            split=split,
            resume=resume,
            progress=report,
        )
    note(f"{output}: {summary}")
    if not summary.kept:
        note(
            "warning: no sample was kept; see the reasons beside the output, and --keep, --max-new-tokens or more heads"
        )
