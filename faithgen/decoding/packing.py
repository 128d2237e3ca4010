"""Weights of linear layers laid out once for oneDNN, so that a decoding step on a CPU reads them and does not re-order them.

A step multiplies one or two rows (the branches) by every weight. PyTorch hands the weights to oneDNN as they lie, which
packs them anew at each call: two rows then cost twice one row, although the weights are read once. Packed before, two rows
cost what one does, and one costs less than before. The copy takes the memory of the weights once more.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from faithgen.machine import free_memory

MAX_ROWS = 32
"""Rows up to which the packed weights are used; a prefill has more and gains nothing."""
MEMORY_SHARE = 0.25
"""Most of the free memory that the copies may take."""
_DTYPES = (torch.float32, torch.bfloat16)
_SAMPLES = 256

_packed: weakref.WeakKeyDictionary[nn.Module, list[_Packed]] = weakref.WeakKeyDictionary()


@contextlib.contextmanager
def packed_linears(model: nn.Module) -> Iterator[int]:
    """Run the linear layers of a model on packed weights; everything is put back on leaving.

    They are packed at the first use and kept as long as the model. They serve in inference mode only, for at most 32 rows,
    and while a layer's weight is the one that was packed; anything else goes the ordinary way, until [`refresh_packed`]
    packs it anew. Nothing is packed on a GPU, in other dtypes than float32 and bfloat16, without oneDNN, or where a quarter
    of the free memory would not hold the copies.

    Yields:
        `int`: layers that run on packed weights.
    """
    if model not in _packed:
        _packed[model] = _pack(model)
    entered = [one for one in _packed[model] if "forward" not in vars(one.layer)]  # another's hook goes first
    for one in entered:
        vars(one.layer)["forward"] = one
    try:
        yield len(entered)
    finally:
        for one in entered:
            vars(one.layer).pop("forward", None)


def refresh_packed(model: nn.Module) -> int:
    """Pack again the layers whose weight is another than the one that was packed; called when a decoder is made.

    A changed version or place of the weight is seen, and so is a change that leaves both alone (`weight.data += ...`, as
    adapters are merged), by 256 values over the whole weight: an edit that touches none of them is not.

    Returns:
        `int`: layers packed anew; 0 if the model was never packed.
    """
    layers = _packed.get(model, [])
    changed = [i for i, one in enumerate(layers) if one.is_stale()]
    for i in changed:
        if _fits(layers[i].layer):
            layers[i] = _Packed(layers[i].layer)
    return len(changed)


def _pack(model: nn.Module) -> list[_Packed]:
    layers: list[Any] = [module for module in model.modules() if _fits(module)]
    needed = sum(layer.weight.numel() * layer.weight.element_size() for layer in layers)
    if not layers or not _available() or needed > MEMORY_SHARE * free_memory():
        return []
    return [_Packed(layer) for layer in layers]


class _Packed:
    """The forward of one linear layer."""

    def __init__(self, layer: nn.Linear):
        self.layer, self.features = layer, layer.in_features
        self.weight, self.version, self.place = layer.weight, layer.weight._version, layer.weight.data_ptr()
        self.sample = self._sampled()
        with torch.no_grad():
            self.packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), 2)

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        layer = self.layer
        if (
            torch.is_inference_mode_enabled()
            and states.numel() <= MAX_ROWS * self.features
            and self._is_packed()
            and states.dtype == self.packed.dtype
            and states.device.type == "cpu"
        ):
            return torch.ops.mkldnn._linear_pointwise(states, self.packed, layer.bias, "none", [], "")
        return nn.functional.linear(states, layer.weight, layer.bias)

    def is_stale(self) -> bool:
        """Whether the weight is, as far as can be seen, another than the packed one."""
        return not self._is_packed() or not torch.equal(self._sampled(), self.sample)

    def _is_packed(self) -> bool:
        weight = self.layer.weight
        return weight is self.weight and weight._version == self.version and weight.data_ptr() == self.place

    def _sampled(self) -> torch.Tensor:
        values = self.layer.weight.detach().flatten()
        return values[:: max(1, values.numel() // _SAMPLES) | 1].clone()  # odd: not one column again and again


def _fits(module: Any) -> bool:
    return (
        type(module) is nn.Linear
        and module.weight.device.type == "cpu"
        and module.weight.dtype in _DTYPES
        and not module.weight.is_inference()
    )


def _available() -> bool:
    """Whether this PyTorch has the operators (they are Inductor's) and they compute what they should."""
    if not torch.backends.mkldnn.is_available():
        return False
    try:
        weight, states = torch.arange(12.0).view(3, 4), torch.ones(1, 4)
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, 2)
        found = torch.ops.mkldnn._linear_pointwise(states, packed, None, "none", [], "")
    except (AttributeError, RuntimeError):
        return False
    return torch.allclose(found, states @ weight.T)
