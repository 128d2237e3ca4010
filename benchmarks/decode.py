"""What two branches cost: pair decoding against our own plain decoding and against transformers' `guidance_scale`.

    python benchmarks/decode.py --tokens 1500 --new 32
    python benchmarks/decode.py --shape 8b --tokens 4000 --compiled      # random weights, for timing on a GPU

`pair` has a control token in its second branch, `heads` masked retrieval heads there (the default of an untrained model:
`alpha` 0, so its tokens are those of `plain`); both store the prefix once. `rows` is the pair with a copy of the prefix for
each branch; `loop` runs two plain forwards a step, each with its own cache, as a DeCoRe or CAD loop does. `--compiled` adds
the compiled step; what is compiled is divided by `plain compiled`. The roofline share is the time that a copy of as many
bytes as a step of one row must read would take.

All decode the same prompt greedily in one run, in turns. A step is what lies between two tokens; the median of a run's steps
leaves the prefill out. Pair decoding and `guidance_scale` must agree in float32; in bfloat16 rounding may part them at a
near tie. `guidance_scale` runs as transformers ships it: our packed weights serve in our own steps only.
"""

import argparse
import itertools
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

import torch
from common import interleaved, report, table
from roofline import copy_bandwidth, step_bytes
from shapes import SHAPES, load
from transformers import LogitsProcessor, LogitsProcessorList

from faithgen import ContrastConfig, hf
from faithgen.decoding.engine import PairDecoder, PairPrompt

LONG = 8192
"""Prompt tokens from which on the GPU's target for long contexts holds."""


class Clock(LogitsProcessor):
    """Changes nothing; notes when each token's logits are there."""

    def __init__(self) -> None:
        self.stamps: list[float] = []

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        self.stamps.append(time.perf_counter())
        return scores


def targets(device: str, tokens: int) -> dict[str, float]:
    """What the fourth issue asks for: of a pair over plain, of plain's roofline, of a pair's speed over `guidance_scale`."""
    if device == "cuda":
        return {"over_plain": 1.15 if tokens > LONG else 1.08, "roofline": 0.75, "over_guidance": 4.0}
    return {"over_plain": 1.25, "roofline": 0.5, "over_guidance": 2.0}


def plain_of(name: str) -> str:
    """The plain way that a way is divided by."""
    return "plain compiled" if name.endswith("compiled") else "plain"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="With --shape, the one whose tokenizer is taken.")
    parser.add_argument("--shape", choices=SHAPES, help="Random weights of this shape in place of a model's.")
    parser.add_argument("--tokens", type=int, default=1500)
    parser.add_argument("--new", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--alpha", type=float, default=0.2)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--ways", nargs="+", help="Some of the ways only, beside plain; by default all.")
    parser.add_argument("--compiled", action="store_true", help="Time the compiled step, too.")
    options = parser.parse_args()
    loaded, _, copying = load(options.model, options.shape, options.dtype)
    model = loaded.model
    watched, shape = copying.top(8), hf.head_shape(model)
    signal = ContrastConfig(source="heads", alpha=0.0)
    masked = copying.top(signal.heads_to_mask(shape.num_layers * shape.num_heads))
    generator = torch.Generator().manual_seed(0)
    prompt = torch.randint(5, model.config.vocab_size, (options.tokens,), generator=generator).tolist()
    faithful, unfaithful = [*prompt, 11, 12, 13], [*prompt, 14, 12, 13]  # a control slot near the end
    contrast = ContrastConfig(source="control", alpha=options.alpha)
    outputs: dict[str, list[int]] = {}

    steps: dict[str, list[float]] = defaultdict(list)  # the median step of each run, in seconds

    def timed(name: str, tokens: Iterable[int]) -> None:
        chosen, stamps = [], []
        for token in tokens:
            chosen.append(token)
            stamps.append(time.perf_counter())
        outputs[name] = chosen
        steps[name].append(statistics.median(after - before for before, after in itertools.pairwise(stamps[1:])))

    def ours(name: str, other: list[int] | None, contrast: ContrastConfig = contrast, **how) -> None:
        decoder = PairDecoder(
            model,
            [PairPrompt(faithful, other, documents=[(0, options.tokens)])],
            contrast,
            max_new_tokens=options.new,
            end_tokens=[],
            **how,
        )
        timed(name, (rows[0].token for rows in decoder))

    def guidance() -> None:
        ids = torch.tensor([faithful], device=model.device)
        clock = Clock()
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            negative_prompt_ids=torch.tensor([unfaithful], device=model.device),
            guidance_scale=1 + options.alpha,
            logits_processor=LogitsProcessorList([clock]),
            max_new_tokens=options.new,
            min_new_tokens=options.new,
            do_sample=False,
        )
        outputs["guidance"] = out[0, len(faithful) :].tolist()
        steps["guidance"].append(
            statistics.median(after - before for before, after in itertools.pairwise(clock.stamps[1:]))
        )

    @torch.inference_mode()
    def loop() -> Iterator[int]:
        """The formula, with two forwards a step."""
        caches, rows = [hf.new_cache(), hf.new_cache()], [faithful, unfaithful]
        for _ in range(options.new):
            logits = [
                model(
                    input_ids=torch.tensor([ids], device=model.device), past_key_values=cache, logits_to_keep=1
                ).logits
                for ids, cache in zip(rows, caches, strict=True)
            ]
            first, second = (one[0, -1].float().log_softmax(-1) for one in logits)
            token = int((first + options.alpha * (first - second)).argmax())
            yield token
            rows = [[token], [token]]

    masking = {"contrast": signal, "masked_heads": masked}
    tasks: dict[str, Callable[[], None]] = {
        "plain": lambda: ours("plain", None),
        "pair": lambda: ours("pair", unfaithful),
        "heads": lambda: ours("heads", faithful, **masking),
        "rows": lambda: ours("rows", unfaithful, branches="rows"),
        "loop": lambda: timed("loop", loop()),
        "pair with context share": lambda: ours("pair with context share", unfaithful, watched_heads=watched),
        "guidance": guidance,
    }
    if options.compiled:
        tasks["plain compiled"] = lambda: ours("plain compiled", None, compiled=True)
        tasks["pair compiled"] = lambda: ours("pair compiled", unfaithful, compiled=True)
        tasks["heads compiled"] = lambda: ours("heads compiled", faithful, **masking, compiled=True)
    if options.ways:
        wanted = {"plain", *options.ways, *map(plain_of, options.ways)}
        tasks = {name: task for name, task in tasks.items() if name in wanted}
    whole = interleaved(tasks, options.repeats)
    step = {name: statistics.median(values[1:]) for name, values in steps.items()}  # the first run warms up
    target = targets(model.device.type, options.tokens)
    least = step_bytes(model, options.tokens) / copy_bandwidth(model.device)
    figures: dict = {
        "ms_per_token": {name: 1000 * value for name, value in step.items()},
        "over_plain": {name: value / step[plain_of(name)] for name, value in step.items()},
        "roofline": {name: least / value for name, value in step.items()},
        "over_guidance": {},
        "over_guidance_with_prefill": {},
        "targets": target,
    }
    pairs = [name for name in ("pair", "pair compiled") if name in step and "guidance" in step]
    for name in pairs:
        figures["over_guidance"][name] = step["guidance"] / step[name]
        figures["over_guidance_with_prefill"][name] = whole["guidance"] / whole[name]
    print(f"{loaded.model_id}, {options.tokens} prompt tokens, {options.new} new, medians of {options.repeats}")
    rows = []
    for name in step:
        plain, counted = name == plain_of(name), name.split()[0] in ("pair", "heads")
        speedup = figures["over_guidance"].get(name)
        rows.append(
            [
                *(name, figures["ms_per_token"][name], figures["over_plain"][name]),
                f"≤ {target['over_plain']}" if counted and "context" not in name else None,
                *(figures["roofline"][name], f"≥ {target['roofline']}" if plain else None),
                *(speedup, f"≥ {target['over_guidance']}" if speedup else None),
            ]
        )
    columns = ["way", "ms a token", "÷ its plain", "target", "roofline of one row", "target", "x guidance", "target"]
    table(columns, rows)
    for name in pairs:
        ahead = figures["over_guidance_with_prefill"][name]
        print(
            f"{name}: {figures['over_guidance'][name]:.2f} x the tokens/s of guidance_scale ({ahead:.2f} x with prefill)"
        )
    same = {}
    for name, tokens in outputs.items():
        like = "plain" if name == plain_of(name) or name.startswith("heads") else "pair"
        if name != like and like in outputs:
            same[name] = tokens == outputs[like]
    figures["same_tokens"] = same
    print(f"tokens of the way they should be those of, plain or pair: {[name for name in same if same[name]]}")
    setting = {"tokens": options.tokens, "new": options.new, "dtype": str(model.dtype)}
    report("decode", {"model": loaded.model_id, **setting, **figures})


if __name__ == "__main__":
    main()
