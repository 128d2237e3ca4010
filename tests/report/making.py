"""Answers with an explanation, made without a model."""

import math

from faithgen.answer import Answer, AnswerToken
from faithgen.documents import Document
from faithgen.explanation import Alternative, AnswerSentence, Explanation, Passage, TokenDetail
from faithgen.heads.head_set import HeadSet
from faithgen.sentences import split_sentences

TOKENS = [" The", " mill", " is", " Ada's", ".", " She", " built", " it", "."]
DOCUMENTS = [
    Document("Bo sold it.", id="c", title="Sale", score=0.2, coarse_score=0.2, kept=False),
    Document("Ada built it in 1921. It has four sails.\n\nBo cut it off", id="a", title="Mill", source="mill.txt"),
    Document("Ada lived nearby.", id="b", source="rows.jsonl", passage=2),
]
for _document, _coarse, _fine in ((DOCUMENTS[1], 1.5, 2.0), (DOCUMENTS[2], 0.5, None)):
    _document.coarse_score, _document.fine_score, _document.kept = _coarse, _fine, True
    _document.score = _coarse if _fine is None else _fine


def head_sets():
    """Sets of 4 layers x 3 heads: scores that rise from head to head, and one strong head."""
    rising = [[layer + head / 10 for head in range(3)] for layer in range(4)]
    strong = [[0.9 if (layer, head) == (2, 1) else 0.0 for head in range(3)] for layer in range(4)]
    return {
        "scoring_heads": HeadSet(rising, "query_focused", "tiny"),
        "copying_heads": HeadSet(strong, "copying", "tiny"),
    }


def make_answer(documents=None, tokens=None, question="Who built the mill?", two_branches=True, text=None, **changes):
    """An answer whose first sentence looked at passages 1 and 0, and whose second at 4.

    `text` stands wherever a text of a user, a document or the model can stand.
    """
    documents = DOCUMENTS if documents is None else documents
    pieces = TOKENS if tokens is None else tokens
    if text is not None:
        documents = [
            Document(f"{text} Ada built it. {text}", id=f"{i}{text}", title=text, source=text, kept=i < 2, score=1.0)
            for i in range(3)
        ]
        question, pieces = f"q {text}", [*pieces, text]
    kept = [document for document in documents if document.kept]
    passages = []
    for document in kept:
        passages.append(Passage(document.id, 0, 0, heading=True))
        passages += [Passage(document.id, one.start, one.end) for one in split_sentences(document.text)]
    rows = [
        AnswerToken(
            piece,
            id=number,
            logprob=math.log(0.5),
            jsd=math.log(2) * number / len(pieces) if two_branches else None,
            context_share=0.25,
            detail=TokenDetail(
                faithful=[
                    Alternative(piece, number, 0.5),
                    Alternative(f"faithful{number}" if text is None else text, 900, 0.2),
                ],
                unfaithful=[Alternative(f" unfaithful{number}", 901, 0.625)] if two_branches else None,
                unfaithful_probability=0.04 if two_branches else None,
                looked_at=[],
            ),
        )
        for number, piece in enumerate(pieces)
    ]
    whole = "".join(pieces)
    shift = len(whole) - len(whole.lstrip())
    middle = len("".join(pieces[:5])) - shift
    sentences = [
        AnswerSentence(0, middle, (0, 5), [(1, 0.4), (0, 0.1)]),
        AnswerSentence(middle + 1, len(whole.strip()), (5, len(pieces)), [(4, 0.3)] if len(passages) > 4 else []),
    ]
    explanation = Explanation(
        heads=[(2, 1), (3, 2)],
        scoring_heads=[(3, 2)],
        masked_heads=[(2, 1)],
        passages=passages,
        sentences=sentences,
        dropped={document.id: f"at most 2 are kept {text or ''}" for document in documents if not document.kept},
    )
    values = {
        "timings": {"filter": 1.25, "decode": 0.5, "total": 2.0, "new_tokens": len(pieces), "scored_tokens": 1234},
        "settings": {"model": "tiny" if text is None else text, "filter": {"keep": 2, "mass": None}, "stop": ["\n"]},
        "warnings": [] if text is None else [f"cut {text}"],
        "prompt_order": [document.id for document in reversed(kept)],
        "explanation": explanation,
        **changes,
    }
    return Answer(question, whole.strip(), documents, tokens=rows, **values)
