"""The text of one answer as its tokens come in."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from faithgen.answer import AnswerToken

if TYPE_CHECKING:
    from faithgen.decoding.engine import StepRow
    from faithgen.explanation import Explainer


class TextStream:
    """The text of one answer as its tokens come in: no half characters, and nothing from a stop string on.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): turns tokens into text.
        stop (`tuple[str, ...]`): strings that end the answer.
        ends (`frozenset[int]`): tokens that end the answer.
        explainer ([`Explainer`], *optional*): makes the details of the tokens.

    Attributes:
        text (`str`): the text so far, without what a stop string cut off.
        tokens (`list[AnswerToken]`): the tokens that make it up.
        finished (`str`, *optional*): `"end"`, `"stop"`, or `None` while it goes on.
    """

    def __init__(
        self, tokenizer: Any, stop: tuple[str, ...], ends: frozenset[int], explainer: Explainer | None = None
    ):
        self.tokenizer, self.stop, self.ends, self.explainer = tokenizer, stop, ends, explainer
        self.ids: list[int] = []
        self.tokens: list[AnswerToken] = []
        self.text = ""
        self.finished: str | None = None
        self._whole = ""
        self._shown = 0

    def add(self, row: StepRow) -> str:
        """Take in a token; returns the text that is certain by now and was not returned before."""
        if self.finished:
            return ""
        if row.token in self.ends:
            self.finished = "end"
            return self.rest()
        self.ids.append(row.token)
        whole = self.tokenizer.decode(self.ids, skip_special_tokens=True)
        if whole.endswith("\ufffd") and not row.finished:
            added = ""
        else:
            added, self._whole = whole[len(self._whole) :], whole
        detail = None
        if self.explainer is not None and row.detail is not None:
            detail = self.explainer.token(row.detail, self.ids[:-1])
        self.tokens.append(AnswerToken(added, row.token, row.logprob, row.jsd, row.context_share, detail))
        found = [place for text in self.stop if (place := self._whole.find(text)) >= 0]
        if found:
            self.finished = "stop"
            self.text = self._whole[: min(found)]
            self._drop_tokens(len(self.text))
        else:
            self.text = self._whole
        held = 0 if self.finished or row.finished else self._held()
        return self._show(len(self.text) - held)

    def _drop_tokens(self, length: int) -> None:
        """Keep the tokens that make up the first `length` characters, the last one cut to fit."""
        kept = []
        for token in self.tokens:
            if length <= 0 and token.text:
                break
            kept.append(replace(token, text=token.text[:length]))
            length -= len(token.text)
        self.tokens = kept

    def rest(self) -> str:
        """What was held back."""
        return self._show(len(self.text))

    def _show(self, end: int) -> str:
        piece = self.text[self._shown : end]
        self._shown = max(self._shown, end)
        return piece

    def _held(self) -> int:
        """Length of the longest end of the text that may be the beginning of a stop string."""
        longest = max(map(len, self.stop), default=1) - 1
        ends = (size for size in range(min(longest, len(self.text)), 0, -1))
        return next((size for size in ends if any(s.startswith(self.text[-size:]) for s in self.stop)), 0)
