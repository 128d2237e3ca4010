import copy
import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faithgen.documents import Document, as_documents, read_documents
from faithgen.errors import FaithgenError, MissingExtraError

texts = st.text(st.characters(exclude_categories=["Cs"])).filter(lambda text: text.strip())


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def error_of(function, *args, **kwargs):
    with pytest.raises(FaithgenError) as caught:
        function(*args, **kwargs)
    message = str(caught.value)
    assert message.isprintable()  # so a single line
    return message


def words(text):
    return text.split()


def pdf_bytes(pages, title=None):
    """A PDF with one line of text on each page, and a correct table of cross references."""
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(len(pages)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for number, text in enumerate(pages):
        stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET"
        resources = f"/Resources << /Font << /F1 3 0 R >> >> /MediaBox [0 0 612 792] /Contents {5 + 2 * number} 0 R"
        objects.append(f"<< /Type /Page /Parent 2 0 R {resources} >>")
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    trailer = f"/Size {len(objects) + 1} /Root 1 0 R"
    if title is not None:
        objects.append(f"<< /Title ({title}) >>")
        trailer = f"/Size {len(objects) + 1} /Root 1 0 R /Info {len(objects)} 0 R"
    content, offsets = "%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        offsets.append(len(content))
        content += f"{number} 0 obj\n{body}\nendobj\n"
    table = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    start = len(content)
    content += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}trailer\n<< {trailer} >>\n"
    return f"{content}startxref\n{start}\n%%EOF\n".encode("latin-1")


# Documents in memory


def test_as_documents_takes_strings_mappings_and_documents():
    given_document = Document("third", title="T", metadata={"k": [1]}, score=0.5, kept=True)
    row = {"id": 7, "title": "Two", "text": "second", "year": 1999}
    documents = as_documents(["first", row, given_document])
    assert [document.text for document in documents] == ["first", "second", "third"]
    assert [document.id for document in documents] == ["1", "7", "3"]
    assert [document.title for document in documents] == ["", "Two", "T"]
    assert documents[1].metadata == {"year": 1999}
    assert (documents[2].score, documents[2].kept, documents[2].metadata) == (0.5, True, {"k": [1]})


def test_as_documents_never_changes_what_it_is_given():
    items = ["a", {"text": "b", "k": 1}, Document("c", metadata={"m": 1})]
    before = copy.deepcopy(items)
    documents = as_documents(items)
    documents[2].text = "changed"
    for document in documents:
        document.metadata["new"] = True
    assert items == before


@pytest.mark.parametrize("name", ["text", "content", "contents", "passage", "page_content"])
def test_synonyms_of_text(name):
    (document,) = as_documents([{name: "hello", "id": "x"}])
    assert (document.text, document.metadata, document.passage) == ("hello", {}, None)


def test_text_goes_before_its_synonyms_which_stay_as_metadata():
    (document,) = as_documents([{"content": "other", "text": "hello"}])
    assert (document.text, document.metadata) == ("hello", {"content": "other"})


@pytest.mark.parametrize("missing", [{}, {"id": None, "title": None}, {"id": "", "title": ""}, {"id": "  "}])
def test_missing_id_and_title(missing):
    (document,) = as_documents([{"text": "a", **missing}])
    assert (document.id, document.title) == ("1", "")


def test_filled_ids_avoid_given_ones():
    items = ["a", {"text": "b", "id": "1"}, {"text": "c", "id": "1-2"}, "d"]
    documents = as_documents(items)
    assert [document.id for document in documents[1:]] == ["1", "1-2", "4"]
    assert len({document.id for document in documents}) == 4


def test_as_documents_takes_tuples_and_iterators():
    assert [document.text for document in as_documents(("a", "b"))] == ["a", "b"]
    assert [document.text for document in as_documents(text for text in "ab")] == ["a", "b"]


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ([], ["no documents", "pass at least one"]),
        (iter([]), ["no documents", "pass at least one"]),
        ("text", ["one str", "pass a list"]),
        (b"text", ["one bytes", "pass a list"]),
        ({"text": "a"}, ["one dict", "pass a list"]),
        (Document("a"), ["one Document", "pass a list"]),
        (None, ["one NoneType", "pass a list"]),
        (Path("docs"), ["pass a list", "read_documents"]),
        (["a", 3], ["document 2", "int", "give a string"]),
        (["a", None], ["document 2", "NoneType", "give a string"]),
        ([b"a"], ["document 1", "bytes", "give a string"]),
        ([{"id": "x"}], ["document 1", "no text", "`text`", "`page_content`"]),
        ([{"text": None}], ["document 1", "NoneType", "give a string"]),
        ([{"text": 5, "id": "x"}], ["document 1", "'x'", "int", "give a string"]),
        (["a", ""], ["document 2", "empty", "fill it in"]),
        ([{"text": " \n\t", "id": "x"}], ["document 1", "'x'", "empty", "fill it in"]),
        ([Document("")], ["document 1", "empty"]),
        (["a\ud800b"], ["document 1", "surrogate", "replace it"]),
        ([{"text": "a", "id": "\udc00"}], ["`id`", "document 1", "surrogate", "replace it"]),
        ([{"text": "a", "title": "\udc00"}], ["`title`", "document 1", "surrogate", "replace it"]),
        ([{"text": "a", "id": True}], ["`id`", "document 1", "bool", "give a string"]),
        ([{"text": "a", "id": 1.5}], ["`id`", "document 1", "float", "give a string"]),
        ([{"text": "a", "title": ["t"]}], ["`title`", "document 1", "list", "give a string"]),
        ([{"text": "a", "id": "x"}, "b", {"text": "c", "id": "x"}], ["document 3", "'x'", "document 1", "own id"]),
        ([{"text": "a", "id": 1}, {"text": "b", "id": "1"}], ["document 2", "'1'", "document 1", "own id"]),
        ([{"text": "a", "id": "x\ny"}, {"text": "c", "id": "x\ny"}], ["document 2", r"'x\ny'", "own id"]),
    ],
)
def test_errors_of_as_documents(items, expected):
    message = error_of(as_documents, items)
    assert [part for part in expected if part not in message] == []


@given(st.lists(texts, min_size=1))
def test_as_documents_keeps_any_text_exactly(values):
    assert [document.text for document in as_documents(values)] == values
    rows = [{"text": value, "title": value} for value in values]
    assert [(document.text, document.title) for document in as_documents(rows)] == [(v, v) for v in values]


@given(st.lists(st.one_of(st.none(), st.sampled_from(["1", "2", "1-2", "2-2", "3-3"])), min_size=1, max_size=6))
def test_ids_are_unique_or_refused(ids):
    items = [{"text": "a", "id": i} for i in ids]
    chosen = [i for i in ids if i]
    if len(set(chosen)) < len(chosen):
        error_of(as_documents, items)
    else:
        documents = as_documents(items)
        assert len({document.id for document in documents}) == len(ids)
        assert all(i is None or document.id == i for i, document in zip(ids, documents, strict=True))


def test_to_dict_leaves_out_what_is_not_there():
    plain = {"text": "a", "id": "", "title": "", "score": None, "kept": None, "truncated": False}
    assert Document("a").to_dict() == plain
    full = Document("a", "i", "t", source="f.txt", passage=2, metadata={"k": 0}, score=0.5, kept=False, truncated=True)
    assert full.to_dict() == {
        **{"text": "a", "id": "i", "title": "t", "source": "f.txt", "passage": 2, "metadata": {"k": 0}},
        **{"score": 0.5, "kept": False, "truncated": True},
    }


def test_to_dict_is_safe_for_json():
    cycle: dict = {}
    cycle["self"] = cycle
    deep: list = []
    for _ in range(5000):
        deep = [deep]
    metadata = {"set": {1}, ("a", 1): (1, None), "nan": float("nan"), "half": "\ud800", "cycle": cycle, "deep": deep}
    values = Document("a", metadata=metadata, score=float("inf")).to_dict()
    read = json.loads(json.dumps(values, allow_nan=False, ensure_ascii=False).encode("utf-8"))
    assert read == values
    assert values["score"] is None
    assert values["metadata"]["('a', 1)"] == [1, None]
    assert values["metadata"]["set"] == "{1}"
    assert metadata["half"] == "\ud800"


# Rows


ROWS = [
    {"id": "x", "title": "T", "text": 'one, "two"\nthree', "lang": "en"},
    {"id": "y", "title": "", "text": "é\u2028b"},
]


def csv_of(rows):
    quoted = ['"' + row["text"].replace('"', '""') + '"' for row in rows]
    lines = [
        f"{row['id']},{row['title']},{text},{row.get('lang', '')}" for row, text in zip(rows, quoted, strict=True)
    ]
    return "\n".join(["id,title,text,lang", *lines])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.jsonl", "\n\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)),
        ("rows.JSONL", "\r\n".join(json.dumps(row) for row in ROWS) + "\r\n"),
        ("rows.json", json.dumps(ROWS, indent=1)),
        ("rows.json", json.dumps({"documents": ROWS})),
        ("rows.csv", csv_of(ROWS)),
    ],
)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_row_formats(tmp_path, name, content, mark):
    path = write(tmp_path / name, mark + content.encode())
    documents = read_documents(path)
    assert [(d.id, d.title, d.text) for d in documents] == [(r["id"], r["title"], r["text"]) for r in ROWS]
    assert documents[0].metadata == {"lang": "en"}
    assert [(d.source, d.passage) for d in documents] == [(str(path), 1), (str(path), 2)]
    assert read_documents(str(path)) == documents


def test_one_json_object_is_one_document(tmp_path):
    (document,) = read_documents(write(tmp_path / "one.json", '{"contents": "a", "id": 3}'))
    assert (document.id, document.text, document.passage) == ("3", "a", None)


def test_json_array_of_strings(tmp_path):
    documents = read_documents(write(tmp_path / "rows.json", '["a", {"text": "b"}]'))
    assert [(d.id, d.text) for d in documents] == [("1", "a"), ("2", "b")]


def test_csv_header_may_be_capitalised_and_ids_left_empty(tmp_path):
    documents = read_documents(write(tmp_path / "rows.csv", "ID, Content ,Lang\r\n,a,en\r\n\r\nq,b,de\r\n"))
    assert [(d.id, d.text, d.metadata) for d in documents] == [("1", "a", {"Lang": "en"}), ("q", "b", {"Lang": "de"})]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_rows_are_taken_whole(tmp_path, name):
    text = "word " * 500
    (document,) = read_documents(write(tmp_path / name, json.dumps({"text": text})), max_characters=10)
    assert document.text == text


@settings(max_examples=50)
@given(st.lists(st.tuples(texts, st.booleans()), min_size=1, max_size=5))
def test_jsonl_round_trip(tmp_path_factory, rows):
    lines = [json.dumps({"text": text}, ensure_ascii=escaped) for text, escaped in rows]
    path = write(tmp_path_factory.mktemp("rows") / "rows.jsonl", "\n".join(lines))
    assert [document.text for document in read_documents(path)] == [text for text, _ in rows]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.jsonl", '{"text": "a"}\n\n{"title": "b"}', [", line 3 ", "no text", "`text`"]),
        ("a.jsonl", '{"text": "a"}\n{"text": 1}', [", line 2 ", "the text", "int", "give a string"]),
        ("a.jsonl", '{"text": "a"}\n{"text": " "}', [", line 2 ", "the text", "empty", "fill it in"]),
        ("a.jsonl", '{"text": "a", "id": {}}', [", line 1 ", "`id`", "dict", "give a string"]),
        ("a.jsonl", '{"text": "\\ud800"}', [", line 1 ", "surrogate", "replace it"]),
        ("a.jsonl", '{"text": "a"}\n[1]', [", line 2 ", "list", "give a string, or an object"]),
        ("a.jsonl", '{"text": "a"}\n{"text": ', [", line 2 ", "not valid JSON", "one JSON object on each line"]),
        ("a.jsonl", "[" * 100_000, [", line 1 ", "nested too deeply", "one JSON object on each line"]),
        ("a.jsonl", '{"text": "a", "n": ' + "1" * 5000 + "}", [", line 1 ", "a number too long"]),
        (
            "a.jsonl",
            '{"id": "x", "text": "a"}\n\n{"id": "x", "text": "b"}',
            [", line 3 ", ", line 1 ", "'x'", "own id"],
        ),
        ("a.json", '["a",\n"b"', [", line 2 ", "not valid JSON", "mend it"]),
        ("a.json", "[" * 100_000, ["nested too deeply", "mend it"]),
        ("a.json", '["a", {"title": "b"}]', [", document 2 ", "no text", "`text`"]),
        ("a.json", '["a", 3]', [", document 2 ", "int", "give a string"]),
        ("a.json", '{"title": "b"}', [", document 1 ", "no text"]),
        ("a.json", '{"documents": "a"}', ["no list of documents", "write ["]),
        ("a.json", '"a"', ["no list of documents", "write ["]),
        ("a.json", "[]", ["empty", "at least one document"]),
        ("a.json", '{"documents": []}', ["empty", "at least one document"]),
        (
            "a.json",
            '[{"id": 1, "text": "a"}, {"id": 1, "text": "b"}]',
            [", document 2 ", ", document 1 has too", "own id"],
        ),
        ("a.csv", "id,body\n1,a", [", line 1 ", "no text column", "name one `text`"]),
        ("a.csv", "text;id\na;1", [", line 1 ", "no text column", "name one `text`"]),
        ("a.csv", "text,Text\na,b", [", line 1 ", "one twice", "name one `text`"]),
        ("a.csv", "text\n", ["empty", "at least one document"]),
        ("a.csv", 'id,text\n1,"a\nb"\n\n2', [", line 5 ", "fewer cells than the 2", "put quotes"]),
        ("a.csv", "id,text\n1,a, b", [", line 2 ", "more or fewer cells", "put quotes"]),
        ("a.csv", 'id,text\n1,"a\nb"\n2,', [", line 4 ", "empty", "fill it in"]),
        ("a.csv", 'text\na\n"b\nc', [", line 3 ", "not valid CSV", "mend its quotes"]),
        ("a.csv", "text\n" + "a" * 200_000, [", line 2 ", "not valid CSV", "use .jsonl"]),
        ("a.csv", 'id,text\n1,"a\nb"\n1,"c\nd"', [", line 4 ", ", line 2 ", "'1'", "own id"]),
        *[(f"a.{kind}", "", ["empty", "at least one document"]) for kind in ("jsonl", "json", "csv", "txt", "md")],
        *[
            (f"a.{kind}", " \r\n\t", ["empty", "at least one document"])
            for kind in ("jsonl", "json", "csv", "txt", "md")
        ],
        *[
            (f"a.{kind}", b"caf\xe9", ["not UTF-8", "byte 3", "convert it"])
            for kind in ("jsonl", "json", "csv", "txt")
        ],
        *[
            (f"a.{kind}", "a\0b", ["NUL bytes", "convert it to UTF-8"])
            for kind in ("jsonl", "json", "csv", "txt", "md")
        ],
        ("a.txt", "words".encode("utf-16"), ["not UTF-8", "convert it to UTF-8"]),
        ("a.txt", "words".encode("utf-16-le"), ["NUL bytes", "convert it to UTF-8"]),
        ("a.docx", "a", ["cannot tell", ".jsonl", ".pdf"]),
        ("README", "a", ["cannot tell", "ends in"]),
    ],
)
def test_errors_of_files(tmp_path, monkeypatch, name, content, expected):
    monkeypatch.chdir(tmp_path)
    write(Path(name), content)
    message = error_of(read_documents, name)
    assert [part for part in [name, *expected] if part not in message] == []


@pytest.mark.parametrize("path", ["nowhere.txt", "", "a\0b.txt", "\ud800.txt", "two\nlines.txt", None, 3])
def test_path_that_is_not_there(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    message = error_of(read_documents, path)
    assert "no file or folder" in message
    assert "check the path" in message


def test_file_that_may_not_be_read(tmp_path, monkeypatch):
    # Not by chmod: it does not keep root out.
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    path = write(tmp_path / "a.txt", "a")
    monkeypatch.setattr(Path, "read_bytes", refuse)
    message = error_of(read_documents, path)
    assert f"cannot read {path} (Permission denied)" in message
    assert "permissions" in message


@pytest.mark.parametrize("max_characters", [0, -1, 1.5, "10", None, True])
def test_wrong_max_characters(tmp_path, max_characters):
    path = write(tmp_path / "a.txt", "a")
    assert "at least 1" in error_of(read_documents, path, max_characters=max_characters)


# Running text


@pytest.mark.parametrize("name", ["notes.txt", "notes.md"])
def test_short_text_is_one_document(tmp_path, name):
    (document,) = read_documents(write(tmp_path / name, "One.\r\n\r\nTwo.\n"))
    assert (document.text, document.id, document.title) == ("One.\n\nTwo.", name, "notes")
    assert (document.source, document.passage, document.metadata) == (str(tmp_path / name), None, {})


@pytest.mark.parametrize("name", ["long.txt", "long.md"])
@pytest.mark.parametrize("max_characters", [7, 40, 1500])
def test_splitting_keeps_every_word_in_order(tmp_path, name, max_characters):
    # No word is longer than a passage may be, and none has a full stop that could be cut off, so all stay whole.
    content = "\n\n".join(f"# Part {n}\n\n" + " ".join(f"w{n}x{m}" for m in range(90)) for n in range(9))
    documents = read_documents(write(tmp_path / name, content), max_characters=max_characters)
    assert len(documents) > 1
    assert all(0 < len(document.text) <= max_characters for document in documents)
    assert words(" ".join(document.text for document in documents)) == words(content)
    assert [document.passage for document in documents] == list(range(1, len(documents) + 1))
    assert [document.id for document in documents] == [f"{name}#{n}" for n in range(1, len(documents) + 1)]


@settings(max_examples=100)
@given(texts, st.integers(1, 20), st.sampled_from([".txt", ".md"]))
def test_splitting_loses_nothing(tmp_path_factory, text, max_characters, extension):
    path = tmp_path_factory.mktemp("text") / f"a{extension}"
    text = text.replace("\0", "").removeprefix("\ufeff") + "."
    documents = read_documents(write(path, text), max_characters=max_characters)
    assert all(len(document.text) <= max_characters for document in documents)
    assert "".join("".join(d.text for d in documents).split()) == "".join(text.split())


def test_no_passage_is_blank(tmp_path):
    # The splitter does not count U+001C as white space, `str.strip` does.
    documents = read_documents(write(tmp_path / "a.txt", "a \x1c b"), max_characters=1)
    assert [document.text for document in documents] == ["a", "b"]


def test_default_length_of_passages(tmp_path):
    documents = read_documents(write(tmp_path / "a.txt", "word " * 1000))
    assert 1400 < max(len(document.text) for document in documents) <= 1500


def test_markdown_is_split_at_its_headings(tmp_path):
    content = "# One\n\nfirst part of it\n\n# Two\n\nsecond part of it"
    documents = read_documents(write(tmp_path / "a.md", content), max_characters=30)
    assert [document.text for document in documents] == ["# One\n\nfirst part of it", "# Two\n\nsecond part of it"]
    assert [document.title for document in documents] == ["One", "One"]


@pytest.mark.parametrize(
    ("content", "title"),
    [
        ("intro\n\n## The *title* ##\n\n# Later", "The *title*"),
        ("# C#\n\ntext", "C#"),
        ("Title\n=====\n\ntext", "Title"),
        ("```sh\n# a comment\n```\n\n# Real\n", "Real"),
        ("~~~\n# a comment\n", "guide"),
        ("#hashtag\n\n    # code", "guide"),
        ("# \r\ntext", "guide"),
        ("text", "guide"),
    ],
)
def test_title_of_markdown(tmp_path, content, title):
    (document,) = read_documents(write(tmp_path / "guide.md", content))
    assert document.title == title


# HTML and PDF


@pytest.fixture
def _html():
    # Not only ModuleNotFoundError: trafilatura fails to import where lxml has no lxml_html_clean beside it.
    pytest.importorskip("trafilatura", exc_type=ImportError)


PAGE = """<!doctype html><html><head><title>Straße &amp; co</title><meta charset="latin-1">
<script>secretVariable = 1</script><style>.secretStyle {{}}</style>
<script type="application/ld+json">{{"@type": "Article", "articleBody": "secretBody {long}"}}</script></head>
<body><script>document.write("secretWritten")</script><p>{text}</p></body></html>"""


@pytest.mark.usefixtures("_html")
@pytest.mark.parametrize("name", ["page.html", "page.htm", "page.HTML"])
@pytest.mark.parametrize("text", ["Größe matters.", "Größe matters. " * 20])
def test_html(tmp_path, name, text):
    documents = read_documents(write(tmp_path / name, PAGE.format(text=text, long="secret words " * 50)))
    (document,) = documents
    assert words(document.text) == words(text)
    assert (document.title, document.id) == ("Straße & co", name)


@pytest.mark.usefixtures("_html")
def test_html_is_split_and_named_after_its_file_without_a_title(tmp_path):
    paragraphs = [f"Paragraph {n} has a few words in it." for n in range(40)]
    body = "".join(f"<p>{paragraph}</p>" for paragraph in paragraphs)
    path = write(tmp_path / "page.html", f"<html><body>{body}</body></html>")
    documents = read_documents(path, max_characters=200)
    assert all(len(document.text) <= 200 for document in documents)
    assert words(" ".join(document.text for document in documents)) == words(" ".join(paragraphs))
    assert {document.title for document in documents} == {"page"}
    assert documents[1].id == "page.html#2"


@pytest.mark.usefixtures("_html")
@pytest.mark.parametrize("content", ["<html></html>", "<script>x()</script>", "\x01", "<div>" * 20_000, "<!doctype"])
def test_html_without_text(tmp_path, caplog, content):
    path = write(tmp_path / "a.html", content)
    message = error_of(read_documents, path)
    assert str(path) in message
    assert "save" in message
    assert caplog.records == []


@pytest.mark.usefixtures("_html")
def test_html_fetches_nothing(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    links = '<link rel="stylesheet" href="http://x.test/a.css"><base href="http://x.test/">'
    body = '<p>Some words.</p><img src="http://x.test/i.png"><iframe src="http://x.test/f"></iframe>'
    (document,) = read_documents(write(tmp_path / "a.html", f"<html><head>{links}</head><body>{body}</body></html>"))
    assert document.text == "Some words."


@pytest.mark.usefixtures("_html")
def test_html_parser_that_fails(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("trafilatura.bare_extraction", fail)
    logging.getLogger("trafilatura").setLevel(logging.INFO)
    path = write(tmp_path / "a.html", "<html><body><p>Words</p></body></html>")
    message = error_of(read_documents, path)
    assert f"{path} is not readable HTML (RuntimeError)" in message
    assert "save" in message
    assert logging.getLogger("trafilatura").level == logging.INFO


def test_pdf(tmp_path):
    pytest.importorskip("pypdf")
    path = write(tmp_path / "paper.pdf", pdf_bytes(["Hello from page one", "And from page two"], title="A paper"))
    (document,) = read_documents(path)
    assert words(document.text) == words("Hello from page one And from page two")
    assert (document.id, document.title, document.source) == ("paper.pdf", "A paper", str(path))


def test_pdf_is_split_and_named_after_its_file_without_a_title(tmp_path):
    pytest.importorskip("pypdf")
    path = write(tmp_path / "paper.pdf", pdf_bytes(["Hello from page one", "And from page two"]))
    documents = read_documents(path, max_characters=20)
    assert [document.text for document in documents] == ["Hello from page one", "And from page two"]
    assert [document.id for document in documents] == ["paper.pdf#1", "paper.pdf#2"]
    assert {document.title for document in documents} == {"paper"}


def test_encrypted_pdf(tmp_path):
    pypdf = pytest.importorskip("pypdf")
    writer = pypdf.PdfWriter(clone_from=io.BytesIO(pdf_bytes(["Hello"])))
    writer.encrypt("password", algorithm="RC4-128")
    path = tmp_path / "a.pdf"
    writer.write(path)
    message = error_of(read_documents, path)
    assert f"{path} is encrypted" in message
    assert "without a password" in message


@pytest.mark.parametrize(
    ("content", "mend"),
    [
        (b"", "save its text"),
        (b"no pdf at all", "save its text"),
        (b"%PDF-1.4\nbroken", "save its text"),
        (pdf_bytes(["Hello"])[:200], "save its text"),
        (pdf_bytes([""]), "OCR"),
        (pdf_bytes([]), "OCR"),
    ],
)
def test_pdf_that_cannot_be_read(tmp_path, caplog, capfd, content, mend):
    pytest.importorskip("pypdf")
    path = write(tmp_path / "a.pdf", content)
    message = error_of(read_documents, path)
    assert str(path) in message
    assert mend in message
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("name", "module"), [("a.html", "trafilatura"), ("a.htm", "trafilatura"), ("a.pdf", "pypdf")])
def test_missing_extra(tmp_path, monkeypatch, name, module):
    monkeypatch.setitem(sys.modules, module, None)
    path = write(tmp_path / name, "<p>words</p>")
    message = error_of(read_documents, path)
    assert "pip install 'faithgen[files]'" in message
    with pytest.raises(MissingExtraError):
        read_documents(path)


# Folders


def test_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(Path("docs/b.txt"), "plain")
    write(Path("docs/a/notes.md"), "# Notes\n\nfirst part\n\n# More\n\nsecond part")
    write(Path("docs/a/rows.jsonl"), '{"text": "row", "id": "x"}\n{"text": "other"}')
    write(Path("docs/c.csv"), "id,text\nx,cell")
    write(Path("docs/.hidden.txt"), "no")
    write(Path("docs/.git/config.txt"), "no")
    write(Path("docs/image.png"), b"\x89PNG\0")
    Path("docs/folder.txt").mkdir()
    documents = read_documents("docs", max_characters=22)
    assert [(d.id, d.text) for d in documents] == [
        ("a/notes.md#1", "# Notes\n\nfirst part"),
        ("a/notes.md#2", "# More\n\nsecond part"),
        ("a/rows.jsonl#x", "row"),
        ("a/rows.jsonl#2", "other"),
        ("b.txt", "plain"),
        ("c.csv#x", "cell"),
    ]
    sources = [str(Path("docs", name)) for name in ("a/notes.md", "a/rows.jsonl", "b.txt", "c.csv")]
    assert list(dict.fromkeys(d.source for d in documents)) == sources
    assert [d.passage for d in documents] == [1, 2, 1, 2, None, None]
    assert as_documents(documents) == documents


def test_folder_skips_links_that_leave_it(tmp_path):
    write(tmp_path / "secret.txt", "secret")
    write(tmp_path / "other/more.txt", "secret")
    folder = tmp_path / "docs"
    write(folder / "in.txt", "inside")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "linked").symlink_to(tmp_path / "other")
    (folder / "up").symlink_to("..")
    (folder / "gone.txt").symlink_to("nowhere.txt")
    (folder / "loop.txt").symlink_to("loop.txt")
    (folder / "again.txt").symlink_to("in.txt")
    assert [(d.id, d.text) for d in read_documents(folder)] == [("again.txt", "inside"), ("in.txt", "inside")]
    (tmp_path / "way-in").symlink_to(folder)
    assert len(read_documents(tmp_path / "way-in")) == 2


@pytest.mark.parametrize("names", [[], [".hidden.txt"], ["image.png", "sub/.x/a.txt"]])
def test_folder_with_nothing_to_read(tmp_path, names):
    for name in names:
        write(tmp_path / name, "a")
    message = error_of(read_documents, tmp_path)
    assert str(tmp_path) in message
    assert ".jsonl" in message


def test_wrong_file_in_a_folder_is_named(tmp_path):
    write(tmp_path / "a.txt", "a")
    write(tmp_path / "sub/b.jsonl", '{"text": "a"}\n{"no": "text"}')
    assert f"{tmp_path / 'sub' / 'b.jsonl'}, line 2 has no text" in error_of(read_documents, tmp_path)


def test_subfolder_that_may_not_be_read_is_not_passed_over(tmp_path, monkeypatch):
    write(tmp_path / "a.txt", "a")
    write(tmp_path / "locked/b.txt", "b")
    scandir = os.scandir

    def refuse(path):
        if os.path.basename(path) == "locked":
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr("os.scandir", refuse)
    message = error_of(read_documents, tmp_path)
    assert f"cannot read {tmp_path / 'locked'} (Permission denied)" in message


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such file names")
def test_odd_file_names(tmp_path):
    write(tmp_path / "two\nlines.txt", "a")
    write(Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt")), "b")
    documents = read_documents(tmp_path)
    assert [d.id for d in documents] == [r"caf\udce9.txt", r"two\nlines.txt"]
    for document in documents:
        json.dumps(document.to_dict(), ensure_ascii=False).encode("utf-8")
    write(tmp_path / "two\nlines.txt", "")
    assert r"two\nlines.txt is empty" in error_of(read_documents, tmp_path)


# Standard input


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"text": "é", "id": "x"}\n{"text": "b"}\n', [("x", "é"), ("2", "b")]),
        ('\n  {"text": "a"}\n', [("1", "a")]),
        ('["a", {"text": "b"}]', [("1", "a"), ("2", "b")]),
        ('[\n  "a",\n  "b"\n]\n', [("1", "a"), ("2", "b")]),
        ('{"documents": ["a"]}', [("1", "a")]),
        ('{\n  "documents": ["a"]\n}', [("1", "a")]),
        ("Just words.\nAnd more.\n", [("stdin", "Just words.\nAnd more.")]),
        ("[1] is a footnote", [("stdin", "[1] is a footnote")]),
        ("12", [("stdin", "12")]),
        ("\ufeffBOM", [("stdin", "BOM")]),
    ],
)
@pytest.mark.parametrize("kind", ["bytes", "text", "wrapper"])
def test_standard_input(content, expected, kind):
    stream = {
        "bytes": lambda: io.BytesIO(content.encode()),
        "text": lambda: io.StringIO(content),
        "wrapper": lambda: io.TextIOWrapper(io.BytesIO(content.encode()), encoding="ascii"),
    }[kind]()
    documents = read_documents("-", stdin=stream)
    assert [(d.id, d.text) for d in documents] == expected
    assert {d.source for d in documents} == {"-"}


def test_standard_input_is_split_where_it_is_running_text():
    documents = read_documents(
        Path("-"), stdin=io.StringIO("One sentence here.\n\nTwo sentences here."), max_characters=20
    )
    assert [(d.id, d.text) for d in documents] == [
        ("stdin#1", "One sentence here."),
        ("stdin#2", "Two sentences here."),
    ]


def test_standard_input_is_the_default_stream(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("words"))
    assert read_documents("-")[0].text == "words"


class Failing(io.StringIO):
    def read(self, *args):
        raise OSError("gone")


closed = io.StringIO("a")
closed.close()


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (io.BytesIO(b""), ["empty", "at least one document"]),
        (io.StringIO(" \n"), ["empty", "at least one document"]),
        (io.BytesIO(b"caf\xe9"), ["not UTF-8", "convert it"]),
        (io.BytesIO(b"a\0b"), ["NUL", "convert it"]),
        (io.StringIO("a\udce9"), ["surrogate", "replace it"]),
        (io.StringIO('{"text": "a"}\n{"title": "b"}'), [", line 2 ", "no text"]),
        (io.StringIO('{"text": "a"}\nwords'), [", line 2 ", "not valid JSON"]),
        (io.StringIO("[1, 2]"), [", document 1 ", "int"]),
        (Failing(), ["cannot read", "name a file"]),
        (closed, ["cannot read", "name a file"]),
    ],
)
def test_errors_of_standard_input(stream, expected):
    message = error_of(read_documents, "-", stdin=stream)
    assert [part for part in ["standard input", *expected] if part not in message] == []


def test_no_standard_input(monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    assert "cannot read standard input" in error_of(read_documents, "-")


def test_import_is_light():
    heavy = "('torch', 'transformers', 'trafilatura', 'pypdf', 'semantic_text_splitter')"
    code = f"import sys, faithgen.documents; sys.exit(','.join(m for m in {heavy} if m in sys.modules) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
