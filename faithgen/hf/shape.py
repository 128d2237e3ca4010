"""What a model is made of: its decoder's config, attention layers, heads and output projections; its device and weights."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

_OUTPUT_PROJECTIONS = ("o_proj", "out_proj", "dense", "c_proj", "wo")
_FULL_ATTENTION = (None, "full_attention")
_found_modules: weakref.WeakKeyDictionary[nn.Module, dict[int, nn.Module]] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class HeadShape:
    """Where the query heads of a decoder are.

    Attributes:
        num_layers (`int`): number of decoder layers.
        num_heads (`int`): query heads a layer.
        num_key_value_heads (`int`): key/value heads a layer (query head `h` reads KV head `h * num_kv // num_heads`).
    """

    num_layers: int
    num_heads: int
    num_key_value_heads: int


def text_config(model: Any) -> Any:
    """The config of the text decoder (multimodal models nest it)."""
    return model.config.get_text_config(decoder=True)


def head_shape(model: Any) -> HeadShape:
    """Number of layers, query heads and KV heads of `model`."""
    config = text_config(model)
    heads = config.num_attention_heads
    return HeadShape(config.num_hidden_layers, heads, getattr(config, "num_key_value_heads", None) or heads)


def device_of(model: Any) -> torch.device:
    """Where the model takes its input."""
    return model.get_input_embeddings().weight.device


def context_window(model: Any) -> int:
    """Positions the model was made for (`max_position_embeddings`)."""
    return int(getattr(text_config(model), "max_position_embeddings", None) or 2048)


def attention_modules(model: Any) -> dict[int, nn.Module]:
    """The self-attention modules that see the whole context, by layer index.

    Sliding-window, chunked and linear layers are left out by `config.layer_types`: their heads cannot retrieve. The search
    is made once a model: layers exchanged for others later are not seen.

    Raises:
        ValueError: If the model has no attention layer with an output projection that faithgen knows.
    """
    if model in _found_modules:
        return dict(_found_modules[model])
    types = getattr(text_config(model), "layer_types", None)
    found: dict[int, nn.Module] = {}
    for module in model.modules():
        index = getattr(module, "layer_idx", None)
        if index is None or index in found or not hasattr(module, "config") or _projection_name(module) is None:
            continue
        if types is None or types[index] in _FULL_ATTENTION:
            found[index] = module
    if not found:
        raise ValueError(
            f"{type(model).__name__} has no full-attention layer with an output projection named one of "
            f"{', '.join(_OUTPUT_PROJECTIONS)}; retrieval heads cannot be read from it"
        )
    _found_modules[model] = dict(sorted(found.items()))
    return dict(_found_modules[model])


def _projection_name(module: Any) -> str | None:
    return next((name for name in _OUTPUT_PROJECTIONS if isinstance(getattr(module, name, None), nn.Module)), None)


def output_projection(attention: Any) -> nn.Module:
    """The module that mixes the heads' outputs (`o_proj` in most models); its input is `[B, Q, H * D_v]`."""
    name = _projection_name(attention)
    if name is None:
        raise ValueError(f"{type(attention).__name__} has no output projection")
    return getattr(attention, name)


def projection_in_features(projection: Any) -> int:
    """Input width of an output projection (`nn.Linear`, or transformers' transposed `Conv1D`)."""
    return int(getattr(projection, "in_features", None) or projection.weight.shape[0])


def zero_projection_inputs(projection: Any, start: int, end: int) -> None:
    """Set the weights that read inputs `start:end` to zero, in place. The bias is an output's and stays."""
    with torch.no_grad():
        if hasattr(projection, "in_features"):
            projection.weight[:, start:end] = 0
        else:  # Conv1D stores [in, out]
            projection.weight[start:end] = 0


def weights_mark(model: Any) -> tuple[Any, ...]:
    """Something that changes with what the weights do: which they are, their versions and places, 16 values or so of each
    (`.data` leaves the former alone), and what is switched on of PEFT's adapters. Of weights that are offloaded (on `meta`)
    no value is seen. One copy from each device."""
    weights = list(model.parameters())
    marks = [(id(one), 0 if one.is_inference() else one._version, one.data_ptr()) for one in weights]
    samples: dict[Any, list[torch.Tensor]] = {}
    for one in weights:
        if one.device.type != "meta":
            values = one.detach().flatten()[:: max(1, one.numel() // 16) | 1]
            samples.setdefault((one.device, one.dtype), []).append(values)
    values = [torch.cat(parts).float().cpu().numpy().tobytes() for parts in samples.values()]
    adapters = [
        repr((layer._disable_adapters, layer._active_adapter, layer.merged_adapters, getattr(layer, "scaling", None)))
        for layer in model.modules()
        if hasattr(type(layer), "_disable_adapters")
    ]
    return (*marks, *values, *adapters)
