"""From documents to the whole answer: rank, filter, two branches, against the same model's plain answer over all of them.

    python benchmarks/end_to_end.py --tokens 6000 --new 200
    python benchmarks/end_to_end.py --tokens 6000 --new 200 --questions 64 --batch-size 16

`plain` is `model.generate` on a prompt with all documents, `ours, all documents` our own decoding of it, `faithgen` the
default (its second branch runs, be `alpha` 0 or not), `same documents` the default asked once more about the same documents.
All write exactly `--new` tokens. With `--questions`, many questions about as many sets of documents, batched and one by one.
"""

import argparse
import random
import re
from pathlib import Path

import torch
from common import interleaved, report

from faithgen import ContrastConfig, FaithfulGenerator, FilterConfig, hf
from faithgen.documents import Document
from faithgen.filtering.prefix_store import prefix_store

EXAMPLES = Path(__file__).parents[1] / "examples" / "documents"
QUESTION = "Who founded the town library of Skarnholm?"


def make_documents(generator: FaithfulGenerator, tokens: int, seed: int, count: int = 20) -> list[Document]:
    """`count` documents of the examples' sentences in a random order, `tokens` of them in the prompt (± 2 %)."""
    text = " ".join(
        path.read_text(encoding="utf-8") for path in sorted(EXAMPLES.glob("*.txt")) + sorted(EXAMPLES.glob("*.md"))
    )
    sentences = [one.strip() for one in re.split(r"(?<=[.!?])\s+", text) if one.strip()]
    shuffled = random.Random(seed)
    room, documents = tokens / count, []
    for index in range(count):
        body: list[str] = []
        while generator.builder.document_tokens(Document(" ".join(body) or "a")) < room:
            body.append(shuffled.choice(sentences))
        documents.append(Document(" ".join(body[:-1]) or body[0], str(index)))
    return documents


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--tokens", type=int, default=6000)
    parser.add_argument("--new", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--questions", type=int, default=0, help="Time a batch of so many questions instead.")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--compiled", action="store_true")
    options = parser.parse_args()
    generator = FaithfulGenerator.from_pretrained(options.model, compiled=options.compiled)
    generator._ends = frozenset()  # every answer has the same length
    model = generator.loaded.model
    setting = {
        "model": generator.loaded.model_id,
        "tokens": options.tokens,
        "new": options.new,
        "dtype": str(model.dtype),
    }
    if options.questions:
        many(generator, options, setting)
        return
    documents = make_documents(generator, options.tokens, 0)
    prompt = generator.builder.build(QUESTION, documents, reserve=options.new).input_ids
    ids = torch.tensor([prompt], device=hf.device_of(model))
    contrast, kept = ContrastConfig(), {}

    def plain() -> None:
        model.generate(ids, max_new_tokens=options.new, min_new_tokens=options.new, do_sample=False)

    def ours(name: str, filtering: FilterConfig, contrast: ContrastConfig, fresh: bool = True) -> None:
        if fresh and (store := prefix_store(model, filtering.kept_bytes)) is not None:
            store.shrink(0)
        answer = generator.generate(
            QUESTION, documents, filter=filtering, contrast=contrast, max_new_tokens=options.new
        )
        kept[name] = (answer.timings["prompt_tokens"], answer.timings["scored_tokens"], len(answer.tokens))

    off, none = FilterConfig(enabled=False), ContrastConfig(source="none")
    times = interleaved(
        {
            "plain": plain,
            "ours, all documents": lambda: ours("ours, all documents", off, none),
            "faithgen": lambda: ours("faithgen", FilterConfig(), contrast),
            "faithgen, one branch": lambda: ours("faithgen, one branch", FilterConfig(), none),
            "same documents": lambda: ours("same documents", FilterConfig(), contrast, fresh=False),
        },
        options.repeats,
    )
    print(f"{generator.loaded.model_id}, {len(prompt)} prompt tokens with all documents, {options.new} new")
    for name, seconds in times.items():
        line = f"| {name:22} | {seconds:7.2f} s | {seconds / times['plain']:.2f} x plain |"
        if name in kept:
            line += f" prompt {kept[name][0]:.0f}, scored {kept[name][1]:.0f}, new {kept[name][2]} |"
        print(line)
    ratios = {name: seconds / times["plain"] for name, seconds in times.items()}
    report("end_to_end", {**setting, "prompt": len(prompt), "seconds": times, "ratios": ratios})


def many(generator: FaithfulGenerator, options: argparse.Namespace, setting: dict) -> None:
    """Batched against one by one; the documents differ, so that nothing is remembered."""
    requests = [(QUESTION, make_documents(generator, options.tokens, seed)) for seed in range(options.questions)]
    arguments = {"max_new_tokens": options.new, "filter": FilterConfig(kept_bytes=0)}
    times = interleaved(
        {
            "one by one": lambda: [generator.generate(*request, **arguments) for request in requests],
            "batched": lambda: generator.generate_batch(requests, batch_size=options.batch_size, **arguments),
        },
        options.repeats,
    )
    ratio = times["one by one"] / times["batched"]
    for name, seconds in times.items():
        print(f"| {name:12} | {seconds:7.1f} s | {len(requests) * options.new / seconds:6.1f} tokens/s |")
    print(
        f"batched ({options.batch_size} slots): {ratio:.2f} x the throughput of {len(requests)} questions one by one"
    )
    figures = {"questions": len(requests), "batch_size": options.batch_size, "seconds": times, "speedup": ratio}
    report("throughput", {**setting, **figures})


if __name__ == "__main__":
    main()
