import json

import pytest

from faithgen.detection.instances import BUILTIN, DetectionInstance, load_instances
from faithgen.documents import Document
from faithgen.errors import FaithgenError
from tests.conftest import ROOT

GOOD = {
    "question": "How deep is it?",
    "documents": [{"id": "a", "title": "A", "text": "It is 3 m."}, {"id": "b", "text": "It is wet."}],
    "answer": "3 m",
    "gold": ["a"],
}


def write(path, *rows):
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


def changed(**fields):
    return {**GOOD, **fields}


def without(name):
    return {key: value for key, value in GOOD.items() if key != name}


def test_a_row_becomes_an_instance(tmp_path):
    found, dropped = load_instances(write(tmp_path / "data.jsonl", GOOD))
    documents = [Document("It is 3 m.", "a", "A"), Document("It is wet.", "b", "")]
    assert found == [DetectionInstance("How deep is it?", documents, "3 m", [0])]
    assert not dropped


@pytest.mark.parametrize(
    ("gold", "wanted"),
    [(["b"], [1]), ("b", [1]), (1, [1]), ([1, 0], [0, 1]), (["b", 1, "a", "b"], [0, 1]), ([0], [0])],
)
def test_gold_is_an_id_or_a_place(tmp_path, gold, wanted):
    assert load_instances(write(tmp_path / "data.jsonl", changed(gold=gold)))[0][0].gold == wanted


def test_the_first_of_several_answers_counts(tmp_path):
    assert load_instances(write(tmp_path / "d", changed(answer=["3 m", "three metres"])))[0][0].answer == "3 m"


def test_documents_may_be_strings(tmp_path):
    found, _ = load_instances(write(tmp_path / "d", changed(documents=["one", "two"], gold=["2"])))
    assert [document.text for document in found[0].documents] == ["one", "two"]
    assert found[0].gold == [1]


def test_every_reason_to_drop_a_row_is_counted(tmp_path):
    bad = [
        ("row is not JSON", "{"),
        ("row is not JSON", "[" * 100_000),
        ("row is not an object", [1]),
        ("row is not an object", '"text"'),
        ("no 'question'", without("question")),
        ("no 'documents'", without("documents")),
        ("no 'answer'", without("answer")),
        ("no 'gold'", without("gold")),
        ("empty question", changed(question=" ")),
        ("empty question", changed(question=3)),
        ("empty answer", changed(answer="")),
        ("empty answer", changed(answer=[])),
        ("empty answer", changed(answer=[5])),
        ("unusable documents", changed(documents=[{"id": "a"}])),
        ("unusable documents", changed(documents="text")),
        ("unusable documents", changed(documents=[])),
        ("gold is not among the documents", changed(gold=["z"])),
        ("gold is not among the documents", changed(gold=[2])),
        ("gold is not among the documents", changed(gold=[-1])),
        ("gold is not among the documents", changed(gold=[True])),
        ("gold is not among the documents", changed(gold=None)),
        ("no gold document", changed(gold=[])),
    ]
    path = write(tmp_path / "data.jsonl", GOOD, *(row for _, row in bad), "", "   ", GOOD)
    found, dropped = load_instances(path)
    assert len(found) == 2
    expected: dict[str, int] = {}
    for reason, _ in bad:
        expected[reason] = expected.get(reason, 0) + 1
    assert dict(dropped) == expected


def test_characters_that_only_look_like_line_breaks_stay_in_their_row(tmp_path):
    question = "One\u2028two\u2029three\x85four?"
    path = tmp_path / "data.jsonl"
    path.write_bytes((json.dumps(changed(question=question), ensure_ascii=False) + "\r\n").encode())
    found, dropped = load_instances(path)
    assert [one.question for one in found] == [question]
    assert not dropped


def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path):
    (tmp_path / "data.jsonl").write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode())
    assert len(load_instances(tmp_path / "data.jsonl")[0]) == 1


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (None, "cannot read .*No such file.*JSONL"),
        (b"\xff\xfe", "cannot read .*not UTF-8"),
        (b"", "no usable row .*it is empty"),
        (b"{\n{\n", "no usable row .*row is not JSON: 2.*rows need question, documents, answer and gold"),
    ],
)
def test_files_without_a_usable_row(tmp_path, content, match):
    if content is not None:
        (tmp_path / "data.jsonl").write_bytes(content)
    with pytest.raises(FaithgenError, match=match) as caught:
        load_instances(tmp_path / "data.jsonl")
    assert len(str(caught.value).splitlines()) == 1


def test_the_built_in_instances_are_whole():
    found, dropped = load_instances(BUILTIN)
    assert len(found) == 48
    assert not dropped
    assert len({one.question for one in found}) == 48
    for one in found:
        gold = " ".join(one.documents[index].text for index in one.gold)
        assert one.answer in gold, one.question
        others = [d for index, d in enumerate(one.documents) if index not in one.gold]
        assert len(others) >= 1
        assert not any(one.answer in document.text for document in others), one.question


def test_the_tests_own_instances_are_whole():
    found, dropped = load_instances(ROOT / "tests" / "data" / "tiny_qa.jsonl")
    assert len(found) == 8
    assert not dropped
