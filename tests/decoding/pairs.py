"""Prompts of random tokens for the tests of decoding."""

import torch

from faithgen.decoding.branches import PairPrompt

LENGTHS = (24, 60, 33, 24, 90, 41, 17)


def prompt_ids(length, seed=0):
    return torch.randint(5, 512, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def control_pair(length, seed=0, tail=4, documents=()):
    """Two prompts that differ in one token near the end."""
    faithful = prompt_ids(length, seed)
    unfaithful = list(faithful)
    unfaithful[-tail] = (faithful[-tail] + 7) % 500 + 5
    return PairPrompt(faithful, unfaithful, documents=list(documents))


def prompts(kind, lengths=LENGTHS):
    """Questions of several lengths that can share a prefix (`tree`), cannot (`rows`), or have one branch (`plain`)."""
    made = []
    for seed, length in enumerate(lengths):
        ids = prompt_ids(length, seed)
        other = {"tree": ids, "rows": ids[:3] + ids[-8:], "plain": None}[kind]
        made.append(PairPrompt(ids, other, documents=[(2, 9), (11, 13)]))
    return made
