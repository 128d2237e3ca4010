"""What training gives: the arms of one experiment on the same dev rows, against each other.

    python benchmarks/training.py --output outputs/arms --limit 40 \\
        --arm base=default-base:base --arm sft=outputs/default/sft:base --arm retmask=outputs/default/retmask:base \\
        --arm rhio=outputs/default/rhio:control,rhio@0.1,rhio@0.2,rhio@0.5,rhio@1 \\
        --arm random=outputs/default/random:control,rhio@0.2 --reference sft:base random:rhio@0.2

An arm is NAME=MODEL:METHODS, methods as of `faithgen eval`. Every arm answers the GroundBench sets (faithfulness: mean
support of the answer's sentences by the scorer) and the multi-document sets (SubEM); runs that are there are gone on with
(`faithgen eval --resume`). Figures are means over sets of the means over rows, with 95 % bootstrap intervals (rows drawn
within each set); differences from a reference are paired by question, in faithfulness relative to it. Answers that assert
nothing (refusals, empty ones) have no support: they are left out in one column and count as 0 in the next.
"""

import argparse
import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from common import SHARED, report

from faithgen.errors import FaithgenError
from faithgen.evaluation.datasets import load_dataset
from faithgen.evaluation.metrics.refusal import is_refusal
from faithgen.evaluation.scorers import load_scorer
from faithgen.evaluation.scorers.base import score_answers, summarise
from faithgen.evaluation.store import load_run
from faithgen.evaluation.summary import values_of

LONG = ("eli5_webgpt", "expertqa", "clapnq", "quotesum")
SHORT = ("nq_hard:passages=5", "hotpotqa", "musique", "2wiki")
COLUMNS: dict[str, tuple[tuple[str, ...], str, float | None]] = {
    "faithfulness": (LONG, "support_mean", None),
    "faithfulness, nothing said as 0": (LONG, "support_mean", 0.0),
    "faithfulness, second scorer": (LONG, "second_mean", None),
    "SubEM": (SHORT, "sub_em", None),
    "ROUGE-Lsum, long": (LONG, "rougeLsum", None),
    "copied, long": (LONG, "copied", None),
    "words, long": (LONG, "answer_words", None),
    "words, short": (SHORT, "answer_words", None),
    "refused": (LONG, "refused", None),
}
Values = dict[str, dict[str, float | None]]  # set -> question id -> value


def run(arm: str, options: argparse.Namespace) -> tuple[str, Path]:
    """Let `faithgen eval` answer with an arm; returns its name and folder."""
    name, _, rest = arm.partition("=")
    model, _, methods = rest.rpartition(":")
    if not (name and model and methods):
        raise SystemExit(f"--arm {arm!r} is not NAME=MODEL:METHODS")
    folder = options.output / name
    sets = [part for one in (*options.long, *options.short) for part in ("--dataset", one)]
    command = [sys.executable, "-m", "faithgen", "eval", *sets, "--methods", methods, "--limit", str(options.limit)]
    command += [
        "--skip",
        str(options.skip),
        "--data",
        str(SHARED),
        "--output",
        str(folder),
        "--scorer",
        options.scorer,
    ]
    command += ["--max-new-tokens", str(options.max_new_tokens)] if options.max_new_tokens else []
    command += ["--model", model, *(["--resume"] if folder.exists() else [])]
    code = subprocess.run(command, check=False).returncode
    if code not in (0, 1):
        raise SystemExit(code)
    if code:
        print(f"{name}: some rows failed and are in no figure; run again to try them again", file=sys.stderr)
    return name, folder


def judge_again(folder: Path, scorer: str, sets: tuple[str, ...]) -> None:
    """Judge a run's long answers by another scorer, into `FOLDER/SCORER.jsonl`; those that are there are left alone."""
    path = folder / f"{scorer}.jsonl"
    done = set(second(path))
    rows = [row for row in load_run(folder)[1] if row["dataset"] in sets and "answer" in row and key(row) not in done]
    if not rows:
        return
    examples = {(name, one.id): one for name in sets for one in load_dataset(name, SHARED).examples}
    judge = load_scorer(scorer)
    if path.is_file():  # without a line that was cut off
        text = path.read_text(encoding="utf-8")
        path.write_text(text[: text.rfind("\n") + 1], encoding="utf-8")
    with path.open("a", encoding="utf-8") as file:
        for index, row in enumerate(rows):
            if index % 20 == 0:
                print(f"{folder.name}, {scorer}: {index}/{len(rows)}", file=sys.stderr, flush=True)
            example = examples[row["dataset"], row["id"]]
            texts = [f"{d.title}\n{d.text}" if d.title else d.text for d in example.documents]
            answers = [] if is_refusal(row["answer"]) else [row["answer"]]
            sentences = score_answers(judge, answers, [texts] * len(answers), [example.question] * len(answers))
            mean = summarise(sentences[0]).mean if sentences else None
            file.write(json.dumps([*key(row), mean]) + "\n")
            file.flush()


def key(row: dict) -> tuple[str, str, str]:
    return row["dataset"], row["id"], row["method"]


def second(path: Path) -> dict[tuple[str, str, str], float | None]:
    """What [`judge_again`] has written, whole lines."""
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.is_file() else ()
    return {tuple(names): mean for *names, mean in map(json.loads, lines)}


def read(folders: dict[str, Path], scorer: str | None = None) -> dict[str, dict[str, Values]]:
    """For each arm and method, by metric, set and question."""
    found: dict[str, dict[str, Values]] = {}
    for name, folder in folders.items():
        again = second(folder / f"{scorer}.jsonl")
        for row in load_run(folder)[1]:
            metrics = found.setdefault(f"{name}:{row['method']}", defaultdict(lambda: defaultdict(dict)))
            for metric, value in values_of(row).items() if "error" not in row else ():
                metrics[metric][row["dataset"]][row["id"]] = value
            if key(row) in again:
                metrics["second_mean"][row["dataset"]][row["id"]] = again[key(row)]
    return found


def means(
    tables: list[Values], sets: tuple[str, ...], missing: float | None = None, resamples: int = 10_000, seed: int = 0
) -> tuple[np.ndarray, int]:
    """Mean over sets of the mean over the questions that all tables have: `[tables, 1 + resamples]`, the figure first.

    A value that is not there counts as `missing`; its question is left out of all tables where that is `None`. Not a number
    where a set has no question left.
    """
    generator = np.random.default_rng(seed)
    parts, count = [], 0
    for name in sets:
        columns = []
        own = [table.get(name, {}) for table in tables]
        for one in (one for one in own[0] if all(one in table for table in own)):
            column = [missing if table[one] is None else table[one] for table in own]
            if None not in column:
                columns.append(column)
        if not columns:
            return np.full((len(tables), 1), np.nan), 0
        values = np.array(columns, dtype=float).T
        draws = generator.integers(0, len(columns), (resamples, len(columns)))
        parts.append(np.concatenate([values.mean(1)[:, None], values[:, draws].mean(2)], 1))
        count += len(columns)
    return (np.mean(parts, 0) if parts else np.full((len(tables), 1), np.nan)), count


def triple(samples: np.ndarray) -> list[float] | None:
    """Figure and interval, for the JSON line."""
    return None if np.isnan(samples[0]) else [float(samples[0]), *np.percentile(samples[1:], [2.5, 97.5]).tolist()]


def show(samples: np.ndarray, count: int, percent: bool = False) -> str:
    if np.isnan(samples[0]):
        return "no rows in common"
    low, high = np.percentile(samples[1:], [2.5, 97.5])
    if percent:
        return f"{samples[0]:+.1%} [{low:+.1%}, {high:+.1%}] (n={count})"
    return f"{samples[0]:.3f} [{low:.3f}, {high:.3f}] (n={count})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arm", action="append", required=True, metavar="NAME=MODEL:METHODS")
    parser.add_argument(
        "--reference", required=True, nargs="+", metavar="NAME:METHOD", help="What the others are compared with."
    )
    parser.add_argument("--output", type=Path, required=True, help="Folder for the runs, one an arm.")
    parser.add_argument("--limit", type=int, default=40, help="Rows of each set.")
    parser.add_argument("--skip", type=int, default=0, help="Rows left out before, e.g. those that chose alpha.")
    parser.add_argument("--long", nargs="*", default=LONG, help="Sets for faithfulness.")
    parser.add_argument("--short", nargs="*", default=SHORT, help="Sets for SubEM.")
    parser.add_argument("--max-new-tokens", type=int, help="In place of the sets' own.")
    parser.add_argument("--scorer", default="lexical")
    parser.add_argument("--second-scorer", help="Judge the long answers by this one, too, e.g. heads.")
    options = parser.parse_args()
    try:
        folders = dict(run(arm, options) for arm in options.arm)
        for folder in folders.values() if options.second_scorer else ():
            judge_again(folder, options.second_scorer, tuple(options.long))
        arms = read(folders, options.second_scorer)
    except FaithgenError as error:
        raise SystemExit(str(error)) from error
    for reference in options.reference:
        if reference not in arms:
            raise SystemExit(f"--reference {reference!r} is none of {', '.join(arms)}")
    sets = {LONG: tuple(options.long), SHORT: tuple(options.short)}
    shown = {name: column for name, column in COLUMNS.items() if options.second_scorer or column[1] != "second_mean"}
    compared = [
        (reference, column, column.startswith("faithfulness"))
        for reference in options.reference
        for column in shown
        if column.startswith(("faithfulness", "SubEM"))
    ]
    heads = [*shown, *(f"{column}, against {reference}" for reference, column, _ in compared)]
    print(f"| arm | {' | '.join(heads)} |")
    print("|---" * (len(heads) + 1) + "|")
    figures: dict[str, dict[str, list[float] | None]] = {}
    for name, metrics in arms.items():
        cells = []
        for column, (kind, metric, missing) in shown.items():
            samples, count = means([metrics[metric]], sets[kind], missing)
            cells.append(show(samples[0], count))
            figures.setdefault(name, {})[column] = triple(samples[0])
        for reference, column, percent in compared:
            kind, metric, missing = COLUMNS[column]
            (own, other), count = means([metrics[metric], arms[reference][metric]], sets[kind], missing)
            difference = (own - other) / other if percent else own - other
            cells.append("" if name == reference else show(difference, count, percent))
            figures[name][f"{column}, against {reference}"] = triple(difference)
        print(f"| {name} | {' | '.join(cells)} |")
    given = {"limit": options.limit, "skip": options.skip, "sets": [*options.long, *options.short]}
    given["scorers"] = [options.scorer, *([options.second_scorer] if options.second_scorer else [])]
    report("training", {"reference": options.reference, **given, "figures": figures})


if __name__ == "__main__":
    main()
