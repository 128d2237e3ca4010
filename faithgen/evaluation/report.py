"""The report of a run: `report.md`, and `report.html` in one file that needs nothing else and trusts no text in it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faithgen.evaluation.plots import Plot, bars, needle_map, support_by_length
from faithgen.evaluation.resampling import Estimate
from faithgen.evaluation.statistics import PairedDifference
from faithgen.evaluation.store import Row
from faithgen.evaluation.summary import MethodFigures, SetFigures, figures_record, summarise_run, values_of
from faithgen.evaluation.tasks import describe, higher_is_better
from faithgen.files import write_text

FEW = 30
"""Rows below which a bootstrap interval is too narrow to be trusted."""

SHOWN = 5
"""Answers shown of each method and set."""

ABSTENTION = (
    "Precision: of the refusals, the share of unanswerable questions; recall: of these, the share refused; "
    "false refusals: of the answerable questions, the share refused."
)

_LONGEST = 600
_TEMPLATES = Path(__file__).parent / "templates"
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u200e\u200f\u202a-\u202e\u2066-\u2069\ufffe\uffff]")


@dataclass
class AnswerTable:
    """Some answers of a method: those furthest from the baseline's, or the baseline's own worst.

    Attributes:
        method (`str`), anchor (`str`), title (`str`)
        rows (`list[dict]`): `id`, `question`, `gold`, `answer`, `value`, and `other`, `other_value` of the baseline.
    """

    method: str
    anchor: str
    title: str
    rows: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Section:
    """One set in the report."""

    figures: SetFigures
    anchor: str
    source: str
    plots: list[Plot]
    answers: list[AnswerTable]
    notes: list[str]

    def answers_of(self, method: str) -> AnswerTable | None:
        return next((one for one in self.answers if one.method == method and one.rows), None)


def write_report(folder: Path, record: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Write `report.md`, `report.html`, `summary.json` and `plots/*.svg` into the folder of a run.

    Args:
        folder (`Path`): of the run.
        record (`Mapping`): its `run.json`.
        rows (`Sequence[dict]`): its rows.

    Raises:
        FaithgenError: If a file cannot be written.
    """
    sets = summarise_run(record, rows)
    sections = [_section(figures, record, rows) for figures in sets]
    write_text(folder / "summary.json", json.dumps(figures_record(sets), indent=1, allow_nan=False) + "\n")
    (folder / "plots").mkdir(exist_ok=True)
    for section in sections:
        for plot in section.plots:
            write_text(folder / "plots" / f"{section.anchor}-{_slug(plot.name)}.svg", plot.light)
    context = {
        "record": record,
        "sections": sections,
        "facts": _facts(record, rows),
        "warnings": _warnings(record, rows, sets),
        "settings": json.dumps(record, indent=1, ensure_ascii=False),
        "abstention_about": ABSTENTION,
    }
    write_text(folder / "report.html", _environment(True).get_template("report.html.j2").render(context))
    write_text(folder / "report.md", _environment(False).get_template("report.md.j2").render(context))


def show_estimate(estimate: Estimate | None) -> str:
    """A cell: mean and interval, or why there is none."""
    if estimate is None:
        return "none: not a metric of these rows"
    if estimate.mean is None:
        return f"none: {estimate.reason}"
    return _figure(estimate, estimate.mean)


def show_difference(pair: PairedDifference | None) -> str:
    """A cell: difference from the baseline and its interval."""
    if pair is None:
        return "–"
    estimate = pair.difference
    if estimate.mean is None:
        return f"none: {estimate.reason}"
    return _figure(estimate, estimate.mean, sign=True)


def show_p(pair: PairedDifference | None) -> str:
    """A cell: p-value after Holm's correction."""
    value = None if pair is None else pair.p_holm
    if pair is None or value is None:
        return "–"
    return "<.001" if value < 0.001 else f"{value:.3f}".removeprefix("0") if value < 1 else "1"


def show_missing(figures: MethodFigures, metric: str | None) -> str:
    """A cell: rows without a value, and why."""
    if figures.reason is not None:
        return figures.reason
    estimate = figures.metrics.get(metric or "")
    if estimate is None or not estimate.missing:
        return "0"
    named = [f"{count} {reason}" for reason, count in figures.without.items()]
    undefined = estimate.missing - sum(figures.without.values())
    if undefined > 0:
        named.append(f"{undefined} not defined for the row, or not yet run")
    return f"{estimate.missing}: " + ", ".join(named)


def escape_markdown(text: Any) -> str:
    """Text for a cell of a Markdown table: no markup and no line break can come out of it."""
    shown = " ".join(_clean(str(text)).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # besides markup: addresses, which some readers turn into links
    return re.sub(r"([\\`*_\[\]|~$]|:(?=//)|(?<=www)\.)", r"\\\1", shown)


def _environment(html: bool) -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=html,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "estimate": show_estimate,
        "difference": show_difference,
        "p": show_p,
        "md": escape_markdown,
        "clean": _clean,
        "about": describe,
        "slug": _slug,
    }
    environment.globals |= {"missing": show_missing, "arrow": _arrow}
    return environment


def _section(figures: SetFigures, record: Mapping[str, Any], rows: Sequence[Row]) -> Section:
    own = [row for row in rows if row["dataset"] == figures.dataset]
    methods = [one.method for one in figures.methods]
    plots = [bars(figures, metric, metric) for metric in figures.headline]
    if record["tasks"][figures.dataset]["set"] == "niah" and figures.main:
        plots.append(needle_map(own, methods, figures.main))
    if figures.kind == "long":
        plots.append(support_by_length(own, methods))
    notes = []
    if figures.clustered:
        notes.append("Several rows share a question: intervals are over questions.")
    if any(0 < estimate.n < FEW for one in figures.methods for estimate in one.metrics.values()):
        notes.append(
            f"Fewer than {FEW} rows have a value somewhere: intervals of so few are too narrow, and p too low."
        )
    if record["tasks"][figures.dataset]["set"] == "niah":
        notes.append("Rows share a few needles and haystacks; intervals treat the cells of the grid as independent.")
    dropped = record["datasets"][figures.dataset].get("dropped") or {}
    if dropped:
        notes.append("Rows of the data left out: " + ", ".join(f"{why} ({n})" for why, n in dropped.items()) + ".")
    anchor = _slug(figures.dataset)
    answers = [_answers(figures, one, own, anchor) for one in methods]
    source = record["sources"][figures.dataset]
    return Section(figures, anchor, source, [plot for plot in plots if plot is not None], answers, notes)


def _answers(figures: SetFigures, method: str, rows: Sequence[Row], anchor: str) -> AnswerTable:
    """The answers that differ most from the baseline's by the main metric; the baseline's own lowest."""
    main = figures.main
    own = {row["id"]: row for row in rows if row["method"] == method and "answer" in row}
    base = {row["id"]: row for row in rows if row["method"] == figures.baseline and "answer" in row}
    found = []
    for name, row in own.items():
        value = values_of(row).get(main or "")
        other = values_of(base[name]).get(main or "") if name in base else None
        if value is None:
            continue
        shown: dict[str, Any] = {
            "id": name,
            "question": _short(row["question"]),
            "gold": _short("; ".join(row["answers"]) or row.get("long_answer") or ""),
            "answer": _short(row["answer"]),
            "value": _number(value),
            "other": _short(base[name]["answer"]) if name in base else None,
            "other_value": None if other is None else _number(other),
        }
        better = -1.0 if higher_is_better(main or "") is False else 1.0
        apart = -abs(value - other) if other is not None and method != figures.baseline else 0.0
        found.append(((apart, better * value, name), shown))
    found.sort(key=lambda pair: pair[0])
    kept = [shown for _, shown in found[:SHOWN]]
    title = f"{method}: lowest by {main}"
    if method != figures.baseline and base:
        title = f"{method}: furthest from {figures.baseline} by {main}"
    return AnswerTable(method, f"{anchor}-{_slug(method)}", title, kept)


def _facts(record: Mapping[str, Any], rows: Sequence[Row]) -> list[tuple[str, str]]:
    model, scorer, run = record.get("model") or {}, record.get("scorer") or {}, record["runs"][-1]
    facts = [
        ("suite", record.get("suite") or "–"),
        ("model", f"{model['id']} ({model['dtype']}, revision {model['revision'][:12]})" if model else "none needed"),
        ("rows", str(len(rows))),
        ("baseline", record["baseline"]),
    ]
    if scorer and any(task["kind"] in ("short", "long") for task in record["tasks"].values()):
        facts.append(("scorer", f"{scorer['name']}: {scorer['reason']}"))
    hardware = run["hardware"]
    facts += [
        ("run on", ", ".join(hardware.get("gpu") or [hardware["cpu"]]) or "unknown"),
        ("started", run["started"]),
        ("command", " ".join(map(str, run["command"])) or "from Python"),
    ]
    return facts


def _warnings(record: Mapping[str, Any], rows: Sequence[Row], sets: Sequence[SetFigures]) -> list[str]:
    found = [f"Left out: {name}: {reason}" for name, reason in record.get("unavailable", {}).items()]
    found += [f"Left out: {reason}" for reason in record.get("missing", {}).values()]
    failed = sum("error" in row for row in rows)
    empty = sum(row.get("answer") == "" for row in rows)
    expected = sum(record["datasets"][one.dataset]["rows"] for one in sets) * len(record["settings"]["methods"])
    expected -= sum(record["datasets"][one.dataset]["rows"] for one in sets) * len(record.get("unavailable", {}))
    if len(rows) < expected:
        found.append(f"{len(rows)} of {expected} rows are there: the run is not finished; go on with --resume.")
    if failed:
        found.append(f"{failed} of {len(rows)} rows failed; they are missing from the figures.")
    if empty:
        found.append(f"{empty} of {len(rows)} answers are empty.")
    scorer = record.get("scorer") or {}
    if scorer and not scorer["headline"] and any(one.kind == "long" for one in sets):
        found.append(f"The scorer {scorer['name']} may not carry a headline ({scorer['reason']}).")
    return found


def _figure(estimate: Estimate, mean: float, sign: bool = False) -> str:
    text = _number(mean, sign)
    if estimate.low is not None and estimate.high is not None:
        text += f" [{_number(estimate.low, sign)}, {_number(estimate.high, sign)}]"
    return f"{text} ({estimate.remark})" if estimate.remark else text


def _number(value: float, sign: bool = False) -> str:
    text = f"{round(value, 3) + 0.0:{'+' if sign else ''}.3f}"
    return text if abs(value) < 100 else f"{value:{'+' if sign else ''}.1f}"


def _arrow(metric: str) -> str:
    return {True: "↑", False: "↓", None: ""}[higher_is_better(metric)]


def _short(text: str) -> str:
    text = _clean(text)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _clean(text: Any) -> str:
    """Text without control characters and direction overrides."""
    return _CONTROL.sub("\ufffd", str(text))


def _slug(text: str) -> str:
    """A name for anchors and files; different names stay different."""
    import hashlib

    plain = re.sub(r"[^a-z0-9_]+", "-", text.lower()).strip("-")[:60] or "x"
    return plain if plain == text.lower() else f"{plain}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"
