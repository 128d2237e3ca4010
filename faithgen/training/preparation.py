"""A data set of rows becomes one of token ids; rows that are too long are counted, reported and by default refused."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from accelerate import PartialState

from faithgen.errors import FaithgenError
from faithgen.training.prompts import RowEncoder

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LengthReport:
    """What became of the rows of a data set.

    Attributes:
        rows (`int`): rows that are trained on.
        cut (`int`): of these, rows whose documents were cut.
        dropped (`int`): rows that were left out as too long.
        limit (`int`): tokens a sequence may have.
        longest (`int`): tokens of the longest sequence before anything was cut.
    """

    rows: int
    cut: int
    dropped: int
    limit: int
    longest: int

    def to_dict(self) -> dict[str, int]:
        return asdict(self)


def prepare(
    dataset: Dataset, encoder: RowEncoder, name: str, num_proc: int | None = None
) -> tuple[Dataset, LengthReport]:
    """Encode a data set (TRL would drop rows above `max_length`, whose prompt alone fills it, without a word).

    Args:
        dataset (`Dataset`): rows `{question, documents, answer, unfaithful}`.
        encoder ([`RowEncoder`]): its `overlong` says what becomes of rows above its `limit`.
        name (`str`): of the data set, for messages: `"train"`, `"eval"`.
        num_proc (`int`, *optional*): processes.

    Returns:
        The encoded `Dataset` and a [`LengthReport`].

    Raises:
        FaithgenError: If columns are missing, a row is unusable, rows are too long and `overlong` is `"error"` (or they do
            not fit even with documents cut), or none is left.
    """
    from datasets import Dataset as MapDataset

    if not isinstance(dataset, MapDataset):
        raise FaithgenError(f"the {name} data is streamed; load it whole, its lengths are checked before training")
    if not len(dataset):
        raise FaithgenError(f"the {name} data is empty; give at least one row")
    needed = ["question", "documents", "answer", *(["unfaithful"] if encoder.pairs else [])]
    missing = [column for column in needed if column not in dataset.column_names]
    if missing:
        raise FaithgenError(
            f"the {name} data has no column {missing[0]!r}; the columns needed are {', '.join(needed)}, it has "
            f"{', '.join(dataset.column_names)}"
            + ("; make it with: faithgen data unfaithful" if "unfaithful" in missing else "")
        )
    cached = bool(dataset.cache_files)  # then the first process writes for all; in memory each has its own anyway
    with PartialState().local_main_process_first() if cached else contextlib.nullcontext():
        encoded = dataset.map(
            encoder,
            remove_columns=dataset.column_names,
            num_proc=num_proc,
            desc=f"Tokenizing {name} data",
        )
    fits = Counter(encoded["fit"])
    report = LengthReport(
        fits["whole"] + fits["cut"], fits["cut"], fits["overlong"], encoder.limit, max(encoded["length"])
    )
    _judge(report, encoder.overlong, name, dataset, encoded)
    if report.dropped:
        encoded = encoded.select([index for index, fit in enumerate(encoded["fit"]) if fit != "overlong"])
    return encoded.remove_columns(["fit", "length"]), report


def _judge(report: LengthReport, overlong: str, name: str, dataset: Any, encoded: Any) -> None:
    total = report.rows + report.dropped
    where = f"{report.dropped} of {total} rows of the {name} data are longer than max_length {report.limit}"
    if report.dropped and overlong != "drop":
        ids = _ids(dataset, encoded["fit"])
        even = " even with their documents cut" if overlong == "truncate_documents" else ""
        choices = (
            "overlong: drop" if overlong == "truncate_documents" else "overlong: drop or overlong: truncate_documents"
        )
        raise FaithgenError(
            f"{where}{even} (longest {report.longest} tokens; {ids}); raise max_length, give fewer or shorter documents, "
            f"or set {choices}"
        )
    if not report.rows:
        raise FaithgenError(f"all {total} rows of the {name} data are longer than max_length {report.limit}; raise it")
    if not PartialState().is_main_process:
        return
    if report.dropped:
        logger.warning("%s: left out (overlong: drop)", where)
    if report.cut:
        logger.warning(
            "documents cut to fit max_length %d in %d of %d rows of the %s data", report.limit, report.cut, total, name
        )
    logger.info("%s data: %d rows, longest %d of %d tokens", name, report.rows, report.longest, report.limit)


def _ids(dataset: Any, fits: Sequence[str]) -> str:
    """The first few rows that are too long, by id where they have one."""
    found = [index for index, fit in enumerate(fits) if fit == "overlong"]
    names = [str(dataset[index].get("id") or f"number {index + 1}") for index in found[:3]]
    return "rows " + ", ".join(names) + (", ..." if len(found) > 3 else "")
