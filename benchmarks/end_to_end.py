"""From documents to the whole answer: rank, filter, two branches, against the same model's plain answer over all of them.

    python benchmarks/end_to_end.py --tokens 6000 --new 200
    python benchmarks/end_to_end.py --tokens 6000 --new 200 --questions 64 --batch-size 16
    python benchmarks/end_to_end.py --shape 8b --tokens 32000 --keep 2 --new 200     # random weights, on a GPU

`plain generate` is transformers' on a prompt with all documents, `plain, ours` our own decoding of it; `faithgen` is the
default (its second branch runs, be `alpha` 0 or not) about documents that it sees for the first time. `second question`
is another one about the same documents, whose keys and values are kept (`--kept-mib`): no part of the headline. All write
exactly `--new` tokens. Random heads agree on nothing: give `--keep`.

With `--questions`, many questions about as many sets of documents, batched and one by one, none of them seen before.
Every way runs once before it is timed. Where a timed run read prompts of another length than that one, its shapes may not
have been warm: it is named in the last line and in the JSON line (`shapes_changed`).
"""

import argparse

import torch
from common import example_documents, forget, interleaved, report, table
from roofline import Roofline
from shapes import SHAPES, load

from faithgen import Answer, ContrastConfig, FaithfulGenerator, FilterConfig, hf
from faithgen.documents import Document

QUESTION, SECOND = "Who founded the town library of Skarnholm?", "When does the ferry leave in winter?"
TARGET = 0.8


class Ways:
    """The ways to answer a question from all documents; each is a task that can be timed.

    Args:
        generator ([`FaithfulGenerator`]): of a model whose answers do not end by themselves.
        documents (`list[Document]`): what is asked about.
        new (`int`): tokens of each answer.
        filtering ([`FilterConfig`]): of `faithgen`.
    """

    def __init__(
        self, generator: FaithfulGenerator, documents: list[Document], new: int, filtering: FilterConfig | None = None
    ):
        self.generator, self.documents, self.new = generator, documents, new
        self.filtering = filtering or FilterConfig()
        self.model = generator.loaded.model
        self.prompt = generator.builder.build(QUESTION, documents, reserve=new).input_ids
        self.counts: dict[str, tuple[int, int]] = {}
        self.changed: set[str] = set()

    def tasks(self) -> dict:
        all_of_them, none = FilterConfig(enabled=False), ContrastConfig(source="none")
        return {
            "plain generate": self.plain,
            "plain, ours": lambda: self.ours("plain, ours", all_of_them, none),
            "faithgen": lambda: self.ours("faithgen", self.filtering, ContrastConfig()),
            "second question": lambda: self.ours(
                "second question", self.filtering, ContrastConfig(), SECOND
            ),  # the documents of `faithgen` are kept
            "faithgen, one branch": lambda: self.ours("faithgen, one branch", self.filtering, none),
        }

    def plain(self) -> None:
        ids = torch.tensor([self.prompt], device=hf.device_of(self.model))
        out = self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=self.new,
            min_new_tokens=self.new,
            do_sample=False,
        )
        self.check("plain generate", (out.shape[1] - self.new, 0), out.shape[1] - ids.shape[1])

    def ours(self, name: str, filtering: FilterConfig, contrast: ContrastConfig, question: str = QUESTION) -> None:
        if question == QUESTION:
            forget(self.model)
        answer = self.generator.generate(
            question, self.documents, filter=filtering, contrast=contrast, max_new_tokens=self.new
        )
        self.check(name, counts_of(answer), len(answer.tokens))

    def check(self, name: str, counts: tuple[int, int], new: int) -> None:
        """Fail where an answer has another length than the others; note where a prompt has one than in the first run."""
        if new != self.new:
            raise SystemExit(f"{name}: {new} new tokens, not {self.new}")
        if self.counts.setdefault(name, counts) != counts:
            self.changed.add(name)

    def least(self, roofline: Roofline, name: str) -> float:
        """The least seconds of a way: its scoring (attention not counted, it may be in groups), prefill and steps."""
        prompt, scored = self.counts[name]
        heads = self.filtering.scoring_heads(self.generator.scoring_heads)
        depth = (max(layer for layer, _ in heads) + 1) / hf.head_shape(self.model).num_layers
        scoring = roofline.prefill(self.model, scored, depth, attention=False) if scored else 0.0
        steps = self.new * roofline.step(self.model, prompt + self.new / 2)
        return scoring + roofline.prefill(self.model, prompt) + steps


def counts_of(answer: Answer) -> tuple[int, int]:
    """Tokens of the prompt, and tokens that were read to rank."""
    return int(answer.timings["prompt_tokens"]), int(answer.timings["scored_tokens"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="With --shape, the one whose tokenizer is taken.")
    parser.add_argument("--shape", choices=SHAPES, help="Random weights of this shape in place of a model's.")
    parser.add_argument("--tokens", type=int, default=6000, help="Of the documents together.")
    parser.add_argument("--new", type=int, default=200)
    parser.add_argument(
        "--keep", type=int, help="Keep exactly so many of the 20 documents; else the filter's default."
    )
    parser.add_argument("--kept-mib", type=int, help="For the second question; else the default.")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--questions", type=int, default=0, help="Time a batch of so many questions instead.")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--compiled", action="store_true")
    options = parser.parse_args()
    loaded, *heads = load(options.model, options.shape)
    generator = FaithfulGenerator(loaded, *heads, compiled=options.compiled)
    generator._ends = frozenset()  # every answer has the same length
    kept_bytes = None if options.kept_mib is None else options.kept_mib << 20
    filtering = FilterConfig(kept_bytes=kept_bytes)
    if options.keep:
        top_m = max(filtering.top_m, options.keep)
        filtering = FilterConfig(kept_bytes=kept_bytes, keep=options.keep, mass=None, top_m=top_m)
    setting = {
        "model": loaded.model_id,
        "tokens": options.tokens,
        "new": options.new,
        "keep": options.keep,
        "dtype": str(loaded.model.dtype),
        "compiled": options.compiled,
    }
    if options.questions:
        many(generator, options, filtering, setting)
    else:
        one(generator, options, filtering, setting)


def one(generator: FaithfulGenerator, options: argparse.Namespace, filtering: FilterConfig, setting: dict) -> None:
    """One question, each way."""
    model = generator.loaded.model
    ways = Ways(generator, example_documents(generator.builder, options.tokens), options.new, filtering)
    times = interleaved(ways.tasks(), options.repeats)
    roofline = Roofline.of(model)
    shares = {name: ways.least(roofline, name) / seconds for name, seconds in times.items()}
    ratios = {name: seconds / times["plain generate"] for name, seconds in times.items()}
    over_ours = {name: seconds / times["plain, ours"] for name, seconds in times.items()}
    print(f"{generator.loaded.model_id}, {options.new} new tokens, medians of {options.repeats}")
    rows = [
        [
            *(name, seconds, ratios[name], f"≤ {TARGET}" if name == "faithgen" else None),
            *(over_ours[name], shares[name], *ways.counts[name]),
        ]
        for name, seconds in times.items()
    ]
    columns = ["way", "s", "÷ plain generate", "target", "÷ plain, ours", "roofline", "prompt", "scored"]
    table(columns, rows)
    figures = {"seconds": times, "ratios": ratios, "over_ours": over_ours, "roofline": shares, "target": TARGET}
    counts = {name: dict(zip(("prompt", "scored"), pair, strict=True)) for name, pair in ways.counts.items()}
    if ways.changed:
        print(f"prompts of another length than in the first run: {sorted(ways.changed)}")
    report("end_to_end", {**setting, **figures, "token_counts": counts, "shapes_changed": sorted(ways.changed)})


def many(generator: FaithfulGenerator, options: argparse.Namespace, filtering: FilterConfig, setting: dict) -> None:
    """Batched against one by one; the documents differ, and what is kept of them is forgotten before each round."""
    requests = [
        (QUESTION, example_documents(generator.builder, options.tokens, seed)) for seed in range(options.questions)
    ]
    arguments = {"max_new_tokens": options.new, "filter": filtering}
    tokens: dict[str, list[int]] = {}
    changed: set[str] = set()

    def one_by_one() -> None:
        forget(generator.loaded.model)
        note("one by one", [generator.generate(*request, **arguments) for request in requests])

    def batched() -> None:
        forget(generator.loaded.model)
        note("batched", generator.generate_batch(requests, batch_size=options.batch_size, **arguments))

    def note(name: str, answers: list[Answer]) -> None:
        found = [counts_of(answer)[0] for answer in answers]
        if {len(answer.tokens) for answer in answers} != {options.new}:
            raise SystemExit(f"{name}: answers of other lengths than {options.new}")
        if tokens.setdefault(name, found) != found:
            changed.add(name)

    times = interleaved({"one by one": one_by_one, "batched": batched}, options.repeats)
    model = generator.loaded.model
    ratio, target = times["one by one"] / times["batched"], 8 if model.device.type == "cuda" else 2
    print(f"{generator.loaded.model_id}, {len(requests)} questions, {options.new} new tokens each")
    roofline = Roofline.of(model)
    prompt = sum(tokens["batched"]) / len(requests)
    step = roofline.step(model, prompt + options.new / 2)
    shares = {name: len(requests) * options.new * step / seconds for name, seconds in times.items()}
    rows = [
        [
            *(name, seconds, len(requests) * options.new / seconds, times["one by one"] / seconds),
            *(f"≥ {target}" if name == "batched" else None, shares[name]),
        ]
        for name, seconds in times.items()
    ]
    columns = ["way", "s", "tokens/s", "x one by one", "target", "x the roofline of one row's steps"]
    table(columns, rows)
    figures = {"questions": len(requests), "batch_size": options.batch_size, "seconds": times, "speedup": ratio}
    if changed:
        print(f"prompts of another length than in the first run: {sorted(changed)}")
    figures |= {"target": target, "over_one_row": shares, "shapes_changed": sorted(changed)}
    report("throughput", {**setting, **figures})


if __name__ == "__main__":
    main()
