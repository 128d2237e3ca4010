"""RetMask (arXiv 2601.11020): preference optimisation of a model over itself with its retrieval heads masked."""

from __future__ import annotations

import os
from typing import Any

from datasets import Dataset
from transformers import set_seed
from trl import DPOTrainer

from faithgen import hf
from faithgen.errors import FaithgenError
from faithgen.prompting import control_settings
from faithgen.training.lm_head import score_answers_only
from faithgen.training.loading import finish_adapter, load_reference, load_trainable
from faithgen.training.preparation import LengthReport, prepare
from faithgen.training.prompts import RowEncoder, answer_end
from faithgen.training.record import training_record, write_record
from faithgen.training.retmask_config import RetMaskConfig


class RetMaskTrainer(DPOTrainer):
    """Trainer of RetMask: DPO with the model's own answer as chosen and the masked model's as rejected.

    Args:
        model (`str` or `PreTrainedModel`): `"default-base"`, hub id, folder, `.gguf` file, or a model.
        ref_model (`PreTrainedModel`, *optional*): the reference; the model as it is before training if not given.
        args ([`RetMaskConfig`], *optional*)
        train_dataset (`Dataset`):
            Columns `question`, `documents`, `answer` (chosen) and `unfaithful` (rejected). RetMask's chosen answers are the
            model's own: `faithgen data unfaithful --own-answers`.
        eval_dataset (`Dataset` or dict of them, *optional*): the same columns.
        processing_class (`PreTrainedTokenizerFast`, *optional*): the tokenizer; of the model if not given.
        callbacks, optimizers, quantization_config, peft_config: as in [`~trl.DPOTrainer`].

    Attributes:
        length_reports (`dict[str, LengthReport]`): rows kept, cut and dropped, by data set.
        data_info (`dict`): what the training record says of the data; set it before training.

    Raises:
        FaithgenError: If model, data or settings cannot be used; the message says how to mend it.
    """

    _tag_names = ["trl", "faithgen", "retmask"]  # noqa: RUF012 (as in TRL)
    _name = "RetMask"
    _paper = {  # noqa: RUF012
        "title": "From Interpretability to Performance: Optimizing Retrieval Heads for Long-Context Language Models",
        "id": "2601.11020",
    }

    def __init__(
        self,
        model: Any,
        ref_model: Any = None,
        args: RetMaskConfig | None = None,
        train_dataset: Dataset | None = None,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        processing_class: Any = None,
        callbacks: Any = None,
        optimizers: tuple[Any, Any] = (None, None),
        quantization_config: Any = None,
        peft_config: Any = None,
    ):
        args = RetMaskConfig("retmask") if args is None else args
        if train_dataset is None or not len(train_dataset):
            raise FaithgenError("the train data is empty; give rows of question, documents, answer and unfaithful")
        set_seed(args.seed)
        given: Any = args.model_init_kwargs or {}
        init_kwargs = {"trust_remote_code": args.trust_remote_code, **given}
        model, tokenizer, self.base = load_trainable(model, processing_class, init_kwargs, quantization_config)
        args.model_init_kwargs = None
        control = control_settings(tokenizer)
        window = hf.context_window(model)
        self._encoder = RowEncoder(
            tokenizer,
            min(window, args.max_length or window),
            answer_end(tokenizer, hf.end_tokens(model, tokenizer)),
            args.instruction,
            control_position=(control or {}).get("control_position", "end"),
            control=control is not None,
            overlong=args.overlong,
        )
        self.length_reports: dict[str, LengthReport] = {}
        self.data_info: dict[str, Any] = {}
        reference = ref_model
        if ref_model is None and peft_config is None and self.base.commit and _keeps_reference(model, args):
            reference = load_reference(model, self.base, args.trust_remote_code)
        super().__init__(
            model=model,
            ref_model=reference,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=tokenizer,
            callbacks=callbacks,
            optimizers=optimizers,
            peft_config=peft_config,
        )
        score_answers_only(model)
        if ref_model is None and args.precompute_ref_log_probs:
            self.ref_model = None  # as TRL does with one that it loaded itself
        if self.ref_model is not None:
            score_answers_only(self.accelerator.unwrap_model(self.ref_model))
        if peft_config is not None:
            finish_adapter(self.model, self.base)

    def _prepare_dataset(self, dataset, processing_class, args, dataset_name):
        if "prompt_ids" in dataset.column_names:
            return dataset
        encoded, report = prepare(dataset, self._encoder, dataset_name, args.dataset_num_proc)
        self.length_reports[dataset_name] = report
        return encoded.remove_columns("slot").rename_columns(
            {"answer_ids": "chosen_ids", "unfaithful_ids": "rejected_ids"}
        )

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        super().save_model(output_dir, _internal_call)
        if self.args.should_save:
            folder: Any = output_dir or self.args.output_dir
            write_record(folder, self.record())

    def record(self) -> dict[str, Any]:
        """What a checkpoint says of the run so far (see [`training_record`])."""
        return training_record(self, "retmask", control_settings(self.processing_class))


def _keeps_reference(model: Any, args: RetMaskConfig) -> bool:
    """Whether TRL would load a second model: not for an adapter, nor to compute its scores first unless under FSDP."""
    fsdp = bool(args.fsdp) or os.environ.get("ACCELERATE_USE_FSDP", "false").lower() in ("1", "true")
    return not hasattr(model, "peft_config") and (fsdp or not args.precompute_ref_log_probs)
