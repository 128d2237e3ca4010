import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faithgen.errors import FaithgenError
from faithgen.evaluation.datasets import load_dataset
from faithgen.evaluation.plan import EvalSettings, make_plan

NEEDLES = [
    {"question": "Where is the key?", "needle": "The key lies under the mat.", "real_needle": "under the mat"},
    {"question": "Who feeds the cat?", "needle": "Old Tom feeds the cat.", "real_needle": "Old Tom"},
]


def essay(seed, sentences):
    draw = random.Random(seed)
    words = ["time", "work", "people", "idea", "start", "company", "write", "think", "money", "good", "make", "year"]
    return " ".join(
        " ".join(draw.choice(words) for _ in range(draw.randint(4, 14))).capitalize() + "." for _ in range(sentences)
    )


@pytest.fixture
def root(write):
    write("niah_paulgraham/essays.jsonl", [{"name": f"e{n}", "text": essay(n, 90)} for n in range(4)])
    return write("niah_paulgraham/needles.jsonl", NEEDLES)


def joined(example):
    return " ".join(document.text for document in example.documents)


def needle(example):
    return example.meta["needle"]


def test_every_needle_at_every_depth_and_length(root):
    loaded = load_dataset("niah", root, lengths=(200, 600), depths=(0, 50, 100), samples=2)
    cells = {(needle(e), e.meta["length"], e.meta["depth"]) for e in loaded}
    assert len(cells) == 2 * 2 * 3
    assert len(loaded) == 2 * 2 * 3 * 2
    for example in loaded:
        (gold,) = example.gold
        assert needle(example) in example.documents[gold].text
        assert example.answers[0] in example.documents[gold].text
        assert joined(example).count(needle(example)) == 1


def test_lengths_in_words_are_met(root):
    for example in load_dataset("niah", root, lengths=(100, 357, 900), depths=(30,)):
        assert len(joined(example).split()) == example.meta["length"] == example.meta["length_reached"]
        assert example.meta["unit"] == "words"


def test_lengths_in_tokens_are_met(root, byte_level):
    for example in load_dataset("niah", root, lengths=(500, 1500), depths=(0, 60), tokenizer=byte_level):
        tokens = len(byte_level.encode(joined(example), add_special_tokens=False))
        assert example.meta["length_reached"] == tokens
        # a word that does not fit is left out, so a little may be missing; never more than was asked for
        assert example.meta["length"] - 12 <= tokens <= example.meta["length"] + 2
        assert example.meta["unit"] == "tokens"


@pytest.mark.parametrize("tokens", [False, True])
def test_depths_are_met_to_half_a_sentence(root, byte_level, tokens):
    tokenizer = byte_level if tokens else None
    length = 4000 if tokens else 800
    for example in load_dataset(
        "niah", root, lengths=(length,), depths=(0, 10, 33.3, 50, 75, 100), tokenizer=tokenizer
    ):
        before = joined(example).split(needle(example))[0]
        haystack = joined(example).replace(needle(example), "")

        def count(text):
            return len(byte_level.encode(text, add_special_tokens=False)) if tokens else len(text.split())

        reached = 100 * count(before.strip()) / count(haystack)
        assert reached == pytest.approx(example.meta["depth_reached"], abs=0.2)
        half_a_sentence = 100 * 8 * (8 if tokens else 1) / length
        assert reached == pytest.approx(example.meta["depth"], abs=half_a_sentence)
        assert not before or before.rstrip().endswith(".") or example.meta["depth"] == 100, "between two sentences"


def test_cells_of_a_needle_share_their_haystack(root):
    loaded = load_dataset("niah", root, lengths=(300, 600), depths=(0, 50, 100), passage_words=None)
    for one in NEEDLES:
        hay = {
            e.meta["length"]: joined(e).replace(needle(e), "").split() for e in loaded if needle(e) == one["needle"]
        }
        for example in loaded:
            if needle(example) == one["needle"]:
                assert joined(example).replace(needle(example), "").split() == hay[example.meta["length"]]
        assert hay[600][: len(hay[300])] == hay[300]
    assert all(len(example.documents) == 1 and example.documents[0].gold for example in loaded)


def test_passages_have_their_size(root):
    for example in load_dataset("niah", root, lengths=(700,), depths=(40,), passage_words=50):
        sizes = [len(document.text.split()) for document in example.documents]
        assert min(sizes[:-1]) >= 50
        assert max(sizes) < 50 + 15


def test_the_seed_draws_the_haystacks(root):
    options = {"lengths": (300,), "depths": (0, 50)}
    first = load_dataset("niah", root, **options)
    assert load_dataset("niah", root, **options) == first
    assert load_dataset("niah", root, limit=3, **options).examples == first.examples[:3]
    assert {joined(e) for e in load_dataset("niah", root, seed=5, **options)} != {joined(e) for e in first}


@settings(max_examples=40, deadline=None)
@given(length=st.integers(10, 400), depth=st.floats(0, 100), words=st.none() | st.integers(1, 200))
def test_nothing_of_the_needle_is_lost_whatever_is_asked(tmp_path_factory, length, depth, words):
    folder = tmp_path_factory.getbasetemp()
    (folder / "essays.jsonl").write_text(json.dumps({"text": essay(1, 90)}))
    (folder / "needles.jsonl").write_text(json.dumps(NEEDLES[0]))
    (example,) = load_dataset("niah", folder, lengths=(length,), depths=(depth,), passage_words=words)
    assert len(joined(example).split()) == length
    assert needle(example) in example.documents[example.gold[0]].text
    assert 0 <= example.meta["depth_reached"] <= 100


def test_the_tokenizer_of_a_model_by_name_or_folder(root, byte_level, tiny_folder, tmp_path, monkeypatch):
    options = {"lengths": (500,), "depths": (0, 60)}
    wanted = load_dataset("niah", root, tokenizer=byte_level, **options)
    byte_level.save_pretrained(tmp_path / "alone")
    for path in (tmp_path / "alone").iterdir():
        if path.name != "tokenizer.json":
            path.unlink()
    for folder in (tiny_folder, str(tiny_folder), str(tmp_path / "alone")):
        assert load_dataset("niah", root, tokenizer=folder, **options) == wanted
    spec = f"niah:lengths=[500],depths=[0,60],tokenizer={tiny_folder}"  # as on the command line
    (planned,) = make_plan(EvalSettings((spec,), data=str(root))).sets
    assert planned.examples == wanted.examples
    asked = []
    monkeypatch.setattr("faithgen.models.locate", lambda name: asked.append(name) or (str(tiny_folder), "tiny", "0"))
    assert load_dataset("niah", root, tokenizer="default", **options) == wanted
    assert asked == ["default"]


def test_needles_that_cannot_be_used_are_counted(write):
    write("essays.jsonl", [{"text": essay(0, 60) + " The key lies  under\nthe mat."}])
    rows = [
        *NEEDLES,
        {"question": "q", "needle": " ", "real_needle": "x"},
        {"question": "q", "needle": "N", "answer": ""},
    ]
    loaded = load_dataset("niah", write("needles.jsonl", rows), lengths=(100,), depths=(50,))
    assert len(loaded) == 1
    assert loaded.dropped == {"the needle is in the essays already": 1, "no needle": 1, "no answer": 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lengths": ()}, r"lengths is \(\)"),
        ({"lengths": (0,)}, "lengths is"),
        ({"lengths": (5,)}, "the length 5 is shorter than a needle"),
        ({"lengths": (100_000,)}, r"the essays hold \d+ words, fewer than the length 100000"),
        ({"depths": (101,)}, "depths is"),
        ({"depths": (float("nan"),)}, "depths is"),
        ({"passage_words": 0}, "passage_words is 0"),
        ({"samples": 0}, "samples is 0"),
        ({"tokenizer": [1]}, r"tokenizer is \[1\]; give default, a folder with tokenizer\.json, or a hub id"),
        ({"tokenizer": 5}, "tokenizer is 5; give"),
        ({"tokenizer": " "}, "tokenizer is ' '; give"),
        ({"tokenizer": "no-such-model"}, r"the tokenizer of 'no-such-model' could not be loaded \(.*\); give default"),
        ({"tokenizer": "/no/such/folder"}, "'/no/such/folder' does not exist"),
    ],
)
def test_wrong_options(root, options, message):
    with pytest.raises(FaithgenError, match=message):
        load_dataset("niah", root, **options)
