"""`faithgen eval`: answer published data sets by several methods, score the answers, and write a report."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from faithgen.cli import completion, options
from faithgen.cli.console import note, progress_bar, safe, stdout
from faithgen.errors import FaithgenError

if TYPE_CHECKING:
    from faithgen.evaluation.plan import EvalSettings
    from faithgen.evaluation.runner import Outcome
    from faithgen.generator import FaithfulGenerator


def evaluate(
    suite: Annotated[
        str | None,
        typer.Option(
            help="groundbench, multidoc, conflict, niah or rerank.",
            show_default=False,
            autocompletion=completion.one_of(*completion.SUITES),
        ),
    ] = None,
    dataset: Annotated[
        list[str] | None,
        typer.Option(
            help="A data set (repeatable), with options: nq_hard:passages=10,gold_position=0. Also FILE.jsonl, hub:NAME. "
            "With --suite: these of its sets alone.",
            autocompletion=completion.data_sets,
        ),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Separated by commas: base, closed_book, gold, embedding, bm25, cafe, cafe_no_steer, filter, heads, "
            "context, adacad, decore, control, rhio, full; heads@0.5 sets alpha, cafe:random takes random heads. Rerank: "
            "heads, cafe, icr, bm25, bm25_corpus, embedding, cross_encoder[:NAME], heads:random.",
            autocompletion=completion.methods,
        ),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(help="The method that others are compared with.", autocompletion=completion.methods),
    ] = None,
    scorer: Annotated[
        str,
        typer.Option(
            help="Judges the answers' support: lexical, heads[:HEAD.json], nli[:MODEL], minicheck[:MODEL], ..., or none.",
            autocompletion=completion.one_of(*completion.SCORERS),
        ),
    ] = "lexical",
    limit: Annotated[int | None, typer.Option(min=1, help="Rows of each data set at most.")] = None,
    skip: Annotated[
        int, typer.Option(min=0, help="Leave out this many rows before, e.g. those used to choose alpha.")
    ] = 0,
    seed: Annotated[int, typer.Option(help="Order of the rows, what a set draws, random heads.")] = 0,
    data: Annotated[
        str | None, typer.Option(help="Folder of the data sets, a file, or hub:NAME; else FAITHGEN_SHARED_DATA.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for rows, settings and report.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an --output that was cut off.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions answered together.")] = 4,
    alpha: Annotated[float | None, typer.Option(help="Contrast strength of methods that name none.")] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Most tokens of an answer; the data set's own if not given.")
    ] = None,
    instruction: Annotated[
        str | None, typer.Option(help="First line of the prompt, in place of the set's own.")
    ] = None,
    choice_style: Annotated[
        str,
        typer.Option(
            help="How MemoTrap is read: completion (as published) or chat (for control tokens).",
            autocompletion=completion.one_of(*completion.CHOICE_STYLES),
        ),
    ] = "completion",
    embedding: Annotated[
        str | None, typer.Option(help="Model of the embedding baseline; else the packaged MiniLM.")
    ] = None,
    model: options.Model = None,
    heads: options.Heads = None,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    ray: Annotated[
        int | None, typer.Option(metavar="N", help="Run on N Ray workers (RAY_ADDRESS names a cluster).")
    ] = None,
    compare: Annotated[
        tuple[Path, Path] | None, typer.Option(metavar="DIR1 DIR2", help="Compare two results instead of running.")
    ] = None,
    lm_eval: Annotated[
        str | None,
        typer.Option(
            metavar="TASKS",
            help="Run lm-eval tasks instead: its own, faithgen_nq_swap, faithgen_memotrap, ...",
            autocompletion=completion.some_of(*completion.LM_EVAL_TASKS),
        ),
    ] = None,
    chat_template: Annotated[
        bool, typer.Option("--chat-template", help="Ask lm-eval tasks in the chat template.")
    ] = False,
) -> None:
    """Evaluate methods on published data sets, with intervals and random-head controls, and write a report."""
    given = dict(locals())
    from faithgen.evaluation.distributed import main_process

    try:
        _evaluate(**given)
    except FaithgenError as error:
        if main_process():
            raise
        raise typer.Exit(2) from error  # of several processes, the main one says it


def _evaluate(
    *,
    compare: tuple[Path, Path] | None,
    lm_eval: str | None,
    chat_template: bool,
    suite: str | None,
    dataset: list[str] | None,
    methods: str | None,
    baseline: str | None,
    scorer: str,
    output: Path | None,
    resume: bool,
    ray: int | None,
    heads: list[str] | None,
    **given: Any,
) -> None:
    from faithgen.evaluation.distributed import leave, main_process, processes

    asked = [name for name, value in (("--compare", compare), ("--lm-eval", lm_eval)) if value is not None]
    if len(asked) > 1 or (asked and (suite is not None or dataset)):
        raise FaithgenError(f"{asked[0]} stands alone; leave out --suite, --dataset and the like")
    if compare is not None:
        _compare(*compare)
        return
    if output is None:
        raise FaithgenError("no --output; give a folder for rows and report")
    load = _loader(given["model"], heads, given["dtype"])
    if lm_eval is not None:
        if resume or ray is not None:
            raise FaithgenError("--lm-eval runs in one go and one process; leave out --resume and --ray")
        names = _split(lm_eval)
        chosen = _split(methods) if methods else ["base"]
        if len(chosen) > 1:
            raise FaithgenError(f"--lm-eval takes one method and {len(chosen)} are given; run it once for each")
        _lm_eval(names, chosen[0], chat_template, output, load, given)
        return
    settings = _settings(
        suite,
        dataset,
        methods,
        heads=tuple(heads or ()),
        scorer=None if scorer == "none" else scorer,
        **given,
    )
    if ray is not None and ray < 1:
        raise FaithgenError(f"--ray is {ray}; give 1 worker or more")
    team = processes()
    if ray is not None and team.count > 1:
        raise FaithgenError("--ray and accelerate launch are two ways to share a run; use one")
    from faithgen.evaluation.runner import evaluate as run

    quiet = not main_process()
    try:
        with progress_bar("evaluating") as report:
            outcome = run(
                settings,
                output,
                resume=resume,
                baseline=baseline,
                command=sys.argv,
                load=lambda given, place: load(place),
                processes=team,
                ray_workers=ray,
                progress=(lambda done, total: None) if quiet else report,
                note=(lambda text: None) if quiet else note,
            )
    finally:
        leave()
    if not quiet:
        _tell(outcome)
    raise typer.Exit(1 if outcome.failed else 0)


def _settings(suite: str | None, dataset: list[str] | None, methods: str | None, **given: Any) -> EvalSettings:
    from faithgen.evaluation.plan import ANSWERING, RANKING, EvalSettings, parse_spec, suite_sets
    from faithgen.evaluation.tasks import TASKS

    if suite is None and not dataset:
        raise FaithgenError("nothing to evaluate; give --suite, --dataset, --compare or --lm-eval")
    if given["choice_style"] not in ("completion", "chat"):
        raise FaithgenError(f"--choice-style {given['choice_style']!r} is not completion or chat")
    of_suite = suite_sets(suite) if suite is not None else ()
    names = list(dataset or of_suite)
    stray = [spec for spec in names if suite is not None and parse_spec(spec)[0] not in of_suite]
    if stray:
        raise FaithgenError(f"{stray[0]!r} is no set of {suite}, which has {', '.join(of_suite)}; leave out --suite")
    kinds = {TASKS[name].kind for spec in names if (name := parse_spec(spec)[0]) in TASKS}
    ranks = suite == "rerank" or (kinds == {"rank"} and len(kinds) == 1)
    if not ranks and "rank" in kinds:
        raise FaithgenError("scifact and trec_dl19 are for re-ranking alone; evaluate them apart from the others")
    chosen = _split(methods) if methods else list(RANKING if ranks else ANSWERING)
    if methods is not None and not chosen:
        raise FaithgenError("--methods names no method; give some, e.g. base,cafe")
    return EvalSettings(
        tuple(names), tuple(chosen), "rank" if ranks else "answer", None if dataset else suite, **given
    )


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _loader(model: str | None, heads: list[str] | None, dtype: str) -> Any:
    """Makes the generator on a device."""
    for entry in heads or []:
        if entry != "auto" and not Path(entry).is_file():
            raise FaithgenError(f"head set {entry!r} does not exist; make one with: faithgen heads detect")

    def load(device: str) -> FaithfulGenerator:
        from faithgen.generator import FaithfulGenerator

        return FaithfulGenerator(*options.load(model, heads, None, dtype, device))

    return load


def _tell(outcome: Outcome) -> None:
    done = outcome.rows - outcome.failed - outcome.skipped
    note(f"{done} rows answered, {outcome.failed} failed, {outcome.skipped} skipped")
    print(safe(str(outcome.folder / "report.md")))  # noqa: T201


def _compare(first: Path, second: Path) -> None:
    from rich.markup import escape
    from rich.table import Table

    from faithgen.evaluation.compare import compare_runs
    from faithgen.evaluation.report import show_difference, show_estimate, show_p

    found = compare_runs(first, second)
    for text in found.notes:
        note(text)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("data set", "method", "metric", str(first), str(second), "difference", "p (Holm)", "n"):
        table.add_column(escape(safe(name)))
    for one in found.comparisons:
        label = one.methods[0] if one.methods[0] == one.methods[1] else " / ".join(one.methods)
        cells = [one.dataset, label, one.metric, show_estimate(one.first), show_estimate(one.second)]
        cells += [show_difference(one.difference), show_p(one.difference), str(one.difference.difference.n)]
        table.add_row(*(escape(safe(cell)) for cell in cells))
    stdout().print(table)
    note(f"p is two-sided, after Holm's correction over the {len(found.comparisons)} comparisons of the table")


def _lm_eval(tasks: list[str], method: str, chat: bool, output: Path, load: Any, given: dict[str, Any]) -> None:
    import json

    from rich.table import Table

    from faithgen.evaluation.lm_eval_run import check_tasks, run_tasks, table
    from faithgen.evaluation.methods import get_method
    from faithgen.evaluation.store import RunFolder
    from faithgen.files import write_text

    data, seed = given["data"], given["seed"]
    chosen = get_method(method, alpha=given["alpha"], seed=seed)
    check_tasks(tasks, data)
    folder = RunFolder.create(output, resume=False)
    from faithgen.evaluation.lm_eval_model import FaithgenLM

    with progress_bar("lm-eval") as report:
        model = FaithgenLM(load(given["device"]), chosen, batch_size=given["batch_size"], progress=report)
        results = run_tasks(model, tasks, data=data, limit=given["limit"], chat_template=chat, seed=seed)
    write_text(folder.path / "lm_eval.json", json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("task", "metric", "value", "stderr"):
        shown.add_column(name)
    for row in table(results):
        shown.add_row(*map(safe, row))
    stdout().print(shown)
    note(f"{folder.path / 'lm_eval.json'}: results and samples")
