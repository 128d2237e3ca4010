"""The command line with a tiny model, for the file that it writes."""

from tests.cli.conftest import model_options, run, tiny_heads

__all__ = ["model_options", "run", "tiny_heads"]
