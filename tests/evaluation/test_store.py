import json
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from faithgen import FaithgenError
from faithgen.evaluation import store
from faithgen.evaluation.store import RunFolder, differing, finite, line_of, load_run, read_rows
from tests.evaluation.running import record, row, run_folder


def lines(rows):
    return "".join(json.dumps(one) + "\n" for one in rows)


def test_rows_of_shards_are_merged_in_order_and_once(tmp_path):
    folder = RunFolder(tmp_path)
    folder.rows_file.write_text(lines([row(2, "base", 1.0)]))
    folder.shard_file(0).write_text(lines([row(1, "base", 1.0), row(2, "base", 1.0)]))
    folder.shard_file(1).write_text(lines([row(0, "base", 0.0)]) + '{"dataset": "toy", "id": "q9", "meth')
    merged = folder.merge([("toy", "base", f"q{i}") for i in range(3)])
    assert [one["id"] for one in merged] == ["q0", "q1", "q2"]
    assert read_rows(folder.rows_file) == merged
    assert folder.shard_files() == []
    assert folder.merge([]) == merged  # rows without a place are kept


def test_the_last_line_of_a_row_counts(tmp_path):
    folder = RunFolder(tmp_path)
    folder.rows_file.write_text(lines([row(0, "base", 0.0, error="E: x"), row(1, "base", 1.0), row(0, "base", 0.5)]))
    folder.shard_file(0).write_text(lines([row(1, "base", 0.25)]))
    assert [(one["id"], one["metrics"]["sub_em"], "error" in one) for one in folder.rows()] == [
        ("q0", 0.5, False),
        ("q1", 0.25, False),
    ]
    folder.merge([])
    assert folder.rows_file.read_text().count("\n") == 2


def test_a_torn_last_line_is_cut_off_before_more_is_written(tmp_path):
    folder = RunFolder(tmp_path)
    folder.rows_file.write_bytes(lines([row(0, "base", 1.0)]).encode() + '{"question": "Ünï'.encode()[:-1])
    assert [one["id"] for one in folder.rows()] == ["q0"]
    with folder.appending(folder.rows_file) as writer:
        writer.write([row(1, "base", 1.0)])
    assert [one["id"] for one in read_rows(folder.rows_file)] == ["q0", "q1"]


def test_every_line_is_there_as_soon_as_it_is_written(tmp_path):
    folder = RunFolder(tmp_path)
    with folder.appending(folder.rows_file) as writer:
        writer.write([row(0, "base", math.nan)])
        assert read_rows(folder.rows_file)[0]["metrics"]["sub_em"] is None
        writer.write([row(1, "base", 1.0)])
        assert len(read_rows(folder.rows_file)) == 2


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_a_file_cut_anywhere_holds_the_whole_lines_before(tmp_path, data):
    texts = data.draw(st.lists(st.text(st.characters(codec="utf-8"), max_size=8), min_size=1, max_size=4))
    rows = [row(i, "base", 1.0, answer=text) for i, text in enumerate(texts)]
    whole = "".join(map(line_of, rows)).encode()
    cut = data.draw(st.integers(0, len(whole)))
    path = tmp_path / "rows.jsonl"
    path.write_bytes(whole[:cut])
    assert read_rows(path) == rows[: whole[:cut].count(b"\n")]
    with RunFolder(tmp_path).appending(path) as writer:
        writer.write(rows)
    assert RunFolder(tmp_path).rows() == rows


def test_a_line_damaged_in_the_middle_is_named(tmp_path):
    folder = RunFolder(tmp_path)
    folder.rows_file.write_text(lines([row(0, "base", 1.0)]) + "{oops\n" + lines([row(1, "base", 1.0)]))
    with pytest.raises(FaithgenError, match="line 2 is damaged"):
        folder.rows()


def test_another_run_or_other_files_are_not_written_over(tmp_path):
    used = tmp_path / "used"
    RunFolder.create(used, resume=False).write_record(record())
    before = sorted(used.iterdir())
    with pytest.raises(FaithgenError, match="holds another run; add --resume"):
        RunFolder.create(used, resume=False)
    assert sorted(used.iterdir()) == before
    RunFolder.create(used, resume=True)
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    for resume in (False, True):
        with pytest.raises(FaithgenError, match="holds no run"):
            RunFolder.create(other, resume=resume)
    assert RunFolder.create(tmp_path / "new" / "deep", resume=True).path.is_dir()


def test_what_a_kill_left_half_written_is_no_other_run(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    left = [run / name for name in (".probe-ab12", ".run.json-x_y1", ".rows.jsonl-zz")]
    for path in left:
        path.write_text("{")
    for resume in (False, True):
        folder = RunFolder.create(run, resume=resume)
        assert all(path.exists() for path in left)  # they may be another process's, until the folder is locked
    with folder.locked():
        assert sorted(path.name for path in run.iterdir()) == [".lock"]
        folder.write_record(record())
    (run / ".run.json-more").write_text("{")
    with RunFolder.create(run, resume=True).locked():
        assert sorted(path.name for path in run.iterdir()) == [".lock", "run.json"]


def test_output_that_cannot_be_written(tmp_path, monkeypatch):
    def refuse(**options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(
        store.tempfile, "mkstemp", refuse
    )  # root may write anywhere, so folders without rights do not do
    with pytest.raises(FaithgenError, match=r"cannot write --output .*Permission denied"):
        RunFolder.create(tmp_path / "x", resume=False)


def test_output_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(FaithgenError, match="cannot write --output"):
            RunFolder.create(path, resume=False)


def test_settings_that_differ_are_named(tmp_path):
    folder = RunFolder.create(tmp_path / "run", resume=False)
    folder.check_same(record())  # nothing to compare with
    folder.write_record(record())
    folder.check_same(record())
    folder.check_same({"settings": {"methods": ["base", "heads"], "seed": 0}})
    with pytest.raises(FaithgenError, match="seed was 0 and is 3"):
        folder.check_same({"settings": {"methods": ("base", "heads"), "seed": 3}})
    with pytest.raises(FaithgenError, match=r"toy\.sha256 was \"0\" and is \"1\""):
        folder.check_same({"datasets": {"toy": {**record()["datasets"]["toy"], "sha256": "1"}}})
    folder.write_record(record() | {"methods": {"heads": {"alpha": 0.2}}})
    with pytest.raises(FaithgenError, match=r"methods\.heads\.alpha was 0\.2 and is 0\.5"):  # a default that changed
        folder.check_same({"methods": {"heads": {"alpha": 0.5}}})
    with pytest.raises(FaithgenError, match="revision"):
        folder.check_same({"model": {**record()["model"], "revision": "1"}})


def test_a_folder_is_written_by_one_process_at_a_time(tmp_path):
    first, second = (RunFolder.create(tmp_path / "run", resume=True) for _ in range(2))
    with first.locked(), pytest.raises(FaithgenError, match="another process"), second.locked():
        pass
    with second.locked():
        pass


def test_runs_that_cannot_be_loaded(tmp_path):
    with pytest.raises(FaithgenError, match="holds no run"):
        load_run(tmp_path / "missing")
    empty = run_folder(tmp_path / "empty", [])
    with pytest.raises(FaithgenError, match="no rows"):
        load_run(empty)
    (empty / "run.json").write_text('{"format": "other"}')
    with pytest.raises(FaithgenError, match="no record"):
        load_run(empty)
    (empty / "run.json").write_text("{")
    with pytest.raises(FaithgenError, match="cannot be read"):
        load_run(empty)


def test_finite_and_differing():
    given = {"a": [1.0, math.inf, {"b": math.nan}], 1: (2,)}
    assert finite(given) == {"a": [1.0, None, {"b": None}], "1": [2]}
    assert differing({"a": {"b": 1}, "c": 2}, {"a": {"b": 2}, "d": 3}) == [
        "a.b was 1 and is 2",
        "c was 2 and is null",
        "d was null and is 3",
    ]
    assert differing({"a": [1]}, {"a": [1]}) == []
