"""The least time that a machine allows for a prefill or a decoding step, by what it was seen to copy and multiply."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

_QUEUED = 20
"""Tasks that a GPU is given before it is waited for."""


@dataclass(frozen=True)
class Roofline:
    """The least time that a machine allows, by what it was seen to do.

    Attributes:
        bandwidth (`float`): bytes a second that a large copy reads and writes.
        rate (`float`): floating-point operations a second of a large matrix product.
    """

    bandwidth: float
    rate: float

    @classmethod
    def of(cls, model: Any) -> Roofline:
        """Measured on the model's device, in its dtype."""
        return cls(copy_bandwidth(model.device), matrix_rate(model.device, model.dtype))

    def prefill(self, model: Any, tokens: float, depth: float = 1.0, attention: bool = True) -> float:
        """Seconds for this share of the layers: the arithmetic, or the reading of the weights, whichever takes longer."""
        arithmetic = prefill_operations(model, tokens, depth, attention) / self.rate
        return max(arithmetic, depth * linear_bytes(model) / self.bandwidth)

    def step(self, model: Any, tokens: float) -> float:
        """Seconds for a decoding step of one row after so many tokens."""
        return step_bytes(model, tokens) / self.bandwidth


def copy_bandwidth(device: Any) -> float:
    """Bytes a second that a large copy reads and writes, median of 5."""
    source = torch.ones(2**28, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / seconds_of(lambda: target.copy_(source), device)


def matrix_rate(device: Any, dtype: Any) -> float:
    """Floating-point operations a second of a large matrix product, median of 5."""
    size = 2048 if str(device) == "cpu" else 8192
    first, second = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / seconds_of(lambda: first @ second, device)


def linear_bytes(model: Any) -> float:
    """Bytes of the weights of all linear layers."""
    return sum(m.weight.numel() * m.weight.element_size() for m in model.modules() if isinstance(m, nn.Linear))


def step_bytes(model: Any, tokens: float, rows: int = 1) -> float:
    """Bytes that one decoding step has to read: every weight of a linear layer once, and the keys and values."""
    return linear_bytes(model) + rows * tokens * kv_bytes(model)


def kv_bytes(model: Any) -> float:
    """Bytes of a token's keys and values in all layers."""
    config = model.config
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * config.num_key_value_heads * width * model.dtype.itemsize


def prefill_operations(model: Any, tokens: float, depth: float = 1.0, attention: bool = True) -> float:
    """Floating-point operations of a prefill through this share of the layers: weights and, if asked, causal attention."""
    config = model.config
    inner = [
        m.weight.numel() for name, m in model.named_modules() if isinstance(m, nn.Linear) and "lm_head" not in name
    ]
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    attended = 2 * config.num_hidden_layers * config.num_attention_heads * width * tokens**2 if attention else 0
    return depth * (2 * sum(inner) * tokens + attended)


def seconds_of(task: Callable[[], Any], device: Any) -> float:
    """Seconds of a task, median of 5. A GPU gets 20 of them at a time: of one, the launch and the wait count as well."""
    times = []
    for _ in range(6):
        if torch.device(device).type == "cuda":
            first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            first.record()
            for _ in range(_QUEUED):
                task()
            last.record()
            torch.cuda.synchronize()
            times.append(first.elapsed_time(last) / 1000 / _QUEUED)
        else:
            started = time.perf_counter()
            task()
            times.append(time.perf_counter() - started)
    return statistics.median(times[1:])
