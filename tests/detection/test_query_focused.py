from dataclasses import replace

import pytest
import torch

from faithgen.detection import detect_heads
from faithgen.detection.instances import load_instances
from faithgen.detection.query_focused import query_focused_scores
from faithgen.documents import Document
from faithgen.errors import FaithgenError
from faithgen.models import LoadedModel
from faithgen.prompting import PromptBuilder
from tests import tiny
from tests.conftest import ROOT

DATA = ROOT / "tests" / "data" / "tiny_qa.jsonl"


@pytest.fixture(scope="module")
def instances():
    return load_instances(DATA)[0][:3]


@torch.inference_mode()
def question_attention(eager, ids, rows, documents) -> torch.Tensor:
    """`[layers, heads, documents]` by hand: mean over question rows of the sum over document tokens."""
    attentions = eager(input_ids=torch.tensor([ids]), output_attentions=True).attentions
    weights = torch.stack([layer[0, :, rows[0] : rows[1]].mean(1) for layer in attentions])  # [L, H, S]
    return torch.stack([weights[:, :, start:end].sum(-1) for start, end in documents], dim=-1)


def naive(family, tokenizer, instances, *, normalise=True, calibrate=False) -> torch.Tensor:
    eager = family()
    eager.set_attn_implementation("eager")
    builder = PromptBuilder(tokenizer, 1024)
    total = 0
    for instance in instances:
        prompt = builder.build(instance.question, instance.documents)
        spans = [place.span for place in prompt.documents]
        start, end = prompt.question
        alpha = question_attention(eager, prompt.input_ids[:end], (start, end), spans)
        if calibrate:
            null = builder.data_ids(" N/A")
            ids = prompt.input_ids[:start] + null
            alpha = alpha - question_attention(eager, ids, (start, len(ids)), spans)
        if normalise:
            alpha = alpha.clamp(min=0)
            alpha = alpha / alpha.sum(-1, keepdim=True).clamp(min=1e-12)
        total = total + alpha[:, :, instance.gold].sum(-1)
    return total / len(instances)


@pytest.mark.parametrize("calibrate", [False, True])
@pytest.mark.parametrize("normalise", [False, True])
def test_scores_are_those_of_two_full_eager_passes(tiny_loaded, instances, normalise, calibrate):
    if calibrate:  # a question as short as the empty one, else the difference is below zero for every document
        instances = [replace(instance, question="it") for instance in instances]
    scores, used, dropped = query_focused_scores(tiny_loaded, instances, normalise=normalise, calibrate=calibrate)
    wanted = naive(tiny.llama, tiny_loaded.tokenizer, instances, normalise=normalise, calibrate=calibrate)
    tolerance = 1e-4 if normalise and calibrate else 1e-5  # a quotient of small differences
    assert torch.allclose(torch.tensor(scores), wanted, atol=tolerance)
    assert (used, not dropped) == (3, True)
    assert wanted.std() > 1e-5


def test_layers_without_full_attention_score_nothing(byte_level, instances):
    loaded = LoadedModel(tiny.gemma3(), byte_level, "g", "0")
    scores, used, _ = query_focused_scores(loaded, instances, calibrate=False)
    wanted = naive(tiny.gemma3, byte_level, instances)
    assert used == 3
    assert [any(row) for row in scores] == [False, True, False, True]
    assert torch.allclose(torch.tensor(scores)[[1, 3]], wanted[[1, 3]], atol=1e-5)


def test_normalised_scores_over_all_documents_are_shares(tiny_loaded, instances):
    shares = torch.zeros(4, 8)
    for gold in range(3):
        instance = replace(instances[0], gold=[gold])
        shares += torch.tensor(query_focused_scores(tiny_loaded, [instance], calibrate=False)[0])
    assert torch.allclose(shares, torch.ones(4, 8), atol=1e-5)


def test_a_head_that_looks_at_the_evidence_scores_highest(tiny_loaded, instances, monkeypatch):
    """The detector's arithmetic on known attention: one head gives the gold document all, the others spread it."""
    from faithgen.detection import query_focused

    def attention(model, builder, heads, question, documents, *, calibrate):
        gold = next(one.gold[0] for one in instances if one.question == question)
        found = torch.full((len(heads), len(documents)), 0.1)
        found[heads.index((2, 6))] = 0.0
        found[heads.index((2, 6)), gold] = 0.01
        return found, builder.build(question, documents)

    monkeypatch.setattr(query_focused, "document_attention", attention)
    scores, _, _ = query_focused_scores(tiny_loaded, instances)
    assert scores[2][6] == pytest.approx(1.0)
    assert scores[0][0] == pytest.approx(1 / 3)
    scores, _, _ = query_focused_scores(tiny_loaded, instances, normalise=False)
    assert scores[2][6] == pytest.approx(0.01)


def test_instances_that_say_nothing_are_dropped_with_the_reason(byte_level, instances):
    loaded = LoadedModel(tiny.llama(max_position_embeddings=400), byte_level, "tiny", "0")
    good = instances[0]
    long = Document("The lighthouse of Skarnholm was first lit in 1868. " * 40, "9")
    cut = replace(good, documents=[*good.documents, long], gold=[3])
    alone = replace(good, documents=good.documents[:1], gold=[0])
    all_gold = replace(good, gold=[0, 1, 2])
    too_long = replace(good, question="who built the tram line? " * 100)
    scores, used, dropped = query_focused_scores(loaded, [cut, alone, good, all_gold, too_long])
    assert used == 1
    assert dict(dropped) == {
        "gold document cut by the model's window": 1,
        "no distractor document": 2,
        "longer than the model's window": 1,
    }
    assert scores == query_focused_scores(loaded, [good])[0]


def test_no_more_than_asked_are_used(tiny_loaded, instances):
    reports = []
    scores, used, _ = query_focused_scores(
        tiny_loaded, instances, max_instances=2, progress=lambda *report: reports.append(report)
    )
    assert used == 2
    assert reports == [(1, 2), (2, 2)]
    assert scores == query_focused_scores(tiny_loaded, instances[:2])[0]


# --- detect_heads ----------------------------------------------------------------------------------------------------


def test_a_detected_set_carries_where_it_comes_from(tiny_loaded, tmp_path):
    data = tmp_path / "mine.jsonl"
    data.write_text(DATA.read_text(encoding="utf-8") + "{\n", encoding="utf-8")
    with pytest.warns(UserWarning, match="only 8 instances were used .*give at least 20"):
        heads = detect_heads(tiny_loaded, data=data, seed=3, normalise=False, calibrate=False)
    assert (heads.method, heads.model_id, heads.revision) == ("query_focused", "tiny", "0")
    assert (heads.data, heads.seed, heads.used) == ("mine.jsonl", 3, 8)
    assert heads.dropped == {"row is not JSON": 1}
    assert heads.settings == {"normalise": False, "calibrate": False, "dtype": "float32"}
    assert heads.threshold is None
    assert heads.versions.keys() == {"faithgen", "torch", "transformers"}
    assert heads.versions["torch"] == torch.__version__
    assert (heads.num_layers, heads.num_heads) == (4, 8)
    heads.check(4, 8, "tiny", "0")


@pytest.mark.filterwarnings("ignore:only")
def test_the_seed_decides_which_instances_are_used(tiny_loaded):
    first, again, other = (
        detect_heads(tiny_loaded, data=DATA, max_instances=2, seed=seed, calibrate=False) for seed in (0, 0, 5)
    )
    assert first == again
    assert first.scores != other.scores
    assert first.used == 2


@pytest.mark.filterwarnings("error")
def test_enough_instances_are_no_reason_to_warn(tiny_loaded, monkeypatch):
    monkeypatch.setattr("faithgen.detection.MIN_INSTANCES", 8)
    assert detect_heads(tiny_loaded, data=DATA).used == 8


def test_no_usable_instance_is_an_error_that_says_why(byte_level):
    loaded = LoadedModel(tiny.llama(max_position_embeddings=60), byte_level, "tiny", "0")
    with pytest.raises(FaithgenError, match=r"could be used \(longer than the model's window: 8\)") as caught:
        detect_heads(loaded, data=DATA)
    assert len(str(caught.value).splitlines()) == 1


def test_an_unknown_method_is_an_error(tiny_loaded):
    with pytest.raises(FaithgenError, match="'guessing' is not one of copying, query_focused"):
        detect_heads(tiny_loaded, "guessing", data=DATA)
