"""MemoTrap: write an ending that is not the memorised one (inverse scaling; the four tasks as in DeCoRe, 2410.18860)."""

from __future__ import annotations

import random
from collections.abc import Iterator

from faithgen.errors import FaithgenError

from .base import DataSet, Tables, Tally
from .schema import Example

TASKS = ("1-proverb-ending", "2-proverb-translation", "3-hate-speech-ending", "4-history-of-science-qa")


def memotrap(tables: Tables, generator: random.Random, tally: Tally, *, task: str | None = None) -> Iterator[Example]:
    """Instructions and their endings, without documents.

    `meta["options"]` are the endings as they follow the prompt, with their leading blank, and `meta["answer_index"]` the
    wanted one: the published score compares the likelihood of the two. `meta["task"]`: macro figures average over it.
    `answers` is the wanted ending and `meta["memory_answers"]` the memorised one, for free generation.

    Args:
        task (`str`, *optional*): serve one of the four tasks only.
    """
    if task is not None and task not in TASKS:
        raise FaithgenError(f"task is {task!r}; give one of {', '.join(TASKS)}, or None for all")
    seen: set[tuple[str, frozenset[str]]] = set()
    for row in tables["rows"]:
        options, index, prompt = row.strings("classes"), row.integer("answer_index"), row.text("prompt")
        key = (prompt, frozenset(options))
        if task not in (None, row.text("task")):
            tally.dropped["another task"] += 1
        elif len(options) < 2 or not 0 <= index < len(options):
            tally.dropped["fewer than two endings" if len(options) < 2 else "the wanted ending is not there"] += 1
        elif key in seen:
            tally.dropped["repeats another row"] += 1
        else:
            seen.add(key)
            memory = [option.strip() for number, option in enumerate(options) if number != index]
            meta = {"task": row.text("task"), "options": options, "answer_index": index, "memory_answers": memory}
            name = f"{row.text('task')}-{row.identity('id')}"
            yield Example(name, prompt, [], [options[index].strip()], None, meta)


SETS = {
    "memotrap": DataSet(
        memotrap,
        {"test": {"rows": "memotrap/memotrap.jsonl"}},
        "instructions against a memorised ending; MemoTrap's four tasks, their only split",
    ),
}
