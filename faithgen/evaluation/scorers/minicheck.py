"""MiniCheck (Tang et al., 2024, 2404.10774): small models trained to check a sentence against a document.

Prompt, chunks, label tokens and lengths are those of the published code (github.com/Liyan06/MiniCheck).
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from faithgen.errors import FaithgenError
from faithgen.evaluation.scorers.base import ClaimContext, check_pairs
from faithgen.evaluation.scorers.models import as_data, check_classifier, chunk_documents, loading

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Variant:
    """One published model.

    Attributes:
        hub (`str`): its name on the hub.
        chunk (`int`): length of a document chunk: words for the T5 model, tokens for the others.
        length (`int`): most tokens of an input.
    """

    hub: str
    chunk: int
    length: int


VARIANTS = {
    "flan-t5-large": Variant("lytang/MiniCheck-Flan-T5-Large", 500, 2048),
    "deberta-v3-large": Variant("lytang/MiniCheck-DeBERTa-v3-Large", 400, 2048),
    "roberta-large": Variant("lytang/MiniCheck-RoBERTa-Large", 400, 512),
}
_T5_LABELS = (3, 209)
"""Tokens that the T5 model writes for "not supported" and "supported" (the pieces of "0" and "1")."""


class MiniCheckScorer:
    """Judges claims with a MiniCheck model; the best chunk of the documents counts.

    A claim should be one sentence. No vLLM here: the 7B model of the series is not among the variants.

    Args:
        model (`str` or `PathLike`, *optional*, defaults to `"flan-t5-large"`):
            A variant, one of `"flan-t5-large"`, `"deberta-v3-large"`, `"roberta-large"`, or a hub name or folder of one.
        revision (`str`, *optional*): hub revision.
        device (`str`, *optional*, defaults to `"auto"`): `"auto"` is `"cuda"` where there is one, else `"cpu"`.
        batch_size (`int`, *optional*, defaults to 16): chunks a forward.
        chunk_size (`int`, *optional*): length of a document chunk; the variant's own by default.

    Raises:
        FaithgenError: If the model cannot be loaded or is no MiniCheck model.
    """

    trained_on: tuple[str, ...] = ()

    def __init__(
        self,
        model: str | os.PathLike[str] = "flan-t5-large",
        *,
        revision: str | None = None,
        device: str = "auto",
        batch_size: int = 16,
        chunk_size: int | None = None,
    ):
        if batch_size < 1 or (chunk_size is not None and chunk_size < 1):
            raise FaithgenError(f"batch_size is {batch_size} and chunk_size is {chunk_size}; give 1 or more")
        from faithgen import hf
        from faithgen.models import default_device

        hf.quiet()
        self.name = f"minicheck:{model}"
        self.batch_size = batch_size
        target = VARIANTS[str(model)].hub if str(model) in VARIANTS else str(model)
        with loading(target):
            self._load(target, revision, default_device() if device == "auto" else device)
        variant = VARIANTS["flan-t5-large"]
        if not self.writes:
            positions = self.model.config.model_type.startswith("deberta")
            variant = VARIANTS["deberta-v3-large" if positions else "roberta-large"]
        self.chunk_size, self.length = chunk_size or variant.chunk, variant.length

    def _load(self, target: str, revision: str | None, device: str) -> None:
        from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification, AutoTokenizer

        config: Any = AutoConfig.from_pretrained(target, revision=revision)
        self.writes = bool(config.is_encoder_decoder)
        if not self.writes:
            check_classifier(target, config)
            if config.num_labels != 2:
                raise FaithgenError(
                    f"scorer model {target!r} has {config.num_labels} outputs, a MiniCheck model has 2; "
                    "load it with the scorer nli instead"
                )
        elif config.vocab_size <= max(_T5_LABELS):
            raise FaithgenError(f"scorer model {target!r} has no T5 vocabulary; give a MiniCheck model")
        kind: Any = AutoModelForSeq2SeqLM if self.writes else AutoModelForSequenceClassification
        self.tokenizer: Any = AutoTokenizer.from_pretrained(target, revision=revision)
        self.model: Any = kind.from_pretrained(target, revision=revision, use_safetensors=True).to(device).eval()

    def score(
        self,
        claims: Sequence[str],
        documents: Sequence[Sequence[str]],
        *,
        contexts: Sequence[ClaimContext | None] | None = None,
    ) -> list[float]:
        """See [`Scorer.score`]; `contexts` are not read."""
        check_pairs(claims, documents, contexts)
        chunked = lru_cache(256)(self._chunks)
        inputs: list[str] = []
        owners: list[int] = []
        for number, (claim, texts) in enumerate(zip(claims, documents, strict=True)):
            for chunk in chunked(tuple(texts)):
                inputs.append(self.prompt(chunk, claim))
                owners.append(number)
        best = [0.0] * len(claims)
        for number, probability in zip(owners, self._probabilities(inputs), strict=True):
            best[number] = max(best[number], probability)
        return best

    def prompt(self, document: str, claim: str) -> str:
        """The input text: document, end-of-sequence token, claim; with "predict: " before it for the T5 model."""
        text = self.tokenizer.eos_token.join(as_data(part, self.tokenizer) for part in (document, claim))
        return f"predict: {text}" if self.writes else text

    def _chunks(self, documents: tuple[str, ...]) -> list[str]:
        if self.writes:
            return chunk_documents(documents, lambda text: len(text.split()), self.chunk_size)
        return chunk_documents(documents, self._tokens, self.chunk_size)

    def _tokens(self, text: str) -> int:
        return len(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _probabilities(self, inputs: list[str]) -> list[float]:
        import torch

        order = sorted(range(len(inputs)), key=lambda place: -len(inputs[place]))
        found = [0.0] * len(inputs)
        with torch.inference_mode():
            for start in range(0, len(order), self.batch_size):
                places = order[start : start + self.batch_size]
                batch = self.tokenizer(
                    [inputs[place] for place in places],
                    max_length=self.length,
                    truncation=True,
                    padding=True,
                    return_tensors="pt",
                ).to(self.model.device)
                supported = self._logits(batch).float().softmax(-1)[:, 1].tolist()
                for place, probability in zip(places, supported, strict=True):
                    found[place] = probability
        if not all(map(math.isfinite, found)):
            raise FaithgenError(f"scorer {self.name!r} gives scores that are not numbers; are its weights whole?")
        return found

    def _logits(self, batch: Any) -> torch.Tensor:
        """Logits of "not supported" and "supported", `[B, 2]`."""
        if not self.writes:
            return self.model(**batch).logits
        import torch

        start = torch.zeros((batch["input_ids"].shape[0], 1), dtype=torch.long, device=self.model.device)
        output = self.model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], decoder_input_ids=start
        )
        return output.logits[:, 0, list(_T5_LABELS)]
