import copy

import pytest
import torch

pytest.importorskip("trl")

from trl.trainer.utils import add_fused_lm_head

from faithgen.training.lm_head import score_answers_only
from tests import tiny

FIELDS = ("log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1")


@pytest.mark.parametrize("make", [tiny.llama, tiny.qwen3, tiny.gemma3, tiny.gpt2])
def test_answers_alone_give_what_trls_head_gives(make):
    ids = torch.arange(5, 45).view(2, 20)
    labels = ids.masked_fill(torch.arange(20) < torch.tensor([[12], [15]]), -100)
    labels[0, 18:] = -100
    found = []
    for ours in (False, True):
        model = copy.deepcopy(make()).float()
        add_fused_lm_head(model, outputs=FIELDS)
        if ours:
            assert score_answers_only(model)
        output = model(input_ids=ids, labels=labels, fused_lm_head=True)
        (output.log_probs.sum() + output.entropy.sum()).backward()
        found.append((output, {name: p.grad for name, p in model.named_parameters()}))
    (theirs, their_grads), (mine, my_grads) = found
    assert torch.equal(mine.label_mask, theirs.label_mask)
    assert torch.allclose(mine.loss, theirs.loss, atol=1e-5)
    for name in FIELDS:
        assert torch.allclose(getattr(mine, name).float(), getattr(theirs, name).float(), atol=1e-4), name
    for name, grad in their_grads.items():
        if grad is not None:
            assert torch.allclose(my_grads[name], grad, atol=1e-4), name


def test_only_the_columns_with_answers_reach_the_head():
    model = tiny.llama()
    add_fused_lm_head(model)
    seen = []
    model.lm_head.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[1]))
    score_answers_only(model)
    ids = torch.arange(5, 45).view(2, 20)
    model(input_ids=ids, labels=ids.masked_fill(torch.arange(20) < 17, -100), fused_lm_head=True)
    assert seen == [3]


def test_without_labels_or_answers_nothing_changes():
    model, ids = tiny.llama(), torch.arange(5, 25)[None]
    expected = model(ids).logits
    add_fused_lm_head(model)
    score_answers_only(model)
    assert torch.equal(model(ids).logits, expected)
    nothing = model(input_ids=ids, labels=torch.full_like(ids, -100), fused_lm_head=True)
    assert nothing.log_probs.sum() == 0
    assert model(input_ids=ids, labels=ids).loss.isfinite()
