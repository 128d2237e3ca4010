"""`[faithful]` and `[unfaithful]`: tokens of their own, trained alone (PEFT) or with the whole model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from faithgen.adapters import grow_vocabulary
from faithgen.errors import FaithgenError
from faithgen.prompting import CONTROL_MARK, FAITHFUL, UNFAITHFUL, control_settings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

CONTROL_TOKENS = (FAITHFUL, UNFAITHFUL)
PHRASES = {
    FAITHFUL: " Answer faithfully: say only what the passages above say.",
    UNFAITHFUL: " Answer unfaithfully: say what the passages above do not say.",
}
"""What a control token starts as: the mean of the embeddings of its phrase."""


def add_control_tokens(
    model: Any, tokenizer: PreTrainedTokenizerFast, *, control_position: str, instruction: str
) -> list[int]:
    """Make sure that model and tokenizer have both control tokens.

    New tokens become special tokens at the end of the vocabulary; the embedding table grows only where it has no spare
    rows. Each starts as the mean of the input embeddings of a describing phrase ([`PHRASES`]). A new output row that is not
    tied to it is the mean of the others (see [`grow_vocabulary`]): it is never a label, so it need only be unlikely. Where
    they stand and the prompt's instruction are kept in `tokenizer_config.json` under `"faithgen"`, so that every copy of
    the tokenizer says so. Tokens of a model that faithgen trained before are kept as they are.

    Args:
        model (`PreTrainedModel`): grows in place.
        tokenizer (`PreTrainedTokenizerFast`): grows in place.
        control_position (`"end"` or `"front"`), instruction (`str`): as for [`PromptBuilder`].

    Returns:
        `list[int]`: the ids of `[faithful]` and `[unfaithful]`.

    Raises:
        FaithgenError: If the tokenizer has a control token with another meaning, or was trained with them at the other
            position.
    """
    import torch

    known = control_settings(tokenizer)
    if known is not None:
        before = known.get("control_position")
        if before != control_position:
            raise FaithgenError(
                f"control_position is {control_position!r}, but the model was trained with {before!r}; set that, or start "
                "from a model without control tokens"
            )
        known["instruction"] = instruction
        known.pop("alpha", None)  # was chosen for the model before
        return tokenizer.convert_tokens_to_ids(list(CONTROL_TOKENS))  # type: ignore[return-value]
    taken = [token for token in CONTROL_TOKENS if token in tokenizer.get_vocab()]
    if taken:
        raise FaithgenError(
            f"the model's tokenizer has a token {taken[0]} already, which faithgen did not make: its meaning would be "
            "overwritten; train a model without it"
        )
    from tokenizers import AddedToken

    # not by `add_special_tokens`, which replaces the list of additional ones
    tokenizer.add_tokens(
        [AddedToken(token, special=True, normalized=False) for token in CONTROL_TOKENS], special_tokens=True
    )
    tokenizer.init_kwargs[CONTROL_MARK] = {
        "control_tokens": list(CONTROL_TOKENS),
        "control_position": control_position,
        "instruction": instruction,
    }
    ids: list[int] = tokenizer.convert_tokens_to_ids(list(CONTROL_TOKENS))  # type: ignore[assignment]
    grow_vocabulary(model, len(tokenizer))
    weight = model.get_input_embeddings().weight
    with torch.no_grad():
        for token, index in zip(CONTROL_TOKENS, ids, strict=True):
            phrase = torch.tensor(tokenizer(PHRASES[token], add_special_tokens=False)["input_ids"])
            weight[index] = weight[phrase.to(weight.device)].float().mean(0).to(weight.dtype)
    return ids


def train_tokens(peft_config: Any, model: Any, ids: list[int]) -> None:
    """Let a PEFT config train the embeddings of these tokens and of no others (`trainable_token_indices`).

    Raises:
        FaithgenError: If the config is of a method that cannot, or trains or saves the whole embedding.
    """
    if not hasattr(peft_config, "trainable_token_indices"):
        raise FaithgenError(
            f"{type(peft_config).__name__} cannot train single tokens; use a LoraConfig, or no peft_config to train the "
            "whole model"
        )
    inputs = model.get_input_embeddings()
    name = next(name for name, module in model.named_modules() if module is inputs).rsplit(".", 1)[-1]
    if name in (peft_config.modules_to_save or []):
        raise FaithgenError(f"lora_modules_to_save holds {name!r}; leave it out: the control tokens are trained alone")
    peft_config.trainable_token_indices = {name: sorted(ids)}
