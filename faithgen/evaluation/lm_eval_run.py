"""`faithgen eval --lm-eval TASKS`: lm-eval's tasks, and ours on local files, with our decoding."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from faithgen.errors import FaithgenError, MissingExtraError
from faithgen.evaluation.datasets import DATASETS, SHARED, load_dataset
from faithgen.evaluation.store import finite

if TYPE_CHECKING:
    from faithgen.evaluation.lm_eval_model import FaithgenLM

TASKS_FOLDER = Path(__file__).parent / "lm_eval_tasks"

OUR_TASKS: Mapping[str, str] = {
    "faithgen_nq_swap": "nq_swap",
    "faithgen_faitheval": "faitheval",
    "faithgen_memotrap": "memotrap",
    "faithgen_ramdocs": "ramdocs",
}
"""Our tasks and the set that each reads."""

_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "nq_swap": {"all_substitutions": True},
    "faitheval": {"show_options": False},
}
"""Options of a set where our task does not read it as by default; those of `lm_eval_tasks/rows.py`."""

_NOT_A_NUMBER = "none: no row has a value"


def run_tasks(
    model: FaithgenLM,
    tasks: Sequence[str],
    *,
    data: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    chat_template: bool = False,
    num_fewshot: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Run lm-eval on some tasks.

    Args:
        model ([`FaithgenLM`]): model and method.
        tasks (`Sequence[str]`): names of lm-eval's tasks, or of [`OUR_TASKS`].
        data (`str` or `PathLike`, *optional*): folder with the files of our tasks; that of FAITHGEN_SHARED_DATA by default.
        limit (`int`, *optional*): rows of each task at most.
        chat_template (`bool`, *optional*, defaults to `False`): ask in the model's chat template.
        num_fewshot (`int`, *optional*): in place of the tasks' own.
        seed (`int`, *optional*, defaults to 0): of the few-shot examples and bootstrap.

    Returns:
        `dict`: lm-eval's results, JSON values only.

    Raises:
        FaithgenError: If a task is not known, its data are missing, or lm-eval fails on it.
    """
    import datasets
    from lm_eval import simple_evaluate

    check_tasks(tasks, data)
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory(prefix="faithgen-lm-eval-") as folder:
        try:
            results = simple_evaluate(
                model=model,
                tasks=list(tasks),
                task_manager=_task_manager(tasks, data, Path(folder)),
                limit=limit,
                apply_chat_template=chat_template,
                num_fewshot=num_fewshot,
                random_seed=seed,
                numpy_random_seed=seed,
                torch_random_seed=seed,
                fewshot_random_seed=seed,
            )
        except (FaithgenError, NotImplementedError) as error:
            raise FaithgenError(str(error)) from error
        except (
            OSError,
            LookupError,  # KeyError, and IndexError where no row is left
            ValueError,
            TypeError,
            StopIteration,
            datasets.exceptions.DatasetsError,
        ) as error:  # data that are not there or not as the task says
            cause = error.__cause__ if isinstance(error, datasets.exceptions.DatasetsError) else None
            reason = " ".join(str(cause or error).split())[:300] or "it has no rows"
            raise FaithgenError(
                f"lm-eval cannot run {', '.join(tasks)} ({type(error).__name__}: {reason}); check the data of the task"
            ) from error
    return finite(json.loads(json.dumps(results, default=str)))


def check_tasks(tasks: Sequence[str], data: str | os.PathLike[str] | None) -> None:
    """Raise for tasks that cannot be run, before a model is loaded.

    Raises:
        MissingExtraError: If lm-eval is not installed.
        FaithgenError: If none or an unknown one is given, or the data of ours are missing, broken or without a usable row.
    """
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise MissingExtraError("running lm-eval tasks", "lm-eval") from error
    if not tasks:
        raise FaithgenError("no lm-eval task is given; name some, e.g. --lm-eval faithgen_nq_swap")
    for name in tasks:
        if name in OUR_TASKS:  # read by our own loader, whose errors name file and line
            load_dataset(OUR_TASKS[name], _file(name, data), **_OPTIONS.get(OUR_TASKS[name], {}))
    others = [name for name in tasks if name not in OUR_TASKS]
    if others:
        known = set(TaskManager().all_tasks)
        unknown = [name for name in others if name not in known]
        if unknown:
            raise FaithgenError(
                f"the lm-eval task {unknown[0]!r} is not known; use {', '.join(OUR_TASKS)}, or see: lm_eval ls tasks"
            )


def table(results: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Rows of (task, metric, value, standard error) of lm-eval's results; a metric of a task that has no value says so."""
    rows = []
    for task, values in results.get("results", {}).items():
        found = set()
        for name, value in values.items():
            metric, _, filtered = name.partition(",")
            if not filtered or metric.endswith("_stderr") or not isinstance(value, (int, float, type(None))):
                continue
            found.add(metric)
            error = values.get(f"{metric}_stderr,{filtered}")
            shown = f"{error:.4f}" if isinstance(error, (int, float)) else "–"
            label = metric if filtered == "none" else f"{metric} ({filtered})"
            rows.append((task, label, _NOT_A_NUMBER if value is None else f"{value:.4f}", shown))
        # lm-eval leaves out a metric that no row has
        asked = results.get("configs", {}).get(task, {}).get("metric_list") or []
        names = [str(one["metric"]) for one in asked if isinstance(one, Mapping) and "metric" in one]
        rows += [(task, name, _NOT_A_NUMBER, "–") for name in dict.fromkeys(names) if name not in found]
    return rows


def _task_manager(tasks: Sequence[str], data: str | os.PathLike[str] | None, folder: Path) -> Any:
    """lm-eval's tasks if they are needed, and ours with the place of their files."""
    from lm_eval.tasks import TaskManager

    for name in tasks:
        if name in OUR_TASKS:
            # its own cache: what datasets makes of a local file is not worth keeping in the user's
            place = {"data_files": {"test": str(_file(name, data).resolve())}, "cache_dir": str(folder / "cache")}
            lines = [
                f"include: {json.dumps(str(TASKS_FOLDER / f'{name}.yaml'))}",
                f"task: {name}",
                f"dataset_kwargs: {json.dumps(place)}",  # JSON is YAML
            ]
            (folder / f"{name}.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return TaskManager(include_path=str(folder), include_defaults=any(name not in OUR_TASKS for name in tasks))


def _file(task: str, data: str | os.PathLike[str] | None) -> Path:
    dataset = DATASETS[OUR_TASKS[task]]
    path = dataset.files[dataset.default_split]["rows"]
    given = data or os.environ.get(SHARED)
    if not given:
        raise FaithgenError(f"no data for {task}: give the folder of the data sets (--data), or set {SHARED}")
    root = Path(given).expanduser()
    for candidate in (root / path, root / Path(path).name, root):
        if candidate.is_file():
            return candidate
    raise FaithgenError(f"{str(root)!r} has no {path} for {task}; give the folder of the data sets, or the file")
