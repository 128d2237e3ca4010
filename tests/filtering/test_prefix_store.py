"""Documents' keys and values kept across questions: the same scores, less to read, no more memory than allowed."""

import contextlib

import pytest
import torch

from faithgen import hf
from faithgen.documents import Document
from faithgen.errors import FaithgenError
from faithgen.filtering import attention as attention_module
from faithgen.filtering.attention import attention_and_null
from faithgen.filtering.coarse import FilterConfig, rank_documents
from faithgen.filtering.prefix_store import Prefix, PrefixStore, prefix_store
from faithgen.heads.ablation import mask_heads
from faithgen.prompting import PromptBuilder
from tests import tiny

HEADS = [(2, 5), (0, 1), (1, 7)]
QUESTIONS = ["who kept the light?", "when was it built, and by whom?", "why?"]
WORDS = ["sea", "fog", "lamp", "keeper", "harbour", "stone", "tide", "gull", "rope", "storm"]


def documents(count, seed=0, words=12):
    return [
        Document(" ".join(WORDS[(seed + 7 * i + 3 * j + i * j) % 10] for j in range(words)), str(i))
        for i in range(count)
    ]


@pytest.fixture
def model():
    return tiny.llama(initializer_range=0.1)


@pytest.fixture
def builder(byte_level):
    return PromptBuilder(byte_level, 2048)


@pytest.fixture
def read(monkeypatch):
    """Tokens that each pass runs through the model."""
    found = []
    run = attention_module.AttentionCapture.run

    def counted(self, **inputs):
        found.append(inputs["input_ids"].shape[1])
        return run(self, **inputs)

    monkeypatch.setattr(attention_module.AttentionCapture, "run", counted)
    return found


@pytest.mark.parametrize("calibrate", [False, True])
@pytest.mark.parametrize("chunk", [4096, 50])
def test_a_second_question_reads_only_itself(model, builder, read, calibrate, chunk, monkeypatch):
    monkeypatch.setattr(attention_module, "_CHUNK", chunk)
    store = PrefixStore(model, 10**9)
    for asked, question in enumerate([*QUESTIONS, QUESTIONS[0]]):
        expected = attention_and_null(model, builder, HEADS, question, documents(5), calibrate=calibrate)
        read.clear()
        found = attention_and_null(model, builder, HEADS, question, documents(5), calibrate=calibrate, store=store)
        torch.testing.assert_close(found[0], expected[0], atol=1e-6, rtol=1e-5)
        if calibrate:
            torch.testing.assert_close(found[1], expected[1], atol=1e-6, rtol=1e-5)
        if asked:
            start, end = found[2].question
            assert sum(read) == end - start
    assert (store.hits, store.misses, len(store)) == (3, 1, 1)


def test_other_documents_order_heads_or_depth_are_read(model, builder):
    store = PrefixStore(model, 10**9)

    def ask(given, heads=HEADS):
        expected = attention_and_null(model, builder, heads, QUESTIONS[0], given)
        found = attention_and_null(model, builder, heads, QUESTIONS[0], given, store=store)
        for one, other in zip(found[:2], expected[:2], strict=True):
            torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)

    ask(documents(4))
    ask(documents(4)[::-1])
    ask(documents(5))
    ask(documents(4), [(3, 3)])  # deeper
    assert (store.hits, store.misses) == (0, 4)
    ask(documents(4), [(2, 0), (1, 1)])  # as deep; its own content-free attention
    assert store.hits == 1


def test_ranking_uses_the_models_store(model, builder, read):
    config = FilterConfig(num_heads=3)
    first = rank_documents(model, builder, HEADS, QUESTIONS[0], documents(6), config)
    read.clear()
    again = rank_documents(model, builder, HEADS, QUESTIONS[0], documents(6), config)
    assert again.coarse == pytest.approx(first.coarse, abs=1e-5)
    assert again.order() == first.order()
    assert read[0] < 60, "the question alone; then the best once more"
    assert again.prefill_tokens == sum(read)
    read.clear()
    none = rank_documents(model, builder, HEADS, QUESTIONS[0], documents(6), FilterConfig(num_heads=3, kept_bytes=0))
    assert none.coarse == pytest.approx(first.coarse, abs=1e-5)
    assert read[0] > 300
    assert prefix_store(model, 1) is not None
    assert len(prefix_store(model, 1)) == 0


def test_what_was_used_last_is_kept_within_the_limit(model, builder):
    store = PrefixStore(model, 10**9)
    sets = [documents(3, seed) for seed in range(4)]
    for given in sets[:1]:
        attention_and_null(model, builder, HEADS, QUESTIONS[0], given, store=store)
    size = store.bytes
    assert size > 100_000  # of real memory, not nothing
    store.shrink(int(2.5 * size))
    for given in sets[1:]:
        attention_and_null(model, builder, HEADS, QUESTIONS[0], sets[0], store=store)
        attention_and_null(model, builder, HEADS, QUESTIONS[0], given, store=store)
        assert store.bytes <= store.max_bytes
    assert len(store) == 2
    assert store.hits == 3, "the first set was always among the two used last"
    store.shrink(size // 2)
    assert (len(store), store.bytes) == (0, 0)


@pytest.mark.parametrize("change", ["in place", "data", "new", "inference"])
def test_other_weights_start_anew(model, builder, change):
    store = PrefixStore(model, 10**9)
    attention_and_null(model, builder, HEADS, QUESTIONS[0], documents(4), store=store)
    weight = next(iter(hf.attention_modules(model).values())).k_proj.weight
    if change == "in place":
        with torch.no_grad():
            weight.mul_(1.5)
    elif change == "data":
        weight.data *= 1.5
    elif change == "new":
        weight.data = weight.data * 1.5
    else:
        with torch.inference_mode():
            module = next(iter(hf.attention_modules(model).values()))
            module.k_proj.weight = torch.nn.Parameter(weight * 1.5, requires_grad=False)
    expected = attention_and_null(model, builder, HEADS, QUESTIONS[0], documents(4))
    found = attention_and_null(model, builder, HEADS, QUESTIONS[0], documents(4), store=store)
    assert torch.equal(found[0], expected[0])
    assert store.hits == 0


@pytest.mark.parametrize("way", ["mask", "uniform", "hook"])
def test_masked_heads_and_hooks_neither_take_nor_leave_anything(model, builder, way):
    """The same masks twice, then none: each gets its own keys and values."""
    heads = [(0, 0), (0, 1), (0, 2), (1, 3)]
    projection = hf.output_projection(hf.attention_modules(model)[0])

    @contextlib.contextmanager
    def changed():
        if way != "hook":
            with mask_heads(model, heads, mode="zero" if way == "mask" else "uniform"):
                yield
            return
        hook = projection.register_forward_hook(lambda module, arguments, output: output * 0.5)
        yield
        hook.remove()

    def ask(**options):
        return attention_and_null(model, builder, HEADS, QUESTIONS[0], documents(4), **options)[:2]

    store, plain = PrefixStore(model, 10**9), ask()
    with changed():
        other = ask()
    assert not torch.allclose(plain[0], other[0], atol=1e-4)
    for context, expected in ((changed, other), (contextlib.nullcontext, plain)) * 2:
        with context():
            for found, one in zip(ask(store=store), expected, strict=True):
                torch.testing.assert_close(found, one, atol=1e-6, rtol=1e-5)
            ranking = rank_documents(model, builder, HEADS, QUESTIONS[0], documents(4), FilterConfig(num_heads=3))
            fresh = FilterConfig(num_heads=3, kept_bytes=0)
            assert ranking.scores == pytest.approx(
                rank_documents(model, builder, HEADS, QUESTIONS[0], documents(4), fresh).scores, abs=1e-5
            )
    assert (store.hits, store.misses) == (1, 1), "what the model itself read is still there after a mask"


def test_a_hook_of_transformers_that_only_reads_changes_nothing(model, builder):
    with torch.inference_mode():
        model(torch.ones(1, 3, dtype=torch.long), output_hidden_states=True)
    assert any(module._forward_hooks for module in model.modules()), "they stay on the model"
    store = PrefixStore(model, 10**9)
    for question in QUESTIONS:
        attention_and_null(model, builder, HEADS, question, documents(4), store=store)
    assert store.hits == 2


def test_an_adapter_switched_off_or_on_starts_anew(model, builder):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(target_modules=["k_proj", "v_proj"], init_lora_weights=False, r=4, lora_alpha=64)
    adapted = peft.get_peft_model(model, config).eval()
    store = PrefixStore(adapted, 10**9)

    def ask(**options):
        return attention_and_null(adapted, builder, HEADS, QUESTIONS[0], documents(4), **options)[0]

    def check(other=None):
        expected = ask()
        torch.testing.assert_close(ask(store=store), expected, atol=1e-6, rtol=1e-5)
        assert other is None or not torch.allclose(expected, other, atol=1e-4)
        return expected

    on = check()
    with adapted.disable_adapter():
        off = check(on)
    check(off)
    for layer in adapted.modules():
        if isinstance(layer, peft.tuners.lora.LoraLayer):
            layer.set_scale("default", 0.1)
    check(on)
    check()
    assert store.hits == 1


def test_the_model_is_looked_at_once_a_ranking(model, builder, monkeypatch):
    looked, mark = [], hf.weights_mark
    monkeypatch.setattr(hf, "weights_mark", lambda model: looked.append(model) or mark(model))
    config = FilterConfig(num_heads=3, window=200)
    for asked in (1, 2):
        assert rank_documents(model, builder, HEADS, QUESTIONS[0], documents(24), config).passes > 3
        assert len(looked) == asked
    with torch.no_grad():
        next(model.parameters()).mul_(1.1)
    store = prefix_store(model, config.kept_bytes)
    hits = store.hits
    rank_documents(model, builder, HEADS, QUESTIONS[0], documents(24), config)
    assert store.hits == hits > 0


def test_the_mark_of_offloaded_weights_tells_them_by_place(model):
    before = hf.weights_mark(model)
    assert hf.weights_mark(model) == before
    weight = model.model.layers[0].mlp.up_proj.weight
    model.model.layers[0].mlp.up_proj.weight = torch.nn.Parameter(torch.empty_like(weight, device="meta"))
    offloaded = hf.weights_mark(model)
    assert offloaded == hf.weights_mark(model) != before


def test_a_question_that_fails_leaves_nothing_half_read(model, builder, monkeypatch):
    store = PrefixStore(model, 10**9)
    attention_and_null(model, builder, HEADS, QUESTIONS[0], documents(4), store=store)

    def fails(*arguments, **options):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(attention_module.AttentionCapture, "run", fails)
        with pytest.raises(RuntimeError):
            attention_and_null(model, builder, HEADS, QUESTIONS[1], documents(4), store=store)
    assert len(store) == 0
    expected = attention_and_null(model, builder, HEADS, QUESTIONS[1], documents(4))
    found = attention_and_null(model, builder, HEADS, QUESTIONS[1], documents(4), store=store)
    assert torch.equal(found[0], expected[0])


def test_a_prefix_too_large_is_not_kept(model):
    store = PrefixStore(model, 10)
    cache = hf.new_cache()
    with torch.inference_mode():
        model(input_ids=torch.ones(1, 9, dtype=torch.long), past_key_values=cache, use_cache=True)
    store.put(Prefix((1,) * 9, 2, cache))
    assert len(store) == 0


def test_kept_bytes_must_not_be_negative():
    with pytest.raises(FaithgenError, match="kept_bytes is -1"):
        FilterConfig(kept_bytes=-1)


def test_the_room_grows_with_what_a_gpu_has_free(model, monkeypatch):
    assert FilterConfig().kept_bytes is None
    assert prefix_store(model, None).max_bytes == 256 * 2**20
    monkeypatch.setattr(hf, "device_of", lambda model: torch.device("cuda", 0))
    for free, room in ((64 * 2**30, 8 * 2**30), (2**30, 256 * 2**20)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 80 * 2**30))
        assert prefix_store(model, None).max_bytes == room
    assert prefix_store(model, 5).max_bytes == 5
    assert prefix_store(model, 0) is None
