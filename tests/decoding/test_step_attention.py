import contextlib

import pytest
import torch

from faithgen import hf
from faithgen.decoding import step_attention as step_attention_module
from faithgen.decoding.branches import PairPrompt
from faithgen.decoding.contrast import ContrastConfig
from faithgen.decoding.engine import PairDecoder
from faithgen.decoding.step_attention import few_query_steps, step_attention
from faithgen.heads.ablation import mask_heads
from tests import tiny


def refuse(*_, **__):
    raise AssertionError("the attention in use was called")


def states(batch=2, heads=6, groups=2, length=11, width=8, dtype=torch.float32, queries=1):
    generator = torch.Generator().manual_seed(0)
    shapes = [(batch, heads, queries, width), (batch, groups, length, width), (batch, groups, length, width)]
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("mask", ["none", "bool", "additive"])
@pytest.mark.parametrize("scaling", [None, 0.5])
def test_it_is_the_fused_kernel_s_result(dtype, tolerance, groups, mask, scaling):
    query, key, value = states(groups=groups, dtype=dtype)
    seen = torch.ones(2, 1, 1, 11, dtype=torch.bool)
    seen[1, ..., :4] = False
    given = {"none": None, "bool": seen, "additive": torch.zeros(seen.shape).masked_fill(~seen, -1e4).to(dtype)}[mask]
    found, weights = step_attention(None, query, key, value, given, delegate=refuse, scaling=scaling)
    expected = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=given, scale=scaling, enable_gqa=True
    ).transpose(1, 2)
    assert weights is None
    assert found.dtype == dtype
    assert found.shape == (2, 1, 6, 8)
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize(
    ("queries", "mask", "extra"),
    [
        (2, None, {}),
        (1, None, {"softcap": 30.0}),
        (1, None, {"s_aux": torch.zeros(6)}),
        (1, None, {"sliding_window": 4}),
        (1, None, {"dropout": 0.1}),
        (1, torch.zeros(2, 6, 1, 11), {}),
        (1, torch.ones(2, 11), {}),
    ],
)
def test_anything_else_is_left_to_the_attention_in_use(queries, mask, extra):
    query, key, value = states(queries=queries)
    called = []

    def delegate(module, query, key, value, attention_mask, **kwargs):
        called.append((attention_mask, kwargs))
        return "theirs", None

    assert step_attention(None, query, key, value, mask, delegate=delegate, scaling=0.3, **extra)[0] == "theirs"
    assert called[0][0] is mask
    assert called[0][1] == {"scaling": 0.3, **extra}


@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral", "gemma3", "gpt2"])
@pytest.mark.parametrize("padded", [False, True])
def test_a_step_of_a_model_gives_its_own_logits(family, padded):
    model = getattr(tiny, family)()
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 500, (2, 20), generator=generator)
    mask = torch.ones(2, 20, dtype=torch.long)
    if padded:
        mask[1, :7] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    found = []
    for context in (None, few_query_steps):
        cache = hf.new_cache()
        with torch.inference_mode():
            common = {"past_key_values": cache, "use_cache": True}
            model(ids[:, :19], attention_mask=mask[:, :19], position_ids=positions[:, :19], **common)
            inputs = {"attention_mask": mask if padded else None, "position_ids": positions[:, 19:], **common}
            if context is None:
                found.append(model(ids[:, 19:], **inputs).logits)
            else:
                with context(model):
                    found.append(model(ids[:, 19:], **inputs).logits)
    torch.testing.assert_close(found[1], found[0], atol=1e-5, rtol=1e-4)
    assert model.config._attn_implementation == "sdpa"


def test_a_mask_around_the_steps_still_holds():
    """What was attached before is not passed over: this attention takes the place of the fused kernel alone."""
    model = tiny.llama(initializer_range=0.1)
    ids = torch.randint(5, 500, (1, 12), generator=torch.Generator().manual_seed(2))
    found = []
    for context in (contextlib.nullcontext, lambda: few_query_steps(model)):
        cache = hf.new_cache()
        with torch.inference_mode():
            model(ids[:, :11], past_key_values=cache)
            with (
                mask_heads(model, [(layer, head) for layer in range(4) for head in range(8)], mode="uniform"),
                context(),
            ):
                found.append(model(ids[:, 11:], past_key_values=cache).logits)
    with torch.inference_mode():
        plain = model(ids).logits[:, -1:]
    torch.testing.assert_close(found[1], found[0], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(found[1], plain, atol=1e-3)


# --- on a GPU, as far as a CPU can tell ------------------------------------------------------------------------------


@pytest.fixture
def gpu(monkeypatch):
    """Take the way of a GPU on this CPU; returns the products that it made."""
    made = []

    def product(first, second):
        made.append((first.dtype, second.dtype))
        return first.float() @ second.float()

    monkeypatch.setattr(step_attention_module, "_device", lambda states: "cuda")
    monkeypatch.setattr(step_attention_module, "product", product)
    return made


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2), (torch.float16, 2e-3)]
)
@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("queries", [1, 2])
@pytest.mark.parametrize("additive", [False, True])
@pytest.mark.parametrize("scaling", [None, 0.5])
def test_a_gpu_gets_the_same_without_copies_in_fp32(gpu, dtype, tolerance, groups, queries, additive, scaling):
    query, key, value = states(groups=groups, dtype=dtype, queries=queries)
    seen = torch.ones(2, 1, queries, 11, dtype=torch.bool)
    seen[1, ..., :4] = False
    seen[:, :, 0, -1] = queries == 1
    given = torch.zeros(seen.shape).masked_fill(~seen, -1e4).to(dtype) if additive else seen
    found, _ = step_attention(None, query, key, value, given, delegate=refuse, scaling=scaling)
    expected = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=given, scale=scaling, enable_gqa=True
    ).transpose(1, 2)
    assert found.dtype == dtype
    assert gpu == ([] if dtype == torch.float32 else [(dtype, dtype)])
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


def test_a_gpu_attends_by_itself_where_there_is_no_mask(gpu):
    query, key, value = states()
    assert step_attention(None, query, key, value, None, delegate=lambda *_, **__: ("theirs", None))[0] == "theirs"


def test_a_gpus_product_takes_half_precision_and_gives_fp32():
    first, second = (
        torch.empty(shape, dtype=torch.bfloat16, device="meta") for shape in [(3, 2, 6, 8), (3, 2, 20, 8)]
    )
    product = step_attention_module.product(first, second[:, :, :11].mT)
    assert (product.shape, product.dtype) == ((3, 2, 6, 11), torch.float32)


def test_decoding_the_way_of_a_gpu_chooses_the_same_tokens(gpu, monkeypatch):
    model = tiny.llama(initializer_range=0.1)
    ids = [torch.randint(5, 500, (n,), generator=torch.Generator().manual_seed(n)).tolist() for n in (20, 31)]

    def decode():
        prompts = [PairPrompt(one, one, documents=[(2, 9)]) for one in ids]
        decoder = PairDecoder(
            model, prompts, ContrastConfig(alpha=0.5), max_new_tokens=8, end_tokens=[], masked_heads=[(1, 0)]
        )
        return [(row.question, row.token) for rows in decoder for row in rows]

    found = decode()
    monkeypatch.undo()
    assert decode() == found


@pytest.mark.parametrize(
    ("implementation", "hip", "used"), [("sdpa", None, 4), ("sdpa", "6.4", 0), ("flash_attention_2", None, 0)]
)
def test_which_models_on_a_gpu_step_with_it(monkeypatch, implementation, hip, used):
    model = tiny.llama()
    model.config._attn_implementation_internal = implementation
    monkeypatch.setattr(hf, "device_of", lambda model: torch.device("cuda"))
    monkeypatch.setattr(torch.version, "hip", hip)
    attached = []
    monkeypatch.setattr(
        hf, "attached", lambda model, functions, **_: attached.extend(functions) or contextlib.nullcontext()
    )
    few_query_steps(model)
    assert len(attached) == used
