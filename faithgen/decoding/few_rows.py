"""Linear layers in a compiled step on a CPU: for a few rows, dot products that Inductor writes out and fuses.

A step of one question multiplies one or two rows (the branches) by every weight, and reading the weights is all the work.
The library's matrix product is made for many rows: it re-orders the weights in each call. Written as sums of products, the
weights are read once for all rows, as they lie, and what follows is done in the same loop.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

MAX_ROWS = 4
"""Rows up to which the dot products take no longer than the library (half precision; in float32 they take half as long)."""


def inductor_for_few_rows(graph: fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
    """A backend of `torch.compile`: Inductor, after [`write_out_linears`]."""
    write_out_linears(graph)
    return torch._dynamo.lookup_backend("inductor")(graph, inputs)


def write_out_linears(graph: fx.GraphModule) -> int:
    """Put [`dot_products`] in place of the linear layers of few rows in a graph of Dynamo's.

    Returns:
        `int`: layers that were replaced.
    """
    found = [
        node
        for node in graph.graph.find_nodes(op="call_function", target=torch._C._nn.linear)
        if node.args[0].meta["example_value"].shape[:-1].numel() <= MAX_ROWS
    ]
    for node in found:
        node.target = dot_products
    graph.recompile()
    return len(found)


def dot_products(states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`torch.nn.functional.linear`, summed in float32.

    Args:
        states (`torch.Tensor` of shape `[..., in]`), weight (`torch.Tensor` of shape `[out, in]`), bias (`[out]`)
    """
    flat = states.flatten(0, -2).contiguous()
    count, width = flat.shape
    # By strides: Inductor then keeps the states in memory and does not compute the norm before them anew for each output.
    rows = [flat.as_strided((width,), (1,), row * width).float() for row in range(count)]
    read = weight.float()
    output = torch.stack([(row * read).sum(-1) for row in rows])
    if bias is not None:
        output = output + bias
    return output.to(states.dtype).view(*states.shape[:-1], -1)
