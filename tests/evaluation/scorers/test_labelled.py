import json
from collections import Counter

import pytest

from faithgen.errors import FaithgenError
from faithgen.evaluation.scorers.base import ClaimContext
from faithgen.evaluation.scorers.labelled import LabelledClaim, LabelledSet, cluster_of, drop_shared
from faithgen.evaluation.scorers.labelled_facts import align_in_order
from faithgen.evaluation.scorers.labelled_sets import LABELLED, LICENCES, OPEN_SETS, QA_SETS, load_labelled


def write(root, path, rows):
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def load(root, name):
    return load_labelled(root, [name])[0]


def labels(one):
    return {claim.claim: claim.label for claim in one.claims}


def left_out(one):
    return {reason: count for reason, count in one.excluded.items() if count}


# --- sentences with a label -------------------------------------------------------------------------------------------


def test_eli5_sentences_meet_the_documents_their_system_read(tmp_path):
    def sentence(text, majority):
        return {"sentence": text, "labels": [majority] * 3, "majority": majority}

    documents = {
        "docs_webgpt": [{"title": "W", "text": "Web text."}],
        "docs_human": [{"title": "", "text": "Human text."}],
    }
    write(tmp_path, "eli5_webgpt/qa.jsonl", [{"question_id": 7, "question": "why?", **documents}])
    rows = [
        ("webgpt", "webgpt", 7, [sentence("Rain falls [1].", "supported"), sentence("Snow melts.", "partially")]),
        ("gpt3_whudoc", "human", 7, [sentence("Hail hurts.", "not_supported"), sentence("Fog hides.", None)]),
        ("gpt3", "webgpt", 7, [sentence("Wind blows.", "supported"), sentence("[2]", "supported")]),
        ("webgpt", "webgpt", 8, [sentence("Lost.", "supported")] * 3),
    ]
    keys = ("system", "doc_set", "question_id", "sentences")
    write(
        tmp_path,
        "eli5_webgpt/attribution_labels.jsonl",
        [{"question": "why?", **dict(zip(keys, row, strict=True))} for row in rows],
    )
    one = load(tmp_path, "eli5_webgpt")
    assert labels(one) == {"Rain falls.": 1, "Snow melts.": 0, "Hail hurts.": 0, "Wind blows.": 1}
    assert left_out(one) == {"documents are not at hand": 3, "annotators have no majority": 1, "claim is blank": 1}
    first, second, third, fourth = one.claims
    assert first.documents == ("W\nWeb text.",)
    assert third.documents == ("Human text.",)
    assert (first.part, third.part, fourth.part) == ("with documents", "with documents", "closed book")
    assert second.context == ClaimContext("why?", "Rain falls [1]. Snow melts.", 16, 27)
    assert second.context.answer[16:27] == "Snow melts."
    assert len({claim.answer for claim in one.claims}) == 3
    assert len({claim.cluster for claim in one.claims}) == 1
    assert (one.kind, one.unit, one.supported) == ("qa", "sentence", 2)


def test_qags_takes_the_majority(tmp_path):
    def sentence(text, majority):
        return {"sentence": text, "responses": [majority] * 3, "majority": majority}

    article = {"dataset": "xsum", "id": 3, "article": "An article.", "faithful": False}
    write(
        tmp_path, "qags/qags.jsonl", [{**article, "summary_sentences": [sentence("A.", "yes"), sentence("B.", "no")]}]
    )
    one = load(tmp_path, "qags")
    assert labels(one) == {"A.": 1, "B.": 0}
    assert {claim.part for claim in one.claims} == {"xsum"}
    assert [claim.id for claim in one.claims] == ["xsum/3/1", "xsum/3/2"]


# --- marked spans -----------------------------------------------------------------------------------------------------

RESPONSE = "Here it is:\n\nIt opened in 1902. Bo ran it. Cy sang! Unable to answer based on given passages."


def span(text, response=RESPONSE, **more):
    start = response.index(text)
    return {"start": start, "end": start + len(text), "text": text, **more}


def ragtruth_row(spans, **changes):
    row = {
        "id": "1",
        "source_id": "9",
        "model": "m",
        "question": "when?",
        "passages": ["P one.", "P two."],
        "response": RESPONSE,
    }
    return {**row, "spans": spans, "faithful": not spans, "nli_label": "x", "quality": "good", **changes}


def test_ragtruth_spans_become_labels_of_sentences(tmp_path):
    spans = [
        span("1902", implicit_true=False),
        span("Cy sang", implicit_true=True),
        span("Here", implicit_true=False),
    ]
    write(
        tmp_path,
        "ragtruth_qa_test/qa_test.jsonl",
        [ragtruth_row(spans), ragtruth_row([], id="2", quality="incorrect_refusal")],
    )
    one = load(tmp_path, "ragtruth_qa_test")
    assert labels(one) == {"It opened in 1902.": 0, "Bo ran it.": 1}
    assert left_out(one) == {
        "sentence asserts nothing (heading, lead-in, question)": 1,
        "marked span lies in no sentence that asserts something": 1,
        "sentence is marked only as true though not in the passages": 1,
        "sentence refuses to answer": 1,
        "answer is set aside by RAGTruth (incorrect_refusal)": 1,
    }
    assert one.claims[0].documents == ("P one.", "P two.")
    assert one.claims[0].context.answer == RESPONSE


def test_a_span_over_two_sentences_marks_both_and_one_on_a_blank_none(tmp_path):
    over = {"start": RESPONSE.index("1902"), "end": RESPONSE.index("ran"), "implicit_true": False}
    blank = {"start": RESPONSE.index(" Cy"), "end": RESPONSE.index("Cy"), "implicit_true": False}
    write(tmp_path, "ragtruth_qa_test/qa_test.jsonl", [ragtruth_row([over, blank])])
    one = load(tmp_path, "ragtruth_qa_test")
    assert labels(one) == {"It opened in 1902.": 0, "Bo ran it.": 0, "Cy sang!": 1}


def test_faithbench_counts_only_what_someone_called_unwanted(tmp_path):
    summary = "Ada won. Bo lost. Cy left. Di came."

    def mark(text, *names):
        start = summary.index(text)
        return {"label": list(names), "summary_span": text, "summary_start": start, "summary_end": start + len(text)}

    marks = [
        mark("Ada", "Questionable"),
        mark("Ada won", "Unwanted", "Unwanted.Intrinsic"),
        mark("lost", "Benign"),
        mark("Cy left", "Unwanted.Extrinsic", "Benign"),
    ]
    row = {"batch": "2", "sample_id": 5, "source": "A source.", "summary": summary, "annotations": marks}
    write(tmp_path, "faithbench/faithbench.jsonl", [row])
    one = load(tmp_path, "faithbench")
    assert labels(one) == {"Ada won.": 0, "Cy left.": 0, "Di came.": 1}
    assert left_out(one) == {"sentence is marked only as benign or questionable": 1}


# --- whole answers ----------------------------------------------------------------------------------------------------


def test_begin_leaves_generic_replies_out_and_tells_dev_from_test(tmp_path):
    def row(label, response):
        return {"model": "t5", "knowledge": "Some knowledge.", "message": "hi", "response": response, "label": label}

    write(
        tmp_path,
        "begin_wow/test.jsonl",
        [row("Fully attributable", "a"), row("Not fully attributable", "b"), row("Generic", "c")],
    )
    write(tmp_path, "begin_wow/dev.jsonl", [row("Not fully attributable", "d")])
    one, dev = load_labelled(tmp_path, ["begin_wow", "begin_wow_dev"])
    assert labels(one) == {"a": 1, "b": 0}
    assert left_out(one) == {"reply is generic": 1}
    assert labels(dev) == {"d": 0}
    assert (one.unit, one.claims[0].context) == ("answer", ClaimContext("hi", "a", 0, 1))
    assert one.claims[0].cluster == dev.claims[0].cluster, "the same knowledge is one cluster in both files"


def test_ares_and_aggrefact(tmp_path):
    write(
        tmp_path,
        "ares_human/human200.jsonl",
        [
            {"question": "q", "document": "D.", "answer": "Yes. No.", "faithfulness": 1},
            {"question": "q", "document": "D.", "answer": "  ", "faithfulness": 0},
            {"question": "q", "document": "E.", "answer": "Never.", "faithfulness": 0},
        ],
    )
    one = load(tmp_path, "ares_human")
    assert labels(one) == {"Yes. No.": 1, "Never.": 0}
    assert left_out(one) == {"claim is blank": 1}

    def row(dataset, faithful, model="BART"):
        summary = {
            "id": "4",
            "model": model,
            "origin": "cnndm",
            "doc": "D.",
            "summary": f"S {model}.",
            "faithful": faithful,
        }
        return {"dataset": dataset, **summary, "error_type": None}

    write(
        tmp_path,
        "aggrefact_cliff_goyal/aggrefact.jsonl",
        [row("CLIFF", True), row("CLIFF", False, "Pegasus"), row("Goyal21", False, None)],
    )
    one = load(tmp_path, "aggrefact_cliff_goyal")
    assert labels(one) == {"S BART.": 1, "S Pegasus.": 0}
    assert left_out(one) == {"Goyal21, where no summary is labelled correct": 1}


# --- facts ------------------------------------------------------------------------------------------------------------


def test_refchecker_triplets_are_read_as_sentences(tmp_path):
    def claim(label, *parts):
        return {"triplet": list(parts), "label": label}

    claims = [
        claim("Entailment", "Ada", "built", '"the mill"'),
        claim("Neutral", "Bo", "met", "Ada"),
        claim("Contradiction", "Cy", "is", "a cat"),
        claim("Entailment", "Ada", "built", "the mill"),
        claim("Entailment", "Ada", "", "x"),
        claim("Entailment", "Ada", "x"),
    ]
    row = {
        "id": "5",
        "model": "gpt",
        "question": "who?",
        "reference": "Ada built it.",
        "response": "...",
        "claims": claims,
    }
    write(tmp_path, "refchecker_nq/nq56.jsonl", [row])
    one = load(tmp_path, "refchecker_nq")
    assert labels(one) == {"Ada built the mill": 1, "Bo met Ada": 0, "Cy is a cat": 0}
    assert left_out(one) == {"triplet repeats another of its answer": 1, "triplet has not three parts": 2}


def test_factscore_questions_are_put_to_their_sentences(tmp_path):
    response = "Ada Lo is a Danish painter. She was born in Ribe in 1902. She won the Thorvald medal. She likes tea."
    asked = {
        "What is Ada Lo's nationality?": "entailment",
        "What does Ada paint?": "entailment",
        "Where was she born?": "entailment",
        "When was she born?": "contradiction",
        "Which medal did she win?": "entailment",
    }
    document = "<s>Ada Lo is a painter.</s><s>She won####SPECIAL####SEPARATOR####the medal.</s>"
    write(
        tmp_path,
        "factscore_qcnli/factscore.jsonl",
        [{"system": "m", "document": document, "response": response, "labels": asked}],
    )
    one = load(tmp_path, "factscore_qcnli")
    assert labels(one) == {
        "Ada Lo is a Danish painter.": 1,
        "She was born in Ribe in 1902.": 0,
        "She won the Thorvald medal.": 1,
    }
    assert left_out(one) == {"no question is about the sentence": 1}
    assert one.claims[0].documents == ("Ada Lo is a painter.\nShe won the medal.",)


def test_alignment_never_goes_back():
    sentences = ["The mill was built of stone.", "The keeper lit the lamp.", "The mill burnt down."]
    questions = ["What was built?", "Who lit the lamp?", "What did the keeper do?", "What happened to the mill?"]
    assert align_in_order(questions, sentences) == [0, 1, 1, 2], (
        "the last could be of the first sentence, were it not last"
    )
    assert align_in_order(["What about nothing?"], sentences) == [0]
    assert align_in_order([], sentences) == []
    assert align_in_order(questions, sentences[:1]) == [0] * 4


# --- all of them ------------------------------------------------------------------------------------------------------


def test_every_set_has_a_licence_and_the_open_ones_allow_any_use():
    assert LICENCES.keys() == LABELLED.keys()
    assert not [name for name in OPEN_SETS if "NC" in LICENCES[name] or "unknown" in LICENCES[name]]
    assert set(QA_SETS) < set(LABELLED)


def test_errors_name_set_file_and_line(tmp_path):
    with pytest.raises(FaithgenError, match="no labelled set 'snli'; choose from eli5_webgpt"):
        load_labelled(tmp_path, ["snli"])
    with pytest.raises(FaithgenError, match=r"cannot read .*qags\.jsonl"):
        load_labelled(tmp_path, ["qags"])
    write(tmp_path, "qags/qags.jsonl", [{"dataset": "xsum", "id": 1, "article": "A.", "summary_sentences": []}])
    with pytest.raises(FaithgenError, match="'qags' has no row left"):
        load_labelled(tmp_path, ["qags"])
    bad = {"sentence": "A.", "majority": "maybe"}
    write(tmp_path, "qags/qags.jsonl", [{"dataset": "xsum", "id": 1, "article": "A.", "summary_sentences": [bad]}])
    with pytest.raises(
        FaithgenError, match=r"qags\.jsonl, line 1, summary_sentences 1: 'majority' is 'maybe'; give one of yes, no"
    ):
        load_labelled(tmp_path, ["qags"])


def claim(number, document, label=1):
    context = ClaimContext("q", "a", 0, 1)
    return LabelledClaim(str(number), "a", (document,), label, str(number), cluster_of(document), context)


def test_training_rows_whose_text_recurs_in_the_held_out_set_are_dropped():
    words = [f"word{number}" for number in range(60)]
    text, other = " ".join(words), " ".join(reversed(words))
    inside = "An introduction. " + " ".join(words[20:45]).upper() + "."
    touching = " ".join(words[:19]) + " and so on"
    short, shorter = "Crayola made pigments.", "Crayola, made pigments"
    held = LabelledSet("held", "qa", "answer", [claim(1, text), claim(2, short)])
    train = LabelledSet(
        "train", "qa", "answer", [claim(i, t) for i, t in enumerate([inside, other, touching, shorter])]
    )
    (left,), dropped = drop_shared([train], held)
    assert [one.id for one in left.claims] == ["1", "2"]
    assert dropped == Counter(train=2)
    assert len(train.claims) == 4, "the set given is not changed"
    assert drop_shared([left], held)[1] == Counter()


COUNTS = {  # claims, supported, questions or source texts
    "eli5_webgpt": (1590, 924, 42),
    "ragtruth_qa_test": (2229, 2101, 71),
    "ares_human": (200, 172, 161),
    "begin_wow": (3601, 1392, 1001),
    "begin_wow_dev": (430, 180, 287),
    "refchecker_nq": (1555, 530, 48),
    "factscore_qcnli": (3605, 1640, 183),
    "faithbench": (2767, 2126, 74),
    "qags": (953, 647, 474),
    "aggrefact_cliff_goyal": (600, 374, 300),
}


@pytest.mark.shared_data
@pytest.mark.parametrize("name", LABELLED)
def test_real_sets(shared_data, name):
    one = load(shared_data, name)
    assert (len(one.claims), one.supported, len({claim.cluster for claim in one.claims})) == COUNTS[name]
    assert len({claim.id for claim in one.claims}) == len(one.claims)
    for row in one.claims:
        assert row.claim.strip()
        assert row.label in (0, 1)
        assert all(document.strip() for document in row.documents)
        assert row.context.answer[row.context.start : row.context.end].strip()
