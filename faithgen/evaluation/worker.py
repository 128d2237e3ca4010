"""From a batch of questions to rows: one for each answer, with its metrics, its evidence and what went wrong."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from faithgen.answer import Answer
from faithgen.evaluation.datasets.schema import EvalDocument, Example
from faithgen.evaluation.methods import Answerer, Method, get_method
from faithgen.evaluation.metrics.ranking import rank_by_score
from faithgen.evaluation.metrics.refusal import is_refusal
from faithgen.evaluation.plan import Batch, EvalSettings
from faithgen.evaluation.rankers import Ranker, get_ranker, load_ranker
from faithgen.evaluation.store import Row, finite
from faithgen.evaluation.tasks import Task, score_choice, score_ranking, score_text

if TYPE_CHECKING:
    from faithgen.evaluation.scorers.base import Scorer, Support
    from faithgen.generator import FaithfulGenerator

_LOG = logging.getLogger(__name__)
UNSCORED = "scorer failed"
"""Beginning of the reason in rows whose answer the scorer could not judge."""

_META = ("length", "depth", "length_reached", "depth_reached", "unit")


class Worker:
    """Runs batches with one loaded model.

    Args:
        settings ([`EvalSettings`]): of the run.
        generator ([`FaithfulGenerator`], *optional*): model and heads; a run of BM25 and embeddings alone needs none.
        scorer ([`Scorer`], *optional*): judges the answers.
        threshold (`float`, *optional*, defaults to 0.5): probability from which the scorer calls a sentence supported.
    """

    def __init__(
        self,
        settings: EvalSettings,
        generator: FaithfulGenerator | None,
        scorer: Scorer | None = None,
        threshold: float = 0.5,
    ):
        self.settings, self.generator, self.scorer, self.threshold = settings, generator, scorer, threshold
        self._answerer = None if generator is None else Answerer(generator, settings.embedding)
        self._scores: dict[str, Any] = {}

    def method(self, name: str) -> Method | Ranker:
        """A method of the run by name."""
        if self.settings.mode == "rank":
            return get_ranker(name, self.settings.seed)
        return get_method(name, alpha=self.settings.alpha, seed=self.settings.seed)

    def unavailable(self, name: str) -> str | None:
        """Why a method cannot run with this model, or `None`."""
        method = self.method(name)
        if isinstance(method, Ranker):
            return None
        assert self._answerer is not None
        return self._answerer.unavailable(method)

    def method_record(self, name: str) -> dict[str, Any]:
        """A method's settings, for `run.json`."""
        return finite(asdict(self.method(name)))

    def run(self, batch: Batch, set_name: str, task: Task) -> list[Row]:
        """Rows of a batch, in order. Where the batch fails as a whole, its rows are tried one by one.

        Args:
            batch ([`Batch`]): the questions and the method's name.
            set_name (`str`): the set, without options.
            task ([`Task`]): how it is asked and scored.
        """
        method = self.method(batch.method)

        def run(examples: list[Example]) -> list[Row]:
            if isinstance(method, Ranker):
                return [self._rank(method, set_name, example) for example in examples]
            if task.kind == "choice":
                return self._choose(method, task, examples)
            return self._answer(method, set_name, task, examples)

        started = time.perf_counter()
        found = _one_by_one(run, batch.examples)
        seconds = (time.perf_counter() - started) / max(1, len(batch.examples))
        checksum = self.checksum(method, task)
        return [
            {
                **_head(batch, example, task),
                **row,
                "seconds": round(seconds, 4),
                "settings": checksum,
            }
            for example, row in zip(batch.examples, found, strict=True)
        ]

    def checksum(self, method: Method | Ranker, task: Task) -> str:
        """Of all that decides a row besides its question: method, prompt, model, heads and scorer."""
        generator = self.generator
        model: Any = None
        if generator is not None:
            heads = (generator.scoring_heads, generator.copying_heads)
            model = [generator.loaded.model_id, generator.loaded.revision, *(head_checksum(one) for one in heads)]
        used = [finite(asdict(method)), asdict(task), self.settings.record(), model]
        return hashlib.sha256(json.dumps(used, sort_keys=True).encode()).hexdigest()[:12]

    # --- the kinds of rows --------------------------------------------------------------------------------------------

    def _answer(self, method: Method, set_name: str, task: Task, examples: list[Example]) -> list[Row]:
        answerer, settings = self._answerer, self.settings
        assert answerer is not None
        chosen = [answerer.select(method, example) for example in examples]
        rows: list[tuple[Example, list[EvalDocument]]] = [
            (example, documents)
            for example, documents in zip(examples, chosen, strict=True)
            if not isinstance(documents, str)
        ]
        answers: list[Answer] = []
        if rows:
            answers = answerer.answer(
                method,
                rows,
                instruction=settings.instruction or task.instruction,
                without_documents=task.without_documents,
                max_new_tokens=settings.max_new_tokens or task.max_new_tokens,
            )
        support = self._support([example for example, _ in rows], answers)
        found = iter(zip(rows, answers, support, strict=True))
        built: list[Row] = []
        for documents in chosen:
            if isinstance(documents, str):
                built.append({"skipped": documents})
                continue
            (example, given), answer, judged = next(found)
            built.append(
                {
                    "answer": answer.text,
                    "metrics": score_text(set_name, task, answer.text, example),
                    "scorer": judged,
                    "documents": _documents(example, given, answer),
                    "prompt_order": answer.prompt_order,
                    "doubt": {"score": round(answer.doubt.score, 4), "level": answer.doubt.level},
                    "finish_reason": answer.finish_reason,
                    "timings": {name: round(value, 4) for name, value in answer.timings.items()},
                    "warnings": answer.warnings,
                }
            )
        return built

    def _support(self, examples: Sequence[Example], answers: Sequence[Answer]) -> list[Row | None]:
        """The scorer's figures of each answer: by all documents of its row, whichever of them the method read.

        A refusal claims nothing and has no figure, as refusals were left out where scorers were judged.
        """
        if self.scorer is None or not answers:
            return [None] * len(answers)
        from faithgen.evaluation.scorers.base import Support

        refusals = [is_refusal(answer.text) for answer in answers]
        asked = zip(examples, answers, refusals, strict=True)
        judged = iter(self._judge([(example, answer.text) for example, answer, refusal in asked if not refusal]))
        found = (Support(None, None, None, 0, "refusal") if refusal else next(judged) for refusal in refusals)
        return [{"name": self.scorer.name, **asdict(one)} for one in found]

    def _judge(self, rows: Sequence[tuple[Example, str]]) -> list[Support]:
        """Support of answers; one by one where they cannot be judged together. A scorer that fails costs its own figure
        alone, not the answer."""
        from faithgen.evaluation.scorers.base import Support, score_answers, summarise

        if not rows:
            return []
        assert self.scorer is not None
        texts = [[f"{d.title}\n{d.text}" if d.title else d.text for d in example.documents] for example, _ in rows]
        try:
            found = score_answers(
                self.scorer, [answer for _, answer in rows], texts, [example.question for example, _ in rows]
            )
            return [summarise(sentences, self.threshold) for sentences in found]
        except Exception as error:
            if len(rows) == 1:
                _LOG.debug("the answer of row %s cannot be judged", rows[0][0].id, exc_info=True)
                return [Support(None, None, None, 0, f"{UNSCORED}: {_one_line(error)}")]
        return [self._judge([row])[0] for row in rows]

    def _choose(self, method: Method, task: Task, examples: list[Example]) -> list[Row]:
        from faithgen.evaluation.continuations import EndingPrompt, score_endings
        from faithgen.evaluation.prompts import ending_prompt, masked_heads

        assert self._answerer is not None
        if method.selects:
            return [{"skipped": "the set has no documents to choose among"} for _ in examples]
        generator = self._answerer.variant(method, task.instruction, task.without_documents)
        contrast = generator.resolved(method.contrast)
        prompts = [
            ending_prompt(generator, e.question, e.meta["options"], contrast, self.settings.choice_style)
            for e in examples
        ]
        scored = score_endings(
            generator.loaded.model,
            [prompt for prompt in prompts if isinstance(prompt, EndingPrompt)],
            contrast,
            masked_heads=masked_heads(generator, contrast),
            batch_size=2 * self.settings.batch_size,
        )
        found = iter(scored)
        rows: list[Row] = []
        for example, prompt in zip(examples, prompts, strict=True):
            if isinstance(prompt, str):
                rows.append({"skipped": prompt})
                continue
            logprobs = [score.logprob for score in next(found)]
            best = max(range(len(logprobs)), key=lambda i: logprobs[i])
            rows.append(
                {
                    "answer": example.meta["options"][best].strip(),
                    "metrics": score_choice(logprobs, example),
                    "logprobs": [round(value, 5) for value in logprobs],
                    "options": example.meta["options"],
                }
            )
        return rows

    def _rank(self, ranker: Ranker, set_name: str, example: Example) -> Row:
        if ranker.name not in self._scores:
            self._scores[ranker.name] = load_ranker(ranker, self.generator, self.settings.embedding)
        names = [document.id for document in example.documents]
        scores = dict(zip(names, self._scores[ranker.name](example), strict=True))
        ranking = rank_by_score(scores)
        relevance = example.relevance
        return {
            "answer": " ".join(ranking[:10]),
            "metrics": score_ranking(set_name, ranking, example),
            "ranking": [
                {"id": name, "score": round(scores[name], 5), "relevance": relevance.get(name)} for name in ranking
            ],
        }


def head_checksum(heads: Any) -> str:
    """A checksum of the scores of a head set."""
    return hashlib.sha256(json.dumps(heads.scores).encode()).hexdigest()[:12]


def _one_by_one(run: Callable[[list[Example]], list[Row]], examples: list[Example]) -> list[Row]:
    """Rows of all examples at once, or, if that fails, of each alone; an error becomes a row."""
    try:
        return run(examples)
    except Exception as error:
        if len(examples) == 1:
            _LOG.debug("row %s failed", examples[0].id, exc_info=True)
            return [{"error": _one_line(error)}]
    return [_one_by_one(run, [example])[0] for example in examples]


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"


def _head(batch: Batch, example: Example, task: Task) -> Row:
    meta = {name: example.meta[name] for name in _META if name in example.meta}
    if task.group and example.meta.get(task.group) is not None:
        meta["group"] = str(example.meta[task.group])
    return {
        "dataset": batch.dataset,
        "id": example.id,
        "method": batch.method,
        "question": example.question,
        "answers": example.answers,
        **({"long_answer": example.long_answer} if example.long_answer else {}),
        **({"meta": meta} if meta else {}),
    }


def _documents(example: Example, given: Sequence[EvalDocument], answer: Answer) -> list[dict[str, Any]]:
    """What became of each of the row's documents: given to the model or not, kept by its filter, with score."""
    seen = {document.id: document for document in answer.documents}
    read = {document.id for document in given}
    rows = []
    for document in example.documents:
        after = seen.get(document.id)
        row: dict[str, Any] = {"id": document.id, "kept": document.id in read and (after is None or bool(after.kept))}
        if document.gold is not None:
            row["gold"] = document.gold
        if after is not None and after.score is not None:
            row["score"] = round(after.score, 5)
        if after is not None and after.truncated:
            row["truncated"] = True
        rows.append(row)
    return rows
