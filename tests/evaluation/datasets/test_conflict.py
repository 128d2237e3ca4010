import pytest

from faithgen.errors import FaithgenError
from faithgen.evaluation.datasets import load_dataset

# --- NQ-Swap ----------------------------------------------------------------------------------------------------------


def swap(number, substitute, question="who sang it", text=None, memory=("Ann Lee", "Lee")):
    return {
        "id": f"s{number}",
        "question": question,
        "org_context": "<P> It was sung by Ann Lee . </P>",
        "org_answer": list(memory),
        "sub_context": text or f"<P> It was sung by {substitute} . </P>",
        "sub_answer": [substitute],
    }


def nq_swap(write, *rows):
    return write("nq_swap/dev.jsonl", rows)


def test_nq_swap_answers_are_those_of_the_passage(write):
    (example,) = load_dataset("nq_swap", nq_swap(write, swap(1, "Bob Ray")))
    assert example.answers == ["Bob Ray"]
    assert example.meta == {"memory_answers": ["Ann Lee", "Lee"]}
    assert [(d.text, d.gold) for d in example.documents] == [("It was sung by Bob Ray .", True)]


def test_nq_swap_options(write):
    root = nq_swap(write, swap(1, "Bob Ray"))
    assert load_dataset("nq_swap", root, keep_tags=True)[0].documents[0].text == "<P> It was sung by Bob Ray . </P>"
    control = load_dataset("nq_swap", root, swapped=False)[0]
    assert control.documents[0].text == "It was sung by Ann Lee ."
    assert (control.answers, control.meta) == (["Ann Lee", "Lee"], {"memory_answers": []})


def test_nq_swap_serves_one_substitution_a_question(write):
    rows = [swap(i, name) for i, name in enumerate(["Bob", "Cyd", "Dan", "Eve"])] + [
        swap(9, "Fay", question="who won")
    ]
    root = nq_swap(write, *rows)
    loaded = load_dataset("nq_swap", root)
    assert sorted(example.question for example in loaded) == ["who sang it", "who won"]
    assert loaded.dropped == {"another substitution of the same question": 3}
    drawn = {load_dataset("nq_swap", root, seed=seed)[0].answers[0] for seed in range(12)}
    assert len(drawn) > 1, "the seed draws it"
    assert len(load_dataset("nq_swap", root, all_substitutions=True)) == 5


def test_nq_swap_rows_that_do_not_test_anything_are_counted(write):
    rows = [
        swap(1, "Bob", question="a?", text="Bob, not Ann Lee, sang."),
        swap(2, "Bob", question="b?", text="Bobby sang."),
        swap(3, "Ann Lee Ray", question="c?"),  # the remembered answer stands there only as part of the substitute
    ]
    loaded = load_dataset("nq_swap", nq_swap(write, *rows))
    assert [example.id for example in loaded] == ["s3"]
    assert loaded.dropped == {
        "the remembered answer is still in the documents": 1,
        "the answer is not in the passage": 1,
    }


# --- FaithEval --------------------------------------------------------------------------------------------------------

FAITHEVAL = {
    "id": "m1",
    "question": "What do plants breathe?",
    "answer": "rock",
    "answerKey": "B",
    "choices": ["air", "rock", "water"],
    "context": "New work shows that plants breathe rock.",
    "justification": "j",
    "num of options": 3,
}


@pytest.mark.parametrize("hub_shape", [False, True])
def test_faitheval_shows_its_options(write, hub_shape):
    choices = {"label": ["A", "B", "C"], "text": FAITHEVAL["choices"]} if hub_shape else FAITHEVAL["choices"]
    root = write("faitheval_counterfactual/counterfactual.jsonl", [FAITHEVAL | {"choices": choices}])
    (example,) = load_dataset("faitheval", root)
    assert example.question == "What do plants breathe?\nA. air\nB. rock\nC. water"
    assert example.answers == ["rock"]
    assert example.meta["wrong_answers"] == ["air", "water"]
    assert (example.meta["answer_index"], example.meta["answer_key"]) == (1, "B")
    assert load_dataset("faitheval", root, show_options=False)[0].question == "What do plants breathe?"


def test_faitheval_bad_rows(write):
    path = "faitheval_counterfactual/counterfactual.jsonl"
    rows = [FAITHEVAL, FAITHEVAL | {"id": "m2", "answer": "fire"}, FAITHEVAL | {"id": "m3", "context": ""}]
    loaded = load_dataset("faitheval", write(path, rows))
    assert len(loaded) == 1
    assert loaded.dropped == {"the answer is not among the options": 1, "no passage": 1}
    broken = FAITHEVAL | {"choices": {"label": ["A"], "text": ["air", "rock"]}}
    with pytest.raises(FaithgenError, match="line 1, choices has 1 labels for 2 texts"):
        load_dataset("faitheval", write(path, [broken]))


def test_faitheval_from_the_library(write, hub_cache):
    row = FAITHEVAL | {"choices": {"label": ["A", "B", "C"], "text": FAITHEVAL["choices"]}}
    root = write("hub/test.jsonl", [row])
    loaded = load_dataset("faitheval", f"hub:{root / 'hub'}")
    assert loaded.split == "test"
    assert loaded.examples == load_dataset("faitheval", root / "hub/test.jsonl").examples


# --- TriState ---------------------------------------------------------------------------------------------------------


def tristate(state, number, text, wrong=None, gold=("Jane Austen", "Austen")):
    return {
        "state": state,
        "fact_id": f"p{number}",
        "answer_type": "person",
        "question": "Who wrote Emma?",
        "context": text,
        "gold_answers": list(gold),
        "wrong_answer": wrong,
    }


TRISTATE = [
    tristate("C_right_P_right", 1, "Jane Austen wrote Emma."),
    tristate("C_right_P_wrong", 2, "Jane Austen wrote Emma."),
    tristate("C_wrong_P_right", 1, "Mary Shelley wrote Emma.", "Mary Shelley"),
    tristate("C_wrong_P_right", 3, "Mary Shelley, not Austen, wrote Emma.", "Mary Shelley"),
    tristate("C_wrong_P_right", 4, "Jane Austen wrote Emma.", "jane austen"),
    tristate("C_right_P_right", 5, "Nobody knows."),
]


def test_tristate_answers_are_what_the_passage_claims(write):
    loaded = load_dataset("tristate", write("tristate/llama3_8b_instruct.jsonl", TRISTATE))
    by_id = {example.id: example for example in loaded}
    assert sorted(by_id) == ["C_right_P_right-p1", "C_right_P_wrong-p2", "C_wrong_P_right-p1"]
    assert by_id["C_wrong_P_right-p1"].answers == ["Mary Shelley"]
    assert by_id["C_wrong_P_right-p1"].meta["memory_answers"] == ["Jane Austen", "Austen"]
    assert by_id["C_right_P_right-p1"].answers == ["Jane Austen", "Austen"]
    assert by_id["C_right_P_right-p1"].meta == {"memory_answers": [], "state": "C_right_P_right"}
    assert loaded.dropped == {
        "the remembered answer is still in the documents": 1,
        "the claimed answer is right": 1,
        "the answer is not in the passage": 1,
    }


def test_tristate_one_state(write):
    root = write("tristate/llama3_8b_instruct.jsonl", TRISTATE)
    assert {e.meta["state"] for e in load_dataset("tristate", root, state="C_wrong_P_right")} == {"C_wrong_P_right"}
    with pytest.raises(FaithgenError, match="state is 'wrong'; give one of C_right_P_right"):
        load_dataset("tristate", root, state="wrong")


# --- RAMDocs ----------------------------------------------------------------------------------------------------------


def test_ramdocs_kinds_and_answers(write):
    row = {
        "question": "Who is Jeff?",
        "documents": [
            {"text": "Jeff plays.", "type": "correct", "answer": "player"},
            {"text": "Jeff cooks.", "type": "misinfo", "answer": "cook"},
            {"text": "Weather.", "type": "noise", "answer": "unknown"},
        ],
        "disambig_entity": ["Jeff (player)", "Jeff (writer)"],
        "gold_answers": ["player", "writer"],
        "wrong_answers": ["cook", "cook", "Writer"],
    }
    no_right = row | {"documents": row["documents"][1:]}
    loaded = load_dataset("ramdocs", write("ramdocs/test.jsonl", [row, no_right]))
    (example,) = loaded
    assert example.id == "1"
    assert example.answers == ["player", "writer"]
    assert example.meta == {
        "wrong_answers": ["cook"],
        "unsupported_answers": ["writer"],
        "kinds": {"1": "correct", "2": "misinfo", "3": "noise"},
    }
    assert example.gold == [0]
    assert loaded.dropped == {"no document is right": 1}
    assert loaded.changed["wrong answer that is also a right one left out"] >= 1


# --- RGB --------------------------------------------------------------------------------------------------------------


def rgb(**changes):
    return {
        "id": 0,
        "query": "Where is the cup?",
        "answer": [["Rome", "Roma"]],
        "fakeanswer": "Oslo",
        "positive": ["The cup is in Rome.", "Rome has it.", "Rome again.", "A cup."],
        "positive_wrong": ["The cup is in Oslo.", "Oslo has it.", "Oslo, not Rome.", "A cup."],
        "negative": ["Rome is nice.", "Rain.", "Snow."],
        **changes,
    }


def texts(example):
    return {document.text: document.gold for document in example.documents}


def test_rgb_serves_the_altered_passages(write):
    loaded = load_dataset("rgb", write("rgb_en_fact/en_fact.jsonl", [rgb()]))
    (example,) = loaded
    assert texts(example) == {"The cup is in Oslo.": True, "Oslo has it.": True}
    assert example.answers == ["Oslo"]
    assert example.meta == {"memory_answers": ["Rome", "Roma"]}
    assert loaded.changed == {"passage without altered answer left out": 2}


def test_rgb_noise_and_control(write):
    root = write("rgb_en_fact/en_fact.jsonl", [rgb()])
    noisy = load_dataset("rgb", root, passages=4, noise_rate=0.5)[0]
    assert texts(noisy) == {"The cup is in Oslo.": True, "Oslo has it.": True, "Rain.": False, "Snow.": False}
    options = {"passages": 4, "noise_rate": 0.5}
    firsts = {load_dataset("rgb", root, seed=seed, **options)[0].documents[0].gold for seed in range(12)}
    assert firsts == {True, False}, "noise stands among the others"
    one = load_dataset("rgb", root, passages=1, noise_rate=0.9)[0]
    assert list(texts(one).values()) == [True]
    control = load_dataset("rgb", root, altered=False)[0]
    assert (control.answers, control.meta["memory_answers"]) == (["Rome", "Roma"], [])
    assert texts(control) == {
        "The cup is in Rome.": True,
        "Rome has it.": True,
        "Rome again.": True,
        "A cup.": False,
    }


@pytest.mark.parametrize("seed", range(6))
def test_rgb_has_the_answer_however_few_passages_are_drawn(write, seed):
    wrong = ["Oslo has it.", "One.", "Two.", "Three.", "Four."]
    root = write("rgb_en_fact/en_fact.jsonl", [rgb(positive_wrong=wrong, positive=["Rome has it."])])
    example = load_dataset("rgb", root, passages=2, seed=seed)[0]
    assert len(example.documents) == 2
    assert len(example.gold) == 1


def test_rgb_rows_and_options_that_cannot_be_used(write):
    rows = [rgb(), rgb(id=1, positive_wrong=["Rome has it.", "A cup."])]
    root = write("rgb_en_fact/en_fact.jsonl", rows)
    assert load_dataset("rgb", root).dropped == {"no passage with the answer": 1}
    for options, message in (
        ({"passages": 0}, "passages is 0"),
        ({"noise_rate": 1}, "noise_rate is 1; give a number from 0"),
        ({"noise_rate": float("nan")}, "noise_rate is nan"),
    ):
        with pytest.raises(FaithgenError, match=message):
            load_dataset("rgb", root, **options)
    with pytest.raises(FaithgenError, match="line 1: 'answer' is of type int"):
        load_dataset("rgb", write("rgb_en_fact/en_fact.jsonl", [rgb(answer=5)]))
