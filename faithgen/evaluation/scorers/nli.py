"""Entailment: any NLI cross-encoder, documents as premise and claim as hypothesis."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from faithgen.errors import FaithgenError, MissingExtraError
from faithgen.evaluation.scorers.base import ClaimContext, check_pairs
from faithgen.evaluation.scorers.lexical import LexicalScorer
from faithgen.evaluation.scorers.models import MIN_BUDGET, as_data, check_classifier, chunk_documents, loading

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

DEFAULT_NLI = "cross-encoder/nli-deberta-v3-base"
_SUPPORT_LABELS = frozenset({"entailment", "entails", "entailed", "entail", "supported", "supports"})
_STEP = 16  # claim lengths are rounded up to this, so that claims of one answer share their chunks


class NliScorer:
    """Judges claims by the entailment probability of an NLI cross-encoder.

    Documents are read in chunks of whole sentences that fit the model beside the claim; the best chunk counts, so evidence
    that is spread over chunks is not put together. A model with one output (a support cross-encoder, HHEM's kind) is read by
    the sigmoid, others by the softmax.

    Args:
        model (`str` or `PathLike`, *optional*, defaults to `"cross-encoder/nli-deberta-v3-base"`): hub name or folder.
        revision (`str`, *optional*): hub revision.
        device (`str`, *optional*, defaults to `"auto"`): `"auto"` is `"cuda"` where there is one, else `"cpu"`.
        batch_size (`int`, *optional*, defaults to 32): pairs a forward.
        max_length (`int`, *optional*): tokens of a pair; what the model was made for by default, 512 where it does not say.
        label (`int`, *optional*): index of the entailment output; read from the config's `id2label` by default.
        top_chunks (`int`, *optional*):
            Read only as many chunks for a claim, those with the most lexical support; all by default.

    Raises:
        FaithgenError: If an option is out of range, or the model cannot be loaded, has no trained classifier, or does not
            name its entailment output.
    """

    trained_on: tuple[str, ...] = ()

    def __init__(
        self,
        model: str | os.PathLike[str] = DEFAULT_NLI,
        *,
        revision: str | None = None,
        device: str = "auto",
        batch_size: int = 32,
        max_length: int | None = None,
        label: int | None = None,
        top_chunks: int | None = None,
    ):
        if batch_size < 1 or (top_chunks is not None and top_chunks < 1):
            raise FaithgenError(f"batch_size is {batch_size} and top_chunks is {top_chunks}; give 1 or more")
        if max_length is not None and max_length < 2 * MIN_BUDGET:
            raise FaithgenError(f"max_length is {max_length}; give {2 * MIN_BUDGET} or more")
        self.name = f"nli:{model}"
        self.batch_size, self.top_chunks = batch_size, top_chunks
        self._lexical = LexicalScorer()
        self.model = self._load(model, revision, device)
        config: Any = self.model.config
        check_classifier(model, config)
        self.label = entailment_label(str(model), config, label)
        self.max_length = pair_length(config, self.model.tokenizer, max_length)
        self.model.max_seq_length = self.max_length

    @staticmethod
    def _load(model: str | os.PathLike[str], revision: str | None, device: str) -> CrossEncoder:
        try:
            from sentence_transformers import CrossEncoder
        except ImportError as error:
            raise MissingExtraError("a cross-encoder", "eval") from error
        from faithgen import hf
        from faithgen.models import default_device

        hf.quiet()
        with loading(model):
            return CrossEncoder(
                str(model),
                revision=revision,
                device=default_device() if device == "auto" else device,
                model_kwargs={"use_safetensors": True},
            )

    def score(
        self,
        claims: Sequence[str],
        documents: Sequence[Sequence[str]],
        *,
        contexts: Sequence[ClaimContext | None] | None = None,
    ) -> list[float]:
        """See [`Scorer.score`]; `contexts` are not read."""
        check_pairs(claims, documents, contexts)
        premises = Premises(self.model.tokenizer, self.max_length)
        pairs: list[tuple[str, str]] = []
        owners: list[int] = []
        for number, (claim, texts) in enumerate(zip(claims, documents, strict=True)):
            hypothesis = as_data(claim, self.model.tokenizer)
            for chunk in self._best(claim, premises.of(hypothesis, texts)):
                pairs.append((chunk, hypothesis))
                owners.append(number)
        best = [0.0] * len(claims)
        for number, probability in zip(owners, self._probabilities(pairs), strict=True):
            best[number] = max(best[number], probability)
        return best

    def _best(self, claim: str, chunks: list[str]) -> list[str]:
        if self.top_chunks is None or len(chunks) <= self.top_chunks:
            return chunks
        support = self._lexical.score([claim] * len(chunks), [[chunk] for chunk in chunks])
        order = sorted(range(len(chunks)), key=lambda place: -support[place])
        return [chunks[place] for place in sorted(order[: self.top_chunks])]

    def _probabilities(self, pairs: list[tuple[str, str]]) -> list[float]:
        if not pairs:
            return []
        import torch

        logits = self.model.predict(
            pairs, batch_size=self.batch_size, show_progress_bar=False, activation_fn=torch.nn.Identity()
        )
        values = np.asarray(logits, dtype=np.float64).reshape(len(pairs), -1)
        if values.shape[1] == 1:
            found = 1 / (1 + np.exp(-np.clip(values[:, 0], -500, 500)))
        else:
            shifted = np.exp(values - values.max(1, keepdims=True))
            found = shifted[:, self.label] / shifted.sum(1)
        if not np.isfinite(found).all():
            raise FaithgenError(f"scorer {self.name!r} gives scores that are not finite; are its weights whole?")
        return [float(value) for value in found]


class Premises:
    """Documents as chunks that fit a pair classifier beside a claim; claims of one answer share the work.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): the classifier's.
        max_length (`int`): tokens of a pair.
    """

    def __init__(self, tokenizer: Any, max_length: int):
        self.tokenizer = tokenizer
        self.room = max_length - tokenizer.num_special_tokens_to_add(pair=True)
        self._tokens = lru_cache(8192)(self._count)
        self._chunked = lru_cache(256)(self._chunks)

    def of(self, claim: str, documents: Sequence[str]) -> list[str]:
        """Chunks for a claim, in order; of at least 32 tokens, so that a claim without end is cut and not the document."""
        return self._chunked(tuple(documents), -(-self._tokens(claim) // _STEP) * _STEP)

    def _chunks(self, documents: tuple[str, ...], claim_tokens: int) -> list[str]:
        texts = [as_data(document, self.tokenizer) for document in documents]
        return chunk_documents(texts, self._tokens, max(MIN_BUDGET, self.room - claim_tokens))

    def _count(self, text: str) -> int:
        return len(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def entailment_label(model: str, config: Any, asked: int | None = None) -> int:
    """Index of the output that stands for entailment.

    Args:
        model (`str`): named in errors.
        config (`PretrainedConfig`): with `id2label`; models differ in the order of their labels.
        asked (`int`, *optional*): what the user says it is.

    Returns:
        `int`: 0 for a model with one output.

    Raises:
        FaithgenError: If the labels do not name one entailment output, or `asked` is out of range.
    """
    labels = {int(index): str(name) for index, name in config.id2label.items()}
    if asked is not None:
        if asked not in labels:
            raise FaithgenError(f"label is {asked}, but scorer model {model!r} has outputs 0 to {max(labels)}")
        return asked
    if len(labels) == 1:
        return next(iter(labels))
    found = [index for index, name in labels.items() if re.sub("[^a-z]", "", name.lower()) in _SUPPORT_LABELS]
    if len(found) != 1:
        named = ", ".join(f"{index}={name}" for index, name in sorted(labels.items()))
        raise FaithgenError(
            f"scorer model {model!r} does not say which output is entailment ({named}); give label=INDEX or an NLI model"
        )
    return found[0]


def pair_length(config: Any, tokenizer: Any, asked: int | None = None) -> int:
    """Tokens of a pair: what was asked for, else what the tokenizer states or 512; never more than the positions."""
    positions = int(getattr(config, "max_position_embeddings", 0) or 0)
    if getattr(config, "position_biased_input", True) is False:  # DeBERTa-v3: relative positions only, any length
        positions = 0
    elif config.model_type in ("roberta", "xlm-roberta", "camembert"):  # counted from behind the padding id
        positions -= int(config.pad_token_id) + 1
    stated = int(tokenizer.model_max_length)
    length = asked or (stated if stated < 1 << 20 else 512)
    return min(length, positions) if positions > 0 else length
