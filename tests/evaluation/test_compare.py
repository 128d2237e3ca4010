import json

import pytest

from faithgen import FaithgenError
from faithgen.evaluation.compare import compare_runs
from faithgen.evaluation.statistics import bootstrap_interval, holm, paired_bootstrap
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
    plain = paired_bootstrap(columns[1], columns[0])
    assert (main.difference.difference, main.difference.p_value) == (plain.difference, plain.p_value)
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


def test_p_is_corrected_over_all_comparisons(tmp_path, two):
    rows = [row(i, m, float(i % k == 0)) for m, k in (("base", 4), ("cafe", 7)) for i in range(30)]
    both = run_folder(tmp_path / "both", rows, methods=("base", "cafe"))
    more = [row(i, m, float(i % k == 1)) for m, k in (("base", 2), ("cafe", 2)) for i in range(30)]
    found = compare_runs(both, run_folder(tmp_path / "more", more, methods=("base", "cafe"))).comparisons
    assert len(found) == 6
    wanted = holm({str(i): one.difference.p_value for i, one in enumerate(found)})
    assert [one.difference.p_holm for one in found] == list(wanted.values())
    assert any(one.difference.p_holm > one.difference.p_value for one in found)


def judged(number, name, mean):
    scorer = {"name": name, "mean": mean, "minimum": mean, "share": 1.0, "sentences": 2, "reason": None}
    return row(number, "base", 1.0, scorer=scorer)


def test_support_by_different_scorers_is_not_compared(tmp_path):
    folders = {
        name: run_folder(
            tmp_path / name.replace(":", "-"),
            [judged(i, name, 0.1 * (i % 5)) for i in range(30)],
            methods=("base",),
            scorer={"name": name, "threshold": 0.5},
        )
        for name in ("lexical", "heads:tiny")
    }
    found = compare_runs(folders["lexical"], folders["heads:tiny"])
    assert [one.metric for one in found.comparisons] == ["sub_em", "f1", "answer_words"]
    assert any("support is not compared; it was judged by lexical and by heads:tiny" in n for n in found.notes)
    same = compare_runs(folders["lexical"], folders["lexical"])
    assert [one.metric for one in same.comparisons][3:] == ["support_mean", "support_minimum", "support_share"]
    assert same.notes == []


def test_data_and_scorer_are_noted_first_and_never_cut(tmp_path):
    rows = [row(i, "base", 1.0) for i in range(4)]
    settings = {"methods": ["base"], **dict.fromkeys("abcdefghijkl", 1)}
    changed = {"methods": ["base"], **dict.fromkeys("abcdefghijkl", 2)}
    scorers = [{"name": name, "threshold": t, "reason": r} for name, t, r in (("a", 1, "x"), ("b", 2, "y"))]
    one = run_folder(tmp_path / "one", rows, methods=("base",), settings=settings, scorer=scorers[0])
    other = run_folder(tmp_path / "other", rows, methods=("base",), settings=changed, scorer=scorers[1])
    record = json.loads((other / "run.json").read_text())
    record["datasets"]["toy"] |= {"sha256": "1", "dropped": {"no answer": 3}}
    record["model"]["revision"] = "1"
    (other / "run.json").write_text(json.dumps(record))
    notes = compare_runs(one, other).notes
    assert notes[0].startswith("datasets: toy: the files or draws differ (checksum)")
    assert notes[1:6] == [
        "datasets: toy.dropped.no answer was null and is 3",
        'scorer: name was "a" and is "b"',
        "scorer: threshold was 1 and is 2",
        'scorer: reason was "x" and is "y"',
        'model: revision was "0" and is "1"',
    ]
    assert notes[6].startswith("settings: a was")
    assert notes[-1] == "and 5 more differences of the settings"
    assert len(notes) == 5 + 8 + 1


def with_documents(golds, ids="12"):
    documents = [{"id": name, "kept": True, "gold": name == golds} for name in ids]
    return [row(i, "base", 1.0, documents=documents) for i in range(4)]


@pytest.mark.parametrize(
    "rows",
    [
        with_documents("2"),  # nq_hard with another seed: the gold passage stands elsewhere
        with_documents("1", "13"),
        with_documents("1", "21"),
        with_documents("1", "123"),
    ],
)
def test_other_documents_are_an_error(tmp_path, rows):
    first = run_folder(tmp_path / "first", with_documents("1"), methods=("base",))
    second = run_folder(tmp_path / "second", rows, methods=("base",))
    with pytest.raises(FaithgenError, match=r"toy 'q0' has other documents in .*same --seed") as caught:
        compare_runs(first, second)
    assert "\n" not in str(caught.value)
    assert compare_runs(first, first).comparisons
    untold = run_folder(tmp_path / "untold", [row(i, "base", 1.0, error="x") for i in range(4)], methods=("base",))
    assert compare_runs(first, untold).comparisons


def test_rankings_and_choices_have_their_documents_checked(tmp_path):
    def run(name, **fields):
        return run_folder(tmp_path / name, [row(i, "base", 1.0, **fields) for i in range(4)], methods=("base",))

    ranked = [{"id": name, "score": score, "relevance": grade} for name, score, grade in (("a", 2, 1), ("b", 1, None))]
    first = run("first", ranking=ranked)
    assert compare_runs(first, run("turned", ranking=ranked[::-1])).comparisons, "the order is the answer"
    with pytest.raises(FaithgenError, match="has other documents"):
        compare_runs(first, run("fewer", ranking=ranked[:1]))
    with pytest.raises(FaithgenError, match="has other documents"):
        compare_runs(run("wave", options=["late", "never"]), run("save", options=["late", "soon"]))


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
