import json

import pytest

from faithgen import Answer, FaithgenError
from faithgen.report import render_report
from tests.report.making import make_answer


@pytest.mark.parametrize("options", [{}, {"two_branches": False}, {"text": "</script> \u2028"}, {"explanation": None}])
def test_an_answer_comes_back_from_its_json(options):
    answer = make_answer(**options)
    if answer.explanation is None:
        for place, token in enumerate(answer.tokens):
            answer.tokens[place] = type(token)(*list(vars(token).values())[:5])
    record = json.loads(json.dumps(answer.to_dict(), allow_nan=False))
    again = Answer.from_dict({**record, "more": 1, "documents": [{**one, "more": 1} for one in record["documents"]]})
    assert again == answer
    assert again.to_dict() == answer.to_dict()
    assert Answer.from_dict(answer.to_dict()) == answer
    if answer.explanation is not None:
        assert render_report(again) == render_report(answer)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": ...}, r"it lacks 'answer'\); give an object that Answer\.to_dict\(\) made"),
        ({"documents": [{"id": "1"}]}, "missing .* 'text'"),
        ({"documents": None}, "not iterable"),
        ({"tokens": [{"text": "x"}]}, "missing"),
        ({"explanation": {"heads": [[1, 2, 3]]}}, "too many values"),
        ({"explanation": []}, "list indices"),
    ],
)
def test_what_is_no_answer_is_refused_in_one_line(changes, message):
    record = {name: value for name, value in {**make_answer().to_dict(), **changes}.items() if value is not ...}
    with pytest.raises(FaithgenError, match=message) as caught:
        Answer.from_dict(record)
    assert "\n" not in str(caught.value)
    with pytest.raises(FaithgenError, match="this is no answer"):
        Answer.from_dict("text")
