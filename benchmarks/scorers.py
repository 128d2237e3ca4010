"""Do faithfulness scorers agree with people? AUROC and balanced accuracy on labelled sets, with clustered intervals.

    python benchmarks/scorers.py                                    # lexical, all sets
    python benchmarks/scorers.py --scorer heads --limit 200 --sets ragtruth_qa_test eli5_webgpt
    python benchmarks/scorers.py --scorer cross_encoder --model outputs/scorer/minilm
    python benchmarks/scorers.py --scores outputs/scorer/left_out --name cross_encoder:minilm --write

The threshold of balanced accuracy is chosen on the other sets, never on the rows it is reported on. `--scores` reads what
the recipes wrote for sets that were left out in training. `--write` keeps the figures in the package (judged.json), which
decides whether the scorer may carry a headline: AUROC of at least 0.65 on every set of answers to questions. Sets that a
scorer was trained or tuned on are marked, and do not count for that.
"""

import argparse
import json
from pathlib import Path

from common import SHARED, report

from faithgen.cli.console import progress_bar
from faithgen.errors import FaithgenError
from faithgen.evaluation.judging import compare, judge
from faithgen.evaluation.scorers import DEFAULT_SCORER, load_scorer
from faithgen.evaluation.scorers.judged import Judgement, headline, save_judged
from faithgen.evaluation.scorers.labelled_sets import LABELLED, load_labelled


def read_scores(folder: Path, names: list[str] | None) -> dict[str, dict[str, float]]:
    """Probabilities by set and claim id, from `SET.jsonl` files of `{"id", "probability"}`."""
    files = {file.stem: file for file in sorted(folder.glob("*.jsonl")) if file.stem in (names or LABELLED)}
    if not files:
        raise FaithgenError(f"{str(folder)!r} holds no scores (SET.jsonl) of the sets asked for; run the recipe first")
    return {
        name: {row["id"]: row["probability"] for row in map(json.loads, file.read_text(encoding="utf-8").splitlines())}
        for name, file in files.items()
    }


def left_out(folder: Path, names: list[str] | None, name: str, root: Path, seed: int) -> Judgement:
    """Judge scores that were made by copies of a scorer, each without the set it scored."""
    read = read_scores(folder, names)
    sets = load_labelled(root, [one for one in LABELLED if one in read])
    for one in sets:
        one.claims = [claim for claim in one.claims if claim.id in read[one.name]]
    scores = {one.name: [read[one.name][claim.id] for claim in one.claims] for one in sets}
    return compare(name, sets, scores, how="one set left out", seed=seed)


def show(judgement: Judgement) -> None:
    print(f"{judgement.scorer}, {judgement.how}; threshold for use {judgement.threshold}")
    print("| set | unit | claims (supported) | AUROC | balanced accuracy | threshold |\n|---|---|---|---|---|---|")
    for one in judgement.sets:
        name = one.name + (" (trained on)" if one.seen else " (tuned on)" if one.tuned else "")
        threshold = "-" if one.threshold is None else f"{one.threshold:.3f} ({one.threshold_from})"
        counts = f"{one.n} ({one.supported / one.n:.0%})"
        print(f"| {name} | {one.kind}, {one.unit} | {counts} | {one.auroc} | {one.balanced_accuracy} | {threshold} |")
        for part, estimate in one.parts.items():
            print(f"| – {part} | | {estimate.n} | {estimate} | | |")
    for one in judgement.sets:
        if one.excluded:
            print(f"{one.name}, left out: " + "; ".join(f"{count} {reason}" for reason, count in one.excluded.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scorer", default=DEFAULT_SCORER)
    parser.add_argument("--model", help="Model of the scorer: hub name or folder.")
    parser.add_argument("--head", help="Support head of the scorer heads: JSON file.")
    parser.add_argument("--sets", nargs="*", choices=list(LABELLED), metavar="SET", help=", ".join(LABELLED))
    parser.add_argument("--data", type=Path, default=SHARED, help="Folder with one sub-folder a set.")
    parser.add_argument("--limit", type=int, help="About as many claims a set, whole answers.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--aggregate", choices=["mean", "min"], default="mean")
    parser.add_argument("--scores", type=Path, help="Folder of scores of left-out sets, in place of a scorer.")
    parser.add_argument("--name", help="Name of the scorer that --scores are of.")
    parser.add_argument("--write", action="store_true", help="Keep the figures in judged.json.")
    options = parser.parse_args()
    if bool(options.scores) != bool(options.name):
        parser.error("--scores and --name go together")
    try:
        if options.scores:
            judgement = left_out(options.scores, options.sets, options.name, options.data, options.seed)
        else:
            chosen = {"model": options.model, "head": options.head}
            scorer = load_scorer(options.scorer, **{key: value for key, value in chosen.items() if value})
            with progress_bar(f"judging {scorer.name}") as advance:
                judgement = judge(
                    scorer,
                    load_labelled(options.data, options.sets),
                    limit=options.limit,
                    seed=options.seed,
                    aggregate=options.aggregate,
                    progress=advance,
                )
        if options.write and (options.limit or options.sets):
            raise FaithgenError("--write keeps figures over all rows of all sets; leave out --limit and --sets")
        show(judgement)
        figures = judgement.to_dict()
        allowed, reason = headline(figures)
        print(f"headline: {'yes' if allowed else 'no'}, {reason}")
        if options.write:
            save_judged(judgement.scorer, figures)
    except FaithgenError as error:
        raise SystemExit(str(error)) from error
    short = {
        one.name: [one.auroc.mean, one.auroc.low, one.auroc.high, one.balanced_accuracy.mean] for one in judgement.sets
    }
    report(
        "scorers", {"scorer": judgement.scorer, "how": judgement.how, "auroc_low_high_ba": short, "headline": allowed}
    )


if __name__ == "__main__":
    main()
