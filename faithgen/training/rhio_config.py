"""Settings of [`RHIOTrainer`]."""

from dataclasses import dataclass, field

from trl import SFTConfig

from faithgen.errors import FaithgenError
from faithgen.prompting import INSTRUCTION
from faithgen.training.checks import check_choice, check_number, check_prompt_settings, check_training_settings
from faithgen.training.prompts import OVERLONG

CONTROL_POSITIONS = ("end", "front")
# What TRL offers that would move the answer, the loss or the prompt; each with the values that are allowed.
_FIXED = {
    "packing": (False,),
    "eval_packing": (None, False),
    "padding_free": (False,),
    "assistant_only_loss": (False,),
    "completion_only_loss": (None, True),
    "loss_type": ("nll",),
    "label_smoothing_factor": (0, 0.0),
    "truncation_mode": ("keep_start",),
    "chat_template_path": (None,),
    "eos_token": (None,),
}


@dataclass
class RHIOConfig(SFTConfig):
    r"""
    Configuration class for the [`RHIOTrainer`].

    Only what differs from [`~trl.SFTConfig`] is listed. Sources: "RHIO" is arXiv 2501.13573 (ACL 2025), "FRONT" the released
    scripts of its first author's earlier work, the nearest evidence where RHIO's paper is silent.

    Parameters:
        > Parameters that control the loss

        unfaithful_weight (`float`, *optional*, defaults to `1.0`):
            λ in `L = −E log p(y⁺ | [faithful]) − λ E log p(y⁻ | [unfaithful])`, each mean over its own tokens. Source: RHIO,
            faithfulness-aware tuning (joint loss, equal weights: 1). 0 trains on the faithful answers alone and adds no
            control tokens: plain supervised fine-tuning, the baseline.
        share_prompt (`bool`, *optional*, defaults to `False`):
            Compute the prompt once for both answers of a pair (one packed sequence with a block mask). The same gradients;
            1.65 times as fast on one CPU thread (two pairs of 448 + 48 tokens, `benchmarks/share_prompt.py`). On in the
            recipes; needs sdpa or eager attention, and `control_position: end`. Source: faithgen.

        > Parameters that control the prompt

        control_position (`str`, *optional*, defaults to `"end"`):
            Where the control token stands: `"end"` of the user turn, so that both branches share one prefill, or `"front"`
            as published. Source: RHIO prepends it (`[POS] ⊕ x, c`); faithgen's design 3.3 puts it at the end.
        instruction (`str`, *optional*, defaults to the generator's own):
            First line of the user turn; give the generator the same one. Source: faithgen.

        > Parameters that control the lengths

        max_length (`int`, *optional*, defaults to `None`):
            Tokens a prompt and its longer answer may have together; `None` is the model's window. Source: TRL's field, whose
            default of 1024 drops long prompts without a word. FRONT trained with 2048.
        overlong (`str`, *optional*, defaults to `"error"`):
            What becomes of longer rows: `"error"` refuses to train and names them, `"drop"` leaves them out,
            `"truncate_documents"` cuts their longest documents at a sentence or word edge. All are counted and reported.
            Source: faithgen.

        > Parameters whose default differs from SFTConfig's, all from FRONT

        warmup_steps (`float`, *optional*, defaults to `0.03`): below 1 it is a share of all steps. Source: FRONT.
        learning_rate (`float`, *optional*, defaults to `2e-5`):
            For full fine-tuning; LoRA wants about 2e-4. Source: FRONT (and TRL's default).
    """

    learning_rate: float = field(
        default=2e-5, metadata={"help": "The initial learning rate for AdamW. Source: FRONT, TRL."}
    )
    warmup_steps: float = field(
        default=0.03, metadata={"help": "Warm-up steps; below 1 a share of all steps. Source: FRONT."}
    )
    unfaithful_weight: float = field(
        default=1.0,
        metadata={
            "help": "Weight (lambda) of the loss on unfaithful answers, 0 or more; 0 is plain fine-tuning on the faithful "
            "ones, without control tokens. Source: RHIO, joint loss (1)."
        },
    )
    share_prompt: bool = field(
        default=False,
        metadata={"help": "Compute the prompt once for both answers of a pair. Source: faithgen."},
    )
    control_position: str = field(
        default="end",
        metadata={
            "help": "Where the control token stands in the user turn. Source: RHIO has it in front, faithgen at the end.",
            "choices": list(CONTROL_POSITIONS),
        },
    )
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
        check_choice("control_position", self.control_position, CONTROL_POSITIONS)
        for name, allowed in _FIXED.items():
            check_choice(name, getattr(self, name), allowed)
        check_number("unfaithful_weight", self.unfaithful_weight, 0)
        if self.share_prompt and self.control_position != "end":
            raise FaithgenError(
                "share_prompt needs control_position: end; in front of the documents there is nothing to share"
            )
        if self.share_prompt and not self.unfaithful_weight:
            raise FaithgenError(
                "share_prompt needs unfaithful_weight above 0; there is one answer a prompt without it"
            )
        super().__post_init__()
