"""Unfaithful samples: what a model answers with its own retrieval heads masked (RHIO), filtered, with their provenance."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from faithgen import hf
from faithgen.errors import FaithgenError
from faithgen.prompting import FAITHFUL, INSTRUCTION, PromptBuilder
from faithgen.training.filters import Sample, reason_to_drop
from faithgen.training.rows import Row, Source, read_rows
from faithgen.training.sample_files import SampleFiles, Summary
from faithgen.training.sampling import row_seed
from faithgen.training.unfaithful_config import UnfaithfulConfig
from faithgen.training.unfaithful_samplers import AnswerSampler, load_judge, load_sampled, samplers

if TYPE_CHECKING:
    import os

    from faithgen.evaluation.scorers import Scorer
    from faithgen.heads.resolve import HeadsLike
    from faithgen.models import LoadedModel
    from faithgen.training.endpoint import EndpointSampler


def build_unfaithful(
    model: LoadedModel | str | os.PathLike[str] | None,
    source: Source,
    output: str | os.PathLike[str],
    config: UnfaithfulConfig | None = None,
    *,
    heads: HeadsLike | Sequence[HeadsLike] = "auto",
    scorer: Scorer | str | None = "lexical",
    endpoint: EndpointSampler | str | None = None,
    own_endpoint: EndpointSampler | str | None = None,
    batch_size: int = 8,
    limit: int | None = None,
    split: str = "train",
    resume: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Summary:
    """Sample an unfaithful answer for every row of a source, and write those that pass the filters.

    `output` gets one row a sample, `{id, question, documents, answer, unfaithful, support, made}` (and its `instruction`
    where that is not the default), flushed one by one, longest prompts first. Beside it stand `*.dropped.jsonl`, the samples
    that were left out with their reason, and `*.summary.json`, the settings and counts.

    Args:
        model ([`LoadedModel`], name or path, *optional*):
            The model; `default-base`, the default without its adapter, if not given. With an endpoint only its tokenizer and
            config are read.
        source: rows `{id, question, documents, answer}`: JSONL file, folder or name of a data set, `Dataset`, iterable.
        output (`str` or `PathLike`): JSONL to write.
        config ([`UnfaithfulConfig`], *optional*): heads, sampling and filters.
        heads (`"auto"`, path, [`HeadSet`] or a list of these, *optional*, defaults to `"auto"`):
            The set whose heads are masked, of a list its copying set; `"auto"` takes the model's copying heads, shipped,
            cached or detected.
        scorer ([`Scorer`], `str` or `None`, *optional*, defaults to `"lexical"`):
            Judges support by the documents; `None` leaves it, and its filter, out.
        endpoint ([`EndpointSampler`] or `str`, *optional*):
            Sample from this server in place of the engine. It must run a checkpoint whose heads are masked
            (`faithgen heads bake`), best the folder given as `model`, which says which heads those are.
        own_endpoint (the same, *optional*): server of the whole model, for `own_answers` with an endpoint.
        batch_size (`int`, *optional*, defaults to 8): rows sampled together.
        limit (`int`, *optional*): at most this many rows of the source.
        split (`str`, *optional*, defaults to `"train"`): of a data set by name.
        resume (`bool`, *optional*, defaults to `False`): go on with an output that was cut off.
        progress (`Callable[[int, int], None]`, *optional*): called with (done, total).

    Returns:
        [`Summary`]

    Raises:
        FaithgenError: If a source, file, model, head set, server or setting cannot be used.
    """
    config = config or UnfaithfulConfig()
    if batch_size < 1:
        raise FaithgenError(f"batch_size is {batch_size}; give 1 or more")
    rows = read_rows(source, split=split, needs=() if config.own_answers else ("answer",), limit=limit)
    if config.instruction != INSTRUCTION:
        # goes with each row, so that it is trained under the prompt it was sampled with
        rows = [row if row.instruction else replace(row, instruction=config.instruction) for row in rows]
    files = SampleFiles(output, resume)
    judge = load_judge(scorer)
    loaded = load_sampled(model, whole=endpoint is None)
    made, masked, own = samplers(loaded, model, config, heads, endpoint, own_endpoint)
    made["scorer"] = None if judge is None else judge.name
    builders = {
        text: PromptBuilder(loaded.tokenizer, hf.context_window(loaded.model), text)
        for text in {row.instruction or config.instruction for row in rows}
    }
    _check_sampled(files, rows)
    with files.opened(made | asdict(config), {row.id for row in rows}) as done:
        total = len(rows)
        prompts = _prompts(builders, [row for row in rows if row.id not in done], config, files)
        finished = total - len(prompts)
        if progress is not None:
            progress(finished, total)
        for start in range(0, len(prompts), batch_size):
            batch = prompts[start : start + batch_size]
            for item in _sampled(batch, config, masked, own, judge, made):
                files.write(item)
            finished += len(batch)
            if progress is not None:
                progress(finished, total)
    return files.summary


def _check_sampled(files: SampleFiles, rows: Sequence[Row]) -> None:
    """Refuse to go on with samples of other questions, documents or answers under the ids of these rows."""
    known = {row.id: row for row in rows}
    for path in (files.output, files.dropped):
        try:
            lines = path.read_bytes().split(b"\n")[:-1]
        except OSError:
            continue  # not there, or said when it is opened
        for line in lines:
            try:
                item = json.loads(line)
                row = known[item["id"]]
            except (ValueError, KeyError, TypeError):
                continue  # no line or row of ours: as above
            item["answer"] = item.get("reference", item.get("answer"))  # not the one that the model gave
            source = {"instruction": row.instruction, **_source_columns(row)}
            if any(item.get(name) != value for name, value in source.items() if name != "answer" or value is not None):
                raise FaithgenError(
                    f"{str(path)!r} has a sample of row {row.id} with another question, documents, answer or "
                    "instruction than the input; choose another output"
                )


@dataclass(frozen=True)
class _Prompted:
    row: Row
    ids: list[int]
    cut: bool


def _prompts(
    builders: dict[str, PromptBuilder], rows: Sequence[Row], config: UnfaithfulConfig, files: SampleFiles
) -> list[_Prompted]:
    """The prompts, longest first: a batch then pads little, and what does not fit the memory fails at once."""
    found = []
    for row in rows:
        builder = builders[row.instruction or config.instruction]
        control = FAITHFUL if builder.has_control_tokens else None
        try:
            prompt = builder.build(row.question, row.documents, reserve=config.max_new_tokens, control=control)
        except FaithgenError as error:
            files.write({**_source_columns(row), "dropped": "too_long", "error": str(error)})
            continue
        found.append(_Prompted(row, prompt.input_ids, any(document.truncated for document in prompt.documents)))
    return sorted(found, key=lambda one: -len(one.ids))


def _sampled(
    batch: Sequence[_Prompted],
    config: UnfaithfulConfig,
    masked: AnswerSampler,
    own: AnswerSampler | None,
    judge: Scorer | None,
    made: dict[str, Any],
) -> list[dict[str, Any]]:
    """The output rows of a batch."""
    ids = [one.ids for one in batch]
    seeds = [row_seed(config.seed, one.row.id) for one in batch]
    samples = masked(ids, seeds)
    answers = [Sample(one.row.answer or "", True) for one in batch]
    if own is not None:
        answers = own(ids, [row_seed(config.seed, one.row.id, "own") for one in batch])
    supports = _supports(judge, batch, answers, samples)
    written = []
    for one, seed, sample, answer, support in zip(batch, seeds, samples, answers, supports, strict=True):
        item = _source_columns(one.row) | {"answer": answer.text, "unfaithful": sample.text}
        if own is not None and one.row.answer is not None:
            item["reference"] = one.row.answer
        item["support"] = {"answer": support[0], "unfaithful": support[1]}
        item["made"] = {**made, "row_seed": seed, "documents_cut": one.cut}
        reason = reason_to_drop(sample, answer.text, support, keep=config.keep, margin=config.margin)
        own_reason = None if own is None else reason_to_drop(answer, "", keep=(*config.keep, "equal", "supported"))
        if reason or own_reason:
            item["dropped"] = reason or f"own_answer_{own_reason}"
        written.append(item)
    return written


def _source_columns(row: Row) -> dict[str, Any]:
    columns = row.to_dict()
    del columns["unfaithful"]
    return columns


def _supports(
    judge: Scorer | None, batch: Sequence[_Prompted], answers: Sequence[Sample], samples: Sequence[Sample]
) -> list[tuple[float | None, float | None]]:
    """Mean support of the sentences of answer and sample; `None` for a text that asserts nothing."""
    if judge is None:
        return [(None, None)] * len(batch)
    from faithgen.evaluation.scorers import score_answers, summarise

    texts = [one.text for one in (*answers, *samples)]
    documents = [[document.text for document in one.row.documents] for one in batch] * 2
    scored = score_answers(judge, texts, documents, [one.row.question for one in batch] * 2)
    means = [summarise(sentences).mean for sentences in scored]
    return list(zip(means[: len(batch)], means[len(batch) :], strict=True))
