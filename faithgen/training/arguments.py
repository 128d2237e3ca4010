"""The settings of a training run, from a YAML recipe and the command line, through TRL's own parser."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from trl import DatasetMixtureConfig, ModelConfig, ScriptArguments, TrlParser

from faithgen.errors import FaithgenError
from faithgen.training.checks import check_adapter_settings


@dataclass
class TrainScriptArguments(ScriptArguments):
    """TRL's [`~trl.ScriptArguments`], with a file of rows in place of a data set where one is wanted.

    Args:
        dataset_name (`str`, *optional*): JSONL file of rows, as `faithgen data unfaithful` writes it, or a data set's name.
        eval_dataset_name (`str`, *optional*): the same, to evaluate on.
        dataset_description (`str`, *optional*): where the data come from, for the training record and the model card.
    """

    eval_dataset_name: str | None = field(
        default=None, metadata={"help": "JSONL file of rows or name of a data set to evaluate on. Source: faithgen."}
    )
    dataset_description: str | None = field(
        default=None,
        metadata={"help": "Where the data come from, in a sentence; stands on the model card. Source: faithgen."},
    )


class _Parser(TrlParser):
    """Raises one-line errors in place of printing the usage of three hundred options."""

    def error(self, message: str) -> Any:
        raise FaithgenError(f"{message}; see --help for what is allowed")


def parse_arguments(config_type: type, arguments: Sequence[str], prog: str) -> tuple[Any, Any, Any, Any]:
    """Parse `--config recipe.yaml [--key value ...]`; the command line wins.

    Args:
        config_type (`type`): [`RHIOConfig`] or [`RetMaskConfig`].
        arguments (`Sequence[str]`): what stands on the command line.
        prog (`str`): name of the command, for `--help`.

    Returns:
        `(script_args, config, model_args, dataset_args)`

    Raises:
        FaithgenError: If the recipe cannot be read, a key is unknown or a value is not allowed; names the key.
    """
    types: Any = (TrainScriptArguments, config_type, ModelConfig, DatasetMixtureConfig)
    parser = _Parser(types, prog=prog, allow_abbrev=False)
    given = _split_config(arguments)
    if "--config" in given:
        place = given.index("--config") + 1
        if place >= len(given):
            raise FaithgenError("--config needs a file; give a YAML recipe")
        _check_recipe(parser, Path(given[place]))
    try:
        script, config, model, data = parser.parse_args_and_config(given)
        check_adapter_settings(model)
    except FaithgenError:
        raise
    except (ImportError, OSError) as error:  # what a setting needs is not installed, or its file is not there
        reason = " ".join(str(error).split())[:300]
        raise FaithgenError(f"settings cannot be used ({reason}); install what is missing, or leave it out") from error
    except ValueError as error:
        raise FaithgenError(_shortened(str(error))) from error
    return script, config, model, data


def _split_config(arguments: Sequence[str]) -> list[str]:
    """`--config=x` as TRL's parser knows it."""
    split = []
    for argument in arguments:
        split += ["--config", argument.partition("=")[2]] if argument.startswith("--config=") else [argument]
    return split


def _check_recipe(parser: argparse.ArgumentParser, path: Path) -> None:
    """Check keys and values of a recipe: argparse takes defaults as they are, without a look at type or choices."""
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise FaithgenError(f"cannot read --config {str(path)!r} ({reason}); give a YAML recipe") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        raise FaithgenError(f"--config {str(path)!r}{line} is not valid YAML; mend it") from error
    if not isinstance(recipe, dict):
        raise FaithgenError(f"--config {str(path)!r} holds no keys; write one `key: value` a line")
    actions = {action.dest: action for action in parser._actions if action.dest != "help"}
    for key, value in recipe.items():
        if key == "env":
            if not isinstance(value, dict):
                raise FaithgenError(
                    f"{path}: env is {value!r}; allowed: names of environment variables with their values"
                )
        elif key not in actions:
            close = difflib.get_close_matches(str(key), actions, n=1)
            meant = f"; did you mean {close[0]}?" if close else "; see --help for the keys there are"
            raise FaithgenError(f"{path}: unknown key {key}{meant}")
        else:
            _check_value(actions[key], f"{path}: {key}", value)


def _check_value(action: argparse.Action, name: str, value: Any) -> None:
    if value is None or isinstance(value, dict):
        return
    if isinstance(value, list) and action.nargs != "+":
        raise FaithgenError(f"{name} is a list; allowed: one value")
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, dict):
            continue
        if action.choices is not None and item not in action.choices:
            raise FaithgenError(f"{name} is {item!r}; allowed: {', '.join(map(str, action.choices))}")
        convert: Any = action.type or str
        try:
            convert(item if isinstance(item, str) else str(item))
        except (ValueError, TypeError, argparse.ArgumentTypeError) as error:
            kind = {"string_to_bool": "true or false", "int": "a whole number", "float": "a number"}
            wanted = kind.get(convert.__name__, convert.__name__)
            raise FaithgenError(f"{name} is {item!r}; allowed: {wanted}") from error


def _shortened(message: str) -> str:
    prefix = "Some specified arguments are not used by the HfArgumentParser: "
    if message.startswith(prefix):
        return f"unknown arguments {message.removeprefix(prefix)}; see --help for what is allowed"
    return message
