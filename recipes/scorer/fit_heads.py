"""Fit the logistic head of the scorer `heads`: read labelled claims with a model, then fit, one set left out at a time.

    python recipes/scorer/fit_heads.py read --output outputs/scorer/heads            # resumes where it was stopped
    python recipes/scorer/fit_heads.py fit --output outputs/scorer/heads

`read` feeds every labelled answer to the model once and keeps the signals of its sentences. `fit` scores each set with a
head fitted on the others (`left_out_reading/SET.jsonl`, for benchmarks/scorers.py --scores), and writes the heads for use,
fitted on the `--train` sets: `reading.json` (all signals) and `signals.json` (those that a generated answer's tokens carry).
"""

import argparse
import json
import os
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

from faithgen.cli.console import progress_bar
from faithgen.errors import FaithgenError
from faithgen.evaluation.judging import compare, draw, split_parts
from faithgen.evaluation.scorers.heads import SIGNALS, SignalReader
from faithgen.evaluation.scorers.labelled import LabelledClaim, LabelledSet, drop_shared
from faithgen.evaluation.scorers.labelled_sets import LABELLED, LICENCES, OPEN_SETS, load_labelled
from faithgen.evaluation.scorers.logistic import LogisticHead, fit_logistic

SHARED = Path(os.environ.get("FAITHGEN_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
Values = dict[str, list[dict[str, float]]]  # claim id -> signals of each of its sentences


def reader_of(options: argparse.Namespace) -> SignalReader:
    """The model with the heads to read: those watched while answering, and the best of both kinds."""
    from faithgen import hf
    from faithgen.decoding.contrast import ContrastConfig
    from faithgen.generator import WATCHED_HEADS
    from faithgen.heads.resolve import resolve_heads
    from faithgen.models import load_model

    loaded = load_model(options.model)
    scoring, copying = resolve_heads(loaded)
    shape = hf.head_shape(loaded.model)
    masked = copying.top(ContrastConfig().heads_to_mask(shape.num_layers * shape.num_heads))
    heads = [*copying.top(options.heads), *scoring.top(options.heads)]
    return SignalReader(loaded, copying.top(WATCHED_HEADS), masked, heads)


def read(options: argparse.Namespace) -> None:
    """Keep the signals of all labelled claims in `SET.jsonl`; claims that are there already are not read again."""
    sets = [draw(one, options.limit, options.seed) for one in load_labelled(options.data, options.sets)]
    reader = reader_of(options)
    options.output.mkdir(parents=True, exist_ok=True)
    about = {
        "model_id": reader.loaded.model_id,
        "revision": reader.loaded.revision,
        "watched": reader.watched,
        "masked": reader.masked,
        "heads": reader.heads,
    }
    check_about(options.output / "about.json", about)
    for one in sets:
        file = options.output / f"{one.name}.jsonl"
        done = load_values(file)
        answers: dict[str, list[LabelledClaim]] = {}
        for claim in one.claims:
            if claim.id not in done:
                answers.setdefault(claim.answer, []).append(claim)
        with progress_bar(f"reading {one.name}") as advance, file.open("a", encoding="utf-8") as stream:
            for count, claims in enumerate(answers.values(), 1):
                stream.write("".join(read_answer(reader, claims, one.unit)))
                stream.flush()
                advance(count, len(answers))


def read_answer(reader: SignalReader, claims: list[LabelledClaim], unit: str) -> list[str]:
    """The lines of one answer's claims."""
    parts = [split_parts(claim, unit) for claim in claims]
    found = iter(
        reader.features(
            [text for row in parts for text, _ in row],
            [claim.documents for claim, row in zip(claims, parts, strict=True) for _ in row],
            [context for row in parts for _, context in row],
        )
    )
    lines = []
    for claim, row in zip(claims, parts, strict=True):
        signals = [values for values in (next(found) for _ in row) if values is not None]
        rounded = [{name: round(value, 6) for name, value in values.items()} for values in signals]
        lines.append(json.dumps({"id": claim.id, "parts": rounded}) + "\n")
    return lines


def check_about(file: Path, about: dict[str, Any]) -> None:
    """Keep which model and heads the signals are of; signals of another model are not mixed with them."""
    text = json.dumps(about)
    if file.exists() and file.read_text(encoding="utf-8") != text:
        raise FaithgenError(
            f"{str(file.parent)!r} holds signals of another model or other heads; choose another --output"
        )
    file.write_text(text, encoding="utf-8")


def load_values(file: Path) -> Values:
    """Signals kept so far; a line that a kill cut short is dropped from the file."""
    if not file.exists():
        return {}
    whole = [line for line in file.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("}\n")]
    file.write_text("".join(whole), encoding="utf-8")
    return {row["id"]: row["parts"] for row in map(json.loads, whole)}


def columns(sets: list[LabelledSet], values: dict[str, Values]) -> tuple[list[dict[str, float]], list[int], list[str]]:
    """One row a claim: the mean of its sentences' signals; label; set."""
    rows, labels, names = [], [], []
    for one in sets:
        for claim in one.claims:
            parts = values[one.name].get(claim.id)
            if parts:
                rows.append({name: sum(part[name] for part in parts) / len(parts) for name in parts[0]})
                labels.append(claim.label)
                names.append(one.name)
    return rows, labels, names


def probability(head: LogisticHead, parts: list[dict[str, float]]) -> float:
    return sum(map(head.probability, parts)) / len(parts) if parts else 0.0


def fit(options: argparse.Namespace) -> None:
    """Judge by leaving one set out, then fit the heads for use."""
    about = json.loads((options.output / "about.json").read_text(encoding="utf-8"))
    names = [name for name in LABELLED if (options.output / f"{name}.jsonl").exists()]
    values = {name: load_values(options.output / f"{name}.jsonl") for name in names}
    sets = load_labelled(options.data, names)
    for one in sets:
        one.claims = [claim for claim in one.claims if claim.id in values[one.name]]
    reading = ["context_share", "logprob", "logprob_min", "jsd", "gap"]
    reading += [f"lookback:{layer}-{head}" for layer, head in about["heads"]]
    for kind, features in (("reading", reading), ("signals", list(SIGNALS))):
        scores = {}
        for held in sets:
            others, _ = drop_shared([one for one in sets if one is not held], held)
            fitted = fit_on([one for one in others if two_labels(one)], values, features, about, options)
            scores[held.name] = [probability(fitted, values[held.name][claim.id]) for claim in held.claims]
            write_scores(options.output / f"left_out_{kind}", held, scores[held.name])
        judgement = compare(f"heads:{about['model_id']}", sets, scores, how="one set left out", seed=options.seed)
        for figures in judgement.sets:
            print(f"{kind}: {figures.name}, left out: AUROC {figures.auroc}, BA {figures.balanced_accuracy}")
        train = [one for one in sets if one.name in options.train and two_labels(one)]
        if not train:
            raise FaithgenError(f"none of the --train sets was read with both labels; read {', '.join(options.train)}")
        fit_on(train, values, features, about, options).save(options.output / f"{kind}.json")
        print(f"wrote {options.output / f'{kind}.json'}, fitted on {', '.join(one.name for one in train)}")


def two_labels(one: LabelledSet) -> bool:
    return 0 < one.supported < len(one.claims)


def fit_on(
    sets: list[LabelledSet], values: dict[str, Values], features: list[str], about: dict[str, Any], options: Any
) -> LogisticHead:
    rows, labels, names = columns(sets, values)
    counts: dict[str, Counter[str]] = {name: Counter() for name in names}
    for name, label in zip(names, labels, strict=True):
        counts[name]["supported" if label else "not supported"] += 1
    provenance = {
        "rows": {name: dict(count) for name, count in counts.items()},
        "licences": {name: LICENCES[name] for name in counts},
        "settings": {"strength": options.strength, "seed": options.seed},
        "versions": {package: version(package) for package in ("faithgen", "torch", "transformers", "scikit-learn")},
    }
    return LogisticHead(
        **fit_logistic(rows, labels, names, features, strength=options.strength),
        model_id=about["model_id"],
        revision=about["revision"],
        watched=[tuple(head) for head in about["watched"]],
        masked=[tuple(head) for head in about["masked"]],
        trained_on=sorted(counts),
        provenance=provenance,
    )


def write_scores(folder: Path, held: LabelledSet, scores: list[float]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows = zip(held.claims, scores, strict=True)
    lines = [json.dumps({"id": claim.id, "probability": round(score, 6)}) for claim, score in rows]
    temporary = folder / f".{held.name}.part"
    temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    temporary.rename(folder / f"{held.name}.jsonl")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["read", "fit"])
    parser.add_argument("--output", type=Path, required=True, help="Folder of the signals, scores and heads.")
    parser.add_argument("--data", type=Path, default=SHARED, help="Folder with one sub-folder a set.")
    parser.add_argument("--model", default="default-base", help="The model that reads.")
    parser.add_argument("--sets", nargs="+", choices=list(LABELLED), default=list(LABELLED), metavar="SET")
    parser.add_argument("--train", nargs="+", choices=list(LABELLED), default=list(OPEN_SETS), metavar="SET")
    parser.add_argument("--heads", type=int, default=8, help="Heads of each kind that get a feature of their own.")
    parser.add_argument("--limit", type=int, help="About as many claims a set, whole answers.")
    parser.add_argument("--strength", type=float, default=0.1, help="C of the logistic regression.")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    try:
        {"read": read, "fit": fit}[options.step](options)
    except FaithgenError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
