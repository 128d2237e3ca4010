import pytest

pytest.importorskip("trl")


def test_bad_input_is_one_line_and_exit_code_2(run, tiny_folder, tmp_path):
    code, _, err = run("export", "--checkpoint", tiny_folder, "--output", tmp_path / "out")
    assert code == 2
    assert "faithgen train has written" in err
    code, _, err = run("export", "--checkpoint", tmp_path / "none", "--output", tmp_path / "out", "--merge")
    assert code == 2
    assert not (tmp_path / "out").exists()


def test_help_says_what_merging_is_for(run):
    code, out, _ = run("export", "--help")
    assert code == 0
    assert "vLLM" in out
