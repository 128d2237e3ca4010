"""Two sets whose labels are for facts drawn from an answer: RefChecker's triplets and FActScore's questions."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from faithgen.evaluation.datasets.rows import read_jsonl
from faithgen.evaluation.scorers.base import ClaimContext
from faithgen.evaluation.scorers.labelled import SILENT, LabelledSet, cluster_of, label_of
from faithgen.evaluation.scorers.lexical import content_stems
from faithgen.evaluation.text import clean, split_claims, split_sentences

_BREAK = re.compile(r"\s*####SPECIAL####SEPARATOR####\s*")
_MARK = re.compile(r"\s*(?:</?s>\s*)+")


def refchecker_nq(root: Path) -> LabelledSet:
    """Claim triplets of closed-book answers against a Natural Questions paragraph (RefChecker).

    "Entailment" is 1, "Neutral" and "Contradiction" 0. A triplet is read as the sentence of its three parts. Left out:
    triplets without three parts, and repetitions within an answer. The paragraph is QED's, joined on the question, and may
    differ from what the annotators saw.
    """
    found = LabelledSet("refchecker_nq", "facts", "triplet")
    for row in read_jsonl(root / "refchecker_nq/nq56.jsonl"):
        question, seen = row.identity("id"), set()
        for claim in row.rows("claims"):
            parts = [part.strip().strip('"\\').strip() for part in claim.strings("triplet")]
            text = clean(" ".join(parts))
            label = label_of(claim, "label", {"Entailment": 1, "Neutral": 0, "Contradiction": 0})
            if len(parts) != 3 or not all(parts):
                found.excluded["triplet has not three parts"] += 1
            elif text in seen:
                found.excluded["triplet repeats another of its answer"] += 1
            else:
                context = ClaimContext(row.text("question"), text, 0, len(text))
                number, place = str(claim.number), f"{question}/{row.text('model')}"
                cluster = cluster_of(row.text("question"))
                found.add(number, place, text, (row.text("reference"),), label, cluster, context)
            seen.add(text)
    return found


def factscore_qcnli(root: Path) -> LabelledSet:
    """Sentences of biographies against Wikipedia passages (FActScore as in QC-NLI). Part: the model that wrote.

    The labels are for questions made from atomic facts, not for text: a question's fact is "entailment" or "contradiction".
    Questions are put to sentences in order (see [`align_in_order`]); a sentence is 1 if all its questions are "entailment",
    else 0. Left out: sentences without a question. So these labels are ours in part, and carry no headline.
    """
    found = LabelledSet("factscore_qcnli", "facts", "sentence")
    for row in read_jsonl(root / "factscore_qcnli/factscore.jsonl"):
        answer, labels = row.text("response"), row.object("labels")
        claims = split_claims(answer)
        found.excluded[SILENT] += len(split_sentences(answer)) - len(claims)
        questions = list(labels.values)
        marks: list[list[int]] = [[] for _ in claims]
        if claims:
            places = align_in_order(questions, [claim.text for claim in claims])
            for question, place in zip(questions, places, strict=True):
                marks[place].append(label_of(labels, question, {"entailment": 1, "contradiction": 0}))
        document = _MARK.sub("\n", _BREAK.sub(" ", row.text("document"))).strip()
        for number, (claim, found_marks) in enumerate(zip(claims, marks, strict=True), 1):
            if not found_marks:
                found.excluded["no question is about the sentence"] += 1
                continue
            context = ClaimContext("Tell me a biography.", answer, claim.start, claim.end)
            found.add(
                str(number),
                str(row.number),
                claim.text,
                (document,),
                min(found_marks),
                cluster_of(document),
                context,
                row.text("system"),
            )
    return found


def align_in_order(questions: Sequence[str], sentences: Sequence[str]) -> list[int]:
    """Put each question to the sentence it was made from, knowing that both stand in the same order.

    Of all ways that never go back, the one with the largest sum of shared content words, each weighed by how few of the
    sentences hold it.

    Args:
        questions (`Sequence[str]`): in the order of the facts they ask for.
        sentences (`Sequence[str]`): at least one.

    Returns:
        `list[int]`: for each question the index of its sentence, never falling.
    """
    words = [set(content_stems(sentence)) for sentence in sentences]
    held = Counter(word for sentence in words for word in sentence)
    rarity = {word: math.log((1 + len(words)) / count) for word, count in held.items()}
    best: list[list[float]] = []
    before: list[list[int]] = []
    for question in questions:
        asked = set(content_stems(question))
        row, came = [], []
        reach, at = 0.0, 0
        for index, sentence in enumerate(words):
            if best and (index == 0 or best[-1][index] > reach):
                reach, at = best[-1][index], index
            row.append(reach + sum(rarity[word] for word in asked & sentence))
            came.append(at)
        best.append(row)
        before.append(came)
    if not best:
        return []
    place = max(range(len(words)), key=lambda index: (best[-1][index], -index))
    places = []
    for came in reversed(before):
        places.append(place)
        place = came[place]
    return places[::-1]
