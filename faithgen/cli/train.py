"""`faithgen train`: train a model as a recipe says, with TRL's own keys."""

from __future__ import annotations

import os

import typer

from faithgen.cli.console import note

app = typer.Typer(help="Train a model to answer from its documents.", no_args_is_help=True)
# Everything after the method goes to TRL's parser as it is, --help too.
_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@app.callback()
def root() -> None:
    """Train a model to answer from its documents: --config recipe.yaml [--key value ...], keys as in TRL."""


@app.command(context_settings=_PASS_ON)
def rhio(context: typer.Context) -> None:
    """RHIO: fine-tune on faithful and unfaithful answers, told apart by a control token."""
    _train("rhio", context)


@app.command(context_settings=_PASS_ON)
def retmask(context: typer.Context) -> None:
    """RetMask: prefer the model's own answers to those of the model with its retrieval heads masked."""
    _train("retmask", context)


def _train(method: str, context: typer.Context) -> None:
    from faithgen.training.run import train

    folder = train(method, context.args)
    if os.environ.get("RANK", "0") == "0":
        note(f"written to {folder}; next: faithgen export --checkpoint {folder} --output DIR --merge")
