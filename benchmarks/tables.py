"""Markdown tables out of the `summary.json` of `faithgen eval` (figures only, no rows), as they stand in the README.

    python benchmarks/tables.py results/rerank.json --metrics ndcg@10 recall@1 recall@4
    python benchmarks/tables.py results/decoding.json --metrics sub_em --paired

Each cell is a mean with its 95 % bootstrap interval; `--paired` adds the difference from the baseline, paired by question,
with its interval and its p after Holm's correction. A cell says why a figure or rows are missing where the summary does.
"""

import argparse
import json
import re
from pathlib import Path


def cell(value: dict | None, signed: bool = False, why: str | None = None) -> str:
    """`.123 [.045, .201]`, or why there is no figure or interval; a dash where the summary does not say."""
    if value is None or value["mean"] is None:
        reason = (value or {}).get("reason") or why
        return f"none: {safe(reason)}" if reason else "–"

    def short(number: float) -> str:
        text = f"{number:+.3f}" if signed else f"{number:.3f}"
        return re.sub(r"^([+-]?)0\.", r"\1.", text)

    told, reason = value["low"] is not None, value.get("reason")
    text = short(value["mean"]) + (f" [{short(value['low'])}, {short(value['high'])}]" if told else "")
    return f"{text} ({'' if told else 'no interval: '}{safe(reason)})" if reason else text


def table(name: str, summary: dict, metrics: list[str], paired: bool) -> list[str]:
    """The lines of one data set's table."""
    known = [metric for metric in metrics if any(metric in one["metrics"] for one in summary["methods"])]
    against = summary["baseline"] if paired else None
    columns = [head for metric in known for head in ([metric, f"{metric} against {against}"] if against else [metric])]
    lines = [f"| {name} | n | " + " | ".join(columns) + " |", "|---" * (len(columns) + 2) + "|"]
    for one in summary["methods"]:
        figures = [one["metrics"].get(metric) for metric in known]
        cells = []
        for metric, figure in zip(known, figures, strict=True):
            cells.append(cell(figure, why=one.get("reason")))
            if against:
                difference = one["differences"].get(metric)
                cells.append("" if difference is None else f"{cell(difference['difference'], True)}{p_of(difference)}")
        lines.append(f"| {one['method']} | {rows_of(one, known)} | " + " | ".join(cells) + " |")
    return lines


def rows_of(one: dict, metrics: list[str]) -> str:
    """The rows with a value, `15 / 20` where the metrics differ, and why the others have none."""
    figures = {metric: figure for metric in metrics if (figure := one["metrics"].get(metric))}
    text = " / ".join(map(str, sorted({figure["n"] for figure in figures.values()})))
    if "without" not in one:  # a summary of before it was counted
        return text
    reasons = [f"{count} {reason}" for reason, count in one["without"].items()]
    for metric, figure in figures.items():
        undefined = figure["missing"] - sum(one["without"].values())
        if undefined > 0 and figure["mean"] is not None:  # else its cell says why
            reasons.append(f"{undefined} {metric} not defined for the row, or not yet run")
    return f"{text} (without: {safe(', '.join(reasons))})" if reasons else text


def safe(text: str) -> str:
    """Text for a cell."""
    return " ".join(text.split()).replace("|", "\\|")


def p_of(difference: dict) -> str:
    """The p that is to be read, if there is one."""
    p = difference["p_holm"] if difference["p_holm"] is not None else difference["p_value"]
    return "" if p is None else (", p < .001" if p < 0.001 else f", p = {p:.3f}".replace("0.", "."))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("summaries", type=Path, nargs="+", help="summary.json of a run.")
    parser.add_argument("--metrics", nargs="+", required=True)
    parser.add_argument("--paired", action="store_true", help="Differences from the baseline.")
    options = parser.parse_args()
    for path in options.summaries:
        for name, summary in json.loads(path.read_text(encoding="utf-8")).items():
            print("\n".join(table(name, summary, options.metrics, options.paired)), end="\n\n")


if __name__ == "__main__":
    main()
