"""Choosing a token from combined scores: greedy, or temperature and top-p with a seed for each question."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from faithgen.errors import FaithgenError


@dataclass(frozen=True)
class SamplingConfig:
    """How a token is chosen.

    Args:
        temperature (`float`, *optional*, defaults to 0): 0 is greedy; RHIO samples at 1.0.
        top_p (`float`, *optional*, defaults to 1.0): nucleus of the combined distribution, in (0, 1].
        seed (`int`, *optional*, defaults to 0): every question draws from its own stream of this seed, so an answer does
            not depend on which others share its batch.

    Raises:
        FaithgenError: If a value is out of its range.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise FaithgenError(f"temperature is {self.temperature}; give 0 (greedy) or more")
        if not 0 < self.top_p <= 1:
            raise FaithgenError(f"top_p is {self.top_p}; give a number above 0 and up to 1")
        if not 0 <= self.seed < 2**63:
            raise FaithgenError(f"seed is {self.seed}; give a whole number from 0 to 2^63 - 1")


class Sampler:
    """Draws tokens for a batch of questions.

    Args:
        config ([`SamplingConfig`])
        device (`torch.device`): where the scores are.
    """

    def __init__(self, config: SamplingConfig, device: torch.device):
        from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

        self.greedy = config.temperature < 1e-5  # lower ones overflow, and sample the best token all the same
        self._warpers = LogitsProcessorList()
        if not self.greedy:
            self._warpers.append(TemperatureLogitsWarper(float(config.temperature)))
            if config.top_p < 1:
                self._warpers.append(TopPLogitsWarper(config.top_p))
        self._config, self._device = config, device
        self._streams: dict[int, torch.Generator] = {}

    def add(self, question: int, seed: int | None = None) -> None:
        """Take in a question; it draws from a random stream of its own, of this seed or the config's."""
        if not self.greedy:
            seed = self._config.seed if seed is None else seed
            self._streams[question] = torch.Generator(self._device).manual_seed(seed)

    def drop(self, question: int) -> None:
        """Let go of a question that is finished."""
        if not self.greedy:
            del self._streams[question]

    def __call__(self, scores: torch.Tensor, questions: list[int]) -> torch.Tensor:
        """Tokens `[B]` for scores `[B, V]`; `questions` says which question each row belongs to."""
        if self.greedy:
            return scores.argmax(-1)
        probabilities = self._warpers(torch.LongTensor(), scores).softmax(-1)
        draws = [
            torch.multinomial(row, 1, generator=self._streams[question])
            for row, question in zip(probabilities, questions, strict=True)
        ]
        return torch.cat(draws)
