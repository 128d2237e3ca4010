import pytest

from faithgen.errors import FaithgenError
from faithgen.evaluation.datasets import load_dataset


def row(number, prompt='Write a quote that ends in "far": Near and', classes=(" far.", " dear."), index=0, task=1):
    names = {1: "1-proverb-ending", 3: "3-hate-speech-ending"}
    return {"task": names[task], "id": number, "prompt": prompt, "classes": list(classes), "answer_index": index}


def test_memotrap_wants_the_ending_that_is_not_memorised(write):
    (example,) = load_dataset("memotrap", write("memotrap/memotrap.jsonl", [row(7)]))
    assert example.id == "1-proverb-ending-7"
    assert example.documents == []
    assert example.answers == ["far."]
    assert example.meta == {
        "task": "1-proverb-ending",
        "options": [" far.", " dear."],
        "answer_index": 0,
        "memory_answers": ["dear."],
    }


def test_memotrap_counts_what_it_leaves_out(write):
    rows = [
        row(1),
        row(2),
        row(3, classes=(" dear.", " far."), index=1),
        row(4, classes=(" far.",)),
        row(5, prompt="Other", index=2),
        row(6, prompt="A sign", task=3),
    ]
    root = write("memotrap/memotrap.jsonl", rows)
    loaded = load_dataset("memotrap", root)
    assert len(loaded) == 2
    assert loaded.dropped == {
        "repeats another row": 2,
        "fewer than two endings": 1,
        "the wanted ending is not there": 1,
    }
    assert [e.id for e in load_dataset("memotrap", root, task="3-hate-speech-ending")] == ["3-hate-speech-ending-6"]
    with pytest.raises(FaithgenError, match="task is 'proverb'; give one of 1-proverb-ending"):
        load_dataset("memotrap", root, task="proverb")
