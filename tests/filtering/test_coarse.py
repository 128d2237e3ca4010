import copy
import functools
import math
import random
from itertools import chain, pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from faithgen.documents import Document
from faithgen.errors import FaithgenError
from faithgen.filtering import attention as attention_module
from faithgen.filtering import coarse
from faithgen.filtering.attention import NULL_QUESTION, document_attention, null_question
from faithgen.filtering.coarse import FilterConfig, Ranking, rank_documents
from faithgen.prompting import PromptBuilder
from tests import tiny

HEADS = [(2, 5), (0, 1), (2, 0), (1, 7)]
QUESTION = "who was the keeper of the lighthouse?"
WORDS = " ".join(tiny.CORPUS[:3]).split()


@functools.cache
def make(family):
    return getattr(tiny, family)(initializer_range=0.1)


@pytest.fixture(scope="module")
def model():
    return make("llama")


@pytest.fixture(scope="module")
def builder(byte_level):
    return PromptBuilder(byte_level, 1024)


def text(seed, words=8):
    return " ".join(random.Random(seed).choices(WORDS, k=words))


def documents(count, words=8, seed=0):
    return [Document(text(seed + i, words), id=str(i), title=f"Title {i}" if i % 2 else "") for i in range(count)]


def eager_attention(model, ids, rows, prompt, heads):
    """Mean over rows of the sum over a document's columns, from the full attention matrices."""
    eager = copy.deepcopy(model)
    eager.set_attn_implementation("eager")
    with torch.no_grad():
        attention = eager(input_ids=torch.tensor([ids]), output_attentions=True).attentions
    found = [
        [attention[layer][0, head, slice(*rows), slice(*place.span)].sum(-1).mean() for place in prompt.documents]
        for layer, head in heads
    ]
    return torch.tensor(found)


# --- attention --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "gemma3"])
def test_document_attention_is_eager_attention(family, byte_level):
    model, heads = make(family), [(3, 5), (1, 1), (3, 0)]
    builder = PromptBuilder(byte_level, 1024)
    found, prompt = document_attention(model, builder, heads, QUESTION, documents(5))
    assert prompt.input_ids == builder.build(QUESTION, documents(5)).input_ids
    assert found.shape == (3, 5)
    assert found.dtype == torch.float32
    expected = eager_attention(model, prompt.input_ids, prompt.question, prompt, heads)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    assert torch.all((found > 0) & (found < 1))


def test_calibration_is_two_full_passes(model, builder):
    found, prompt = document_attention(model, builder, HEADS, QUESTION, documents(5), calibrate=True)
    null = builder.build(NULL_QUESTION, documents(5))
    expected = eager_attention(model, prompt.input_ids, prompt.question, prompt, HEADS)
    expected -= eager_attention(model, null.input_ids, null.question, null, HEADS)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    assert (found < 0).any()


@pytest.mark.parametrize("calibrate", [False, True])
@pytest.mark.parametrize("chunk", [1, 50, 64])
def test_chunks_change_nothing(model, builder, calibrate, chunk, monkeypatch):
    whole, prompt = document_attention(model, builder, HEADS, QUESTION, documents(3, 4), calibrate=calibrate)
    assert len(prompt) > 64
    monkeypatch.setattr(attention_module, "_CHUNK", chunk)
    found, _ = document_attention(model, builder, HEADS, QUESTION, documents(3, 4), calibrate=calibrate)
    torch.testing.assert_close(found, whole, atol=1e-6, rtol=1e-5)


def test_layers_above_the_chosen_ones_do_not_run(byte_level):
    model = tiny.llama(initializer_range=0.1)
    builder = PromptBuilder(byte_level, 1024)
    expected, _ = document_attention(model, builder, [(1, 2)], QUESTION, documents(3))

    def fail(*_, **__):
        raise AssertionError("ran")

    for module in (model.model.layers[2], model.model.layers[3], model.model.layers[1].mlp, model.lm_head):
        module.register_forward_pre_hook(fail)
    assert torch.equal(document_attention(model, builder, [(1, 2)], QUESTION, documents(3))[0], expected)


def test_a_sliding_layer_s_head_is_refused(byte_level):
    with pytest.raises(ValueError, match="full-attention"):
        document_attention(make("gemma3"), PromptBuilder(byte_level, 1024), [(0, 1)], QUESTION, documents(3))


# --- one window -------------------------------------------------------------------------------------------------------


def test_ranking_is_the_sum_of_shares(model, builder):
    given_documents = documents(6)
    attention, prompt = document_attention(model, builder, HEADS, QUESTION, given_documents)
    shares = attention / attention.sum(1, keepdim=True)
    config = FilterConfig(top_m=2, calibrate=False, refine=0)
    ranking = rank_documents(model, builder, HEADS, QUESTION, given_documents, config)
    assert ranking.scores == pytest.approx(shares.sum(0).tolist(), rel=1e-5)
    assert sum(ranking.scores) == pytest.approx(len(HEADS), rel=1e-5)
    votes = {i for row in attention for i in row.argsort(descending=True)[:2].tolist()}
    assert [i for i, vote in enumerate(ranking.votes) if vote] == sorted(votes)
    assert ranking.order() == shares.sum(0).argsort(descending=True).tolist()
    assert ranking.passes == 1
    assert ranking.prefill_tokens == prompt.question[1]
    assert ranking.truncated == []


def test_calibrated_ranking(model, builder):
    ranking = rank_documents(model, builder, HEADS, QUESTION, documents(5), FilterConfig(top_m=1, refine=0))
    attention, prompt = document_attention(model, builder, HEADS, QUESTION, documents(5), calibrate=True)
    shares = attention.clamp(min=0)
    shares = shares / shares.sum(1, keepdim=True)
    assert ranking.scores == pytest.approx(shares.sum(0).tolist(), rel=1e-4)
    assert ranking.prefill_tokens == prompt.question[1] + len(null_question(builder))
    assert {i for i, vote in enumerate(ranking.votes) if vote} == set(attention.argmax(1).tolist())


@pytest.mark.parametrize("refine", [2, 3, 9])
def test_refining_shares_out_the_scores_of_the_best_by_a_reading_of_their_own(model, builder, refine):
    many = documents(6)
    first = rank_documents(model, builder, HEADS, QUESTION, many, FilterConfig(refine=0, top_m=2))
    ranking = rank_documents(model, builder, HEADS, QUESTION, many, FilterConfig(refine=refine, top_m=2))
    best = [i for i in first.order() if first.votes[i]][:refine]
    attention, prompt = document_attention(model, builder, HEADS, QUESTION, [many[i] for i in best])
    shares = (attention / attention.sum(1, keepdim=True)).mean(0)
    total = sum(first.scores[i] for i in best)
    assert [ranking.scores[i] for i in best] == pytest.approx([total * share for share in shares.tolist()], rel=1e-5)
    rest = [i for i in range(6) if i not in best]
    assert [ranking.scores[i] for i in rest] == [first.scores[i] for i in rest]
    assert sum(ranking.scores) == pytest.approx(sum(first.scores))
    assert ranking.votes == first.votes
    assert ranking.coarse == first.scores == first.coarse
    assert ranking.fine == [ranking.scores[i] if i in best else None for i in range(6)]
    assert first.fine == [None] * 6
    assert ranking.passes == 2
    assert ranking.prefill_tokens == first.prefill_tokens + prompt.question[1]


@pytest.mark.parametrize("refine", [0, 1])
def test_nothing_is_refined_where_one_document_would_be_read(model, builder, refine):
    config = FilterConfig(refine=refine)
    assert rank_documents(model, builder, HEADS, QUESTION, documents(3), config).passes == 1
    assert rank_documents(model, builder, HEADS, QUESTION, documents(1), FilterConfig()).passes == 1


def test_fewer_documents_than_votes(model, builder):
    ranking = rank_documents(model, builder, HEADS, QUESTION, documents(2), FilterConfig(top_m=4))
    assert ranking.votes == [True, True]
    alone = rank_documents(model, builder, HEADS, QUESTION, documents(1), FilterConfig())
    assert alone.scores == pytest.approx([len(HEADS)])
    assert alone.kept(FilterConfig()) == [0]


# --- what is kept -----------------------------------------------------------------------------------------------------

RANKING = Ranking([0.1, 0.9, 0.5, 1.5, 0.6, 0.4], [True, True, False, True, True, False])


@pytest.mark.parametrize(
    ("config", "kept"),
    [
        (FilterConfig(), [3]),  # 37 % of the attention is on one
        (FilterConfig(mass=0.5), [1, 3]),  # half of it on two
        (FilterConfig(mass=None), [0, 4, 1, 3]),  # the union, best last
        (FilterConfig(mass=None, reorder=False), [0, 1, 3, 4]),
        (FilterConfig(mass=0.7, keep=2), [1, 3]),
        (FilterConfig(mass=None, keep=3, reorder=False), [1, 3, 4]),
        (FilterConfig(mass=None, keep=10), [0, 4, 1, 3]),
        (FilterConfig(keep=1), [3]),
    ],
)
def test_kept(config, kept):
    assert RANKING.kept(config) == kept


@pytest.mark.parametrize(
    ("config", "reasons"),
    [
        (FilterConfig(), {1: "30%", 4: "30%", 0: "30%"}),
        (FilterConfig(mass=0.5), {4: "50%", 0: "50%"}),
        (FilterConfig(mass=None), {}),
        (FilterConfig(mass=None, keep=3), {0: "at most 3"}),
        (FilterConfig(mass=0.7, keep=2), {4: "at most 2", 0: "at most 2"}),
        (FilterConfig(mass=0.3, keep=2), {1: "30%", 4: "30%", 0: "30%"}),
    ],
)
def test_what_is_dropped_says_why(config, reasons):
    found = RANKING.dropped(config)
    assert list(found) == [i for i in RANKING.order() if i not in RANKING.kept(config)]
    assert all("best 4" in found[i] for i in (2, 5))
    assert {i: reason for i, reason in found.items() if i not in (2, 5)}.keys() == reasons.keys()
    assert all(reasons[i] in found[i] for i in reasons)
    behind = Ranking([1.0, -1.0], [True, False])
    assert "earlier round" in behind.dropped(config)[1]


def test_order_breaks_ties_as_given():
    assert Ranking([1.0, 2.0, 2.0, 1.0], [True] * 4).order() == [1, 2, 0, 3]


def test_mass_keeps_the_best_until_they_hold_it():
    # 4.0 in all: 1.5, 2.4, 3.0, 3.1 after each of the union
    for mass, count in [(0.01, 1), (0.37, 1), (0.38, 2), (0.6, 2), (0.61, 3), (0.75, 3), (0.76, 4), (1.0, 4)]:
        assert RANKING.kept(FilterConfig(mass=mass)) == [0, 4, 1, 3][4 - count :]
    assert RANKING.kept(FilterConfig(mass=0.7, keep=2)) == [1, 3]


# --- several windows --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(byte_level):
    return PromptBuilder(byte_level, 200)


@pytest.mark.parametrize("calibrate", [False, True])
def test_many_documents_over_a_small_window(model, small, calibrate):
    many = documents(23, 5)
    config = FilterConfig(top_m=2, mass=None, calibrate=calibrate, refine=0)
    ranking = rank_documents(model, small, HEADS, QUESTION, many, config)
    assert ranking.passes > 3
    assert ranking.truncated == []
    assert all(math.isfinite(score) for score in ranking.scores)
    if not calibrate:
        assert len(set(ranking.scores)) == 23
    assert sorted(ranking.order()) == list(range(23))
    finalists = [i for i, score in enumerate(ranking.scores) if score >= 0]
    assert 1 < len(finalists) < 23
    assert ranking.order()[: len(finalists)] == sorted(finalists, key=lambda i: (-ranking.scores[i], i))
    voted = {i for i, vote in enumerate(ranking.votes) if vote}
    assert voted
    assert voted <= set(finalists)
    assert set(ranking.kept(config)) == voted
    # the last pass reads the finalists as they were given, and its scores decide
    last = rank_documents(model, small, HEADS, QUESTION, [many[i] for i in finalists], config)
    assert last.passes == 1
    assert [ranking.scores[i] for i in finalists] == pytest.approx(last.scores)
    assert [ranking.votes[i] for i in finalists] == last.votes
    assert ranking.prefill_tokens > last.prefill_tokens


def known_attention(monkeypatch, worth):
    """Attention by a document's id instead of the model's; returns the groups that were read."""
    groups = []

    def attention(model, builder, heads, question, given_documents, *, calibrate=False, store=None):
        groups.append([document.id for document in given_documents])
        row = torch.tensor([worth[document.id] for document in given_documents])
        return row.expand(len(heads), -1).clone(), builder.build(question, given_documents)

    monkeypatch.setattr(coarse, "document_attention", attention)
    return groups


@pytest.mark.parametrize("best", [0, 11, 22])
def test_the_best_of_each_group_meet(small, monkeypatch, best):
    """Wherever the best document stands, it reaches the last pass and wins."""
    many = documents(23, 5)
    worth = {document.id: 0.01 + 0.001 * i for i, document in enumerate(many)} | {str(best): 0.5}
    groups = known_attention(monkeypatch, worth)
    ranking = rank_documents(None, small, HEADS, QUESTION, many, FilterConfig(top_m=4, refine=0))
    assert ranking.order()[0] == best
    assert ranking.kept(FilterConfig())[-1] == best
    assert sorted(chain(*groups[:-1]), key=int) == [document.id for document in many]
    firsts = {max(group, key=worth.__getitem__) for group in groups[:-1]}
    room = len(groups[-1])
    assert len(firsts & set(groups[-1])) == min(room, len(firsts))


def test_the_rest_follow_in_their_own_order(small, monkeypatch):
    many = documents(23, 5)
    worth = {document.id: random.Random(i).random() for i, document in enumerate(many)}
    groups = known_attention(monkeypatch, worth)
    ranking = rank_documents(None, small, HEADS, QUESTION, many, FilterConfig(top_m=1))
    for group in groups[:-1]:
        behind = [int(name) for name in group if name not in groups[-1]]
        scores = [ranking.scores[i] for i in sorted(behind, key=lambda i: -worth[str(i)])]
        assert scores == sorted(scores, reverse=True)
        assert all(score < 0 for score in scores)


@pytest.mark.parametrize("window", [150, 200, 333])
@pytest.mark.parametrize("instruction", ["Answer.", "Answer in verse, with rhymes. " * 8])
def test_groups_fit_their_window(byte_level, window, instruction):
    builder = PromptBuilder(byte_level, window + len(byte_level(instruction)["input_ids"]), instruction)
    many = documents(40, 4) + documents(3, 20, seed=7)
    groups = coarse._windows(builder, QUESTION, many)
    assert list(chain(*groups)) == list(range(43))
    for group in groups:
        prompt = builder.build(QUESTION, [many[i] for i in group])
        assert not any(place.truncated for place in prompt.documents)
        assert len(prompt) <= builder.window
    room = window - len(builder.build(QUESTION, [])) - 40
    for first, second in pairwise(groups):  # and are not needlessly small
        assert sum(builder.document_tokens(many[i]) for i in first + second[:1]) > room


def test_a_document_longer_than_the_window(model, small):
    many = [*documents(4, 5), Document(text(5, 200), id="long"), *documents(4, 5, seed=50)]
    ranking = rank_documents(model, small, HEADS, QUESTION, many, FilterConfig(top_m=1))
    assert ranking.truncated == [4]
    assert all(math.isfinite(score) for score in ranking.scores)
    alone = rank_documents(model, small, HEADS, QUESTION, [many[4]], FilterConfig())
    assert alone.truncated == [0]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_long_document_is_compared_with_the_others(small, monkeypatch, place):
    """It is cut to share a pass with them: alone, it would have nothing to be better than."""
    many = documents(2, 5)
    many.insert(place, Document(text(5, 200), id="long"))
    groups = known_attention(monkeypatch, {"0": 0.1, "1": 0.3, "long": 0.2})
    ranking = rank_documents(None, small, HEADS, QUESTION, many, FilterConfig(top_m=1, refine=0))
    assert len(groups) == 1
    assert [many[i].id for i in ranking.order()] == ["1", "long", "0"]
    assert ranking.truncated == [place]


@pytest.mark.parametrize(("part", "grouped"), [(1.0, False), (0.51, False), (0.49, True), (0.26, True)])
def test_many_tokens_are_read_in_groups(byte_level, monkeypatch, part, grouped):
    """More than twice the window's tokens are parted, in groups of the window; fewer are read at once."""
    builder = PromptBuilder(byte_level, 8192)
    many = documents(60, 8)
    tokens = {document.id: builder.document_tokens(document) for document in many}
    read = known_attention(monkeypatch, {document.id: 0.1 + 0.01 * i for i, document in enumerate(many)})
    window = round(part * sum(tokens.values()))
    ranking = rank_documents(None, builder, HEADS, QUESTION, many, FilterConfig(window=window, refine=0))
    assert ranking.order()[0] == 59
    groups = read[:-1] if grouped else read
    if not grouped:
        assert groups == [[document.id for document in many]]
        return
    assert len(groups) > 2
    assert groups == [[document.id for document in many[start :: len(groups)]] for start in range(len(groups))]
    assert all(sum(tokens[name] for name in group) <= 1.1 * window for group in groups)
    assert all(len(group) >= 8 for group in groups)
    assert len(read[-1]) == sum(min(4, 16 // len(groups), len(group)) for group in groups)
    whole = known_attention(monkeypatch, {document.id: 0.1 for document in many})
    rank_documents(None, builder, HEADS, QUESTION, many, FilterConfig(window=None, refine=0))
    assert [len(group) for group in whole] == [60]


def test_long_documents_still_meet_others(builder, monkeypatch):
    """A window shorter than a document does not part the first eight: alone, they had nothing to be better than."""
    many = documents(12, 10)
    read = known_attention(monkeypatch, {document.id: 0.1 + 0.01 * i for i, document in enumerate(many)})
    rank_documents(None, builder, HEADS, QUESTION, many, FilterConfig(window=5, top_m=3, refine=0))
    assert [len(group) for group in read] == [6, 6, 6]


# --- validation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_heads": 0}, "num_heads is 0"),
        ({"top_m": 0}, "top_m is 0"),
        ({"steer_heads": -1}, "steer_heads is -1"),
        ({"steer_top_m": 0}, "steer_top_m is 0"),
        ({"keep": 0}, "keep is 0"),
        ({"mass": 0.0}, "mass is 0.0"),
        ({"mass": 1.1}, "mass is 1.1"),
        ({"mass": math.nan}, "mass is nan"),
        ({"refine": -1}, "refine is -1"),
        ({"window": 0}, "window is 0"),
        ({"max_depth": 0.0}, "max_depth is 0.0"),
        ({"max_depth": 1.01}, "max_depth is 1.01"),
        ({"delta": math.nan}, "delta is nan"),
        ({"delta": -math.inf}, "delta is -inf"),
    ],
)
def test_values_out_of_range(values, message):
    with pytest.raises(FaithgenError, match=message) as caught:
        FilterConfig(**values)
    assert "\n" not in str(caught.value)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.floats(-2, 5), st.booleans()), min_size=1, max_size=12).filter(
        lambda r: any(v for _, v in r)
    ),
    st.none() | st.integers(1, 14),
    st.none() | st.floats(0.01, 1),
    st.booleans(),
)
def test_kept_is_some_of_the_union(rows, keep, mass, reorder):
    ranking = Ranking([score for score, _ in rows], [vote for _, vote in rows])
    kept = ranking.kept(FilterConfig(keep=keep, mass=mass, reorder=reorder))
    assert 1 <= len(kept) == len(set(kept)) <= (keep or 12)
    assert all(ranking.votes[i] for i in kept)
    left = [ranking.scores[i] for i, vote in enumerate(ranking.votes) if vote and i not in kept]
    assert min(ranking.scores[i] for i in kept) >= max(left, default=-math.inf)
    scores = [ranking.scores[i] for i in kept]
    assert (scores == sorted(scores)) if reorder else (kept == sorted(kept))
    if keep is None and mass is None:
        assert not left
