"""Questions over many passages: Natural Questions among distractors, HotpotQA, MuSiQue, 2WikiMultihopQA.

`answers` are short; SubEM, EM and token F1 fit. The gold passages are labelled.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence

from faithgen.errors import FaithgenError
from faithgen.evaluation.metrics.short_answer import holds, normalise_words

from .base import DataSet, Tables, Tally, numbered
from .rows import Row
from .schema import EvalDocument, Example

_Passage = tuple[str, str]  # title, text


def nq_hard(
    tables: Tables, generator: random.Random, tally: Tally, *, passages: int = 20, gold_position: int | None = None
) -> Iterator[Example]:
    """Natural Questions: the gold passage among the closest others by BM25.

    Rows are in the shape of Lost in the Middle (2307.03172), whose own files are read too: `ctxs` with one `isgold`. In
    our file no distractor shares the gold one's title or was found to hold the answer when it was built; whole-word
    matching still finds answers that are everyday words ("a dye", "the United States") in a few, and
    `meta["answer_also_in"]` lists those documents.

    Args:
        passages (`int`, *optional*, defaults to 20): documents a question, 2 or more.
        gold_position (`int`, *optional*):
            0-based place of the gold passage in all questions (lost in the middle). At a random place where `None`. The
            distractors and their order are the same either way.
    """
    return _nq(tables, generator, tally, passages, gold_position, hard=True)


def nq_random(
    tables: Tables, generator: random.Random, tally: Tally, *, passages: int = 20, gold_position: int | None = None
) -> Iterator[Example]:
    """Natural Questions: the gold passage among those of other questions that do not hold the answer.

    Args:
        passages, gold_position: as in [`nq_hard`].
    """
    return _nq(tables, generator, tally, passages, gold_position, hard=False)


def _nq(
    tables: Tables, generator: random.Random, tally: Tally, count: int, gold_position: int | None, hard: bool
) -> Iterator[Example]:
    if isinstance(count, bool) or not isinstance(count, int) or count < 2:
        raise FaithgenError(f"passages is {count!r}; give a whole number, 2 or more")
    if gold_position is not None and (
        isinstance(gold_position, bool) or not isinstance(gold_position, int) or not 0 <= gold_position < count
    ):
        raise FaithgenError(f"gold_position is {gold_position!r}; give a whole number from 0 to {count - 1}, or None")
    rows: list[tuple[Row, list[str], _Passage, list[_Passage]]] = []
    for row in tables["rows"]:
        contexts = [(c.flag("isgold"), (c.text("title"), c.text("text"))) for c in row.rows("ctxs")]
        marked = [passage for is_gold, passage in contexts if is_gold]
        others = [passage for is_gold, passage in contexts if not is_gold]
        answers = [answer for answer in row.texts("answers") if normalise_words(answer)]
        if not answers or not marked:
            tally.dropped["no gold passage" if answers else "no answer"] += 1
            continue
        rows.append((row, answers, marked[0], others))
    golds = [gold for _, _, gold, _ in rows]
    for row, answers, gold, others in rows:
        if not hard:
            others = _random_distractors(golds, gold, answers, count, generator)
        place = generator.randrange(count)  # drawn in any case: a fixed place changes nothing else
        place = place if gold_position is None else gold_position
        others = others[: count - 1]
        if len(others) < count - 1:
            tally.dropped[f"fewer than {count} passages"] += 1
            continue
        texts = [*others[:place], gold, *others[place:]]
        documents = [EvalDocument(str(i + 1), title, text, i == place) for i, (title, text) in enumerate(texts)]
        also = [d.id for d in documents if not d.gold and any(holds(d.text, answer) for answer in answers)]
        meta = {"gold_position": place, "answer_also_in": also}
        yield Example(row.identity("id"), row.text("question"), documents, answers, None, meta)


def _random_distractors(
    golds: Sequence[_Passage], gold: _Passage, answers: Sequence[str], count: int, generator: random.Random
) -> list[_Passage]:
    phrases = [normalise_words(answer) for answer in answers]
    pool = generator.sample(golds, min(3 * count, len(golds)))
    fits = (p for p in pool if p[0] != gold[0] and not any(phrase in normalise_words(p[1]) for phrase in phrases))
    return list(dict.fromkeys(fits))


def multihop(tables: Tables, generator: random.Random, tally: Tally) -> Iterator[Example]:
    """Questions that need two to four of their paragraphs (HotpotQA 1809.09600, MuSiQue 2108.00573, 2Wiki 2011.01060).

    All paragraphs in the order given. Reads the rows of our files (`paragraphs` with `is_supporting`) and those of the
    hub (HotpotQA's and 2Wiki's `context` with `supporting_facts`). `meta["type"]` and `meta["hops"]` where known.
    """
    for row in tables["rows"]:
        answers = row.texts("answer")
        if "answer_aliases" in row:
            answers = list(dict.fromkeys([*answers, *row.texts("answer_aliases")]))
        answers = [answer for answer in answers if normalise_words(answer)]
        documents = numbered(_paragraphs(row), tally)
        gold = sum(document.gold is True for document in documents)
        reason = None
        if "answerable" in row and row.flag("answerable") is False:
            reason = "not answerable"
        elif not answers:
            reason = "no answer"
        elif not gold:
            reason = "no supporting paragraph"
        elif gold == len(documents):
            reason = "no distractors"
        if reason:
            tally.dropped[reason] += 1
            continue
        meta = {"type": row.text("type")} if "type" in row else {}
        steps = row.values.get("question_decomposition")
        example = Example(row.identity("id", "_id"), row.text("question"), documents, answers, None, dict(meta))
        if isinstance(steps, Sequence):
            example.meta["hops"] = len(steps)
        yield example


def _paragraphs(row: Row) -> Iterator[tuple[str, str, bool | None]]:
    if "paragraphs" in row:
        for part in row.rows("paragraphs"):
            text = part.texts("sentences") if "sentences" in part else [part.text("text", "paragraph_text")]
            yield part.text("title"), " ".join(s.strip() for s in text), bool(part.flag("is_supporting"))
        return
    context, facts = row.first("context"), row.first("supporting_facts")
    try:
        if isinstance(context, Mapping):  # the hub: lists side by side; the authors' files: pairs
            pairs = list(zip(context["title"], context["sentences"], strict=True))
        else:
            pairs = [(title, sentences) for title, sentences in context]
        gold = set(facts["title"]) if isinstance(facts, Mapping) else {title for title, _ in facts}
        built = [(title, " ".join(s.strip() for s in sentences), title in gold) for title, sentences in pairs]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FaithgenError(
            f"{row.place}: 'context' and 'supporting_facts' are not as HotpotQA has them; give titles and sentences"
        ) from error
    yield from built


_NQ = {"dev": {"rows": "nq_mdqa_bm25/mdqa20_600.jsonl"}}

SETS = {
    "nq_hard": DataSet(
        nq_hard, _NQ, "Natural Questions (dev, those of Lost in the Middle): gold passage among the closest by BM25"
    ),
    "nq_random": DataSet(
        nq_random, _NQ, "the same questions: gold passage among those of other questions, which do not hold the answer"
    ),
    "hotpotqa": DataSet(
        multihop,
        {"dev": {"rows": "hotpotqa/dev.jsonl"}, "train": {"rows": "hotpotqa/train.jsonl"}},
        "two supporting paragraphs among ten; HotpotQA's dev split, distractor setting, a sample",
    ),
    "musique": DataSet(
        multihop,
        {"dev": {"rows": "musique/dev.jsonl"}, "train": {"rows": "musique/train.jsonl"}},
        "two to four supporting paragraphs among twenty; MuSiQue-Ans, dev split, a sample",
    ),
    "2wiki": DataSet(
        multihop,
        {"dev": {"rows": "2wikimultihopqa/dev.jsonl"}, "train": {"rows": "2wikimultihopqa/train.jsonl"}},
        "two or four supporting paragraphs among ten; 2WikiMultihopQA's dev split, a sample",
    ),
}
