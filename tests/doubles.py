"""Stand-ins for parts of the engine, shared by the tests of the generator and of the LlamaIndex packages."""

import weakref

import torch

from faithgen import generator as generator_module
from faithgen.decoding import engine


def force(monkeypatch, tokens):
    """Make the engine choose these tokens, one a step."""

    class Forced:
        def __init__(self, *_):
            self.left = iter(tokens)

        def add(self, question, seed):
            pass

        def drop(self, question):
            pass

        def __call__(self, scores, questions):
            return torch.full((len(questions),), next(self.left))

    monkeypatch.setattr(engine, "Sampler", Forced)


def watch_decoders(monkeypatch):
    """Watch the generator's decoders from now on: `found` are weak references to them and to the first layer of each
    question's keys and values, `steps` counts the steps that go on, `alive()` what still takes memory."""

    class Watched(generator_module.PairDecoder):
        found, steps = [], 0

        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            self.found.append(weakref.ref(self))

        def _read(self, prompt):
            branches = super()._read(prompt)
            self.found.append(weakref.ref(branches.cache.layers[0]))
            return branches

        def _advance(self, chosen):
            type(self).steps += any(not row.finished for rows, _ in chosen for row in rows)
            return super()._advance(chosen)

        @classmethod
        def alive(cls):
            return sum(reference() is not None for reference in cls.found)

    monkeypatch.setattr(generator_module, "PairDecoder", Watched)
    return Watched
