import pytest

from faithgen.errors import FaithgenError
from faithgen.evaluation.datasets import load_dataset


def documents(example):
    return [(document.id, document.title, document.text, document.gold) for document in example.documents]


# --- ELI5-WebGPT ------------------------------------------------------------------------------------------------------


def eli5(**changes):
    return {
        "question_id": 4,
        "question": "Why is the sky blue?",
        "docs_webgpt": [{"title": "Sky", "text": "Blue light scatters."}, {"title": "Sky", "text": " "}],
        "docs_human": [{"title": "Air", "text": "Air scatters light."}] * 2,
        "docs_bing": [{"title": "Bing", "text": "Colours of the sky."}],
        "answers": {"human": "Because of air.", "webgpt": "Because of scattering."},
        **changes,
    }


def test_eli5_answers_come_from_the_documents_served(write):
    root = write("eli5_webgpt/qa.jsonl", [eli5()])
    loaded = load_dataset("eli5_webgpt", root)
    assert loaded[0].id == "4"
    assert documents(loaded[0]) == [("1", "Sky", "Blue light scatters.", None)]
    assert loaded[0].long_answer == "Because of scattering."
    assert loaded.changed == {"document without text left out": 1}
    human = load_dataset("eli5_webgpt", root, documents="human")
    assert documents(human[0]) == [("1", "Air", "Air scatters light.", None)]
    assert (human[0].long_answer, human[0].meta["written_by"]) == ("Because of air.", "human")
    assert human.changed == {"document that repeats another left out": 1}
    bing = load_dataset("eli5_webgpt", root, documents="bing")[0]
    assert (bing.long_answer, bing.meta["written_by"], bing.meta["references"]) == (None, None, [])


def test_eli5_without_an_answer_keeps_the_question(write):
    root = write("eli5_webgpt/qa.jsonl", [eli5(answers={"human": "", "webgpt": "W."})])
    loaded = load_dataset("eli5_webgpt", root, documents="human")
    assert loaded[0].long_answer is None
    assert loaded.changed["no reference answer"] == 1
    with pytest.raises(FaithgenError, match="documents is 'google'; give 'webgpt', 'human' or 'bing'"):
        load_dataset("eli5_webgpt", root, documents="google")


# --- ExpertQA ---------------------------------------------------------------------------------------------------------


def expertqa(evidence, answer="Vat dyes are best [2], **always** [1][3]."):
    return {
        "question": "Which dyes?",
        "system": "gpt4",
        "field": "Chemistry",
        "answer": "unrevised",
        "revised_answer": answer,
        "evidence_passages": evidence,
    }


def test_expertqa_evidence_is_parted_from_its_address(write):
    evidence = [
        "[3] https://a.org/x\n\nVat dyes hold.\n\nThey are dear.",
        "[2] https://b.org/only-an-address",
        "[9] https://c.org/y\n\nVat dyes hold.\n\nThey are dear.",
        "Reactive dyes, too.",
    ]
    loaded = load_dataset("expertqa", write("expertqa/val_test_with_evidence.jsonl", [expertqa(evidence)]))
    example = loaded[0]
    assert documents(example) == [
        ("1", "", "Vat dyes hold.\n\nThey are dear.", None),
        ("2", "", "Reactive dyes, too.", None),
    ]
    assert set(example.meta["sources"]) == {"1"}
    assert example.long_answer == "Vat dyes are best, always."
    assert (example.meta["system"], example.meta["field"]) == ("gpt4", "Chemistry")
    assert loaded.changed == {"document without text left out": 1, "document that repeats another left out": 1}


def test_expertqa_rows_that_cannot_be_used_are_counted(write):
    text = ["[1] https://a.org\n\nText."]
    rows = [expertqa([]), expertqa(["[1] https://a.org"]), expertqa(text), expertqa(text)]
    rows[2]["in_splits"] = ["rand_val", "domain_test"]
    rows[3]["in_splits"] = ["domain_val"]
    loaded = load_dataset("expertqa", write("expertqa/val_test_with_evidence.jsonl", rows))
    assert [example.id for example in loaded] == ["3"]
    assert loaded.dropped == {"no document with text": 2, "in the training part of the random split": 1}


# --- HAGRID, rows in the shape of miracl/hagrid ----------------------------------------------------------------------


def sentence(text, attributable, informative):
    return {"index": 0, "text": text, "attributable": attributable, "informative": informative}


def answer(text, attributable, informative):
    sentences = [sentence(text, attributable, informative)]
    return {
        "answer": text,
        "answer_type": "long",
        "attributable": attributable,
        "informative": informative,
        "sentences": sentences,
    }


def hagrid(answers, **changes):
    quotes = [
        {"idx": 1, "docid": "12#0", "text": "The Nile is 6,650 km long."},
        {"idx": 2, "docid": "40#3", "text": "The Nile flows north."},
    ]
    return {"query_id": 17, "query": "How long is the Nile?", "quotes": quotes, "answers": answers, **changes}


HAGRID = [
    hagrid(
        [
            answer("It is short [1].", 0, 1),
            answer("A river.", 1, 0),
            answer("It is 6,650 km long [1, 2].", 1, 1),
            answer("6,650 km, it is said [1].", None, None),
        ]
    ),
    hagrid([answer("Long [2].", None, None)], query_id=18),
    hagrid([answer("Short.", 0, 1)], query_id=19),
    hagrid([], query_id=20, quotes=[]),
]


def test_hagrid_references_are_those_that_people_judged_good(write):
    loaded = load_dataset("hagrid", write("hagrid/dev.jsonl", HAGRID))
    by_id = {example.id: example for example in loaded}
    assert sorted(by_id) == ["17", "18", "19"]
    assert documents(by_id["17"]) == [
        ("1", "", "The Nile is 6,650 km long.", True),
        ("2", "", "The Nile flows north.", True),
    ]
    assert by_id["17"].meta["references"] == ["It is 6,650 km long."]
    assert (by_id["18"].long_answer, by_id["18"].meta["references_judged"]) == ("Long.", False)
    assert by_id["19"].long_answer is None
    assert loaded.dropped == {"no document with text": 1}


def test_hagrid_is_read_by_the_datasets_library(write, hub_cache):
    write("hub/train.jsonl", [HAGRID[0] | {"query_id": 99}])
    root = write("hub/dev.jsonl", HAGRID)  # the library calls it validation
    local = load_dataset("hagrid", root / "hub/dev.jsonl")
    from_hub = load_dataset("hagrid", f"hub:{root / 'hub'}")
    assert from_hub.examples == local.examples
    assert from_hub.split == "validation"


# --- CLAPNQ -----------------------------------------------------------------------------------------------------------


def clapnq(name, *answers, skip=False):
    meta = {"skip": skip, "has_minimal_answer": False}
    return {
        "id": name,
        "input": "what is rain",
        "passages": [{"title": "Rain", "text": "Rain is water .", "sentences": ["Rain is water ."]}],
        "output": [{"answer": a, "selected_sentences": [], "meta": meta} for a in answers],
    }


def test_clapnq_keeps_the_answers_of_people(write):
    rows = [clapnq("a", "", "NA", "It is water.", "Water.", "Water."), clapnq("b", "Skipped.", skip=True)]
    loaded = load_dataset("clapnq", write("clapnq/dev_answerable.jsonl", rows))
    assert [example.id for example in loaded] == ["a"]
    assert loaded[0].long_answer == "It is water."
    assert loaded[0].meta == {"answerable": True, "references": ["It is water.", "Water."]}
    assert documents(loaded[0]) == [("1", "Rain", "Rain is water .", True)]
    assert loaded.dropped == {"no annotator answered": 1}


def test_clapnq_unanswerable_has_no_answer_and_no_gold(write):
    root = write("clapnq/dev_unanswerable.jsonl", [clapnq("a", ""), clapnq("b", "It is water.")])
    loaded = load_dataset("clapnq_unanswerable", root)
    assert [example.id for example in loaded] == ["a"]
    assert (loaded[0].long_answer, loaded[0].answers, loaded[0].gold) == (None, [], [])
    assert loaded[0].meta["answerable"] is False
    assert loaded.dropped == {"has an answer": 1}


# --- QuoteSum ---------------------------------------------------------------------------------------------------------


def quotesum(number, summary, covered):
    sources = [
        {"n": 1, "title": "A", "text": "Ada was born in 1815.", "short_answer": "1815"},
        {"n": 2, "title": "B", "text": "Bob was born in 1900.", "short_answer": "1900"},
        {"n": 3, "title": "C", "text": "Cyd danced.", "short_answer": "danced"},
    ]
    return {
        "qid": "Q",
        "unique_id": f"Q_{number}",
        "question": "When were they born?",
        "sources": sources,
        "summary": summary,
        "covered_short_answers": covered,
    }


def test_quotesum_summaries_of_a_question_are_its_references(write):
    rows = [
        quotesum(0, "[ 1 Ada ] was [ 1 born in 1815. ] And [ 2 Bob in 1900 ] .", "[ 1 1815 ] [ 2 1900 ]"),
        quotesum(1, "Ada in [ 1 1815 ] .", "[ 1 1815 ]"),
        quotesum(2, "No idea.", ""),
    ]
    loaded = load_dataset("quotesum", write("quotesum/dev.jsonl", rows), seed=3)
    (example,) = loaded
    assert example.meta["references"] == ["Ada was born in 1815. And Bob in 1900.", "Ada in 1815.", "No idea."]
    assert example.long_answer == example.meta["references"][0]
    assert example.answers == ["1815", "1900"]
    assert example.meta["short_answers"] == [["1815"], ["1900"]]
    assert [document.gold for document in example.documents] == [True, True, False]
    assert loaded.changed == {"summary taken as another reference of its question": 2}
