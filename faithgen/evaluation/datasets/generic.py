"""Rows of a user's own, in faithgen's schema."""

from __future__ import annotations

import random
from collections.abc import Iterator

from faithgen.errors import FaithgenError

from .base import DataSet, Tables, Tally
from .schema import Example


def generic(tables: Tables, generator: random.Random, tally: Tally) -> Iterator[Example]:
    """Rows `{id, question, documents: [{id, title, text, gold}], answers, long_answer, meta}`.

    `question` and `documents` are needed; a document may be a string. Names in `meta` that the metrics know are those
    that the other loaders document.
    """
    places: dict[str, str] = {}
    for row in tables["rows"]:
        example = Example.from_dict(row)
        if example.id in places:
            clash = f"{row.place} has the id {example.id!r}, which {places[example.id]} has too"
            raise FaithgenError(f"{clash}; give each row its own id, or none")
        places[example.id] = row.place
        if not example.documents:
            tally.dropped["no documents"] += 1
            continue
        yield example


SETS = {
    "jsonl": DataSet(generic, {"test": {"rows": "data.jsonl"}}, "a JSONL file of your own in faithgen's schema"),
}
