"""How two rows of logits become one.

All methods here are one formula with another weight: `(1 + alpha_t) * log p+ - alpha_t * log p-`, where p+ is the
faithful branch and p- the unfaithful one. A new method is one more `alpha_*` function and a row in `METHODS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from faithgen.errors import FaithgenError

ALPHA = 0.2
"""RHIO's contrast strength (2501.13573)."""
Source = Literal["auto", "control", "heads", "context", "none"]
Method = Literal["rhio", "cad", "adacad", "decore"]


@dataclass(frozen=True)
class ContrastConfig:
    """Two-branch decoding: where the unfaithful branch comes from, and how the two are combined.

    Args:
        source (`str`, *optional*, defaults to `"auto"`):
            `"control"`: the prompt with `[unfaithful]` in its control slot (RHIO; needs a trained model). `"heads"`: the
            same prompt with retrieval heads masked (DeCoRe). `"context"`: the prompt without documents (CAD). `"none"`:
            no second branch. `"auto"`: `"control"` for a model trained with control tokens, else `"heads"` for its
            signal alone (`alpha` 0, unless it or another `method` is given): contrasting an untrained small model was
            not seen to help.
        method (`str`, *optional*, defaults to `"rhio"`):
            `"rhio"` and `"cad"` weigh by a constant `alpha` (the two papers' formulas are the same), `"adacad"` by the
            Jensen-Shannon divergence of the branches, `"decore"` by the entropy of the faithful branch (in nats); in
            the last two `alpha` scales that weight, 1 is the paper's.
        alpha (`float`, *optional*):
            Contrast strength, 0 or more. By default 1 for `"adacad"` and `"decore"`; for `"rhio"` and `"cad"` what was saved
            with a trained model (`faithgen export --alpha`; 0.5 with the packaged one), else RHIO's 0.2, or 0 as under
            `"auto"`. 0 gives the tokens of plain decoding, and still tells how far the branches disagree.
        plausibility (`float`, *optional*):
            Keep only tokens with at least this share (0 to 1) of the faithful branch's top probability (contrastive
            decoding's cut). Off by default, as in the papers.
        num_heads (`int`, *optional*):
            Heads masked for `"heads"`; by default 5 % of the model's heads.
        ablation (`"zero"` or `"uniform"`, *optional*, defaults to `"zero"`): what masking does to a head.
        mask_prefill (`bool`, *optional*, defaults to `False`):
            Mask the heads while the prompt is read, too. Stronger, and costs a prefill of its own: by default both
            branches share one (as in DeCoRe).

    Raises:
        FaithgenError: If a value is out of its range.
    """

    source: Source = "auto"
    method: Method = "rhio"
    alpha: float | None = None
    plausibility: float | None = None
    num_heads: int | None = None
    ablation: Literal["zero", "uniform"] = "zero"
    mask_prefill: bool = False

    def __post_init__(self) -> None:
        if self.source not in get_args(Source):
            raise FaithgenError(f"contrast {self.source!r} is not one of {', '.join(get_args(Source))}")
        if self.method not in METHODS:
            raise FaithgenError(f"contrast method {self.method!r} is not one of {', '.join(METHODS)}")
        if self.ablation not in ("zero", "uniform"):
            raise FaithgenError(f"ablation {self.ablation!r} is not one of zero, uniform")
        if self.alpha is not None and not (math.isfinite(self.alpha) and self.alpha >= 0):
            raise FaithgenError(f"alpha is {self.alpha}; give a number of 0 or more, e.g. 0.2")
        if self.plausibility is not None and not 0 <= self.plausibility <= 1:
            raise FaithgenError(f"plausibility is {self.plausibility}; give a number from 0 to 1")
        if self.num_heads is not None and self.num_heads < 1:
            raise FaithgenError(f"num_heads is {self.num_heads}; give 1 or more")

    @property
    def strength(self) -> float:
        """`alpha`, or the method's default."""
        if self.alpha is not None:
            return self.alpha
        return ALPHA if self.constant else 1.0

    @property
    def constant(self) -> bool:
        """Whether `alpha` itself is the weight of each token."""
        return METHODS[self.method] is alpha_constant

    def heads_to_mask(self, total: int) -> int:
        """Number of heads to mask in a model with `total` heads."""
        return self.num_heads or max(1, round(0.05 * total))


def alpha_constant(faithful: torch.Tensor, unfaithful: torch.Tensor, alpha: float) -> torch.Tensor:
    """RHIO's self-induced decoding and CAD: the same weight at every step."""
    return torch.full_like(faithful[..., :1], alpha)


def alpha_adacad(faithful: torch.Tensor, unfaithful: torch.Tensor, alpha: float) -> torch.Tensor:
    """AdaCAD (2409.07394): the Jensen-Shannon divergence of the branches, 0 to ln 2."""
    return alpha * jensen_shannon(faithful, unfaithful)[..., None]


def alpha_decore(faithful: torch.Tensor, unfaithful: torch.Tensor, alpha: float) -> torch.Tensor:
    """DeCoRe (2410.18860): the entropy of the faithful branch in nats."""
    return alpha * torch.special.entr(faithful.exp()).sum(-1, keepdim=True)


METHODS: dict[str, Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]] = {
    "rhio": alpha_constant,
    "cad": alpha_constant,
    "adacad": alpha_adacad,
    "decore": alpha_decore,
}


def combine(faithful: torch.Tensor, unfaithful: torch.Tensor, config: ContrastConfig) -> torch.Tensor:
    """Contrast two branches.

    Args:
        faithful, unfaithful (`torch.Tensor` of shape `[B, V]`): log-probabilities, fp32.
        config ([`ContrastConfig`])

    Returns:
        `torch.Tensor` of shape `[B, V]`: scores (unnormalised log-probabilities); `-inf` for implausible tokens.
    """
    scores = faithful
    if config.strength:
        alpha = METHODS[config.method](faithful, unfaithful, config.strength)
        scores = (1 + alpha) * faithful - alpha * unfaithful
        scores = scores.masked_fill(faithful.isneginf(), -torch.inf)  # impossible in both: inf - inf otherwise
    if config.plausibility:
        floor = faithful.amax(-1, keepdim=True) + math.log(config.plausibility)
        scores = scores.masked_fill(faithful < floor, -torch.inf)
    return scores


def jensen_shannon(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Jensen-Shannon divergence in nats (0 to ln 2) of two rows of log-probabilities `[..., V]`, of shape `[...]`."""
    p, q = first.exp(), second.exp()
    mean = (p + q) / 2
    entropy = torch.special.entr(torch.stack([mean, p, q])).sum(-1)
    return (entropy[0] - (entropy[1] + entropy[2]) / 2).clamp(0.0, math.log(2))
