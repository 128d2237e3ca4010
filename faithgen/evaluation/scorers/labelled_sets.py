"""Ten published sets of claims that people labelled as supported or not.

What becomes of each set's labels stands in the docstring of its loader; what is left out is counted by reason. The rows are
not part of faithgen: the loaders read the JSONL files of a folder with one sub-folder a set.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from faithgen.errors import FaithgenError
from faithgen.evaluation.datasets.rows import read_jsonl
from faithgen.evaluation.metrics.refusal import is_refusal
from faithgen.evaluation.scorers.base import ClaimContext
from faithgen.evaluation.scorers.labelled import SUMMARISE, LabelledSet, cluster_of, joined, label_of
from faithgen.evaluation.scorers.labelled_facts import factscore_qcnli, refchecker_nq

QA_SETS = ("eli5_webgpt", "ragtruth_qa_test", "ares_human")
"""Answers to questions over documents: the sets that decide whether a scorer may carry a headline."""


def eli5_webgpt(root: Path) -> LabelledSet:
    """Sentences of long answers to ELI5 questions, three annotators each (LFQA-Verification).

    The majority decides; partially supported is 0, because part of the sentence is not supported. Left out: sentences
    without a majority, and those of questions whose evidence documents are not at hand. Part: whether the system that wrote
    the answer had read documents (closed-book answers are mostly unsupported).
    """
    found = LabelledSet("eli5_webgpt", "qa", "sentence")
    evidence = {row.identity("question_id"): row for row in read_jsonl(root / "eli5_webgpt/qa.jsonl")}
    for row in read_jsonl(root / "eli5_webgpt/attribution_labels.jsonl"):
        question, system, sentences = row.identity("question_id"), row.text("system"), row.rows("sentences")
        if question not in evidence:
            found.excluded["documents are not at hand"] += len(sentences)
            continue
        documents = tuple(
            "\n".join(filter(None, (document.text("title"), document.text("text"))))
            for document in evidence[question].rows(f"docs_{row.text('doc_set')}")
        )
        part = "closed book" if system in ("gpt3", "alpaca") else "with documents"
        answer, places = joined([sentence.text("sentence") for sentence in sentences])
        for sentence, (start, end) in zip(sentences, places, strict=True):
            if not sentence.text("majority"):
                found.excluded["annotators have no majority"] += 1
                continue
            label = label_of(sentence, "majority", {"supported": 1, "partially": 0, "not_supported": 0})
            context = ClaimContext(row.text("question"), answer, start, end)
            number, place = str(sentence.number), f"{question}/{system}"
            text, cluster = sentence.text("sentence"), cluster_of(row.text("question"))
            found.add(number, place, text, documents, label, cluster, context, part)
    return found


def ragtruth_qa_test(root: Path) -> LabelledSet:
    """Sentences of answers over three MS MARCO passages, hallucinated spans marked by people (RAGTruth).

    A sentence that a span touches is 0, any other 1. Left out: sentences touched only by spans that are true but not in the
    passages (`implicit_true`: RAGTruth marks them, others count them as faithful), sentences that assert nothing or refuse
    ("Unable to answer based on given passages."), and answers that RAGTruth itself sets aside.
    """
    found = LabelledSet("ragtruth_qa_test", "qa", "sentence")
    for row in read_jsonl(root / "ragtruth_qa_test/qa_test.jsonl"):
        if row.text("quality") != "good":
            found.excluded[f"answer is set aside by RAGTruth ({row.text('quality')})"] += 1
            continue
        spans = [
            (span.integer("start"), span.integer("end"), None if span.flag("implicit_true") else 0)
            for span in row.rows("spans")
        ]
        found.add_marked(
            row.identity("id"),
            row.text("response"),
            tuple(row.texts("passages")),
            spans,
            question=row.text("question"),
            cluster=cluster_of(row.text("question")),
            unclear="sentence is marked only as true though not in the passages",
        )
    kept = [claim for claim in found.claims if not is_refusal(claim.claim)]
    found.excluded["sentence refuses to answer"] += len(found.claims) - len(kept)
    found.claims = kept
    return found


def ares_human(root: Path) -> LabelledSet:
    """Whole answers over one page of Databricks documentation (ARES); `faithfulness` as it is. Few are unfaithful."""
    found = LabelledSet("ares_human", "qa", "answer")
    for row in read_jsonl(root / "ares_human/human200.jsonl"):
        label, documents = int(bool(row.flag("faithfulness"))), (row.text("document"),)
        found.add_answer(str(row.number), row.text("answer"), documents, label, row.text("question"))
    return found


def begin_wow(root: Path) -> LabelledSet:
    """Replies of dialogue models to one sentence of Wikipedia knowledge (BEGIN), the test file.

    "Fully attributable" is 1, "Not fully attributable" 0. Left out: "Generic" replies.
    """
    return _begin(root, "begin_wow", "test")


def begin_wow_dev(root: Path) -> LabelledSet:
    """The dev file of [`begin_wow`]. Its knowledge sentences recur in the test file: for choosing, not beside it."""
    return _begin(root, "begin_wow_dev", "dev")


def _begin(root: Path, name: str, file: str) -> LabelledSet:
    found = LabelledSet(name, "dialogue", "answer")
    for row in read_jsonl(root / f"begin_wow/{file}.jsonl"):
        if row.text("label") == "Generic":
            found.excluded["reply is generic"] += 1
            continue
        label = label_of(row, "label", {"Fully attributable": 1, "Not fully attributable": 0})
        found.add_answer(str(row.number), row.text("response"), (row.text("knowledge"),), label, row.text("message"))
    return found


def faithbench(root: Path) -> LabelledSet:
    """Sentences of summaries by modern models, spans marked by people (FaithBench). Chosen because detectors disagree.

    A sentence touched by a span that someone labelled "Unwanted" is 0, one without a span 1. Left out: sentences with spans
    labelled only "Benign" or "Questionable", and sentences that assert nothing.
    """
    found = LabelledSet("faithbench", "summary", "sentence")
    for row in read_jsonl(root / "faithbench/faithbench.jsonl"):
        spans = [
            (
                span.integer("summary_start"),
                span.integer("summary_end"),
                0 if any(label.startswith("Unwanted") for label in span.strings("label")) else None,
            )
            for span in row.rows("annotations")
        ]
        source = row.text("source")
        found.add_marked(
            f"{row.identity('batch')}/{row.identity('sample_id')}",
            row.text("summary"),
            (source,),
            spans,
            question=SUMMARISE,
            cluster=cluster_of(source),
            unclear="sentence is marked only as benign or questionable",
        )
    return found


def qags(root: Path) -> LabelledSet:
    """Sentences of news summaries, three annotators each (QAGS); the majority's "yes" is 1. Part: CNN/DM or XSum."""
    found = LabelledSet("qags", "summary", "sentence")
    for row in read_jsonl(root / "qags/qags.jsonl"):
        sentences, article, part = row.rows("summary_sentences"), row.text("article"), row.text("dataset")
        answer, places = joined([sentence.text("sentence") for sentence in sentences])
        for sentence, (start, end) in zip(sentences, places, strict=True):
            label = label_of(sentence, "majority", {"yes": 1, "no": 0})
            context = ClaimContext(SUMMARISE, answer, start, end)
            number, place, text = str(sentence.number), f"{part}/{row.identity('id')}", sentence.text("sentence")
            found.add(number, place, text, (article,), label, cluster_of(article), context, part)
    return found


def aggrefact_cliff_goyal(root: Path) -> LabelledSet:
    """Whole news summaries of BART and Pegasus (CLIFF, as in AggreFact); `faithful` as it is. Part: CNN/DM or XSum.

    Left out: the rows of Goyal'21. None of them is labelled correct (38 have no error type either), and being all in lower
    case they could be told from the others by their looks.
    """
    found = LabelledSet("aggrefact_cliff_goyal", "summary", "answer")
    for row in read_jsonl(root / "aggrefact_cliff_goyal/aggrefact.jsonl"):
        if row.text("dataset") != "CLIFF":
            found.excluded[f"{row.text('dataset')}, where no summary is labelled correct"] += 1
            continue
        part, label = row.text("origin"), int(bool(row.flag("faithful")))
        place = f"{part}/{row.identity('id')}/{row.text('model')}"
        found.add_answer(place, row.text("summary"), (row.text("doc"),), label, SUMMARISE, part)
    return found


LABELLED: dict[str, Callable[[Path], LabelledSet]] = {
    loader.__name__: loader
    for loader in (
        eli5_webgpt,
        ragtruth_qa_test,
        ares_human,
        begin_wow,
        begin_wow_dev,
        refchecker_nq,
        factscore_qcnli,
        faithbench,
        qags,
        aggrefact_cliff_goyal,
    )
}
"""Loaders by the name of their set."""


LICENCES = {
    "eli5_webgpt": "unknown (no licence file; WebGPT data MIT, ELI5 text from Reddit)",
    "ragtruth_qa_test": "RAGTruth MIT; the repository it came from CC BY-NC 4.0",
    "ares_human": "Apache-2.0",
    "begin_wow": "CC BY 4.0",
    "begin_wow_dev": "CC BY 4.0",
    "refchecker_nq": "annotations CC BY 4.0; paragraphs CC BY-SA 3.0",
    "factscore_qcnli": "CC BY-NC 4.0; FActScore MIT; passages CC BY-SA",
    "faithbench": "CC BY-NC-SA 4.0",
    "qags": "unknown (no licence file); articles CNN/DM and BBC XSum",
    "aggrefact_cliff_goyal": "unknown (no licence file); articles CNN/DM and BBC XSum",
}
"""Licence of each set, kept in the provenance of what is fitted on it."""

OPEN_SETS = ("begin_wow_dev", "begin_wow", "ares_human", "refchecker_nq")
"""Sets whose licence lets what is fitted on them be passed on for any use."""


def load_labelled(root: str | os.PathLike[str], names: Iterable[str] | None = None) -> list[LabelledSet]:
    """Load labelled sets.

    Args:
        root (`str` or `PathLike`): folder with one sub-folder a set.
        names (`Iterable[str]`, *optional*): sets of [`LABELLED`]; all by default.

    Returns:
        `list[LabelledSet]`: in the order asked for, none empty.

    Raises:
        FaithgenError: If a set is unknown, its file is missing or not of its shape, or nothing is left of it.
    """
    loaded = []
    for name in LABELLED if names is None else names:
        if name not in LABELLED:
            raise FaithgenError(f"there is no labelled set {name!r}; choose from {', '.join(LABELLED)}")
        one = LABELLED[name](Path(root))
        if not one.claims:
            raise FaithgenError(f"labelled set {name!r} has no row left after filtering; check the files in {root}")
        loaded.append(one)
    return loaded
