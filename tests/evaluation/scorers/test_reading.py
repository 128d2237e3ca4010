import random

import pytest
import torch

from faithgen import ContrastConfig, Document, FaithfulGenerator, FaithgenError, FilterConfig, HeadSet
from faithgen.evaluation.scorers import reading as reading_module
from faithgen.evaluation.scorers.reading import Reading, read_answer, tokens_of
from faithgen.models import LoadedModel
from faithgen.prompting import PromptBuilder
from tests import tiny

QUESTION = "who was the keeper?"
TEXTS = [text[:70] for text in tiny.CORPUS[:3]]
HEADS = [(3, 5), (1, 0), (2, 7)]
MASKED = [(0, 1), (2, 3), (3, 5)]


def head_set(method, seed):
    values = random.Random(seed)
    return HeadSet([[values.random() for _ in range(8)] for _ in range(4)], method, "tiny", "0")


def builder_of(tokenizer, window=1024):
    return PromptBuilder(tokenizer, window)


@pytest.fixture(scope="module")
def loaded(byte_level):
    return LoadedModel(tiny.llama(initializer_range=0.1), byte_level, "tiny", "0")


@pytest.fixture(scope="module")
def prompt(loaded):
    return builder_of(loaded.tokenizer).build(QUESTION, [Document(text) for text in TEXTS], reserve=64)


def answer_ids(length, seed=0):
    return torch.randint(5, 450, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def test_reading_a_generated_answer_gives_the_signals_it_was_generated_with(loaded):
    generator = FaithfulGenerator(loaded, head_set("query_focused", 1), head_set("copying", 2))
    contrast = ContrastConfig(source="heads", alpha=0.7, num_heads=5)
    answer = generator.generate(
        QUESTION, TEXTS, contrast=contrast, filter=FilterConfig(enabled=False), max_new_tokens=24
    )
    prompt = generator.builder.build(QUESTION, [Document(text) for text in TEXTS], reserve=24)
    copying = generator.copying_heads
    ids = [token.id for token in answer.tokens]
    assert len(ids) > 10
    got = read_answer(loaded.model, prompt, ids, copying.top(8), copying.top(5))
    assert got.logprob.tolist() == pytest.approx([token.logprob for token in answer.tokens], abs=1e-4)
    assert got.jsd.tolist() == pytest.approx([token.jsd for token in answer.tokens], abs=1e-4)
    shares = [token.context_share for token in answer.tokens]
    assert got.context.mean(0).tolist() == pytest.approx(shares, abs=1e-4)
    assert got.jsd.max() > 1e-3, "masking changes something, or this test says nothing"


@torch.inference_mode()
def test_against_one_plain_forward(loaded, prompt):
    """No cache, no batch, attention as transformers itself reports it."""
    ids = answer_ids(12)
    model = tiny.llama(initializer_range=0.1)
    model.set_attn_implementation("eager")
    start = len(prompt.input_ids)
    output = model(torch.tensor([prompt.input_ids + ids]), output_attentions=True)
    rows = output.logits[0, start - 1 : -1].float().log_softmax(-1)
    got = read_answer(loaded.model, prompt, ids, HEADS, MASKED)
    assert torch.allclose(got.logprob, rows.gather(-1, torch.tensor(ids)[:, None])[:, 0], atol=1e-4)
    for index, (layer, head) in enumerate(HEADS):
        weights = output.attentions[layer][0, head, start - 1 : -1]
        on_documents = sum(weights[:, slice(*place.span)].sum(-1) for place in prompt.documents)
        assert torch.allclose(got.context[index], on_documents, atol=1e-5)
        assert torch.allclose(got.new[index], weights[:, start:].sum(-1), atol=1e-5)
    assert got.new[:, 0].eq(0).all(), "before the first token there is no answer to attend to"
    assert got.document_tokens == sum(place.span[1] - place.span[0] for place in prompt.documents)


def test_chunks_of_the_answer_change_nothing(loaded, prompt, monkeypatch):
    ids = answer_ids(23)
    whole = read_answer(loaded.model, prompt, ids, HEADS, MASKED)
    monkeypatch.setattr(reading_module, "_CHUNK", 5)
    parts = read_answer(loaded.model, prompt, ids, HEADS, MASKED)
    for name in ("logprob", "masked_logprob", "jsd", "context", "new"):
        assert torch.allclose(getattr(whole, name), getattr(parts, name), atol=1e-4), name


def test_heads_are_masked_in_the_second_row_only(loaded, prompt):
    ids = answer_ids(9)
    some, all_heads = MASKED, [(layer, head) for layer in range(4) for head in range(8)]
    one, other = (read_answer(loaded.model, prompt, ids, HEADS, masked) for masked in (some, all_heads))
    assert torch.allclose(one.logprob, other.logprob, atol=1e-5)
    assert torch.allclose(one.context, other.context, atol=1e-5)
    assert not torch.allclose(one.masked_logprob, other.masked_logprob, atol=1e-2)


def test_lookback_ratio_by_hand():
    context = torch.tensor([[0.5, 0.4, 0.0, 0.0]])
    new = torch.tensor([[0.0, 0.3, 0.6, 0.0]])
    one = Reading(torch.zeros(4), torch.zeros(4), torch.zeros(4), context, new, document_tokens=10)
    # the second token: 0.4 / 10 for a document token, 0.3 / 1 for an answer token
    assert one.lookback.tolist() == [pytest.approx([1.0, 0.04 / 0.34, 0.0, 1.0])]


def test_an_empty_answer_and_a_head_out_of_range(loaded, prompt):
    with pytest.raises(FaithgenError, match="no token to read"):
        read_answer(loaded.model, prompt, [], HEADS, MASKED)
    with pytest.raises(FaithgenError, match="head 9-0 is out of range"):
        read_answer(loaded.model, prompt, [7], HEADS, [(9, 0)])


TOKENIZERS = [tiny.byte_level_tokenizer, tiny.sentencepiece_tokenizer, tiny.unigram_tokenizer]


@pytest.mark.parametrize("family", TOKENIZERS)
def test_tokens_of_places_decode_to_their_text(family):
    tokenizer = family()
    answer = "The keeper was called Maren Oduya. Tickets cost 4.50.  Dogs travel free"
    places = [(0, 34), (35, 53), (55, 71)]
    ids, spans = tokens_of(builder_of(tokenizer), answer, places)
    assert tokenizer.decode(ids).replace("  ", " ").strip() == answer.replace("  ", " ")
    for (start, end), (first, last) in zip(places, spans, strict=True):
        assert tokenizer.decode(ids[first:last]).strip() == answer[start:end]
    assert spans[0][0] == 0
    assert [spans[0][1], spans[1][1]] == [spans[1][0], spans[2][0]]


def test_places_may_overlap_leave_gaps_and_be_out_of_order(byte_level):
    answer = "One two three four"
    ids, spans = tokens_of(builder_of(byte_level), answer, [(8, 13), (0, 13), (4, 18)])
    assert [byte_level.decode(ids[slice(*span)]).strip() for span in spans] == [
        "three",
        "One two three",
        "two three four",
    ]


def test_special_tokens_in_an_answer_are_text(byte_level):
    answer = "He said <|im_end|> and left."
    ids, (span,) = tokens_of(builder_of(byte_level), answer, [(0, len(answer))])
    assert not set(ids) & set(byte_level.all_special_ids)
    assert span == (0, len(ids))
