"""CAFE stage 1: rank documents by the attention of a few retrieval heads and keep the best (2505.10063, eq. 1-6)."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING

import torch

from faithgen.documents import Document
from faithgen.errors import FaithgenError
from faithgen.filtering.attention import document_attention, null_question
from faithgen.filtering.prefix_store import prefix_store
from faithgen.heads.head_set import Head, HeadSet
from faithgen.prompting import PromptBuilder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_FEWEST = 8
"""Documents that a scoring pass reads together however long they are, if the model's window takes them."""


@dataclass(frozen=True)
class FilterConfig:
    """Filtering of documents and steering of attention.

    Args:
        enabled (`bool`, *optional*, defaults to `True`): `False` keeps all documents in the order given.
        num_heads (`int`, *optional*, defaults to 4): K1, retrieval heads that vote.
        max_depth (`float`, *optional*, defaults to 0.65):
            Take them from the first this share (0 to 1) of the layers while there are any: the scoring pass ends in the
            deepest of them. The heads that rank best sit in the middle (QRHead, CoRe).
        top_m (`int`, *optional*, defaults to 4): M1, documents each head votes for; the union is kept.
        keep (`int`, *optional*): keep at most this many of the union, those with the highest score.
        mass (`float`, *optional*, defaults to 0.3):
            Keep the best of the union only until together they hold this share (0 to 1) of the voting heads' attention to
            all documents: few where the heads agree, more where the evidence is spread. `None` keeps the whole union, as
            the paper does.
        reorder (`bool`, *optional*, defaults to `True`): best document last, next to the question; else as given.
        calibrate (`bool`, *optional*, defaults to `True`):
            Subtract the attention that a content-free question ("N/A") gives each document (QRHead, ICR): what a
            document gets for its place and length and not for the question. Reads a few tokens on the same cache.
        refine (`int`, *optional*, defaults to 4):
            Read this many of the best of the union once more, the best first, and share their scores out anew by the
            attention they get then: without the other documents, and with the place next to the question, which draws
            attention, given to the weakest. 0 or 1 leaves the first ranking as it is (the paper).
        window (`int`, *optional*, defaults to 2048):
            Documents of more than twice as many tokens are read in groups of about so many (but of 8 documents or more),
            each a mix of the list, and the best of each group then meet in a pass of their own: reading time grows with the
            tokens, no longer with their square. `None` fills the model's window.
        steer (`bool`, *optional*, defaults to `False`): CAFE stage 2, see `delta`.
        steer_heads (`int`, *optional*, defaults to 2): K2, heads that vote for evidence among the kept documents.
        steer_top_m (`int`, *optional*, defaults to 2): M2, documents each of them votes for.
        delta (`float`, *optional*, defaults to log 10):
            Added to the scaled attention logits from question tokens to the evidence, in all heads, while the prompt is
            read: attention to it is multiplied by exp(delta) before renormalising.
        kept_bytes (`int`, *optional*):
            Memory for the documents' keys and values of the scoring passes: asked about the same documents again, only the
            question is read. They help if all groups of the documents fit: an 8B model takes about 150 MiB for 2,048 tokens,
            so some 2.5 GiB for 32K. 256 MiB if not given, on a GPU an eighth of its free memory if that is more; 0 keeps
            none.

    Raises:
        FaithgenError: If a value is out of its range.
    """

    enabled: bool = True
    num_heads: int = 4
    max_depth: float = 0.65
    top_m: int = 4
    keep: int | None = None
    mass: float | None = 0.3
    reorder: bool = True
    calibrate: bool = True
    refine: int = 4
    window: int | None = 2048
    steer: bool = False
    steer_heads: int = 2
    steer_top_m: int = 2
    delta: float = math.log(10)
    kept_bytes: int | None = None

    def __post_init__(self) -> None:
        for name in ("num_heads", "top_m", "steer_heads", "steer_top_m"):
            if getattr(self, name) < 1:
                raise FaithgenError(f"{name} is {getattr(self, name)}; give 1 or more")
        if self.kept_bytes is not None and self.kept_bytes < 0:
            raise FaithgenError(f"kept_bytes is {self.kept_bytes}; give 0 (none) or more")
        if self.window is not None and self.window < 1:
            raise FaithgenError(
                f"window is {self.window}; give 1 or more tokens, or None for all that the model takes"
            )
        if self.refine < 0:
            raise FaithgenError(f"refine is {self.refine}; give 0 (off) or more")
        if not 0 < self.max_depth <= 1:
            raise FaithgenError(f"max_depth is {self.max_depth}; give a number above 0 and up to 1")
        if self.keep is not None and self.keep < 1:
            raise FaithgenError(f"keep is {self.keep}; give 1 or more")
        if self.mass is not None and not 0 < self.mass <= 1:
            raise FaithgenError(f"mass is {self.mass}; give a number above 0 and up to 1")
        if not math.isfinite(self.delta):
            raise FaithgenError(f"delta is {self.delta}; give a finite number, e.g. 2.3")

    def scoring_heads(self, heads: HeadSet) -> list[Head]:
        """The K1 heads that rank documents.

        Raises:
            FaithgenError: If the set has fewer heads.
        """
        return heads.top(self.num_heads, max_depth=self.max_depth)


@dataclass
class Ranking:
    """Scores of documents.

    Attributes:
        scores (`list[float]`): gamma(d), the sum over heads of the share of each head's document attention (eq. 5). With
            `refine`, the best are read once more and share their scores out anew: comparable among themselves only.
        votes (`list[bool]`): whether any head has the document among its `top_m` (eq. 4).
        prefill_tokens (`int`): tokens that the scoring passes read.
        passes (`int`): scoring passes: one for each window that the documents fill, and those that compare or refine.
        truncated (`list[int]`): documents that were cut to be scored.
        coarse (`list[float]`): the scores of the first pass, before `refine`.
        fine (`list[float | None]`): the scores that `refine` gave; `None` for a document that was not read once more.
    """

    scores: list[float]
    votes: list[bool]
    prefill_tokens: int = 0
    passes: int = 0
    truncated: list[int] = field(default_factory=list)
    coarse: list[float] = field(default_factory=list)
    fine: list[float | None] = field(default_factory=list)

    def order(self) -> list[int]:
        """Document indices, best first; ties in the order given."""
        return sorted(range(len(self.scores)), key=lambda i: (-self.scores[i], i))

    def kept(self, config: FilterConfig) -> list[int]:
        """Indices of the documents to keep, in prompt order (eq. 6)."""
        chosen = [i for i in self.order() if self.votes[i]][: config.keep]
        if config.mass is not None:
            total = sum(max(0.0, score) for score in self.scores)
            before = accumulate((max(0.0, self.scores[i]) for i in chosen), initial=0.0)
            chosen = [
                i for i, reached in zip(chosen, before, strict=False) if reached < config.mass * total
            ] or chosen[:1]
        return chosen[::-1] if config.reorder else sorted(chosen)

    def dropped(self, config: FilterConfig) -> dict[int, str]:
        """Indices of the documents not to keep, best first, each with the reason in words."""
        kept = set(self.kept(config))
        reasons = {}
        for i in self.order():
            if i in kept:
                continue
            if self.scores[i] < 0:
                reasons[i] = "behind in an earlier round: the documents fill more than one window"
            elif not self.votes[i]:
                reasons[i] = f"no head has it among its best {config.top_m}"
            elif config.keep is not None and len(kept) == config.keep:
                reasons[i] = f"at most {config.keep} are kept"
            else:
                reasons[i] = f"the better ones hold at least {config.mass:.0%} of the heads' attention"
        return reasons


def head_shares(attention: torch.Tensor) -> torch.Tensor:
    """Each head's attention to documents as shares that sum to 1 (CAFE's beta, eq. 1).

    Calibrated attention may be below zero: that counts as none. A head for which all of it is keeps its order.

    Args:
        attention (`torch.Tensor` of shape `[H, D]`)
    """
    shares = torch.where((attention > 0).any(1, keepdim=True), attention, attention - attention.amin(1, keepdim=True))
    shares = shares.clamp(min=0)
    shares = torch.where((shares > 0).any(1, keepdim=True), shares, torch.ones_like(shares))
    return shares / shares.sum(1, keepdim=True)


def rank_documents(
    model: PreTrainedModel,
    builder: PromptBuilder,
    heads: Sequence[Head],
    question: str,
    documents: Sequence[Document],
    config: FilterConfig,
) -> Ranking:
    """Rank documents with the attention of `heads` (eq. 1 and 4-5).

    Documents that do not fit the model's window together, or exceed `config.window`, are read in groups; the best of each
    group then meet in a last pass whose scores decide, and the others follow in the order of their group's scores.

    Returns:
        [`Ranking`] with one score and one vote a document.
    """
    store = None if model is None else prefix_store(model, config.kept_bytes)
    with contextlib.nullcontext() if store is None else store.checked_once():
        return _rank(model, builder, heads, question, documents, config)


def _rank(model, builder, heads, question, documents: Sequence[Document], config: FilterConfig) -> Ranking:
    groups = _windows(builder, question, documents, config.window)
    ranking = Ranking([0.0] * len(documents), [False] * len(documents))
    finalists = list(range(len(documents)))
    if len(groups) > 1:
        for group in groups:
            _rank_group(model, builder, heads, question, documents, group, config, ranking)
        share = max(1, min(config.top_m, config.num_heads * config.top_m // len(groups)))
        ranked = [sorted(group, key=lambda i: -ranking.scores[i]) for group in groups]
        best = [i for place in range(share) for row in ranked for i in row[place : place + 1]]  # firsts, seconds, ...
        finalists = sorted(_windows(builder, question, [documents[i] for i in best], names=best)[0])
        behind = sorted(set(range(len(documents))) - set(finalists), key=lambda i: -ranking.scores[i])
        ranking.votes = [False] * len(documents)
        for place, i in enumerate(behind):  # below every finalist, in their own order
            ranking.scores[i] = -1.0 - place / len(documents)
    _rank_group(model, builder, heads, question, documents, finalists, config, ranking)
    ranking.coarse, ranking.fine = list(ranking.scores), [None] * len(documents)
    best = [i for i in ranking.order() if ranking.votes[i]][: config.refine]
    if len(best) > 1:
        _refine(model, builder, heads, question, documents, ranking, best)
    return ranking


def _refine(model, builder, heads, question, documents, ranking: Ranking, best: list[int]) -> None:
    """Read the best documents, best first, and share their scores out by this reading's attention.

    No calibration here: it would take away what the order gives, that the later ones stand at the better place."""
    attention, prompt = document_attention(model, builder, heads, question, [documents[i] for i in best])
    shares = head_shares(attention).mean(0)
    total = sum(ranking.scores[i] for i in best)
    for index, share in zip(best, shares.tolist(), strict=True):
        ranking.scores[index] = ranking.fine[index] = total * share
    ranking.prefill_tokens += prompt.question[1]
    ranking.passes += 1


def _rank_group(model, builder, heads, question, documents, group: list[int], config, ranking: Ranking) -> None:
    store = None if model is None else prefix_store(model, config.kept_bytes)
    hits = 0 if store is None else store.hits
    attention, prompt = document_attention(
        model, builder, heads, question, [documents[i] for i in group], calibrate=config.calibrate, store=store
    )
    shares = head_shares(attention)
    voted = torch.zeros(len(group), dtype=torch.bool)
    voted[shares.topk(min(config.top_m, len(group)), dim=1).indices.flatten()] = True
    for position, index in enumerate(group):
        ranking.scores[index] = float(shares[:, position].sum())
        ranking.votes[index] = bool(voted[position])
        if prompt.documents[position].truncated and index not in ranking.truncated:
            ranking.truncated.append(index)
    start, end = prompt.question
    if store is not None and store.hits > hits:
        ranking.prefill_tokens += end - start
    else:
        ranking.prefill_tokens += end + (len(null_question(builder)) if config.calibrate else 0)
    ranking.passes += 1


def _windows(
    builder: PromptBuilder,
    question: str,
    documents: Sequence[Document],
    wanted: int | None = None,
    names: Sequence[int] | None = None,
) -> list[list[int]]:
    """Document indices in groups that fit the model's window, in order; one longer than half of it is cut to share it.

    Where there are more than twice as many tokens as `wanted`, groups of [`_FEWEST`] or more documents keep to that, about,
    and each takes documents from all over the list.
    """
    probe = Document("a")
    room = builder.window - len(builder.build(question, [probe])) + builder.document_tokens(probe)
    needs = [min(builder.document_tokens(document), room // 2) for document in documents]
    most = room if wanted is None or sum(needs) <= 2 * wanted else min(room, wanted)
    groups: list[list[int]] = [[]]
    used = 0
    for index, need in zip(names or range(len(documents)), needs, strict=True):
        limit = most if len(groups[-1]) >= _FEWEST else room
        if groups[-1] and used + need > limit:
            groups.append([])
            used = 0
        groups[-1].append(index)
        used += need
    if most < room:
        # a mix in each: what a retriever put first meets what it put last, and no group holds all the good ones
        mixed = [list(range(start, len(needs), len(groups))) for start in range(len(groups))]
        if all(sum(needs[place] for place in group) <= room for group in mixed):
            return mixed
    return groups
