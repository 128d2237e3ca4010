"""The methods that an evaluation compares, each as settings of the one generator.

A name may carry a contrast strength and the random-head control: `heads@0.5`, `cafe:random`, `decore@1:random3`.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from faithgen.answer import Answer
from faithgen.decoding.contrast import ContrastConfig
from faithgen.errors import FaithgenError
from faithgen.evaluation.bm25 import bm25
from faithgen.evaluation.datasets.schema import EvalDocument, Example
from faithgen.evaluation.prompts import closed_book_prompt, decode_text, without_control
from faithgen.evaluation.rankers import load_embedding, to_documents
from faithgen.filtering.coarse import FilterConfig

if TYPE_CHECKING:
    from faithgen.generator import FaithfulGenerator

TOP_K = 4
"""Documents that the retrieval baselines keep."""

Documents = Literal["all", "none", "gold", "embedding", "bm25"]

_OFF = FilterConfig(enabled=False)
_NONE = ContrastConfig(source="none")
_CAFE = FilterConfig(max_depth=1.0, mass=None, calibrate=False, refine=0, window=None, steer=True)
_NAME = re.compile(r"(?P<name>[a-z0-9_]+)(?:@(?P<alpha>[^:@]+))?(?P<random>:random(?P<seed>\d{0,9}))?")


@dataclass(frozen=True)
class Method:
    """One way to answer.

    Attributes:
        name (`str`): as on the command line.
        about (`str`): one line for a report.
        documents (`str`): which of the documents the model is given: `"all"`, `"none"`, `"gold"`, or the best 4 by
            `"embedding"` or `"bm25"`, the best last.
        filter ([`FilterConfig`]), contrast ([`ContrastConfig`]): as the generator takes them.
        control (`bool`): `[faithful]` stands in the prompt; needs a model trained with control tokens. `None`: where the
            model has them.
        random_heads (`int`, *optional*): seed of as many random heads instead, the control.
    """

    name: str
    about: str
    documents: Documents = "all"
    filter: FilterConfig = _OFF
    contrast: ContrastConfig = _NONE
    control: bool | None = False
    random_heads: int | None = None

    @property
    def uses_heads(self) -> bool:
        return self.filter.enabled or self.filter.steer or self.contrast.source in ("heads", "auto")

    @property
    def selects(self) -> bool:
        """Whether it chooses among documents or steers to some."""
        return self.documents != "all" or self.filter.enabled or self.filter.steer

    def to_dict(self) -> dict[str, Any]:
        """JSON form, for the settings of a run."""
        return asdict(self)


METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (
        Method("base", "all documents in their order, plain decoding"),
        Method("closed_book", "no documents", documents="none"),
        Method("gold", "the gold documents alone", documents="gold"),
        Method("embedding", f"best {TOP_K} by a sentence embedding", documents="embedding"),
        Method("bm25", f"best {TOP_K} by BM25", documents="bm25"),
        Method("cafe", "CAFE (2505.10063): union of the heads' votes, steering, no contrast", filter=_CAFE),
        Method("cafe_no_steer", "CAFE without its second stage", filter=replace(_CAFE, steer=False)),
        Method("filter", "our default filter, no contrast", filter=FilterConfig()),
        Method(
            "heads",
            "contrast with the masked retrieval heads, constant weight 0.2",
            contrast=ContrastConfig(source="heads", method="rhio", alpha=0.2),
        ),
        Method(
            "context",
            "contrast with the prompt without documents (CAD, 2305.14739), weight 0.5",
            contrast=ContrastConfig(source="context", method="cad", alpha=0.5),
        ),
        Method(
            "adacad",
            "the same, weighted by the divergence of the branches (AdaCAD, 2409.07394)",
            contrast=ContrastConfig(source="context", method="adacad", alpha=1.0),
        ),
        Method(
            "decore",
            "contrast with the masked heads, weighted by entropy (DeCoRe, 2410.18860)",
            contrast=ContrastConfig(source="heads", method="decore", alpha=1.0),
        ),
        Method("control", "trained control token [faithful], no contrast", control=True),
        Method(
            "rhio",
            "trained control tokens, the two branches contrasted (RHIO, 2501.13573), at the model's own weight",
            contrast=ContrastConfig(source="control", method="rhio"),
            control=True,
        ),
        Method(
            "full",
            "our default: filter, and the contrast that fits the model",
            filter=FilterConfig(),
            contrast=ContrastConfig(source="auto"),
            control=None,
        ),
    )
}
"""Methods by name. Those published for plain models have no control token in their prompt, whatever the model."""


def get_method(name: str, *, alpha: float | None = None, seed: int = 0) -> Method:
    """A method by name.

    Args:
        name (`str`): a name of [`METHODS`], then `@ALPHA` for another contrast strength, then `:random` or `:randomN` for
            random heads (drawn by `seed`, or by N).
        alpha (`float`, *optional*): strength for a contrast whose name gives none.
        seed (`int`, *optional*, defaults to 0): of random heads.

    Raises:
        FaithgenError: If there is none of that name, or it has no contrast or no heads to change.
    """
    match = _NAME.fullmatch(name.strip())
    if match is None or match["name"] not in METHODS:
        raise FaithgenError(
            f"the method {name!r} is not known; use {', '.join(METHODS)}, or one with @ALPHA or :random"
        )
    method = METHODS[match["name"]]
    if match["alpha"] is not None:
        if method.contrast.source == "none":
            raise FaithgenError(f"{name!r}: {method.name} has no contrast; leave out @{match['alpha']}")
        alpha = _alpha(match["alpha"], name)
    if alpha is not None and method.contrast.source != "none":
        method = replace(method, contrast=replace(method.contrast, alpha=alpha))
    if match["random"]:
        if not method.uses_heads:
            raise FaithgenError(f"{name!r}: {method.name} uses no heads; leave out :random")
        drawn = int(match["seed"]) if match["seed"] else seed
        method = replace(method, random_heads=drawn, about=f"{method.about}; random heads (seed {drawn})")
    return replace(method, name=name.strip())


def _alpha(text: str, name: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise FaithgenError(f"{name!r}: alpha is {text!r}; give a number of 0 or more, e.g. heads@0.5")
    return value


class Answerer:
    """Answers the examples of a set by any method, with one loaded model.

    Args:
        generator ([`FaithfulGenerator`]): model and heads.
        embedding (`str`, *optional*): name or folder of the embedding baseline's model; the packaged MiniLM by default.
    """

    def __init__(self, generator: FaithfulGenerator, embedding: str | None = None):
        self.generator, self._embedding_name = generator, embedding
        self._variants: dict[tuple[Any, ...], FaithfulGenerator] = {}
        self._embedding: Any = None

    def unavailable(self, method: Method) -> str | None:
        """Why this model cannot run a method, or `None`."""
        if method.control and not self.generator.builder.has_control_tokens:
            return "the model has no control tokens; train them with: faithgen train rhio"
        return None

    def variant(
        self, method: Method, instruction: str | None = None, without_documents: str | None = None
    ) -> FaithfulGenerator:
        """The generator that a method runs on: the same model, with its heads, instruction and control slot."""
        from faithgen.generator import FaithfulGenerator

        key = (method.random_heads, method.control, instruction, without_documents)
        if key not in self._variants:
            given = self.generator
            scoring, copying = given.scoring_heads, given.copying_heads
            if method.random_heads is not None:
                scoring = scoring.random_like(method.random_heads)
                copying = copying.random_like(method.random_heads)
            made = FaithfulGenerator(
                given.loaded, scoring, copying, instruction=instruction or given.builder.instruction
            )
            made.builder.without_documents = without_documents or given.builder.without_documents
            self._variants[key] = without_control(made) if method.control is False else made
        return self._variants[key]

    def select(self, method: Method, example: Example) -> list[EvalDocument] | str:
        """The documents a method gives the model, in prompt order; or why the row has none for it."""
        documents = example.documents
        if method.documents == "none":
            return []
        if not documents and (method.selects or method.contrast.source != "none"):
            return "the row has no documents"
        if method.documents == "gold":
            return [documents[i] for i in example.gold] or "no gold document is known"
        if method.documents in ("embedding", "bm25"):
            if method.documents == "bm25":
                scores = bm25(example.question, documents)
            else:
                self._embedding = self._embedding or load_embedding(self._embedding_name)
                scores = self._embedding(example.question, documents)
            best = sorted(range(len(documents)), key=lambda i: (-scores[i], i))[:TOP_K]
            return [documents[i] for i in reversed(best)]
        return documents

    def answer(
        self,
        method: Method,
        rows: Sequence[tuple[Example, Sequence[EvalDocument]]],
        *,
        instruction: str | None = None,
        without_documents: str | None = None,
        max_new_tokens: int = 32,
    ) -> list[Answer]:
        """Answer several questions together.

        Args:
            method ([`Method`]): how.
            rows: examples with the documents that `select` chose for them.
            instruction (`str`, *optional*), without_documents (`str`, *optional*): first line of the prompt, with and
                without documents; the generator's own by default.
            max_new_tokens (`int`, *optional*, defaults to 32): most tokens of an answer.

        Raises:
            FaithgenError: If a row cannot be answered, e.g. its documents do not fit the model's window.
        """
        generator = self.variant(method, instruction, without_documents)
        if all(documents for _, documents in rows):
            requests = [(example.question, to_documents(documents)) for example, documents in rows]
            return generator.generate_batch(
                requests, filter=method.filter, contrast=method.contrast, max_new_tokens=max_new_tokens
            )
        started = time.perf_counter()
        prompts = [closed_book_prompt(generator, example.question, max_new_tokens) for example, _ in rows]
        decoded = decode_text(generator, prompts, _NONE, max_new_tokens=max_new_tokens)
        total = time.perf_counter() - started
        return [
            Answer(
                example.question,
                one.text,
                [],
                tokens=one.tokens,
                finish_reason=one.finish_reason,
                timings={"total": total, "prompt_tokens": len(prompt.faithful), "new_tokens": len(one.tokens)},
            )
            for (example, _), one, prompt in zip(rows, decoded, prompts, strict=True)
        ]
