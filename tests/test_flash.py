"""Flash attention with a stand-in for its package, which computes the same on a CPU: what transformers asks it for."""

import sys
import types

import pytest
import torch
import transformers.modeling_flash_attention_utils as flash_utils
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from faithgen import hf
from faithgen.decoding.branches import PairPrompt
from faithgen.decoding.contrast import ContrastConfig
from faithgen.decoding.engine import PairDecoder
from faithgen.documents import Document
from faithgen.errors import FaithgenError
from faithgen.filtering.coarse import FilterConfig, rank_documents
from faithgen.heads.capture import AttentionCapture
from faithgen.prompting import PromptBuilder
from tests import tiny

HUB = "kernels-community/flash-attn2"


def flash_attn_func(query, key, value, dropout_p=0.0, softmax_scale=None, causal=False, **kwargs):
    query, key, value = (states.transpose(1, 2) for states in (query, key, value))
    queries, keys = query.shape[2], key.shape[2]
    seen = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries) if causal else None
    return torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=seen, scale=softmax_scale, enable_gqa=True
    ).transpose(1, 2)


def flash_attn_varlen_func(
    q, k, v, cu_seqlens_q=None, cu_seqlens_k=None, dropout_p=0.0, softmax_scale=None, causal=False, **kwargs
):
    parts = [
        flash_attn_func(q[a:b][None], k[c:d][None], v[c:d][None], softmax_scale=softmax_scale, causal=causal)[0]
        for a, b, c, d in zip(cu_seqlens_q, cu_seqlens_q[1:], cu_seqlens_k, cu_seqlens_k[1:], strict=False)
    ]
    return torch.cat(parts)


@pytest.fixture
def flash(monkeypatch):
    """flash-attn 2, as far as transformers can tell."""
    package, padding = types.ModuleType("flash_attn"), types.ModuleType("flash_attn.bert_padding")
    package.flash_attn_func, package.flash_attn_varlen_func = flash_attn_func, flash_attn_varlen_func
    package.flash_attn_with_kvcache = None
    padding.pad_input, padding.unpad_input = flash_utils._pad_input, flash_utils._unpad_input
    monkeypatch.setitem(sys.modules, "flash_attn", package)
    monkeypatch.setitem(sys.modules, "flash_attn.bert_padding", padding)
    monkeypatch.setattr(flash_utils, "is_flash_attn_2_available", lambda: True)
    monkeypatch.setattr(flash_utils, "_loaded_implementation", None)
    return package


@pytest.fixture
def hub_kernel(flash, monkeypatch):
    """The kernel that transformers takes from its hub where flash-attn is not installed, loaded."""
    monkeypatch.setattr(AttentionInterface, "_global_mapping", dict(AttentionInterface._global_mapping))
    monkeypatch.setattr(AttentionMaskInterface, "_global_mapping", dict(AttentionMaskInterface._global_mapping))
    AttentionInterface.register(HUB, ALL_ATTENTION_FUNCTIONS["flash_attention_2"])
    AttentionMaskInterface.register(HUB, ALL_MASK_ATTENTION_FUNCTIONS["flash_attention_2"])
    flash_utils.lazy_import_flash_attention("flash_attention_2")
    monkeypatch.setattr(flash_utils, "_loaded_implementation", HUB)


def model_with(implementation):
    model = tiny.llama(initializer_range=0.1)
    model.config._attn_implementation = implementation
    return model


def captured(model, ids):
    with torch.inference_mode(), AttentionCapture(model, [(1, 0), (3, 5)], torch.arange(15, 20)) as capture:
        logits = model(ids).logits
    return logits, capture.result()


def ids(count=20):
    return torch.randint(5, 500, (1, count), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("base", ["flash_attention_2", HUB])
def test_attention_is_read_beside_flash_attention(base, request):
    request.getfixturevalue("flash" if base != HUB else "hub_kernel")
    model = model_with(base)
    for found, expected in zip(captured(model, ids()), captured(model_with("sdpa"), ids()), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert model.config._attn_implementation == base
    assert flash_utils._loaded_implementation == base


def test_the_name_is_put_back_when_flash_attention_fails(flash, monkeypatch):
    model = model_with("flash_attention_2")
    captured(model, ids())

    def fails(*arguments, **options):
        raise RuntimeError("out of memory")

    with hf.attached(model, {}):
        ours = model.config._attn_implementation
        monkeypatch.setattr(flash_utils, "_flash_fn", fails)
        with pytest.raises(RuntimeError, match="out of memory"):
            model(ids())
        assert model.config._attn_implementation == ours != "flash_attention_2"
    assert model.config._attn_implementation == "flash_attention_2"


def test_ranking_and_decoding_are_those_of_sdpa(flash, byte_level):
    documents = [Document(f"The lighthouse number {i} was lit in 18{i}0, and its keeper was Ada.") for i in range(5)]
    found = []
    for base in ("sdpa", "flash_attention_2"):
        model, builder = model_with(base), PromptBuilder(byte_level, 1024)
        ranking = rank_documents(model, builder, [(2, 1), (3, 4)], "When was it lit?", documents, FilterConfig())
        prompts = [
            PairPrompt(ids(count)[0].tolist(), ids(count)[0].tolist(), documents=[(2, 9)]) for count in (20, 33)
        ]
        decoder = PairDecoder(
            model,
            prompts,
            ContrastConfig(alpha=0.5),
            max_new_tokens=6,
            end_tokens=[],
            masked_heads=[(1, 0), (2, 3)],
            watched_heads=[(2, 1)],
        )
        found.append((ranking, [(row.question, row.token) for rows in decoder for row in rows]))
    assert found[1][0].scores == pytest.approx(found[0][0].scores, abs=1e-4)
    assert found[1][1] == found[0][1]


def test_heads_made_uniform_stay_so_where_a_mask_needs_sdpa(flash):
    model = model_with("flash_attention_2")
    with hf.attached(model, {0: lambda *arguments, delegate, **kwargs: delegate(*arguments, **kwargs)}):
        with hf.accepts_4d_mask(model):
            assert hf.takes_any_mask(model)
            assert model.config._attn_implementation != "sdpa"
        assert not hf.takes_any_mask(model)
    with hf.accepts_4d_mask(model):
        assert model.config._attn_implementation == "sdpa"
    assert model.config._attn_implementation == "flash_attention_2"


@pytest.mark.parametrize("base", ["kernels-community/never-loaded", "sage"])
def test_an_attention_that_cannot_be_wrapped_is_said_in_a_line(base):
    model = model_with("sdpa")
    model.config._attn_implementation_internal = base
    with pytest.raises(FaithgenError, match=f"'{base}' cannot be wrapped; load the model with sdpa"):
        captured(model, ids())
    assert model.config._attn_implementation == base
