import pytest
import torch

from faithgen.errors import FaithgenError
from faithgen.evaluation.scorers import load_scorer
from faithgen.evaluation.scorers.minicheck import VARIANTS, MiniCheckScorer
from faithgen.evaluation.scorers.models import chunk_documents
from tests.evaluation.scorers.conftest import CLAIMS, TEXT, bert, pair_tokenizer, t5_tokenizer

DOCUMENTS = [[TEXT], [TEXT, "The tram line was built in the night."], ["The keeper keeps the lamp."]]


@pytest.fixture(scope="module")
def t5_scorer(saved, t5):
    return MiniCheckScorer(saved(t5, t5_tokenizer(), "t5"))


@pytest.fixture(scope="module")
def deberta_scorer(saved, deberta):
    return MiniCheckScorer(saved(deberta, pair_tokenizer(), "deberta"))


@pytest.fixture(scope="module", params=["t5", "deberta"])
def scorer(request):
    return request.getfixturevalue(f"{request.param}_scorer")


@torch.inference_mode()
def t5_by_hand(model, document, claim):
    """As the published code does: the prompt as one text, one decoder step from id 0, tokens 3 and 209."""
    batch = t5_tokenizer()(f"predict: {document}</s>{claim}", return_tensors="pt")
    start = torch.zeros((1, 1), dtype=torch.long)
    logits = model(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], decoder_input_ids=start
    ).logits
    return float(logits[0, 0, [3, 209]].softmax(-1)[1])


@torch.inference_mode()
def encoder_by_hand(model, document, claim):
    batch = pair_tokenizer()(f"{document}[SEP]{claim}", return_tensors="pt")
    return float(model(**batch).logits.softmax(-1)[0, 1])


def test_the_published_models():
    assert {name: (one.hub, one.chunk, one.length) for name, one in VARIANTS.items()} == {
        "flan-t5-large": ("lytang/MiniCheck-Flan-T5-Large", 500, 2048),
        "deberta-v3-large": ("lytang/MiniCheck-DeBERTa-v3-Large", 400, 2048),
        "roberta-large": ("lytang/MiniCheck-RoBERTa-Large", 400, 512),
    }


def test_t5_reads_the_published_prompt_and_label_tokens(t5_scorer, t5):
    document = "The keeper was Maren Oduya. Dogs travel free."
    got = t5_scorer.score(CLAIMS, [[document]] * 3)
    assert got == pytest.approx([t5_by_hand(t5, document, claim) for claim in CLAIMS], abs=1e-5)
    assert max(got) - min(got) > 1e-4
    assert (t5_scorer.chunk_size, t5_scorer.length) == (500, 2048)


def test_encoders_read_document_separator_claim(deberta_scorer, deberta):
    document = "The keeper was Maren Oduya. Dogs travel free."
    got = deberta_scorer.score(CLAIMS, [[document]] * 3)
    assert got == pytest.approx([encoder_by_hand(deberta, document, claim) for claim in CLAIMS], abs=1e-5)
    assert (deberta_scorer.chunk_size, deberta_scorer.length) == (400, 2048)


def test_a_roberta_like_model_has_the_shorter_length(saved):
    scorer = MiniCheckScorer(saved(bert(["LABEL_0", "LABEL_1"]), pair_tokenizer(), "bert"))
    assert (scorer.chunk_size, scorer.length) == (400, 512)


def test_t5_chunks_by_words_and_the_best_chunk_counts(saved, t5):
    scorer = MiniCheckScorer(saved(t5, t5_tokenizer(), "t5"), chunk_size=12)
    chunks = chunk_documents([TEXT], lambda text: len(text.split()), 12)
    assert len(chunks) > 2
    want = max(t5_by_hand(t5, chunk, CLAIMS[0]) for chunk in chunks)
    assert scorer.score(CLAIMS[:1], [[TEXT]]) == pytest.approx([want], abs=1e-5)


def test_encoders_chunk_by_tokens(saved, deberta):
    scorer = MiniCheckScorer(saved(deberta, pair_tokenizer(), "deberta"), chunk_size=20)
    tokenizer = pair_tokenizer()
    chunks = chunk_documents([TEXT], lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"]), 20)
    assert len(chunks) > 2
    want = max(encoder_by_hand(deberta, chunk, CLAIMS[0]) for chunk in chunks)
    assert scorer.score(CLAIMS[:1], [[TEXT]]) == pytest.approx([want], abs=1e-5)


def test_batches_do_not_change_the_scores(scorer):
    single = [scorer.score([claim], [documents])[0] for claim, documents in zip(CLAIMS, DOCUMENTS, strict=True)]
    together = scorer.score(CLAIMS, DOCUMENTS)
    assert together == pytest.approx(single, abs=1e-5)
    assert together == scorer.score(CLAIMS, DOCUMENTS)


def test_special_tokens_in_texts_are_text(scorer):
    eos = scorer.tokenizer.eos_token
    assert scorer.prompt(f"The lamp{eos} was lit.", f"A{eos} claim.").count(eos) == 1


def test_nothing_to_read_gives_zero(scorer):
    assert scorer.score(CLAIMS, [[], [""], [" \n"]]) == [0.0, 0.0, 0.0]
    assert scorer.score([], []) == []


def test_models_that_are_no_minicheck(saved, nli_folder, embedding_folder):
    with pytest.raises(FaithgenError, match="has 3 outputs, a MiniCheck model has 2; load it with the scorer nli"):
        MiniCheckScorer(nli_folder)
    with pytest.raises(FaithgenError, match="not a sequence classification model"):
        MiniCheckScorer(embedding_folder)


def test_a_model_that_is_not_here_says_how_to_get_it():
    with pytest.raises(FaithgenError, match="hf download lytang/MiniCheck-Flan-T5-Large") as caught:
        load_scorer("minicheck")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"chunk_size": 0}])
def test_options_out_of_range(options):
    with pytest.raises(FaithgenError, match=f"{next(iter(options))} is 0"):
        MiniCheckScorer("x", **options)
