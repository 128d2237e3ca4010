"""The protocol, the registry and the rule of headlines."""

import json
import subprocess
import sys

import pytest

from faithgen.errors import FaithgenError
from faithgen.evaluation.scorers import (
    DEFAULT_SCORER,
    SCORERS,
    ClaimContext,
    SentenceScore,
    Support,
    headline_allowed,
    judged_threshold,
    load_scorer,
    score_answer,
    score_answers,
    summarise,
)
from faithgen.evaluation.scorers import judged as judged_module
from faithgen.evaluation.scorers.judged import headline, load_judged, save_judged

ANSWER = "It was lit in **1868** [1]. Who kept it?\n\n- Maren Oduya did."


class Recording:
    """Scores claims by their length and keeps what it was given."""

    name = "recording"
    trained_on = ()

    def __init__(self):
        self.calls = []

    def score(self, claims, documents, *, contexts=None):
        self.calls.append((list(claims), list(documents), list(contexts or [])))
        return [min(1.0, len(claim) / 20) for claim in claims]


# --- answers ----------------------------------------------------------------------------------------------------------


def test_an_answer_is_scored_sentence_by_sentence_in_its_context():
    scorer = Recording()
    got = score_answer(scorer, ANSWER, ["a", "b"], "When?")
    assert [one.text for one in got] == ["It was lit in 1868.", "Maren Oduya did."]
    assert [one.probability for one in got] == [0.95, 0.8]
    claims, documents, contexts = scorer.calls[0]
    assert claims == [one.text for one in got]
    assert documents == [["a", "b"]] * 2
    assert contexts == [ClaimContext("When?", ANSWER, one.start, one.end) for one in got]
    assert ANSWER[got[0].start : got[0].end] == "It was lit in **1868** [1]."


def test_answers_are_scored_in_one_call_and_keep_their_rows():
    scorer = Recording()
    got = score_answers(scorer, ["One. Two.", "", "Three."], [["a"], ["b"], ["c"]])
    assert [[one.text for one in row] for row in got] == [["One.", "Two."], [], ["Three."]]
    assert len(scorer.calls) == 1
    assert scorer.calls[0][1] == [["a"], ["a"], ["c"]]


def test_rows_that_do_not_match_are_an_error():
    with pytest.raises(FaithgenError, match="2 answers, 1 lists of documents and 2 questions"):
        score_answers(Recording(), ["a", "b"], [["a"]], ["q", "q"])


def test_summary_of_an_answer():
    sentences = [SentenceScore("a", 0.2, 0, 1), SentenceScore("b", 0.5, 2, 3), SentenceScore("c", 0.8, 4, 5)]
    assert summarise(sentences) == Support(0.5, 0.2, 2 / 3, 3)
    assert summarise(sentences, 0.6).share == 1 / 3
    assert summarise([]) == Support(None, None, None, 0, "the answer has no sentence that asserts something")


@pytest.mark.parametrize(
    ("claims", "documents", "contexts", "message"),
    [
        (["a", "b"], [["x"]], None, "2 claims and 1 lists of documents"),
        (["a"], [["x"]], [None, None], "1 claims and 2 contexts"),
        (["a", " "], [["x"], ["x"]], None, "claim 2 is empty"),
        (["a"], ["x"], None, "documents of claim 1 are one string"),
    ],
)
def test_pairs_that_cannot_be_scored(claims, documents, contexts, message):
    with pytest.raises(FaithgenError, match=message):
        load_scorer("lexical").score(claims, documents, contexts=contexts)


# --- registry ---------------------------------------------------------------------------------------------------------


def test_the_kinds_of_scorers():
    assert list(SCORERS) == ["lexical", "heads", "cross_encoder", "nli", "minicheck"]
    assert all(info.summary and info.weakness for info in SCORERS.values())
    assert load_scorer().name == DEFAULT_SCORER


def test_kind_and_model_in_one_name():
    with pytest.raises(FaithgenError, match="hf download some/model"):
        load_scorer("nli:some/model")


def test_unknown_scorers_and_options():
    with pytest.raises(FaithgenError, match="there is no scorer 'rouge'; choose from lexical, heads"):
        load_scorer("rouge")
    with pytest.raises(FaithgenError, match="scorer 'lexical' has no option 'model'; it takes none"):
        load_scorer("lexical:x")
    with pytest.raises(FaithgenError, match="scorer 'nli' has no option 'bathc_size'; it takes model, revision"):
        load_scorer("nli", bathc_size=3)


def test_the_registry_loads_nothing_heavy():
    heavy = ("torch", "sklearn", "transformers", "datasets")
    code = f"import sys, faithgen.evaluation.scorers; print([name for name in {heavy} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


# --- the rule of headlines --------------------------------------------------------------------------------------------


def judged_sets(*rows):
    sets = {}
    for name, mean, high, extra in rows:
        estimate = {"mean": mean, "low": None, "high": high}
        sets[name] = {"name": name, "kind": "qa", "seen": False, "auroc": estimate, **extra}
    return {"threshold": 0.4, "sets": sets}


@pytest.mark.parametrize(
    ("rows", "allowed", "reason"),
    [
        (
            [("a", 0.70, 0.75, {}), ("b", 0.65, 0.70, {})],
            True,
            "mean AUROC over 2 sets of answers to questions is 0.675",
        ),
        ([("a", 0.90, 0.95, {}), ("b", 0.64, 0.70, {})], False, "AUROC is below 0.65 on b (0.640)"),
        ([("a", 0.60, 0.95, {}), ("b", 0.60, 0.64, {})], False, "AUROC is below 0.65 on a (0.600), b (0.600)"),
        ([("a", 0.90, 0.95, {}), ("b", 0.90, 0.95, {}), ("c", 0.0, 0.1, {})], False, "below 0.65 on c (0.000)"),
        ([("a", 0.90, 0.95, {}), ("b", 0.90, 0.95, {"tuned": True})], False, "judged on 1 sets"),
        ([("a", 0.90, 0.95, {}), ("b", 0.90, 0.95, {"seen": True})], False, "judged on 1 sets"),
        ([("a", 0.90, 0.95, {}), ("b", 0.90, 0.95, {"kind": "summary"})], False, "judged on 1 sets"),
        ([("a", 0.90, 0.95, {}), ("b", None, None, {})], False, "judged on 1 sets"),
        ([("a", 0.90, None, {}), ("b", 0.90, 0.95, {})], True, "0.900"),
    ],
)
def test_who_may_carry_a_headline(rows, allowed, reason):
    got, why = headline(judged_sets(*rows))
    assert got is allowed
    assert reason in why


def test_a_scorer_that_was_not_judged_carries_none(monkeypatch, tmp_path):
    assert headline(None) == (False, "not judged against people")
    assert headline_allowed("nli:some/model") == (False, "not judged against people")
    assert judged_threshold("nli:some/model") == 0.5
    assert not SCORERS["cross_encoder"].headline


def test_judged_figures_are_kept_by_scorer(tmp_path):
    file = tmp_path / "judged.json"
    assert load_judged(file) == {}
    save_judged("one", judged_sets(("a", 0.9, 0.95, {})), file)
    save_judged("two", {"threshold": None, "sets": {}}, file)
    save_judged("one", judged_sets(("a", 0.8, 0.85, {})), file)
    assert list(load_judged(file)) == ["one", "two"]
    assert load_judged(file)["one"]["sets"]["a"]["auroc"]["mean"] == 0.8
    assert [path.name for path in tmp_path.iterdir()] == ["judged.json"]


def test_the_registry_follows_the_figures(monkeypatch):
    figures = {"lexical": judged_sets(("a", 0.9, 0.95, {}), ("b", 0.9, 0.95, {}))}
    monkeypatch.setattr("faithgen.evaluation.scorers.load_judged", lambda: figures)
    assert SCORERS["lexical"].headline
    assert judged_threshold("lexical") == 0.4
    figures["lexical"]["sets"]["a"]["auroc"] = {"mean": 0.5, "low": 0.4, "high": 0.6}
    figures["lexical"]["sets"]["b"]["auroc"] = {"mean": 0.5, "low": 0.4, "high": 0.6}
    assert not SCORERS["lexical"].headline


@pytest.mark.parametrize("text", ["{", "[]", '{"format": "other", "scorers": {}}', '{"format": "faithgen-judged-1"}'])
def test_damaged_figures(tmp_path, text):
    file = tmp_path / "judged.json"
    file.write_text(text)
    with pytest.raises(FaithgenError, match=r"judged\.json.*--write"):
        load_judged(file)


def test_the_shipped_figures_are_whole_and_let_the_default_scorer_carry_a_headline():
    shipped = load_judged()
    assert json.dumps(shipped, allow_nan=False)
    assert judged_module.JUDGED.exists()
    allowed, reason = headline_allowed(DEFAULT_SCORER)
    assert allowed, reason
    tuned = {name for name, one in shipped[DEFAULT_SCORER]["sets"].items() if one["tuned"]}
    assert tuned == set(load_scorer(DEFAULT_SCORER).tuned_on)
    for one in shipped[DEFAULT_SCORER]["sets"].values():
        assert one["auroc"]["low"] < one["auroc"]["mean"] < one["auroc"]["high"]
        assert one["threshold_from"] == "other sets"
