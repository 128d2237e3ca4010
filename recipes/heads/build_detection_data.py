"""Detection data from real question answering rows: one gold passage among BM25 distractors, and needles in essays.

    python recipes/heads/build_detection_data.py --shared ../shared/data --output outputs/detection

Reads training rows only (`qed_nq/train.jsonl`) and writes `qed_bm25_10.jsonl` (10 passages, 9 of them the closest by
BM25 that do not hold the answer) and `niah.jsonl` (needle sentences in essays). The rows are not ours to commit; the
head sets that faithgen detects on them are.
"""

import argparse
import json
import random
import re
from pathlib import Path

from rank_bm25 import BM25Okapi


def normalised(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    print(f"{path}: {len(rows)} rows")


def qed_rows(shared: Path, count: int, passages: int, seed: int) -> list[dict]:
    """Questions of QED's training split with their paragraph and the nearest other paragraphs of that split."""
    rows = read(shared / "qed_nq/train.jsonl")
    pool = list({row["paragraph"]: row for row in rows}.values())
    index = BM25Okapi([normalised(row["title"] + " " + row["paragraph"]).split() for row in pool], k1=0.9, b=0.4)
    generator = random.Random(seed)
    generator.shuffle(rows)
    built = []
    for row in rows:
        answers = [normalised(answer) for answer in row["answers"] if answer.strip()]
        words = len(row["paragraph"].split())
        if not answers or not 30 <= words <= 160 or not any(a in normalised(row["paragraph"]) for a in answers):
            continue
        scores = index.get_scores(normalised(row["question"]).split())
        distractors: list[dict] = []
        for i in scores.argsort()[::-1]:
            other = pool[int(i)]
            text = normalised(other["title"] + " " + other["paragraph"])
            fits = other["title"] != row["title"] and 20 <= len(other["paragraph"].split()) <= 160
            if fits and not any(f" {answer} " in f" {text} " for answer in answers):
                distractors.append(other)
            if len(distractors) == passages - 1:
                break
        documents = [{"title": row["title"], "text": row["paragraph"], "gold": True}]
        documents += [{"title": other["title"], "text": other["paragraph"], "gold": False} for other in distractors]
        generator.shuffle(documents)
        gold = [str(i) for i, document in enumerate(documents, 1) if document.pop("gold")]
        built.append(
            {
                "id": f"qed-{row['id']}",
                "question": row["question"],
                "documents": [{"id": str(i), **document} for i, document in enumerate(documents, 1)],
                "answer": row["answers"][0],
                "gold": gold,
            }
        )
        if len(built) == count:
            break
    return built


def needle_rows(shared: Path, lengths: list[int], depths: int, seed: int) -> list[dict]:
    """Wu et al.'s needles in stretches of essays: `lengths` in words, `depths` places in each."""
    needles = read(shared / "niah_paulgraham/needles.jsonl")
    essays = " ".join(row["text"] for row in read(shared / "niah_paulgraham/essays.jsonl"))
    sentences = re.split(r"(?<=[.!?])\s+", " ".join(essays.split()))
    generator = random.Random(seed)
    built = []
    for needle in needles:
        for length in lengths:
            for depth in range(depths):
                start = generator.randrange(len(sentences) // 2)
                passages: list[str] = []
                words = 0
                while words < length:
                    passage = ""
                    while len(passage.split()) < 100:
                        passage += sentences[start] + " "
                        start += 1
                    passages.append(passage.strip())
                    words += len(passage.split())
                place = round(depth / max(1, depths - 1) * len(passages))
                passages.insert(place, needle["needle"].strip())
                built.append(
                    {
                        "id": f"niah-{len(built)}",
                        "question": needle["question"],
                        "documents": [{"id": str(i), "text": text} for i, text in enumerate(passages, 1)],
                        "answer": needle["real_needle"].strip(),
                        "gold": [str(place + 1)],
                    }
                )
    generator.shuffle(built)
    return built


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared/data"))
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--passages", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    qed = qed_rows(options.shared, options.count, options.passages, options.seed)
    write(options.output / f"qed_bm25_{options.passages}.jsonl", qed)
    write(options.output / "niah.jsonl", needle_rows(options.shared, [300, 600, 900, 1200], 5, options.seed))


if __name__ == "__main__":
    main()
