"""SubEM of answers: plain, filtered, steered, contrasted, and with the gold passage alone.

    python benchmarks/answers.py --passages 20 --limit 80
    python benchmarks/answers.py --train rows.jsonl --variants ...   # choosing defaults, never on dev rows

Each question is ranked once; the variants that filter share that ranking. Greedy, at most 32 new tokens. `--output` keeps
every answer, and with `--rankings` the scores of the documents are kept and read again.
"""

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from common import interval, multidoc_rows, progress, report, show, sub_em

from faithgen import ContrastConfig, FaithfulGenerator, FilterConfig
from faithgen.answer import best_share
from faithgen.documents import as_documents
from faithgen.filtering.coarse import Ranking, rank_documents

NONE = ContrastConfig(source="none")
OFF = FilterConfig(enabled=False)


def variants(names: list[str] | None) -> dict[str, dict[str, Any]]:
    """Settings by name: `select` is how documents are chosen, the rest goes to the generator."""
    default = FilterConfig()
    table: dict[str, dict[str, Any]] = {
        "plain": {"select": "all", "contrast": NONE},
        "filter (paper: union of 4 x top 4)": {"select": replace(default, mass=None), "contrast": NONE},
        "filter": {"select": default, "contrast": NONE},
        "filter + steer": {"select": default, "steer": True, "contrast": NONE},
        "filter + contrast": {"select": default, "contrast": ContrastConfig(source="heads")},
        "filter + steer + contrast": {"select": default, "steer": True, "contrast": ContrastConfig(source="heads")},
        "gold passage alone": {"select": "gold", "contrast": NONE},
    }
    for keep in (1, 2, 3, 5):
        table[f"keep {keep}"] = {"select": replace(default, keep=keep, mass=None), "contrast": NONE}
        table[f"keep {keep}, best first"] = {
            "select": replace(default, keep=keep, mass=None, reorder=False),
            "contrast": NONE,
        }
    for mass in (0.3, 0.5, 0.7):
        table[f"mass {mass}"] = {"select": replace(default, mass=mass), "contrast": NONE}
    for place, select in (("", default), ("gold: ", "gold")):
        for source in ("heads", "context"):
            for method in ("rhio", "adacad", "decore"):
                for alpha in (0.2, 0.5, 1.0):
                    contrast = ContrastConfig(source=source, method=method, alpha=alpha)  # type: ignore[arg-type]
                    name = f"{place}{source} {method} {alpha}"
                    table[name] = {"select": select, "contrast": contrast}
                    table[f"{name} cut"] = {"select": select, "contrast": replace(contrast, plausibility=0.1)}
                    table[f"{name} prefill"] = {"select": select, "contrast": replace(contrast, mask_prefill=True)}
    for delta in (1.0, 2.3):
        table[f"steer {delta}"] = {"select": default, "steer": True, "delta": delta, "contrast": NONE}
    return {name: table[name] for name in names or list(table)[:7]}


def train_rows(path: Path, limit: int) -> list[dict[str, Any]]:
    """Rows of detection data (`recipes/heads/build_detection_data.py`) in the shape of the dev rows."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [
        {
            "question": row["question"],
            "answers": [row["answer"]],
            "documents": [{"title": d.get("title", ""), "text": d["text"]} for d in row["documents"]],
            "gold": int(row["gold"][0]) - 1,
        }
        for row in rows[-limit:]
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--passages", type=int, default=20)
    parser.add_argument("--limit", type=int, default=80)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument("--train", type=Path, help="Training rows instead of dev rows, to choose defaults.")
    parser.add_argument("--variants", nargs="*")
    parser.add_argument("--random-heads", type=int, help="Seed: random heads instead, as a control.")
    parser.add_argument("--output", type=Path, help="Keep every answer as JSONL.")
    parser.add_argument("--rankings", type=Path, help="Keep the rankings as JSON, or read them if the file is there.")
    options = parser.parse_args()

    generator = FaithfulGenerator.from_pretrained(options.model, random_heads=options.random_heads)
    chosen = variants(options.variants)
    rows = (
        train_rows(options.train, options.limit)
        if options.train
        else multidoc_rows(options.passages, "hard", options.limit)
    )
    rankings = []
    if options.rankings and options.rankings.exists():
        rankings = [Ranking(**kept) for kept in json.loads(options.rankings.read_text())]
        if [len(kept.scores) for kept in rankings] != [len(row["documents"]) for row in rows]:
            raise SystemExit(f"{options.rankings} holds the rankings of other rows")
    elif any(isinstance(setting["select"], FilterConfig) for setting in chosen.values()):
        config = FilterConfig()
        heads = config.scoring_heads(generator.scoring_heads)
        for row in progress(rows):
            documents = as_documents(row["documents"])
            model, builder = generator.loaded.model, generator.builder
            rankings.append(rank_documents(model, builder, heads, row["question"], documents, config))
        if options.rankings:
            options.rankings.write_text(json.dumps([asdict(kept) for kept in rankings]))
    scores: dict[str, list[float]] = {}
    kept_answers = []
    for name, setting in chosen.items():
        select, steer = setting["select"], setting.get("steer", False)
        requests = []
        for index, row in enumerate(rows):
            documents = row["documents"]
            if select == "gold":
                documents = [documents[row["gold"]]]
            elif select != "all":
                documents = [documents[i] for i in rankings[index].kept(select)]
            requests.append((row["question"], documents))
        filtering = replace(OFF, steer=steer, delta=setting.get("delta", OFF.delta))
        answers = []
        for start in range(0, len(requests), options.batch_size):
            batch = requests[start : start + options.batch_size]
            answers += generator.generate_batch(
                batch, filter=filtering, contrast=setting["contrast"], max_new_tokens=options.max_new_tokens
            )
        scores[name] = [sub_em(a.text, row["answers"]) for a, row in zip(answers, rows, strict=True)]
        kept_answers += [
            {
                "variant": name,
                "question": r["question"],
                "gold": r["answers"],
                "answer": a.text,
                "sub_em": s,
                "doubt": a.doubt.score,
                "best_share": best_share(rankings[index].scores) if rankings else None,
                "passages": len(request[1]),
            }
            for index, (a, r, s, request) in enumerate(zip(answers, rows, scores[name], requests, strict=True))
        ]
        passages = sum(len(documents) for _, documents in requests) / len(requests)
        print(f"| {name:34} | {show(scores[name])} | {passages:4.1f} passages |", flush=True)
    if options.output:
        options.output.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept_answers))
    figures: dict[str, Any] = {name: [round(v, 4) for v in interval(values)] for name, values in scores.items()}
    if {"plain", "gold passage alone"} <= scores.keys():
        plain, gold = (sum(scores[name]) / len(rows) for name in ("plain", "gold passage alone"))
        for name in scores:
            share = (sum(scores[name]) / len(rows) - plain) / max(1e-9, gold - plain)
            difference = [a - b for a, b in zip(scores[name], scores["plain"], strict=True)]
            print(f"{name:34} closes {share:6.0%} of the gap; against plain {show(difference)} (paired)")
    source = options.train.name if options.train else f"nq_mdqa_bm25 dev, {options.passages} passages"
    report("answers", {"model": generator.loaded.model_id, "data": source, "n": len(rows), "sub_em": figures})


if __name__ == "__main__":
    main()
