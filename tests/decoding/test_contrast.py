import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from faithgen.decoding.contrast import METHODS, ContrastConfig, combine, jensen_shannon
from faithgen.errors import FaithgenError

FAITHFUL = torch.tensor([[0.5, 0.25, 0.25], [0.7, 0.2, 0.1]]).log()
UNFAITHFUL = torch.tensor([[0.25, 0.25, 0.5], [0.7, 0.2, 0.1]]).log()


def rows(seed=0, count=3, size=50, spread=4.0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(count, size, generator=generator) * spread).log_softmax(-1)


# --- formulas ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["rhio", "cad"])
def test_constant_weight(method):
    scores = combine(FAITHFUL, UNFAITHFUL, ContrastConfig(method=method, alpha=0.5))
    # 0.5^1.5 / 0.25^0.5, 0.25^1.5 / 0.25^0.5, 0.25^1.5 / 0.5^0.5
    expected = torch.tensor([0.70710678, 0.25, 0.17677670]).log()
    torch.testing.assert_close(scores[0], expected)
    torch.testing.assert_close(scores[1], FAITHFUL[1])  # equal branches: nothing to contrast


def test_adacad_weighs_by_the_divergence():
    # M = (.375, .25, .375); JSD = H(M) - (H(P) + H(Q)) / 2 = 1.08219553 - 1.03972077
    divergence = 0.04247476
    scores = combine(FAITHFUL, UNFAITHFUL, ContrastConfig(method="adacad", alpha=1.0))
    expected = [math.log(0.5) + divergence * math.log(2), math.log(0.25), math.log(0.25) - divergence * math.log(2)]
    torch.testing.assert_close(scores[0], torch.tensor(expected))
    torch.testing.assert_close(scores[1], FAITHFUL[1])


def test_decore_weighs_by_the_entropy_in_nats():
    entropy = 1.03972077  # 0.5 ln 2 + 0.5 ln 4
    scores = combine(FAITHFUL, UNFAITHFUL, ContrastConfig(method="decore", alpha=2.0))
    gain = 2 * entropy * math.log(2)
    torch.testing.assert_close(scores[0], FAITHFUL[0] + torch.tensor([gain, 0.0, -gain]))


def test_each_row_has_its_own_weight():
    faithful, unfaithful = rows(1), rows(2)
    for method in METHODS:
        config = ContrastConfig(method=method, alpha=0.7)
        together = combine(faithful, unfaithful, config)
        for i in range(3):
            torch.testing.assert_close(
                together[i : i + 1], combine(faithful[i : i + 1], unfaithful[i : i + 1], config)
            )


@pytest.mark.parametrize("method", list(METHODS))
def test_no_strength_is_plain_decoding(method):
    faithful = rows(1)
    assert torch.equal(combine(faithful, rows(2), ContrastConfig(method=method, alpha=0.0)), faithful)


@pytest.mark.parametrize("method", list(METHODS))
def test_tokens_that_cannot_be_stay_out(method):
    """Some models give the unused end of their vocabulary a logit of -inf."""
    faithful, unfaithful = (torch.cat([rows(i), torch.full((3, 2), -torch.inf)], dim=1) for i in (1, 2))
    for alpha in (0.0, 0.5):
        scores = combine(faithful, unfaithful, ContrastConfig(method=method, alpha=alpha))
        assert torch.isneginf(scores[:, -2:]).all()
        assert torch.isfinite(scores[:, :-2]).all()


@pytest.mark.parametrize("alpha", [0.0, 0.2, 1.0, 3.0])
def test_rhio_is_transformers_guidance(alpha):
    """`scale * (p - n) + n` of `generate(guidance_scale=1 + alpha)`; log-softmax shifts a row by a constant."""
    positive, negative = torch.randn(4, 60, generator=torch.Generator().manual_seed(3)) * 3, rows(4, 4, 60) + 5
    guided = (1 + alpha) * (positive.log_softmax(-1) - negative.log_softmax(-1)) + negative.log_softmax(-1)
    ours = combine(positive.log_softmax(-1), negative.log_softmax(-1), ContrastConfig(method="rhio", alpha=alpha))
    torch.testing.assert_close(ours, guided, rtol=1e-4, atol=1e-4)
    shift = (1 + alpha) * (positive - negative) + negative - ours
    assert shift.std(dim=-1).max() < 1e-4


# --- plausibility -----------------------------------------------------------------------------------------------------


def test_plausibility_cut():
    faithful = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    unfaithful = torch.tensor([[0.9, 0.05, 0.04, 0.01]]).log()
    plain = combine(faithful, unfaithful, ContrastConfig(alpha=1.0))
    for share, kept in [(0.05, 4), (0.2, 3), (0.5, 2), (0.61, 1), (1.0, 1)]:
        scores = combine(faithful, unfaithful, ContrastConfig(alpha=1.0, plausibility=share))
        assert torch.equal(scores[0, :kept], plain[0, :kept])
        assert torch.isneginf(scores[0, kept:]).all()


def test_plausibility_of_zero_is_off():
    faithful, unfaithful = rows(1), rows(2)
    off = combine(faithful, unfaithful, ContrastConfig())
    assert torch.equal(combine(faithful, unfaithful, ContrastConfig(plausibility=0.0)), off)
    assert torch.isfinite(off).all()


# --- Jensen-Shannon ---------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 2**32), st.integers(2, 300), st.floats(0, 50))
def test_jensen_shannon_is_scipy_s(seed, size, spread):
    spatial = pytest.importorskip("scipy.spatial.distance")
    first, second = rows(seed, 2, size, spread), rows(seed + 1, 2, size, spread)
    found = jensen_shannon(first, second)
    assert found.shape == (2,)
    assert torch.all((found >= 0) & (found <= math.log(2)))
    torch.testing.assert_close(found, jensen_shannon(second, first), rtol=0, atol=1e-6)
    expected = [
        spatial.jensenshannon(p, q) ** 2 for p, q in zip(first.exp().double(), second.exp().double(), strict=True)
    ]
    torch.testing.assert_close(found.double(), torch.tensor(expected, dtype=torch.double), rtol=0, atol=2e-6)


def test_jensen_shannon_at_its_ends():
    apart = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).log()
    assert jensen_shannon(apart[:1], apart[1:]).item() == pytest.approx(math.log(2), abs=1e-6)
    assert jensen_shannon(apart, apart).tolist() == [0.0, 0.0]
    assert jensen_shannon(rows(1), rows(1)).abs().max() < 1e-6


# --- validation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"source": "control-token"}, "contrast 'control-token' is not one of auto, control, heads, context, none"),
        ({"source": ""}, "is not one of"),
        ({"method": "dola"}, "contrast method 'dola' is not one of rhio, cad, adacad, decore"),
        ({"ablation": "mean"}, "'mean' is not one of zero, uniform"),
        ({"alpha": math.nan}, "alpha is nan"),
        ({"alpha": math.inf}, "alpha is inf"),
        ({"alpha": -0.1}, "alpha is -0.1"),
        ({"plausibility": 1.5}, "plausibility is 1.5"),
        ({"plausibility": -0.1}, "plausibility is -0.1"),
        ({"plausibility": math.nan}, "plausibility is nan"),
        ({"num_heads": 0}, "num_heads is 0"),
        ({"num_heads": -3}, "num_heads is -3"),
    ],
)
def test_values_out_of_range(values, message):
    with pytest.raises(FaithgenError, match=message) as caught:
        ContrastConfig(**values)
    assert "\n" not in str(caught.value)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.floats(), st.floats())
def test_a_config_is_refused_or_gives_finite_numbers(alpha, plausibility):
    fits = math.isfinite(alpha) and alpha >= 0 and 0 <= plausibility <= 1
    try:
        config = ContrastConfig(alpha=alpha, plausibility=plausibility)
    except FaithgenError:
        assert not fits
        return
    assert fits
    if alpha < 1e30:
        scores = combine(rows(1), rows(2), config)
        assert not scores.isnan().any()
        assert torch.isfinite(scores).any(-1).all()


def test_heads_to_mask():
    assert ContrastConfig().heads_to_mask(270) == 14  # 5 %
    assert ContrastConfig().heads_to_mask(8) == 1
    assert ContrastConfig(num_heads=3).heads_to_mask(270) == 3
