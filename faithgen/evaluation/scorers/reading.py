"""Teacher-forced reading: what a model's heads and probabilities say of an answer that was given, not generated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch

from faithgen import hf
from faithgen.decoding.contrast import jensen_shannon
from faithgen.errors import FaithgenError
from faithgen.heads.ablation import mask_heads
from faithgen.heads.capture import AttentionCapture
from faithgen.heads.head_set import Head

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from faithgen.prompting import Prompt, PromptBuilder, Span

_CHUNK = 256
"""Answer tokens a forward takes; bounds the logits and the attention that are held."""


@dataclass(frozen=True)
class Reading:
    """Signals of T given answer tokens, each as it stood when the token was to be chosen.

    Attributes:
        logprob (`torch.Tensor` of shape `[T]`): log-probability of the token, in nats.
        masked_logprob (`torch.Tensor` of shape `[T]`): the same with the masked heads switched off.
        jsd (`torch.Tensor` of shape `[T]`): Jensen-Shannon divergence of the two distributions, 0 to ln 2.
        context (`torch.Tensor` of shape `[H, T]`): attention (0 to 1) of each read head to the documents.
        new (`torch.Tensor` of shape `[H, T]`): its attention to the answer so far; 0 for the first token.
        document_tokens (`int`): tokens of all documents in the prompt.
    """

    logprob: torch.Tensor
    masked_logprob: torch.Tensor
    jsd: torch.Tensor
    context: torch.Tensor
    new: torch.Tensor
    document_tokens: int

    @property
    def lookback(self) -> torch.Tensor:
        """Lookback ratios `[H, T]` (Lookback Lens, 2407.07071): c / (c + n), 0 to 1.

        c is the mean attention to a document token, n that to a token of the answer so far; 1 for the first token. (The
        paper takes the whole prompt for the context, here it is the documents.)
        """
        context = self.context / max(1, self.document_tokens)
        new = self.new / torch.arange(self.new.shape[1]).clamp(min=1)
        total = context + new
        ratio = torch.where(total > 0, context / total.clamp(min=1e-20), torch.ones_like(total))
        ratio[:, 0] = 1.0
        return ratio


@torch.inference_mode()
def read_answer(
    model: PreTrainedModel,
    prompt: Prompt,
    answer: Sequence[int],
    heads: Sequence[Head],
    masked: Sequence[Head],
) -> Reading:
    """Feed a prompt and an answer and read the model's signals, as [`PairDecoder`] would have had them.

    The prompt is read once. The answer is read in a batch of two rows, as it is and with heads masked, on top of it: the
    heads are masked from the last prompt token on, as in decoding with `ContrastConfig(source="heads")`.

    Args:
        model (`PreTrainedModel`): a decoder with attention layers only.
        prompt ([`Prompt`]): built with room for the answer.
        answer (`Sequence[int]`): token ids, at least one.
        heads (`Sequence[tuple[int, int]]`): heads whose attention is read.
        masked (`Sequence[tuple[int, int]]`): heads switched off in the second row.

    Returns:
        [`Reading`]: fp32, on the CPU.

    Raises:
        FaithgenError: If the answer is empty or a head is out of range.
    """
    if not answer:
        raise FaithgenError("the answer has no token to read; leave it out")
    device = hf.device_of(model)
    start = len(prompt.input_ids)
    cache = hf.new_cache()
    before = torch.tensor([prompt.input_ids[:-1]], device=device)
    for part in before.split(4096, dim=1):
        if part.shape[1]:
            model(input_ids=part, past_key_values=cache, use_cache=True, logits_to_keep=1)
    # the row of each token is the one before it, whose output chooses it
    rows = torch.tensor([prompt.input_ids[-1], *answer[:-1]], device=device)
    targets = torch.tensor(list(answer), device=device)
    on_documents = torch.zeros(start + len(answer), dtype=torch.float32, device=device)
    for document in prompt.documents:
        on_documents[document.span[0] : document.span[1]] = 1
    if cache.get_seq_length():
        cache.batch_repeat_interleave(2)
    found: list[list[torch.Tensor]] = []
    done = start - 1
    for part, wanted in zip(rows.split(_CHUNK), targets.split(_CHUNK), strict=True):
        positions = torch.arange(done, done + len(part), device=device)
        with mask_heads(model, masked, rows=[1]), AttentionCapture(model, heads, positions) as capture:
            output = model(input_ids=part.expand(2, -1), past_key_values=cache, use_cache=True)
        faithful, unfaithful = output.logits.float().log_softmax(-1)
        weights = capture.result()[0]  # [H, R, S]
        columns = weights.shape[-1]
        found.append(
            [
                faithful.gather(-1, wanted[:, None])[:, 0],
                unfaithful.gather(-1, wanted[:, None])[:, 0],
                jensen_shannon(faithful, unfaithful),
                weights @ on_documents[:columns],
                weights[:, :, start:].sum(-1),
            ]
        )
        done += len(part)
    logprob, masked_logprob, jsd, context, new = (torch.cat(parts, -1).cpu() for parts in zip(*found, strict=True))
    return Reading(logprob, masked_logprob, jsd, context, new, int(on_documents.sum()))


def tokens_of(builder: PromptBuilder, answer: str, places: Sequence[Span]) -> tuple[list[int], list[Span]]:
    """Token ids of an answer and the tokens of some places in it, exact for any tokenizer.

    The answer is tokenised piece by piece, cut where the places begin and end; white space goes to the piece behind it, as
    it does in running text.

    Args:
        builder ([`PromptBuilder`]): tokenises text as data, so that no special token comes out of it.
        answer (`str`): the text.
        places (`Sequence[tuple[int, int]]`): `[start, end)` in characters; may overlap.

    Returns:
        `(ids, spans)`: all tokens, and for each place its token positions `[start, end)`; empty where a place has no token.
    """
    begins = [len(answer[:start].rstrip()) for start, _ in places]
    cuts = sorted({0, len(answer), *begins, *(end for _, end in places)})
    ids: list[int] = []
    at = {0: 0}
    for left, right in pairwise(cuts):
        ids += builder.data_ids(answer[left:right])
        at[right] = len(ids)
    return ids, [(at[begin], at[end]) for begin, (_, end) in zip(begins, places, strict=True)]
