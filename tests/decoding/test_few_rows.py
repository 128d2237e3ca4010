"""Linear layers of few rows, written out: the library's values, and only where a CPU is the faster for it."""

import pytest
import torch
from torch import nn

from faithgen.decoding import compiled as compiled_module
from faithgen.decoding.few_rows import MAX_ROWS, dot_products, inductor_for_few_rows, write_out_linears


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows", [(1,), (1, 1), (2, 1), (2, 2)])
@pytest.mark.parametrize("bias", [False, True])
def test_sums_of_products_are_the_layer(dtype, rows, bias):
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(*rows, 24, generator=generator).to(dtype)
    weight = torch.randn(40, 24, generator=generator).to(dtype)
    given = torch.randn(40, generator=generator).to(dtype) if bias else None
    found = dot_products(states, weight, given)
    exact = nn.functional.linear(states.double(), weight.double(), None if given is None else given.double())
    assert (found.dtype, found.shape) == (dtype, (*rows, 40))
    torch.testing.assert_close(found, exact.to(dtype))


def test_states_may_lie_as_they_like():
    states, weight = torch.randn(3, 24, 2).mT, torch.randn(40, 24)
    torch.testing.assert_close(dot_products(states, weight), nn.functional.linear(states, weight))


def graph_of(layer, states):
    """The graph of a layer as a backend gets it, and its output after [`write_out_linears`], with the number replaced."""
    seen = []

    def backend(graph, inputs):
        seen.append((graph, write_out_linears(graph)))
        return graph.forward

    torch._dynamo.reset()
    output = torch.compile(layer, backend=backend, dynamic=False, fullgraph=True)(states)
    ((graph, replaced),) = seen
    return graph, replaced, output


@pytest.mark.parametrize(
    ("shape", "replaced"),
    [((1, 1, 16), 2), ((2, 2, 16), 2), ((MAX_ROWS, 1, 16), 2), ((MAX_ROWS + 1, 1, 16), 0), ((1, 7, 16), 0)],
)
def test_layers_of_few_rows_are_written_out(shape, replaced):
    torch.manual_seed(0)
    layer, states = nn.Sequential(nn.Linear(16, 12), nn.GELU(), nn.Linear(12, 5, bias=False)), torch.randn(shape)
    with torch.inference_mode():
        graph, found, output = graph_of(layer, states)
        torch.testing.assert_close(output, layer(states))
    targets = [node.target for node in graph.graph.nodes if node.op == "call_function"]
    assert (found, targets.count(dot_products)) == (replaced, replaced)
    assert targets.count(torch._C._nn.linear) == 2 - replaced


@pytest.mark.parametrize(
    ("device", "expected"),
    [("cpu", {"backend": inductor_for_few_rows}), ("cuda", {"mode": "reduce-overhead"}), ("mps", {})],
)
def test_each_device_has_its_way(monkeypatch, device, expected):
    """A GPU's graphs need no other linear layers: it reads its weights as fast as they come."""
    asked = {}
    monkeypatch.setattr(torch, "compile", lambda function, **options: asked.update(options))
    compiled_module._compiled(torch.device(device))
    assert asked == {**expected, "dynamic": False, "fullgraph": True}
