import copy
import gc

import pytest
import torch
from torch import nn

from faithgen.decoding import packing
from faithgen.decoding.contrast import ContrastConfig
from faithgen.decoding.engine import PairDecoder, PairPrompt
from faithgen.decoding.packing import packed_linears
from tests import tiny

pytestmark = pytest.mark.skipif(not packing._available(), reason="this PyTorch has no oneDNN operators")


NONE = ContrastConfig(source="none")


def tokens(rows=2, length=1):
    return torch.randint(5, 500, (rows, length), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model():
    return tiny.llama()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral", "gemma3"])
def test_logits_are_the_same_to_rounding(family, dtype):
    model = getattr(tiny, family)().to(dtype)
    with torch.inference_mode():
        expected = model(tokens()).logits
        with packed_linears(model) as count:
            found = model(tokens()).logits
    assert count == sum(type(module) is nn.Linear for module in model.modules())
    torch.testing.assert_close(found, expected, atol=1e-5 if dtype == torch.float32 else 0.1, rtol=1e-2)


def test_the_model_is_as_before_afterwards(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def fail():
        with packed_linears(model):
            assert any("forward" in vars(module) for module in model.modules())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not any("forward" in vars(module) for module in model.modules())
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    copy.deepcopy(model)


def test_weights_are_packed_once(model, monkeypatch):
    packed = []
    real = packing._pack
    monkeypatch.setattr(packing, "_pack", lambda model: packed.append(model) or real(model))
    for _ in range(3):
        with packed_linears(model) as count, packed_linears(model) as inner:
            assert count > 0
            assert inner == 0, "an inner context leaves the outer one's"
    assert packed == [model]


def test_another_s_forward_is_left_alone():
    one = nn.Linear(8, 4)
    holder = nn.Sequential(one)
    with packed_linears(holder) as count:
        assert count == 1
    own = one.forward = lambda states: states
    with packed_linears(holder) as count:
        assert count == 0
        assert one.forward is own
    assert one.forward is own


@pytest.fixture
def calls(monkeypatch):
    """Calls of the packed operator."""
    made = []
    real = torch.ops.mkldnn._linear_pointwise

    class Operators:
        _reorder_linear_weight = torch.ops.mkldnn._reorder_linear_weight

        @staticmethod
        def _linear_pointwise(states, *arguments):
            made.append(tuple(states.shape))
            return real(states, *arguments)

    monkeypatch.setattr(torch.ops, "mkldnn", Operators)
    return made


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("rows", "used"), [(1, True), (packing.MAX_ROWS, True), (packing.MAX_ROWS + 1, False)])
def test_only_few_rows_take_the_packed_way(calls, rows, used, bias):
    one = nn.Sequential(nn.Linear(8, 4, bias=bias))
    states = torch.randn(rows, 8)
    with torch.inference_mode(), packed_linears(one):
        calls.clear()
        found = one(states)
    assert bool(calls) == used
    torch.testing.assert_close(found, nn.functional.linear(states, one[0].weight, one[0].bias))


def test_training_and_no_grad_take_the_ordinary_way(calls):
    one = nn.Sequential(nn.Linear(8, 4))
    with packed_linears(one):
        calls.clear()
        with torch.no_grad():
            one(torch.randn(1, 8))
        one(torch.randn(1, 8)).sum().backward()
    assert not calls
    assert one[0].weight.grad is not None


CHANGES = {
    "in place": lambda layer: layer.weight.mul_(3),
    "exchanged": lambda layer: setattr(layer, "weight", nn.Parameter(torch.randn(4, 8))),
    "other storage": lambda layer: setattr(layer.weight, "data", torch.randn(4, 8)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_weight_is_not_answered_from_the_old_one(calls, change):
    one = nn.Sequential(nn.Linear(8, 4))
    packed_layers(one)
    with torch.no_grad():
        CHANGES[change](one[0])
    states = torch.randn(1, 8)
    with torch.inference_mode(), packed_linears(one):
        calls.clear()
        found = one(states)
    assert not calls
    torch.testing.assert_close(found, nn.functional.linear(states, one[0].weight, one[0].bias))


# `.data` is how PEFT merges an adapter: neither the version nor the place of the weight changes
@pytest.mark.parametrize(
    "change", [*CHANGES.values(), lambda layer: layer.weight.data.__iadd__(0.25)], ids=[*CHANGES, "data"]
)
def test_a_changed_weight_is_packed_anew_for_the_next_decoder(calls, change):
    one = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 4))
    packed_layers(one)
    assert packing.refresh_packed(one) == 0
    with torch.no_grad():
        change(one[0])
    assert packing.refresh_packed(one) == 1
    states = torch.randn(1, 8)
    with torch.inference_mode(), packed_linears(one):
        calls.clear()
        found = one[0](states)
    assert calls
    torch.testing.assert_close(found, nn.functional.linear(states, one[0].weight, one[0].bias))
    assert packing.refresh_packed(one) == 0


def test_a_layer_that_left_the_cpu_or_the_dtype_takes_the_ordinary_way(calls):
    one = nn.Sequential(nn.Linear(8, 4))
    packed_layers(one)
    one.to(torch.float16)
    packing.refresh_packed(one)
    with torch.inference_mode(), packed_linears(one):
        calls.clear()
        assert one(torch.randn(1, 8, dtype=torch.float16)).dtype == torch.float16
    one.to("meta")
    packing.refresh_packed(one)
    with torch.inference_mode(), packed_linears(one):
        assert one(torch.randn(1, 8, dtype=torch.float16, device="meta")).device.type == "meta"
    assert not calls


def test_a_merged_adapter_answers_from_its_own_weights(model):
    """A decoder packs, the weights change as PEFT changes them, the next decoder gives the new model's tokens."""

    def decode():
        prompt = PairPrompt(tokens(1, 12)[0].tolist())
        return [
            row.token for rows in PairDecoder(model, [prompt], NONE, max_new_tokens=8, end_tokens=[]) for row in rows
        ]

    before = decode()
    for layer in model.model.layers:
        layer.mlp.down_proj.weight.data += torch.randn_like(layer.mlp.down_proj.weight)
    after = decode()
    packing._packed.pop(model)
    assert after == decode() != before


def packed_layers(model):
    with packed_linears(model) as count:
        return count


def test_nothing_is_packed_where_memory_is_short(model, monkeypatch):
    monkeypatch.setattr(packing, "free_memory", lambda: 1000.0)
    assert packed_layers(model) == 0


def test_nothing_is_packed_without_the_operators(model, monkeypatch):
    monkeypatch.setattr(torch.ops, "mkldnn", object())
    assert packed_layers(model) == 0


def test_half_precision_is_left_alone():
    assert packed_layers(tiny.llama().to(torch.float16)) == 0


def test_a_model_that_is_gone_leaves_nothing_behind():
    before = len(packing._packed)
    packed_layers(tiny.llama())
    gc.collect()
    assert len(packing._packed) == before
