"""The tree of two branches gives what two rows give: tokens, signals and attention shares."""

import functools

import pytest
import torch

from faithgen import hf
from faithgen.decoding.branches import BranchModel, PairPrompt, common_prefix
from faithgen.decoding.contrast import ContrastConfig
from faithgen.decoding.engine import PairDecoder
from faithgen.decoding.tree import TreeBranches, can_branch
from tests import tiny
from tests.decoding import pairs
from tests.decoding.pairs import prompt_ids

SHARP = {"initializer_range": 0.1}  # attention that matters, and no near ties between tokens
HEADS = [(1, 0), (1, 3), (3, 3), (3, 6), (1, 7), (3, 1)]


@functools.cache
def make(family, attention="sdpa"):
    model = getattr(tiny, family)(**SHARP)
    model.set_attn_implementation(attention)
    return model


def control_pair(length, seed=0, tail=4):
    return pairs.control_pair(length, seed, tail, documents=[(2, 9), (12, length - 8)])


def masked_pair(length, seed=0):
    ids = prompt_ids(length, seed)
    return PairPrompt(ids, ids, documents=[(2, 9)])


def run(model, prompts, branches, n=16, contrast=None, **options):
    decoder = PairDecoder(
        model,
        prompts,
        contrast or ContrastConfig(alpha=0.8),
        max_new_tokens=n,
        end_tokens=options.pop("end_tokens", []),
        branches=branches,
        **options,
    )
    found = [[] for _ in prompts]
    for rows in decoder:
        for row in rows:
            found[row.question].append(row)
    return found


def same(first, second):
    """Rows of two ways, question by question."""
    for one, other in zip(first, second, strict=True):
        assert [row.token for row in one] == [row.token for row in other]
        assert [row.finished for row in one] == [row.finished for row in other]
        for name in ("logprob", "jsd", "context_share"):
            values = [getattr(row, name) for row in one]
            if values[0] is not None:
                assert values == pytest.approx([getattr(row, name) for row in other], abs=2e-4)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
@pytest.mark.parametrize("kind", [control_pair, masked_pair])
def test_twenty_prompts_of_64_tokens_are_those_of_two_rows(family, attention, kind):
    """Batches with padding, questions that end on the way, and one alone."""
    model = make(family, attention)
    lengths = [24, 31, 60, 24, 45, 90, 33]
    for start, size in [(0, 1), (1, 7), (8, 5), (13, 7)]:
        prompts = [kind(lengths[i % len(lengths)], seed=start + i) for i in range(size)]
        options = {"n": 64, "masked_heads": HEADS if kind is masked_pair else (), "end_tokens": range(5, 20)}
        same(run(model, prompts, "tree", **options), run(model, prompts, "rows", **options))


@pytest.mark.parametrize("ablation", ["zero", "uniform"])
@pytest.mark.parametrize("kind", [control_pair, masked_pair])
def test_masked_and_watched_heads(kind, ablation):
    model = make("llama")
    prompts = [kind(length, seed=length) for length in (40, 23, 31)]
    options = {"masked_heads": HEADS, "watched_heads": [(1, 2), (3, 0)]}
    options["contrast"] = ContrastConfig(alpha=0.8, ablation=ablation)
    tree, rows = (run(model, prompts, way, **options) for way in ("tree", "rows"))
    same(tree, rows)
    assert all(0 < row.context_share < 1 for rows in tree for row in rows)


def test_masking_reaches_only_the_unfaithful_branch():
    """At alpha 0 the tokens are plain decoding's, while the branches differ."""
    model, prompt = make("llama"), masked_pair(30)
    rows = run(model, [prompt], "tree", contrast=ContrastConfig(alpha=0.0), masked_heads=HEADS)[0]
    plain = run(model, [PairPrompt(prompt.faithful)], "rows")[0]
    assert [row.token for row in rows] == [row.token for row in plain]
    assert [row.logprob for row in rows] == pytest.approx([row.logprob for row in plain], abs=1e-4)
    assert all(row.jsd > 1e-4 for row in rows)


def test_a_pair_stores_its_prefix_once():
    model, through = make("llama"), BranchModel(make("llama"))
    prompts = [control_pair(length, seed=length) for length in (40, 40, 40)]
    with torch.inference_mode():
        branches = TreeBranches.join([TreeBranches.read(through, prompt) for prompt in prompts])
        for _ in range(5):
            branches.advance(torch.tensor([7, 8, 9]))
    keys = branches.cache.layers[0].keys
    assert keys.shape[0] == 3
    assert keys.shape[2] == 36 + 2 * (4 + 5)
    assert hf.device_of(model).type == "cpu"


def test_a_prefix_computed_before_is_used():
    """A steered prefill: the columns are another model's, and the answer changes with them."""
    model, prompt = make("llama"), control_pair(40)

    def prefixed(shift):
        cache = hf.new_cache()
        ids = torch.tensor([[(token + shift) % 500 + 5 for token in prompt.faithful[:30]]])
        with torch.inference_mode():
            model(input_ids=ids, past_key_values=cache, use_cache=True)
        return PairPrompt(prompt.faithful, prompt.unfaithful, prefix=cache)

    for shift in (0, 3):
        same(run(model, [prefixed(shift)], "tree"), run(model, [prefixed(shift)], "rows"))
    other = [row.token for row in run(model, [prefixed(3)], "tree")[0]]
    assert [row.token for row in run(model, [prefixed(0)], "tree")[0]] != other


REFUSED = {
    "a control token in front of the documents": PairPrompt(
        [9, *prompt_ids(40)], [8, *prompt_ids(40)], documents=[(1, 30)]
    ),
    "no documents in the other prompt": PairPrompt(prompt_ids(40), prompt_ids(40)[:3] + prompt_ids(40)[-8:]),
    "one branch": PairPrompt(prompt_ids(40)),
    "prompts that part at once": PairPrompt([1, 2, 3], [4, 2, 3]),
}


@pytest.mark.parametrize("why", REFUSED)
def test_prompts_that_share_too_little_stay_rows(why):
    model, prompts = make("llama"), [REFUSED[why]]
    assert not can_branch(BranchModel(model), prompts[0])
    with pytest.raises(ValueError, match="cannot share a stored prefix"):
        run(model, prompts, "tree")
    same(run(model, prompts, "auto", n=4), run(model, prompts, "rows", n=4))


def test_trees_and_rows_in_one_run():
    """A prompt that shares too little among others that share enough."""
    model = make("llama")
    prompts = [
        control_pair(40),
        REFUSED["no documents in the other prompt"],
        control_pair(31, tail=7),
        control_pair(24),
    ]
    for slots in (None, 2):
        same(run(model, prompts, "auto", slots=slots), run(model, prompts, "rows"))


@pytest.mark.parametrize("family", ["gemma3", "mistral"])
def test_sliding_windows_stay_rows(family):
    assert can_branch(BranchModel(make("llama")), control_pair(40))
    assert not can_branch(BranchModel(make(family)), control_pair(40))


def test_a_masked_prefill_stays_rows():
    through = BranchModel(make("llama"), HEADS, mask_prefill=True)
    assert not can_branch(through, masked_pair(40))
    assert can_branch(BranchModel(make("llama"), HEADS), masked_pair(40))


def test_common_prefix_leaves_a_token_to_run():
    assert common_prefix([1, 2, 3], [1, 2, 3]) == 2
    assert common_prefix([1, 2, 3], [1, 5, 3]) == 1
    assert common_prefix([1], [1]) == 0
