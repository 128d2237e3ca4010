"""What a scoring prefill costs beside a plain one, and how much memory reading attention takes.

    python benchmarks/prefill.py --tokens 1500 6000

`plain` is the model's own sdpa prefill (logits of the last position only); `scoring` stops in the deepest of the four
scoring heads' layers and reads their attention from 16 question rows. Memory is the growth of the peak over the memory
at the start: of a whole prefill that captures, less that of a plain one, beside the same for an eager prefill (which holds
one layer's n x n weights at a time; `output_attentions=True` would keep those of all layers).
"""

import argparse

import torch
from common import give_memory_back, interleaved, matrix_rate, peak_growth, prefill_operations, report

from faithgen import hf
from faithgen.filtering.coarse import FilterConfig
from faithgen.heads.capture import AttentionCapture
from faithgen.heads.resolve import resolve_heads
from faithgen.models import load_model


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--tokens", type=int, nargs="+", default=[1500, 6000])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-eager", action="store_true", help="Leave out the eager path's memory.")
    options = parser.parse_args()
    loaded = load_model(options.model)
    model, device = loaded.model, hf.device_of(loaded.model)
    heads = FilterConfig().scoring_heads(resolve_heads(loaded)[0])
    layers = hf.head_shape(model).num_layers
    deepest = max(layer for layer, _ in heads)
    target = (deepest + 1) / layers + 0.08
    print(f"{loaded.model_id}: deepest scoring layer {deepest} of {layers}, target ratio {target:.2f}")
    generator = torch.Generator().manual_seed(0)
    figures = {}
    rate = matrix_rate(device, model.dtype)
    for count in options.tokens:
        ids = torch.randint(5, model.config.vocab_size, (1, count), generator=generator).to(device)
        rows = torch.arange(count - 24, count - 8, device=device)
        segments = (torch.arange(count, device=device) * 20 // count)[None]

        def synchronised(task):
            def run():
                task()
                if torch.cuda.is_available():
                    torch.cuda.synchronize()

            return run

        def plain(ids=ids):
            model(input_ids=ids, use_cache=False, logits_to_keep=1)

        def captured(early_exit: bool, ids=ids, rows=rows, segments=segments):
            capture = AttentionCapture(
                model, heads, rows, keep="documents", segments=segments, num_documents=20, early_exit=early_exit
            )
            with capture:
                capture.run(input_ids=ids, use_cache=False, logits_to_keep=1)
            capture.result()

        times = interleaved(
            {"plain": synchronised(plain), "scoring": synchronised(lambda: captured(True))}, options.repeats
        )
        ratio = times["scoring"] / times["plain"]
        base = peak_growth(plain)
        extra = max(0.0, peak_growth(lambda: captured(False)) - base)
        least = {"plain": prefill_operations(model, count) / rate}
        least["scoring"] = prefill_operations(model, count, (deepest + 1) / layers) / rate
        shares = {name: least[name] / times[name] for name in least}
        line = f"{count} tokens: plain {times['plain']:.3f} s, scoring {times['scoring']:.3f} s, ratio {ratio:.3f}"
        line += f"; of the matrix rate {shares['plain']:.2f} and {shares['scoring']:.2f}"
        figures[count] = {"plain_s": times["plain"], "ratio": ratio, "target": target, "capture_extra_mib": extra}
        figures[count] |= {"roofline": shares}
        if not options.no_eager and count == max(options.tokens):
            model.set_attn_implementation("eager")
            eager = peak_growth(plain)
            model.set_attn_implementation("sdpa")
            eager_extra = max(1e-9, eager - base)
            figures[count] |= {"eager_extra_mib": eager_extra, "memory_ratio": extra / eager_extra}
            line += f"; memory above plain: capture {extra:.1f} MiB, eager {eager_extra:.0f} MiB"
        print(line)
    report("prefill", {"model": loaded.model_id, "figures": figures})


if __name__ == "__main__":
    give_memory_back()
    main()
