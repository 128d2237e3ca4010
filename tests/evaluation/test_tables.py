import importlib.util
import json
import re

import pytest

from faithgen.evaluation.summary import figures_record, summarise_run
from tests.conftest import ROOT
from tests.evaluation.running import record, row


@pytest.fixture(scope="module")
def tables():
    """`benchmarks/tables.py`, a script."""
    spec = importlib.util.spec_from_file_location("benchmarks_tables", ROOT / "benchmarks" / "tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def summary():
    """Five rows: `heads` has nothing to do on two, `cafe` fails on all, and `rhio` cannot run."""
    methods = ("base", "heads", "cafe", "rhio")
    rows = [row(i, "base", i / 4, scorer={"mean": None, "reason": "refusal"}) for i in range(5)]
    rows += [
        row(i, "heads", 0.5) if i < 3 else {**row(i, "heads", None), "metrics": {}, "skipped": "no | set"}
        for i in range(5)
    ]
    rows += [{**row(i, "cafe", None), "metrics": {}, "error": "OSError: x"} for i in range(5)]
    given = record(methods, rows=5, unavailable={"rhio": "the model has no control tokens"})
    (figures,) = figures_record(summarise_run(given, rows, resamples=50)).values()
    return json.loads(json.dumps(figures))


def cells(tables, summary, *metrics):
    """The cells of each method's line."""
    lines = [re.split(r" *(?<!\\)\| *", line)[1:-1] for line in tables.table("toy", summary, list(metrics), False)]
    return {line[0]: line[1:] for line in lines}


def test_missing_rows_and_figures_say_why(tables, summary):
    found = cells(tables, summary, "sub_em", "support_mean")
    assert found["base"][0] == "0 / 5"
    assert re.fullmatch(r"\.500 \[\.\d+, \.\d+\]", found["base"][1])
    assert found["base"][2] == "none: refusal"
    assert found["heads"][0] == r"0 / 3 (without: 2 no \| set)"
    assert found["cafe"][:2] == ["0 (without: 5 error: OSError)", "none: no row has a value"]
    assert found["rhio"][1:] == ["none: the model has no control tokens"] * 2


def test_rows_that_a_metric_is_not_defined_for_are_counted(tables, summary):
    summary["methods"][0]["metrics"]["f1"] |= {"n": 3, "missing": 2}
    found = cells(tables, summary, "sub_em", "f1")
    assert found["base"][0] == "3 / 5 (without: 2 f1 not defined for the row, or not yet run)"


def test_what_is_to_be_minded_stands_beside_the_figure(tables, summary):
    summary["methods"][0]["metrics"]["sub_em"] |= {"low": None, "high": None, "reason": "one row alone"}
    assert cells(tables, summary, "sub_em")["base"][1] == ".500 (no interval: one row alone)"
    summary["methods"][0]["metrics"]["sub_em"] |= {"low": 0.4, "high": 1.0, "reason": "exact interval"}
    assert cells(tables, summary, "sub_em")["base"][1] == ".500 [.400, 1.000] (exact interval)"


def test_summaries_without_reasons_are_shown_as_before(tables, summary):
    for one in summary["methods"]:
        del one["without"], one["reason"]
        for figure in one["metrics"].values():
            del figure["reason"]
    found = cells(tables, summary, "sub_em", "support_mean")
    assert (found["base"][0], found["base"][2]) == ("0 / 5", "–")
    assert found["heads"][:2] == ["0 / 3", ".500"] or found["heads"][1].startswith(".500 [")
    assert found["rhio"] == ["", "–", "–"]
