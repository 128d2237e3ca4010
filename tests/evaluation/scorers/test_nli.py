import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from faithgen.errors import FaithgenError
from faithgen.evaluation.scorers import load_scorer
from faithgen.evaluation.scorers.models import MIN_BUDGET, as_data, chunk_documents
from faithgen.evaluation.scorers.nli import NliScorer, Premises, entailment_label, pair_length
from tests.evaluation.scorers.conftest import CLAIMS, TEXT, bert, pair_tokenizer, reordered

DOCUMENTS = [[TEXT], [TEXT, "The tram line was built in the night."], ["The keeper keeps the lamp."]]


@pytest.fixture(scope="module")
def scorer(nli_folder):
    return NliScorer(nli_folder)


@torch.inference_mode()
def by_hand(model, document, claim, label):
    """Entailment probability of one pair, without any of our code."""
    pair = pair_tokenizer()(document, claim, return_tensors="pt")
    return float(model(**pair).logits.softmax(-1)[0, label])


def words(text):
    return len(text.split())


# --- what is read -----------------------------------------------------------------------------------------------------


def test_probability_is_the_softmax_of_the_entailment_output(scorer, nli_model):
    document = "The keeper was Maren Oduya. Dogs travel free."
    got = scorer.score(CLAIMS, [[document]] * 3)
    want = [by_hand(nli_model, document, claim, 1) for claim in CLAIMS]
    assert got == pytest.approx(want, abs=1e-5)
    assert max(got) - min(got) > 0.01, "the tiny model tells the claims apart, or this test says nothing"


@pytest.mark.parametrize("order", [[1, 0, 2], [2, 0, 1], [0, 2, 1]])
def test_the_order_of_labels_is_read_from_the_config(saved, scorer, nli_model, order):
    names = ["CONTRADICTION", "Entailment", "neutral"]
    folder = saved(reordered(nli_model, order, [names[place] for place in order]), pair_tokenizer(), "reordered")
    assert NliScorer(folder).score(CLAIMS, DOCUMENTS) == pytest.approx(scorer.score(CLAIMS, DOCUMENTS), abs=1e-5)


@pytest.mark.parametrize("labels", [["entailment", "not_entailment"], ["not_entailment", "entailment"]])
def test_a_two_label_model_is_read_at_entailment(saved, labels):
    model = bert(labels, seed=5)
    folder = saved(model, pair_tokenizer(), "two")
    want = by_hand(model, "The lamp was lit.", CLAIMS[0], labels.index("entailment"))
    assert NliScorer(folder).score(CLAIMS[:1], [["The lamp was lit."]]) == pytest.approx([want], abs=1e-5)


def test_a_model_with_one_output_is_read_by_the_sigmoid(saved, support_model):
    folder = saved(support_model, pair_tokenizer(), "one")
    with torch.inference_mode():
        pair = pair_tokenizer()("The lamp was lit.", CLAIMS[0], return_tensors="pt")
        want = float(support_model(**pair).logits.sigmoid())
    assert NliScorer(folder).score(CLAIMS[:1], [["The lamp was lit."]]) == pytest.approx([want], abs=1e-5)


def test_unnamed_labels_must_be_said(saved, nli_model):
    folder = saved(reordered(nli_model, [0, 1, 2], ["LABEL_0", "LABEL_1", "LABEL_2"]), pair_tokenizer(), "unnamed")
    with pytest.raises(FaithgenError, match=r"does not say which output is entailment \(0=LABEL_0.*label=INDEX"):
        NliScorer(folder)
    asked = NliScorer(folder, label=2).score(CLAIMS[:1], [["The lamp was lit."]])
    assert asked == pytest.approx([by_hand(nli_model, "The lamp was lit.", CLAIMS[0], 2)], abs=1e-5)
    with pytest.raises(FaithgenError, match="label is 3"):
        NliScorer(folder, label=3)


def test_two_outputs_called_entailment_are_refused(nli_model):
    config = bert(["entailment", "entails", "neutral"]).config
    with pytest.raises(FaithgenError, match="does not say which"):
        entailment_label("x", config)


# --- chunks -----------------------------------------------------------------------------------------------------------


def test_the_best_chunk_of_long_documents_counts(scorer, nli_model):
    long = TEXT * 5
    tokenizer = pair_tokenizer()
    chunks = Premises(tokenizer, scorer.max_length).of(CLAIMS[0], [long])
    assert len(chunks) > 5
    assert all(len(tokenizer(chunk, CLAIMS[0])["input_ids"]) <= scorer.max_length for chunk in chunks)
    want = max(by_hand(nli_model, chunk, CLAIMS[0], 1) for chunk in chunks)
    assert scorer.score(CLAIMS[:1], [[long]]) == pytest.approx([want], abs=1e-5)


def test_top_chunks_reads_only_those_with_the_most_lexical_support(nli_folder, nli_model):
    documents = [TEXT.replace("Maren Oduya", "the storm"), TEXT, "The ferry crosses the sound."]
    one = NliScorer(nli_folder, top_chunks=1)
    chunks = Premises(pair_tokenizer(), one.max_length).of(CLAIMS[0], documents)
    (best,) = [chunk for chunk in chunks if "Maren Oduya" in chunk]
    assert one.score(CLAIMS[:1], [documents]) == pytest.approx([by_hand(nli_model, best, CLAIMS[0], 1)], abs=1e-5)
    every = NliScorer(nli_folder, top_chunks=len(chunks)).score(CLAIMS[:1], [documents])
    assert every == NliScorer(nli_folder).score(CLAIMS[:1], [documents])


def test_a_claim_longer_than_the_model_is_cut_and_not_refused(scorer):
    (got,) = scorer.score(["The lamp was lit again and " * 60], [[TEXT]])
    assert 0 <= got <= 1


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(st.text(alphabet="ab. \n", max_size=120), max_size=4),
    st.integers(1, 12),
    st.booleans(),
)
def test_chunks_hold_every_word_once_and_in_order(documents, budget, together):
    chunks = chunk_documents(documents, words, budget, together=together)
    assert all(0 < words(chunk) <= budget for chunk in chunks)
    assert " ".join(chunks).split() == " ".join(documents).split()


def test_documents_share_a_chunk_only_if_they_may():
    documents = ["One lamp.", "Two ferries.", "Three dogs."]
    assert chunk_documents(documents, words, 10) == ["One lamp.\nTwo ferries.\nThree dogs."]
    assert chunk_documents(documents, words, 10, together=False) == documents
    assert chunk_documents(["", " \n "], words, 10) == []


def test_a_sentence_longer_than_the_budget_is_cut_between_words_and_a_word_within():
    assert chunk_documents(["one two three four five"], words, 2) == ["one two", "three", "four five"]
    pieces = chunk_documents(["x" * 50], len, 20)
    assert max(map(len, pieces)) <= 20
    assert "".join(pieces) == "x" * 50


# --- stability --------------------------------------------------------------------------------------------------------


def test_batches_and_order_do_not_change_the_scores(nli_folder, scorer):
    single = [scorer.score([claim], [documents])[0] for claim, documents in zip(CLAIMS, DOCUMENTS, strict=True)]
    for size in (1, 2, 64):
        assert NliScorer(nli_folder, batch_size=size).score(CLAIMS, DOCUMENTS) == pytest.approx(single, abs=1e-5)
    assert scorer.score(CLAIMS[::-1], DOCUMENTS[::-1]) == pytest.approx(single[::-1], abs=1e-5)


def test_scores_are_the_same_every_time(scorer):
    assert scorer.score(CLAIMS, DOCUMENTS) == scorer.score(CLAIMS, DOCUMENTS)


def test_special_tokens_in_texts_are_text(scorer):
    plain, hostile = "The lamp was lit. ", "The lamp [SEP] was [CLS] lit. [PAD]"
    assert as_data(hostile, scorer.model.tokenizer).split() == plain.split()
    assert scorer.score(CLAIMS[:1], [[hostile]]) == pytest.approx(scorer.score(CLAIMS[:1], [[plain]]), abs=1e-6)


def test_nothing_to_read_gives_zero(scorer):
    assert scorer.score(CLAIMS, [[], [""], [" \n"]]) == [0.0, 0.0, 0.0]
    assert scorer.score([], []) == []


# --- lengths ----------------------------------------------------------------------------------------------------------


def test_pair_length_keeps_within_the_positions(nli_model, deberta):
    tokenizer = pair_tokenizer(64)
    assert pair_length(nli_model.config, tokenizer) == 64
    assert pair_length(nli_model.config, tokenizer, 4096) == 128
    assert pair_length(nli_model.config, pair_tokenizer(int(1e30))) == 128
    assert pair_length(deberta.config, tokenizer, 2048) == 2048, "relative positions have no end"
    assert pair_length(deberta.config, pair_tokenizer(int(1e30))) == 512


def test_roberta_counts_positions_from_behind_the_padding_id():
    from transformers import RobertaConfig

    config = RobertaConfig(max_position_embeddings=514, pad_token_id=1)
    assert pair_length(config, pair_tokenizer(int(1e30))) == 512
    assert pair_length(config, pair_tokenizer(514)) == 512


# --- errors -----------------------------------------------------------------------------------------------------------


def test_a_hub_model_that_is_not_here_says_how_to_get_it():
    with pytest.raises(FaithgenError, match="hf download cross-encoder/no-such-model") as caught:
        load_scorer("nli:cross-encoder/no-such-model")
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_not_there_or_holds_no_model(tmp_path):
    with pytest.raises(FaithgenError, match="does not exist"):
        NliScorer(tmp_path / "none")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FaithgenError, match=r"could not be loaded .* give a folder with config\.json"):
        NliScorer(tmp_path)


def test_a_model_without_weights(nli_model, tmp_path):
    nli_model.config.save_pretrained(tmp_path)
    pair_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(FaithgenError, match="could not be loaded"):
        NliScorer(tmp_path)


def test_a_model_without_a_classifier_is_refused_and_not_given_a_random_one(embedding_folder):
    with pytest.raises(FaithgenError, match="is a BertModel, not a sequence classification model"):
        NliScorer(embedding_folder)


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"max_length": 2 * MIN_BUDGET - 1}, {"top_chunks": 0}])
def test_options_out_of_range(options):
    with pytest.raises(FaithgenError, match=f"{next(iter(options))} is"):
        NliScorer("x", **options)


def test_weights_that_are_not_numbers_are_an_error(saved, nli_model):
    broken = reordered(nli_model, [0, 1, 2], ["contradiction", "entailment", "neutral"])
    with torch.no_grad():
        broken.classifier.bias[0] = torch.nan
    scorer = NliScorer(saved(broken, pair_tokenizer(), "broken"))
    with pytest.raises(FaithgenError, match="not finite"):
        scorer.score(CLAIMS[:1], [["The lamp was lit."]])
