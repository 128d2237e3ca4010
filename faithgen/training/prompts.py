"""Rows as token ids: the prompt as the generator builds it, the answer, and the end of the turn.

The ids of a prompt are those of [`PromptBuilder`], so training and inference see the very same tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from faithgen.errors import FaithgenError
from faithgen.prompting import FAITHFUL, Prompt, PromptBuilder
from faithgen.training.rows import Row, row_from

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Overlong = Literal["error", "drop", "truncate_documents"]
OVERLONG: tuple[str, ...] = get_args(Overlong)
UNLIMITED = 1 << 40

_SENTINEL = "\ue000faithgen\ue001"


def answer_end(tokenizer: PreTrainedTokenizerFast, ends: frozenset[int]) -> int:
    """The token that ends an answer: what the chat template puts after the assistant's words.

    Args:
        tokenizer (`PreTrainedTokenizerFast`)
        ends (`frozenset[int]`): ids that end an answer in generation (see `hf.end_tokens`).

    Raises:
        FaithgenError: If there is no such token: the model would never learn to stop.
    """
    if tokenizer.chat_template is not None:
        messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": _SENTINEL}]
        text = str(tokenizer.apply_chat_template(messages, tokenize=False))
        after = tokenizer(text.rpartition(_SENTINEL)[2], add_special_tokens=False)["input_ids"]
        if after and after[0] in ends:
            return after[0]
    if tokenizer.eos_token_id in ends:
        return tokenizer.eos_token_id
    raise FaithgenError(
        "the tokenizer has no end-of-sequence token, so the model could not learn to stop; set eos_token"
    )


def answer_ids(builder: PromptBuilder, text: str, end: int) -> list[int]:
    """Token ids of an answer as the model has to generate them; text is data, no special token comes out of it."""
    text = text.strip()
    return [*builder.data_ids(text if builder.tokenizer.chat_template is not None else " " + text), end]


@dataclass
class RowEncoder:
    """Turns rows `{question, documents, answer, unfaithful}` into token ids; picklable, for `Dataset.map`.

    Args:
        tokenizer (`PreTrainedTokenizerFast`): with the control tokens if `control`.
        limit (`int`): positions that a prompt and its longer answer may take.
        end (`int`): token that ends an answer.
        instruction (`str`): first line of the user turn of rows that have none of their own.
        control_position (`"end"` or `"front"`): where the control token stands.
        control (`bool`): put `[faithful]` into the control slot; without it the prompt has none.
        pairs (`bool`): rows must have an `unfaithful` answer.
        overlong (`str`): what becomes of rows that are too long; here only whether documents are cut.
    """

    tokenizer: PreTrainedTokenizerFast
    limit: int
    end: int
    instruction: str
    control_position: Literal["end", "front"] = "end"
    control: bool = True
    pairs: bool = True
    overlong: str = "error"
    _builders: dict[tuple[str, int], PromptBuilder] = field(default_factory=dict, init=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_builders": {}}

    def builder(self, instruction: str | None = None, window: int = UNLIMITED) -> PromptBuilder:
        """The builder of prompts with this first line (the run's by default) and window."""
        key = (instruction or self.instruction, window)
        if key not in self._builders:
            self._builders[key] = PromptBuilder(self.tokenizer, window, key[0], self.control_position)
        return self._builders[key]

    def __call__(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """Encode one row.

        Returns:
            `dict`: `prompt_ids` with `[faithful]` at index `slot` (-1: no control token), `answer_ids` and
            `unfaithful_ids` (empty without `pairs`), both with the end token; `length` of the longer sequence;
            `fit`: `"whole"`, `"cut"` (documents were cut) or `"overlong"`.

        Raises:
            FaithgenError: If the row is unusable.
        """
        needs = ("answer", "unfaithful") if self.pairs else ("answer",)
        row = row_from(item, f"row {item.get('id') or '?'}", needs)
        builder = self.builder(row.instruction)
        answer = answer_ids(builder, row.answer or "", self.end)
        unfaithful = answer_ids(builder, row.unfaithful or "", self.end) if self.pairs else []
        longest = max(len(answer), len(unfaithful))
        control = FAITHFUL if self.control else None
        prompt = builder.build(row.question, row.documents, control=control)
        fit, length = "whole", len(prompt) + longest
        if length > self.limit:
            shorter = self._cut(row, longest, control)
            fit, prompt = ("overlong", prompt) if shorter is None else ("cut", shorter)
        slot = prompt.control[0] if self.control else -1
        ids = {"prompt_ids": prompt.input_ids, "slot": slot, "answer_ids": answer, "unfaithful_ids": unfaithful}
        return ids | {"length": length, "fit": fit}

    def _cut(self, row: Row, reserve: int, control: str | None) -> Prompt | None:
        """The prompt with its documents cut to the limit, if that is wanted and can be."""
        if self.overlong != "truncate_documents":
            return None
        builder = self.builder(row.instruction, self.limit)
        try:
            return builder.build(row.question, row.documents, reserve=reserve, control=control)
        except FaithgenError:
            return None


def sequence(example: Mapping[str, Any], unfaithful_id: int | None = None) -> tuple[list[int], list[int]]:
    """One prompt with its answer, and labels that are -100 on all but the answer.

    This is TRL's pre-tokenised prompt-completion row: `{"input_ids", "labels"}`.

    Args:
        example (`Mapping`): as [`RowEncoder`] gives it.
        unfaithful_id (`int`, *optional*): the id of `[unfaithful]`: take that branch.
    """
    prompt, answer = list(example["prompt_ids"]), list(example["answer_ids"])
    if unfaithful_id is not None:
        prompt[example["slot"]] = unfaithful_id
        answer = list(example["unfaithful_ids"])
    return prompt + answer, [-100] * len(prompt) + answer
