"""Rows to train the default model on: questions, passages and faithful answers, short ones and whole sentences.

    python recipes/rhio/build_training_data.py --shared ../shared/data --output outputs/default

Reads `train_grounded_qa/train.jsonl` (training splits of QED, PubMedQA, 2WikiMultihopQA, HotpotQA, MuSiQue) and writes
`train.jsonl` (`{id, question, documents, answer}` and, for whole sentences, `instruction`). A question over one passage
gets the nearest other passages (BM25) that do not hold the answer; one over several gets those that support it and one
more. Questions that an evaluation set asks are left out, and so are passages that answer one there. The rows are not ours
to commit; what is trained on them is.
"""

import argparse
import json
import random
import re
from collections import Counter
from pathlib import Path

from nltk.tokenize.treebank import TreebankWordDetokenizer
from rank_bm25 import BM25Okapi

from faithgen.evaluation.tasks import LONG_INSTRUCTION

EVALUATED = (
    "nq_swap/dev.jsonl",
    "nq_mdqa_bm25/mdqa20_600.jsonl",
    "litm_nq_oracle/nq_open_oracle.jsonl",
    "clapnq/dev_answerable.jsonl",
    "clapnq/dev_unanswerable.jsonl",
    "quotesum/dev.jsonl",
    "asqa/dev.jsonl",
    "qed_nq/dev.jsonl",
    "rgb_en_fact/en_fact.jsonl",
    "tristate/llama3_8b_instruct.jsonl",
    "ramdocs/test.jsonl",
    "eli5_webgpt/qa.jsonl",
    "expertqa/val_test_with_evidence.jsonl",
    "hotpotqa/dev.jsonl",
    "musique/dev.jsonl",
    "2wikimultihopqa/dev.jsonl",
)
PARTS = {"pubmedqa": 0.15, "2wiki": 0.075, "hotpotqa": 0.05, "musique": 0.05}
"""Most of the rows that a source gives; QED gives the rest. PubMedQA's conclusions sum up more than its passages say,
2Wiki's questions follow templates, there are a hundred each of the last two."""
_WORDS = re.compile(r"\w+")
_JOIN = TreebankWordDetokenizer()


def normalised(text: str) -> str:
    return " ".join(_WORDS.findall(text.lower()))


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def spoken(text: str) -> str:
    """A sentence in Natural Questions' token spacing as it is written."""
    text = text.replace("--", "-").replace("``", '"').replace("''", '"')
    text = _JOIN.detokenize(text.split())
    text = re.sub(r"\s+([,.;:?!%)\]])", r"\1", re.sub(r"([(\[])\s+", r"\1", text))
    return re.sub(r"\s+('s|n't|'re|'ll|'ve|'d|'m)\b", r"\1", text).strip()


def seen_in_evaluation(shared: Path) -> tuple[set[str], set[str]]:
    """Questions of the evaluation sets at hand, and the passages that answer those of `nq_mdqa_bm25`, normalised."""
    questions, passages = set(), set()
    for name in EVALUATED:
        for row in read(shared / name) if (shared / name).is_file() else []:
            text = next((row[key] for key in ("question", "input", "query") if isinstance(row.get(key), str)), "")
            if not text:
                raise SystemExit(
                    f"{shared / name} has a row without a question; its rows cannot be kept out of training"
                )
            questions.add(normalised(text))
            passages |= {normalised(one["text"]) for one in row.get("ctxs", []) if one.get("isgold")}
    return questions, passages


class Passages:
    """The nearest passages that hold none of the answers, of those that answer no question of an evaluation set."""

    def __init__(self, rows: list[dict], evaluated: set[str]):
        pool = {p["text"]: p for row in rows for p in row["passages"]}.values()
        self.pool = [p for p in pool if normalised(p["text"]) not in evaluated]
        self.index = BM25Okapi([normalised(f"{p['title']} {p['text']}").split() for p in self.pool], k1=0.9, b=0.4)

    def beside(self, row: dict, count: int, words: int) -> list[dict]:
        titles = {p["title"] for p in row["passages"]}
        answers = [normalised(answer) for answer in row["answer_short"] or []]
        found: list[dict] = []
        for index in self.index.get_scores(normalised(row["question"]).split()).argsort()[::-1][:200]:
            other = self.pool[int(index)]
            text = f" {normalised(other['title'] + ' ' + other['text'])} "
            fits = other["title"] not in titles and 20 <= len(other["text"].split()) <= words
            if fits and not any(f" {answer} " in text for answer in answers if answer):
                found.append(other)
            if len(found) == count:
                break
        return found


def build(row: dict, long: bool, passages: Passages, generator: random.Random, words: int) -> dict | None:
    """One row to train on, or `None` if it is too long or its answer is not in its passages."""
    gold = [p for p in row["passages"] if p["gold"]]
    if row["source"] == "pubmedqa":
        answer, others = row["answer_long"], []
    elif row["source"] == "qed":
        answer = spoken(row["answer_long"] if long else row["answer_short"][0])
        others = passages.beside(row, generator.choice((1, 2)), words // 3)
    else:
        answer, long = row["answer_short"][0], False
        others = generator.sample([p for p in row["passages"] if not p["gold"]], 1)
        if normalised(answer) in ("yes", "no"):
            return None
    text = normalised(" ".join(p["text"] for p in gold))
    if not answer or not gold or (not long and normalised(answer) not in text):
        return None
    documents = [{"title": p["title"], "text": p["text"]} for p in [*gold, *others]]
    if sum(len(d["text"].split()) for d in documents) > words:
        return None
    generator.shuffle(documents)
    kind = "long" if long else "short"
    made = {
        "id": f"{row['source']}-{row['id']}-{kind}",
        "question": row["question"],
        "documents": [{"id": str(i), **document} for i, document in enumerate(documents, 1)],
        "answer": answer,
    }
    return {**made, "instruction": LONG_INSTRUCTION} if long else made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared/data"))
    parser.add_argument("--output", type=Path, required=True, help="Folder for train.jsonl.")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--long", type=float, default=0.6, help="Share of QED rows with a whole sentence as answer.")
    parser.add_argument("--words", type=int, default=300, help="Words of all passages of a row at most.")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rows = read(options.shared / "train_grounded_qa/train.jsonl")
    questions, evaluated = seen_in_evaluation(options.shared)
    counts: Counter[str] = Counter()
    used: Counter[str] = Counter()
    generator = random.Random(options.seed)
    generator.shuffle(rows)
    rows.sort(key=lambda row: row["source"] == "qed")  # the small sources first, QED fills up
    passages = Passages([row for row in rows if row["source"] == "qed"], evaluated)
    built: list[dict] = []
    for row in rows:
        if len(built) == options.rows:
            break
        if used[row["source"]] >= PARTS.get(row["source"], 1) * options.rows:
            continue
        if normalised(row["question"]) in questions:
            counts["asked in an evaluation set"] += 1
            continue
        if evaluated.intersection(normalised(p["text"]) for p in row["passages"]):
            counts["a passage answers a question of an evaluation set"] += 1
            continue
        long = row["source"] == "pubmedqa" or generator.random() < options.long
        made = build(row, long, passages, generator, options.words)
        if made is None:
            counts[f"{row['source']}: too long, or the answer is not in the passages"] += 1
            continue
        used[row["source"]] += 1
        counts[f"{row['source']}, {'long' if 'instruction' in made else 'short'}"] += 1
        built.append(made)
    generator.shuffle(built)
    options.output.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in built)
    temporary = options.output / ".train.jsonl.part"
    temporary.write_text(text, encoding="utf-8")
    temporary.rename(options.output / "train.jsonl")
    print(f"{options.output / 'train.jsonl'}: {len(built)} rows; {dict(counts)}")


if __name__ == "__main__":
    main()
