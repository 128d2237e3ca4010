"""What two branches cost: pair decoding against our own plain decoding and against transformers' `guidance_scale`.

    python benchmarks/decode.py --tokens 1500 --new 32

`rows` is the pair with a copy of the prefix for each branch, `pair` stores it once; `loop` runs two plain forwards a
step, each with its own cache, as a DeCoRe or CAD loop does. `--compiled` adds the compiled step. The roofline share is
the time that a copy of as many bytes as a step must read would take.

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
from common import copy_bandwidth, interleaved, report, step_bytes
from transformers import LogitsProcessor, LogitsProcessorList

from faithgen import ContrastConfig, hf
from faithgen.decoding.engine import PairDecoder, PairPrompt
from faithgen.heads.resolve import resolve_heads
from faithgen.models import load_model


class Clock(LogitsProcessor):
    """Changes nothing; notes when each token's logits are there."""

    def __init__(self) -> None:
        self.stamps: list[float] = []

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        self.stamps.append(time.perf_counter())
        return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--tokens", type=int, default=1500)
    parser.add_argument("--new", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--alpha", type=float, default=0.2)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--ways", nargs="+", help="Some of the ways only, beside plain; by default all.")
    parser.add_argument("--compiled", action="store_true", help="Time the compiled step, too.")
    options = parser.parse_args()
    loaded = load_model(options.model, dtype=options.dtype)
    model = loaded.model
    watched = resolve_heads(loaded)[1].top(8)
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

    def ours(name: str, pair: bool, watch=(), **how) -> None:
        decoder = PairDecoder(
            model,
            [PairPrompt(faithful, unfaithful if pair else None, documents=[(0, options.tokens)])],
            contrast,
            max_new_tokens=options.new,
            end_tokens=[],
            watched_heads=watch,
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

    tasks: dict[str, Callable[[], None]] = {
        "plain": lambda: ours("plain", False),
        "pair": lambda: ours("pair", True),
        "rows": lambda: ours("rows", True, branches="rows"),
        "loop": lambda: timed("loop", loop()),
        "pair with context share": lambda: ours("pair with context share", True, watched),
        "guidance": guidance,
    }
    if options.compiled:
        tasks["plain compiled"] = lambda: ours("plain compiled", False, compiled=True)
        tasks["pair compiled"] = lambda: ours("pair compiled", True, compiled=True)
    if options.ways:
        tasks = {name: task for name, task in tasks.items() if name in {"plain", *options.ways}}
    whole = interleaved(tasks, options.repeats)
    step = {name: statistics.median(values[1:]) for name, values in steps.items()}  # the first run warms up
    print(f"{loaded.model_id}, {options.tokens} prompt tokens, {options.new} new, medians of {options.repeats}")
    least = step_bytes(model, options.tokens) / copy_bandwidth(model.device)
    for name in step:
        line = f"| {name:24} | {1000 * step[name]:7.1f} ms a token | {step[name] / step['plain']:.2f} x plain |"
        print(line + f" {least / step[name]:.2f} of the roofline of one row |")
    figures: dict = {
        "ms_per_token": {name: 1000 * value for name, value in step.items()},
        "over_plain": {name: value / step["plain"] for name, value in step.items()},
        "roofline": {name: least / value for name, value in step.items()},
    }
    if "pair" in step and "guidance" in step:
        speedup, ahead = step["guidance"] / step["pair"], whole["guidance"] / whole["pair"]
        figures |= {"pair_speedup_over_guidance": speedup, "pair_speedup_over_guidance_with_prefill": ahead}
        print(f"pair / guidance_scale: {speedup:.2f} x its tokens/s ({ahead:.2f} x with prefill)")
    if "pair" in outputs:
        same = {name: tokens == outputs["pair"] for name, tokens in outputs.items() if not name.startswith("plain")}
        figures["same_tokens_as_pair"] = same
        print(
            f"the {len(outputs['pair'])} tokens of the pair are also those of: {[name for name in same if same[name]]}"
        )
    setting = {"tokens": options.tokens, "new": options.new, "dtype": str(model.dtype)}
    report("decode", {"model": loaded.model_id, **setting, **figures})


if __name__ == "__main__":
    main()
