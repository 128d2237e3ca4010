"""Random models in a shape, their heads, and what the machine is seen to do."""

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from faithgen.filtering.coarse import FilterConfig
from faithgen.heads.head_set import HeadSet


def test_the_8b_shape_is_that_of_llama_3_1(module):
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(LlamaConfig(**module("shapes").SHAPES["8b"]), dtype=torch.bfloat16)
    assert sum(weight.numel() for weight in model.parameters()) == 8_030_261_248  # as its card says
    assert model.config.rope_parameters["rope_type"] == "llama3"
    assert module("roofline").kv_bytes(model) == 2**17
    assert module("roofline").linear_bytes(model) == pytest.approx(2 * (8.03e9 - 128256 * 4096), rel=1e-3)


def test_a_random_model_has_heads_that_were_not_detected(module, tiny_folder, monkeypatch):
    monkeypatch.setattr("faithgen.detection.detect_heads", None)
    shapes = module("shapes")
    loaded, scoring, copying = shapes.load(tiny_folder, "tiny")
    assert len(loaded.tokenizer) < loaded.model.config.vocab_size == 1024
    assert loaded.model.config.eos_token_id == loaded.tokenizer.eos_token_id
    assert not loaded.model.training
    for heads in (scoring, copying):
        heads.check(5, 8, loaded.model_id, loaded.revision)
    assert max(layer for layer, _ in FilterConfig().scoring_heads(scoring)) == 2, "0.6 of 5 layers"
    again = shapes.load(tiny_folder, "tiny")[0]
    assert all(map(torch.equal, loaded.model.parameters(), again.model.parameters()))


def test_a_model_that_is_given_has_its_own_heads(module, monkeypatch, tiny_loaded):
    shapes = module("shapes")
    monkeypatch.setattr(shapes, "load_model", lambda model, dtype: tiny_loaded)
    monkeypatch.setattr(shapes, "resolve_heads", lambda loaded: ("scoring", "copying"))
    assert shapes.load("somewhere") == (tiny_loaded, "scoring", "copying")


@pytest.mark.parametrize(("layers", "depth", "deepest"), [(32, 0.6, 18), (30, 0.6, 17), (5, 0.1, 0), (4, 1.0, 3)])
def test_the_deepest_of_the_heads_lies_at_the_depth(module, layers, depth, deepest):
    scores = [[1 - layer / layers, 0.5 - layer / layers] for layer in range(layers)]  # lower layers are better
    chosen = module("shapes").heads_to_depth(HeadSet(scores, "query_focused", "m"), 2, depth)
    assert max(layer for layer, _ in chosen) == deepest
    assert (deepest, 0) in chosen
    assert len(set(chosen)) == 2


def test_a_gpu_is_given_many_copies_before_it_is_waited_for(module, monkeypatch):
    """One copy a wait would be timed with its launch: the bandwidth would look smaller than it is."""
    runs, waits = [], []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.at = len(runs)

        def elapsed_time(self, other):
            return 2.0 * (other.at - self.at)  # milliseconds

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waits.append(len(runs)))
    seconds = module("roofline").seconds_of(lambda: runs.append(1), torch.device("cuda"))
    assert seconds == pytest.approx(0.002)
    assert min(after - before for before, after in zip([0, *waits], waits, strict=False)) >= 20


def test_a_cpu_is_timed_one_by_one(module):
    runs = []
    assert module("roofline").seconds_of(lambda: runs.append(1), "cpu") < 0.1
    assert len(runs) == 6


def test_the_least_time_of_a_prefill_is_arithmetic_or_reading(module, tiny_folder):
    roofline, model = module("roofline"), module("shapes").load(tiny_folder, "tiny")[0].model
    slow = roofline.Roofline(bandwidth=1e3, rate=1e12)
    assert slow.prefill(model, 10) == pytest.approx(roofline.linear_bytes(model) / 1e3)
    weak = roofline.Roofline(bandwidth=1e12, rate=1e3)
    whole = weak.prefill(model, 100)
    assert whole == pytest.approx(roofline.prefill_operations(model, 100) / 1e3)
    assert weak.prefill(model, 100, depth=0.5) == pytest.approx(whole / 2)
    attended = 2 * 5 * 8 * 8 * 100**2
    assert weak.prefill(model, 100, attention=False) == pytest.approx(whole - attended / 1e3)
    assert weak.step(model, 100) > weak.step(model, 0) > 0
