"""Does the doubt score tell wrong answers from right ones? AUROC against SubEM, and what each level holds.

python benchmarks/answers.py --train rows.jsonl --output answers.jsonl    # or dev rows, to report
python benchmarks/doubt.py answers.jsonl --variant "filter + contrast"
"""

import argparse
import json
from pathlib import Path

import numpy as np
from common import interval, report

from faithgen.answer import HIGH_DOUBT, SOME_DOUBT


def auroc(doubt: np.ndarray, wrong: np.ndarray) -> float | None:
    """Chance that a wrong answer has more doubt than a right one; `None` where one kind is missing."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(wrong, doubt)) if 0 < wrong.sum() < len(wrong) else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("answers", type=Path, help="JSONL that answers.py --output wrote.")
    parser.add_argument("--variant", nargs="*", help="Only these variants; all by default.")
    options = parser.parse_args()
    rows = [json.loads(line) for line in options.answers.read_text(encoding="utf-8").splitlines()]
    figures = {}
    for name in options.variant or dict.fromkeys(row["variant"] for row in rows):
        chosen = [row for row in rows if row["variant"] == name]
        if not chosen:
            raise SystemExit(f"no answers of variant {name!r} in {options.answers}")
        doubt = np.array([row["doubt"] for row in chosen])
        wrong = np.array([1 - row["sub_em"] for row in chosen])
        found = auroc(doubt, wrong)
        if found is None:
            print(f"{name}: all answers are {'wrong' if wrong.all() else 'right'}, no AUROC")
            continue
        draws = np.random.default_rng(0).integers(0, len(chosen), (2000, len(chosen)))
        sampled = [value for draw in draws if (value := auroc(doubt[draw], wrong[draw])) is not None]
        low, high = np.percentile(sampled, [2.5, 97.5])
        thirds = np.quantile(doubt, [1 / 3, 2 / 3])
        print(
            f"{name}: AUROC {found:.3f} [{low:.3f}, {high:.3f}], n={len(chosen)}; thirds of doubt at {thirds.round(2)}"
        )
        for level, inside in (
            ("low", doubt < SOME_DOUBT),
            ("some", (doubt >= SOME_DOUBT) & (doubt < HIGH_DOUBT)),
            ("high", doubt >= HIGH_DOUBT),
        ):
            if inside.any():
                mean, left, right = interval(1 - wrong[inside])
                print(f"  {level:5} doubt: {inside.sum():4} answers, SubEM {mean:.3f} [{left:.3f}, {right:.3f}]")
        figures[name] = {"auroc": [found, float(low), float(high)], "n": len(chosen), "thirds": thirds.tolist()}
    report("doubt", {"answers": options.answers.name, "figures": figures})


if __name__ == "__main__":
    main()
