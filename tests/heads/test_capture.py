import pytest
import torch

from faithgen import hf
from faithgen.heads.capture import AttentionCapture, attention_weights
from tests import tiny

FAMILIES = [tiny.llama, tiny.qwen3, tiny.gpt2, tiny.gemma3, tiny.mistral]
HEADS = [(3, 5), (1, 0), (1, 7), (3, 2)]  # neither sorted nor one of each layer


def tokens(length: int, seed: int = 0, batch: int = 1) -> torch.Tensor:
    return torch.randint(5, 500, (batch, length), generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def eager_attention(family, ids, heads=HEADS, **inputs) -> torch.Tensor:
    """`[B, heads, Q, S]` as transformers itself reports it."""
    model = family()
    model.set_attn_implementation("eager")
    attentions = model(input_ids=ids, output_attentions=True, **inputs).attentions
    return torch.stack([attentions[layer][:, head] for layer, head in heads], dim=1)


@torch.inference_mode()
def captured(model, ids, heads=HEADS, rows=None, inputs=None, **options) -> torch.Tensor:
    with AttentionCapture(model, heads, rows, **options) as capture:
        capture.run(input_ids=ids, **(inputs or {}))
    return capture.result()


@torch.inference_mode()
def in_chunks(model, ids, size, heads=HEADS, rows=None, **options):
    cache = hf.new_cache()
    with AttentionCapture(model, heads, rows, **options) as capture:
        for part in ids.split(size, dim=1):
            capture.run(input_ids=part, past_key_values=cache, use_cache=True)
    return capture.result(), cache


# --- what is read ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_captured_weights_are_those_of_eager_attention(family, base):
    model, ids = family(), tokens(40, batch=2)
    model.set_attn_implementation(base)
    got = captured(model, ids, rows=torch.arange(30, 40))
    assert got.shape == (2, 4, 10, 40)
    assert got.dtype == torch.float32
    assert torch.allclose(got, eager_attention(family, ids)[:, :, 30:], atol=1e-6)
    assert torch.allclose(got.sum(-1), torch.ones(2, 4, 10), atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_capturing_leaves_every_logit_as_it_was(family):
    model, ids = family(), tokens(40, batch=2)
    mask = torch.ones_like(ids)
    mask[1, :6] = 0
    before = [model(ids).logits, model(ids, attention_mask=mask).logits]
    every = [(layer, head) for layer in hf.attention_modules(model) for head in range(8)]
    with AttentionCapture(model, every, torch.arange(20, 40)):
        during = [model(ids).logits, model(ids, attention_mask=mask).logits]
    assert all(torch.equal(a, b) for a, b in zip(before, during, strict=True))


def test_flex_attention_is_read_too():
    ids = tokens(40)
    rows = torch.arange(30, 40)
    model = tiny.llama()
    try:
        model.set_attn_implementation("flex_attention")
        with torch.compiler.set_stance("force_eager"), torch.inference_mode():  # compiling takes 40 s on a CPU
            model(ids)
    except (RuntimeError, ValueError, ImportError, NotImplementedError) as error:
        pytest.skip(f"flex_attention does not run here: {error}")
    with torch.compiler.set_stance("force_eager"), torch.inference_mode():
        whole = captured(model, ids, rows=rows)
        chunked, _ = in_chunks(model, ids, 16, rows=rows)
    wanted = eager_attention(tiny.llama, ids)[:, :, 30:]
    assert torch.allclose(whole, wanted, atol=1e-6)
    assert torch.allclose(chunked, wanted, atol=1e-6)


def test_query_heads_read_the_key_head_of_their_group():
    """By hand: 8 query heads over 2 key heads, so heads 0-3 read the first and 4-7 the second."""
    torch.manual_seed(0)
    query, key = torch.randn(1, 8, 5, 4), torch.randn(1, 2, 5, 4)
    got = attention_weights(None, query, key, None, range(8), torch.tensor([[4]]))
    for head in range(8):
        wanted = (query[0, head, 4] @ key[0, head // 4].T / 2).softmax(-1)
        assert torch.allclose(got[0, head, 0], wanted, atol=1e-6)


def test_every_head_of_a_grouped_model_is_itself():
    heads = [(2, head) for head in range(8)]
    got = captured(tiny.llama(), tokens(20), heads, torch.arange(20))
    assert torch.allclose(got, eager_attention(tiny.llama, tokens(20), heads), atol=1e-6)
    assert len({tuple(row.tolist()) for row in got[0, :, 19]}) == 8


def test_scaling_softcap_and_sinks_are_respected():
    torch.manual_seed(0)
    query, key, sinks = torch.randn(1, 2, 3, 4), torch.randn(1, 2, 3, 4), torch.tensor([0.3, -1.0])
    logits = torch.tanh(query[0, 1, 2] @ key[0, 1].T * 0.7 / 2.0) * 2.0
    index = torch.tensor([[2]])
    got = attention_weights(None, query, key, None, [1], index, scaling=0.7, softcap=2.0)
    assert torch.allclose(got[0, 0, 0], logits.softmax(-1), atol=1e-6)
    got = attention_weights(None, query, key, None, [1], index, scaling=0.7, softcap=2.0, s_aux=sinks)
    assert torch.allclose(got[0, 0, 0], torch.cat([logits, sinks[1:]]).softmax(-1)[:3], atol=1e-6)


def test_a_query_that_sees_nothing_has_no_weights():
    mask = torch.zeros(1, 1, 2, 2, dtype=torch.bool)
    got = attention_weights(None, torch.randn(1, 1, 2, 4), torch.randn(1, 1, 2, 4), mask, [0], torch.tensor([[1]]))
    assert torch.equal(got, torch.zeros(1, 1, 1, 2))


# --- rows and batches ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("positions", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_rows_of_a_left_padded_batch_are_counted_without_the_padding(family, positions):
    lengths, width = [24, 15], 24
    own = [tokens(length, seed=length) for length in lengths]
    ids = torch.cat([torch.nn.functional.pad(one, (width - one.shape[1], 0), value=2) for one in own])
    mask = (torch.arange(width) >= width - torch.tensor(lengths)[:, None]).long()
    inputs = {"attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
    if not positions and family is tiny.gpt2:
        del inputs["position_ids"]  # its learnt positions then count the padding; wrong logits, so only the shape
    rows = torch.tensor([[3, 20, 22], [0, 14, -1]])
    padding = width - torch.tensor(lengths)
    got = captured(family(), ids, rows=rows, inputs=inputs, padding=padding)
    assert got.shape == (2, 4, 3, width)
    assert not got[1, :, 2].any(), "-1 only fills the row"
    assert not got[1, :, :, : width - 15].any(), "padding is not seen"
    if not positions and family is tiny.gpt2:
        return
    for row, one in enumerate(own):
        alone = eager_attention(family, one)[0]
        for place, position in enumerate(rows[row].tolist()):
            if position >= 0:
                found = got[row, :, place, width - lengths[row] :]
                assert torch.allclose(found, alone[:, position], atol=1e-5)


def test_one_line_of_rows_serves_the_whole_batch():
    ids = tokens(20, batch=3)
    one, many = torch.tensor([4, 19]), torch.tensor([[4, 19]] * 3)
    assert torch.equal(captured(tiny.llama(), ids, rows=one), captured(tiny.llama(), ids, rows=many))


def test_rows_may_come_in_any_order():
    ids, rows = tokens(20), torch.tensor([15, 3, 9])
    assert torch.allclose(
        captured(tiny.llama(), ids, rows=rows), eager_attention(tiny.llama, ids)[:, :, rows], atol=1e-6
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [40, 16, 7, 1])
def test_a_prefill_in_chunks_reads_the_same_rows(family, size):
    model, ids, rows = family(), tokens(40), torch.tensor([2, 15, 16, 30, 39])  # in different chunks
    got, _ = in_chunks(model, ids, size, rows=rows)
    assert got.shape == (1, 4, 5, 40)
    assert torch.allclose(got, eager_attention(family, ids)[:, :, rows], atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_without_rows_the_last_query_of_each_call_is_read(family):
    model, ids, cache = family(), tokens(30), hf.new_cache()
    eager = eager_attention(family, ids)
    calls = [(0, 24), *((at, at + 1) for at in range(24, 30))]
    with AttentionCapture(model, HEADS) as capture:
        for start, end in calls:
            model(input_ids=ids[:, start:end], past_key_values=cache, use_cache=True)
            got = capture.result()
            capture.reset()
            assert got.shape == (1, 4, 1, end)
            assert torch.allclose(got[:, :, 0], eager[:, :, end - 1, :end], atol=1e-5)


# --- reductions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [40, 13])
def test_tokens_and_documents_are_sums_of_rows(size):
    model, ids = tiny.llama(), tokens(40, batch=2)
    rows = torch.tensor([[25, 31, 39], [11, 38, -1]])
    segments = torch.full((2, 36), -1)  # shorter than the sequence: the rest belongs to no document
    segments[:, 2:9], segments[0, 9:20], segments[:, 30:36] = 0, 2, 1
    whole, _ = in_chunks(model, ids, size, rows=rows)
    counts = torch.tensor([3, 2])[:, None, None]
    tokens_mean, _ = in_chunks(model, ids, size, rows=rows, keep="tokens")
    assert torch.allclose(tokens_mean, whole.sum(2) / counts, atol=1e-6)
    documents, _ = in_chunks(model, ids, size, rows=rows, keep="documents", segments=segments, num_documents=4)
    assert documents.shape == (2, 4, 4)
    padded = torch.nn.functional.pad(segments, (0, 4), value=-1)
    for document in range(4):
        wanted = (whole * (padded == document)[:, None, None]).sum(-1).sum(-1) / counts[..., 0]
        assert torch.allclose(documents[..., document], wanted, atol=1e-6)
    assert not documents[..., 3].any(), "a document without tokens"
    assert not documents[1, :, 2].any()


def test_tokens_without_rows_are_the_last_query():
    ids = tokens(20)
    assert torch.allclose(
        captured(tiny.llama(), ids, keep="tokens"), eager_attention(tiny.llama, ids)[:, :, -1], atol=1e-6
    )


# --- early exit ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [tiny.llama, tiny.gpt2, tiny.gemma3])
@pytest.mark.parametrize("size", [30, 12])
def test_early_exit_reads_the_same_and_runs_nothing_above(family, size):
    ids, rows = tokens(30), torch.arange(20, 30)
    for deepest in hf.attention_modules(family()):
        model = family()
        heads = [(layer, 3) for layer in hf.attention_modules(model) if layer <= deepest]
        whole = captured(model, ids, heads, rows)
        calls: dict[str, int] = {}
        attention = hf.attention_modules(model)
        body = model.transformer if family is tiny.gpt2 else model.model
        blocks = body.h if family is tiny.gpt2 else body.layers
        watched = {f"block {i}": block for i, block in enumerate(blocks)} | {"lm_head": model.lm_head}
        watched |= {"output": hf.output_projection(attention[deepest]), "mlp": blocks[deepest].mlp}
        for name, module in watched.items():
            module.register_forward_pre_hook(
                lambda *_, name=name, calls=calls: calls.update({name: calls.get(name, 0) + 1})
            )
        got, cache = in_chunks(model, ids, size, heads, rows, early_exit=True)
        assert torch.allclose(got, whole, atol=1e-6)
        chunks = -(-30 // size)
        assert calls == {f"block {i}": chunks for i in range(deepest + 1)}
        assert [layer.keys.shape[-2] for layer in cache.layers] == [30] * (deepest + 1)


def test_run_returns_nothing_after_an_early_exit_and_the_output_otherwise():
    model, ids = tiny.llama(), tokens(8)
    with AttentionCapture(model, [(1, 0)], early_exit=True) as capture:
        assert capture.run(input_ids=ids) is None
    with AttentionCapture(model, [(1, 0)]) as capture:
        assert torch.equal(capture.run(input_ids=ids).logits, model(ids).logits)


@torch.inference_mode()
def test_a_model_is_whole_again_after_an_early_exit():
    model, ids = tiny.llama(), tokens(12)
    before = model(ids, output_hidden_states=True)
    captured(model, ids, [(0, 0)], early_exit=True)
    after = model(ids, output_hidden_states=True)
    assert torch.equal(before.logits, after.logits)
    assert len(after.hidden_states) == 5
    assert model.config._attn_implementation == "sdpa"


# --- misuse ----------------------------------------------------------------------------------------------------------


def test_a_result_before_any_forward_is_an_error():
    model = tiny.llama()
    capture = AttentionCapture(model, HEADS)
    with pytest.raises(RuntimeError, match=r"no forward .* in layers \[1, 3\]"):
        capture.result()
    with capture:
        model(tokens(5))
    assert capture.result().shape == (1, 4, 1, 5)
    capture.reset()
    with pytest.raises(RuntimeError, match="no forward"):
        capture.result()


def test_rows_that_never_came_are_an_error():
    with pytest.raises(RuntimeError, match="no forward of the model reached the chosen rows"):
        captured(tiny.llama(), tokens(5), rows=torch.tensor([7]))


def test_heads_and_segments_are_needed():
    with pytest.raises(ValueError, match="no heads"):
        AttentionCapture(tiny.llama(), [])
    with pytest.raises(ValueError, match="needs segments"):
        AttentionCapture(tiny.llama(), HEADS, keep="documents")


def test_sliding_layers_cannot_be_captured():
    model = tiny.gemma3()
    with pytest.raises(ValueError, match=r"layers \[0\]"), AttentionCapture(model, [(0, 0)]):
        pass
    assert model.config._attn_implementation == "sdpa"


def test_the_model_is_put_back_after_an_exception():
    model = tiny.llama()

    def fail():
        with AttentionCapture(model, HEADS):
            raise KeyError("x")

    with pytest.raises(KeyError):
        fail()
    assert model.config._attn_implementation == "sdpa"
    assert not any(hf.attention._attached.get(module) for module in model.modules())


def test_two_captures_at_once_read_apart():
    model, ids = tiny.llama(), tokens(15)
    with AttentionCapture(model, HEADS) as outer, AttentionCapture(model, [(1, 4)], torch.tensor([3])) as inner:
        model(ids)
    eager = eager_attention(tiny.llama, ids, [*HEADS, (1, 4)])
    assert torch.allclose(outer.result()[:, :, 0], eager[:, :4, -1], atol=1e-6)
    assert torch.allclose(inner.result()[:, 0, 0], eager[:, 4, 3], atol=1e-6)
