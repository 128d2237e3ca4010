import json
import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faithgen.errors import FaithgenError
from faithgen.heads.head_set import HeadSet, by_layer, check_range, packaged_head_set, packaged_head_sets

SCORES = [[0.1, 0.9, 0.3], [0.5, 0.9, 0.0]]


def make(scores=SCORES, **changes) -> HeadSet:
    return HeadSet(**{"scores": scores, "method": "copying", "model_id": "org/tiny", "revision": "abc", **changes})


def fails(function, *arguments, match: str) -> None:
    """An error a user can mend: one line that says what is wrong."""
    with pytest.raises(FaithgenError, match=match) as caught:
        function(*arguments)
    assert len(str(caught.value).splitlines()) == 1


# --- ranking ---------------------------------------------------------------------------------------------------------


def test_heads_are_ranked_by_score_and_ties_by_place():
    assert make().ranked() == [(0, 1), (1, 1), (1, 0), (0, 2), (0, 0), (1, 2)]
    assert make([[0, 0], [0, 0]]).ranked() == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_top_takes_the_best():
    assert make().top(3) == [(0, 1), (1, 1), (1, 0)]
    assert make().top(6) == make().ranked()


def test_top_takes_shallow_heads_first_where_depth_is_limited():
    # make(): best first (0, 1), (1, 1), (1, 0)
    assert make().top(3, max_depth=0.5) == [head for head in make().ranked() if head[0] == 0]
    assert make().top(4, max_depth=0.5)[3] == (1, 1), "then the others"
    assert make().top(3, max_depth=0.51) == make().top(3)


@pytest.mark.parametrize("k", [0, -1, 7])
def test_top_of_an_impossible_number(k):
    fails(make().top, k, match=f"cannot take {k} heads of 6")


def test_above_includes_the_threshold():
    assert make().above(0.5) == [(0, 1), (1, 1), (1, 0)]
    assert make().above(0.91) == []
    assert len(make().above(-1)) == 6


def test_shape():
    assert (make().num_layers, make().num_heads) == (2, 3)


@pytest.mark.parametrize(
    ("scores", "gini"),
    [
        ([[0.5, 0.5], [0.5, 0.5]], 0.0),
        ([[0, 0, 0], [0, 1, 0]], 5 / 6),
        ([[0, 0], [-3, 1]], 3 / 4),
        ([[1, 2], [3, 4]], 0.25),
        ([[0, 0]], 0.0),
        ([[-1, -2]], 0.0),
        ([[7]], 0.0),
    ],
)
def test_gini(scores, gini):
    assert make(scores).gini == pytest.approx(gini)


# --- the random control ----------------------------------------------------------------------------------------------

WIDE = [[layer * 0.1 + head * 0.007 for head in range(8)] for layer in range(4)]


@pytest.mark.parametrize("same_layers", [False, True])
def test_the_random_control_deals_the_same_scores_to_other_heads(same_layers):
    original = make(WIDE)
    control = original.random_like(3, same_layers=same_layers)
    assert Counter(s for row in control.scores for s in row) == Counter(s for row in WIDE for s in row)
    assert control.scores != WIDE
    assert (control.num_layers, control.num_heads) == (4, 8)
    assert control.method == "random(copying)"
    assert control.seed == 3
    assert len(control.above(0.2)) == len(original.above(0.2))
    assert control.gini == pytest.approx(original.gini)
    assert original.scores == [[layer * 0.1 + head * 0.007 for head in range(8)] for layer in range(4)]


def test_the_random_control_is_seeded():
    assert make(WIDE).random_like(3) == make(WIDE).random_like(3)
    assert make(WIDE).random_like(3).scores != make(WIDE).random_like(4).scores


def test_the_random_control_may_keep_the_layers():
    rows = make(WIDE).random_like(3, same_layers=True).scores
    assert [sorted(row) for row in rows] == [sorted(row) for row in WIDE]
    rows = make(WIDE).random_like(3).scores
    assert [sorted(row) for row in rows] != [sorted(row) for row in WIDE]


# --- checks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scores", [[], [[]], [[1.0], [1.0, 2.0]], [[math.nan]], [[math.inf, 1]], [["x"]], [[None]]])
def test_scores_that_are_none(scores):
    fails(make, scores, match="detect the heads again")


@pytest.mark.parametrize(
    ("model_id", "revision"), [("org/tiny", "new"), ("other/TINY", ""), ("renamed", "abc"), ("org/tiny", "")]
)
def test_a_set_fits_a_model_with_its_name_or_revision(model_id, revision):
    make().check(2, 3, model_id, revision)


@pytest.mark.parametrize(("model_id", "revision"), [("other", ""), ("other", "xyz"), ("org", "")])
def test_a_set_does_not_fit_another_model(model_id, revision):
    fails(make().check, 2, 3, model_id, revision, match=f"'org/tiny', not in '{model_id}'; run: faithgen heads detect")


def test_two_unknown_revisions_are_not_the_same():
    fails(make(revision="").check, 2, 3, "other", "", match="not in 'other'")


@pytest.mark.parametrize("shape", [(3, 3), (2, 4)])
def test_a_set_does_not_fit_another_shape(shape):
    fails(make().check, *shape, "org/tiny", match="out of range")


def test_a_descendant_may_adopt_a_set():
    adopted = make(settings={"min_rouge": 0.5}).adopted_by("me/tiny-tuned", "def")
    adopted.check(2, 3, "me/tiny-tuned", "anything")
    fails(adopted.check, 2, 3, "org/tiny", match="not in 'org/tiny'")
    assert adopted.settings == {"min_rouge": 0.5, "inherited_from": "org/tiny@abc"}
    assert adopted.scores == SCORES


def test_heads_out_of_range_are_named():
    check_range([(0, 0), (1, 2)], 2, 3)
    for head in ((2, 0), (0, 3), (-1, 0), (0, -1)):
        fails(check_range, [(0, 0), head], 2, 3, match=f"head {head[0]}-{head[1]} is out of range")


def test_by_layer_sorts_and_drops_duplicates():
    assert list(by_layer([(3, 1), (0, 2), (3, 0), (0, 2)]).items()) == [(0, [2]), (3, [0, 1])]


# --- files -----------------------------------------------------------------------------------------------------------

RECTANGLES = st.integers(1, 5).flatmap(
    lambda width: st.lists(
        st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=width, max_size=width),
        min_size=1,
        max_size=4,
    )
)


@given(RECTANGLES)
def test_what_is_saved_is_loaded(tmp_path_factory, scores):
    path = tmp_path_factory.getbasetemp() / "round_trip.json"
    make(scores).save(path)
    assert HeadSet.load(path) == make(scores)


def test_a_file_keeps_the_provenance(tmp_path):
    whole = make(
        threshold=0.1,
        data="ünï.jsonl",
        seed=7,
        used=20,
        dropped={"no gold document": 2},
        settings={"max_new_tokens": 9},
        versions={"torch": "2"},
    )
    whole.save(tmp_path / "heads.json")
    assert HeadSet.load(tmp_path / "heads.json") == whole
    data = json.loads((tmp_path / "heads.json").read_text(encoding="utf-8"))
    assert data["gini"] == round(whole.gini, 4)
    assert data["format"] == "faithgen-head-set-1"


def test_saving_replaces_the_file_and_leaves_no_other(tmp_path):
    path = tmp_path / "heads.json"
    path.write_text("old")
    make().save(path)
    make([[1.0]]).save(path)
    assert [file.name for file in tmp_path.iterdir()] == ["heads.json"]
    assert HeadSet.load(path).scores == [[1.0]]


def test_saving_where_nothing_can_be_written(tmp_path):
    fails(make().save, tmp_path / "missing" / "heads.json", match="cannot write .*choose another --output")
    (tmp_path / "file").write_text("")
    fails(make().save, tmp_path / "file" / "heads.json", match="cannot write")
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_saving_over_a_folder_leaves_nothing_behind(tmp_path):
    (tmp_path / "heads.json").mkdir()
    fails(make().save, tmp_path / "heads.json", match="cannot write")
    assert [file.name for file in tmp_path.iterdir()] == ["heads.json"]


def test_a_failed_save_keeps_the_old_file(tmp_path):
    path = tmp_path / "heads.json"
    make().save(path)
    with pytest.raises(TypeError):
        make(settings={"x": object()}).save(path)
    assert HeadSet.load(path) == make()
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        ("{", "not valid JSON"),
        (b"\xff\xfe\x00", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[]", "not a faithgen head set"),
        ('{"scores": [[1]]}', "not a faithgen head set"),
        ('{"format": "faithgen-head-set-1", "method": "copying", "model_id": "x"}', "is damaged"),
        ('{"format": "faithgen-head-set-1", "method": "copying", "model_id": "x", "scores": 3}', "is damaged"),
        ('{"format": "faithgen-head-set-1", "method": "x", "model_id": "x", "scores": [[1]], "zzz": 1}', "is damaged"),
        (
            '{"format": "faithgen-head-set-1", "method": "x", "model_id": "x", "scores": [[NaN]]}',
            "not a finite number",
        ),
        ('{"format": "faithgen-head-set-1", "method": "x", "model_id": "x", "scores": [[1],[2,3]]}', "each layer"),
        ('{"format": "faithgen-head-set-1", "method": "x", "model_id": "x", "scores": [[1' + "0" * 400 + "]]}", "dam"),
    ],
    ids=str,
)
def test_a_file_that_is_no_head_set(tmp_path, content, message):
    path = tmp_path / "heads.json"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    fails(HeadSet.load, path, match=message)


# --- shipped ---------------------------------------------------------------------------------------------------------


def test_every_shipped_set_loads_and_is_named_after_its_method():
    for path in packaged_head_sets():
        assert HeadSet.load(path).method == path.stem


def test_a_shipped_set_is_found_by_id_or_revision(tmp_path, monkeypatch):
    monkeypatch.setattr("faithgen.heads.head_set._PACKAGED", tmp_path)
    (tmp_path / "tiny").mkdir()
    make().save(tmp_path / "tiny" / "copying.json")
    assert packaged_head_set("copying", "org/tiny", "") == make()
    assert packaged_head_set("copying", "renamed", "abc") == make()
    assert packaged_head_set("copying", "renamed", "") is None
    assert packaged_head_set("query_focused", "org/tiny", "abc") is None
