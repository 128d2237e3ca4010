import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faithgen.errors import FaithgenError
from faithgen.training.rows import as_dataset, read_rows


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_rows_come_from_a_file_memory_or_datasets(pairs, tmp_path):
    from datasets import Dataset

    mixed = [{**pairs[0], "documents": ["plain text", {"text": "with title", "title": "T", "score": 0.5}]}, *pairs[1:]]
    expected = [row.to_dict() for row in read_rows(mixed, needs=("answer", "unfaithful"))]
    assert [row.to_dict() for row in read_rows(jsonl(tmp_path / "rows.jsonl", mixed))] == expected
    columns = Dataset.from_list(pairs)
    assert [row.to_dict() for row in read_rows(columns)][1:] == expected[1:]
    assert as_dataset(read_rows(mixed)).to_list() == expected
    assert len(read_rows(mixed, limit=2)) == 2


def test_rows_come_from_folders_of_data_sets(pairs, tmp_path):
    from datasets import Dataset, DatasetDict

    whole, first = Dataset.from_list(pairs), Dataset.from_list(pairs[:1])
    whole.save_to_disk(tmp_path / "saved")
    DatasetDict({"train": whole, "dev": first}).save_to_disk(tmp_path / "splits")
    (tmp_path / "plain").mkdir()
    jsonl(tmp_path / "plain" / "train.jsonl", pairs)
    jsonl(tmp_path / "plain" / "test.jsonl", pairs[:1])
    expected = [row.to_dict() for row in read_rows(pairs)]
    for folder in ("saved", "splits", "plain"):
        assert [row.to_dict() for row in read_rows(tmp_path / folder)] == expected, folder
        assert len(read_rows(str(tmp_path / folder), limit=2)) == 2
    assert [row.to_dict() for row in read_rows(tmp_path / "splits", split="dev")] == expected[:1]
    assert [row.to_dict() for row in read_rows(tmp_path / "plain", split="test")] == expected[:1]
    assert [row.to_dict() for row in read_rows(tmp_path / "saved", split="dev")] == expected
    (tmp_path / "none").mkdir()
    for source, split, message in (
        (tmp_path / "splits", "test", "split 'test'.*it has train, dev"),
        (tmp_path / "none", "train", "could not be read"),
        (tmp_path / "gone", "train", "there is no file"),
    ):
        with pytest.raises(FaithgenError, match=message):
            read_rows(source, split=split)


def test_a_row_may_have_an_instruction_of_its_own(pairs, tmp_path):
    mixed = [{**pairs[0], "instruction": "Answer at length."}, *pairs[1:]]
    rows = read_rows(jsonl(tmp_path / "rows.jsonl", mixed))
    assert [row.instruction for row in rows] == ["Answer at length.", None, None, None]
    dataset = as_dataset(rows)
    assert dataset["instruction"][:] == ["Answer at length.", None, None, None]
    assert [row.instruction for row in read_rows(dataset)] == ["Answer at length.", None, None, None]
    assert "instruction" not in as_dataset(rows[1:]).column_names


def test_rows_without_an_id_are_numbered_and_blank_lines_are_not_rows(tmp_path):
    row = {"question": "q", "documents": ["d"], "answer": "a"}
    path = tmp_path / "rows.jsonl"
    path.write_text("\ufeff" + json.dumps(row) + "\n\n" + json.dumps({**row, "id": 7}) + "\n", encoding="utf-8")
    assert [found.id for found in read_rows(path)] == ["1", "7"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": None}, "line 1 has no 'answer'; the columns needed are question, documents, answer, it has id"),
        ({"answer": ["a", "b"]}, "line 1: 'answer' is not text"),
        ({"instruction": 3}, "line 1: 'instruction' is not text"),
        ({"instruction": ""}, "line 1: 'instruction' is not text"),
        ({"answer": " "}, "line 1: 'answer' is not text"),
        ({"question": ""}, "line 1: 'question' is not text"),
        ({"question": "\ud800?"}, "line 1: 'question' holds a surrogate, which UTF-8 cannot encode; replace it"),
        ({"answer": "a \udfff"}, "line 1: 'answer' holds a surrogate"),
        ({"unfaithful": "\ud800"}, "line 1: 'unfaithful' holds a surrogate"),
        ({"instruction": "\ud800"}, "line 1: 'instruction' holds a surrogate"),
        ({"id": "\ud800"}, "line 1: 'id' holds a surrogate"),
        ({"documents": ["\ud800"]}, "line 1: .*surrogate"),
        ({"documents": []}, "line 1: there are no documents"),
        ({"documents": "one"}, "line 1: the documents are not a list"),
        ({"documents": [{"title": "t"}]}, "line 1: .*no text"),
    ],
)
def test_an_unusable_row_is_named(pairs, tmp_path, change, message):
    path = jsonl(tmp_path / "rows.jsonl", [{**pairs[0], **change}])
    with pytest.raises(FaithgenError, match=message):
        read_rows(path)


def test_unusable_sources_are_named(pairs, tmp_path):
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"a": \n')
    binary = tmp_path / "binary.jsonl"
    binary.write_bytes(b"\xff\xfe\x00")
    for source, message in (
        (empty, "is empty"),
        (broken, "line 1 is not valid JSON"),
        (binary, "not UTF-8"),
        (tmp_path / "none.jsonl", "there is no file"),
        ([pairs[0], pairs[0]], "row 2 has the id '0', as row 1 has"),
        ([1], "row 1 is not an object"),
        (pairs[0], "one mapping"),
        ([], "is empty"),
    ):
        with pytest.raises(FaithgenError, match=message):
            read_rows(source)


# `st.text()` alone makes no halves of surrogate pairs, which JSON can hold
texts = st.text(st.characters())
values = st.recursive(
    st.none() | st.booleans() | st.floats() | texts, lambda x: st.lists(x) | st.dictionaries(texts, x)
)


@settings(deadline=None)  # the first one imports datasets
@given(values)
def test_any_row_is_read_or_refused_in_one_line(value):
    row = {"question": "q", "documents": ["d"], "answer": "a"}
    for item in (value, *({**row, name: value} for name in (*row, "id", "unfaithful", "instruction"))):
        try:
            rows = read_rows([item], needs=())
            assert rows[0].documents
            assert as_dataset(rows).num_rows == 1
        except FaithgenError as error:
            assert str(error)  # noqa: PT017
