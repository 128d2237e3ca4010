"""Faithfulness scorers: is a claim supported by documents? One file each, behind the protocol of `base`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from faithgen.errors import FaithgenError
from faithgen.evaluation.scorers.base import (
    ClaimContext,
    Scorer,
    SentenceScore,
    Support,
    score_answer,
    score_answers,
    summarise,
)
from faithgen.evaluation.scorers.judged import headline, load_judged

__all__ = [
    "DEFAULT_SCORER",
    "SCORERS",
    "ClaimContext",
    "Scorer",
    "ScorerInfo",
    "SentenceScore",
    "Support",
    "headline_allowed",
    "judged_threshold",
    "load_scorer",
    "reads_with_generator",
    "score_answer",
    "score_answers",
    "summarise",
]


@dataclass(frozen=True)
class ScorerInfo:
    """What the registry knows of a kind of scorer.

    Attributes:
        kind (`str`): its name in [`SCORERS`].
        summary (`str`): one line.
        weakness (`str`): one line.
        module (`str`), type (`str`): where its class is; imported when it is loaded.
        judged_as (`str`, *optional*): the name its default form is judged under; `None` where there is no default form.
    """

    kind: str
    summary: str
    weakness: str
    module: str
    type: str
    judged_as: str | None = None

    @property
    def headline(self) -> bool:
        """Whether its default form may carry a headline, see [`headline_allowed`]."""
        return self.judged_as is not None and headline_allowed(self.judged_as)[0]

    def load(self, **options: Any) -> Scorer:
        """Make a scorer.

        Raises:
            FaithgenError: If an option is unknown, or the model cannot be loaded.
        """
        made: Callable[..., Scorer] = getattr(import_module(f"{__name__}.{self.module}"), self.type)
        known = inspect.signature(made).parameters
        unknown = sorted(set(options) - set(known))
        if unknown:
            takes = f"it takes {', '.join(known)}" if known else "it takes none"
            raise FaithgenError(f"scorer {self.kind!r} has no option {unknown[0]!r}; {takes}")
        return made(**options)


SCORERS: dict[str, ScorerInfo] = {
    info.kind: info
    for info in (
        ScorerInfo(
            "lexical",
            "content words of the claim in its best document; numbers, dates and names weigh more; no model",
            "words, not meaning: negation and exchanged roles pass, true paraphrase and conclusions do not",
            "lexical",
            "LexicalScorer",
            "lexical",
        ),
        ScorerInfo(
            "heads",
            "attention of the generator's own retrieval heads while it reads the claim; no second model",
            "the model's own view: what it copies is believed",
            "heads",
            "HeadsScorer",
            "heads:SmolLM2-135M-Instruct.Q4_1",
        ),
        ScorerInfo(
            "cross_encoder",
            "support cross-encoder fine-tuned on labelled claims (recipes/scorer)",
            "small model, small training sets; best chunk only",
            "cross_encoder",
            "CrossEncoderScorer",
        ),
        ScorerInfo(
            "nli",
            "any NLI cross-encoder: entailment of the claim by a document chunk",
            "best chunk only; trained on short premises",
            "nli",
            "NliScorer",
            "nli:cross-encoder/nli-deberta-v3-base",
        ),
        ScorerInfo(
            "minicheck",
            "MiniCheck (2404.10774): flan-t5-large, deberta-v3-large, roberta-large",
            "0.4-0.8 billion parameters: slow on a CPU; best chunk only",
            "minicheck",
            "MiniCheckScorer",
            "minicheck:flan-t5-large",
        ),
    )
}
"""Kinds of scorers by name."""

DEFAULT_SCORER = "lexical"
"""The best judged one that runs offline on a CPU, see `benchmarks/README.md`."""


def load_scorer(name: str = DEFAULT_SCORER, **options: Any) -> Scorer:
    """Load a scorer.

    Args:
        name (`str`, *optional*, defaults to `"lexical"`):
            A kind of [`SCORERS`], or kind and model in one: `"nli:cross-encoder/nli-deberta-v3-base"`. What stands after
            `"heads:"` is a fitted head where it ends in `.json`, else the model that reads.
        options: of the scorer's class, e.g. `model`, `device`, `batch_size`.

    Returns:
        [`Scorer`]

    Raises:
        FaithgenError: If the kind or an option is unknown, or the model is not there.
    """
    kind, _, model = name.partition(":")
    if kind not in SCORERS:
        raise FaithgenError(f"there is no scorer {name!r}; choose from {', '.join(SCORERS)}")
    if model:
        options = {"head" if _is_head(kind, model) else "model": model, **options}
    return SCORERS[kind].load(**options)


def reads_with_generator(name: str) -> bool:
    """Whether a scorer reads with the generator that it judges, unless its name says with which model: `"heads"` and
    `"heads:FILE.json"`."""
    kind, _, model = name.partition(":")
    return kind == "heads" and (not model or _is_head(kind, model))


def _is_head(kind: str, model: str) -> bool:
    return kind == "heads" and model.endswith(".json")


def headline_allowed(name: str) -> tuple[bool, str]:
    """Whether figures of a scorer may carry a headline, and why (not): the rule of [`headline`] on what was judged.

    Args:
        name (`str`): the scorer's `name`.

    Returns:
        `(allowed, reason)`
    """
    return headline(load_judged().get(name))


def judged_threshold(name: str) -> float:
    """Probability from which a scorer's claims count as supported: chosen where it was judged, else 0.5."""
    figures = load_judged().get(name)
    return 0.5 if figures is None or figures["threshold"] is None else float(figures["threshold"])
