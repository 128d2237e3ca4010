"""Prompts as token ids with exact spans for every document, the question and the control slot.

A prompt is put together from pieces that are tokenised one by one: the chat template's own text may become special
tokens, text of documents and questions never does. So spans are exact by construction, for any tokenizer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from faithgen.documents import Document
from faithgen.errors import FaithgenError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Span = tuple[int, int]
"""Token positions `[start, end)` in the prompt."""

FAITHFUL, UNFAITHFUL = "[faithful]", "[unfaithful]"
"""Control tokens of a RHIO-trained model; special tokens of its tokenizer."""

CONTROL_MARK = "faithgen"
"""Key of `tokenizer_config.json` under which a trained model says where its control token stands."""

INSTRUCTION = "Read the passages and answer the question in a few words."
NO_DOCUMENTS = "Answer the question in a few words."
MIN_DOCUMENT_TOKENS = 16

_SENTINEL = "\ue000faithgen\ue001"
_ANCHORS = ("\n", ":", "x")
_SENTENCE_END = re.compile(r"[.!?。！？]['\")\]”’]*(?=\s|$)|\n")


@dataclass(frozen=True)
class PromptDocument:
    """Where a document stands in a prompt.

    Attributes:
        span (`tuple[int, int]`): title and text, what retrieval heads are scored on.
        text (`tuple[int, int]`): the text alone; these tokens decode to it.
        tokens (`int`): tokens of the whole text, before truncation.
        ends (`list[int]`): for each token of `text`, the character of the document's text that it ends before.
    """

    span: Span
    text: Span
    tokens: int
    ends: list[int] = field(default_factory=list, repr=False)

    @property
    def truncated(self) -> bool:
        return self.text[1] - self.text[0] < self.tokens


@dataclass(frozen=True)
class Prompt:
    """A prompt and its spans.

    Attributes:
        input_ids (`list[int]`): token ids, special tokens of the template included.
        documents (`list[PromptDocument]`): in the order they stand in.
        question (`tuple[int, int]`): the question's tokens.
        control (`tuple[int, int]`): the control slot; empty where no control token was asked for.
    """

    input_ids: list[int]
    documents: list[PromptDocument]
    question: Span
    control: Span

    def __len__(self) -> int:
        return len(self.input_ids)


class _Placed(NamedTuple):
    """Tokens of a text, and for each the character that it ends before."""

    ids: list[int]
    ends: list[int]


def control_settings(tokenizer: Any) -> dict[str, Any] | None:
    """What the tokenizer of a model that faithgen trained says of its control tokens, or `None`.

    Returns:
        `dict`: `control_position` and `instruction`, as for [`PromptBuilder`], and perhaps `alpha`, the contrast strength
        that suits the model.
    """
    mark = getattr(tokenizer, "init_kwargs", {}).get(CONTROL_MARK)
    if not isinstance(mark, dict) or mark.get("control_tokens") != [FAITHFUL, UNFAITHFUL]:
        return None
    if mark.get("control_position") not in ("end", "front") or not isinstance(mark.get("instruction"), str):
        return None
    return mark if {FAITHFUL, UNFAITHFUL} <= tokenizer.get_added_vocab().keys() else None


@dataclass
class PromptBuilder:
    """Builds prompts from a model's own chat template.

    Args:
        tokenizer (`PreTrainedTokenizerFast`): a fast tokenizer; without a chat template a plain completion prompt is
            built (base models).
        window (`int`): positions of the model; prompt and new tokens together stay within it.
        instruction (`str`, *optional*):
            First line of the user turn; by default what a model with control tokens was trained with, else [`INSTRUCTION`].
        control_position (`"end"` or `"front"`, *optional*):
            Where the control token stands: at the end of the user turn, so that both branches share the prefix before
            it, or at its front as RHIO published it. By default where the model was trained with it, else the end.
        without_documents (`str`, *optional*): first line of the user turn where there are no documents.

    Raises:
        FaithgenError: If the chat template drops or repeats the user's message.
    """

    tokenizer: PreTrainedTokenizerFast
    window: int
    instruction: str = ""
    control_position: Literal["end", "front", ""] = ""
    without_documents: str = NO_DOCUMENTS
    _prefix: list[int] = field(init=False, repr=False)
    _suffix: list[int] = field(init=False, repr=False)
    _forbidden: frozenset[int] = field(init=False, repr=False)
    _splitter: re.Pattern[str] | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        trained = control_settings(self.tokenizer) or {}
        self.instruction = self.instruction or trained.get("instruction") or INSTRUCTION
        self.control_position = self.control_position or trained.get("control_position") or "end"
        self._prefix, self._suffix = self._template()
        added = self.tokenizer.added_tokens_decoder
        forbidden = {index: token.content for index, token in added.items() if token.special or token.content.strip()}
        forbidden.update(zip(self.tokenizer.all_special_ids, self.tokenizer.all_special_tokens, strict=True))
        # an unknown character is the tokenizer's own word for one, and carries no structure unless it ends the text, too
        edges = {self.tokenizer.bos_token_id, self.tokenizer.eos_token_id}
        self._forbidden = frozenset(forbidden) - ({self.tokenizer.unk_token_id} - edges)
        contents = sorted(filter(None, forbidden.values()), key=len, reverse=True)
        self._splitter = re.compile("|".join(map(re.escape, contents))) if contents else None
        self._prefixes_space = self._adds_space()

    # --- building -----------------------------------------------------------------------------------------------------

    def build(
        self, question: str, documents: Sequence[Document], *, reserve: int = 0, control: str | None = None
    ) -> Prompt:
        """The prompt for a question over documents, in the order given.

        Documents that do not fit the window are cut at a sentence or word edge, the longest first; the question and
        the control slot are never cut.

        Args:
            question (`str`): the question; data, never parsed for special tokens.
            documents (`Sequence[Document]`): may be empty (closed book).
            reserve (`int`, *optional*, defaults to 0): positions to leave for new tokens.
            control (`str`, *optional*): a control token of the tokenizer (`"[faithful]"`) for the control slot.

        Returns:
            [`Prompt`]

        Raises:
            FaithgenError: If the question is empty or too long, the documents do not fit even when truncated to 16
                tokens each, or the tokenizer does not know the control token.
        """
        if not question.strip():
            raise FaithgenError("the question is empty; ask something")
        slot = [] if control is None else [self.control_id(control)]
        texts = [self._placed(document.text) for document in documents]
        heads = [self._heading(document) for document in documents]
        gap = self._plain("\n\n").ids
        opening = self._plain(self.instruction if documents else self.without_documents).ids + gap
        asked = self.data_ids(" " + question.strip())
        question_label = self._plain("Question:").ids
        fixed = sum(map(len, (self._prefix, slot, opening, question_label, asked, self._suffix)))
        room = self.window - reserve - fixed
        if room < 0:
            raise FaithgenError(
                f"the question does not fit the model's window of {self.window} tokens; shorten it, ask for fewer new "
                "tokens or use a model with a longer window"
            )
        room -= sum(len(head) + len(gap) for head in heads)
        texts_kept = self._fit(documents, texts, room)

        ids = list(self._prefix)
        front = self.control_position == "front"
        control_at = (len(ids), len(ids) + len(slot))
        if front:
            ids += slot
        ids += opening
        placed = []
        for head, whole, kept in zip(heads, texts, texts_kept, strict=True):
            start, text = len(ids), len(ids) + len(head)
            ids += head + kept.ids + gap
            end = text + len(kept.ids)
            placed.append(PromptDocument((start, end), (text, end), len(whole.ids), kept.ends))
        ids += question_label
        question_at = (len(ids), len(ids) + len(asked))
        ids += asked
        if not front:
            control_at = (len(ids), len(ids) + len(slot))
            ids += slot
        return Prompt(ids + self._suffix, placed, question_at, control_at)

    def control_id(self, token: str) -> int:
        """Id of a control token.

        Raises:
            FaithgenError: If the tokenizer has no such token, i.e. the model was not trained with it.
        """
        index = self.tokenizer.get_added_vocab().get(token)
        if index is None:
            raise FaithgenError(
                f"the model has no control token {token}; train one (faithgen train rhio) or use --contrast heads"
            )
        return index

    @property
    def has_control_tokens(self) -> bool:
        """True for a model that faithgen trained with `[faithful]` and `[unfaithful]`; another's may mean anything."""
        return control_settings(self.tokenizer) is not None

    @property
    def control_alpha(self) -> float | None:
        """Contrast strength that was chosen for the model and saved with it (`faithgen export --alpha`)."""
        alpha = (control_settings(self.tokenizer) or {}).get("alpha")
        if not isinstance(alpha, int | float) or isinstance(alpha, bool):
            return None
        return float(alpha) if math.isfinite(alpha) and alpha >= 0 else None

    def document_tokens(self, document: Document) -> int:
        """Tokens a document takes in a prompt, heading and separator included."""
        return len(self._heading(document)) + len(self.data_ids(document.text)) + len(self._plain("\n\n").ids)

    # --- tokens of data -----------------------------------------------------------------------------------------------

    def data_ids(self, text: str) -> list[int]:
        """Token ids of text that is data: no special, control or other added token comes out of it."""
        return self._placed(text).ids

    def _placed(self, text: str) -> _Placed:
        """The ids of `data_ids`, and for each the character of the text that it ends before."""
        ids: list[int] = []
        ends: list[int] = []
        start = 0
        for piece in self._pieces(text):
            found = self._plain(piece)
            if self._forbidden.intersection(found.ids):  # e.g. a Unigram vocabulary that holds "<s>" as a piece
                pairs = [(index, at) for at, one in enumerate(piece, 1) for index in self._plain(one).ids]
                pairs = [(index, at) for index, at in pairs if index not in self._forbidden]
                found = _Placed([index for index, _ in pairs], [at for _, at in pairs])
            ids += found.ids
            ends += [start + end for end in found.ends]
            start += len(piece)
        return _Placed(ids, ends)

    def _pieces(self, text: str) -> list[str]:
        """The text cut in the middle of everything that reads like an added token."""
        if self._splitter is None:
            return [text] if text else []
        cuts = [0]
        position = 0
        while match := self._splitter.search(text, position):
            cuts.append(match.start() + max(1, (match.end() - match.start()) // 2))
            position = match.start() + 1
        cuts.append(len(text))
        cuts.sort()
        return [text[start:end] for start, end in pairwise(cuts) if end > start]

    def _plain(self, text: str) -> _Placed:
        """A piece as it would stand inside a text: without the space some tokenizers put in front of one."""
        found = self._encode(text)
        if not self._prefixes_space or not found.ids:
            return found
        for anchor in _ANCHORS:
            before, both = self._encode(anchor).ids, self._encode(anchor + text)
            if both.ids[: len(before)] == before:
                return _Placed(both.ids[len(before) :], [end - len(anchor) for end in both.ends[len(before) :]])
        return found

    def _encode(self, text: str) -> _Placed:
        found = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return _Placed(found["input_ids"], [end for _, end in found["offset_mapping"]])

    def _adds_space(self) -> bool:
        tokens = self.tokenizer.convert_ids_to_tokens(self._encode("x").ids)
        return bool(tokens) and tokens[0][:1] in ("▁", "Ġ")

    # --- template and budget ------------------------------------------------------------------------------------------

    def _template(self) -> tuple[list[int], list[int]]:
        if self.tokenizer.chat_template is None:
            return self.tokenizer("", verbose=False)["input_ids"][:1], self._encode("\nAnswer:").ids
        messages = [{"role": "user", "content": _SENTINEL}]
        text = str(
            self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
            )
        )
        if text.count(_SENTINEL) != 1:
            raise FaithgenError("the model's chat template drops or repeats the user's message; it cannot be used")
        prefix, suffix = text.split(_SENTINEL)
        return self._encode(prefix).ids, self._encode(suffix).ids

    def _heading(self, document: Document) -> list[int]:
        """Not numbered; see benchmarks/README.md for what was compared."""
        if not document.title.strip():
            return self._plain("Passage:\n").ids
        title = self.data_ids(" " + " ".join(document.title.split()))
        return self._plain("Title:").ids + title + self._plain("\n").ids

    def _fit(self, documents: Sequence[Document], texts: list[_Placed], room: int) -> list[_Placed]:
        """Cut the longest texts to one length such that all fit into `room` tokens."""
        lengths = sorted(len(text.ids) for text in texts)
        if sum(lengths) <= room:
            return texts
        limit, left = 0, room
        for index, length in enumerate(lengths):
            limit = left // (len(lengths) - index)
            if length > limit:
                break
            left -= length
        if limit < MIN_DOCUMENT_TOKENS:
            raise FaithgenError(
                f"{len(documents)} documents do not fit the model's window of {self.window} tokens even when "
                "truncated; give or keep fewer of them, or use a model with a longer window"
            )
        return [
            text if len(text.ids) <= limit else self._truncate(document.text, limit)
            for document, text in zip(documents, texts, strict=True)
        ]

    def _truncate(self, text: str, limit: int) -> _Placed:
        """The longest start of `text` of at most `limit` tokens that ends at a sentence or word edge."""
        offsets = self.tokenizer(
            text,
            add_special_tokens=False,
            return_offsets_mapping=True,
            truncation=True,
            max_length=limit,
            verbose=False,
        )["offset_mapping"]
        end = max(stop for _, stop in offsets)
        while end > 0:
            cut = _edge(text, end)
            found = self._placed(text[:cut])
            if len(found.ids) <= limit:
                return found
            end = min(cut, end) - max(1, cut // 20)
        return _Placed([], [])


def _edge(text: str, end: int) -> int:
    """The last sentence end in the second half of `text[:end]`, else the last word edge, else `end`."""
    if end >= len(text):
        return end
    sentences = [match.end() for match in _SENTENCE_END.finditer(text, 0, end + 1) if match.end() <= end]
    if sentences and sentences[-1] > end // 2:
        return sentences[-1]
    words = text[: end + 1].rsplit(None, 1)
    return len(words[0]) if len(words) == 2 and not text[end : end + 1].isspace() else end
