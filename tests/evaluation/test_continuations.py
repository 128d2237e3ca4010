import functools

import pytest
import torch
from transformers import DynamicCache

from faithgen import ContrastConfig, FaithgenError
from faithgen.decoding.contrast import combine
from faithgen.decoding.engine import PairDecoder, PairPrompt
from faithgen.evaluation.continuations import EndingPrompt, score_endings
from faithgen.heads.ablation import mask_heads
from tests import tiny
from tests.evaluation.running import SHARP

HEADS = [(1, 0), (1, 3), (3, 3), (3, 6), (1, 7), (3, 1)]
CONTRASTS = [
    ContrastConfig(source="heads", alpha=0.8),
    ContrastConfig(source="heads", method="decore", alpha=1.0, ablation="uniform"),
    ContrastConfig(source="heads", alpha=0.8, mask_prefill=True),
    ContrastConfig(source="context", method="adacad", alpha=1.0),
    ContrastConfig(source="context", method="cad", alpha=0.5),
    ContrastConfig(source="none"),
]


@functools.cache
def make(family):
    return getattr(tiny, family)(**SHARP)


def ids(length, seed):
    return torch.randint(5, 512, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def prompts(source, lengths=(9, 30, 17, 1)):
    found = []
    for number, length in enumerate(lengths):
        faithful = ids(length, number)
        other = {"heads": faithful, "context": faithful[-max(1, length // 2) :], "none": None}[source]
        found.append(EndingPrompt(faithful, [ids(1 + number, 50), ids(4, 60 + number), ids(2, 70)], other))
    return found


@torch.inference_mode()
def naive(model, prompt, ending, contrast, heads):
    """One token at a time, one row, as the papers describe it."""
    caches = [DynamicCache(), DynamicCache()]
    rows = []
    for branch, start in enumerate((prompt.faithful, prompt.unfaithful)):
        found = []
        if start is None:
            continue
        masked = mask_heads(model, heads, mode=contrast.ablation) if branch and heads else None
        for position, token in enumerate(start + ending[:-1]):
            on = masked is not None and (contrast.mask_prefill or position >= len(start) - 1)
            arguments = {"input_ids": torch.tensor([[token]]), "past_key_values": caches[branch], "use_cache": True}
            if on:
                with mask_heads(model, heads, mode=contrast.ablation):
                    logits = model(**arguments).logits[:, -1]
            else:
                logits = model(**arguments).logits[:, -1]
            if position >= len(start) - 1:
                found.append(logits.float().log_softmax(-1))
        rows.append(found)
    total, greedy = 0.0, True
    for step, token in enumerate(ending):
        scores = rows[0][step]
        if prompt.unfaithful is not None:
            scores = combine(scores, rows[1][step], contrast).log_softmax(-1)
        total += float(scores[0, token])
        greedy &= int(scores.argmax()) == token
    return total, greedy


@pytest.mark.parametrize("contrast", CONTRASTS, ids=lambda c: f"{c.source}-{c.method}-{c.ablation}-{c.mask_prefill}")
@pytest.mark.parametrize("family", ["llama", "gemma3", "mistral", "gpt2"])
def test_scores_are_those_of_a_naive_loop(family, contrast):
    model = make(family)
    # Mistral here has no layer of full attention, so none whose heads could be masked
    heads = HEADS if contrast.source == "heads" and family != "mistral" else []
    given = prompts(contrast.source)
    found = score_endings(model, given, contrast, masked_heads=heads, batch_size=5)
    for prompt, scores in zip(given, found, strict=True):
        assert [score.tokens for score in scores] == [len(ending) for ending in prompt.endings]
        for ending, score in zip(prompt.endings, scores, strict=True):
            total, greedy = naive(model, prompt, ending, contrast, heads)
            assert score.logprob == pytest.approx(total, abs=2e-3)
            assert score.greedy == greedy


@pytest.mark.parametrize("contrast", CONTRASTS[:2] + CONTRASTS[3:4], ids=lambda c: f"{c.source}-{c.method}")
def test_scores_do_not_depend_on_the_batch(contrast):
    model = make("llama")
    heads = HEADS if contrast.source == "heads" else []
    given = prompts(contrast.source)
    together = score_endings(model, given, contrast, masked_heads=heads, batch_size=12)
    alone = [score_endings(model, [one], contrast, masked_heads=heads, batch_size=1)[0] for one in given]
    for first, second in zip(together, alone, strict=True):
        assert [s.logprob for s in first] == pytest.approx([s.logprob for s in second], abs=1e-4)


@pytest.mark.parametrize("contrast", [CONTRASTS[0], CONTRASTS[3], CONTRASTS[5]], ids=lambda c: c.source)
def test_what_greedy_decoding_writes_is_called_greedy(contrast):
    model = make("llama")
    heads = HEADS if contrast.source == "heads" else []
    prompt = prompts(contrast.source)[1]
    pair = PairPrompt(prompt.faithful, prompt.unfaithful)
    decoder = PairDecoder(model, [pair], contrast, max_new_tokens=5, end_tokens=[4], masked_heads=heads)
    written = [rows[0].token for rows in decoder]
    changed = [*written[:-1], (written[-1] + 1) % 500]
    asked = EndingPrompt(prompt.faithful, [written, changed], prompt.unfaithful)
    greedy, other = score_endings(model, [asked], contrast, masked_heads=heads)[0]
    assert greedy.greedy
    assert not other.greedy
    assert greedy.logprob > other.logprob


def test_masking_heads_changes_the_scores():
    model = make("llama")
    contrast = CONTRASTS[0]
    given = prompts("heads")
    masked = score_endings(model, given, contrast, masked_heads=HEADS)
    plain = score_endings(model, given, contrast)
    assert [s.logprob for row in masked for s in row] != pytest.approx([s.logprob for row in plain for s in row])
    unpaired = score_endings(model, prompts("none"), ContrastConfig(source="none"))
    # without masked heads both branches are one, and contrasting a distribution with itself changes nothing
    assert [s.logprob for row in plain for s in row] == pytest.approx(
        [s.logprob for row in unpaired for s in row], abs=1e-4
    )


def test_prompts_that_cannot_be_scored():
    model = make("llama")
    none = ContrastConfig(source="none")
    with pytest.raises(FaithgenError, match="no tokens"):
        score_endings(model, [EndingPrompt([], [[5]])], none)
    with pytest.raises(FaithgenError, match="no tokens"):
        score_endings(model, [EndingPrompt([5], [[]])], none)
    with pytest.raises(FaithgenError, match="window of 1024"):
        score_endings(model, [EndingPrompt(ids(1020, 0), [ids(6, 1)])], none)
    with pytest.raises(ValueError, match="none"):
        score_endings(model, [EndingPrompt([5], [[6]]), EndingPrompt([5], [[6]], [5])], none)
    assert score_endings(model, [], none) == []
    assert score_endings(model, [EndingPrompt([5], [])], none) == [[]]
