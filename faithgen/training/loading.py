"""Models to train: loaded by the names faithgen knows, remembered by what they are."""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from faithgen import models
from faithgen.default_model import DEFAULT_BASE, DEFAULT_MODEL
from faithgen.errors import FaithgenError


@dataclass(frozen=True)
class Base:
    """The model that training starts from.

    Attributes:
        name (`str`): what loads it again: `"default-base"`, a hub id, or an absolute path.
        model_id (`str`), revision (`str`): as of [`LoadedModel`]; what its head sets are bound to.
        commit (`str`, *optional*): the revision, of a model on the hub; what else than `main` must be loaded.
    """

    name: str
    model_id: str
    revision: str

    @property
    def commit(self) -> str | None:
        local = not self.name or self.name == DEFAULT_BASE or Path(self.name).is_absolute()
        return None if local else self.revision or None

    def to_dict(self) -> dict[str, str]:
        return asdict(self)

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Base:
        """The base of a training record."""
        values = {key: str(record["base"].get(key) or "") for key in ("name", "model_id", "revision")}
        if values["name"] == DEFAULT_MODEL:  # of the time before it had an adapter of its own
            values["name"] = DEFAULT_BASE
        return cls(**values)


def load_trainable(
    model: Any, tokenizer: Any = None, init_kwargs: dict[str, Any] | None = None, quantization_config: Any = None
) -> tuple[Any, Any, Base]:
    """Load a model for training.

    Args:
        model (`str` or `PreTrainedModel`):
            `"default-base"`, a hub id, a folder or a `.gguf` file; or a model, which must come with its tokenizer unless its
            config says where it is from.
        tokenizer (`PreTrainedTokenizerFast`, *optional*): its tokenizer.
        init_kwargs (`dict`, *optional*): for `from_pretrained`; `dtype` is float32 unless given, as in TRL.
        quantization_config (`BitsAndBytesConfig`, *optional*): for QLoRA.

    Returns:
        `(model, tokenizer, base)`

    Raises:
        FaithgenError: If the model cannot be loaded, or has no fast tokenizer.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options = dict(init_kwargs or {})
    origin = {key: options[key] for key in ("revision", "trust_remote_code") if options.get(key)}
    if not isinstance(model, str):
        name = str(getattr(model.config, "_name_or_path", "") or "")
        commit = models.hub_commit(name, options["revision"]) if name and options.get("revision") else ""
        base = Base(name, Path(name).name or type(model).__name__, commit)
        if base.commit:
            base = replace(base, model_id=name)
        if tokenizer is None and not name:
            raise FaithgenError("the model does not say where it is from; give its tokenizer as processing_class")
        return model, _fast(tokenizer or AutoTokenizer.from_pretrained(name, revision=base.commit), name), base
    target, model_id, revision = models.locate(model)
    if revision is not None:
        origin.pop("revision", None)
        options.pop("revision", None)
    options.setdefault("dtype", "float32")
    if quantization_config is not None:
        options["quantization_config"] = quantization_config
    try:
        tokenizer = tokenizer or AutoTokenizer.from_pretrained(target, **origin)
        loaded = AutoModelForCausalLM.from_pretrained(target, use_safetensors=True, **options)
    except (OSError, ValueError, KeyError, TypeError, ImportError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise FaithgenError(
            f"model_name_or_path {model!r} could not be loaded ({reason[:200]}); give default-base, a hub id, a folder "
            "with config.json and safetensors weights, or a .gguf file"
        ) from error
    name = model if revision is None else _local_name(model, target)
    if revision is None:
        revision = models.hub_commit(target, options.get("revision")) or options.get("revision") or ""
    return loaded, _fast(tokenizer, model), Base(name, model_id, revision)


def load_reference(model: Any, base: Base, trust_remote_code: bool = False) -> Any:
    """The model on the hub that training starts from once more, at the revision that was loaded: TRL would take `main`."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        base.name,
        revision=base.commit,
        dtype=model.dtype,
        attn_implementation=model.config._attn_implementation,
        trust_remote_code=trust_remote_code,
        use_safetensors=True,
    )


def _local_name(model: str, target: str) -> str:
    """What loads a local model again: the packaged one by its name, others by their path."""
    if model not in (DEFAULT_MODEL, DEFAULT_BASE):
        return str(Path(model).expanduser().resolve())
    # an adapter on the default model with its own adapter is for that, not for the packaged file
    return DEFAULT_BASE if target == models.locate(DEFAULT_BASE)[0] else target


def _fast(tokenizer: Any, name: str) -> Any:
    if not getattr(tokenizer, "is_fast", False):
        raise FaithgenError(f"model {name!r} has no fast tokenizer (tokenizer.json), which exact prompts need")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def finish_adapter(model: Any, base: Base) -> None:
    """Make an adapter name its base as the user did, with its revision, and leave the embedding table out of its files.

    PEFT writes the whole table wherever the vocabulary has grown; the two rows that are trained are saved anyway.
    """
    for config in model.peft_config.values():
        config.base_model_name_or_path, config.revision = base.name, base.commit
    model.save_pretrained = functools.partial(model.save_pretrained, save_embedding_layers=False)
