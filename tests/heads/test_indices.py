"""Steps that mask and watch heads make no tensor from the host and read none back: a GPU would be waited for each time."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from faithgen import hf
from faithgen.decoding.branches import BranchModel, PairPrompt
from faithgen.decoding.tree import TreeBranches
from faithgen.heads.ablation import mask_heads
from faithgen.heads.capture import AttentionCapture
from faithgen.heads.indices import indices
from tests import tiny

WAITS = ("aten.lift_fresh.default", "aten._local_scalar_dense.default")
HEADS = [(0, 1), (0, 6), (2, 3)]


class Waits(TorchDispatchMode):
    """Counts what makes a tensor of Python's numbers, or numbers of a tensor."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        self.count += str(function) in WAITS
        return function(*arguments, **(keywords or {}))


def waits(run):
    run()  # what is made once
    with Waits() as found:
        run()
    return found.count


@pytest.mark.parametrize("mode", ["zero", "uniform"])
@pytest.mark.parametrize("rows", [None, range(1, 2)])
@pytest.mark.parametrize("queries", [None, slice(0, None, 2)])
def test_masking_and_watching_wait_for_nothing(mode, rows, queries):
    model, ids = tiny.llama(), torch.randint(5, 500, (2, 6), generator=torch.Generator().manual_seed(0))

    @torch.inference_mode()
    def masked():
        with mask_heads(model, HEADS, rows=rows, queries=queries, mode=mode):
            model(ids)

    @torch.inference_mode()
    def watched():
        with AttentionCapture(model, HEADS) as capture:
            model(ids)
        capture.result()

    @torch.inference_mode()
    def plain():
        with hf.attached(model, {}):
            model(ids)

    assert waits(masked) == waits(watched) == waits(plain)


def test_a_step_of_a_tree_waits_for_nothing():
    model, ids = tiny.llama(), list(range(5, 25))
    through = BranchModel(model, masked_heads=HEADS, watched_heads=HEADS)
    plain = BranchModel(model)
    found = []
    with torch.inference_mode():
        for one in (through, plain):
            tree = TreeBranches.read(one, PairPrompt(ids, list(ids), documents=[(1, 9)]))
            found.append(waits(lambda tree=tree: tree.advance(torch.ones(1, dtype=torch.long))))
    assert found == [0, 0]


def test_indices_are_made_once_and_may_take_part_in_training():
    with torch.inference_mode():
        first = indices([2, 0], torch.device("cpu"), 3)
    assert first.tolist() == [6, 7, 8, 0, 1, 2]
    assert indices((2, 0), torch.device("cpu"), 3) is first
    weight = torch.randn(9, requires_grad=True)
    weight[first].square().sum().backward()
    assert torch.allclose(weight.grad[first], 2 * weight[first])
