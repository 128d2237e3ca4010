"""Questions take turns in a few slots: each gets the tokens it gets alone."""

import pytest

from faithgen.decoding.contrast import ContrastConfig
from faithgen.decoding.engine import PairDecoder, PairPrompt
from faithgen.decoding.sampling import SamplingConfig
from tests import tiny
from tests.decoding.pairs import LENGTHS, prompt_ids, prompts

MODEL = tiny.llama(initializer_range=0.1)  # no near ties between tokens


def run(source, slots, n=20, **options):
    """Rows of each question, and which were live in each step."""
    options = {"end_tokens": range(5, 30), "masked_heads": [(1, 0), (3, 3)], "watched_heads": [(1, 2)], **options}
    found, live = {}, []
    decoder = PairDecoder(MODEL, source, ContrastConfig(alpha=0.8), slots=slots, max_new_tokens=n, **options)
    for rows in decoder:
        live.append([row.question for row in rows])
        for row in rows:
            found.setdefault(row.question, []).append(row)
    return [found[question] for question in range(len(LENGTHS))], live


@pytest.mark.parametrize("slots", [1, 2, 3, 7, 20])
@pytest.mark.parametrize("kind", ["tree", "rows", "plain"])
def test_slots_change_no_answer(kind, slots):
    alone = [run_alone(prompt) for prompt in prompts(kind)]
    together, live = run(prompts(kind), slots)
    assert max(map(len, live)) == min(slots, len(LENGTHS))
    for one, other in zip(together, alone, strict=True):
        assert [row.token for row in one] == [row.token for row in other]
        for name in ("logprob", "jsd", "context_share"):
            if getattr(one[0], name) is not None:
                assert [getattr(row, name) for row in one] == pytest.approx(
                    [getattr(row, name) for row in other], abs=2e-4
                )


def run_alone(prompt):
    options = {"end_tokens": range(5, 30), "masked_heads": [(1, 0), (3, 3)], "watched_heads": [(1, 2)]}
    return [row for (row,) in PairDecoder(MODEL, [prompt], ContrastConfig(alpha=0.8), max_new_tokens=20, **options)]


def test_answers_end_at_their_own_length():
    """The first tokens of an answer count for it alone, whenever it began."""
    rows, live = run(prompts("tree"), 2, n=6, end_tokens=[])
    assert [len(one) for one in rows] == [6] * len(LENGTHS)
    assert [one[-1].finished for one in rows] == [True] * len(LENGTHS)
    assert [step for step in live if len(step) == 2] == [[0, 1]] * 6 + [[2, 3]] * 6 + [[4, 5]] * 6


def test_prompts_are_taken_when_there_is_room():
    taken = []

    def source():
        for index, prompt in enumerate(prompts("tree")):
            taken.append(index)
            yield prompt

    decoder = PairDecoder(
        MODEL, source(), ContrastConfig(alpha=0.8), slots=2, max_new_tokens=50, end_tokens=[], masked_heads=[(1, 0)]
    )
    steps = iter(decoder)
    next(steps)
    assert taken == [0, 1]
    decoder.finish(0)
    rows = next(steps)
    assert taken == [0, 1, 2]
    assert [row.question for row in rows] == [1, 2]


def test_what_finished_questions_left_is_dropped():
    """Columns that none but finished questions saw do not pile up."""
    many = [PairPrompt(prompt_ids(30, seed), prompt_ids(30, seed)) for seed in range(30)]
    decoder = PairDecoder(
        MODEL, many, ContrastConfig(alpha=0.8), slots=2, max_new_tokens=9, end_tokens=[], masked_heads=[(1, 0)]
    )
    columns = []
    for step, _ in enumerate(decoder):
        columns.append(decoder._groups[0].branches.cache.get_seq_length())
        if step == 3:
            decoder.finish(0)  # from now on one ends while the other is on its way
    assert max(columns) <= 30 + 2 * 9 + 2 * 9
    assert len(columns) > 100


def test_samples_depend_on_their_seed_only():
    seeded = [PairPrompt(one.faithful, one.unfaithful, seed=seed) for seed, one in enumerate(prompts("tree"))]
    options = {"sampling": SamplingConfig(temperature=1.0), "max_new_tokens": 12, "end_tokens": range(5, 60)}
    found = []
    for slots in (1, 3, None):
        tokens = {}
        for rows in PairDecoder(MODEL, seeded, ContrastConfig(alpha=0.3), slots=slots, **options):
            for row in rows:
                tokens.setdefault(row.question, []).append(row.token)
        found.append(tokens)
    assert found[0] == found[1] == found[2]


def test_nothing_is_kept_of_finished_questions():
    """However many come."""
    decoder = PairDecoder(
        MODEL,
        prompts("tree"),
        ContrastConfig(alpha=0.3),
        SamplingConfig(temperature=1.0),
        slots=2,
        max_new_tokens=6,
        end_tokens=range(5, 60),
    )
    for rows in decoder:
        assert len(rows) <= 2
        assert decoder._made.keys() == decoder._parts.keys() == decoder._sampler._streams.keys()
        assert len(decoder._made) == len(rows)
        decoder.finish(rows[0].question)
    assert decoder._made == decoder._parts == decoder._sampler._streams == {}
    assert decoder._stopped == set()


def test_mixed_prompts_are_refused_whenever_they_come():
    mixed = [*prompts("tree")[:1], *prompts("plain")[:1]]
    with pytest.raises(ValueError, match="either all prompts"):
        PairDecoder(MODEL, mixed, ContrastConfig(), max_new_tokens=2, end_tokens=[])
    with pytest.raises(ValueError, match="either all prompts"):
        list(PairDecoder(MODEL, iter(mixed), ContrastConfig(), max_new_tokens=2, end_tokens=[], slots=1))


def test_no_prompts_give_no_steps():
    assert list(PairDecoder(MODEL, [], ContrastConfig(), max_new_tokens=2, end_tokens=[])) == []
