"""The `faithgen` command. One file a command; torch is not imported before a command runs."""

from __future__ import annotations

import atexit
import gc
import logging
import sys
import warnings

import typer

from faithgen.cli import data, doctor, eval, export, generate, heads, rank, train
from faithgen.cli.console import note
from faithgen.errors import FaithgenError

app = typer.Typer(
    name="faithgen",
    help="Make a language model answer from the documents it is given, and show how.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("generate")(generate.generate)
app.command("rank")(rank.rank)
app.command("eval")(eval.evaluate)
app.command("export")(export.export)
app.command("doctor")(doctor.doctor)
app.add_typer(heads.app, name="heads")
app.add_typer(data.app, name="data")
app.add_typer(train.app, name="train")


@app.callback(invoke_without_command=True)
def root(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"faithgen {installed('faithgen')}")
        raise typer.Exit()


def main() -> None:
    """Run the command line; errors a user can make are one line on stderr and exit code 2."""
    warnings.showwarning = lambda message, *_, **__: note(f"warning: {message}")
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("faithgen").setLevel(logging.INFO)
    atexit.register(gc.freeze)  # what is there at the end is not walked for garbage once more, which takes a second
    try:
        app(prog_name="faithgen")  # also for `python -m faithgen`, so that completion is known by one name
    except FaithgenError as error:
        note("error: " + " ".join(str(error).split()))
        sys.exit(2)
    except KeyboardInterrupt:
        note("stopped")
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
