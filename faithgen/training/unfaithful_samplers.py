"""What answers when unfaithful samples are made: the masked model on our engine, or a server of a masked checkpoint."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from faithgen import hf, models
from faithgen.errors import FaithgenError
from faithgen.heads.head_set import HeadSet
from faithgen.heads.resolve import COPYING, resolve_heads
from faithgen.models import hub_commit
from faithgen.training.endpoint import EndpointSampler
from faithgen.training.filters import Sample
from faithgen.training.sampling import EngineSampler, choose_heads
from faithgen.training.unfaithful_config import UnfaithfulConfig

if TYPE_CHECKING:
    from faithgen.evaluation.scorers import Scorer

_PROVENANCE = ("method", "model_id", "revision", "data", "seed")


class AnswerSampler(Protocol):
    """Prompts as token ids and a seed each in, one answer each out."""

    def __call__(self, prompts: Sequence[list[int]], seeds: Sequence[int]) -> list[Sample]: ...


def samplers(
    loaded: Any,
    model: Any,
    config: UnfaithfulConfig,
    heads: Any,
    endpoint: EndpointSampler | str | None,
    own_endpoint: EndpointSampler | str | None,
) -> tuple[dict[str, Any], AnswerSampler, AnswerSampler | None]:
    """How the samples are made (for their provenance), the masked sampler, and that of the model as it is."""
    options: dict[str, Any] = {
        "temperature": config.temperature,
        "top_p": config.top_p,
        "max_new_tokens": config.max_new_tokens,
    }
    made: dict[str, Any] = {"model": loaded.model_id, "revision": loaded.revision}
    if endpoint is not None:
        if any(value is not None for value in (config.count, config.share, config.threshold, config.random_heads)):
            raise FaithgenError(
                "an endpoint runs a checkpoint with its heads masked already; choose them in faithgen heads bake"
            )
        if config.own_answers and own_endpoint is None:
            raise FaithgenError(
                "own answers with an endpoint need the server of the whole model too; give own_endpoint"
            )
        server = _server(endpoint, options)
        made |= {"endpoint": server.url, "served_model": server.served_model(), **_baked(model)}
        own = _server(own_endpoint, options) if config.own_answers and own_endpoint is not None else None
        return made | options, server, own
    if own_endpoint is not None:
        raise FaithgenError("own_endpoint goes with an endpoint; without one the model answers here")
    head_set = _head_set(loaded, heads)
    if config.random_heads is not None:
        head_set = head_set.random_like(config.random_heads)
    chosen = choose_heads(head_set, count=config.count, share=config.share, threshold=config.threshold)
    made |= {"head_set": _named(head_set), "masked_heads": len(chosen), "ablation": config.ablation}
    own_sampler = EngineSampler(loaded, [], config.ablation, **options) if config.own_answers else None
    return made | options, EngineSampler(loaded, chosen, config.ablation, **options), own_sampler


def _head_set(loaded: Any, heads: Any) -> HeadSet:
    """The heads to mask: the set that is given (a copying one first), else the model's copying heads."""
    given = [heads] if isinstance(heads, str | os.PathLike | HeadSet) else list(heads)
    sets = [one if isinstance(one, HeadSet) else HeadSet.load(one) for one in given if one != "auto"]
    if not sets:
        return resolve_heads(loaded)[1]
    shape = hf.head_shape(loaded.model)
    for one in sets:
        one.check(shape.num_layers, shape.num_heads, loaded.model_id, loaded.revision)
    return next((one for one in sets if COPYING in one.method), sets[0])


def _named(head_set: HeadSet) -> dict[str, Any]:
    return {name: getattr(head_set, name) for name in _PROVENANCE}


def _server(endpoint: EndpointSampler | str, options: dict[str, Any]) -> EndpointSampler:
    return EndpointSampler(endpoint, **options) if isinstance(endpoint, str) else endpoint


def _baked(model: Any) -> dict[str, Any]:
    """The masked heads that a folder of `faithgen heads bake` names."""
    try:
        record = json.loads((Path(model) / "faithgen_mask.json").read_text(encoding="utf-8"))
        masked = [tuple(head) for head in record["heads"]]
        named = {name: record.get(name) for name in _PROVENANCE}
        return {"head_set": named, "masked_heads": len(masked), "ablation": "zero"}
    except (OSError, ValueError, KeyError, TypeError):
        return {"head_set": None, "masked_heads": None, "ablation": None}


def load_judge(scorer: Scorer | str | None) -> Scorer | None:
    """The scorer itself, by name or as given."""
    if isinstance(scorer, str):
        from faithgen.evaluation.scorers import load_scorer

        return load_scorer(scorer)
    return scorer


def load_sampled(model: Any, *, whole: bool) -> Any:
    """The model; for an endpoint only what prompts need of it."""
    if isinstance(model, models.LoadedModel):
        return model
    model = model or models.DEFAULT_BASE
    if whole:
        return models.load_model(model)
    from types import SimpleNamespace

    from transformers import AutoConfig, AutoTokenizer

    target, model_id, revision = models.locate(model)
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(target)
        shell: Any = SimpleNamespace(config=AutoConfig.from_pretrained(target), generation_config=None)
    except (OSError, ValueError, KeyError) as error:
        raise FaithgenError(
            f"the tokenizer of {str(model)!r} could not be read; give the model that the server runs"
        ) from error
    return models.LoadedModel(shell, tokenizer, model_id, revision or hub_commit(target))
