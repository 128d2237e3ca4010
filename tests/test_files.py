"""Files are whole or not there."""

import os
import stat

import pytest

from faithgen.errors import FaithgenError
from faithgen.files import replacing, write_text


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def test_the_file_is_whole_readable_and_alone(tmp_path):
    write_text(tmp_path / "a.json", "ä\n")
    assert (tmp_path / "a.json").read_bytes() == "ä\n".encode()
    assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == 0o644
    assert names(tmp_path) == ["a.json"]


def test_a_failure_inside_keeps_the_old_file_and_leaves_nothing(tmp_path):
    write_text(tmp_path / "a", "old")

    def fail():
        with replacing(tmp_path / "a") as temporary:
            temporary.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_a_full_disk_is_a_line_that_says_how_to_mend(tmp_path):
    with pytest.raises(FaithgenError, match=r"cannot write .*No space left on device\); choose another --output"):  # noqa: SIM117
        with replacing(tmp_path / "a", mend="choose another --output"):
            raise OSError(28, os.strerror(28))
    assert names(tmp_path) == []


def test_folders_are_made_only_if_asked_for(tmp_path):
    with pytest.raises(FaithgenError, match=r"cannot write .*No such file"):
        write_text(tmp_path / "new" / "a", "x")
    write_text(tmp_path / "new" / "a", "x", parents=True)
    assert (tmp_path / "new" / "a").read_text() == "x"


def test_a_long_name_is_written(tmp_path):
    name = "n" * 250
    write_text(tmp_path / name, "x")
    assert names(tmp_path) == [name]
