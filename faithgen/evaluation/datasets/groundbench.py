"""GroundBench (RHIO, 2501.13573): long answers from given documents. ELI5-WebGPT, ExpertQA, HAGRID, CLAPNQ, QuoteSum.

None of these has short answers that are all there is to say: `long_answer` is a reference for ROUGE, `meta["references"]`
holds all of them, and faithfulness is judged against the documents. `meta["answerable"]` is false where the documents do
not answer the question. GroundBench's own choice of rows is not published; these are all usable rows of the splits named
below.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from typing import Any

from faithgen.errors import FaithgenError
from faithgen.evaluation.text import clean

from .base import DataSet, Tables, Tally, numbered
from .rows import Row
from .schema import EvalDocument, Example

_EVIDENCE = re.compile(r"\[\d+\]\s+(\S+)(?:\s*\n+(.*))?", re.DOTALL)
_QUOTE = re.compile(r"\[\s*(\d+)\s+(.*?)\s*\]", re.DOTALL)


def eli5_webgpt(
    tables: Tables, generator: random.Random, tally: Tally, *, documents: str = "webgpt"
) -> Iterator[Example]:
    """ELI5 questions with web passages (WebGPT; LFQA-Verification).

    Args:
        documents (`str`, *optional*, defaults to `"webgpt"`):
            `"webgpt"` (passages that WebGPT quoted; reference: its answer), `"human"` (passages that a person chose;
            reference: their answer) or `"bing"` (search results; nobody wrote a reference from them). Whether a passage
            is needed was not judged.
    """
    if documents not in ("webgpt", "human", "bing"):
        raise FaithgenError(f"documents is {documents!r}; give 'webgpt', 'human' or 'bing'")
    for row in tables["rows"]:
        parts = [(d.text("title"), d.text("text"), None) for d in row.rows(f"docs_{documents}")]
        references = [] if documents == "bing" else row.object("answers").texts(documents)
        if documents != "bing" and not references:
            tally.changed["no reference answer"] += 1
        meta = {"written_by": documents if references else None}
        name = row.identity("question_id", "id")
        example = _example(name, row.text("question"), numbered(parts, tally), references, meta)
        yield from _with_documents(example, tally)


def expertqa(tables: Tables, generator: random.Random, tally: Tally) -> Iterator[Example]:
    """Experts' questions with the evidence of the answer that they verified (ExpertQA, 2309.07852).

    The file joins the validation and test parts of both of ExpertQA's splits; rows that are there by the domain split
    alone are training rows of the random split, and are left out.

    The reference is the answer as its expert revised it, less citation marks and Markdown. Evidence that is a bare web
    address is left out. `meta["sources"]`: address by document id; `system`: which system wrote the answer before it was
    revised; `field`.
    """
    for row in tables["rows"]:
        if "in_splits" in row and not any(split.startswith("rand_") for split in row.texts("in_splits")):
            tally.dropped["in the training part of the random split"] += 1
            continue
        sources: dict[str, str] = {}
        parts: list[tuple[str, str, bool | None]] = []
        for evidence in row.texts("evidence_passages"):
            match = _EVIDENCE.fullmatch(evidence)
            text = (match[2] or "").strip() if match else evidence.strip()
            parts.append(("", text, None))
            if match:
                sources[text] = match[1]
        documents = numbered(parts, tally)
        meta: dict[str, Any] = {"sources": {d.id: sources[d.text] for d in documents if d.text in sources}}
        meta |= {name: row.text(name) for name in ("system", "field") if name in row}
        # the file has no ids; questions are unique in it
        example = _example(
            str(row.number), row.text("question"), documents, [_without_marks(row.text("revised_answer"))], meta
        )
        yield from _with_documents(example, tally)


def hagrid(tables: Tables, generator: random.Random, tally: Tally) -> Iterator[Example]:
    """Queries with the quotes that people marked as relevant (HAGRID, 2307.16883; rows as in `miracl/hagrid`).

    References are the model-written answers that people judged both attributable and informative; where a row has none,
    those that nobody judged.
    """
    for row in tables["rows"]:
        parts = [("", quote.text("text"), True) for quote in row.rows("quotes")]
        judged: dict[bool, list[str]] = {True: [], False: []}
        for answer in row.rows("answers"):
            labels = [answer.flag(name) if name in answer else None for name in ("attributable", "informative")]
            if False not in labels:
                judged[None not in labels].append(_without_marks(answer.text("answer")))
        references = judged[True] or judged[False]
        meta = {"references_judged": bool(judged[True])}
        documents = numbered(parts, tally)
        example = _example(row.identity("query_id", "id"), row.text("query", "question"), documents, references, meta)
        if not references:
            tally.changed["no reference answer"] += 1
        yield from _with_documents(example, tally)


def clapnq(tables: Tables, generator: random.Random, tally: Tally, *, answerable: bool = True) -> Iterator[Example]:
    """Natural Questions with one passage and answers of several sentences (CLAPNQ, 2404.02103).

    Args:
        answerable (`bool`, *optional*, defaults to `True`):
            Set by the name of the set: `clapnq_unanswerable` has passages that do not answer their question.
    """
    for row in tables["rows"]:
        parts = [(p.text("title"), p.text("text"), answerable) for p in row.rows("passages")]
        documents = numbered(parts, tally)
        references = []
        for output in row.rows("output"):
            skipped = "meta" in output and output.object("meta").values.get("skip")
            answer = output.text("answer").strip()
            if answer and answer != "NA" and not skipped:
                references.append(answer)
        if answerable != bool(references):
            tally.dropped["no annotator answered" if answerable else "has an answer"] += 1
            continue
        example = _example(row.identity("id"), row.text("input", "question"), documents, references, {})
        example.meta["answerable"] = answerable
        yield from _with_documents(example, tally)


def clapnq_unanswerable(tables: Tables, generator: random.Random, tally: Tally) -> Iterator[Example]:
    """CLAPNQ's questions whose passage does not answer them: the right answer is to say so."""
    return clapnq(tables, generator, tally, answerable=False)


def quotesum(tables: Tables, generator: random.Random, tally: Tally) -> Iterator[Example]:
    """Questions that several sources answer in part (QuoteSum, 2311.04886).

    A row of the file is one person's summary; the rows of a question become one example with several references, their
    quotation marks `[ 2 words ]` taken off. Gold sources are those that a summary quotes. `answers`: the short answers
    that the summaries cover; `meta["short_answers"]`: the same as one list a source, for recall over all of them.
    """
    questions: dict[str, list[Row]] = {}
    for row in tables["rows"]:
        questions.setdefault(row.identity("qid"), []).append(row)
    for name, rows in questions.items():
        rows.sort(key=lambda row: row.number)
        tally.changed["summary taken as another reference of its question"] += len(rows) - 1
        summaries = [row.text("summary") for row in rows]
        quoted = {int(number) for summary in summaries for number, _ in _QUOTE.findall(summary)}
        covered = [_QUOTE.findall(row.text("covered_short_answers")) for row in rows]
        answers: dict[int, list[str]] = {}
        for number, words in (pair for pairs in covered for pair in pairs):
            if words not in answers.setdefault(int(number), []):
                answers[int(number)].append(words)
        parts = [(s.text("title"), s.text("text"), s.integer("n") in quoted) for s in rows[0].rows("sources")]
        references = [re.sub(r"\s+([.,;:!?])", r"\1", _QUOTE.sub(r"\2", summary)) for summary in summaries]
        meta = {"short_answers": [answers[number] for number in sorted(answers)]}
        example = _example(name, rows[0].text("question"), numbered(parts, tally), references, meta)
        example.answers = list(dict.fromkeys(words for group in meta["short_answers"] for words in group))
        yield from _with_documents(example, tally)


def _example(
    name: str, question: str, documents: list[EvalDocument], references: Sequence[str], meta: dict[str, Any]
) -> Example:
    kept = list(dict.fromkeys(reference.strip() for reference in references if reference.strip()))
    meta = {"answerable": True, "references": kept, **meta}
    return Example(name, question, documents, [], kept[0] if kept else None, meta)


def _without_marks(answer: str) -> str:
    """An answer without citation marks and Markdown, line by line."""
    return "\n".join(filter(None, map(clean, answer.splitlines())))


def _with_documents(example: Example, tally: Tally) -> Iterator[Example]:
    if example.documents:
        yield example
    else:
        tally.dropped["no document with text"] += 1


SETS = {
    "eli5_webgpt": DataSet(
        eli5_webgpt,
        {"test": {"rows": "eli5_webgpt/qa.jsonl"}},
        "ELI5 questions of WebGPT's test set with the passages it quoted",
    ),
    "expertqa": DataSet(
        expertqa,
        {"dev": {"rows": "expertqa/val_test_with_evidence.jsonl"}},
        "experts' questions with the evidence of a verified answer; validation and test of ExpertQA's random split",
    ),
    "hagrid": DataSet(
        hagrid,
        {"dev": {"rows": "hagrid/dev.jsonl"}, "train": {"rows": "hagrid/train.jsonl"}},
        "MIRACL queries with relevant quotes and attributed answers; HAGRID's dev split",
    ),
    "clapnq": DataSet(
        clapnq,
        {"dev": {"rows": "clapnq/dev_answerable.jsonl"}},
        "Natural Questions with one passage and a long answer; CLAPNQ's dev split, answerable part",
    ),
    "clapnq_unanswerable": DataSet(
        clapnq_unanswerable,
        {"dev": {"rows": "clapnq/dev_unanswerable.jsonl"}},
        "the same with passages that do not answer; CLAPNQ's dev split, unanswerable part",
    ),
    "quotesum": DataSet(
        quotesum,
        {"dev": {"rows": "quotesum/dev.jsonl"}},
        "questions that several sources answer in part; QuoteSum's dev split",
    ),
}
