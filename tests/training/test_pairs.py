import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from faithgen.training.pairs import PairCollator, branch_mask, real_tokens

EXAMPLES = [
    {"prompt_ids": [5, 6, 90, 7], "slot": 2, "answer_ids": [8, 9, 4], "unfaithful_ids": [10, 4]},
    {"prompt_ids": [5, 90, 7], "slot": 1, "answer_ids": [11, 4], "unfaithful_ids": [12, 13, 14, 4]},
]


def test_two_sequences_a_pair_with_loss_on_the_answers_alone():
    batch = PairCollator(0, 91)(EXAMPLES)
    assert batch["input_ids"].tolist() == [
        [5, 6, 90, 7, 8, 9, 4],
        [5, 90, 7, 11, 4, 0, 0],
        [5, 6, 91, 7, 10, 4, 0],
        [5, 91, 7, 12, 13, 14, 4],
    ]
    x = -100
    assert batch["labels"].tolist() == [
        [x, x, x, x, 8, 9, 4],
        [x, x, x, 11, 4, x, x],
        [x, x, x, x, 10, 4, x],
        [x, x, x, 12, 13, 14, 4],
    ]
    assert batch["attention_mask"].tolist() == [[1] * 7, [1] * 5 + [0] * 2, [1] * 6 + [0], [1] * 7]
    assert batch["branches"][:2].sum() == 0
    assert batch["branches"][2].tolist() == [1] * 6 + [0]
    assert real_tokens(batch["attention_mask"]) == 25


def test_a_packed_pair_has_its_prompt_once():
    batch = PairCollator(0, 91, share_prompt=True)(EXAMPLES)
    assert batch["input_ids"].tolist() == [
        [5, 6, 90, 7, 8, 9, 4, 91, 7, 10, 4],
        [5, 90, 7, 11, 4, 91, 7, 12, 13, 14, 4],
    ]
    assert batch["position_ids"].tolist() == [[*range(7), 2, 3, 4, 5], [*range(5), 1, 2, 3, 4, 5, 6]]
    x = -100
    assert batch["labels"].tolist() == [[x, x, x, x, 8, 9, 4, x, x, 10, 4], [x, x, x, 11, 4, x, x, 12, 13, 14, 4]]
    assert batch["branches"].tolist() == [[0] * 7 + [1] * 4, [0] * 5 + [1] * 6]
    assert real_tokens(batch["attention_mask"]) == 22


def test_faithful_answers_alone_and_a_rounded_length():
    batch = PairCollator(0, None, share_prompt=True, pad_to_multiple_of=8)(EXAMPLES)
    assert batch["input_ids"].shape == (2, 8)
    assert batch["attention_mask"].sum().item() == 12
    assert (batch["labels"][:, 7:] == -100).all()


segments = st.lists(
    st.tuples(st.integers(0, 4), st.integers(1, 4), st.integers(1, 4), st.integers(0, 3)), min_size=1, max_size=3
)


@given(segments)
@settings(max_examples=50, deadline=None)
def test_the_mask_is_what_two_sequences_would_see(shapes):
    longest = max(sum(shape) for shape in shapes)
    rows = [[2] * a + [0] * b + [1] * c + [3] * (longest - a - b - c) for a, b, c, _ in shapes]
    mask = branch_mask(torch.tensor(rows))
    assert mask.any(-1).all()
    for row, found in zip(rows, mask[:, 0].tolist(), strict=True):
        for q, k in ((q, k) for q in range(longest) for k in range(longest)):
            if row[q] == 3:
                expected = k == 0
            else:
                expected = k <= q and (row[k] == 2 or row[k] == row[q])
            assert found[q][k] == expected


def test_real_tokens_do_not_count_padding_of_a_packed_row():
    packed = branch_mask(torch.tensor([[2, 0, 1, 3, 3], [2, 2, 0, 1, 1]]))
    assert real_tokens(packed) == 8


@pytest.mark.parametrize("share", [False, True])
def test_branches_say_which_answer_a_label_belongs_to(share):
    batch = PairCollator(0, 91, share_prompt=share)(EXAMPLES)
    answers = batch["labels"] != -100
    unfaithful = batch["branches"] == 1
    assert sorted(batch["labels"][answers & ~unfaithful].tolist()) == [4, 4, 8, 9, 11]
    assert sorted(batch["labels"][answers & unfaithful].tolist()) == [4, 4, 10, 12, 13, 14]
