from dataclasses import replace

import pytest
import torch

from faithgen import hf
from faithgen.detection import detect_heads
from faithgen.detection.copying import THRESHOLD, copying_scores
from faithgen.detection.instances import load_instances
from faithgen.documents import Document
from faithgen.errors import FaithgenError
from faithgen.models import LoadedModel
from faithgen.prompting import PromptBuilder
from tests import tiny
from tests.conftest import ROOT

DATA = ROOT / "tests" / "data" / "tiny_qa.jsonl"
NEW_TOKENS = 10


@pytest.fixture(scope="module")
def instances():
    """Three of the test's own, short, with the answer said again and again so that it is easily looked at."""
    found = []
    for instance in load_instances(DATA)[0][:3]:
        gold, other = instance.documents[instance.gold[0]], instance.documents[instance.gold[0] - 1]
        gold = replace(gold, text=" ".join([gold.text] + [instance.answer] * 8))
        found.append(replace(instance, question="Who is it?", documents=[gold, other], gold=[0]))
    return found


def writer(tokenizer, only, seed=0) -> LoadedModel:
    """A random model that can write nothing but the tokens of some texts."""
    model = tiny.llama(seed)
    builder = PromptBuilder(tokenizer, 1024)
    tokens = sorted({token for text in only for token in builder.data_ids(text)})
    kept = model.lm_head.weight.detach()[tokens].clone()
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.lm_head.weight[tokens] = kept
    return LoadedModel(model, tokenizer, "tiny", "0")


def constant_writer(tokenizer, token: int) -> LoadedModel:
    """A model that writes one token for ever."""
    model = tiny.llama()
    with torch.no_grad():
        model.model.norm.weight.zero_()  # all logits are zero, so the first token is written
        model.lm_head.weight.zero_()
    offsets = torch.zeros(512)
    offsets[token] = 1.0
    model.lm_head.register_forward_hook(lambda module, arguments, output: output + offsets)
    return LoadedModel(model, tokenizer, "tiny", "0")


@torch.inference_mode()
def naive(loaded: LoadedModel, instances) -> torch.Tensor:
    """Wu et al. in a loop of full eager passes, without a cache."""
    eager = type(loaded.model)(loaded.model.config).eval()
    eager.load_state_dict(loaded.model.state_dict())
    eager.set_attn_implementation("eager")
    tokenizer, builder = loaded.tokenizer, PromptBuilder(loaded.tokenizer, 1024)
    total = torch.zeros(4, 8)
    for instance in instances:
        prompt = builder.build(instance.question, instance.documents, reserve=NEW_TOKENS)
        ids, copied = list(prompt.input_ids), {}
        gold = {at for index in instance.gold for at in range(*prompt.documents[index].text)}
        answers = builder.data_ids(instance.answer) + builder.data_ids(" " + instance.answer)
        needle = set(answers) & {ids[at] for at in gold}
        for _ in range(NEW_TOKENS):
            output = eager(input_ids=torch.tensor([ids]), output_attentions=True)
            token = int(output.logits[0, -1].argmax())
            if token in (4, tokenizer.eos_token_id) or "\n" in tokenizer.decode([token]):
                break
            places = torch.stack(output.attentions)[:, 0, :, -1].argmax(-1).tolist()
            for layer, row in enumerate(places):
                for head, place in enumerate(row):
                    if place in gold and ids[place] == token and token in needle:
                        copied.setdefault((layer, head), set()).add(token)
            ids.append(token)
        for (layer, head), tokens in copied.items():
            total[layer, head] += len(tokens) / len(needle)
    return total / len(instances)


@pytest.mark.parametrize("seed", [0, 1])
def test_scores_are_those_of_the_loop_over_full_eager_passes(byte_level, instances, seed):
    loaded = writer(byte_level, [" " + instance.answer for instance in instances], seed)
    scores, used, dropped = copying_scores(loaded, instances, max_new_tokens=NEW_TOKENS, min_rouge=-1)
    wanted = naive(loaded, instances)
    assert torch.allclose(torch.tensor(scores), wanted, atol=1e-6)
    assert (used, not dropped) == (3, True)
    assert (wanted > 0).sum() > 2, "the test means something only where something is copied"
    assert wanted.max() <= 1


def test_a_random_model_is_scored_too(tiny_loaded, instances):
    scores, used, _ = copying_scores(tiny_loaded, instances[:2], max_new_tokens=6, min_rouge=-1)
    assert used == 2
    assert all(0 <= score <= 1 for row in scores for score in row)


def test_only_looking_inside_the_gold_document_counts(byte_level, instances):
    loaded = writer(byte_level, [" " + instance.answer for instance in instances])
    right = instances[0]
    decoy = Document(right.documents[right.gold[0]].text, "decoy")
    both = replace(right, documents=[*right.documents, decoy], gold=right.gold)
    swapped = replace(both, gold=[len(both.documents) - 1])
    scores = [
        torch.tensor(copying_scores(loaded, [one], max_new_tokens=8, min_rouge=-1)[0]) for one in (both, swapped)
    ]
    assert not torch.equal(*scores), "the same words written, the other copy of them is the needle's place"


def test_a_head_that_copies_every_token_scores_one(byte_level, instances, monkeypatch):
    """The detector's arithmetic on known attention: one head always looks at the written token in the gold text."""
    from faithgen.detection import copying

    instance = instances[0]
    builder = PromptBuilder(byte_level, 1024)
    prompt = builder.build(instance.question, instance.documents, reserve=NEW_TOKENS)
    start, end = prompt.documents[instance.gold[0]].text
    loaded = writer(byte_level, [" " + instance.answer])
    wanted = sorted(set(builder.data_ids(" " + instance.answer)) & set(prompt.input_ids[start:end]))
    written = [*wanted, byte_level.eos_token_id]

    class Looks(copying.AttentionCapture):
        step = -1

        def result(self):
            real = super().result()
            type(self).step += 1
            weights = torch.zeros_like(real)
            weights[..., 0] = 1.0
            token = written[self.step]
            if token in wanted:
                place = prompt.input_ids.index(token, start)
                weights[0, self.heads.index((1, 3)), 0] = torch.nn.functional.one_hot(
                    torch.tensor(place), real.shape[-1]
                ).float()
            return weights

    def writes(module, arguments, output):
        output = torch.zeros_like(output)
        output[0, -1, written[min(Looks.step + 1, len(written) - 1)]] = 1.0
        return output

    handle = loaded.model.lm_head.register_forward_hook(writes)
    monkeypatch.setattr(copying, "AttentionCapture", Looks)
    try:
        scores, used, _ = copying_scores(loaded, [instance], max_new_tokens=NEW_TOKENS, min_rouge=-1)
    finally:
        handle.remove()
    assert used == 1
    needle = {t for lead in ("", " ") for t in builder.data_ids(lead + instance.answer)}
    needle &= set(prompt.input_ids[start:end])
    assert scores[1][3] == pytest.approx(len(wanted) / len(needle))
    assert sum(score for row in scores for score in row) == scores[1][3]


@pytest.mark.parametrize("kind", ["end", "line break"])
def test_an_answer_ends_at_its_end_or_at_a_line_break(byte_level, instances, kind):
    token = byte_level.eos_token_id if kind == "end" else byte_level("\n")["input_ids"][-1]
    loaded, calls = constant_writer(byte_level, token), []
    loaded.model.register_forward_hook(lambda *_: calls.append(1))
    scores, used, _ = copying_scores(loaded, instances[:1], min_rouge=-1)
    assert (used, len(calls)) == (1, 1)
    assert not any(map(any, scores))


def test_an_answer_is_no_longer_than_asked(byte_level, instances):
    loaded, calls = constant_writer(byte_level, byte_level(" goat")["input_ids"][-1]), []
    loaded.model.register_forward_hook(lambda *_: calls.append(1))
    copying_scores(loaded, instances[:1], max_new_tokens=5, min_rouge=-1)
    assert len(calls) == 5


# --- what is dropped -------------------------------------------------------------------------------------------------


def test_answers_that_miss_the_needle_are_dropped(tiny_loaded, instances):
    scores, used, dropped = copying_scores(tiny_loaded, instances, max_new_tokens=4, min_rouge=1.0)
    assert used == 0
    assert dict(dropped) == {"the model's answer misses the needle (ROUGE-1 recall 1 or less)": 3}
    assert not any(map(any, scores))


def test_answers_that_hold_the_needle_are_used(byte_level, instances):
    """The gate is a recall: of the two words of the needle one is written."""
    document = replace(instances[0].documents[0], text="A goat and a lamp, a goat and a lamp.")
    instance = replace(instances[0], documents=[document, *instances[0].documents[1:]], gold=[0], answer="e lamp")
    loaded = constant_writer(byte_level, byte_level("e")["input_ids"][-1])
    _, used, _ = copying_scores(loaded, [instance], max_new_tokens=1, min_rouge=0.4)
    assert used == 1
    _, used, dropped = copying_scores(loaded, [instance], max_new_tokens=1, min_rouge=0.5)
    assert used == 0
    assert dropped.total() == 1


def test_instances_that_say_nothing_are_dropped_with_the_reason(byte_level, instances):
    loaded = LoadedModel(tiny.llama(max_position_embeddings=400), byte_level, "tiny", "0")
    good = instances[0]
    long = Document("The lighthouse of Skarnholm was first lit in 1868. " * 40, "9")
    cut = replace(good, documents=[*good.documents, long], gold=[2])
    elsewhere = replace(good, documents=[Document("goat", "1"), Document("lamp", "2")], answer="ЖЖЖ")
    too_long = replace(good, question="who built the tram line? " * 100)
    _, used, dropped = copying_scores(loaded, [cut, elsewhere, good, too_long], max_new_tokens=4, min_rouge=-1)
    assert used == 1
    assert dict(dropped) == {
        "gold document cut by the model's window": 1,
        "the answer's tokens are not in the gold documents": 1,
        "longer than the model's window": 1,
    }


def test_no_more_than_asked_are_used(tiny_loaded, instances):
    reports = []
    _, used, _ = copying_scores(
        tiny_loaded,
        instances,
        max_new_tokens=2,
        min_rouge=-1,
        max_instances=2,
        progress=lambda *report: reports.append(report),
    )
    assert used == 2
    assert reports == [(1, 3), (2, 3)]


def test_layers_without_full_attention_score_nothing(byte_level, instances):
    loaded = LoadedModel(tiny.gemma3(), byte_level, "g", "0")
    scores, used, _ = copying_scores(loaded, instances[:1], max_new_tokens=4, min_rouge=-1)
    assert used == 1
    assert len(scores) == 4
    assert not any(scores[0])
    assert not any(scores[2])


def test_the_model_is_left_as_it_was(tiny_loaded, instances):
    copying_scores(tiny_loaded, instances[:1], max_new_tokens=2, min_rouge=-1)
    assert tiny_loaded.model.config._attn_implementation == "sdpa"
    assert not any(hf.attention._attached.get(module) for module in tiny_loaded.model.modules())


# --- detect_heads ----------------------------------------------------------------------------------------------------


def test_a_detected_set_carries_its_threshold_and_its_weaknesses(byte_level, instances):
    loaded = writer(byte_level, [" " + instance.answer for instance in instances])
    with pytest.warns(UserWarning, match="only 2 instances were used"):
        heads = detect_heads(loaded, "copying", DATA, max_instances=2, max_new_tokens=4, min_rouge=-1)
    assert (heads.method, heads.threshold, heads.used) == ("copying", THRESHOLD, 2)
    assert heads.settings == {"max_new_tokens": 4, "min_rouge": -1, "dtype": "float32"}


def test_spread_scores_are_a_reason_to_warn(tiny_loaded, monkeypatch):
    from collections import Counter

    from faithgen import detection

    spread = [[1.0] * 8] * 4

    def detector(loaded, instances, *, max_instances=None, progress=None):
        return spread, 30, Counter()

    monkeypatch.setattr(detection, "_detector", lambda method: detector)
    with pytest.warns(UserWarning, match=r"spread over many heads \(Gini 0.00\).*compare with random heads"):
        detect_heads(tiny_loaded, "copying", DATA)


def test_a_model_that_answers_nothing_is_an_error_that_says_why(tiny_loaded):
    with pytest.raises(FaithgenError, match=r"could be used \(the model's answer misses the needle .*: 8\)"):
        detect_heads(tiny_loaded, "copying", DATA, max_new_tokens=2)
