import functools
import math

import pytest
import torch
from transformers import DynamicCache

from faithgen.documents import Document
from faithgen.filtering import steering
from faithgen.filtering.coarse import FilterConfig
from faithgen.filtering.steering import read_steered, steered_prefill
from faithgen.heads.capture import AttentionCapture
from faithgen.prompting import PromptBuilder
from tests import tiny

FAMILIES = ["llama", "qwen3", "gemma3", "mistral", "gpt2"]
QUESTION = "who was the keeper of the lighthouse, and when was it lit?"
DELTA = math.log(10)


@functools.cache
def make(family):
    return getattr(tiny, family)(initializer_range=0.1)


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
    return make(request.param)


@pytest.fixture(scope="module")
def prompt(byte_level):
    documents = [Document(text, title=f"Title {i}") for i, text in enumerate(tiny.CORPUS[:4])]
    return PromptBuilder(byte_level, 1024).build(QUESTION, documents)


@torch.no_grad()
def cache_of(model, ids):
    cache = DynamicCache()
    model(input_ids=torch.tensor([ids]), past_key_values=cache)
    return cache


@torch.no_grad()
def plain_logits(model, ids):
    return model(input_ids=torch.tensor([ids]), use_cache=False).logits[:, -1]


@torch.no_grad()
def go_on(model, cache, ids):
    return model(input_ids=torch.tensor([ids]), past_key_values=cache).logits[:, -1]


# --- delta of zero ----------------------------------------------------------------------------------------------------


def test_no_bias_is_a_plain_prefill(model, prompt):
    start, end = prompt.question
    cache = cache_of(model, prompt.input_ids[:start])
    logits = read_steered(model, prompt, [0, 2], 0.0, cache)
    torch.testing.assert_close(logits, plain_logits(model, prompt.input_ids[:end]), atol=1e-5, rtol=1e-5)
    assert cache.get_seq_length() == end
    found = go_on(model, cache, prompt.input_ids[end:])
    torch.testing.assert_close(found, plain_logits(model, prompt.input_ids), atol=1e-5, rtol=1e-5)


def test_no_evidence_is_a_plain_prefill(model, prompt):
    start, end = prompt.question
    logits = read_steered(model, prompt, [], DELTA, cache_of(model, prompt.input_ids[:start]))
    torch.testing.assert_close(logits, plain_logits(model, prompt.input_ids[:end]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_steered_prefill_without_bias(family, prompt):
    model = make(family)
    cache, evidence = steered_prefill(model, prompt, [(3, 1), (1, 2)], FilterConfig(delta=0.0))
    expected = cache_of(model, prompt.input_ids[: prompt.question[1]])
    assert 2 <= len(evidence) <= 4
    for found, layer in zip(cache.layers, expected.layers, strict=True):
        assert found.keys.shape[-2] == prompt.question[1]
        window = layer.keys.shape[-2]
        torch.testing.assert_close(found.keys[..., -window:, :], layer.keys, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found.values[..., -window:, :], layer.values, atol=1e-5, rtol=1e-5)


# --- the bias ---------------------------------------------------------------------------------------------------------


def read(model, prompt, evidence, delta, layer):
    """Attention of all heads of a layer from the question `[H, Q, S]`."""
    start, end = prompt.question
    heads = [(layer, head) for head in range(8)]
    with AttentionCapture(model, heads, torch.arange(start, end)) as capture:
        read_steered(model, prompt, evidence, delta, cache_of(model, prompt.input_ids[:start]))
    return capture.result()[0]


@pytest.mark.parametrize("delta", [DELTA, -1.5, 0.3])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
def test_attention_to_the_evidence_is_multiplied_and_renormalised(family, prompt, delta):
    model, evidence = make(family), [0, 2]
    plain, steered = (read(model, prompt, evidence, by, 0) for by in (0.0, delta))
    factor = torch.ones(plain.shape[-1])
    for index in evidence:
        factor[slice(*prompt.documents[index].span)] = math.exp(delta)
    expected = plain * factor
    expected /= expected.sum(-1, keepdim=True)
    torch.testing.assert_close(steered, expected, atol=1e-6, rtol=1e-5)
    chosen = factor != 1
    before, after = plain[..., chosen].sum(-1), steered[..., chosen].sum(-1)
    assert torch.all(after > before if delta > 0 else after < before)


def test_all_layers_are_steered(prompt):
    model = make("llama")
    for layer in range(4):
        chosen = slice(*prompt.documents[1].span)
        plain, steered = (read(model, prompt, [1], delta, layer)[..., chosen].sum(-1).mean() for delta in (0.0, DELTA))
        assert steered > 2 * plain


def test_sliding_layers_stay_within_their_window(prompt):
    """The evidence is out of reach of Mistral's window of 16: the bias must not open it."""
    model = make("mistral")
    start, end = prompt.question
    assert prompt.documents[0].span[1] < start - 16 * 4
    logits = read_steered(model, prompt, [0], 50.0, cache_of(model, prompt.input_ids[:start]))
    torch.testing.assert_close(logits, plain_logits(model, prompt.input_ids[:end]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
def test_only_the_question_is_steered(family, prompt):
    """Tokens after it read the keys of the first full layer, which steering does not change, as ever."""
    model = make(family)
    layer = 1 if family == "gemma3" else 0
    start, end = prompt.question
    suffix = prompt.input_ids[end:]
    rows = torch.arange(end, end + len(suffix))
    found = []
    for delta in (0.0, DELTA):
        cache = cache_of(model, prompt.input_ids[:start])
        read_steered(model, prompt, [0, 2], delta, cache)
        with AttentionCapture(model, [(layer, head) for head in range(8)], rows) as capture:
            found.append((go_on(model, cache, suffix), capture.result()[0]))
    (plain, attention), (steered, attention_after) = found
    if layer == 0:
        torch.testing.assert_close(attention_after, attention, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(plain, steered, atol=1e-3)  # what the question made of the evidence is in the cache
    assert model.config._attn_implementation == "sdpa"


# --- both together ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("top_m", [1, 2, 9])
def test_evidence_is_the_union_of_the_heads_votes(prompt, top_m):
    model, heads = make("llama"), [(2, 1), (0, 5)]
    start, end = prompt.question
    with AttentionCapture(model, heads, torch.arange(start, end)) as capture, torch.no_grad():
        model(input_ids=torch.tensor([prompt.input_ids[:end]]))
    sums = torch.stack([capture.result()[0, :, :, slice(*d.span)].sum(-1).mean(1) for d in prompt.documents], dim=1)
    expected = {i for row in sums for i in row.argsort(descending=True)[:top_m].tolist()}
    cache, evidence = steered_prefill(model, prompt, heads, FilterConfig(steer_top_m=top_m))
    assert evidence == sorted(expected)
    assert [layer.keys.shape[-2] for layer in cache.layers] == [end] * 4


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_steered_prefill_is_reading_with_its_evidence(family, prompt):
    model = make(family)
    start, end = prompt.question
    cache, evidence = steered_prefill(model, prompt, [(1, 1)], FilterConfig(steer_top_m=1))
    other = cache_of(model, prompt.input_ids[:start]) if family == "llama" else DynamicCache()
    if not other.get_seq_length():
        with torch.no_grad():
            model(input_ids=torch.tensor([prompt.input_ids[:start]]), past_key_values=other)
    read_steered(model, prompt, evidence, DELTA, other)
    suffix = prompt.input_ids[end:]
    torch.testing.assert_close(go_on(model, cache, suffix), go_on(model, other, suffix), atol=1e-5, rtol=1e-5)


def test_chunks_change_nothing(prompt, monkeypatch):
    model, heads = make("llama"), [(2, 1)]
    suffix = prompt.input_ids[prompt.question[1] :]
    cache, evidence = steered_prefill(model, prompt, heads, FilterConfig())
    expected = go_on(model, cache, suffix)
    monkeypatch.setattr(steering, "_CHUNK", 13)
    cache, again = steered_prefill(model, prompt, heads, FilterConfig())
    assert again == evidence
    torch.testing.assert_close(go_on(model, cache, suffix), expected, atol=1e-5, rtol=1e-5)


def test_bfloat16(prompt):
    model = tiny.llama(initializer_range=0.1).to(torch.bfloat16)
    start, end = prompt.question
    logits = read_steered(model, prompt, [0], 0.0, cache_of(model, prompt.input_ids[:start]))
    torch.testing.assert_close(logits, plain_logits(model, prompt.input_ids[:end]), atol=0.1, rtol=0.05)
    steered = read_steered(model, prompt, [0], DELTA, cache_of(model, prompt.input_ids[:start]))
    assert steered.isfinite().all()
