import pytest

from faithgen import FaithgenError
from faithgen.evaluation.compare import compare_runs
from faithgen.evaluation.statistics import bootstrap_interval, paired_bootstrap
from tests.evaluation.running import row, run_folder


def values(number):
    return float(number % 3 == 0), float(number % 2 == 0)


@pytest.fixture
def two(tmp_path):
    first = run_folder(tmp_path / "first", [row(i, "base", values(i)[0]) for i in range(30)], methods=("base",))
    second = run_folder(tmp_path / "second", [row(i, "base", values(i)[1]) for i in range(30)], methods=("base",))
    return first, second


def test_differences_are_second_minus_first_on_common_questions(two):
    found = compare_runs(*two)
    main = found.comparisons[0]
    columns = [[values(i)[k] for i in range(30)] for k in (0, 1)]
    assert (main.dataset, main.methods, main.metric) == ("toy", ("base", "base"), "sub_em")
    assert main.first == bootstrap_interval(columns[0])
    assert main.difference == paired_bootstrap(columns[1], columns[0])
    assert main.difference.difference.mean == pytest.approx(5 / 30)
    assert [one.metric for one in found.comparisons] == ["sub_em", "f1", "answer_words"]
    back = compare_runs(*two[::-1]).comparisons[0]
    assert back.difference.difference.mean == pytest.approx(-5 / 30)
    assert compare_runs(two[0], two[0]).comparisons[0].difference.difference.mean == 0


def test_questions_of_one_run_only_are_named(tmp_path, two):
    more = run_folder(tmp_path / "more", [row(i, "base", 1.0) for i in range(20, 50)], methods=("base",))
    found = compare_runs(two[0], more)
    assert found.comparisons[0].difference.difference.n == 10
    assert any("10 common questions; 40 that only one run has" in note for note in found.notes)


def test_other_settings_are_named(tmp_path, two):
    other = run_folder(
        tmp_path / "other", [row(i, "base", 1.0) for i in range(30)], settings={"methods": ["base"], "seed": 4}
    )
    assert any("seed was 0 and is 4" in note for note in compare_runs(two[0], other).notes)


def test_one_method_each_is_a_pair(tmp_path, two):
    other = run_folder(tmp_path / "other", [row(i, "cafe", 1.0) for i in range(30)], methods=("cafe",))
    assert compare_runs(two[0], other).comparisons[0].methods == ("base", "cafe")
    both = run_folder(
        tmp_path / "both", [row(i, m, 1.0) for m in ("cafe", "full") for i in range(30)], methods=("cafe", "full")
    )
    with pytest.raises(FaithgenError, match="no method in common"):
        compare_runs(two[0], both)


def test_different_questions_are_an_error(tmp_path, two):
    apart = run_folder(tmp_path / "apart", [row(i, "base", 1.0) for i in range(30, 40)], methods=("base",))
    with pytest.raises(FaithgenError, match="different questions"):
        compare_runs(two[0], apart)
    changed = [row(i, "base", 1.0, question=f"other {i}?") for i in range(30)]
    with pytest.raises(FaithgenError, match="'q0' is another question"):
        compare_runs(two[0], run_folder(tmp_path / "changed", changed, methods=("base",)))
    golds = [row(i, "base", 1.0, answers=["other"]) for i in range(30)]
    with pytest.raises(FaithgenError, match="'q0' is another question"):
        compare_runs(two[0], run_folder(tmp_path / "golds", golds, methods=("base",)))
    sets = run_folder(tmp_path / "sets", [row(0, "base", 1.0, dataset="b")], methods=("base",), sets=("b",))
    with pytest.raises(FaithgenError, match=r"different data sets \(toy; b\)"):
        compare_runs(two[0], sets)


def test_folders_that_hold_no_run(tmp_path, two):
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(FaithgenError, match="holds no run"):
            compare_runs(two[0], path)


def test_missing_values_say_so(tmp_path, two):
    other = run_folder(tmp_path / "other", [row(i, "base", None) for i in range(30)], methods=("base",))
    main = compare_runs(two[0], other).comparisons[0]
    assert main.second.mean is None
    assert main.difference.difference.reason == "no row has both values"
