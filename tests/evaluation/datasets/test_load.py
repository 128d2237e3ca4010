import inspect
import json

import pytest

from faithgen.errors import FaithgenError, MissingExtraError
from faithgen.evaluation.datasets import DATASETS, SUITES, Example, load_dataset
from faithgen.evaluation.datasets.hub import HubName


def rows(count=8):
    return [
        {
            "id": f"r{i}",
            "question": f"q{i}",
            "documents": [{"text": f"t{i}", "gold": True}, f"u{i}"],
            "answers": [f"a{i}"],
        }
        for i in range(count)
    ]


def ids(loaded):
    return [example.id for example in loaded]


# --- the registry -----------------------------------------------------------------------------------------------------


def test_suites_name_known_sets():
    assert set(SUITES) == {"groundbench", "multidoc", "conflict", "niah", "rerank"}
    assert {name for names in SUITES.values() for name in names} <= set(DATASETS)


@pytest.mark.parametrize("name", DATASETS)
def test_no_set_serves_training_rows_by_default(name):
    dataset = DATASETS[name]
    assert dataset.default_split != "train"
    for split, files in dataset.files.items():
        assert "rows" in files
        if split != "train":
            assert not any("train" in path for path in files.values())


@pytest.mark.parametrize("name", DATASETS)
def test_every_option_is_documented(name):
    dataset = DATASETS[name]
    options = [p.name for p in inspect.signature(dataset.build).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for option in options:
        assert option in dataset.build.__doc__


# --- sources ----------------------------------------------------------------------------------------------------------


def test_a_file_a_folder_and_the_environment_give_the_same(write, monkeypatch):
    root = write("mine/data.jsonl", rows())
    monkeypatch.delenv("FAITHGEN_SHARED_DATA", raising=False)
    by_name = load_dataset(str(root / "mine/data.jsonl"))
    assert by_name == load_dataset("jsonl", root / "mine/data.jsonl")
    assert ids(by_name) == ids(load_dataset("jsonl", root / "mine"))
    monkeypatch.setenv("FAITHGEN_SHARED_DATA", str(root / "mine"))
    assert ids(load_dataset("jsonl")) == ids(by_name)


def test_a_set_is_found_in_the_folder_of_sets_and_in_its_own(write):
    row = {"id": "1", "question": "q", "answer": "ans", "paragraphs": [paragraph("g", True), paragraph("d", False)]}
    root = write("hotpotqa/dev.jsonl", [row])
    loaded = [load_dataset("hotpotqa", root), load_dataset("hotpotqa", root / "hotpotqa")]
    loaded.append(load_dataset("hotpotqa", root / "hotpotqa/dev.jsonl"))
    assert [one.split for one in loaded] == ["dev"] * 3
    assert loaded[0].examples == loaded[1].examples == loaded[2].examples


def paragraph(text, supporting):
    return {"title": text.upper(), "text": text, "is_supporting": supporting}


def test_training_rows_are_served_only_when_asked_for(write):
    row = {"id": "1", "question": "q", "answer": "ans", "paragraphs": [paragraph("g", True), paragraph("d", False)]}
    write("hotpotqa/dev.jsonl", [row | {"id": "dev", "split": "dev"}])
    root = write("hotpotqa/train.jsonl", [row | {"id": "train", "split": "train"}])
    assert ids(load_dataset("hotpotqa", root)) == ["dev"]
    loaded = load_dataset("hotpotqa", root, split="train")
    assert (ids(loaded), loaded.split) == (["train"], "train")
    with pytest.raises(FaithgenError, match=r"train\.jsonl, line 1 is a training row of hotpotqa"):
        load_dataset("hotpotqa", root / "hotpotqa/train.jsonl")
    assert ids(load_dataset("hotpotqa", root / "hotpotqa/train.jsonl", split="train")) == ["train"]


# --- order ------------------------------------------------------------------------------------------------------------


def test_a_limit_takes_the_first_of_the_same_order(write):
    root = write("data.jsonl", rows(30))
    whole = load_dataset("jsonl", root)
    assert ids(load_dataset("jsonl", root, limit=7)) == ids(whole)[:7]
    assert ids(load_dataset("jsonl", root)) == ids(whole)
    assert ids(load_dataset("jsonl", root, seed=1)) != ids(whole)
    assert sorted(ids(load_dataset("jsonl", root, seed=1))) == sorted(ids(whole))
    assert len(load_dataset("jsonl", root, limit=1000)) == 30


# --- rows of one's own ------------------------------------------------------------------------------------------------


def test_own_rows_keep_what_they_say(write):
    row = {
        "id": "x",
        "question": "q",
        "documents": [{"id": "d", "title": "T", "text": "t", "gold": False}],
        "answers": ["a", "b"],
        "long_answer": "Long.",
        "meta": {"memory_answers": ["c"]},
    }
    (example,) = load_dataset("jsonl", write("data.jsonl", [row]))
    assert example.to_dict() == row
    assert isinstance(example, Example)


def test_own_rows_without_documents_or_question_are_counted(write):
    bad = [{"question": "q", "documents": []}, {"question": " ", "documents": ["x"]}]
    loaded = load_dataset("jsonl", write("data.jsonl", [*rows(2), *bad]))
    assert len(loaded) == 2
    assert loaded.dropped == {"no documents": 1, "no question": 1}


def test_own_rows_with_one_id_are_refused(write):
    root = write("data.jsonl", [*rows(3), {"id": "r1", "question": "q", "documents": ["x"]}])
    with pytest.raises(FaithgenError, match=r"line \d has the id 'r1', which .* line \d has too"):
        load_dataset("jsonl", root)


# --- the hub, with the real library on local files -----------------------------------------------------------------------


def test_hub_rows_are_those_of_a_file(write, hub_cache):
    write("set/train.jsonl", [row | {"id": f"t{i}"} for i, row in enumerate(rows(2))])
    root = write("set/validation.jsonl", rows(6))
    local = load_dataset(str(root / "set/validation.jsonl"))
    from_hub = load_dataset(f"hub:{root / 'set'}")
    assert from_hub.split == "validation"
    assert from_hub.examples == local.examples
    assert load_dataset("jsonl", f"hub:{root / 'set'}:validation").examples == local.examples
    assert load_dataset("jsonl", f"hub:{root / 'set'}:default:validation").examples == local.examples
    assert len(load_dataset("jsonl", f"hub:{root / 'set'}::train")) == 2


def test_hub_never_falls_back_on_training_rows(write, hub_cache):
    root = write("set/train.jsonl", rows(2))
    with pytest.raises(
        FaithgenError, match=r"has no split test or dev or validation; name one of its splits \(train\)"
    ):
        load_dataset("jsonl", f"hub:{root / 'set'}")


def test_hub_rows_without_a_field_name_the_row(write, hub_cache):
    root = write("set/test.jsonl", [{"question": "q", "context": "c"}])
    with pytest.raises(FaithgenError, match=r"\(test\), row 1 has no field 'documents'"):
        load_dataset("jsonl", f"hub:{root / 'set'}")


def test_hub_names_that_are_not_there(hub_cache, monkeypatch, tmp_path):
    for name in (f"hub:{tmp_path}/nothing", "hub:org/no-such-set"):
        with pytest.raises(FaithgenError, match=r"cannot read hub:.*; check the name"):
            load_dataset("jsonl", name)


def test_hub_sets_made_by_a_script_point_to_their_parquet_copy(hub_cache, monkeypatch):
    def refuse(*args, **kwargs):
        raise RuntimeError("Dataset scripts are no longer supported, but found hagrid.py")

    monkeypatch.setattr(hub_cache, "get_dataset_split_names", refuse)
    with pytest.raises(FaithgenError, match=r"try its Parquet copy: hub:miracl/hagrid@refs/convert/parquet"):
        load_dataset("hagrid", "hub:miracl/hagrid")


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"reading hub:org/x needs .*faithgen\[eval\]"):
        load_dataset("jsonl", "hub:org/x")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("hub:org/x", ("org/x", None, None, None)),
        ("hub:org/x:dev", ("org/x", None, None, "dev")),
        ("hub:org/x:distractor", ("org/x", None, "distractor", None)),
        ("hub:org/x::part1", ("org/x", None, None, "part1")),
        ("hub:org/x:distractor:validation", ("org/x", None, "distractor", "validation")),
        ("hub:org/x@refs/convert/parquet:dev", ("org/x", "refs/convert/parquet", None, "dev")),
    ],
)
def test_hub_names_in_parts(text, parts):
    name = HubName.parse(text)
    assert (name.path, name.revision, name.config, name.split) == parts
    assert HubName.parse(str(name)) == name


# --- what a user gets wrong -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "nq_hrad"}, r"'nq_hrad' is not known; give one of eli5_webgpt, .*nq_hard.*"),
        ({"name": "jsonl", "split": "train"}, "jsonl has no split 'train'; give 'test'"),
        ({"name": "hotpotqa", "split": "test"}, "hotpotqa has no split 'test'; give 'dev' or 'train'"),
        ({"name": "jsonl", "limit": 0}, "limit is 0"),
        ({"name": "jsonl", "limit": True}, "limit is True"),
        ({"name": "jsonl", "seed": "a"}, "seed is 'a'"),
        ({"name": "jsonl", "passages": 3}, "jsonl has no option 'passages'; it has none"),
        ({"name": "nq_hard", "passage": 3}, "has no option 'passage'; it has passages, gold_position"),
        ({"name": "nq_hard", "tables": {}}, "has no option 'tables'"),
        ({"name": "rgb", "altered": "False"}, "the option altered of rgb is 'False'; give true or false"),
        ({"name": "rgb", "altered": 0}, "the option altered of rgb is 0; give true or false"),
        ({"name": "nq_swap", "keep_tags": None}, "the option keep_tags of nq_swap is None; give true or false"),
        ({"name": "jsonl", "source": "hub:"}, "cannot read 'hub:'; write hub:org/name"),
        ({"name": "jsonl", "source": "hub:a:b:c:d"}, "cannot read 'hub:a:b:c:d'; write hub:org/name"),
        ({"name": "niah", "source": "hub:a/b"}, "niah is made from several tables"),
        ({"name": "scifact", "source": "hub:BeIR/scifact:queries"}, "give the name alone"),
        ({"name": "x.jsonl", "source": "y.jsonl"}, "give one of the two"),
        ({"name": "jsonl", "source": "no/such/place"}, "'no/such/place' does not exist"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(FaithgenError, match=message):
        load_dataset(**arguments)


def test_without_a_source_the_user_is_told_how_to_give_one(monkeypatch):
    monkeypatch.delenv("FAITHGEN_SHARED_DATA", raising=False)
    with pytest.raises(FaithgenError, match=r"no data for nq_hard: give .*--data.* FAITHGEN_SHARED_DATA"):
        load_dataset("nq_hard")


def test_a_folder_without_the_set_names_the_file(tmp_path):
    with pytest.raises(FaithgenError, match=r"has no nq_swap/dev\.jsonl for nq_swap"):
        load_dataset("nq_swap", tmp_path)


def test_a_set_of_several_files_cannot_be_one_file(write):
    root = write("claims.jsonl", [{"id": "1", "claim": "c"}])
    with pytest.raises(
        FaithgenError, match=r"made from several files \(claims_validation\.jsonl, .*; give their folder"
    ):
        load_dataset("scifact", root / "claims.jsonl")


def test_a_set_with_no_row_left_says_why(write):
    root = write("data.jsonl", [{"question": "q", "documents": []}] * 3)
    with pytest.raises(FaithgenError, match=r"jsonl has no usable row in .*: no documents \(3\)"):
        load_dataset("jsonl", root)
    with pytest.raises(FaithgenError, match="it is empty"):
        load_dataset("jsonl", write("empty/data.jsonl", []) / "empty")


def test_a_source_that_cannot_be_read_is_named(write):
    root = write("data.jsonl", rows(1))
    (root / "data.jsonl").write_bytes(json.dumps(rows(1)[0]).encode("utf-16"))
    with pytest.raises(FaithgenError, match=r"cannot read .*data\.jsonl \(not UTF-8\)"):
        load_dataset("jsonl", root)


@pytest.mark.parametrize(
    "name", [name for name, dataset in DATASETS.items() if len(dataset.files[dataset.default_split]) == 1]
)
def test_a_row_without_its_fields_is_named_by_file_and_line(write, name):
    dataset = DATASETS[name]
    path = dataset.files[dataset.default_split]["rows"]
    root = write(path, [{"unrelated": 1}])
    with pytest.raises(FaithgenError, match=r"\.jsonl, line 1 has no field '\w+' \(it has unrelated\)"):
        load_dataset(name, root)
