"""Memory above the model: a prefill, one that reads attention, one branch and two, with the prefix stored once and twice.

    python benchmarks/memory.py --tokens 6000
    python benchmarks/memory.py --shape 8b --tokens 32000                # random weights, on a GPU

Growth of the peak over the memory before, each in turn and the median of `--repeats`: allocated memory on a GPU, else
resident memory. Steps' packed weights (CPU) are made before and counted by themselves. Prefills are divided by the plain
prefill, decoding by the one branch; the share of the least is what the keys and values alone take of it.
"""

import argparse
import statistics

import torch
from common import give_memory_back, peak_growth, report, table
from roofline import kv_bytes
from shapes import SHAPES, load

from faithgen import ContrastConfig, hf
from faithgen.decoding.engine import PairDecoder, PairPrompt
from faithgen.filtering.coarse import FilterConfig
from faithgen.heads.capture import AttentionCapture

TARGETS = {"prefill with capture": 1.01, "scoring prefill, early exit": 1.01}
"""Of the fourth issue, for 32K tokens on a GPU: scoring memory above a plain prefill."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="With --shape, the one whose tokenizer is taken.")
    parser.add_argument("--shape", choices=SHAPES, help="Random weights of this shape in place of a model's.")
    parser.add_argument("--tokens", type=int, default=6000)
    parser.add_argument("--new", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-guidance", action="store_true", help="Leave out transformers' guidance_scale.")
    options = parser.parse_args()
    loaded, scoring_heads, _ = load(options.model, options.shape)
    model, device, count = loaded.model, hf.device_of(loaded.model), options.tokens
    heads = FilterConfig().scoring_heads(scoring_heads)
    generator = torch.Generator().manual_seed(0)
    prompt = torch.randint(5, model.config.vocab_size, (count,), generator=generator).tolist()
    ids = torch.tensor([prompt], device=device)
    faithful, unfaithful = [*prompt[:-3], 11, 12, 13], [*prompt[:-3], 14, 12, 13]

    @torch.inference_mode()
    def plain() -> None:
        model(input_ids=ids, use_cache=False, logits_to_keep=1)

    @torch.inference_mode()
    def scoring(early_exit: bool) -> None:
        rows = torch.arange(count - 24, count - 8, device=device)
        segments = (torch.arange(count, device=device) * 20 // count)[None]
        options = {"keep": "documents", "segments": segments, "num_documents": 20, "early_exit": early_exit}
        with AttentionCapture(model, heads, rows, **options) as capture:
            capture.run(input_ids=ids, use_cache=False, logits_to_keep=1)
        capture.result()

    def decode(pair: bool, how: str = "auto") -> None:
        one = PairPrompt(faithful, unfaithful if pair else None, documents=[(0, count - 4)])
        contrast = ContrastConfig(source="control", alpha=0.2)
        list(PairDecoder(model, [one], contrast, max_new_tokens=options.new, end_tokens=[], branches=how))

    def guidance() -> None:
        model.generate(
            torch.tensor([faithful], device=device),
            attention_mask=torch.ones(1, count, dtype=torch.long, device=device),
            negative_prompt_ids=torch.tensor([unfaithful], device=device),
            guidance_scale=1.2,
            max_new_tokens=options.new,
            min_new_tokens=options.new,
            do_sample=False,
        )

    packed = peak_growth(lambda: decode(False)) if device.type == "cpu" else 0.0  # with the first answer's own
    tasks = {
        "plain prefill": plain,
        "prefill with capture": lambda: scoring(False),
        "scoring prefill, early exit": lambda: scoring(True),
        "one branch": lambda: decode(False),
        "two branches, prefix once": lambda: decode(True, "tree"),
        "two branches, prefix twice": lambda: decode(True, "rows"),
    }
    if not options.no_guidance:
        tasks["guidance_scale"] = guidance
    found: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(options.repeats):
        for name, task in tasks.items():
            found[name].append(peak_growth(task))
    medians = {name: statistics.median(values) for name, values in found.items()}
    least = count * kv_bytes(model) / 2**20
    print(
        f"{loaded.model_id}, {count} tokens, medians of {options.repeats}; their keys and values alone: {least:.0f} MiB"
    )
    prefills = list(tasks)[:3]
    bases = {name: "plain prefill" if name in prefills else "one branch" for name in tasks}
    ratios = {name: mib / max(medians[bases[name]], 1e-9) for name, mib in medians.items()}
    shares = {name: least / max(mib, 1e-9) for name, mib in medians.items() if name not in prefills}
    rows = []
    for name, mib in medians.items():
        target = f"≤ {TARGETS[name]} at 32K" if name in TARGETS else None
        rows.append([name, f"{mib:.1f}", ratios[name], bases[name], target, shares.get(name)])
    table(["", "MiB", "ratio", "of", "target", "share of the least"], rows)
    print(f"first answer, with the packing of the weights: {packed:.0f} MiB")
    figures = {"mib": medians, "ratios": ratios, "bases": bases, "share_of_least": shares, "kv_mib": least}
    setting = {"model": loaded.model_id, "tokens": count, "dtype": str(model.dtype)}
    report("memory", {**setting, **figures, "targets": TARGETS, "first_answer_mib": packed})


if __name__ == "__main__":
    give_memory_back()
    main()
