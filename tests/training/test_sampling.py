from dataclasses import replace

import pytest
import torch

from faithgen import hf
from faithgen.errors import FaithgenError
from faithgen.heads.ablation import bake_mask, mask_heads
from faithgen.heads.head_set import HeadSet
from faithgen.training.sampling import EngineSampler, choose_heads, row_seed

HEADS = [(0, 1), (1, 0), (2, 7), (3, 3)]
PROMPTS = [list(range(5, 5 + size)) for size in (40, 23, 9)]
SETTINGS = {"temperature": 1.0, "top_p": 0.95, "max_new_tokens": 12}


@pytest.fixture
def sharp(fresh):
    """Attention that is far from uniform, as in a trained model."""
    with torch.no_grad():
        for layer in fresh.model.model.layers:
            layer.self_attn.q_proj.weight.mul_(30)
            layer.self_attn.k_proj.weight.mul_(30)
    return fresh


def greedy(model, prompt, count):
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(count):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("mode", ["zero", "uniform"])
def test_a_batch_decodes_as_the_masked_model_does_alone(sharp, mode):
    sampler = EngineSampler(sharp, HEADS, mode, temperature=0.0, top_p=1.0, max_new_tokens=12)
    found = sampler(PROMPTS, [0, 1, 2])
    with mask_heads(sharp.model, HEADS, mode=mode):
        expected = [greedy(sharp.model, prompt, 12) for prompt in PROMPTS]
    ends = hf.end_tokens(sharp.model, sharp.tokenizer)
    for sample, tokens in zip(found, expected, strict=True):
        stop = next((i for i, token in enumerate(tokens) if token in ends), None)
        assert sample.finished == (stop is not None)
        assert sample.text == sharp.tokenizer.decode(tokens[:stop], skip_special_tokens=True).strip()
    whole = EngineSampler(sharp, [], mode, temperature=0.0, top_p=1.0, max_new_tokens=12)(PROMPTS, [0, 1, 2])
    assert whole != found


def test_zeroing_is_what_a_baked_checkpoint_answers(sharp, tmp_path):
    from transformers import AutoModelForCausalLM

    folder = bake_mask(sharp, HEADS, tmp_path / "baked")
    baked = replace(sharp, model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))
    masked = EngineSampler(sharp, HEADS, "zero", **SETTINGS)(PROMPTS, [1, 2, 3])
    assert masked == EngineSampler(baked, [], "zero", **SETTINGS)(PROMPTS, [1, 2, 3])


def test_a_sample_depends_on_its_own_seed_alone(tiny_loaded):
    sampler = EngineSampler(tiny_loaded, HEADS, "zero", **SETTINGS)
    together = sampler(PROMPTS, [11, 22, 33])
    alone = [sampler([prompt], [seed])[0] for prompt, seed in zip(PROMPTS, (11, 22, 33), strict=True)]
    assert together == alone
    assert sampler([PROMPTS[0]] * 3, [1, 2, 3])[0] != sampler([PROMPTS[0]] * 3, [4, 1, 1])[0]
    assert sampler([PROMPTS[0]] * 2, [5, 5])[0] == sampler([PROMPTS[0]] * 2, [6, 5])[1]


def test_heads_by_count_share_and_threshold():
    scores = [[0.0] * 8 for _ in range(4)]
    scores[2][5], scores[1][1], scores[3][0] = 0.9, 0.5, 0.1
    heads = HeadSet(scores, "copying", "tiny")
    assert choose_heads(heads, count=2) == [(2, 5), (1, 1)]
    assert choose_heads(heads, share=0.1) == [(2, 5), (1, 1), (3, 0)]
    assert choose_heads(heads, threshold=0.1) == [(2, 5), (1, 1), (3, 0)]
    assert len(choose_heads(heads)) == 2  # 5 % of 32
    random = heads.random_like(3)
    assert len(choose_heads(random, threshold=0.1)) == 3
    assert choose_heads(random, threshold=0.1) != choose_heads(heads, threshold=0.1)
    for wrong in ({"count": 2, "share": 0.1}, {"share": 0.0}, {"share": 1.1}, {"threshold": 2.0}, {"count": 33}):
        with pytest.raises(FaithgenError):
            choose_heads(heads, **wrong)


def test_seeds_differ_by_row_branch_and_run():
    seeds = {row_seed(run, row, branch) for run in (0, 1) for row in ("1", "2") for branch in ("", "own")}
    assert len(seeds) == 8
    assert row_seed(0, "1") == row_seed(0, "1")
    assert all(0 <= seed < 2**63 for seed in seeds)
