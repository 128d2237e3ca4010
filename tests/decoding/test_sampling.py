import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from faithgen.decoding.sampling import Sampler, SamplingConfig
from faithgen.errors import FaithgenError

CPU = torch.device("cpu")
SCORES = torch.randn(3, 40, generator=torch.Generator().manual_seed(0)) * 2


def made(config, questions):
    """A sampler with this many questions."""
    sampler = Sampler(config, CPU)
    for question in range(questions):
        sampler.add(question)
    return sampler


def draw(config, scores, questions, steps=200, count=None):
    """`steps` tokens for each row."""
    sampler = made(config, count or max(questions) + 1)
    return torch.stack([sampler(scores, questions) for _ in range(steps)], dim=1)


def test_greedy_takes_the_best():
    sampler = made(SamplingConfig(), 3)
    assert sampler(SCORES, [0, 1, 2]).tolist() == SCORES.argmax(-1).tolist()
    assert made(SamplingConfig(top_p=0.1), 3)(SCORES, [0, 1, 2]).tolist() == SCORES.argmax(-1).tolist()


def test_a_seed_reproduces():
    config = SamplingConfig(temperature=1.0, seed=7)
    first = draw(config, SCORES, [0, 1, 2])
    assert torch.equal(first, draw(config, SCORES, [0, 1, 2]))
    assert not torch.equal(first, draw(SamplingConfig(temperature=1.0, seed=8), SCORES, [0, 1, 2]))


def test_a_question_s_stream_does_not_depend_on_the_batch():
    config = SamplingConfig(temperature=1.0, seed=3)
    together = draw(config, SCORES, [0, 1, 2])
    for i in range(3):
        assert torch.equal(together[i], draw(config, SCORES[i : i + 1], [0])[0])


def test_streams_follow_questions_when_rows_drop_out():
    config = SamplingConfig(temperature=1.0, seed=3)
    alone = draw(config, SCORES[2:], [0], steps=20)[0]
    sampler = made(config, 3)
    found = [sampler(SCORES, [0, 1, 2])[2] for _ in range(5)]
    found += [sampler(SCORES[[0, 2]], [0, 2])[1] for _ in range(5)]
    found += [sampler(SCORES[2:], [2])[0] for _ in range(10)]
    assert torch.stack(found).tolist() == alone.tolist()


def test_draws_follow_the_probabilities():
    scores = torch.tensor([[0.5, 0.3, 0.2]]).log()
    counts = torch.bincount(draw(SamplingConfig(temperature=1.0), scores, [0], steps=3000)[0], minlength=3) / 3000
    torch.testing.assert_close(counts, torch.tensor([0.5, 0.3, 0.2]), atol=0.04, rtol=0)
    # at temperature 0.5 the probabilities are squared: 0.25, 0.09, 0.04
    counts = torch.bincount(draw(SamplingConfig(temperature=0.5), scores, [0], steps=3000)[0], minlength=3) / 3000
    torch.testing.assert_close(counts, torch.tensor([0.25, 0.09, 0.04]) / 0.38, atol=0.04, rtol=0)


def test_top_p_keeps_the_nucleus_only():
    scores = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()
    for top_p, kept in [(0.1, {0}), (0.5, {0, 1}), (0.75, {0, 1, 2}), (1.0, {0, 1, 2, 3})]:
        assert set(draw(SamplingConfig(temperature=1.0, top_p=top_p), scores, [0])[0].tolist()) == kept


def test_implausible_tokens_are_never_drawn():
    scores = torch.tensor([[0.0, 0.0, -torch.inf, 0.0]])
    assert set(draw(SamplingConfig(temperature=5.0), scores, [0])[0].tolist()) == {0, 1, 3}


@pytest.mark.parametrize("temperature", [1e-300, 1e-40, 1e-10, 1e-4, 0.01])
def test_a_low_temperature_nears_greedy(temperature):
    scores = torch.tensor([[-3.0, -500.0, -2.0]])
    assert set(draw(SamplingConfig(temperature=temperature), scores, [0], steps=30)[0].tolist()) == {2}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": -0.5}, "temperature is -0.5"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"temperature": math.inf}, "temperature is inf"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.01}, "top_p is 1.01"),
        ({"top_p": math.nan}, "top_p is nan"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**63}, "seed is"),
    ],
)
def test_values_out_of_range(values, message):
    with pytest.raises(FaithgenError, match=message) as caught:
        SamplingConfig(**values)
    assert "\n" not in str(caught.value)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.floats(), st.floats(), st.integers(-10, 2**64))
def test_a_config_is_refused_or_draws(temperature, top_p, seed):
    fits = math.isfinite(temperature) and temperature >= 0 and 0 < top_p <= 1 and 0 <= seed < 2**63
    try:
        config = SamplingConfig(temperature=temperature, top_p=top_p, seed=seed)
    except FaithgenError:
        assert not fits
        return
    assert fits
    assert all(0 <= token < 40 for token in draw(config, SCORES, [0, 1, 2], steps=1).flatten().tolist())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.floats(0, 1e300), st.floats(1e-6, 1))
def test_whatever_fits_draws_a_token(temperature, top_p):
    tokens = draw(SamplingConfig(temperature=temperature, top_p=top_p), SCORES, [0, 1, 2], steps=1)
    assert all(0 <= token < 40 for token in tokens.flatten().tolist())
