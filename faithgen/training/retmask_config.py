"""Settings of [`RetMaskTrainer`]."""

from dataclasses import dataclass, field
from typing import Any

from trl import DPOConfig

from faithgen.prompting import INSTRUCTION
from faithgen.training.checks import check_choice, check_number, check_prompt_settings, check_training_settings
from faithgen.training.prompts import OVERLONG

LOSSES = (
    *("sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired"),
    *("apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm"),
)
"""Losses of TRL's DPO trainer, which looks at the name in the first step only."""
_SCHEDULE, _SCHEDULE_SETTINGS = "cosine_with_min_lr", {"min_lr_rate": 0.1}


@dataclass
class RetMaskConfig(DPOConfig):
    r"""
    Configuration class for the [`RetMaskTrainer`].

    Only what differs from [`~trl.DPOConfig`] is listed. Source: "RetMask" is the released code of arXiv 2601.11020 (Findings
    of ACL 2026); it trains all weights, for LoRA take a learning rate about ten times as high.

    Parameters:
        > Parameters that control the prompt

        instruction (`str`, *optional*, defaults to the generator's own):
            First line of the user turn; give the generator the same one. Source: faithgen (RetMask's prompts are chat turns
            without documents).

        > Parameters that control the lengths

        max_length (`int`, *optional*, defaults to `None`):
            Tokens a prompt and its longer answer may have together; `None` is the model's window. Source: TRL's field, whose
            default of 1024 drops long prompts without a word.
        overlong (`str`, *optional*, defaults to `"error"`):
            What becomes of longer rows: `"error"` refuses to train and names them, `"drop"` leaves them out,
            `"truncate_documents"` cuts their longest documents at a sentence or word edge. All are counted and reported.
            Source: faithgen.

        > Parameters whose default differs from DPOConfig's

        learning_rate (`float`, *optional*, defaults to `5e-7`): Source: RetMask.
        lr_scheduler_type (`str`, *optional*, defaults to `"cosine_with_min_lr"`): Source: RetMask.
        lr_scheduler_kwargs (`dict`, *optional*, defaults to `{"min_lr_rate": 0.1}`):
            RetMask ends at 5e-8, a tenth of its rate; as a share it fits other rates too. Source: RetMask.
        warmup_steps (`float`, *optional*, defaults to `0.1`): below 1 it is a share of all steps. Source: RetMask.
        weight_decay (`float`, *optional*, defaults to `0.1`): Source: RetMask.
        adam_beta2 (`float`, *optional*, defaults to `0.95`): Source: RetMask.
        num_train_epochs (`float`, *optional*, defaults to `2.0`): Source: RetMask.
    """

    learning_rate: float = field(
        default=5e-7, metadata={"help": "The initial learning rate for AdamW. Source: RetMask."}
    )
    lr_scheduler_type: str = field(
        default=_SCHEDULE, metadata={"help": "The learning rate schedule. Source: RetMask."}
    )
    lr_scheduler_kwargs: dict[str, Any] | str | None = field(
        default_factory=_SCHEDULE_SETTINGS.copy,
        metadata={"help": "Parameters of the schedule. Source: RetMask (5e-8 of 5e-7)."},
    )
    warmup_steps: float = field(
        default=0.1, metadata={"help": "Warm-up steps; below 1 a share of all steps. Source: RetMask."}
    )
    weight_decay: float = field(default=0.1, metadata={"help": "Weight decay of AdamW. Source: RetMask."})
    adam_beta2: float = field(default=0.95, metadata={"help": "Beta2 of AdamW. Source: RetMask."})
    num_train_epochs: float = field(default=2.0, metadata={"help": "Epochs to train. Source: RetMask."})
    instruction: str = field(
        default=INSTRUCTION,
        metadata={"help": "First line of the user turn. Source: faithgen's prompt."},
    )
    max_length: int | None = field(
        default=None,
        metadata={"help": "Most tokens of a prompt and its answer; the model's window if not given. Source: TRL."},
    )
    overlong: str = field(
        default="error",
        metadata={
            "help": "What becomes of rows longer than max_length. Source: faithgen.",
            "choices": list(OVERLONG),
        },
    )

    def __post_init__(self) -> None:
        check_prompt_settings(self)
        check_training_settings(self)
        check_number("beta", self.beta, 0, above=True)
        for loss in [self.loss_type] if isinstance(self.loss_type, str) else self.loss_type:
            check_choice("loss_type", loss, LOSSES)
        check_choice("truncation_mode", self.truncation_mode, ("keep_start",))
        check_choice("padding_free", self.padding_free, (False,))
        if self.lr_scheduler_type != _SCHEDULE and self.lr_scheduler_kwargs == _SCHEDULE_SETTINGS:
            self.lr_scheduler_kwargs = None  # another schedule does not know the default's settings
        super().__post_init__()
