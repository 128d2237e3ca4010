"""What a scoring prefill and a whole ranking cost beside a plain prefill, and how much memory reading attention takes.

    python benchmarks/prefill.py --tokens 1500 6000
    python benchmarks/prefill.py --tokens 4000 --heads 16 --depth 0.6
    python benchmarks/prefill.py --shape 8b --tokens 4000 32000 --heads 16      # random weights, for timing on a GPU

All read 20 documents and a question. `plain` is the model's own sdpa prefill (logits of the last position only); `scoring`
stops in the deepest scoring head's layer and reads the heads' attention from the question's rows; `calibrated` is that with
the content-free question read on top; `ranking` is what a first-time user waits for (`rank_documents`: calibrated, long
inputs in groups, the best read once more), `second question` another question about the same documents, whose keys and
values are kept. `output_attentions` is the naive way: an eager prefill that returns every attention matrix, where they fit.

Memory is the growth of the peak over the memory at the start: of a whole prefill that captures, less that of a plain one,
beside the same for an eager prefill (which holds one layer's n x n weights at a time).
"""

import argparse
from typing import Any

import torch
from common import example_documents, forget, give_memory_back, interleaved, peak_growth, report, table
from roofline import Roofline
from shapes import DEPTH, SHAPES, heads_to_depth, load

from faithgen import hf
from faithgen.documents import Document
from faithgen.filtering.attention import document_attention
from faithgen.filtering.coarse import FilterConfig, Ranking, rank_documents
from faithgen.filtering.prefix_store import prefix_store
from faithgen.heads.capture import AttentionCapture
from faithgen.heads.head_set import Head
from faithgen.models import LoadedModel
from faithgen.prompting import Prompt, PromptBuilder

QUESTION, SECOND = "Who founded the town library of Skarnholm?", "When does the ferry leave in winter?"


class Ways:
    """The ways to read one prompt; each is a task that can be timed.

    Args:
        loaded ([`LoadedModel`]), heads (`list[tuple[int, int]]`): the model, and the heads that score.
        documents (`list[Document]`): what is asked about.
        config ([`FilterConfig`]): of the ranking.
    """

    def __init__(self, loaded: LoadedModel, heads: list[Head], documents: list[Document], config: FilterConfig):
        self.model, self.heads, self.documents, self.config = loaded.model, heads, documents, config
        self.builder = PromptBuilder(loaded.tokenizer, hf.context_window(loaded.model))
        self.prompt: Prompt = self.builder.build(QUESTION, documents)
        device = hf.device_of(self.model)
        self.ids = torch.tensor([self.prompt.input_ids], device=device)
        self.rows = torch.arange(*self.prompt.question, device=device)
        self.segments = torch.full_like(self.ids, -1)
        for index, document in enumerate(self.prompt.documents):
            self.segments[0, slice(*document.span)] = index
        self.rankings: dict[str, Ranking] = {}
        self.hits = 0

    @torch.inference_mode()
    def plain(self) -> None:
        self.model(input_ids=self.ids, use_cache=False, logits_to_keep=1)

    @torch.inference_mode()
    def scoring(self, early_exit: bool = True) -> torch.Tensor:
        """Attention `[H, D]` of the heads to the documents."""
        to_documents: Any = {"segments": self.segments, "num_documents": len(self.documents), "keep": "documents"}
        with AttentionCapture(self.model, self.heads, self.rows, early_exit=early_exit, **to_documents) as capture:
            capture.run(input_ids=self.ids, use_cache=False, logits_to_keep=1)
        return capture.result()[0]

    def calibrated(self) -> None:
        document_attention(self.model, self.builder, self.heads, QUESTION, self.documents, calibrate=True)

    def ranking(self) -> None:
        forget(self.model)
        self._rank("ranking", QUESTION)

    def second_question(self) -> None:
        """After `ranking`, whose documents are kept."""
        store = prefix_store(self.model, self.config.kept_bytes)
        before = 0 if store is None else store.hits
        self._rank("second question", SECOND)
        self.hits = 0 if store is None else store.hits - before

    def _rank(self, name: str, question: str) -> None:
        found = rank_documents(self.model, self.builder, self.heads, question, self.documents, self.config)
        self.rankings[name] = found

    @torch.inference_mode()
    def output_attentions(self) -> torch.Tensor:
        """The same as `scoring`, out of the attention matrices of all layers."""
        self.model.set_attn_implementation("eager")
        try:
            found = self.model(
                input_ids=self.ids, use_cache=False, logits_to_keep=1, output_attentions=True
            ).attentions
        finally:
            self.model.set_attn_implementation("sdpa")
        columns = [self.segments[0] == index for index in range(len(self.documents))]
        asked = torch.stack([found[layer][0, head, self.rows].float().mean(0) for layer, head in self.heads])
        return torch.stack([asked[:, column].sum(1) for column in columns], dim=1)

    @torch.inference_mode()
    def eager(self) -> None:
        self.model.set_attn_implementation("eager")
        try:
            self.plain()
        finally:
            self.model.set_attn_implementation("sdpa")

    def matrices_fit(self) -> bool:
        """Whether the attention matrices of all layers fit in free memory, with a layer's scores in fp32 beside them."""
        shape = hf.head_shape(self.model)
        needed = shape.num_heads * self.ids.shape[1] ** 2 * (shape.num_layers * self.model.dtype.itemsize + 12)
        return needed < 0.6 * free_memory(self.model.device)


def free_memory(device: torch.device) -> float:
    """Bytes that are free on the device, or in memory."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return torch.cuda.mem_get_info()[0] + unused
    with open("/proc/meminfo") as lines:
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))


def measure(ways: Ways, options: argparse.Namespace, roofline: Roofline, depth: float) -> dict[str, Any]:
    """Seconds, ratios and shares of the roofline of all ways, and the memory of capturing."""
    model, count = ways.model, ways.ids.shape[1]
    tasks = {"plain": ways.plain, "scoring": ways.scoring, "calibrated": ways.calibrated}
    tasks |= {"ranking": ways.ranking, "second question": ways.second_question}
    if not options.no_eager and ways.matrices_fit():
        tasks["output_attentions"] = ways.output_attentions
    times = interleaved(tasks, options.repeats)
    least = {
        name: roofline.prefill(model, count, 1.0 if name in ("plain", "output_attentions") else depth)
        for name in times
    }
    for name, ranking in ways.rankings.items():  # in groups attention costs less than that of all together
        least[name] = roofline.prefill(model, ranking.prefill_tokens, depth, attention=False)
    figures: dict[str, Any] = {
        "prompt_tokens": count,
        "seconds": times,
        "over_plain": {name: seconds / times["plain"] for name, seconds in times.items()},
        "second_over_first": times["second question"] / times["ranking"],
        "second_question_hits": ways.hits,
        "tokens_read": {name: ranking.prefill_tokens for name, ranking in ways.rankings.items()},
        "roofline": {name: least[name] / times[name] for name in times},
    }
    forget(model)
    base = peak_growth(ways.plain)
    figures["plain_mib"], figures["capture_extra_mib"] = (
        base,
        max(0.0, peak_growth(lambda: ways.scoring(False)) - base),
    )
    figures["capture_extra_over_plain"] = figures["capture_extra_mib"] / max(base, 1e-9)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="With --shape, the one whose tokenizer is taken.")
    parser.add_argument("--shape", choices=SHAPES, help="Random weights of this shape in place of a model's.")
    parser.add_argument("--tokens", type=int, nargs="+", default=[1500, 6000], help="Of the documents together.")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--heads", type=int, help="So many scoring heads, down to --depth; else those of the default.")
    parser.add_argument("--depth", type=float, default=DEPTH, help="Share of the layers that --heads reads.")
    parser.add_argument("--kept-mib", type=int, help="For the second question; else the default.")
    parser.add_argument("--no-eager", action="store_true", help="Leave out eager attention, its time and its memory.")
    options = parser.parse_args()
    loaded, scoring, _ = load(options.model, options.shape)
    model = loaded.model
    config = FilterConfig(kept_bytes=None if options.kept_mib is None else options.kept_mib << 20)
    heads = config.scoring_heads(scoring)
    if options.heads:
        heads = heads_to_depth(scoring, options.heads, options.depth)
    layers, deepest = hf.head_shape(model).num_layers, max(layer for layer, _ in heads)
    depth = (deepest + 1) / layers
    target = depth + 0.08
    if (options.heads, options.depth) == (16, DEPTH):
        target = 0.65 if model.device.type == "cuda" else 0.68
    print(f"{loaded.model_id}: {len(heads)} scoring heads, the deepest in layer {deepest} of {layers}")
    roofline, found = Roofline.of(model), {}
    builder = PromptBuilder(loaded.tokenizer, hf.context_window(model))
    for tokens in options.tokens:
        ways = Ways(loaded, heads, example_documents(builder, tokens), config)
        figures = found[tokens] = measure(ways, options, roofline, depth)
        print(f"\n{figures['prompt_tokens']} tokens, medians of {options.repeats}")
        rows = [
            [
                *(name, seconds, figures["over_plain"][name], f"≤ {target:.2f}" if name == "scoring" else None),
                *(figures["roofline"][name], figures["tokens_read"].get(name)),
            ]
            for name, seconds in figures["seconds"].items()
        ]
        table(["way", "s", "÷ plain", "target", "roofline", "tokens read"], rows)
        line = f"second question ÷ first: {figures['second_over_first']:.3f}, kept prefixes used: "
        line += f"{figures['second_question_hits']}; memory above a plain prefill: capture "
        line += f"{figures['capture_extra_mib']:.1f} MiB ({figures['capture_extra_over_plain']:.1%} of "
        line += f"{figures['plain_mib']:.0f} MiB, target ≤ 1 % at 32K)"
        if not options.no_eager and tokens == max(options.tokens):
            eager = max(1e-9, peak_growth(ways.eager) - figures["plain_mib"])
            figures |= {"eager_extra_mib": eager, "memory_ratio": figures["capture_extra_mib"] / eager}
            line += f", eager {eager:.0f} MiB"
        print(line)
    setting = {"heads": len(heads), "depth": depth, "target": target, "dtype": str(model.dtype)}
    report("prefill", {"model": loaded.model_id, **setting, "figures": found})


if __name__ == "__main__":
    give_memory_back()
    main()
