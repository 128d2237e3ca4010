"""What an answer was made of."""

import random
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faithgen import ContrastConfig, Document, FaithfulGenerator, FilterConfig, HeadSet
from faithgen.decoding.engine import StepDetail
from faithgen.decoding.sampling import SamplingConfig
from faithgen.explanation import ALTERNATIVES, LEAST_SHARE, Explainer, Passage, read_passages
from faithgen.models import LoadedModel
from faithgen.prompting import PromptBuilder
from faithgen.sentences import split_sentences
from tests import tiny

QUESTION = "who was the keeper?"
TEXTS = [text[:70] for text in tiny.CORPUS[:5]]
REQUESTS = [(QUESTION, TEXTS), ("when?", [{"text": " ".join(TEXTS[:2]), "title": "Data"}, TEXTS[2]])]
SOURCES = ["control", "heads", "context", "none"]


def make(tokenizer, **changes):
    values = random.Random(0)
    sets = [
        HeadSet([[values.random() for _ in range(8)] for _ in range(4)], method, "tiny", "0")
        for method in ("query_focused", "copying")
    ]
    model = tiny.llama(initializer_range=0.1, **changes)
    model.resize_token_embeddings(len(tokenizer))
    return FaithfulGenerator(LoadedModel(model, tokenizer, "tiny", "0"), *sets)


@pytest.fixture(scope="module")
def generator():
    return make(tiny.with_control_tokens(tiny.byte_level_tokenizer()))


def signals(answer):
    return [(token.id, token.text, token.logprob, token.jsd) for token in answer.tokens]


# --- it only looks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", SOURCES)
def test_an_explained_answer_is_the_answer(generator, source):
    for options in (
        {},
        {"filter": FilterConfig(steer=True)},
        {"filter": FilterConfig(enabled=False), "sampling": SamplingConfig(temperature=1.0, seed=1)},
    ):
        options = {"contrast": ContrastConfig(source=source, alpha=0.8), "max_new_tokens": 10, **options}
        plain = generator.generate_batch(REQUESTS, **options)
        explained = generator.generate_batch(REQUESTS, explain=True, **options)
        for one, other in zip(plain, explained, strict=True):
            assert signals(one) == signals(other)
            assert (one.text, one.documents, one.doubt) == (other.text, other.documents, other.doubt)
            assert one.explanation is None
            assert all(token.detail is None for token in one.tokens)
            shares = [token.context_share for token in other.tokens]
            assert [token.context_share for token in one.tokens] == pytest.approx(shares, abs=1e-6)


def test_a_streamed_answer_is_explained_too(generator):
    whole = generator.generate(*REQUESTS[0], explain=True, max_new_tokens=8)
    stream = generator.stream(*REQUESTS[0], explain=True, max_new_tokens=8)
    list(stream)
    assert stream.answer.explanation == whole.explanation
    assert stream.answer.tokens == whole.tokens


# --- alternatives -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", SOURCES)
def test_tokens_have_the_alternatives_of_their_branches(generator, source):
    contrast = ContrastConfig(source=source, alpha=0.0)
    answer = generator.generate(*REQUESTS[0], contrast=contrast, explain=True, max_new_tokens=8)
    for token in answer.tokens:
        assert len(token.detail.faithful) == ALTERNATIVES
        best = token.detail.faithful[0]
        assert best.id == token.id  # greedy, no contrast
        probabilities = [one.probability for one in token.detail.faithful]
        assert probabilities == sorted(probabilities, reverse=True)
        assert sum(probabilities) <= 1.0001
        if source == "none":
            assert token.detail.unfaithful is token.detail.unfaithful_probability is None
        else:
            assert len(token.detail.unfaithful) == ALTERNATIVES
            assert 0 <= token.detail.unfaithful_probability <= token.detail.unfaithful[0].probability + 1e-6


@pytest.mark.parametrize("family", ["byte_level", "sentencepiece", "unigram"])
def test_alternatives_read_as_they_would_stand(family):
    """The space that some decoders take away from a lone token is there, and an end token has a name."""
    tokenizer = getattr(tiny, f"{family}_tokenizer")()
    ids = tokenizer(" the ferry crosses the sound", add_special_tokens=False)["input_ids"]
    explainer = Explainer(tokenizer, [], {"heads": []}, {})
    detail = StepDetail([(ids[-1], 0.5), (tokenizer.eos_token_id, 0.1)], None, None, [])
    whole = tokenizer.decode(ids)
    for length in range(3, len(ids)):
        detail = StepDetail([(ids[length], 0.5), (tokenizer.eos_token_id, 0.1)], None, None, [])
        found, end = explainer.token(detail, ids[:length]).faithful
        assert tokenizer.decode(ids[:length]) + found.text == tokenizer.decode(ids[: length + 1])
        assert end.text.strip() == "<|im_end|>"
    assert whole.endswith("sound")
    assert explainer.token(detail, []).faithful[0].text  # the first of an answer


# --- passages ---------------------------------------------------------------------------------------------------------

PLAIN = st.text(st.sampled_from("abcä東 .!?。\n\t\u200b\ufffd"), max_size=80)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.lists(st.tuples(PLAIN.filter(str.strip), PLAIN), min_size=1, max_size=3), st.integers(110, 400))
def test_passages_are_all_that_was_read(rows, window):
    documents = [Document(text, id=str(i), title=title) for i, (text, title) in enumerate(rows)]
    try:
        prompt = PromptBuilder(BYTES, window).build("who?", documents)
    except ValueError:
        return  # too narrow a window
    passages, spans = read_passages(documents, prompt.documents)
    assert len(passages) == len(spans)
    covered = [position for start, end in spans for position in range(start, end)]
    wanted = [position for place in prompt.documents for position in range(*place.span)]
    assert covered == wanted  # each token once, in order
    for document, place in zip(documents, prompt.documents, strict=True):
        own = [passage for passage in passages if passage.document == document.id]
        assert [passage.heading for passage in own] == [True] + [False] * (len(own) - 1)
        read = BYTES.decode(prompt.input_ids[slice(*place.text)]).rstrip("\ufffd")
        whole = [s for s in split_sentences(document.text) if s.start < place.ends[-1]]
        assert [passage.start for passage in own[1:]] == [s.start for s in whole]
        for passage, sentence in zip(own[1:], whole, strict=True):
            assert passage.end <= sentence.end
            text = document.text[passage.start : passage.end].rstrip("\ufffd")
            assert text in read or "\ufffd" in document.text


BYTES = tiny.byte_level_tokenizer()


def test_each_sentence_has_its_own_tokens(generator):
    text = "The ferry is free. The keeper was called Maren.\n\nDogs travel, too."
    documents = [Document(text, id="a", title="Ferry"), Document("Text", id="b")]
    prompt = generator.builder.build(QUESTION, documents)
    passages, spans = read_passages(documents, prompt.documents)
    decoded = [generator.loaded.tokenizer.decode(prompt.input_ids[start:end]) for start, end in spans]
    assert decoded[0] == "Title: Ferry\n"
    assert [part.strip() for part in decoded[1:4]] == [
        "The ferry is free.",
        "The keeper was called Maren.",
        "Dogs travel, too.",
    ]
    assert decoded[4:] == ["Passage:\n", "Text"]
    assert [text[p.start : p.end] for p in passages[1:4]] == [part.strip() for part in decoded[1:4]]


# --- where the heads looked -------------------------------------------------------------------------------------------


def test_attention_on_passages_adds_up_to_the_share_of_the_context(generator):
    answer = generator.generate(*REQUESTS[1], explain=True, max_new_tokens=10, filter=FilterConfig(enabled=False))
    passages = answer.explanation.passages
    assert {passage.document for passage in passages} == {"1", "2"}
    for token in answer.tokens:
        shares = [share for _, share in token.detail.looked_at]
        assert shares == sorted(shares, reverse=True)
        assert min(shares) >= LEAST_SHARE
        left = (len(passages) - len(shares)) * LEAST_SHARE
        assert sum(shares) - 0.001 <= token.context_share <= sum(shares) + left + 0.001
        assert all(0 <= index < len(passages) for index, _ in token.detail.looked_at)


def test_dropped_documents_have_no_passages_and_a_reason(generator):
    answer = generator.generate(
        QUESTION, TEXTS, explain=True, filter=FilterConfig(keep=2, mass=None), max_new_tokens=4
    )
    kept = {document.id for document in answer.documents if document.kept}
    assert {passage.document for passage in answer.explanation.passages} == kept == set(answer.prompt_order)
    assert set(answer.explanation.dropped) == {document.id for document in answer.documents} - kept
    assert all(answer.explanation.dropped.values())
    assert answer.explanation.scoring_heads == FilterConfig().scoring_heads(generator.scoring_heads)
    assert answer.explanation.heads == generator.copying_heads.top(8)
    assert answer.explanation.masked_heads == []
    masked = generator.generate(*REQUESTS[0], contrast=ContrastConfig(source="heads"), explain=True, max_new_tokens=1)
    assert masked.explanation.masked_heads == generator.copying_heads.top(2)
    alone = generator.generate(QUESTION, TEXTS[:1], explain=True, max_new_tokens=1)
    assert alone.explanation.scoring_heads == []


def test_what_was_cut_off_a_document_is_no_passage(byte_level):
    generator = make(byte_level, max_position_embeddings=300)
    given = [Document(TEXTS[0], id="short"), Document(" ".join(tiny.CORPUS[:3] * 8), id="long")]
    answer = generator.generate(QUESTION, given, explain=True, max_new_tokens=4, filter=FilterConfig(enabled=False))
    ends = [passage.end for passage in answer.explanation.passages if passage.document == "long"]
    assert 0 < max(ends) < len(given[1].text)
    assert answer.documents[1].truncated


def explained(pieces, attention, text=None):
    """An explanation of given tokens and attention."""
    tokenizer = SimpleNamespace(decode=lambda ids: "")
    explainer = Explainer(tokenizer, [Passage("a", 0, 1)] * len(attention[0]), {"heads": [(1, 2)]}, {"b": "why"})
    for row in attention:
        explainer.token(StepDetail([], None, None, row), [])
    return explainer.finish("".join(pieces).strip() if text is None else text, pieces)


def test_sentences_of_an_answer_have_the_mean_attention_of_their_tokens():
    pieces = [" \n", "It was", " Ada.", " ", "", "Bo", " left", "."]
    attention = [[0.0, 0.0, 0.4]] * 3 + [[0.2, 0.005, 0.0]] * 5
    found = explained(pieces, attention)
    assert [(one.start, one.end, one.tokens) for one in found.sentences] == [(0, 11, (0, 5)), (12, 20, (5, 8))]
    assert found.sentences[0].looked_at == [(2, 0.24), (0, 0.08)]
    assert found.sentences[1].looked_at == [(0, 0.2)]  # a hundredth or more
    assert (found.heads, found.dropped, len(found.passages)) == ([(1, 2)], {"b": "why"}, 3)


def test_tokens_behind_a_stop_string_do_not_count():
    found = explained(["One."], [[0.5], [0.1], [0.1]])
    assert found.sentences[0].tokens == (0, 1)
    assert found.sentences[0].looked_at == [(0, 0.5)]


def test_an_empty_answer_has_no_sentences():
    assert explained([], [[0.5]], "").sentences == []
    assert explained([" ", "\n"], [[0.5], [0.5]]).sentences == []


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.text(st.sampled_from("ab. \n。"), max_size=6), max_size=12))
def test_every_token_is_in_one_sentence(pieces):
    found = explained(pieces, [[0.5]] * max(1, len(pieces)))
    if "".join(pieces).strip():
        assert found.sentences[0].tokens[0] == 0
        assert found.sentences[-1].tokens[1] == len(pieces)
        for one, other in zip(found.sentences, found.sentences[1:], strict=False):
            assert one.tokens[1] == other.tokens[0]
    text = "".join(pieces).strip()
    assert all(text[one.start : one.end].strip() for one in found.sentences)
