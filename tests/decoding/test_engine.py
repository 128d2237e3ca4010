import copy
import functools

import pytest
import torch
from transformers import DynamicCache

from faithgen.decoding import branches
from faithgen.decoding.contrast import ContrastConfig, jensen_shannon
from faithgen.decoding.engine import PairDecoder, PairPrompt
from faithgen.decoding.sampling import SamplingConfig
from faithgen.heads.ablation import mask_heads
from tests import tiny
from tests.decoding.pairs import control_pair, prompt_ids

SHARP = {"initializer_range": 0.1}  # attention that matters, and no near ties between tokens
HEADS = [(1, 0), (1, 3), (3, 3), (3, 6), (1, 7), (3, 1)]
FAMILIES = ["llama", "qwen3", "gemma3", "mistral", "gpt2"]
ALPHA = 0.8
CONTRAST = ContrastConfig(alpha=ALPHA)


@functools.cache
def make(family):
    return getattr(tiny, family)(**SHARP)


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
    return make(request.param)


@pytest.fixture(scope="module")
def llama():
    return make("llama")


def context_pair(length, seed=0):
    """Two prompts of different length that share their start and end."""
    ids = prompt_ids(length, seed)
    return PairPrompt(ids, ids[:3] + ids[-8:])


def masked_pair(length, seed=0):
    ids = prompt_ids(length, seed)
    return PairPrompt(ids, ids)


def run(model, prompts, contrast=CONTRAST, n=16, **options):
    """Rows of each question, over all steps."""
    options.setdefault("end_tokens", [])
    found = [[] for _ in prompts]
    for rows in PairDecoder(model, prompts, contrast, max_new_tokens=n, **options):
        for row in rows:
            found[row.question].append(row)
    return found


def tokens(rows):
    return [row.token for row in rows]


@torch.no_grad()
def last_logits(model, ids):
    return model(input_ids=torch.tensor([ids]), use_cache=False).logits[:, -1].float().log_softmax(-1)


def contrasted(faithful, unfaithful, alpha=ALPHA):
    return (1 + alpha) * faithful - alpha * unfaithful


def naive_pair(model, prompt, n, alpha=ALPHA, other=None):
    """Two full forwards a step, no cache. `other` is the model of the unfaithful branch."""
    faithful, unfaithful, found = list(prompt.faithful), list(prompt.unfaithful), []
    for _ in range(n):
        rows = last_logits(model, faithful), last_logits(other or model, unfaithful)
        token = int(contrasted(*rows, alpha).argmax())
        found.append(token)
        faithful.append(token)
        unfaithful.append(token)
    return found


@torch.no_grad()
def naive_masked(model, other, ids, n, alpha=ALPHA):
    """Two caches that share the unmasked prefix; `other`, a model with broken heads, reads the rest in one of them."""
    caches = [DynamicCache(), DynamicCache()]
    for cache in caches:
        model(input_ids=torch.tensor([ids[:-1]]), past_key_values=cache)
    token, found = ids[-1], []
    for _ in range(n):
        rows = [
            branch(input_ids=torch.tensor([[token]]), past_key_values=cache).logits[:, -1].log_softmax(-1)
            for branch, cache in zip((model, other), caches, strict=True)
        ]
        token = int(contrasted(*rows, alpha).argmax())
        found.append(token)
    return found


def broken(model, heads, mode):
    """A copy with heads switched off in its weights: output columns zeroed, or queries zeroed (uniform attention)."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for layer, head in heads:
            attention = model.model.layers[layer].self_attn
            if mode == "zero":
                attention.o_proj.weight[:, head * 8 : head * 8 + 8] = 0
            else:
                attention.q_proj.weight[head * 8 : head * 8 + 8] = 0
    return model


# --- plain decoding ---------------------------------------------------------------------------------------------------


def test_plain_decoding_is_generate(model):
    ids = prompt_ids(40)
    expected = model.generate(
        torch.tensor([ids]), max_new_tokens=24, do_sample=False, eos_token_id=None, pad_token_id=2
    )
    rows = run(model, [PairPrompt(ids)], n=24)[0]
    assert tokens(rows) == expected[0, 40:].tolist()
    assert all(row.jsd is None and row.context_share is None for row in rows)
    assert [row.finished for row in rows] == [False] * 23 + [True]


def test_plain_batch_is_one_by_one(model):
    prompts = [prompt_ids(length, length) for length in (40, 7, 23)]
    together = run(model, [PairPrompt(ids) for ids in prompts], n=12)
    for ids, rows in zip(prompts, together, strict=True):
        assert tokens(rows) == tokens(run(model, [PairPrompt(ids)], n=12)[0])


@pytest.mark.parametrize("count", [1, 3])
def test_one_token(llama, count):
    prompts = [control_pair(20 + i, i) for i in range(count)]
    for prompt, rows in zip(prompts, run(llama, prompts, n=1), strict=True):
        assert tokens(rows) == naive_pair(llama, prompt, 1)
        assert rows[0].finished


# --- two branches -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make_pair", [control_pair, context_pair])
def test_pair_is_transformers_guidance_over_64_tokens(llama, make_pair):
    prompt = make_pair(40)
    expected = llama.generate(
        torch.tensor([prompt.faithful]),
        attention_mask=torch.ones(1, 40, dtype=torch.long),
        guidance_scale=1 + ALPHA,
        negative_prompt_ids=torch.tensor([prompt.unfaithful]),
        negative_prompt_attention_mask=torch.ones(1, len(prompt.unfaithful), dtype=torch.long),
        max_new_tokens=64,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=2,
    )
    found = tokens(run(llama, [prompt], n=64)[0])
    assert found == expected[0, 40:].tolist()
    assert found != tokens(run(llama, [PairPrompt(prompt.faithful)], n=64)[0])


@pytest.mark.parametrize("make_pair", [control_pair, context_pair])
def test_pair_is_two_full_forwards_a_step(model, make_pair):
    prompt = make_pair(40)
    assert tokens(run(model, [prompt], n=10)[0]) == naive_pair(model, prompt, 10)


@pytest.mark.parametrize("make_pair", [control_pair, context_pair])
def test_padded_batch_is_two_full_forwards_a_step(model, make_pair):
    prompts = [make_pair(length, length) for length in (33, 50, 21)]
    found = run(model, prompts, n=8)
    assert [tokens(rows) for rows in found] == [naive_pair(model, prompt, 8) for prompt in prompts]


def test_mixed_batch(llama):
    """Branches of equal and of different length, with a shared start and without, in one batch."""
    apart = PairPrompt(prompt_ids(25, 1), prompt_ids(25, 2))
    other = PairPrompt(prompt_ids(12, 3), prompt_ids(30, 4))
    prompts = [control_pair(33), apart, context_pair(40), other, control_pair(9, tail=1)]
    found = run(llama, prompts, n=10)
    assert [tokens(rows) for rows in found] == [naive_pair(llama, prompt, 10) for prompt in prompts]
    assert tokens(run(llama, [apart], n=10)[0]) == tokens(found[1])


@pytest.mark.parametrize("method", ["adacad", "decore"])
def test_weights_of_each_step(llama, method):
    prompts = [context_pair(33, 1), context_pair(40, 2)]
    found = run(llama, prompts, ContrastConfig(method=method, alpha=1.0), n=8)
    for prompt, rows in zip(prompts, found, strict=True):
        for step, row in enumerate(rows):
            done = tokens(rows)[:step]
            faithful, unfaithful = (last_logits(llama, ids + done) for ids in (prompt.faithful, prompt.unfaithful))
            weight = {
                "adacad": jensen_shannon(faithful, unfaithful),
                "decore": -(faithful.exp() * faithful).sum(-1),
            }[method]
            assert row.token == int(contrasted(faithful, unfaithful, weight.item()).argmax())


def test_no_strength_is_plain_decoding(llama):
    prompt = masked_pair(30)
    rows = run(llama, [prompt], ContrastConfig(alpha=0.0), n=12, masked_heads=HEADS)[0]
    assert tokens(rows) == tokens(run(llama, [PairPrompt(prompt.faithful)], n=12)[0])
    assert all(row.jsd > 0 for row in rows)


@pytest.mark.parametrize("chunk", [1, 7, 32, 33])
def test_prefill_in_chunks(llama, chunk, monkeypatch):
    prompts = [control_pair(33), context_pair(40), masked_pair(35)]
    options = {"n": 6, "masked_heads": HEADS, "watched_heads": [(1, 1)]}
    for prompt in prompts:
        prompt.documents = [(3, 9)]
    whole = run(llama, prompts, **options)
    monkeypatch.setattr(branches, "_CHUNK", chunk)
    chunked = run(llama, prompts, **options)
    for first, second in zip(whole, chunked, strict=True):
        assert tokens(first) == tokens(second)
        assert [r.context_share for r in first] == pytest.approx([r.context_share for r in second], abs=1e-5)


# --- masked heads -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["zero", "uniform"])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3"])
def test_masked_heads_are_a_second_model_on_the_same_prefix(family, mode):
    model = make(family)
    other = broken(model, HEADS, mode)
    prompts = [masked_pair(length, length) for length in (33, 50, 21)]
    contrast = ContrastConfig(alpha=ALPHA, ablation=mode)
    expected = [naive_masked(model, other, prompt.faithful, 8) for prompt in prompts]
    for prompt, reference in zip(prompts, expected, strict=True):
        assert tokens(run(model, [prompt], contrast, n=8, masked_heads=HEADS)[0]) == reference
    found = run(model, prompts, contrast, n=8, masked_heads=HEADS)
    assert [tokens(rows) for rows in found] == expected
    plain = run(model, [PairPrompt(prompt.faithful) for prompt in prompts], n=8)
    assert expected != [tokens(rows) for rows in plain]


@pytest.mark.parametrize("mode", ["zero", "uniform"])
def test_masked_prefill_is_a_second_model_throughout(llama, mode):
    other = broken(llama, HEADS, mode)
    prompts = [masked_pair(length, length) for length in (33, 50, 21)]
    contrast = ContrastConfig(alpha=ALPHA, ablation=mode, mask_prefill=True)
    expected = [naive_pair(llama, prompt, 8, other=other) for prompt in prompts]
    assert tokens(run(llama, prompts[:1], contrast, n=8, masked_heads=HEADS)[0]) == expected[0]
    found = run(llama, prompts, contrast, n=8, masked_heads=HEADS)
    assert [tokens(rows) for rows in found] == expected
    light = run(llama, prompts, ContrastConfig(alpha=ALPHA, ablation=mode), n=8, masked_heads=HEADS)
    assert [row.jsd for row in light[0]] != [row.jsd for row in found[0]]


def test_masked_heads_of_gpt2():
    model = make("gpt2")
    prompt = masked_pair(30)

    class Other(torch.nn.Module):
        def forward(self, **inputs):
            with mask_heads(model, HEADS):
                return model(**inputs)

    reference = naive_masked(model, Other(), prompt.faithful, 8)
    assert tokens(run(model, [prompt], n=8, masked_heads=HEADS)[0]) == reference


def test_faithful_branch_is_untouched_by_the_mask(llama):
    prompts = [masked_pair(length, length) for length in (33, 20)]
    for rows, prompt in zip(run(llama, prompts, n=8, masked_heads=HEADS), prompts, strict=True):
        for step, row in enumerate(rows):
            faithful = last_logits(llama, prompt.faithful + tokens(rows)[:step])
            assert row.logprob == pytest.approx(faithful[0, row.token].item(), abs=1e-4)


# --- finished questions -----------------------------------------------------------------------------------------------


def until(found, ends):
    """Tokens up to the first end token, which is part of them."""
    return next((found[: i + 1] for i, token in enumerate(found) if token in ends), found)


@pytest.mark.parametrize("make_pair", [control_pair, context_pair])
def test_end_tokens_finish_a_question_and_leave_the_others(model, make_pair):
    prompts = [make_pair(length, length) for length in (33, 50, 21)]
    free = [tokens(rows) for rows in run(model, prompts, n=12)]
    ends = [free[0][4], free[2][7]]
    expected = [until(found, ends) for found in free]
    assert len({len(found) for found in expected}) > 1  # they end at different steps
    found = run(model, prompts, n=12, end_tokens=ends)
    assert [tokens(rows) for rows in found] == expected
    for rows in found:
        assert [row.finished for row in rows] == [False] * (len(rows) - 1) + [True]


def test_finish_stops_a_question_before_its_next_step(llama):
    prompts = [context_pair(length, length) for length in (33, 50, 21)]
    free = [tokens(rows) for rows in run(llama, prompts, n=10)]
    decoder = PairDecoder(llama, prompts, CONTRAST, max_new_tokens=10, end_tokens=[])
    found = [[] for _ in prompts]
    for step, rows in enumerate(decoder):
        for row in rows:
            found[row.question].append(row.token)
        if step == 3:
            decoder.finish(2)
        if step == 5:
            decoder.finish(0)
    assert found == [free[0][:6], free[1], free[2][:4]]


def test_all_finished_ends_the_run(llama):
    decoder = PairDecoder(llama, [control_pair(20), control_pair(30)], CONTRAST, max_new_tokens=50, end_tokens=[])
    steps = 0
    for _ in decoder:
        steps += 1
        if steps == 2:
            decoder.finish(0)
            decoder.finish(1)
    assert steps == 2


def test_finished_rows_keep_shares_and_divergences_in_step(llama):
    prompts = [masked_pair(length, length) for length in (33, 50, 21)]
    for prompt in prompts:
        prompt.documents = [(4, 12)]
    options = {"masked_heads": HEADS, "watched_heads": [(1, 1), (2, 5)]}
    free = run(llama, prompts, n=10, **options)
    ends = [free[0][2].token]
    for rows, whole in zip(run(llama, prompts, n=10, end_tokens=ends, **options), free, strict=True):
        for row, other in zip(rows, whole, strict=False):
            assert row.token == other.token
            assert row.jsd == pytest.approx(other.jsd, abs=1e-5)
            assert row.context_share == pytest.approx(other.context_share, abs=1e-5)


# --- a given prefix ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
@pytest.mark.parametrize(
    "make_pair", [control_pair, context_pair, masked_pair, lambda n, s: PairPrompt(prompt_ids(n, s))]
)
def test_a_given_prefix_changes_nothing(family, make_pair):
    model = make(family)
    heads = HEADS if make_pair is masked_pair else []
    prompts = [make_pair(length, length) for length in (33, 50)]
    expected = [tokens(rows) for rows in run(model, prompts, n=10, masked_heads=heads)]
    for prompt in prompts:
        prompt.prefix = DynamicCache()
        with torch.no_grad():
            model(input_ids=torch.tensor([prompt.faithful[:25]]), past_key_values=prompt.prefix)
    if make_pair is not context_pair:
        assert all(prompt.prefix.get_seq_length() == 25 for prompt in prompts)
    found = run(model, prompts, n=10, masked_heads=heads)
    assert [tokens(rows) for rows in found] == expected


def test_the_prefix_is_what_is_read(llama):
    """Another prefix gives another answer: the engine does not read those tokens again."""
    prompt = control_pair(33)
    expected = tokens(run(llama, [prompt], n=10)[0])
    prompt.prefix = DynamicCache()
    with torch.no_grad():
        llama(input_ids=torch.tensor([prompt_ids(25, 99)]), past_key_values=prompt.prefix)
    assert tokens(run(llama, [prompt], n=10)[0]) != expected


def test_masked_prefill_with_a_prefix(llama):
    contrast = ContrastConfig(alpha=ALPHA, mask_prefill=True)
    prompt = masked_pair(33)
    expected = tokens(run(llama, [prompt], contrast, n=10, masked_heads=HEADS)[0])
    prompt.prefix = DynamicCache()
    with torch.no_grad():
        llama(input_ids=torch.tensor([prompt.faithful[:25]]), past_key_values=prompt.prefix)
    assert tokens(run(llama, [prompt], contrast, n=10, masked_heads=HEADS)[0]) == expected


# --- signals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make_pair", [control_pair, context_pair, masked_pair])
def test_logprob_and_divergence(llama, make_pair):
    prompts = [make_pair(length, length) for length in (33, 50)]
    heads = HEADS if make_pair is masked_pair else []
    for prompt, rows in zip(prompts, run(llama, prompts, n=8, masked_heads=heads), strict=True):
        for step, row in enumerate(rows):
            done = tokens(rows)[:step]
            faithful = last_logits(llama, prompt.faithful + done)
            assert row.logprob == pytest.approx(faithful[0, row.token].item(), abs=1e-4)
            if not heads:
                expected = jensen_shannon(faithful, last_logits(llama, prompt.unfaithful + done)).item()
                assert row.jsd == pytest.approx(expected, abs=1e-4)
            assert 0 < row.jsd < 0.6932


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
@pytest.mark.parametrize("kind", ["plain", "context", "masked"])
def test_context_share_is_eager_attention_s(family, kind):
    model = make(family)
    eager = copy.deepcopy(model)
    eager.set_attn_implementation("eager")
    make_pair = {"plain": lambda n, s: PairPrompt(prompt_ids(n, s)), "context": context_pair, "masked": masked_pair}[
        kind
    ]
    prompts = [make_pair(length, length) for length in (33, 50, 21)]
    for i, prompt in enumerate(prompts):
        prompt.documents = [(2 + i, 6), (9, 15 + i)]
    watched = [(3, 2), (1, 0), (3, 5)]
    heads = [(3, 2), (1, 1)] if kind == "masked" else []
    found = run(model, prompts, n=6, masked_heads=heads, watched_heads=watched)
    for i, (prompt, rows) in enumerate(zip(prompts, found, strict=True)):
        ids = torch.tensor([prompt.faithful + tokens(rows)[:-1]])
        with torch.no_grad():
            attention = eager(input_ids=ids, output_attentions=True).attentions
        for step, row in enumerate(rows):
            last = len(prompt.faithful) - 1 + step
            columns = [*range(2 + i, 6), *range(9, 15 + i)]
            share = torch.stack([attention[layer][0, head, last, columns].sum() for layer, head in watched]).mean()
            assert row.context_share == pytest.approx(share.item(), abs=1e-5)
            assert 0 < row.context_share < 1


# --- details ----------------------------------------------------------------------------------------------------------

KINDS = {
    "plain": lambda n, s: PairPrompt(prompt_ids(n, s)),
    "control": control_pair,
    "context": context_pair,
    "masked": masked_pair,
}


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
@pytest.mark.parametrize("kind", KINDS)
def test_details_change_nothing_else(family, kind):
    model = make(family)
    prompts = [KINDS[kind](length, length) for length in (33, 50, 21)]
    for prompt in prompts:
        prompt.documents = [(2, 6), (6, 9), (11, 15)]
    options = {"n": 10, "watched_heads": [(1, 0), (3, 5)], "masked_heads": HEADS if kind == "masked" else []}
    plain, detailed = run(model, prompts, **options), run(model, prompts, alternatives=3, **options)
    for rows, others in zip(plain, detailed, strict=True):
        for row, other in zip(rows, others, strict=True):
            assert row.detail is None
            assert (other.token, other.logprob, other.jsd) == (row.token, row.logprob, row.jsd)
            assert other.context_share == pytest.approx(row.context_share, abs=1e-6)
            assert sum(other.detail.attention) == pytest.approx(row.context_share, abs=1e-6)


@pytest.mark.parametrize("kind", ["plain", "context"])
def test_alternatives_are_the_likeliest_of_each_branch(llama, kind):
    prompts = [KINDS[kind](length, length) for length in (33, 21)]
    for prompt, rows in zip(prompts, run(llama, prompts, n=5, alternatives=4), strict=True):
        for step, row in enumerate(rows):
            written = tokens(rows)[:step]
            wanted = last_logits(llama, prompt.faithful + written)[0].exp().topk(4)
            assert [token for token, _ in row.detail.faithful] == wanted.indices.tolist()
            assert [p for _, p in row.detail.faithful] == pytest.approx(wanted.values.tolist(), abs=1e-5)
            assert row.detail.attention == []
            if kind == "plain":
                assert row.detail.unfaithful is row.detail.unfaithful_probability is None
                continue
            whole = last_logits(llama, prompt.unfaithful + written)[0].exp()
            assert [token for token, _ in row.detail.unfaithful] == whole.topk(4).indices.tolist()
            assert [p for _, p in row.detail.unfaithful] == pytest.approx(whole.topk(4).values.tolist(), abs=1e-5)
            assert row.detail.unfaithful_probability == pytest.approx(whole[row.token].item(), abs=1e-5)


def test_more_alternatives_than_tokens(llama):
    (rows,) = run(llama, [control_pair(20)], n=2, alternatives=9999)
    assert len(rows[0].detail.faithful) == len(rows[1].detail.unfaithful) == llama.config.vocab_size


def test_each_part_of_the_documents_has_its_own_attention(llama):
    eager = copy.deepcopy(llama)
    eager.set_attn_implementation("eager")
    prompts = [masked_pair(length, length) for length in (33, 50, 21)]
    for i, prompt in enumerate(prompts):  # one part more each, and an empty one
        prompt.documents = [(2, 5), (5, 5), (5, 9), (12, 14)][: 2 + i]
    watched = [(3, 2), (1, 0), (3, 5)]
    heads = [(3, 2), (1, 1)]
    found = run(llama, prompts, n=6, masked_heads=heads, watched_heads=watched, alternatives=1, end_tokens=[])
    for prompt, rows in zip(prompts, found, strict=True):
        ids = torch.tensor([prompt.faithful + tokens(rows)[:-1]])
        with torch.no_grad():
            attention = eager(input_ids=ids, output_attentions=True).attentions
        for step, row in enumerate(rows):
            last = len(prompt.faithful) - 1 + step
            mean = torch.stack([attention[layer][0, head, last] for layer, head in watched]).mean(0)
            wanted = [mean[start:end].sum().item() for start, end in prompt.documents]
            assert row.detail.attention == pytest.approx(wanted, abs=1e-5)


def test_details_stay_with_their_question_when_others_end(llama):
    prompts = [masked_pair(length, length) for length in (33, 50, 21)]
    for i, prompt in enumerate(prompts):
        prompt.documents = [(2, 5), (5, 9), (12, 14)][: 1 + i]
    options = {"masked_heads": HEADS, "watched_heads": [(1, 1), (2, 5)], "alternatives": 2, "n": 12}
    whole = run(llama, prompts, **options)
    ends = [whole[0][2].token]
    found = run(llama, prompts, **{**options, "end_tokens": ends})
    assert len({len(rows) for rows in found}) > 1
    for rows, others in zip(found, whole, strict=True):
        for row, other in zip(rows, others, strict=False):
            assert row.detail.attention == pytest.approx(other.detail.attention, abs=1e-5)
            assert [token for token, _ in row.detail.unfaithful] == [token for token, _ in other.detail.unfaithful]


def test_sampling_does_not_depend_on_the_batch(llama):
    prompts = [context_pair(length, length) for length in (33, 50, 21)]
    sampling = SamplingConfig(temperature=1.0, top_p=0.9, seed=4)
    together = [tokens(rows) for rows in run(llama, prompts, n=10, sampling=sampling)]
    assert together == [tokens(run(llama, [prompt], n=10, sampling=sampling)[0]) for prompt in prompts]
    other = SamplingConfig(temperature=1.0, top_p=0.9, seed=5)
    assert together != [tokens(rows) for rows in run(llama, prompts, n=10, sampling=other)]


# --- refusals, and what is left behind --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["linear_attention", "mamba"])
def test_state_that_is_not_keys_and_values_is_refused(kind):
    model = tiny.llama()
    model.config.layer_types = ["full_attention", kind] * 2
    with pytest.raises(ValueError, match=f"{kind} layers"):
        PairDecoder(model, [control_pair(10)], CONTRAST, max_new_tokens=2, end_tokens=[])


def test_half_a_pair_is_refused(llama):
    with pytest.raises(ValueError, match="all prompts"):
        PairDecoder(llama, [control_pair(10), PairPrompt([5, 6])], CONTRAST, max_new_tokens=2, end_tokens=[])


def test_the_model_is_left_as_it_was(llama):
    weights = {name: value.clone() for name, value in llama.state_dict().items()}
    prompts = [masked_pair(20), masked_pair(30)]
    steps = iter(
        PairDecoder(llama, prompts, CONTRAST, max_new_tokens=9, end_tokens=[], masked_heads=HEADS, watched_heads=HEADS)
    )
    next(steps)
    next(steps)  # given up in the middle of an answer
    steps.close()
    assert llama.config._attn_implementation == "sdpa"
    assert not any(module._forward_pre_hooks for module in llama.modules())
    assert all(torch.equal(value, weights[name]) for name, value in llama.state_dict().items())


def test_steps_do_not_hold_the_attention_between_them(llama):
    """Between two steps of one question another one may use the model."""
    prompt, other = masked_pair(33, 1), masked_pair(40, 2)
    expected = [tokens(run(llama, [p], n=8, masked_heads=HEADS, watched_heads=HEADS)[0]) for p in (prompt, other)]
    decoders = [
        PairDecoder(llama, [p], CONTRAST, max_new_tokens=8, end_tokens=[], masked_heads=HEADS, watched_heads=HEADS)
        for p in (prompt, other)
    ]
    found = [[], []]
    for pair in zip(*decoders, strict=True):
        for i, rows in enumerate(pair):
            found[i].append(rows[0].token)
    assert found == expected
