import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from faithgen import hf
from faithgen.errors import FaithgenError
from faithgen.heads.ablation import bake_mask, mask_heads
from faithgen.heads.capture import AttentionCapture
from faithgen.heads.head_set import HeadSet
from faithgen.models import LoadedModel
from tests import tiny

FAMILIES = [tiny.llama, tiny.qwen3, tiny.gpt2, tiny.gemma3]
HEADS = [(3, 5), (1, 0), (1, 7)]


def tokens(length: int = 24, batch: int = 1) -> torch.Tensor:
    return torch.randint(5, 500, (batch, length), generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def logits(model, ids, **inputs):
    return model(input_ids=ids, **inputs).logits


@torch.inference_mode()
def masked(model, ids, heads=HEADS, **options):
    with mask_heads(model, heads, **options):
        return logits(model, ids)


# --- the mask --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_masked_head_adds_nothing(family):
    """The reference zeroes the value states' share of the head in the attention output itself."""
    model, ids = family(), tokens()

    def silence(module, *arguments, delegate, **kwargs):
        output, weights = delegate(module, *arguments, **kwargs)  # [B, Q, H, D]
        output = output.clone()
        for layer, head in HEADS:
            if layer == module.layer_idx:
                output[:, :, head] = 0
        return output, weights

    before = logits(model, ids)
    with hf.attached(model, {1: silence, 3: silence}):
        wanted = logits(model, ids)
    assert torch.equal(masked(model, ids), wanted)
    assert not torch.allclose(wanted, before, atol=1e-5)
    assert torch.equal(logits(model, ids), before), "the mask is gone afterwards"


@pytest.mark.parametrize("mode", ["zero", "uniform"])
def test_each_head_counts(mode):
    model, ids = tiny.llama(), tokens()
    seen = [masked(model, ids, heads, mode=mode) for heads in ([(1, 0)], [(1, 1)], [(2, 0)], [(1, 0), (1, 1)])]
    for i, one in enumerate(seen):
        assert not any(torch.equal(one, other) for other in seen[:i])


def test_masking_no_head_changes_nothing():
    model, ids = tiny.llama(), tokens()
    for mode in ("zero", "uniform"):
        assert torch.equal(masked(model, ids, [], mode=mode), logits(model, ids))


@pytest.mark.parametrize("mode", ["zero", "uniform"])
@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_chosen_rows_are_masked(family, mode):
    model, ids = family(), tokens(batch=3)
    plain, all_rows, one = logits(model, ids), masked(model, ids, mode=mode), masked(model, ids, rows=[1], mode=mode)
    assert torch.equal(one[[0, 2]], plain[[0, 2]])
    assert torch.equal(one[1], all_rows[1])
    assert not torch.allclose(one[1], plain[1], atol=1e-5)
    two = masked(model, ids, rows=[2, 0], mode=mode)
    assert torch.equal(two[[0, 2]], all_rows[[0, 2]])
    assert torch.equal(two[1], plain[1])


@pytest.mark.parametrize("mode", ["zero", "uniform"])
@torch.inference_mode()
def test_decoding_step_by_step_is_masked_alike(mode):
    model, ids, cache = tiny.llama(), tokens(), hf.new_cache()
    with mask_heads(model, HEADS, mode=mode):
        steps = [model(input_ids=part, past_key_values=cache).logits for part in ids.split([20, 1, 1, 2], dim=1)]
    assert torch.allclose(torch.cat(steps, dim=1), masked(model, ids, mode=mode), atol=1e-5)


def test_a_uniform_head_attends_evenly_to_what_it_may_see():
    """By hand, in one layer: the head's output at row i is the mean of the values up to i."""
    model, ids, seen = tiny.llama(num_hidden_layers=1), tokens(10), {}

    def record(module, query, key, value, attention_mask, *, delegate, **kwargs):
        seen["value"] = value
        output, weights = delegate(module, query, key, value, attention_mask, **kwargs)
        seen["output"] = output
        return output, weights

    with hf.attached(model, {0: record}), mask_heads(model, [(0, 5)], mode="uniform"):
        logits(model, ids)
    value = seen["value"][0, 5 // 4]  # 8 query heads over 2 value heads
    mean = value.cumsum(0) / torch.arange(1, 11)[:, None]
    assert torch.allclose(seen["output"][0, :, 5], mean, atol=1e-6)
    assert not torch.allclose(seen["output"][0, :, 4], mean, atol=1e-6), "its neighbour is left alone"


def test_uniform_attention_sees_no_padding():
    model, ids, seen = tiny.llama(num_hidden_layers=1), tokens(10), {}
    mask = torch.ones_like(ids)
    mask[:, :4] = 0

    def record(module, query, key, value, attention_mask, *, delegate, **kwargs):
        output, weights = delegate(module, query, key, value, attention_mask, **kwargs)
        seen.update(output=output, value=value)
        return output, weights

    with hf.attached(model, {0: record}), mask_heads(model, [(0, 0)], mode="uniform"):
        logits(model, ids, attention_mask=mask)
    assert torch.allclose(seen["output"][0, 9, 0], seen["value"][0, 0, 4:].mean(0), atol=1e-6)


@pytest.mark.parametrize("mode", ["zero", "uniform"])
def test_masks_are_removed_after_an_exception(mode):
    model, ids = tiny.llama(), tokens()
    before = logits(model, ids)

    def fail():
        with mask_heads(model, HEADS, mode=mode):
            raise KeyError("x")

    with pytest.raises(KeyError):
        fail()
    assert torch.equal(logits(model, ids), before)
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert model.config._attn_implementation == "sdpa"


def test_masks_and_captures_combine():
    """A masked head is still read: its attention is what it was, in the lowest masked layer."""
    model, ids = tiny.llama(), tokens()
    with torch.inference_mode(), AttentionCapture(model, [(1, 0)]) as plain:
        model(ids)
    with torch.inference_mode(), mask_heads(model, HEADS), AttentionCapture(model, [(1, 0)]) as capture:
        masked_logits = model(ids).logits
    assert torch.equal(capture.result(), plain.result())
    assert torch.equal(masked_logits, masked(model, ids))


@pytest.mark.parametrize("head", [(4, 0), (0, 8), (-1, 0), (0, -1)])
def test_heads_out_of_range(head, tiny_loaded, tmp_path):
    with pytest.raises(FaithgenError, match=f"head {head[0]}-{head[1]} is out of range"):
        masked(tiny_loaded.model, tokens(), [(0, 0), head])
    with pytest.raises(FaithgenError, match="is out of range"):
        bake_mask(tiny_loaded, [head], tmp_path / "baked")
    assert list(tmp_path.iterdir()) == []


def test_heads_of_sliding_layers_cannot_be_masked(byte_level, tmp_path):
    model = tiny.gemma3()
    with pytest.raises(ValueError, match=r"layers \[0\] have no full attention"):
        masked(model, tokens(), [(0, 0), (1, 0)])
    with pytest.raises(FaithgenError, match=r"layers \[0\] have no full attention"):
        bake_mask(LoadedModel(model, byte_level, "g", "0"), [(0, 0), (1, 0)], tmp_path / "baked")
    assert list(tmp_path.iterdir()) == []


def test_the_random_control_masks_as_many_other_heads():
    scores = [[(layer * 8 + head) / 32 for head in range(8)] for layer in range(4)]
    heads = HeadSet(scores, "copying", "tiny")
    chosen, control = heads.top(6), heads.random_like(1).top(6)
    assert len(set(control)) == 6
    assert set(control) != set(chosen)
    model, ids = tiny.llama(), tokens()
    assert not torch.equal(masked(model, ids, control), masked(model, ids, chosen))


# --- baked into a checkpoint -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_baked_checkpoint_equals_the_mask_bit_for_bit(family, byte_level, tmp_path):
    loaded, ids = LoadedModel(family(), byte_level, "org/tiny", "abc"), tokens(batch=2)
    before = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    plain = logits(loaded.model, ids)

    folder = bake_mask(loaded, HEADS, tmp_path / "new" / "baked", provenance={"method": "copying"})

    baked = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    assert torch.equal(logits(baked, ids), masked(loaded.model, ids))
    assert not torch.equal(logits(baked, ids), plain)
    assert all(torch.equal(tensor, before[name]) for name, tensor in loaded.model.state_dict().items())
    assert torch.equal(logits(loaded.model, ids), plain)
    assert AutoTokenizer.from_pretrained(folder)("a ferry")["input_ids"] == byte_level("a ferry")["input_ids"]
    assert json.loads((folder / "faithgen_mask.json").read_text()) == {
        "model_id": "org/tiny",
        "revision": "abc",
        "heads": [list(head) for head in HEADS],
        "method": "copying",
    }
    assert [path.name for path in folder.parent.iterdir()] == ["baked"]


def test_an_empty_folder_may_be_filled(tiny_loaded, tmp_path):
    folder = tmp_path / "baked"
    folder.mkdir()
    bake_mask(tiny_loaded, HEADS, folder)
    assert (folder / "config.json").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["baked"]


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_exists_is_not_written_over(tiny_loaded, tmp_path, kind):
    target = tmp_path / "baked"
    if kind == "folder":
        target.mkdir()
    kept = target / "mine.txt" if kind == "folder" else target
    kept.write_text("mine")
    with pytest.raises(FaithgenError, match="exists already; choose another --output"):
        bake_mask(tiny_loaded, HEADS, target)
    assert kept.read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["baked"]


def test_a_place_that_cannot_be_written(tiny_loaded, tmp_path):
    (tmp_path / "file").write_text("")
    before = tiny_loaded.model.state_dict()["model.layers.1.self_attn.o_proj.weight"].clone()
    with pytest.raises(FaithgenError, match=r"cannot write .*choose another --output"):
        bake_mask(tiny_loaded, HEADS, tmp_path / "file" / "baked")
    assert torch.equal(tiny_loaded.model.state_dict()["model.layers.1.self_attn.o_proj.weight"], before)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), MemoryError()])
def test_nothing_half_written_stays_after_an_error(tiny_loaded, tmp_path, monkeypatch, error):
    before = {name: tensor.clone() for name, tensor in tiny_loaded.model.state_dict().items()}

    def fails_midway(folder, **_):
        (folder / "half.safetensors").write_text("half")
        raise error

    monkeypatch.setattr(tiny_loaded.model, "save_pretrained", fails_midway)
    expected = FaithgenError if isinstance(error, OSError) else MemoryError
    with pytest.raises(expected, match="No space left" if isinstance(error, OSError) else None):
        bake_mask(tiny_loaded, HEADS, tmp_path / "baked")
    assert list(tmp_path.iterdir()) == []
    assert all(torch.equal(tensor, before[name]) for name, tensor in tiny_loaded.model.state_dict().items())
