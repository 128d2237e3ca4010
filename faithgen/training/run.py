"""One training run, from its settings to the saved checkpoint: what `faithgen train` does."""

from __future__ import annotations

import gc
import hashlib
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from faithgen.errors import FaithgenError, MissingExtraError
from faithgen.prompting import INSTRUCTION
from faithgen.training.resuming import check_same_run, output_folder
from faithgen.training.rows import as_dataset, load_split, read_rows

if TYPE_CHECKING:
    from datasets import Dataset

METHODS = ("rhio", "retmask")


def train(method: str, arguments: Sequence[str]) -> Path:
    """Train as a recipe says.

    Args:
        method (`str`): `"rhio"` or `"retmask"`.
        arguments (`Sequence[str]`): `--config recipe.yaml` and any `--key value` of the method's config, of TRL's
            `ModelConfig`, `ScriptArguments` and `DatasetMixtureConfig`.

    Returns:
        `Path` of the checkpoint.

    Raises:
        FaithgenError: If settings, data, model or output folder cannot be used.
        MissingExtraError: If TRL, PEFT or datasets is not installed.
    """
    try:
        import datasets  # noqa: F401
        import peft  # noqa: F401
        import trl  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("training", "train") from error
    from faithgen.training.arguments import parse_arguments

    # TRL and PEFT use this name themselves, transformers 5.23 has a new one
    warnings.filterwarnings("ignore", ".*gradient_checkpointing. is deprecated", FutureWarning)
    trainer_type, config_type = _types(method)
    script, config, model, mixture = parse_arguments(config_type, arguments, f"faithgen train {method}")
    with output_folder(config) as resume:
        return _run(trainer_type, script, config, model, mixture, resume)


def _run(trainer_type: Any, script: Any, config: Any, model: Any, mixture: Any, resume: str | None) -> Path:
    """Load, train and save."""
    import trl

    from faithgen.training.failures import Started, in_one_line

    if model.model_name_or_path is None:
        raise FaithgenError("model_name_or_path is missing; give default-base, a hub id, a folder or a .gguf file")
    pairs = bool(getattr(config, "unfaithful_weight", True))
    data, info = _datasets(script, mixture, config, ("answer", "unfaithful") if pairs else ("answer",))
    options = {
        "revision": model.model_revision,
        "attn_implementation": model.attn_implementation,
        "dtype": model.dtype,
    }
    config.model_init_kwargs = {**options, **(config.model_init_kwargs or {})}
    started = Started()
    with in_one_line(started, config.output_dir, resume):
        trainer = trainer_type(
            model=model.model_name_or_path,
            args=config,
            train_dataset=data["train"],
            eval_dataset=data.get("eval"),
            callbacks=[started],
            quantization_config=trl.get_quantization_config(model),
            peft_config=trl.get_peft_config(model),
        )
        trainer.data_info = info
        if resume is not None:
            check_same_run(resume, trainer.record())
        trainer.train(resume_from_checkpoint=resume)
        trainer.save_model(config.output_dir)
    if config.push_to_hub:
        trainer.push_to_hub(dataset_name=script.dataset_name)
    _end(trainer)
    return Path(config.output_dir)


def _end(trainer: Any) -> None:
    """Finish trackers and processes.

    The wrapper of distributed training goes first: if it is the last to hold the process group, freeing it waits for a
    thread of gloo that waits for Python's lock, and the process hangs now and then.
    """
    trainer.model_wrapped = trainer.model
    trainer.accelerator.free_memory()
    gc.collect()
    trainer.end()


def _types(method: str) -> tuple[Any, Any]:
    from faithgen import training

    if method not in METHODS:
        raise FaithgenError(f"there is no method {method!r}; choose from {', '.join(METHODS)}")
    name = {"rhio": "RHIO", "retmask": "RetMask"}[method]
    return getattr(training, f"{name}Trainer"), getattr(training, f"{name}Config")


def _datasets(
    script: Any, mixture: Any, config: Any, needs: tuple[str, ...]
) -> tuple[dict[str, Dataset], dict[str, Any]]:
    """The data to train and evaluate on, and what the training record says of it."""
    if script.dataset_streaming or mixture.streaming:
        raise FaithgenError("streamed data is not supported: lengths are checked before training; leave streaming out")
    if mixture.datasets:
        found = _mixture(mixture)
        info: dict[str, Any] = {"source": [entry.path for entry in mixture.datasets]}
        sources = {"train": found[script.dataset_train_split]}
        if script.dataset_test_split in found:
            sources["eval"] = found[script.dataset_test_split]
    elif script.dataset_name:
        sources = {"train": _source(script.dataset_name, script.dataset_config, script.dataset_train_split)}
        info = _file_info(script.dataset_name)
    else:
        raise FaithgenError(
            "dataset_name is missing; give a JSONL file of rows (faithgen data unfaithful) or a data set"
        )
    if script.dataset_description:
        info["description"] = script.dataset_description
    if script.eval_dataset_name:
        name, split = script.eval_dataset_name, script.dataset_test_split
        sources["eval"] = _source(name, script.dataset_config, split, "eval_dataset_name")
    if str(getattr(config.eval_strategy, "value", config.eval_strategy)) == "no":
        sources.pop("eval", None)
    elif "eval" not in sources:
        raise FaithgenError(
            "eval_strategy needs rows to evaluate on; give eval_dataset_name, or set eval_strategy: no"
        )
    rows = {name: read_rows(source, needs=needs) for name, source in sources.items()}
    instructions = {row.instruction for row in rows["train"]}
    if len(instructions) == 1 and None not in instructions and config.instruction == INSTRUCTION:
        # the model's own from now on: the generator takes it from the tokenizer
        config.instruction = instructions.pop()
    return {name: as_dataset(found) for name, found in rows.items()}, info | {"rows": len(rows["train"])}


def _mixture(mixture: Any) -> Any:
    from trl import get_dataset

    try:
        return get_dataset(mixture)
    except Exception as error:  # `datasets` raises anything from ConnectionError to its own classes
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise FaithgenError(f"datasets could not be read ({reason}); check their path and data_files") from error


def _source(name: str, config_name: str | None, split: str, key: str = "dataset_name") -> Any:
    """The file itself, or a split of a data set on the hub; `key` is the setting that names it."""
    if Path(name).is_file():
        return Path(name)
    if Path(name).suffix in (".jsonl", ".json"):
        raise FaithgenError(f"{key}: there is no file {name!r}; give a JSONL file of rows or a data set's name")
    return load_split(name, split, config_name)


def _file_info(name: str) -> dict[str, Any]:
    """Name and checksum of a file of rows, and how its unfaithful answers were made."""
    path = Path(name)
    if not path.is_file():
        return {"source": name}
    info: dict[str, Any] = {"source": path.name}
    with path.open("rb") as stream:
        info["sha256"] = hashlib.file_digest(stream, "sha256").hexdigest()
    try:
        summary = json.loads(path.with_name(f"{path.stem}.summary.json").read_text(encoding="utf-8"))
        info["samples"] = {key: summary[key] for key in ("kept", "dropped", "documents_cut", "settings")}
    except (OSError, ValueError, KeyError, TypeError):
        info["samples"] = None
    return info
