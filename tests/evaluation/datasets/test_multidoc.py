import pytest

from faithgen.errors import FaithgenError
from faithgen.evaluation.datasets import load_dataset

CITIES = ("Paris", "Rome", "Oslo", "Lima", "Cairo", "Delhi", "Quito", "Sofia", "Tunis", "Berne", "Seoul", "Minsk")


def nq(count=12, distractors=6):
    rows = []
    for i in range(count):
        gold = {"title": f"Land {i}", "text": f"The capital of land {i} is {CITIES[i]}.", "isgold": True, "bm25": None}
        others = [
            {"title": f"Near {i}.{k}", "text": f"Land {i} has hill {k}.", "isgold": False, "bm25": 9.0 - k}
            for k in range(distractors)
        ]
        rows.append(
            {"id": f"q{i}", "question": f"capital of land {i}", "answers": [CITIES[i]], "ctxs": [gold, *others]}
        )
    return rows


@pytest.fixture
def root(write):
    return write("nq_mdqa_bm25/mdqa20_600.jsonl", nq())


@pytest.mark.parametrize("name", ["nq_hard", "nq_random"])
@pytest.mark.parametrize("passages", [2, 4, 6])
def test_one_gold_passage_among_so_many(root, name, passages):
    loaded = load_dataset(name, root, passages=passages)
    assert len(loaded) == 12
    for example in loaded:
        assert len(example.documents) == passages
        (gold,) = example.gold
        assert example.meta["gold_position"] == gold
        assert example.answers[0] in example.documents[gold].text
        assert [document.id for document in example.documents] == [str(n + 1) for n in range(passages)]
        assert len({document.text for document in example.documents}) == passages
        assert not example.meta["answer_also_in"]
        for document in example.documents:
            assert document.gold or example.answers[0] not in document.text
    assert len({example.gold[0] for example in loaded}) > 1, "the place varies"


def test_hard_distractors_are_the_first_by_bm25(root):
    for example in load_dataset("nq_hard", root, passages=4):
        number = example.id.removeprefix("q")
        others = [document.title for document in example.documents if not document.gold]
        assert others == [f"Near {number}.{k}" for k in range(3)]


def test_random_distractors_are_the_gold_passages_of_others(root):
    for example in load_dataset("nq_random", root, passages=5):
        assert all(document.title.startswith("Land") for document in example.documents)


@pytest.mark.parametrize("name", ["nq_hard", "nq_random"])
def test_a_fixed_place_moves_the_gold_passage_and_nothing_else(root, name):
    def others(loaded):
        return [[(d.title, d.text) for d in example.documents if not d.gold] for example in loaded]

    free = load_dataset(name, root, passages=5)
    for place in range(5):
        fixed = load_dataset(name, root, passages=5, gold_position=place)
        assert {tuple(example.gold) for example in fixed} == {(place,)}
        assert others(fixed) == others(free)
        assert [example.id for example in fixed] == [example.id for example in free]


def test_the_seed_decides(root):
    first = load_dataset("nq_random", root, passages=5, seed=1)
    assert load_dataset("nq_random", root, passages=5, seed=1) == first
    assert load_dataset("nq_random", root, passages=5, seed=1, limit=4).examples == first.examples[:4]
    assert load_dataset("nq_random", root, passages=5, seed=2).examples != first.examples


def test_a_random_distractor_never_holds_the_answer(write):
    rows = nq()
    for row in rows[1:]:  # all but the first speak of its answer
        row["ctxs"][0]["text"] += " Not parisian, but like PARIS."
    root = write("nq_mdqa_bm25/mdqa20_600.jsonl", rows)
    loaded = load_dataset("nq_random", root, passages=3)
    assert "q0" not in [example.id for example in loaded]
    assert loaded.dropped == {"fewer than 3 passages": 1}


def test_a_hard_distractor_that_holds_the_answer_is_named(write):
    rows = nq()
    rows[0]["ctxs"][2]["text"] = "Paris, too, has a hill."
    root = write("nq_mdqa_bm25/mdqa20_600.jsonl", rows)
    example = next(e for e in load_dataset("nq_hard", root, passages=5, gold_position=0) if e.id == "q0")
    assert example.meta["answer_also_in"] == ["3"]


def test_rows_without_gold_answers_or_enough_passages_are_counted(write):
    rows = nq()
    rows[0]["ctxs"][0]["isgold"] = False
    rows[1]["answers"] = ["", "the"]
    rows[2]["ctxs"] = rows[2]["ctxs"][:3]
    root = write("nq_mdqa_bm25/mdqa20_600.jsonl", rows)
    loaded = load_dataset("nq_hard", root, passages=5)
    assert len(loaded) == 9
    assert loaded.dropped == {"no gold passage": 1, "no answer": 1, "fewer than 5 passages": 1}
    with pytest.raises(FaithgenError, match=r"nq_hard has no usable row in .*fewer than 30 passages \(10\)"):
        load_dataset("nq_hard", root, passages=30)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"passages": 1}, "passages is 1; give a whole number, 2 or more"),
        ({"passages": "20"}, "passages is '20'"),
        ({"passages": 5, "gold_position": 5}, "gold_position is 5; give a whole number from 0 to 4"),
        ({"passages": 5, "gold_position": -1}, "gold_position is -1"),
        ({"gold_position": True}, "gold_position is True"),
    ],
)
def test_wrong_options(root, options, message):
    with pytest.raises(FaithgenError, match=message):
        load_dataset("nq_hard", root, **options)


# --- multi-hop --------------------------------------------------------------------------------------------------------

HOTPOT = {
    "id": "h1",
    "question": "Who?",
    "answer": "Ann",
    "type": "bridge",
    "paragraphs": [
        {"title": "X", "sentences": ["Bob is tall.", " He sings."], "is_supporting": False},
        {"title": "Y", "sentences": ["Ann is here."], "is_supporting": True},
        {"title": "X", "sentences": ["Bob is tall.", " He sings."], "is_supporting": True},
        {"title": "Z", "sentences": ["Cyd."], "is_supporting": False},
    ],
}
HOTPOT_HUB = {
    "id": "h1",
    "question": "Who?",
    "answer": "Ann",
    "type": "bridge",
    "supporting_facts": {"title": ["Y", "Y"], "sent_id": [0, 3]},
    "context": {"title": ["X", "Y"], "sentences": [["Bob is tall.", " He sings."], ["Ann is here."]]},
}
MUSIQUE = {
    "id": "2hop__1_2",
    "question": "Where?",
    "answer": "Rome",
    "answer_aliases": ["Roma", "Rome"],
    "answerable": True,
    "paragraphs": [
        {"title": "A", "text": "Not here.", "is_supporting": False},
        {"title": "B", "text": "In Rome.", "is_supporting": True},
    ],
    "question_decomposition": [{"id": 1}, {"id": 2}],
}


def test_hotpotqa_repeated_paragraphs_are_one(write):
    loaded = load_dataset("hotpotqa", write("hotpotqa/dev.jsonl", [HOTPOT]))
    (example,) = loaded
    assert [(d.id, d.text, d.gold) for d in example.documents] == [
        ("1", "Bob is tall. He sings.", True),
        ("2", "Ann is here.", True),
        ("3", "Cyd.", False),
    ]
    assert loaded.changed == {"document that repeats another left out": 1}


@pytest.mark.parametrize("pairs", [False, True])
def test_hotpotqa_as_on_the_hub_and_as_its_authors_write_it(write, pairs):
    row = dict(HOTPOT_HUB)
    if pairs:
        row["_id"] = row.pop("id")
        row["supporting_facts"] = [["Y", 0], ["Y", 3]]
        row["context"] = [["X", ["Bob is tall.", " He sings."]], ["Y", ["Ann is here."]]]
    (example,) = load_dataset("hotpotqa", write("hotpotqa/dev.jsonl", [row]))
    assert example.id == "h1"
    assert [(d.title, d.text, d.gold) for d in example.documents] == [
        ("X", "Bob is tall. He sings.", False),
        ("Y", "Ann is here.", True),
    ]
    assert example.meta == {"type": "bridge"}


def test_hotpotqa_from_the_library(write, hub_cache):
    root = write("hub/validation.jsonl", [HOTPOT_HUB])
    local = load_dataset("hotpotqa", root / "hub/validation.jsonl")
    assert load_dataset("hotpotqa", f"hub:{root / 'hub'}").examples == local.examples


def test_a_broken_context_is_named(write):
    root = write("hotpotqa/dev.jsonl", [HOTPOT_HUB | {"context": {"title": ["X", "Y"], "sentences": [["a"]]}}])
    with pytest.raises(
        FaithgenError, match=r"dev\.jsonl, line 1: 'context' and 'supporting_facts' are not as HotpotQA"
    ):
        load_dataset("hotpotqa", root)


def test_musique_in_both_spellings(write):
    hub = MUSIQUE | {"id": "2hop__3_4"}
    hub["paragraphs"] = [
        {"idx": n, "title": p["title"], "paragraph_text": p["text"], "is_supporting": p["is_supporting"]}
        for n, p in enumerate(MUSIQUE["paragraphs"])
    ]
    first, second = load_dataset("musique", write("musique/dev.jsonl", [MUSIQUE, hub]))
    assert first.documents == second.documents
    assert first.answers == second.answers == ["Rome", "Roma"]
    assert (first.gold, first.meta["hops"]) == ([1], 2)


def test_multihop_rows_that_cannot_be_used_are_counted(write):
    only_gold = [p | {"is_supporting": True} for p in MUSIQUE["paragraphs"]]
    no_gold = [p | {"is_supporting": False} for p in MUSIQUE["paragraphs"]]
    rows = [
        MUSIQUE,
        MUSIQUE | {"id": "1", "answerable": False},
        MUSIQUE | {"id": "2", "answer": "", "answer_aliases": []},
        MUSIQUE | {"id": "3", "paragraphs": only_gold},
        MUSIQUE | {"id": "4", "paragraphs": no_gold},
        MUSIQUE,
    ]
    loaded = load_dataset("2wiki", write("2wikimultihopqa/dev.jsonl", rows))
    assert len(loaded) == 1
    assert loaded.dropped == {
        "not answerable": 1,
        "no answer": 1,
        "no distractors": 1,
        "no supporting paragraph": 1,
        "the id of another row": 1,
    }
