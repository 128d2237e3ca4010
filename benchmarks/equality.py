"""Whether the fast ways give the tokens of the plain formula: two forwards a step, each branch with a cache of its own.

    python benchmarks/equality.py --prompts 20 --new 64 --dtype float32
    python benchmarks/equality.py --prompts 20 --new 64 --dtype bfloat16

Greedy contrast of masked heads on the packaged examples. In float32 all must agree. In bfloat16 two ways round differently,
so a near tie may fall either way: for each answer that parts, `margin` is how far the formula's two best tokens lie apart at
that place, in nats, and `behind` how far the token taken instead is behind the best. Logits of about 20 come in steps of
0.06 to 0.12 in bfloat16: a margin of that order is rounding.
"""

import argparse
import json

import torch
from common import EXAMPLES, progress, report

from faithgen import ContrastConfig, hf
from faithgen.decoding.contrast import combine
from faithgen.decoding.engine import PairDecoder, PairPrompt
from faithgen.documents import Document
from faithgen.heads.ablation import mask_heads
from faithgen.heads.resolve import resolve_heads
from faithgen.models import load_model
from faithgen.prompting import PromptBuilder


def make_prompts(builder: PromptBuilder, count: int) -> list[list[int]]:
    """Questions about the example documents, a few of them in each prompt."""
    files = sorted(path for path in EXAMPLES.iterdir() if path.suffix in (".txt", ".md"))
    documents = [Document(path.read_text(encoding="utf-8")[:1500], path.stem, path.stem) for path in files]
    asked = ["What is said of the {}?", "When did the {} begin?", "Who runs the {}?", "What does the {} cost?"]
    made = []
    for index in range(count):
        chosen = [documents[(index + step) % len(documents)] for step in range(1 + index % 3)]
        question = asked[index // len(documents) % len(asked)].format(chosen[-1].id)
        made.append(builder.build(question, chosen).input_ids)
    return made


@torch.inference_mode()
def formula(
    model, ids: list[int], heads, contrast: ContrastConfig, count: int
) -> tuple[list[int], list[torch.Tensor]]:
    """Tokens and scores `[V]` of each step, by two forwards a step."""
    prefix = torch.tensor([ids], device=model.device)
    caches = [hf.new_cache(), hf.new_cache()]
    for cache in caches:
        model(input_ids=prefix[:, :-1], past_key_values=cache, logits_to_keep=1)
    last, tokens, scores = prefix[:, -1:], [], []
    for _ in range(count):
        first = model(input_ids=last, past_key_values=caches[0]).logits[:, -1]
        with mask_heads(model, heads):
            second = model(input_ids=last, past_key_values=caches[1]).logits[:, -1]
        scores.append(combine(first.float().log_softmax(-1), second.float().log_softmax(-1), contrast)[0])
        tokens.append(int(scores[-1].argmax()))
        last = torch.tensor([[tokens[-1]]], device=model.device)
    return tokens, scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--alpha", type=float, default=0.5)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--compiled", action="store_true", help="The compiled step, too.")
    parser.add_argument("--ways", nargs="+", help="Some of the ways only; by default all.")
    options = parser.parse_args()
    loaded = load_model(options.model, dtype=options.dtype)
    model, contrast = loaded.model, ContrastConfig(source="heads", alpha=options.alpha)
    shape = hf.head_shape(model)
    heads = resolve_heads(loaded)[1].top(contrast.heads_to_mask(shape.num_layers * shape.num_heads))
    prompts = make_prompts(PromptBuilder(loaded.tokenizer, hf.context_window(model)), options.prompts)
    ways: dict[str, dict] = {
        "tree": {"branches": "tree"},
        "rows": {"branches": "rows"},
        "tree in 4 slots": {"branches": "tree", "slots": 4},
    }
    if options.compiled:
        ways["compiled"] = {"compiled": True}
        ways["compiled in 4 slots"] = {"compiled": True, "slots": 4}
    if options.ways:
        if unknown := set(options.ways) - set(ways):
            parser.error(f"no such ways: {', '.join(sorted(unknown))}; there are: {', '.join(ways)}")
        ways = {name: how for name, how in ways.items() if name in options.ways}
    expected = [formula(model, ids, heads, contrast, options.new) for ids in progress(prompts)]
    figures = {}
    for name, how in ways.items():
        batches = [[ids] for ids in prompts] if "slots" not in how else [prompts]
        found: list[list[int]] = []
        for batch in batches:
            rows: list[list[int]] = [[] for _ in batch]
            pairs = [PairPrompt(ids, ids) for ids in batch]
            limits = {"max_new_tokens": options.new, "end_tokens": [], "masked_heads": heads}
            for step in PairDecoder(model, pairs, contrast, **limits, **how):
                for row in step:
                    rows[row.question].append(row.token)
            found += rows
        margins = []
        for (tokens, scores), other in zip(expected, found, strict=True):
            place = next((i for i, pair in enumerate(zip(tokens, other, strict=True)) if len(set(pair)) > 1), None)
            if place is not None:
                best, second = scores[place].topk(2).values.tolist()
                taken = float(scores[place][other[place]])
                margins.append({"token": place, "margin": best - second, "behind": best - taken})
        figures[name] = {"same": len(prompts) - len(margins), "of": len(prompts), "parted": margins}
        print(f"| {name:20} | {figures[name]['same']} of {len(prompts)} the same |", json.dumps(margins))
    report("equality", {"model": loaded.model_id, "dtype": options.dtype, "new": options.new, "ways": figures})


if __name__ == "__main__":
    main()
