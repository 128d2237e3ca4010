"""Needle in a haystack: a sentence in essays, over a grid of lengths and depths (Kamradt 2023; needles of 2404.15574)."""

from __future__ import annotations

import os
import random
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from faithgen.errors import FaithgenError
from faithgen.evaluation.text import split_sentences

from .base import DataSet, Tables, Tally
from .schema import EvalDocument, Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def niah(
    tables: Tables,
    generator: random.Random,
    tally: Tally,
    *,
    lengths: Sequence[int] = (1000, 2000, 4000),
    depths: Sequence[float] = (0, 25, 50, 75, 100),
    tokenizer: PreTrainedTokenizerBase | str | os.PathLike[str] | None = None,
    passage_words: int | None = 100,
    samples: int = 1,
) -> Iterator[Example]:
    """Every needle at every depth of haystacks of every length.

    A haystack is the start of the essays, in an order drawn for each needle and sample; lengths and depths share it, so
    that nothing else differs between the cells of the grid. The needle stands between two sentences, the nearest place
    to its depth. `meta`: `length` and `depth` as asked, `length_reached` and `depth_reached` as built, `unit`, `needle`.

    Args:
        lengths (`Sequence[int]`, *optional*): of needle and haystack together, in tokens of `tokenizer`, or in words.
        depths (`Sequence[float]`, *optional*): share of the haystack before the needle, in percent, 0 to 100.
        tokenizer (`PreTrainedTokenizerBase`, `str` or `PathLike`, *optional*):
            What counts tokens, or the model it belongs to: `"default"`, a folder with `tokenizer.json`, or a hub id. Words
            between white space are counted where it is `None`.
        passage_words (`int`, *optional*, defaults to 100):
            Cut the text into documents of at least so many words, at the ends of sentences; the last may be shorter.
            `None` gives one document.
        samples (`int`, *optional*, defaults to 1): haystacks drawn for each needle.

    Raises:
        FaithgenError: If an option is out of its range, the tokenizer cannot be loaded, or the essays are shorter than a
            length.
    """
    if not lengths or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in lengths):
        raise FaithgenError(f"lengths is {lengths!r}; give whole numbers, 1 or more")
    if not depths or not all(isinstance(depth, (int, float)) and 0 <= depth <= 100 for depth in depths):
        raise FaithgenError(f"depths is {depths!r}; give percentages from 0 to 100")
    for name, value in (("passage_words", passage_words), ("samples", samples)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise FaithgenError(f"{name} is {value!r}; give a whole number, 1 or more")
    counter = _load_tokenizer(tokenizer)

    def count(text: str) -> int:
        return len(text.split()) if counter is None else len(counter.encode(text, add_special_tokens=False))

    unit = "words" if counter is None else "tokens"
    essays = [_folded(row.text("text")) for row in tables["essays"]]
    built = []
    for row in tables["rows"]:
        needle, answer = _folded(row.text("needle")), _folded(row.text("real_needle", "answer"))
        if not needle or not answer:
            tally.dropped["no needle" if answer else "no answer"] += 1
            continue
        if any(needle in essay for essay in essays):
            tally.dropped["the needle is in the essays already"] += 1
            continue
        for sample in range(samples):
            straw = _Straw.of(generator.sample(essays, len(essays)), max(lengths))
            for length in lengths:
                haystack = straw.cut(length - count(needle), count, length, unit)
                for depth in depths:
                    place, before = haystack.place(depth, count)
                    documents = haystack.documents(needle, place, passage_words)
                    total = count(haystack.text())
                    meta = {
                        "length": length,
                        "depth": depth,
                        "length_reached": count(" ".join(document.text for document in documents)),
                        "depth_reached": round(100 * before / total, 2) if total else 0.0,
                        "unit": unit,
                        "needle": needle,
                    }
                    name = f"{row.identity('id')}-{sample + 1}-{length}-{depth:g}"
                    built.append(Example(name, row.text("question"), documents, [answer], None, meta))
    generator.shuffle(built)  # a limit is to thin out the grid, not to cut off its end
    yield from built


@dataclass
class _Straw:
    """Text as words, with the indices of words before which a sentence may be put."""

    words: list[str]
    boundaries: list[int]

    @classmethod
    def of(cls, essays: Sequence[str], words_needed: int) -> _Straw:
        """As many essays as hold the words needed."""
        words: list[str] = []
        boundaries = [0]
        for essay in essays:
            for sentence in split_sentences(essay):
                words += sentence.text.split()
                boundaries.append(len(words))
            if len(words) > words_needed:  # a word is at least one token, so this is enough in tokens too
                break
        return cls(words, boundaries)

    def text(self, end: int | None = None) -> str:
        return " ".join(self.words[:end])

    def cut(self, room: int, count: Callable[[str], int], length: int, unit: str) -> _Straw:
        """The longest start of at most `room` units."""
        if room < 1:
            raise FaithgenError(f"the length {length} is shorter than a needle; give more {unit}")
        ends = range(min(len(self.words), room) + 1)
        end = bisect_left(ends, True, key=lambda n: count(self.text(n)) > room) - 1
        if end == len(self.words) and count(self.text()) < room:
            have = f"the essays hold {count(self.text())} {unit}"
            raise FaithgenError(f"{have}, fewer than the length {length}; give shorter lengths or more essays")
        return _Straw(self.words[:end], [*(b for b in self.boundaries if b < end), end])

    def place(self, depth: float, count: Callable[[str], int]) -> tuple[int, int]:
        """The boundary nearest to a depth in percent, and the units before it."""
        wanted = depth / 100 * count(self.text())
        right = bisect_left(self.boundaries, wanted, key=lambda boundary: count(self.text(boundary)))
        best = min(
            self.boundaries[max(0, right - 1) : right + 1],
            key=lambda boundary: abs(count(self.text(boundary)) - wanted),
        )
        return best, count(self.text(best))

    def documents(self, needle: str, place: int, passage_words: int | None) -> list[EvalDocument]:
        """The text with the needle at a boundary, in passages; the one that holds the needle is gold."""
        edges = self.boundaries
        sentences = [" ".join(self.words[a:b]) for a, b in pairwise(edges) if b > a]
        index = sum(1 for a, b in pairwise(edges) if b > a and b <= place)
        sentences.insert(index, needle)
        documents: list[EvalDocument] = []
        part: list[str] = []
        for number, sentence in enumerate(sentences):
            part.append(sentence)
            last = number == len(sentences) - 1
            if last or (passage_words is not None and sum(len(s.split()) for s in part) >= passage_words):
                gold = number - len(part) < index <= number
                documents.append(EvalDocument(str(len(documents) + 1), "", " ".join(part), gold))
                part = []
        return documents


def _load_tokenizer(given: Any) -> Any:
    """A tokenizer as it is, or that of a model by name or folder."""
    if given is None:
        return None
    from transformers import AutoTokenizer, PreTrainedTokenizerBase

    if isinstance(given, PreTrainedTokenizerBase):
        return given
    if not isinstance(given, (str, os.PathLike)) or not str(given).strip():
        raise FaithgenError(f"tokenizer is {given!r}; give default, a folder with tokenizer.json, or a hub id")
    from faithgen import hf
    from faithgen.models import locate

    hf.quiet()
    folder = Path(given).expanduser()
    target = str(folder) if (folder / "tokenizer.json").is_file() else locate(given)[0]
    try:
        return AutoTokenizer.from_pretrained(target)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise FaithgenError(
            f"the tokenizer of {str(given)!r} could not be loaded ({reason[:200]}); give default, a folder with "
            "tokenizer.json, or a hub id"
        ) from error


def _folded(text: str) -> str:
    return " ".join(text.split())


SETS = {
    "niah": DataSet(
        niah,
        {"test": {"rows": "niah_paulgraham/needles.jsonl", "essays": "niah_paulgraham/essays.jsonl"}},
        "needles in Paul Graham's essays, over a grid of lengths and depths; built here",
    ),
}
