import copy
import inspect

import pytest
import torch
import transformers
from packaging.version import Version
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, GenerationConfig
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, causal_mask_function
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from faithgen import hf
from faithgen.heads.capture import AttentionCapture
from faithgen.hf import attention
from tests import tiny

FAMILIES = [tiny.llama, tiny.qwen3, tiny.mistral, tiny.gemma3, tiny.gpt2]


def tokens(length: int, seed: int = 0, batch: int = 1) -> torch.Tensor:
    return torch.randint(5, 500, (batch, length), generator=torch.Generator().manual_seed(seed))


def pass_through(module, query, key, value, attention_mask, *, delegate, **kwargs):
    return delegate(module, query, key, value, attention_mask, **kwargs)


@torch.inference_mode()
def logits(model, ids, **inputs):
    return model(input_ids=ids, **inputs).logits


# --- what transformers does not promise ------------------------------------------------------------------------------


def test_transformers_is_a_version_whose_private_names_are_known():
    version = Version(transformers.__version__)
    assert Version("5.16") <= version < Version("6"), "widen pyproject.toml only after this file passes"


def test_the_private_names_are_there():
    assert callable(AttentionInterface.register)
    assert callable(AttentionMaskInterface.register)
    for base in attention._NAMES.keys() - {"flash_attention_4"}:
        assert base == "eager" or base in ALL_ATTENTION_FUNCTIONS
        assert base in ALL_MASK_ATTENTION_FUNCTIONS
    model = tiny.llama()
    assert model.config._attn_implementation == "sdpa"
    assert callable(model.set_attn_implementation)
    layer = DynamicCache()
    layer.update(torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 3, 4), 0)
    assert layer.layers[0].is_initialized
    assert layer.layers[0].keys.shape == (1, 2, 3, 4)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_has_an_eager_attention_beside_it(family):
    model = family()
    for module in hf.attention_modules(model).values():
        function = inspect.getmodule(type(module)).eager_attention_forward
        assert list(inspect.signature(function).parameters)[:5] == [
            "module",
            "query",
            "key",
            "value",
            "attention_mask",
        ]


@pytest.mark.parametrize("base", attention._NAMES)
def test_registered_names_do_not_trip_substring_tests(base):
    assert not any(word in attention._NAMES[base] for word in ("flash", "sdpa", "flex_attention", "eager", "paged|"))


# --- shapes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "layers"), [(tiny.llama, [0, 1, 2, 3]), (tiny.gpt2, [0, 1, 2, 3])])
def test_all_layers_of_plain_models_are_listed(family, layers):
    assert list(hf.attention_modules(family())) == layers


def test_sliding_layers_of_gemma3_are_left_out():
    assert list(hf.attention_modules(tiny.gemma3())) == [1, 3]


def test_a_model_without_attention_is_an_error():
    model = tiny.llama()
    model.model.layers = nn.ModuleList()
    with pytest.raises(ValueError, match="no full-attention layer"):
        hf.attention_modules(model)


def test_head_shape_and_window():
    assert hf.head_shape(tiny.llama()) == hf.HeadShape(4, 8, 2)
    assert hf.head_shape(tiny.gpt2()) == hf.HeadShape(4, 8, 8)
    assert hf.context_window(tiny.llama()) == 1024
    assert hf.context_window(tiny.gpt2()) == 1024


def test_output_projection_of_gpt2_is_transposed():
    attention = hf.attention_modules(tiny.gpt2())[0]
    projection = hf.output_projection(attention)
    assert projection is attention.c_proj
    assert hf.projection_in_features(projection) == 64
    before = projection.weight.clone()
    hf.zero_projection_inputs(projection, 8, 16)
    assert not projection.weight[8:16].any()
    assert torch.equal(projection.weight[:8], before[:8])
    assert torch.equal(projection.weight[16:], before[16:])


def test_zeroing_a_linear_projection_zeroes_its_columns():
    projection = nn.Linear(6, 4)
    bias = projection.bias.clone()
    hf.zero_projection_inputs(projection, 2, 4)
    assert not projection.weight[:, 2:4].any()
    assert projection.weight[:, :2].all()
    assert torch.equal(projection.bias, bias)


def test_a_module_without_output_projection_is_an_error():
    with pytest.raises(ValueError, match="no output projection"):
        hf.output_projection(nn.Linear(2, 2))


# --- attached --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_attaching_changes_no_logit_and_is_undone(family, base):
    model, ids = family(), tokens(20)
    model.set_attn_implementation(base)
    before = logits(model, ids)
    with hf.attached(model, dict.fromkeys(hf.attention_modules(model), pass_through)):
        assert model.config._attn_implementation == attention._NAMES[base]
        assert torch.equal(logits(model, ids), before)
    assert model.config._attn_implementation == base
    assert not any(attention._attached.get(module) for module in model.modules())


def test_attaching_is_undone_after_an_exception():
    model, ids = tiny.llama(), tokens(12)
    before = logits(model, ids)

    def broken(*_, **__):
        raise KeyError("inside the attention")

    def attach_and_run():
        with hf.attached(model, {2: broken}):
            logits(model, ids)

    with pytest.raises(KeyError, match="inside the attention"):
        attach_and_run()
    assert model.config._attn_implementation == "sdpa"
    assert torch.equal(logits(model, ids), before)


def test_only_the_chosen_layers_are_called_and_the_function_decides_the_output():
    model, ids, called = tiny.llama(), tokens(12), []

    def halve(module, *arguments, delegate, **kwargs):
        called.append(module.layer_idx)
        output, weights = delegate(module, *arguments, **kwargs)
        return output * 0.5, weights

    before = logits(model, ids)
    with hf.attached(model, {1: halve, 3: halve}):
        changed = logits(model, ids)
    assert called == [1, 3]
    assert not torch.allclose(changed, before)


def test_contexts_nest_with_the_inner_one_first():
    model, ids, order = tiny.llama(), tokens(12), []

    def note(name):
        def function(module, *arguments, delegate, **kwargs):
            order.append(name)
            return delegate(module, *arguments, **kwargs)

        return function

    before = logits(model, ids)
    with hf.attached(model, {1: note("outer")}):
        with hf.attached(model, {1: note("inner"), 2: note("inner only")}):
            assert torch.equal(logits(model, ids), before)
        assert order == ["inner", "outer", "inner only"]
        order.clear()
        logits(model, ids)
        assert order == ["outer"]
        assert model.config._attn_implementation == attention._NAMES["sdpa"]
    assert model.config._attn_implementation == "sdpa"
    order.clear()
    logits(model, ids)
    assert order == []


def test_one_function_attached_twice_is_removed_once():
    model, called = tiny.llama(), []

    def count(module, *arguments, delegate, **kwargs):
        called.append(module.layer_idx)
        return delegate(module, *arguments, **kwargs)

    with hf.attached(model, {0: count}):
        with hf.attached(model, {0: count}):
            logits(model, tokens(5))
        logits(model, tokens(5))
    assert called == [0, 0, 0]


def test_two_models_are_attached_apart():
    first, second, called = tiny.llama(0), tiny.llama(1), []

    def count(module, *arguments, delegate, **kwargs):
        called.append(module)
        return delegate(module, *arguments, **kwargs)

    with hf.attached(first, {0: count}), hf.attached(second, {1: pass_through}):
        logits(second, tokens(5))
        assert called == []
        logits(first, tokens(5))
    assert called == [hf.attention_modules(first)[0]]


def test_sliding_layers_and_unknown_implementations_cannot_be_attached():
    model = tiny.gemma3()
    with pytest.raises(ValueError, match=r"layers \[0\]"), hf.attached(model, {0: pass_through, 1: pass_through}):
        pass
    model.config._attn_implementation = "sage"
    with pytest.raises(ValueError, match="'sage' cannot be wrapped"), hf.attached(model, {1: pass_through}):
        pass
    assert not any(attention._attached.get(module) for module in model.modules())


# --- masks -----------------------------------------------------------------------------------------------------------


def test_visible_reads_every_kind_of_mask_alike():
    rows, keys, queries = torch.tensor([[0, 2], [1, 3]]), 10, 4
    absolute = rows + 6
    seen = torch.arange(keys) <= absolute[:, :, None]
    seen[1, :, :2] = False  # the second row has two columns of padding
    wanted = torch.zeros(2, 1, 2, keys).masked_fill(~seen[:, None], -torch.inf)

    padding = torch.ones(2, keys, dtype=torch.long)
    padding[1, :2] = 0
    positions = torch.arange(6, 10)[:, None]
    allowed = (torch.arange(keys) <= positions)[None, None] & padding[:, None, None, :].bool()
    additive = torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)
    for mask in (padding, allowed, additive):
        assert torch.equal(hf.visible(mask, rows, keys, queries, None), wanted)
    assert torch.equal(hf.visible(None, rows[:1], keys, queries, None), wanted[:1])


def test_visible_keeps_the_values_of_an_additive_mask():
    bias = torch.randn(1, 1, 4, 6)
    assert torch.equal(hf.visible(bias, torch.tensor([[3, 1]]), 6, 4, None), bias[:, :, [3, 1]])


def test_visible_knows_the_sliding_window():
    seen = hf.visible(None, torch.tensor([[3]]), 10, 4, 3)[0, 0, 0]
    assert seen.isfinite().nonzero().flatten().tolist() == [7, 8, 9]


def test_visible_asks_a_block_mask_by_the_index_within_the_call():
    """transformers puts the offset of a chunk inside `mask_mod`."""
    from transformers.masking_utils import add_offsets_to_mask_function

    class Block:
        mask_mod = staticmethod(add_offsets_to_mask_function(causal_mask_function, 6, 0))

    seen = hf.visible(Block(), torch.tensor([[0, 3]]), 10, 4, None)
    assert torch.equal(seen, hf.visible(None, torch.tensor([[0, 3]]), 10, 4, None))


@pytest.mark.parametrize("family", [tiny.llama, tiny.qwen3, tiny.mistral, tiny.gemma3, tiny.gpt2])
@pytest.mark.parametrize("cached", [0, 25])
def test_a_zero_bias_gives_the_models_own_logits(family, cached):
    model, ids = family(), tokens(40)
    own = logits(model, ids)[:, cached:]
    cache = hf.new_cache()
    if cached:
        logits(model, ids[:, :cached], past_key_values=cache)
    mask = hf.biased_mask(model, torch.zeros(40 - cached, 40), torch.float32)
    assert isinstance(mask, dict) == (family is tiny.gemma3)
    biased = logits(model, ids[:, cached:], past_key_values=cache, attention_mask=mask)
    assert torch.allclose(biased, own, atol=1e-5)


@pytest.mark.parametrize(("family", "layer"), [(tiny.llama, 0), (tiny.mistral, 0), (tiny.gemma3, 1)])
def test_a_bias_multiplies_attention_before_it_is_renormalised(family, layer):
    """In the first layer that sees it; in gemma3 the columns are outside the window of layer 0."""
    model, ids, bias = family(), tokens(30), torch.zeros(30, 30)
    columns = slice(2, 6) if family is tiny.gemma3 else slice(16, 20)
    bias[25:, columns] = 1.5
    at, rows = [(layer, 2)], torch.arange(25, 30)
    with torch.inference_mode():
        with AttentionCapture(model, at, rows) as plain:
            model(ids)
        with AttentionCapture(model, at, rows) as steered:
            model(ids, attention_mask=hf.biased_mask(model, bias, torch.float32))
    wanted = plain.result() * bias[25:].exp()
    assert torch.allclose(steered.result(), wanted / wanted.sum(-1, keepdim=True), atol=1e-5)


def test_a_4d_mask_is_accepted_through_sdpa():
    model = tiny.llama()
    model.config._attn_implementation = "flex_attention"
    with hf.accepts_4d_mask(model):
        assert model.config._attn_implementation == "sdpa"
    assert model.config._attn_implementation == "flex_attention"
    for name in ("sdpa", "eager", *(attention._NAMES[base] for base in ("sdpa", "eager"))):
        model.config._attn_implementation = name
        with hf.accepts_4d_mask(model):
            assert model.config._attn_implementation == name


# --- caches ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_continuing_after_a_crop_equals_computing_afresh(family):
    model, ids, other = family(), tokens(40), tokens(12, seed=1)
    cache = hf.new_cache()
    logits(model, ids, past_key_values=cache)
    hf.crop_cache(cache, 22)
    assert cache.get_seq_length() == 22
    continued = logits(model, other, past_key_values=cache)
    afresh = logits(model, torch.cat([ids[:, :22], other], dim=1))[:, 22:]
    assert torch.allclose(continued, afresh, atol=1e-5)


def test_a_growing_cache_writes_in_place_and_holds_what_concatenating_would():
    model, ids = tiny.llama(), tokens(9 + 300)
    ours, own = hf.new_cache(), DynamicCache()
    with torch.inference_mode():
        for cache in (ours, own):
            model(ids[:, :9], past_key_values=cache)
        places = {ours.layers[0].keys.data_ptr()}
        for step in range(9, ids.shape[1]):
            for cache in (ours, own):
                model(ids[:, step : step + 1], past_key_values=cache)
            places.add(ours.layers[0].keys.data_ptr())
    assert len(places) == 2, "300 tokens need one move to a larger store"
    for mine, theirs in zip(ours.layers, own.layers, strict=True):
        assert torch.equal(mine.keys, theirs.keys)
        assert torch.equal(mine.values, theirs.values)


@pytest.mark.parametrize("change", ["repeat", "select", "crop"])
def test_a_growing_cache_keeps_its_rows_apart_after_a_change(change):
    model, ids, more = tiny.llama(), tokens(12, batch=2), tokens(3, seed=4, batch=2)
    cache = hf.new_cache()
    logits(model, ids, past_key_values=cache)
    seen = ids
    if change == "repeat":
        cache.batch_repeat_interleave(2)
        seen, more = ids.repeat_interleave(2, 0), tokens(3, seed=4, batch=4)
    elif change == "select":
        cache.batch_select_indices(torch.tensor([1]))
        seen, more = ids[1:], more[:1]
    else:
        hf.crop_cache(cache, 7)
        seen = ids[:, :7]
    got = logits(model, more, past_key_values=cache)
    afresh = logits(model, torch.cat([seen, more], dim=1))[:, seen.shape[1] :]
    assert torch.allclose(got, afresh, atol=1e-5)


def test_a_growing_cache_lets_gradients_through():
    model = tiny.llama()
    embeddings = model.get_input_embeddings()(tokens(6)).detach().requires_grad_()
    cache = hf.new_cache()
    model(inputs_embeds=embeddings, past_key_values=cache)
    model(tokens(2, seed=1), past_key_values=cache).logits.sum().backward()
    assert embeddings.grad is not None
    assert embeddings.grad.abs().sum() > 0


def test_cropping_beyond_the_end_keeps_everything():
    model, cache = tiny.llama(), hf.new_cache()
    logits(model, tokens(9), past_key_values=cache)
    hf.crop_cache(cache, 30)
    assert cache.get_seq_length() == 9


def test_a_cache_cut_short_by_an_early_exit_can_be_cropped_and_continued():
    model, ids = tiny.llama(), tokens(30)
    cache = hf.new_cache()
    with AttentionCapture(model, [(1, 0)], early_exit=True) as capture:
        capture.run(input_ids=ids, past_key_values=cache, use_cache=True)
        assert len(cache.layers) == 2
        hf.crop_cache(cache, 18)
        capture.reset()
        capture.run(input_ids=ids[:, 18:24], past_key_values=cache, use_cache=True)
    assert [layer.keys.shape[-2] for layer in cache.layers] == [24, 24]
    with torch.inference_mode(), AttentionCapture(model, [(1, 0)]) as whole:
        model(ids[:, :24])
    assert torch.allclose(capture.result(), whole.result(), atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_joined_caches_give_each_row_its_own_logits(family):
    model, lengths = family(), [31, 9, 20]
    prompts = [tokens(length, seed=length) for length in lengths]
    added = tokens(5, seed=7, batch=3)
    caches, wanted = [], []
    for row, prompt in enumerate(prompts):
        caches.append(hf.new_cache())
        logits(model, prompt, past_key_values=caches[-1])
        wanted.append(logits(model, torch.cat([prompt, added[row : row + 1]], dim=1))[0, -5:])
    joined = hf.join_caches(caches)
    mask = torch.stack([(torch.arange(36) >= 31 - length).long() for length in lengths])
    positions = torch.tensor(lengths)[:, None] + torch.arange(5)
    got = logits(model, added, past_key_values=joined, attention_mask=mask, position_ids=positions)
    assert torch.allclose(got, torch.stack(wanted), atol=1e-5)
    assert [cache.get_seq_length() for cache in caches] == lengths, "the parts are not touched"


def test_the_first_positions_can_be_left_out():
    """As if they had been masked: what is left continues at its own positions."""
    model, ids, more = tiny.llama(), tokens(14), tokens(4, seed=3)
    cache = hf.new_cache()
    logits(model, ids, past_key_values=cache)
    mask = torch.cat([torch.zeros(1, 6), torch.ones(1, 12)], dim=1).long()
    positions = torch.arange(14, 18)[None]
    wanted = logits(model, more, past_key_values=copy.deepcopy(cache), attention_mask=mask, position_ids=positions)
    hf.drop_first(cache, 6)
    assert cache.get_seq_length() == 8
    got = logits(model, more, past_key_values=cache, attention_mask=mask[:, 6:], position_ids=positions)
    assert torch.allclose(got, wanted, atol=1e-5)
    hf.drop_first(hf.new_cache(), 3)


def test_models_whose_state_is_not_keys_and_values_are_refused():
    hf.check_cache_supported(tiny.llama())
    hf.check_cache_supported(tiny.gemma3())
    model = tiny.llama()
    model.config.layer_types = ["full_attention", "linear_attention"] * 2
    with pytest.raises(ValueError, match="linear_attention layers"):
        hf.check_cache_supported(model)


# --- the rest --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answers", [(False, False), (True, False), (False, True)])
def test_bf16_is_native_where_a_probe_says_so(monkeypatch, answers):
    for name, answer in zip(("_is_amx_tile_supported", "_is_avx512_bf16_supported"), answers, strict=True):
        monkeypatch.setattr(torch.cpu, name, lambda answer=answer: answer)
    assert hf.cpu_has_bf16() is any(answers)


def test_bf16_probes_may_be_missing(monkeypatch):
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.delattr(torch.cpu, name)
    assert hf.cpu_has_bf16() is False


def test_this_torch_has_the_bf16_probes():
    assert isinstance(torch.cpu._is_amx_tile_supported(), bool)
    assert isinstance(torch.cpu._is_avx512_bf16_supported(), bool)


def test_end_tokens_come_from_every_source(byte_level):
    model = tiny.llama()
    end = byte_level.eos_token_id
    assert hf.end_tokens(model, byte_level) == {4, end}
    model.generation_config = GenerationConfig(eos_token_id=[7, 9])
    model.config.eos_token_id = None
    assert hf.end_tokens(model, byte_level) == {7, 9, end}
    model.generation_config = None
    assert hf.end_tokens(model, object()) == frozenset()
