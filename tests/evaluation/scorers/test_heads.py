import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from faithgen import Document, FaithgenError
from faithgen.answer import Answer, AnswerToken
from faithgen.evaluation.runner import _load_scorer as load_judge
from faithgen.evaluation.scorers import ClaimContext, load_scorer, reads_with_generator
from faithgen.evaluation.scorers import reading as reading_module
from faithgen.evaluation.scorers.heads import (
    QUESTION,
    SIGNALS,
    HeadsScorer,
    SignalReader,
    named_heads,
    score_generated,
)
from faithgen.evaluation.scorers.logistic import LogisticHead, fit_logistic, packaged_head
from faithgen.models import LoadedModel
from tests import tiny

TEXTS = [text[:70] for text in tiny.CORPUS[:3]]
ANSWER = "The keeper was Maren. Dogs travel free of charge."
CLAIMS = ["The keeper was Maren.", "Dogs travel free of charge."]
CONTEXTS = [ClaimContext("who?", ANSWER, 0, 21), ClaimContext("who?", ANSWER, 22, 49)]
WATCHED, MASKED, HEADS = [(3, 5), (1, 0)], [(0, 1), (2, 3)], [(2, 7), (1, 0)]


@pytest.fixture(scope="module")
def loaded(byte_level):
    return LoadedModel(tiny.llama(initializer_range=0.1), byte_level, "tiny", "0")


@pytest.fixture(scope="module")
def reader(loaded):
    return SignalReader(loaded, WATCHED, MASKED, HEADS)


def head(features, **changes):
    count = len(features)
    values = {"mean": [0.0] * count, "scale": [1.0] * count, "weights": [1.0] * count, "bias": 0.0}
    names = {"model_id": "tiny", "revision": "0", "watched": WATCHED, "masked": MASKED, "trained_on": ["qags"]}
    return LogisticHead(list(features), **{**values, **names, **changes})


# --- signals ----------------------------------------------------------------------------------------------------------


def test_signals_of_a_claim_are_means_over_its_tokens(reader, loaded):
    first, second = reader.features(CLAIMS, [TEXTS, TEXTS], CONTEXTS)
    ids, spans = reading_module.tokens_of(reader.builder, ANSWER, [(0, 21), (22, 49)])
    prompt = reader.builder.build("who?", [Document(text) for text in TEXTS], reserve=len(ids))
    reading = reading_module.read_answer(loaded.model, prompt, ids, [*WATCHED, (2, 7)], MASKED)
    for values, span in ((first, spans[0]), (second, spans[1])):
        part = slice(*span)
        assert values["logprob"] == pytest.approx(float(reading.logprob[part].mean()), abs=1e-5)
        assert values["logprob_min"] == pytest.approx(float(reading.logprob[part].min()), abs=1e-5)
        assert values["context_share"] == pytest.approx(float(reading.context[:2, part].mean()), abs=1e-6)
        assert values["lookback:2-7"] == pytest.approx(float(reading.lookback[2, part].mean()), abs=1e-6)
        assert values["context:1-0"] == pytest.approx(float(reading.context[1, part].mean()), abs=1e-6)
        assert values["gap"] == pytest.approx(values["logprob"] - float(reading.masked_logprob[part].mean()), abs=1e-5)
    assert set(first) == {*SIGNALS, "gap"} | {
        f"{kind}:{at}" for kind in ("context", "lookback") for at in ("3-5", "1-0", "2-7")
    }
    assert all(map(math.isfinite, [*first.values(), *second.values()]))
    assert first != second


def test_an_answer_is_read_once_however_many_claims_it_has(reader, monkeypatch):
    calls = []
    original = reading_module.read_answer
    monkeypatch.setattr(reading_module, "read_answer", lambda *given: calls.append(1) or original(*given))
    reader.features([*CLAIMS, CLAIMS[0]], [TEXTS, TEXTS, TEXTS[:1]], [*CONTEXTS, CONTEXTS[0]])
    assert len(calls) == 2, "one for the answer over three documents, one over one document"


def test_claims_in_any_order_and_number_have_the_same_signals(reader):
    together = reader.features(CLAIMS, [TEXTS, TEXTS], CONTEXTS)
    for place in (0, 1):
        (alone,) = reader.features([CLAIMS[place]], [TEXTS], [CONTEXTS[place]])
        assert alone == pytest.approx(together[place], abs=1e-5), "the cut between claims is at the same token"
    turned = reader.features(CLAIMS[::-1], [TEXTS, TEXTS], CONTEXTS[::-1])
    assert turned == [pytest.approx(together[1], abs=1e-5), pytest.approx(together[0], abs=1e-5)]


def test_a_claim_without_context_is_read_as_an_answer_of_its_own(reader):
    (alone,) = reader.features(CLAIMS[:1], [TEXTS])
    (said,) = reader.features(CLAIMS[:1], [TEXTS], [ClaimContext(QUESTION, CLAIMS[0], 0, len(CLAIMS[0]))])
    (blank,) = reader.features(CLAIMS[:1], [TEXTS], [ClaimContext(" ", "", 0, 0)])
    assert alone == said == blank
    assert alone != reader.features(CLAIMS[:1], [TEXTS], CONTEXTS[:1])[0]


def test_nothing_to_read(reader):
    assert reader.features(CLAIMS, [[], [" "]], CONTEXTS) == [None, None]
    assert reader.features([], []) == []


def test_a_reader_without_heads(loaded):
    with pytest.raises(FaithgenError, match="no heads to watch or to mask"):
        SignalReader(loaded, [], MASKED)
    with pytest.raises(FaithgenError, match="head 7-0 is out of range"):
        SignalReader(loaded, WATCHED, MASKED, [(7, 0)])


# --- the scorer -------------------------------------------------------------------------------------------------------


def test_scores_are_the_logistic_of_the_signals(loaded, reader):
    fitted = head(
        ["context_share", "logprob", "lookback:2-7"], weights=[2.0, 0.5, -1.0], mean=[0.1, -6.0, 0.4], bias=0.3
    )
    scorer = load_scorer("heads", model=loaded, head=fitted)
    assert scorer.name == "heads:tiny"
    assert scorer.trained_on == ("qags",)
    got = scorer.score(CLAIMS, [TEXTS, TEXTS], contexts=CONTEXTS)
    for value, signals in zip(got, reader.features(CLAIMS, [TEXTS, TEXTS], CONTEXTS), strict=True):
        total = (
            0.3
            + 2 * (signals["context_share"] - 0.1)
            + 0.5 * (signals["logprob"] + 6)
            - (signals["lookback:2-7"] - 0.4)
        )
        assert value == pytest.approx(1 / (1 + math.exp(-total)), abs=1e-5)
    assert scorer.score(CLAIMS, [[], TEXTS], contexts=CONTEXTS)[0] == 0.0


def test_another_models_head_is_refused(loaded):
    with pytest.raises(FaithgenError, match="fitted for 'other', not for 'tiny'"):
        HeadsScorer(loaded, head=head(["logprob"], model_id="other", revision="1"))
    assert HeadsScorer(loaded, head=head(["logprob"], model_id="renamed")), "the same weights under another name"


def test_a_fitted_head_of_a_file_is_named_after_it_and_its_content(loaded, tmp_path):
    file = tmp_path / "mine.json"
    head(["context_share", "logprob"]).save(file)
    scorer = load_scorer(f"heads:{file}", model=loaded)
    assert scorer.head == head(["context_share", "logprob"])
    assert scorer.name.startswith("heads:tiny:mine-")
    assert scorer.score(CLAIMS, [TEXTS, TEXTS]) == HeadsScorer(loaded, head=scorer.head).score(CLAIMS, [TEXTS, TEXTS])
    assert HeadsScorer(loaded, head=file).name == scorer.name
    head(["context_share", "logprob"], bias=1.0).save(file)
    assert HeadsScorer(loaded, head=file).name != scorer.name
    with pytest.raises(FaithgenError, match=r"cannot read support head '.*gone\.json'"):
        load_scorer(f"heads:{tmp_path / 'gone.json'}", model=loaded)


@pytest.mark.parametrize(
    ("name", "own"), [("heads", True), ("heads:mine.json", True), ("heads:some/model", False), ("nli:x.json", False)]
)
def test_what_reads_with_the_generator(name, own):
    assert reads_with_generator(name) is own


def test_a_run_reads_with_its_own_model_whichever_head_is_named(loaded, tmp_path):
    head(["logprob"]).save(tmp_path / "mine.json")
    scorer, threshold = load_judge(f"heads:{tmp_path / 'mine.json'}", SimpleNamespace(loaded=loaded))
    assert scorer.reader.loaded is loaded
    assert threshold == 0.5, "no figures of this head, so no threshold of another"


def test_no_head_ships_for_the_model(loaded):
    with pytest.raises(
        FaithgenError, match=r"no support head \(reading\) ships for model 'tiny'; fit one: .*fit_heads\.py"
    ):
        HeadsScorer(loaded)


def test_named_heads():
    assert named_heads(["logprob", "lookback:18-6", "context:2-0", "lookback:2-0"]) == [(18, 6), (2, 0)]
    with pytest.raises(FaithgenError, match="there is no signal 'entropy'"):
        named_heads(["logprob", "entropy"])


# --- generated answers ------------------------------------------------------------------------------------------------


def generated(tokens):
    text = "".join(token.text for token in tokens).strip()
    return Answer("q", text, [], tokens=tokens, settings={"model": "tiny", "revision": "0"})


TOKENS = [
    AnswerToken(" He", 1, -1.0, 0.1, 0.2),
    AnswerToken(" left.", 2, -3.0, 0.3, 0.4),
    AnswerToken(" She", 3, -0.5, 0.0, 0.9),
    AnswerToken("", 4, -9.0, 0.6, 0.0),
    AnswerToken(" stayed.", 5, -0.1, 0.2, 0.7),
]


def test_generated_answers_are_scored_from_their_own_tokens():
    first, second = score_generated(generated(TOKENS), head(["logprob", "jsd"]))
    assert (first.text, second.text) == ("He left.", "She stayed.")
    assert first.probability == pytest.approx(1 / (1 + math.exp(2.0 - 0.2)))
    assert second.probability == pytest.approx(1 / (1 + math.exp(0.3 - 0.1))), "a token without text is of no sentence"
    lowest, _ = score_generated(generated(TOKENS), head(["logprob_min", "context_share"]))
    assert lowest.probability == pytest.approx(1 / (1 + math.exp(3.0 - 0.3)))


def test_a_generated_answer_without_the_signal_is_an_error():
    plain = [replace(token, jsd=None) for token in TOKENS]
    assert score_generated(generated(plain), head(["logprob"]))
    with pytest.raises(FaithgenError, match="the signal 'jsd' of a claim is None"):
        score_generated(generated(plain), head(["logprob", "jsd"]))
    with pytest.raises(FaithgenError, match=r"no support head \(signals\) ships"):
        score_generated(generated(TOKENS))
    assert score_generated(generated([]), head(["logprob"])) == []


# --- the logistic head ------------------------------------------------------------------------------------------------


def claims(count=200, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    rows = [
        {"a": float(value), "b": float(100 * noise), "c": 3.0}
        for value, noise in zip(rng.normal(labels), rng.normal(size=count), strict=True)
    ]
    return rows, labels.tolist()


def test_a_fitted_head_agrees_with_scikit_learn_and_needs_it_no_more(tmp_path):
    from sklearn.linear_model import LogisticRegression

    rows, labels = claims()
    fitted = fit_logistic(rows, labels, ["s"] * len(rows), ["a", "b", "c"])
    one = LogisticHead(**fitted, model_id="tiny")
    one.save(tmp_path / "head.json")
    again = LogisticHead.load(tmp_path / "head.json")
    assert again == one
    weight = [500 / labels.count(label) for label in labels]
    table = np.array([[row[name] for name in "abc"] for row in rows])
    scaled = (table - fitted["mean"]) / fitted["scale"]
    other = LogisticRegression(C=0.1, max_iter=2000).fit(scaled, labels, sample_weight=weight)
    want = other.predict_proba(scaled)[:, 1]
    assert [again.probability(row) for row in rows] == pytest.approx(want.tolist(), abs=1e-9)
    assert fitted["weights"][0] > 0.5 > abs(fitted["weights"][1])
    assert fitted["scale"][2] == 1.0, "a signal that never changes is not divided by 0"


def test_sets_and_labels_weigh_the_same_however_many_rows_they_have():
    rows, labels = claims(60)
    few, many = (rows[:10], labels[:10]), (rows[10:], labels[10:])
    plain = fit_logistic([*few[0], *many[0]], [*few[1], *many[1]], ["x"] * 10 + ["y"] * 50, ["a"])
    repeated = fit_logistic([*few[0] * 7, *many[0]], [*few[1] * 7, *many[1]], ["x"] * 70 + ["y"] * 50, ["a"])
    for name in ("mean", "scale", "weights", "bias"):
        assert repeated[name] == pytest.approx(plain[name], abs=1e-4), name
    alone = fit_logistic(*many, ["y"] * 50, ["a"])
    assert abs(alone["weights"][0] - plain["weights"][0]) > 1e-3, "the small set counts"


def test_fitting_needs_both_labels():
    rows, _ = claims(4)
    with pytest.raises(FaithgenError, match="set 'y' has claims of one label only"):
        fit_logistic(rows, [0, 1, 1, 1], ["x", "x", "y", "y"], ["a"])
    with pytest.raises(FaithgenError, match="no row to fit on"):
        fit_logistic([], [], [], ["a"])


@pytest.mark.parametrize(
    ("values", "message"), [({"a": None}, "'a' of a claim is None"), ({"a": math.nan}, "is nan"), ({}, "is None")]
)
def test_signals_that_are_missing_are_named(values, message):
    with pytest.raises(FaithgenError, match=message):
        head(["a"]).probability(values)


def test_probabilities_stay_within_their_range():
    far = head(["a"], weights=[1e6])
    assert far.probability({"a": 1e6}) == 1.0
    assert far.probability({"a": -1e6}) == 0.0


@pytest.mark.parametrize(
    "changes", [{"mean": []}, {"scale": [0.0]}, {"weights": [math.inf]}, {"bias": "x"}, {"scale": [-1.0]}]
)
def test_heads_that_make_no_sense(changes):
    with pytest.raises(FaithgenError, match=r"a support head .*fit one"):
        head(["a"], **changes)


def test_damaged_files(tmp_path):
    file = tmp_path / "head.json"
    with pytest.raises(FaithgenError, match="cannot read support head"):
        LogisticHead.load(file)
    head(["a"]).save(file)
    whole = json.loads(file.read_text())
    for broken, message in (
        ("{", "not valid JSON"),
        ("[]", "is not a support head"),
        (json.dumps({**whole, "format": "x"}), "is not a support head"),
        (json.dumps({**whole, "more": 1}), "is damaged"),
        (json.dumps({**whole, "watched": [[1]]}), "is damaged"),
        (json.dumps({**whole, "scale": [0]}), "a scale that is not above 0"),
    ):
        file.write_text(broken)
        with pytest.raises(FaithgenError, match=message):
            LogisticHead.load(file)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FaithgenError, match="cannot write"):
        head(["a"]).save(tmp_path / "file" / "head.json")


# --- the heads that ship ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["reading", "signals"])
def test_shipped_heads_say_what_they_are_made_of(kind):
    """Of sets alone whose licence lets it be passed on, for the packaged model's own heads."""
    from faithgen.evaluation.scorers.labelled_sets import LICENCES, OPEN_SETS

    head = packaged_head("SmolLM2-135M-Instruct.Q4_1", "", kind)
    assert set(head.trained_on) <= set(OPEN_SETS)
    assert head.provenance["licences"] == {name: LICENCES[name] for name in head.trained_on}
    assert sum(sum(rows.values()) for rows in head.provenance["rows"].values()) > 500
    assert head.features[0] == "context_share"
    assert head.weights[0] > 0  # looking at the documents speaks for an answer


@pytest.mark.default_model
def test_the_shipped_head_tells_a_supported_claim_from_another():
    scorer = load_scorer("heads")
    assert scorer.name == "heads:SmolLM2-135M-Instruct.Q4_1"
    document = (
        "The lighthouse of Skarnholm was first lit in 1868. Its keeper was Maren Oduya, who stayed for forty years."
    )
    claims = [
        "The lighthouse of Skarnholm was first lit in 1868.",
        "The ferry to the mainland was painted green by Finn.",
    ]
    supported, other = scorer.score(claims, [[document], [document]])
    assert supported > other + 0.2
