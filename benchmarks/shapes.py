"""Models to time: one that is given, with its own heads, or one of random weights in a shape that users run.

Time and memory do not depend on what the weights are, so a random model serves where no other is at hand; its answers mean
nothing. Its scoring heads lie in the layers up to 0.6 of the depth, the deepest in the last of them, where heads that rank
are found in trained models; nothing is detected.
"""

from __future__ import annotations

import os
import random
from typing import Any

from faithgen.heads.head_set import Head, HeadSet
from faithgen.heads.resolve import COPYING, SCORING, resolve_heads
from faithgen.models import LoadedModel, default_device, load_model, locate, resolve_dtype

DEPTH = 0.6
_LLAMA_3_1 = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0}
_LLAMA_3_1 |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
SHAPES: dict[str, dict[str, Any]] = {
    "8b": {  # Llama-3.1-8B
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 131072,
        "rope_parameters": _LLAMA_3_1,
    },
    "tiny": {  # for tests
        "vocab_size": 1024,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 5,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 8192,
    },
}


def load(
    model: str | os.PathLike[str] | None, shape: str | None = None, dtype: str = "auto"
) -> tuple[LoadedModel, HeadSet, HeadSet]:
    """A model, its scoring and its copying heads.

    Args:
        model (`str` or `PathLike`, *optional*): as for `load_model`; with `shape`, the one whose tokenizer is taken.
        shape (`str`, *optional*): a key of `SHAPES`: random weights, made on the device.
        dtype (`str`, *optional*, defaults to `"auto"`): as for `load_model`.
    """
    if shape is not None:
        loaded = random_model(model, shape, dtype)
        return loaded, depth_heads(loaded, SCORING, 0), depth_heads(loaded, COPYING, 1)
    loaded = load_model(model, dtype=dtype)
    return loaded, *resolve_heads(loaded)


def random_model(tokenizer_of: str | os.PathLike[str] | None, shape: str, dtype: str = "auto") -> LoadedModel:
    """A Llama of this shape with random weights (seed 0), made on the device, and a model's tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

    device = default_device()
    tokenizer: Any = AutoTokenizer.from_pretrained(locate(tokenizer_of)[0])
    sizes = {**SHAPES[shape], "vocab_size": max(SHAPES[shape]["vocab_size"], len(tokenizer))}
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(LlamaConfig(**sizes, **special), dtype=resolve_dtype(dtype, device))
    return LoadedModel(model.to(device).eval(), tokenizer, f"random-{shape}", "0")


def depth_heads(loaded: LoadedModel, method: str, seed: int) -> HeadSet:
    """A head set chosen by depth: the best lie in the second quarter to `DEPTH`, the very best in the last layer of it."""
    layers, heads = loaded.model.config.num_hidden_layers, loaded.model.config.num_attention_heads
    drawn = random.Random(seed)
    last = last_layer(layers, DEPTH)
    scores = [[drawn.random() / (1 if layers // 4 <= i <= last else 2) for _ in range(heads)] for i in range(layers)]
    scores[last][drawn.randrange(heads)] = 1.0
    return HeadSet(scores, method, loaded.model_id, loaded.revision, data="none: chosen by depth", seed=seed)


def heads_to_depth(heads: HeadSet, count: int, depth: float) -> list[Head]:
    """The `count` best heads of the first `depth` of the layers, the best of the last of these among them."""
    last = last_layer(heads.num_layers, depth)
    within = [head for head in heads.ranked() if head[0] <= last]
    deepest = next(head for head in within if head[0] == last)
    return [deepest, *(head for head in within if head != deepest)][:count]


def last_layer(layers: int, depth: float) -> int:
    """The layer with which about this share of all layers has been run."""
    return max(1, round(depth * layers)) - 1
