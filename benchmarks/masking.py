"""What masking heads does: answers, needles and support against the number of masked heads, beside as many random ones.

    python benchmarks/masking.py --limit 40 --seeds 5 --plot benchmarks/plots/masking.svg

Heads are zeroed in prefill and decoding. `answers`: the gold passage among `--passages` random ones (Natural
Questions), SubEM. `needles`: a sentence in essays, ROUGE-1 recall of its words. `support`: mean lexical support of the
answers' sentences by the passages. Random heads: the mean over the seeds; intervals are over questions.
"""

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np
from common import SHARED, interval, progress, report, show

from faithgen import hf
from faithgen.documents import Document
from faithgen.evaluation.datasets import load_dataset
from faithgen.evaluation.scorers import load_scorer, score_answers, summarise
from faithgen.evaluation.tasks import score_text, task_of
from faithgen.heads.resolve import resolve_heads
from faithgen.models import load_model
from faithgen.prompting import PromptBuilder
from faithgen.training.sampling import EngineSampler

MEASURES = ("answers", "needles", "support")


class Questions:
    """The questions of both kinds with their prompts, and how an arm fares on them."""

    def __init__(self, loaded, options):
        self.loaded, self.batch_size = loaded, options.batch_size
        builder = PromptBuilder(loaded.tokenizer, hf.context_window(loaded.model))
        needles = {"lengths": [options.needle_words], "samples": options.needle_samples}
        self.sets = {
            "answers": load_dataset("nq_random", SHARED, limit=options.limit, passages=options.passages),
            "needles": load_dataset("niah", SHARED, **needles),
        }
        self.prompts = {
            name: [
                builder.build(
                    one.question, [Document(d.text, d.id, d.title) for d in one.documents], reserve=48
                ).input_ids
                for one in examples
            ]
            for name, examples in self.sets.items()
        }
        self.scorer = load_scorer("lexical")

    def fare(self, heads) -> dict[str, list[float]]:
        """Figures of each question with these heads masked, greedily answered."""
        found: dict[str, list[float]] = {name: [] for name in MEASURES}
        for name, examples in self.sets.items():
            task = task_of({"answers": "nq_random", "needles": "niah"}[name], examples)
            sampler = EngineSampler(
                self.loaded, heads, "zero", temperature=0.0, top_p=1.0, max_new_tokens=task.max_new_tokens
            )
            texts = []
            for start in range(0, len(examples), self.batch_size):
                batch = self.prompts[name][start : start + self.batch_size]
                texts += [sample.text for sample in sampler(batch, [0] * len(batch))]
            metric = "sub_em" if name == "answers" else "needle_recall"
            set_name = "nq_random" if name == "answers" else "niah"
            scores = [score_text(set_name, task, text, one)[metric] for text, one in zip(texts, examples, strict=True)]
            found[name] = [float(score or 0) for score in scores]
            if name == "answers":
                documents = [[f"{d.title}\n{d.text}" for d in one.documents] for one in examples]
                sentences = score_answers(self.scorer, texts, documents, [one.question for one in examples])
                found["support"] = [summarise(one).mean or 0.0 for one in sentences]  # nothing said: nothing supported
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--counts", type=int, nargs="+", default=[2, 5, 14, 27, 54], help="Heads masked.")
    parser.add_argument("--seeds", type=int, default=5, help="Draws of random heads.")
    parser.add_argument("--limit", type=int, default=40, help="Questions.")
    parser.add_argument("--passages", type=int, default=3)
    parser.add_argument("--needle-words", type=int, default=400)
    parser.add_argument("--needle-samples", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--kept", type=Path, help="JSONL of figures by arm; arms that are there are not run again.")
    parser.add_argument("--plot", type=Path, help="SVG or PNG of the curves.")
    options = parser.parse_args()
    loaded = load_model(options.model)
    copying = resolve_heads(loaded)[1]
    questions = Questions(loaded, options)
    arms = [("none", 0, 0)] + [
        (kind, count, seed)
        for count in options.counts
        for kind, seeds in (("retrieval", 1), ("random", options.seeds))
        for seed in range(seeds)
    ]
    settings = {n: getattr(options, n) for n in ("model", "limit", "passages", "needle_words", "needle_samples")}
    stamp = hashlib.sha256(json.dumps([settings, copying.scores]).encode()).hexdigest()[:12]
    kept = {}
    if options.kept and options.kept.exists():
        lines = map(json.loads, options.kept.read_text(encoding="utf-8").splitlines())
        kept = {tuple(line["arm"]): line["found"] for line in lines if line["stamp"] == stamp}
    results = {}
    for arm in progress(arms):
        kind, count, seed = arm
        if arm not in kept:
            heads = (copying if kind == "retrieval" else copying.random_like(seed)).top(count) if count else []
            kept[arm] = questions.fare(heads)
            if options.kept:
                with options.kept.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps({"stamp": stamp, "arm": arm, "found": kept[arm]}) + "\n")
        results[arm] = {name: np.array(values) for name, values in kept[arm].items()}
    show_table(results, options, loaded.model_id)


def show_table(results, options, model_id) -> None:
    figures = {}
    shape = {name: len(results["none", 0, 0][name]) for name in MEASURES}
    print(
        "| heads masked | measure | n | retrieval heads | random heads | difference, paired |\n|---|---|---|---|---|---|"
    )
    for name in MEASURES:
        print(f"| 0 | {name} | {shape[name]} | {show(results['none', 0, 0][name])} | | |")
        figures[f"0 {name}"] = interval(results["none", 0, 0][name])
    for count in options.counts:
        for name in MEASURES:
            retrieval = results["retrieval", count, 0][name]
            random = np.mean([results["random", count, seed][name] for seed in range(options.seeds)], axis=0)
            row = [show(retrieval), show(random), show(retrieval - random)]
            print(f"| {count} | {name} | {shape[name]} | {' | '.join(row)} |")
            parts = {"retrieval": retrieval, "random": random, "difference": retrieval - random}
            figures[f"{count} {name}"] = {key: interval(values) for key, values in parts.items()}
    if options.plot:
        draw(figures, options, shape, model_id)
    report("masking", {"model": model_id, "seeds": options.seeds, "n": shape, "figures": figures})


def draw(figures, options, shape, model_id) -> None:
    """Mean with 95 % interval against the number of masked heads."""
    from matplotlib.figure import Figure

    from faithgen.files import replacing

    figure = Figure(figsize=(11, 3.4), layout="constrained")
    titles = {"answers": "answers (SubEM)", "needles": "needles (ROUGE-1 recall)", "support": "support (lexical)"}
    for axes, name in zip(figure.subplots(1, 3), MEASURES, strict=True):
        for kind, colour in (("retrieval", "#b5482a"), ("random", "#5a6b7b")):
            points = [figures[f"0 {name}"], *(figures[f"{count} {name}"][kind] for count in options.counts)]
            mean, low, high = np.array(points).T
            counts = [0, *options.counts]
            axes.fill_between(counts, low, high, color=colour, alpha=0.18, linewidth=0)
            axes.plot(counts, mean, marker="o", color=colour, label=f"{kind} heads")
        axes.set(xlabel="heads masked", title=f"{titles[name]}, n = {shape[name]}", ylim=(0, None))
        axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    figure.suptitle(
        f"{model_id}: masking retrieval heads and as many random ones ({options.seeds} draws)", fontsize=10
    )
    options.plot.parent.mkdir(parents=True, exist_ok=True)
    with replacing(options.plot, suffix=options.plot.suffix) as temporary:
        kind = options.plot.suffix.lstrip(".")
        figure.savefig(temporary, format=kind, metadata={"Date": None} if kind == "svg" else None)


if __name__ == "__main__":
    main()
