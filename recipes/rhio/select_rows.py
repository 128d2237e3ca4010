"""The same number of rows for every arm, of the same questions as far as each arm has them.

    python recipes/rhio/select_rows.py --output outputs/default/arms rhio=outputs/default/unfaithful.jsonl random=...

Each file loses other rows to its filters. An arm with more rows would be trained for longer, and an arm with easier ones on
easier ones: all get as many as the smallest has, first those whose question all have, in one order.
"""

import argparse
import json
import random
from pathlib import Path


def select(files: dict[str, list[dict]], seed: int = 0) -> tuple[dict[str, list[dict]], int]:
    """The rows of each arm, and how many questions they share."""
    by_id = {name: {row["id"]: row for row in rows} for name, rows in files.items()}
    shared = set.intersection(*(set(rows) for rows in by_id.values()))
    count = min(len(rows) for rows in by_id.values())
    order = sorted(set.union(*(set(rows) for rows in by_id.values())))
    random.Random(seed).shuffle(order)
    place = {one: number for number, one in enumerate(order)}
    chosen = {}
    for name, rows in by_id.items():
        best = sorted(rows, key=lambda one: (one not in shared, place[one]))[:count]
        chosen[name] = [rows[one] for one in sorted(best, key=place.__getitem__)]
    return chosen, min(len(shared), count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="ARM=FILE", help="Rows of faithgen data unfaithful.")
    parser.add_argument("--output", type=Path, required=True, help="Folder for ARM.jsonl.")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    named = dict(one.split("=", 1) for one in options.files)
    files = {
        name: [json.loads(line) for line in Path(file).read_text(encoding="utf-8").split("\n") if line]
        for name, file in named.items()
    }
    if empty := [name for name, rows in files.items() if not rows]:
        raise SystemExit(f"no rows are left in {', '.join(empty)}")
    chosen, shared = select(files, options.seed)
    options.output.mkdir(parents=True, exist_ok=True)
    for name, rows in chosen.items():
        temporary = options.output / f".{name}.part"
        temporary.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        temporary.rename(options.output / f"{name}.jsonl")
        # what the training record says of them
        summary = Path(named[name]).with_name(f"{Path(named[name]).stem}.summary.json")
        if summary.is_file():
            (options.output / f"{name}.summary.json").write_bytes(summary.read_bytes())
        print(f"{name}: {len(rows)} of {len(files[name])} rows, {shared} questions in all arms")


if __name__ == "__main__":
    main()
