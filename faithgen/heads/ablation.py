"""Switching heads off: for a while (a context manager), for some rows of a batch, or for good (a checkpoint)."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from faithgen import hf
from faithgen.errors import FaithgenError
from faithgen.heads.head_set import Head, by_layer, check_range
from faithgen.heads.indices import indices

if TYPE_CHECKING:
    from faithgen.models import LoadedModel

Ablation = Literal["zero", "uniform"]


@contextlib.contextmanager
def mask_heads(
    model: nn.Module,
    heads: Sequence[Head],
    *,
    rows: Sequence[int] | None = None,
    queries: slice | None = None,
    mode: Ablation = "zero",
) -> Iterator[None]:
    """Run `model` with some query heads switched off; everything is put back on leaving.

    Args:
        model (`PreTrainedModel`): the model; its weights are not touched.
        heads (`Sequence[tuple[int, int]]`): `(layer, query head)` pairs, e.g. `head_set.top(14)`.
        rows (`Sequence[int]`, *optional*): rows of the batch to mask, all of them by default. The other rows are
            computed exactly as without the mask.
        queries (`slice`, *optional*): queries of the forward to mask, all of them by default.
        mode (`"zero"` or `"uniform"`, *optional*, defaults to `"zero"`):
            `"zero"`: the head adds nothing (its inputs of the output projection are zeroed, as RetMask does to the
            weights). `"uniform"`: its query is zeroed, so it attends evenly to all it may see (DeCoRe, Wu et al.).

    Raises:
        FaithgenError: If a head is out of range for the model.
        ValueError: If a head is in a layer without full attention.
    """
    shape = hf.head_shape(model)
    check_range(heads, shape.num_layers, shape.num_heads)
    grouped = by_layer(heads)
    modules = hf.attention_modules(model)
    missing = sorted(set(grouped) - set(modules))
    if missing:
        raise ValueError(f"layers {missing} have no full attention, their heads cannot be masked")
    if mode == "uniform":
        with hf.attached(model, {layer: _uniform(grouped[layer], rows, queries) for layer in grouped}):
            yield
        return
    hooks = []
    try:
        for layer, chosen in grouped.items():
            projection = hf.output_projection(modules[layer])
            width = hf.projection_in_features(projection) // shape.num_heads
            hooks.append(projection.register_forward_pre_hook(_zero(chosen, width, rows, queries)))
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _zero(heads: list[int], width: int, rows: Sequence[int] | None, queries: slice | None):
    def hook(module, arguments):
        states = arguments[0].clone()
        columns = indices(heads, states.device, width)
        part = states if queries is None else states[:, queries]  # a view
        nothing = states.new_zeros(())  # on its device, not from the host
        if rows is None:
            part[..., columns] = nothing
        else:
            part[indices(rows, states.device)[:, None], ..., columns] = nothing
        return (states, *arguments[1:])

    return hook


def _uniform(heads: list[int], rows: Sequence[int] | None, queries: slice | None):
    def attention(module, query, key, value, attention_mask, *, delegate, **kwargs):
        query = query.clone()
        chosen = indices(range(query.shape[0]) if rows is None else rows, query.device)
        part = query if queries is None else query[:, :, queries]  # a view
        part[chosen[:, None], indices(heads, query.device)] = query.new_zeros(())
        return delegate(module, query, key, value, attention_mask, **kwargs)

    return attention


def bake_mask(
    loaded: LoadedModel, heads: Sequence[Head], output: str | os.PathLike[str], *, provenance: dict | None = None
) -> Path:
    """Write an ordinary checkpoint with some heads zeroed for good (RetMask), so any engine can run it.

    Equal to [`mask_heads`] in mode `"zero"`, bit for bit. The loaded model is unchanged afterwards.

    Args:
        loaded ([`LoadedModel`]): model and tokenizer to copy.
        heads (`Sequence[tuple[int, int]]`): heads to zero.
        output (`str` or `PathLike`): folder to make; written under a temporary name and renamed.
        provenance (`dict`, *optional*): kept in `faithgen_mask.json` beside the list of heads.

    Returns:
        `Path` of the folder.

    Raises:
        FaithgenError: If the folder exists and is not empty, cannot be written, or a head is out of range or in a layer
            without full attention.
    """
    target = Path(output)
    model: Any = loaded.model
    shape = hf.head_shape(model)
    check_range(heads, shape.num_layers, shape.num_heads)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FaithgenError(f"{str(target)!r} exists already; choose another --output")
    modules = hf.attention_modules(model)
    missing = sorted(set(by_layer(heads)) - set(modules))
    if missing:
        raise FaithgenError(f"layers {missing} have no full attention, their heads cannot be masked; choose others")
    saved = {}
    temporary = None
    try:
        for layer, chosen in by_layer(heads).items():
            projection: Any = hf.output_projection(modules[layer])
            saved[layer] = projection.weight.detach().clone()
            width = hf.projection_in_features(projection) // shape.num_heads
            for head in chosen:
                hf.zero_projection_inputs(projection, head * width, (head + 1) * width)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        os.chmod(temporary, 0o755)
        model.save_pretrained(temporary)
        loaded.tokenizer.save_pretrained(temporary)
        record = {"model_id": loaded.model_id, "revision": loaded.revision, "heads": [list(head) for head in heads]}
        (temporary / "faithgen_mask.json").write_text(json.dumps({**record, **(provenance or {})}, indent=1))
        if target.exists():
            target.rmdir()
        temporary.rename(target)
    except OSError as error:
        raise FaithgenError(f"cannot write {str(target)!r} ({error.strerror}); choose another --output") from error
    finally:
        with torch.no_grad():
            for layer, weight in saved.items():
                projection = hf.output_projection(modules[layer])
                projection.weight.copy_(weight)
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    return target
