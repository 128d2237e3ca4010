from dataclasses import replace

import pytest

import faithgen.detection
from faithgen import FaithfulGenerator
from faithgen.errors import DetectionError, FaithgenError
from faithgen.heads.head_set import HeadSet
from faithgen.heads.resolve import cached_path, resolve_heads
from faithgen.models import LoadedModel
from tests import tiny

SCORES = [[(layer * 8 + head) / 32 for head in range(8)] for layer in range(4)]


def make(method="query_focused", model_id="tiny", **changes) -> HeadSet:
    return HeadSet(**{"scores": SCORES, "method": method, "model_id": model_id, "revision": "0", **changes})


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FAITHGEN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def detected(monkeypatch):
    """Methods detected so far; the detection itself is a stand-in."""
    calls = []

    def detect(loaded, method, *, progress=None):
        calls.append(method)
        if progress is not None:
            progress(1, 2)
        return make(method, loaded.model_id, revision=loaded.revision, data="stand-in")

    monkeypatch.setattr(faithgen.detection, "detect_heads", detect)
    return calls


def test_given_sets_take_the_place_of_their_method(tiny_loaded, detected, tmp_path):
    scoring, copying = make("query_focused", used=1), make("copying", used=2)
    copying.save(tmp_path / "copying.json")
    for given in ([scoring, tmp_path / "copying.json"], [str(tmp_path / "copying.json"), scoring]):
        assert resolve_heads(tiny_loaded, given) == (scoring, copying)
    assert detected == []


def test_what_is_not_given_is_detected(tiny_loaded, detected):
    scoring = make(used=5)
    found = resolve_heads(tiny_loaded, [scoring, "auto"])
    assert found[0] == scoring
    assert (found[1].method, found[1].data) == ("copying", "stand-in")
    assert detected == ["copying"]


def test_a_random_control_stands_for_its_method(tiny_loaded, detected):
    control = make("copying").random_like(1)
    scoring, copying = resolve_heads(tiny_loaded, control)
    assert copying == control
    assert scoring.method == "query_focused"
    assert detected == ["query_focused"]


def test_a_set_of_another_method_serves_for_both(tiny_loaded, detected):
    heads = make("made by hand")
    assert resolve_heads(tiny_loaded, heads) == (heads, heads)
    assert detected == []


def test_detected_sets_are_cached_and_not_detected_again(tiny_loaded, detected, cache):
    reports = []
    first = resolve_heads(tiny_loaded, progress=lambda *report: reports.append(report))
    assert reports == [("query_focused", 1, 2), ("copying", 1, 2)]
    assert detected == ["query_focused", "copying"]
    folder = cache / "heads" / "tiny--0"
    assert sorted(path.name for path in folder.iterdir()) == ["copying.json", "query_focused.json"]
    assert resolve_heads(tiny_loaded) == first
    assert len(detected) == 2


def test_another_revision_is_detected_anew(tiny_loaded, detected):
    resolve_heads(tiny_loaded)
    other = replace(tiny_loaded, revision="1")
    assert cached_path(other, "copying") != cached_path(tiny_loaded, "copying")
    assert resolve_heads(other)[0].revision == "1"
    assert len(detected) == 4


def test_ids_of_the_hub_make_one_folder_each(tiny_loaded, cache):
    for model_id in ("org/model", "../../outside", "C:\\x"):
        path = cached_path(replace(tiny_loaded, model_id=model_id), "copying")
        assert path.resolve().parent.parent == (cache / "heads").resolve()


def test_shipped_sets_come_before_the_cache(tiny_loaded, detected, tmp_path, monkeypatch):
    monkeypatch.setattr("faithgen.heads.head_set._PACKAGED", tmp_path / "packaged")
    (tmp_path / "packaged" / "tiny").mkdir(parents=True)
    make("copying", data="shipped").save(tmp_path / "packaged" / "tiny" / "copying.json")
    _, copying = resolve_heads(tiny_loaded)
    assert copying.data == "shipped"
    assert detected == ["query_focused"]


def test_a_model_that_shows_no_copying_uses_its_scoring_heads(tiny_loaded, monkeypatch):
    def detect(loaded, method, **_):
        calls.append(method)
        if method == "copying":
            raise DetectionError("no instance could be used")
        return make(method)

    calls = []
    monkeypatch.setattr(faithgen.detection, "detect_heads", detect)
    for _ in range(2):  # said each time, tried once
        with pytest.warns(UserWarning, match="answers none of the built-in questions"):
            scoring, copying = resolve_heads(tiny_loaded)
        assert copying == scoring
    assert calls == ["query_focused", "copying"]


def test_a_model_that_cannot_be_scored_is_an_error(tiny_loaded, monkeypatch):
    def detect(*_, **__):
        raise FaithgenError("no instance could be used")

    monkeypatch.setattr(faithgen.detection, "detect_heads", detect)
    with pytest.raises(FaithgenError, match="no instance"):
        resolve_heads(tiny_loaded)


@pytest.mark.filterwarnings("ignore:tiny answers none")
def test_the_real_detection_is_called_with_what_it_takes(byte_level, monkeypatch):
    """The built-in data, cut to one instance."""
    from faithgen.detection import instances

    loaded = LoadedModel(tiny.llama(max_position_embeddings=4096), byte_level, "tiny", "0")

    real = instances._lines
    monkeypatch.setattr(instances, "_lines", lambda source: list(real(source))[:1])
    monkeypatch.setattr(faithgen.detection, "MIN_INSTANCES", 1)
    scoring, copying = resolve_heads(loaded)
    assert (scoring.method, scoring.used, scoring.data) == ("query_focused", 1, "builtin")
    assert copying is scoring, "a random model answers nothing"
    assert cached_path(loaded, "query_focused").is_file()


def test_files_that_are_no_head_set(tiny_loaded, tmp_path, detected):
    with pytest.raises(FaithgenError, match="cannot read head set"):
        resolve_heads(tiny_loaded, tmp_path / "missing.json")
    path = cached_path(tiny_loaded, "query_focused")
    path.parent.mkdir(parents=True)
    path.write_text("{")
    with pytest.raises(FaithgenError, match="not valid JSON"):
        resolve_heads(tiny_loaded)


def test_a_cache_that_cannot_be_written(tiny_loaded, detected, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FAITHGEN_CACHE", str(tmp_path / "file"))
    with pytest.raises(FaithgenError, match="set FAITHGEN_CACHE to a folder that can be written"):
        resolve_heads(tiny_loaded)


@pytest.mark.parametrize(
    "heads", [make(model_id="other", revision="9"), [make(), make("copying", "other", revision="9")]]
)
def test_heads_of_another_model_are_refused(tiny_folder, heads, detected):
    given = heads if not isinstance(heads, list) else [heads[0].adopted_by(tiny_folder.name), heads[1]]
    with pytest.raises(FaithgenError, match="was detected in 'other', not in 'tiny'"):
        FaithfulGenerator.from_pretrained(tiny_folder, heads=given)


def test_heads_of_another_shape_are_refused(tiny_folder):
    with pytest.raises(FaithgenError, match="out of range for 'tiny'"):
        FaithfulGenerator.from_pretrained(tiny_folder, heads=make("x", scores=[[1.0, 2.0]]))


def test_a_generator_takes_heads_from_a_file(tiny_folder, tmp_path):
    make("any").save(tmp_path / "heads.json")
    generator = FaithfulGenerator.from_pretrained(tiny_folder, heads=tmp_path / "heads.json")
    assert generator.scoring_heads == generator.copying_heads == make("any")
