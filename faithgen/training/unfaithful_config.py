"""Settings of [`build_unfaithful`]."""

from __future__ import annotations

import math
from dataclasses import dataclass

from faithgen.decoding.sampling import SamplingConfig
from faithgen.errors import FaithgenError
from faithgen.heads.ablation import Ablation
from faithgen.prompting import INSTRUCTION
from faithgen.training.filters import REASONS


@dataclass(frozen=True)
class UnfaithfulConfig:
    """How unfaithful answers are sampled and filtered.

    Args:
        count (`int`, *optional*), share (`float`, *optional*), threshold (`float`, *optional*):
            Heads to mask, one of: the best `count` (RHIO: 100), the best `share` of all heads, or those with at least this
            score (RetMask: 0.1). By default a share of 0.05.
        random_heads (`int`, *optional*): a seed: mask as many random heads instead, the control.
        ablation (`"zero"` or `"uniform"`, *optional*, defaults to `"zero"`):
            `"zero"` as RetMask (and, by its third-party account, RHIO), `"uniform"` as DeCoRe. Prefill and decoding both.
        temperature (`float`, *optional*, defaults to 1.0), top_p (`float`, *optional*, defaults to 0.95):
            RHIO's sampling. RetMask: 0.6 and 1.0.
        seed (`int`, *optional*, defaults to 0): every row has its own stream, made of this and its id.
        max_new_tokens (`int`, *optional*, defaults to 128): most tokens of an answer.
        own_answers (`bool`, *optional*, defaults to `False`):
            Sample the faithful answer, too, from the model as it is (RetMask's chosen answer); that of the row is kept as
            `reference`, and need not be there.
        instruction (`str`, *optional*):
            First line of the prompt's user turn of rows that bring none; written into them if it is not the default.
        keep (`tuple[str, ...]`, *optional*):
            Filters to switch off, of `unfinished`, `equal`, `degenerate`, `no_claim`, `supported`.
        margin (`float`, *optional*, defaults to 0.0): a sample counts as supported from the answer's support minus this.

    Raises:
        FaithgenError: If a value is out of its range.
    """

    count: int | None = None
    share: float | None = None
    threshold: float | None = None
    random_heads: int | None = None
    ablation: Ablation = "zero"
    temperature: float = 1.0
    top_p: float = 0.95
    seed: int = 0
    max_new_tokens: int = 128
    own_answers: bool = False
    instruction: str = INSTRUCTION
    keep: tuple[str, ...] = ()
    margin: float = 0.0

    def __post_init__(self) -> None:
        SamplingConfig(self.temperature, self.top_p, self.seed)
        if self.ablation not in ("zero", "uniform"):
            raise FaithgenError(f"ablation {self.ablation!r} is not one of zero, uniform")
        if self.max_new_tokens < 1:
            raise FaithgenError(f"max_new_tokens is {self.max_new_tokens}; give 1 or more")
        if not self.instruction.strip():
            raise FaithgenError("instruction is empty; give one line, or leave it out for the generator's own")
        unknown = sorted(set(self.keep) - set(REASONS[1:]))
        if unknown:
            raise FaithgenError(f"there is no filter {unknown[0]!r}; keep takes {', '.join(REASONS[1:])}")
        if not math.isfinite(self.margin):
            raise FaithgenError(f"margin is {self.margin}; give a number, e.g. 0.1")
