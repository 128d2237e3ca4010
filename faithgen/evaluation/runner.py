"""A run from its settings to its report: resumable after any kind of stop, shared by several processes."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from faithgen.errors import FaithgenError
from faithgen.evaluation.distributed import Processes
from faithgen.evaluation.plan import Batch, EvalSettings, Plan, make_plan
from faithgen.evaluation.provenance import describe, machine, now, run_record
from faithgen.evaluation.store import Row, RunFolder, key_of

if TYPE_CHECKING:
    from faithgen.evaluation.worker import Worker
    from faithgen.generator import FaithfulGenerator

Load = Callable[[EvalSettings, str], "FaithfulGenerator"]
"""Makes the generator of the settings on a device."""


@dataclass
class Outcome:
    """What became of a run.

    Attributes:
        folder (`Path`): with `rows.jsonl`, `run.json`, `report.md` and `report.html`.
        rows (`int`): rows in it.
        failed (`int`): error rows.
        skipped (`int`): rows that a method has nothing to do on, with the reason in the row.
        empty (`int`): empty answers.
        unavailable (`dict[str, str]`): methods that the model cannot run, with the reason.
        missing (`dict[str, str]`): sets of the suite that are not at hand.
    """

    folder: Path
    rows: int
    failed: int
    skipped: int
    empty: int
    unavailable: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


def evaluate(
    settings: EvalSettings,
    output: str | os.PathLike[str],
    *,
    resume: bool = False,
    baseline: str | None = None,
    command: Sequence[str] = (),
    load: Load | None = None,
    processes: Processes | None = None,
    ray_workers: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    note: Callable[[str], None] = lambda text: None,
) -> Outcome:
    """Answer and score all rows, and write the report.

    Args:
        settings ([`EvalSettings`]): what to run.
        output (`str` or `PathLike`): folder of the run.
        resume (`bool`, *optional*, defaults to `False`):
            Go on with a run that was cut off; its rows are kept, but for those that failed: they are tried again.
        baseline (`str`, *optional*):
            Method that the others are compared with; that of the run taken up again, else `base` (`bm25` for rankings), or
            the first.
        command (`Sequence[str]`, *optional*): kept in `run.json`.
        load (`Callable`, *optional*): makes the generator.
        processes ([`Processes`], *optional*): that share the run.
        ray_workers (`int`, *optional*): run on so many Ray workers instead.
        progress (`Callable[[int, int], None]`, *optional*): called with (rows done, rows of this process).
        note (`Callable[[str], None]`, *optional*): takes lines for the user.

    Returns:
        [`Outcome`]

    Raises:
        FaithgenError: If settings, data or output cannot be used, or no method can run with the model.
    """
    team = processes or Processes()
    chosen = check_methods(settings, baseline)
    plan = make_plan(settings)
    for reason in plan.missing.values():
        note(f"left out: {reason}")
    folder = RunFolder(Path(output))
    with ExitStack() as stack:
        with team.together():
            if team.main:
                folder = RunFolder.create(output, resume=resume)
                stack.enter_context(folder.locked())
                folder.check_same({"settings": settings.record(), "datasets": plan.record()})
                folder.merge(plan.order())
        with team.together():  # nobody writes before everybody has read
            done, before = {key_of(row) for row in folder.rows() if "error" not in row}, folder.record()
        if baseline is None:
            chosen = before.get("baseline", chosen)
        unavailable = dict(before.get("unavailable", {}))
        methods = [name for name in settings.methods if name not in unavailable]
        if not before or any(key not in done for batch in plan.batches(methods) for key in batch.row_keys()):
            run = _Run(settings, plan, folder, team, load or load_generator, ray_workers)
            with team.together():
                unavailable = run.prepare(chosen, command, before)
            with team.together():
                run.work(done, progress)
            run.finish()
        rows = folder.rows()
        with team.together():
            if team.main:
                _report(folder, rows, chosen)
    outcome = _outcome(folder, rows, plan, unavailable)
    _tell(outcome, rows, note)
    return outcome


def check_methods(settings: EvalSettings, baseline: str | None) -> str:
    """Check the names of methods and scorer; returns the baseline's.

    Raises:
        FaithgenError: If one is not known, or the baseline is not among them.
    """
    from faithgen.evaluation.scorers import SCORERS
    from faithgen.evaluation.worker import Worker

    if not settings.methods:
        raise FaithgenError("no method to run; give --methods")
    worker = Worker(settings, None)
    for name in settings.methods:
        worker.method(name)
    if settings.scorer is not None and settings.scorer.partition(":")[0] not in SCORERS:
        raise FaithgenError(f"there is no scorer {settings.scorer!r}; choose from {', '.join(SCORERS)}, or none")
    repeated = [name for name, count in Counter(settings.methods).items() if count > 1]
    if repeated:
        raise FaithgenError(f"the method {repeated[0]!r} is given twice; give it once")
    if baseline is None:
        usual = "bm25" if settings.mode == "rank" else "base"
        return usual if usual in settings.methods else settings.methods[0]
    if baseline not in settings.methods:
        raise FaithgenError(
            f"the baseline {baseline!r} is not among the methods {', '.join(settings.methods)}; add it"
        )
    return baseline


def load_generator(settings: EvalSettings, device: str) -> FaithfulGenerator:
    """The generator of the settings."""
    from faithgen.generator import FaithfulGenerator

    heads: Any = list(settings.heads) or "auto"
    return FaithfulGenerator.from_pretrained(settings.model, heads=heads, dtype=settings.dtype, device=device)


def load_worker(settings: EvalSettings, device: str, load: Load = load_generator) -> Worker:
    """Model, heads and scorer of the settings, as far as they are needed.

    Raises:
        FaithgenError: If one of them cannot be loaded.
    """
    from faithgen.evaluation.worker import Worker

    probe = Worker(settings, None)
    needed = settings.mode == "answer" or any(getattr(probe.method(n), "needs_model", True) for n in settings.methods)
    generator = load(settings, device) if needed else None
    scorer, threshold = None, 0.5
    if settings.scorer is not None and settings.mode == "answer":
        scorer, threshold = _load_scorer(settings.scorer, generator)
    return Worker(settings, generator, scorer, threshold)


def _load_scorer(name: str, generator: FaithfulGenerator | None) -> tuple[Any, float]:
    """A scorer and the threshold it was judged with."""
    from faithgen.evaluation.scorers import judged_threshold, load_scorer, reads_with_generator

    options = {"model": generator.loaded} if reads_with_generator(name) and generator is not None else {}
    scorer = load_scorer(name, **options)
    return scorer, judged_threshold(scorer.name)


class _Run:
    """Fills in the rows that are not there; every process its share."""

    def __init__(
        self,
        settings: EvalSettings,
        plan: Plan,
        folder: RunFolder,
        team: Processes,
        load: Load,
        ray_workers: int | None,
    ):
        self.settings, self.plan, self.folder, self.team = settings, plan, folder, team
        self.load, self.ray_workers = load, ray_workers
        self.started = time.time()
        self.worker: Worker | None = None
        self.record: dict[str, Any] = {}
        self.unavailable: dict[str, str] = {}

    def prepare(self, baseline: str, command: Sequence[str], before: Mapping[str, Any]) -> dict[str, str]:
        """Load what is needed and write `run.json`; returns the methods that cannot run."""
        if self.ray_workers is None:
            asked = self.settings.device
            self.worker = load_worker(
                self.settings, (self.team.device or asked) if asked == "auto" else asked, self.load
            )
            found = describe(self.worker)
        else:
            from faithgen.evaluation.ray_workers import describe_remotely

            found = describe_remotely(self.settings, self.ray_workers)
        self.unavailable = found["unavailable"]
        if self.team.main:
            self.folder.check_same(found)
            run = {"command": list(command), "started": now(), "batch_size": self.settings.batch_size}
            runs = [*before.get("runs", []), run | machine(self.team.count, self.ray_workers)]
            self.record = run_record(self.settings, self.plan, found, baseline) | {"runs": runs}
            self.folder.write_record(self.record)
        return self.unavailable

    def work(self, done: set[Any], progress: Callable[[int, int], None]) -> None:
        """Write the rows of this process's share."""
        methods = [name for name in self.settings.methods if name not in self.unavailable]
        left = (_left(batch, done) for batch in self.plan.batches(methods))
        batches = self.team.share([batch for batch in left if batch.examples])
        if self.worker is not None:
            rows = _work(self.worker, self.plan, batches)
        else:
            from faithgen.evaluation.ray_workers import run_batches

            assert self.ray_workers is not None
            rows = run_batches(self.settings, self.plan, batches, self.ray_workers)
        total, finished = sum(len(batch.examples) for batch in batches), 0
        team = self.team
        target = self.folder.rows_file if team.count == 1 else self.folder.shard_file(team.rank)
        with self.folder.appending(target) as writer:
            progress(0, total)
            for part in rows:
                writer.write(part)
                finished += len(part)
                progress(finished, total)

    def finish(self) -> None:
        """Bring the shards together; all processes are done."""
        if self.team.main:
            self.folder.merge(self.plan.order())
            self.record["runs"][-1] |= {"finished": now(), "seconds": round(time.time() - self.started, 1)}
            self.folder.write_record(self.record)
        with self.team.together():
            pass


def _left(batch: Batch, done: set[Any]) -> Batch:
    """The rows of a batch that are still to do. Batches are cut before, so that a resumed run has the same ones."""
    left = [example for key, example in zip(batch.row_keys(), batch.examples, strict=True) if key not in done]
    return Batch(batch.dataset, batch.method, left)


def _work(worker: Worker, plan: Plan, batches: Sequence[Batch]) -> Iterator[list[Row]]:
    for batch in batches:
        one = plan.set_of(batch.dataset)
        yield worker.run(batch, one.name, one.task)


def _outcome(folder: RunFolder, rows: Sequence[Row], plan: Plan, unavailable: dict[str, str]) -> Outcome:
    return Outcome(
        folder.path,
        len(rows),
        sum("error" in row for row in rows),
        sum("skipped" in row for row in rows),
        sum(row.get("answer") == "" for row in rows),
        unavailable,
        plan.missing,
    )


def _report(folder: RunFolder, rows: Sequence[Row], baseline: str) -> None:
    from faithgen.evaluation.report import write_report

    record = folder.record()
    if record["baseline"] != baseline:  # a finished run that is taken up again with another one
        record["baseline"] = baseline
        folder.write_record(record)
    write_report(folder.path, record, rows)


def _tell(outcome: Outcome, rows: Sequence[Row], note: Callable[[str], None]) -> None:
    from faithgen.evaluation.worker import UNSCORED

    for name, reason in outcome.unavailable.items():
        note(f"left out: {name}: {reason}")
    if outcome.empty:
        by_method = Counter(row["method"] for row in rows if row.get("answer") == "")
        named = ", ".join(f"{name} {count}" for name, count in by_method.items())
        note(f"warning: {outcome.empty} of {outcome.rows} answers are empty ({named})")
    if outcome.failed:
        first = next(row for row in rows if "error" in row)
        place = f"{first['dataset']} {first['id']} by {first['method']}"
        failed = f"{outcome.failed} of {outcome.rows} rows failed, --resume tries them again"
        note(f"{failed}; the first: {place}: {first['error']}")
    reasons = [
        reason for row in rows if (reason := (row.get("scorer") or {}).get("reason") or "").startswith(UNSCORED)
    ]
    if reasons:
        note(f"warning: {len(reasons)} of {outcome.rows} answers have no support; the first: {reasons[0]}")
