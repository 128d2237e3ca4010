import json
import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faithgen.errors import FaithgenError
from faithgen.evaluation.datasets import EvalDocument, Example, Loaded

words = st.text(min_size=1, max_size=8).filter(str.strip)
documents = st.lists(
    st.builds(EvalDocument, words.map(str.strip), st.text(max_size=5), words, st.sampled_from([True, False, None])),
    max_size=4,
    unique_by=lambda document: document.id,
)
examples = st.builds(
    Example,
    words.map(str.strip),
    st.text(max_size=10),
    documents,
    st.lists(words, max_size=3, unique=True),
    st.none() | words,
    st.dictionaries(st.text(max_size=4), st.integers() | st.lists(st.text(max_size=3)) | st.none(), max_size=3),
)


@given(examples)
def test_an_example_survives_json(example):
    assert Example.from_dict(json.loads(json.dumps(example.to_dict()))) == example


def test_what_json_has_no_form_for_becomes_none():
    example = Example("1", "q", meta={"score": math.nan, "deep": [{"x": -math.inf}, 0.5]})
    assert example.to_dict()["meta"] == {"score": None, "deep": [{"x": None}, 0.5]}
    assert example.meta["score"] is not None, "the example itself is left alone"


def test_a_short_form_is_read():
    example = Example.from_dict(
        {"question": "Who?", "documents": ["One.", {"text": "Two.", "gold": 1}], "answers": "Me"}
    )
    assert example.documents == [EvalDocument("1", "", "One.", None), EvalDocument("2", "", "Two.", True)]
    assert (example.id, example.answers, example.long_answer, example.gold) == ("1", ["Me"], None, [1])


def test_relevance_is_graded_where_the_set_is():
    documents = [EvalDocument("a", "", "x", True), EvalDocument("b", "", "y", False)]
    assert Example("1", "q", documents).relevance == {"a": 1}
    assert Example("1", "q", documents, meta={"relevance": {"a": 3, "x": None, "z": 1}}).relevance == {"a": 3, "z": 1}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"documents": ["x"]}, "the example has no field 'question'"),
        ({"question": "q"}, "the example has no field 'documents'"),
        ({"question": 1, "documents": ["x"]}, "'question' is of type int"),
        ({"question": "q", "documents": "x"}, "'documents' is of type str; give a list"),
        ({"question": "q", "documents": [1]}, "document 1 is of type int"),
        ({"question": "q", "documents": ["x", " "]}, "document 2 has no text"),
        ({"question": "q", "documents": [{"title": "x"}]}, "document 1 has no field 'text'"),
        ({"question": "q", "documents": [{"text": "x", "gold": "yes"}]}, "'gold' is of type str"),
        ({"question": "q", "documents": ["x", {"id": "1", "text": "y"}]}, "two documents with the id '1'"),
        ({"question": "q", "documents": [], "answers": [1]}, "'answers' is of type int"),
        ({"question": "q", "documents": [], "meta": [1]}, "'meta' is of type list"),
    ],
)
def test_a_wrong_example_is_refused(values, message):
    with pytest.raises(FaithgenError, match=message):
        Example.from_dict(values)


def test_loaded_is_a_list_that_says_what_was_lost():
    loaded = Loaded("x", "dev", "f", [Example(str(i), "q") for i in range(3)], Counter({"no answer": 2}))
    assert len(loaded) == 3
    assert [example.id for example in loaded] == ["0", "1", "2"]
    assert loaded[-1].id == "2"
    assert [example.id for example in loaded[:2]] == ["0", "1"]
    assert loaded.describe() == "x (dev): 3 examples; dropped: no answer (2)"
