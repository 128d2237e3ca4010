import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faithgen.errors import FaithgenError
from faithgen.evaluation.datasets.rows import Row, read_jsonl


def row(**values):
    return Row(values, "x.jsonl, line 7", 7)


def test_rows_know_their_file_and_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n\n   \n{"a": "two\u2028lines"}\n', encoding="utf-8")
    rows = read_jsonl(path)
    assert [(r.number, r.place) for r in rows] == [(1, f"{path}, line 1"), (4, f"{path}, line 4")]
    assert rows[1].text("a") == "two\u2028lines"


def test_a_byte_order_mark_and_packed_files_are_read(tmp_path):
    (tmp_path / "bom.jsonl").write_bytes(b'\xef\xbb\xbf{"a": "x"}')
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(b'{"a": "x"}\n'))
    assert [read_jsonl(tmp_path / name)[0].text("a") for name in ("bom.jsonl", "rows.jsonl.gz")] == ["x", "x"]


def test_numbers_that_are_not_finite_become_null(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": NaN, "b": -Infinity}\n')
    assert read_jsonl(path)[0].values == {"a": None, "b": None}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"a": 1', r"rows\.jsonl, line 2 is not valid JSON"),
        ("[1, 2]", r"line 2 is of type list; write one object a line"),
        ('{"a": "\\ud83d"}', r"line 2 holds half of a surrogate pair"),
        ("[" * 200_000, r"line 2 is not valid JSON"),
    ],
)
def test_a_broken_line_is_named(tmp_path, line, message):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": "\\ud83d\\ude00"}\n' + line + "\n")
    with pytest.raises(FaithgenError, match=message):
        read_jsonl(path)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("missing.jsonl", None, "No such file"),
        ("latin.jsonl", b'{"a": "\xe9"}', "not UTF-8"),
        ("cut.jsonl.gz", gzip.compress(b'{"a": 1}')[:-4], "cannot read"),
        ("plain.jsonl.gz", b'{"a": 1}', "cannot read"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, data, message):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(FaithgenError, match=message) as error:
        read_jsonl(tmp_path / name)
    assert name in str(error.value)


def test_a_missing_field_is_named_with_its_place():
    with pytest.raises(FaithgenError, match=r"x\.jsonl, line 7 has no field 'question' \(it has query\)"):
        row(query="?").text("question")
    with pytest.raises(FaithgenError, match=r"x\.jsonl, line 7, docs 2 has no field 'text'"):
        [part.text("text") for part in row(docs=[{"text": "a"}, {"title": "b"}]).rows("docs")]


def test_the_first_name_that_is_there_counts():
    assert row(query="?", text="no").text("question", "query", "text") == "?"
    assert row(a=None).text("a") == ""
    assert row(a=["x", " ", "y", "x"]).texts("a") == ["x", "y"]
    assert row(a=["x", "x"]).strings("a") == ["x", "x"]
    assert row(a="x").texts("a") == ["x"]
    assert row(a=None).texts("a") == []
    assert row(a=None).rows("a") == []
    assert row(a=None).object("a").values == {}


def test_ids_are_strings_and_fall_back_on_the_line():
    assert row(id=0).identity("id") == "0"
    assert row(_id="q1").identity("id", "_id") == "q1"
    assert row(id=None).identity("id") == "7"
    assert row(id=" ").identity("id") == "7"
    assert row().identity("id") == "7"


def test_flags_are_three_valued():
    assert [row(a=value).flag("a") for value in (True, 0, 1, None)] == [True, False, True, None]


@pytest.mark.parametrize(
    ("method", "value"),
    [
        ("text", 3),
        ("text", ["a"]),
        ("texts", [1]),
        ("texts", {"a": 1}),
        ("strings", [None]),
        ("rows", "abc"),
        ("rows", ["abc"]),
        ("object", [1]),
        ("identity", True),
        ("identity", 1.5),
        ("flag", "yes"),
        ("flag", 2),
        ("integer", True),
        ("integer", None),
        ("integer", 1.0),
    ],
)
def test_a_wrong_type_is_named_with_its_place(method, value):
    with pytest.raises(FaithgenError, match=r"x\.jsonl, line 7: 'a' is of type \w+; give"):
        getattr(row(a=value), method)("a")


@given(st.dictionaries(st.text(max_size=3), st.text(max_size=5), max_size=3))
def test_what_json_writes_is_read(tmp_path_factory, values):
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_text(json.dumps(values) + "\n")
    assert read_jsonl(path)[0].values == values
