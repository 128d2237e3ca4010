"""`faithgen rank`: order documents by the attention of retrieval heads, without answering."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from faithgen.cli import options
from faithgen.cli.console import document_table, note, stdout
from faithgen.errors import FaithgenError


def rank(
    question: Annotated[str, typer.Argument(help="The question.", show_default=False)],
    documents: options.Documents = None,
    top_k: Annotated[int | None, typer.Option("--top-k", "-k", min=1, help="Show only the best.")] = None,
    model: options.Model = None,
    heads: options.Heads = None,
    random_heads: options.RandomHeads = None,
    calibrate: options.Calibrate = None,
    refine: options.Refine = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the scores of both passes to this .png or .svg.")] = None,
    format: options.Format = "text",
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
) -> None:
    """Rank documents for a question, best first."""
    if not question.strip():
        raise FaithgenError("the question is empty; ask something")
    if plot is not None:
        from faithgen.report.plots import check_plot

        check_plot(plot)
    read = options.documents_from(documents)
    from faithgen.filtering.coarse import FilterConfig
    from faithgen.filtering.reranker import HeadReranker

    loaded, scoring = options.load_scoring(model, heads, random_heads, dtype, device)
    asked = {"calibrate": calibrate, "refine": refine}
    config = FilterConfig(**{name: value for name, value in asked.items() if value is not None})  # type: ignore[arg-type]
    ranking = HeadReranker(loaded, scoring, config).score_in_full(question, read)
    order = ranking.order()[:top_k]
    for i, document in enumerate(read):
        document.score, document.kept = ranking.scores[i], i in order
        document.coarse_score, document.fine_score = ranking.coarse[i], ranking.fine[i]
    shown = [read[i] for i in order]
    if plot is not None:
        from faithgen.report.plots import plot_ranking

        plot_ranking(question, shown, plot)
        note(f"drawn to {plot}")
    if format == "json":
        print(json.dumps([document.to_dict() for document in shown], ensure_ascii=False, indent=1))  # noqa: T201
    else:
        stdout().print(document_table(shown, ranked=True))
