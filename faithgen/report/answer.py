"""The report of an answer: one HTML file that shows what the answer was made of (`faithgen generate --report`)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from faithgen.errors import FaithgenError
from faithgen.files import write_text
from faithgen.report.documents import view_documents
from faithgen.report.head_map import HeadMap, Mark, map_heads
from faithgen.report.look import LEVELS
from faithgen.report.page import number, render_page
from faithgen.report.tokens import script_data, view_sentences

if TYPE_CHECKING:
    from faithgen.answer import Answer
    from faithgen.explanation import Explanation
    from faithgen.heads.head_set import HeadSet

_TITLE = 100
_TIMINGS = {
    "filter": "ranking the documents",
    "prefill": "reading the prompt",
    "decode": "writing the answer",
    "total": "in all",
}
_COUNTS = {
    "scored_tokens": "tokens read to rank",
    "prompt_tokens": "tokens of the prompt",
    "new_tokens": "tokens written",
}
_APART = {
    "control": "one trained to be faithful and one trained not to be would say something else here",
    "heads": "the word depends on the heads that copy from the documents",
    "context": "the word depends on the documents",
}
_WEIGHTS = {"adacad": " × disagreement", "decore": " × entropy"}
_ENDS = {
    "end": "the model ended the answer",
    "stop": "a stop string ended the answer",
    "length": "the answer was cut at the most tokens allowed",
    "empty": "no document held text; the model was not asked",
}


def write_report(
    answer: Answer,
    path: str | os.PathLike[str],
    *,
    scoring_heads: HeadSet | None = None,
    copying_heads: HeadSet | None = None,
) -> None:
    """Write the report of an answer: one HTML file that loads nothing, for people to look at.

    Args:
        answer ([`Answer`]): from `generate(..., explain=True)`.
        path (`str` or `PathLike`): file to write, or to replace; it is there whole or not at all.
        scoring_heads, copying_heads ([`HeadSet`], *optional*):
            The generator's attributes of these names, drawn as maps. Without them the report only names the heads.

    Raises:
        FaithgenError: If the answer was not explained, or the file cannot be written.

    Example:

    ```python
    answer = generator.generate("Who built it?", documents, explain=True)
    write_report(
        answer,
        "answer.html",
        scoring_heads=generator.scoring_heads,
        copying_heads=generator.copying_heads,
    )
    ```
    """
    page = render_report(answer, scoring_heads=scoring_heads, copying_heads=copying_heads)
    write_text(path, page, mend="choose another file for the report")


def render_report(
    answer: Answer, *, scoring_heads: HeadSet | None = None, copying_heads: HeadSet | None = None
) -> str:
    """The HTML that [`write_report`] writes; arguments as there."""
    explanation = answer.explanation
    if explanation is None:
        raise FaithgenError("the answer has no explanation to report; generate it with explain=True")
    title = " ".join(answer.question.split())
    context = {
        "title": title if len(title) <= _TITLE else title[: _TITLE - 1] + "…",
        "answer": answer,
        "doubt": answer.doubt,
        "sentences": view_sentences(answer.tokens, explanation),
        "shade": _shade(answer),
        "formula": _formula(answer),
        "documents": view_documents(answer.documents, explanation, answer.prompt_order),
        "kept": sum(document.kept is not False for document in answer.documents),
        "maps": _maps(explanation, scoring_heads, copying_heads),
        "steps": range(LEVELS + 1),
        "end": _ENDS.get(answer.finish_reason, answer.finish_reason),
        "timings": _timings(answer.timings),
        "settings": _flat(answer.settings),
    }
    return render_page("answer", context, script_data(answer.tokens, explanation))


def _shade(answer: Answer) -> tuple[str, str]:
    """What no shade behind a word means, and what the deepest does."""
    if all(token.jsd is None for token in answer.tokens):
        return "sure", "improbable (there is no second branch)"
    apart = _APART.get(str(_contrast(answer).get("source")))
    return "branches agree", "branches disagree" + (f": {apart}" if apart else "")


def _formula(answer: Answer) -> str | None:
    """How the words were chosen, where it was not by the faithful branch alone."""
    contrast = _contrast(answer)
    alpha = contrast.get("alpha")
    if not isinstance(alpha, int | float) or not alpha or all(token.jsd is None for token in answer.tokens):
        return None
    weight = f"{alpha:g}{_WEIGHTS.get(str(contrast.get('method')), '')}"
    return f"(1 + a) log p(faithful) − a log p(unfaithful), a = {weight}"


def _contrast(answer: Answer) -> Mapping[str, Any]:
    found = answer.settings.get("contrast")
    return found if isinstance(found, Mapping) else {}


def _maps(explanation: Explanation, scoring: HeadSet | None, copying: HeadSet | None) -> list[HeadMap]:
    """What the heads did, by the set that they were taken from."""
    ranked = [Mark("ring", "ranked the documents", explanation.scoring_heads)]
    wrote = [
        Mark("ring", "watched while the answer was written", explanation.heads),
        Mark("cross", "masked in the unfaithful branch", explanation.masked_heads),
    ]
    return [
        map_heads("Heads that find the documents", scoring, ranked),
        map_heads("Heads that copy from the documents", copying, wrote),
    ]


def _timings(timings: Mapping[str, float]) -> list[tuple[str, str]]:
    seconds = [(words, f"{timings[name]:.2f} s") for name, words in _TIMINGS.items() if name in timings]
    counts = [(words, f"{timings[name]:,.0f}") for name, words in _COUNTS.items() if name in timings]
    if timings.get("decode") and timings.get("new_tokens"):
        counts.append(("tokens written a second", number(timings["new_tokens"] / timings["decode"])))
    return seconds + counts


def _flat(settings: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    """Settings as lines of name and value, nested ones with a point between the names."""
    lines = []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            lines += _flat(value, f"{before}{name}.")
        elif value is None or value == []:
            lines.append((f"{before}{name}", "none"))
        elif isinstance(value, list | tuple):
            lines.append((f"{before}{name}", ", ".join(repr(one) for one in value)))
        else:
            lines.append((f"{before}{name}", f"{value:g}" if isinstance(value, float) else str(value)))
    return lines
