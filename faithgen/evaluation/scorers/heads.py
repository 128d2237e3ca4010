"""Support without a second model: where the model's own retrieval heads look while it reads a claim, and how sure it is.

Signals of each answer token (see [`Reading`] and [`AnswerToken`]) are averaged over the claim's tokens, standardised, and
brought into a probability by a small logistic head fitted on labelled claims (`recipes/scorer/fit_heads.py`). The lookback
ratios are those of Lookback Lens (Chuang et al., 2407.07071), for the heads that copy and that score documents only.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from faithgen.documents import Document
from faithgen.errors import FaithgenError
from faithgen.evaluation.scorers.base import ClaimContext, SentenceScore, check_pairs
from faithgen.evaluation.scorers.logistic import FIT, LogisticHead, packaged_head
from faithgen.evaluation.text import split_claims
from faithgen.heads.head_set import Head, check_range

if TYPE_CHECKING:
    from faithgen.answer import Answer
    from faithgen.evaluation.scorers.reading import Reading
    from faithgen.models import LoadedModel

SIGNALS = ("context_share", "logprob", "logprob_min", "jsd")
"""Features that a generated answer's own tokens give, without another pass."""

QUESTION = "What do the passages say?"
"""What is asked where a claim comes without a question."""

_FEATURE = re.compile(r"(?:context|lookback):(\d+)-(\d+)")


class HeadsScorer:
    """Judges claims by the signals of a generator while it reads them after the documents, as its own answer.

    One prefill and one batch of two rows for each answer. Give `contexts`: a claim is then read where it stands in its
    answer, after its question; without them it is read as an answer of its own.

    Weakness: it is the model's own view. A model that copies is believed, also where it copies the wrong thing.

    Args:
        model (`str`, `PathLike` or [`LoadedModel`], *optional*): the model that reads; the packaged one if not given.
        head ([`LogisticHead`] or path, *optional*):
            A fitted head; the one that ships for the model by default. That of a file is named after it and its content,
            because figures of one head say nothing of another.
        revision, dtype, device: as in [`load_model`].

    Raises:
        FaithgenError: If the model cannot be loaded, there is no head for it, or the head is another model's.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | LoadedModel | None = None,
        *,
        head: LogisticHead | str | os.PathLike[str] | None = None,
        revision: str | None = None,
        dtype: str = "auto",
        device: str = "auto",
    ):
        from faithgen.models import DEFAULT_BASE, LoadedModel, load_model

        loaded = model if isinstance(model, LoadedModel) else None
        if loaded is None:
            name: Any = model or DEFAULT_BASE
            loaded = load_model(name, revision=revision, dtype=dtype, device=device)
        self.name = f"heads:{loaded.model_id}"
        if head is None:
            head = packaged_head(loaded.model_id, loaded.revision, "reading")
        if isinstance(head, LogisticHead):
            self.head = head
        else:
            self.head = LogisticHead.load(head)
            content = json.dumps(asdict(self.head), sort_keys=True).encode()
            self.name += f":{Path(head).stem}-{hashlib.sha256(content).hexdigest()[:8]}"
        if self.head.model_id != loaded.model_id and not (loaded.revision and self.head.revision == loaded.revision):
            raise FaithgenError(
                f"the support head was fitted for {self.head.model_id!r}, not for {loaded.model_id!r}; {FIT}"
            )
        self.trained_on = tuple(self.head.trained_on)
        self.reader = SignalReader(loaded, self.head.watched, self.head.masked, named_heads(self.head.features))

    def score(
        self,
        claims: Sequence[str],
        documents: Sequence[Sequence[str]],
        *,
        contexts: Sequence[ClaimContext | None] | None = None,
    ) -> list[float]:
        """See [`Scorer.score`]."""
        read = self.reader.features(claims, documents, contexts)
        return [0.0 if values is None else self.head.probability(values) for values in read]


class SignalReader:
    """Reads claims with a model and gives their signals.

    Args:
        loaded ([`LoadedModel`]): the model.
        watched (`Sequence[tuple[int, int]]`): heads behind `context_share`, at least one.
        masked (`Sequence[tuple[int, int]]`): heads switched off behind `jsd` and `gap`, at least one.
        heads (`Sequence[tuple[int, int]]`, *optional*): heads that get features of their own.

    Raises:
        FaithgenError: If a head is out of range.
    """

    def __init__(
        self, loaded: LoadedModel, watched: Sequence[Head], masked: Sequence[Head], heads: Sequence[Head] = ()
    ):
        from faithgen import hf
        from faithgen.prompting import PromptBuilder

        shape = hf.head_shape(loaded.model)
        check_range([*watched, *masked, *heads], shape.num_layers, shape.num_heads)
        if not watched or not masked:
            raise FaithgenError(f"a support head names no heads to watch or to mask; {FIT}")
        self.loaded, self.watched, self.masked = loaded, list(watched), list(masked)
        self.heads = list(dict.fromkeys([*watched, *heads]))
        self.builder = PromptBuilder(loaded.tokenizer, hf.context_window(loaded.model))

    def features(
        self,
        claims: Sequence[str],
        documents: Sequence[Sequence[str]],
        contexts: Sequence[ClaimContext | None] | None = None,
    ) -> list[dict[str, float] | None]:
        """Signals of each claim, means over its tokens unless said otherwise.

        `context_share`: attention (0 to 1) of the watched heads to the documents. `logprob`, `logprob_min` (lowest of its
        tokens): in nats. `jsd`: Jensen-Shannon divergence against masked heads, in nats. `gap`: log-probability less that
        with masked heads. For each read head, `context:LAYER-HEAD` its attention to the documents and
        `lookback:LAYER-HEAD` its lookback ratio.

        Args:
            claims, documents, contexts: as in [`Scorer.score`]. Claims of one answer are read together.

        Returns:
            `list[dict[str, float] | None]`: `None` for a claim without document text or without a token.

        Raises:
            FaithgenError: As [`Scorer.score`], or if question and answer do not fit the model's window.
        """
        check_pairs(claims, documents, contexts)
        answers: dict[tuple[str, str, tuple[str, ...]], list[tuple[int, tuple[int, int]]]] = {}
        for number, (claim, texts) in enumerate(zip(claims, documents, strict=True)):
            context = contexts[number] if contexts is not None else None
            context = context or ClaimContext()
            place = (context.start, context.end)
            answer = context.answer
            if not answer[slice(*place)].strip():
                answer, place = claim, (0, len(claim))
            kept = tuple(text for text in texts if text.strip())
            answers.setdefault((context.question.strip() or QUESTION, answer, kept), []).append((number, place))
        found: list[dict[str, float] | None] = [None] * len(claims)
        for (question, answer, texts), members in answers.items():
            if texts:
                read = self._read(question, answer, texts, [place for _, place in members])
                for (number, _), values in zip(members, read, strict=True):
                    found[number] = values
        return found

    def _read(
        self, question: str, answer: str, texts: tuple[str, ...], places: list[tuple[int, int]]
    ) -> list[dict[str, float] | None]:
        from faithgen.evaluation.scorers.reading import read_answer, tokens_of

        ids, spans = tokens_of(self.builder, answer, places)
        if not ids:
            return [None] * len(places)
        prompt = self.builder.build(question, [Document(text) for text in texts], reserve=len(ids))
        reading = read_answer(self.loaded.model, prompt, ids, self.heads, self.masked)
        return [self._means(reading, *span) for span in spans]

    def _means(self, reading: Reading, start: int, end: int) -> dict[str, float] | None:
        if start == end:
            return None
        part = slice(start, end)
        values = {
            "context_share": float(reading.context[: len(self.watched), part].mean()),
            "logprob": float(reading.logprob[part].mean()),
            "logprob_min": float(reading.logprob[part].min()),
            "jsd": float(reading.jsd[part].mean()),
            "gap": float((reading.logprob[part] - reading.masked_logprob[part]).mean()),
        }
        context, lookback = reading.context[:, part].mean(1), reading.lookback[:, part].mean(1)
        for index, (layer, head) in enumerate(self.heads):
            values[f"context:{layer}-{head}"] = float(context[index])
            values[f"lookback:{layer}-{head}"] = float(lookback[index])
        return values


def named_heads(features: Sequence[str]) -> list[Head]:
    """The heads that features such as `"lookback:18-6"` name, in order, each once.

    Raises:
        FaithgenError: If a feature names no signal that can be read.
    """
    found: list[Head] = []
    for name in features:
        match = _FEATURE.fullmatch(name)
        if match:
            found.append((int(match[1]), int(match[2])))
        elif name not in (*SIGNALS, "gap"):
            raise FaithgenError(f"there is no signal {name!r}; {FIT}")
    return list(dict.fromkeys(found))


def score_generated(answer: Answer, head: LogisticHead | None = None) -> list[SentenceScore]:
    """Score the sentences of an answer from the signals that its tokens carry: no further pass of any model.

    Args:
        answer ([`Answer`]): generated with a second branch (`jsd`) and watched heads (`context_share`), the default.
        head ([`LogisticHead`], *optional*):
            Fitted on [`SIGNALS`] alone; the one that ships for the answer's model by default.

    Returns:
        `list[SentenceScore]`: the answer's claims in order.

    Raises:
        FaithgenError: If there is no head for the model, or a token lacks a signal that the head uses.
    """
    if head is None:
        head = packaged_head(str(answer.settings.get("model")), str(answer.settings.get("revision") or ""), "signals")
    whole = "".join(token.text for token in answer.tokens)
    offset = len(whole) - len(whole.lstrip())  # the answer's text is stripped
    ends = list(accumulate(len(token.text) for token in answer.tokens))
    scores = []
    for claim in split_claims(answer.text):
        tokens = [
            token
            for token, end in zip(answer.tokens, ends, strict=True)
            if end > claim.start + offset and end - len(token.text) < claim.end + offset and token.text
        ]
        values = {}
        for name in SIGNALS:
            column = [getattr(token, name.removesuffix("_min")) for token in tokens]
            if tokens and None not in column:
                values[name] = min(column) if name.endswith("_min") else sum(column) / len(column)
        scores.append(SentenceScore(claim.text, head.probability(values), claim.start, claim.end))
    return scores
