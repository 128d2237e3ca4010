"""RHIO (arXiv 2501.13573): fine-tuning on faithful and unfaithful answers told apart by a control token."""

from __future__ import annotations

from typing import Any

import torch
from datasets import Dataset
from transformers import set_seed
from trl import SFTTrainer

from faithgen import hf
from faithgen.errors import FaithgenError
from faithgen.prompting import control_settings
from faithgen.training.control_tokens import CONTROL_TOKENS, add_control_tokens, train_tokens
from faithgen.training.lm_head import score_answers_only
from faithgen.training.loading import finish_adapter, load_trainable
from faithgen.training.pairs import PairCollator, real_tokens
from faithgen.training.preparation import LengthReport, prepare
from faithgen.training.prompts import RowEncoder, answer_end
from faithgen.training.record import training_record, write_record
from faithgen.training.rhio_config import RHIOConfig


class RHIOTrainer(SFTTrainer):
    """Trainer of RHIO's faithfulness-aware tuning.

    A batch of `per_device_train_batch_size` pairs gives the loss

    ```
    L = - E log p(y+ | prompt with [faithful])  -  unfaithful_weight * E log p(y- | prompt with [unfaithful])
    ```

    each term a mean over its own answer tokens in the whole batch of the step (all devices, all accumulated parts); prompts
    have no loss. Both terms are logged, as `loss_faithful` and `loss_unfaithful`.

    Args:
        model (`str` or `PreTrainedModel`): `"default-base"`, hub id, folder, `.gguf` file, or a model.
        args ([`RHIOConfig`], *optional*)
        train_dataset (`Dataset`): columns `question`, `documents`, `answer`, `unfaithful` (see [`build_unfaithful`]).
        eval_dataset (`Dataset` or dict of them, *optional*): the same columns.
        processing_class (`PreTrainedTokenizerFast`, *optional*): the tokenizer; of the model if not given.
        callbacks, optimizers, quantization_config, peft_config: as in [`~trl.SFTTrainer`]. With a `LoraConfig` the control
            tokens are trained through `trainable_token_indices`; without one the whole model is trained.

    Attributes:
        length_reports (`dict[str, LengthReport]`): rows kept, cut and dropped, by data set.
        data_info (`dict`): what the training record says of the data; set it before training.

    Raises:
        FaithgenError: If model, data or settings cannot be used; the message says how to mend it.
    """

    _tag_names = ["trl", "faithgen", "rhio"]  # noqa: RUF012 (as in TRL)
    _name = "RHIO"
    _paper = {  # noqa: RUF012
        "title": "Improving Contextual Faithfulness of Large Language Models via Retrieval Heads-Induced Optimization",
        "id": "2501.13573",
    }
    loss_is_scaled_for_ga: Any = True

    def __init__(
        self,
        model: Any,
        args: RHIOConfig | None = None,
        train_dataset: Dataset | None = None,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        processing_class: Any = None,
        callbacks: Any = None,
        optimizers: tuple[Any, Any] = (None, None),
        quantization_config: Any = None,
        peft_config: Any = None,
    ):
        args = RHIOConfig("rhio") if args is None else args
        if train_dataset is None or not len(train_dataset):
            raise FaithgenError("the train data is empty; give rows of question, documents, answer and unfaithful")
        set_seed(args.seed)
        given: Any = args.model_init_kwargs or {}
        init_kwargs = {"trust_remote_code": args.trust_remote_code, **given}
        model, tokenizer, self.base = load_trainable(model, processing_class, init_kwargs, quantization_config)
        args.model_init_kwargs = None
        control = bool(args.unfaithful_weight) or control_settings(tokenizer) is not None
        unfaithful_id = None
        if control:
            position, instruction = args.control_position, args.instruction
            ids = add_control_tokens(model, tokenizer, control_position=position, instruction=instruction)
            unfaithful_id = ids[CONTROL_TOKENS.index("[unfaithful]")] if args.unfaithful_weight else None
            if peft_config is not None:
                train_tokens(peft_config, model, ids)
        if args.share_prompt:
            _check_packable(model)
        window = hf.context_window(model)
        self._encoder = RowEncoder(
            tokenizer,
            min(window, args.max_length or window),
            answer_end(tokenizer, hf.end_tokens(model, tokenizer)),
            args.instruction,
            control_position=args.control_position,  # type: ignore[arg-type]
            control=control,
            pairs=bool(args.unfaithful_weight),
            overlong=args.overlong,
        )
        self._unfaithful_weight = float(args.unfaithful_weight)
        self.length_reports: dict[str, LengthReport] = {}
        self.data_info: dict[str, Any] = {}
        self._totals: dict[str, dict[str, list[float]]] = {"train": {}, "eval": {}}  # sum and what it is divided by
        pad_to: Any = args.pad_to_multiple_of
        super().__init__(
            model=model,
            args=args,
            data_collator=PairCollator(tokenizer.pad_token_id, unfaithful_id, args.share_prompt, pad_to),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=tokenizer,
            callbacks=callbacks,
            optimizers=optimizers,
            peft_config=peft_config,
        )
        score_answers_only(model)
        if peft_config is not None:
            if not args.deepspeed_plugin or args.deepspeed_plugin.zero_stage < 3:  # ZeRO-3 wants one dtype
                _keep_tokens_exact(self.model)
            finish_adapter(self.model, self.base)

    def _prepare_dataset(self, dataset, processing_class, args, packing, formatting_func, dataset_name):
        if "prompt_ids" in dataset.column_names:
            return dataset
        encoded, report = prepare(dataset, self._encoder, dataset_name, args.dataset_num_proc)
        self.length_reports[dataset_name] = report
        return encoded.shuffle(seed=args.seed) if args.shuffle_dataset else encoded

    def _set_signature_columns_if_needed(self):
        self._signature_columns: Any = ["prompt_ids", "slot", "answer_ids", "unfaithful_ids"]

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """The batches of a step, and the number of faithful and unfaithful answer tokens in all of them `[2]`."""
        samples, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        counts = torch.zeros(2, dtype=torch.long)
        for sample in samples:
            counts += _answer_tokens(sample["labels"].cpu(), sample["branches"].cpu())
        counts = counts.to(device)
        if self.args.average_tokens_across_devices and self.args.world_size > 1:
            counts = self.accelerator.gather(counts[None]).sum(0)
        return samples, counts

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        own: Any = self.model
        inputs = dict(inputs)
        branches = inputs.pop("branches")
        tokens = real_tokens(inputs["attention_mask"])
        if inputs["attention_mask"].dim() == 4 and hf.text_config(own)._attn_implementation == "eager":
            inputs["attention_mask"] = _additive(inputs["attention_mask"], own.dtype)
        if self.aux_loss_enabled:
            inputs["output_router_logits"] = True
        outputs = model(**inputs, use_cache=False, fused_lm_head=True)
        nll = -outputs.log_probs  # 0 where there is no label
        unfaithful = branches[:, 1:] == 1
        sums = torch.stack([nll.masked_fill(unfaithful, 0).sum(), nll.masked_fill(~unfaithful, 0).sum()])
        local = _answer_tokens(inputs["labels"], branches)
        counts = local if num_items_in_batch is None else num_items_in_batch.to(sums.device)
        weights = sums.new_tensor([1.0, self._unfaithful_weight])
        loss = (weights * sums / counts.clamp(min=1)).sum()
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # the counts are of all processes, and gradients are averaged
        if self.aux_loss_enabled:
            steps = self.current_gradient_accumulation_steps if num_items_in_batch is not None else 1
            loss = loss + self.router_aux_loss_coef * outputs.aux_loss / steps
        self._add_to_log(sums.detach(), local, None if num_items_in_batch is None else counts, outputs, tokens)
        return (loss, outputs) if return_outputs else loss

    def _add_to_log(
        self,
        sums: torch.Tensor,
        local: torch.Tensor,
        counts: torch.Tensor | None,
        outputs: Any,
        tokens: torch.Tensor,
    ) -> None:
        """Add a batch to the parts of the loss and TRL's own metrics, over all processes, for the next log.

        With the `counts` of its step (in training) a part is the mean over the step's tokens, as in the loss, and the log
        has the mean of its steps: the logged parts make up the logged loss. Without, and for entropy and accuracy, it is
        the mean over all tokens.
        """
        processes, mode = self.accelerator.num_processes, self._mode()
        parts = sums if counts is None else sums / counts.clamp(min=1)
        if counts is not None and not self.args.average_tokens_across_devices:
            parts = parts / processes  # the counts are of one process
        others = torch.stack([outputs.entropy.detach().sum(), outputs.is_top1.sum(), tokens])
        # not `gather_for_metrics`, which cuts the last gather of an epoch to the examples that are left
        found = self.accelerator.gather(torch.cat([parts, local, others]).float()[None]).sum(0).tolist()
        faithful, unfaithful, *answers, entropy, top1, seen = found
        step = None if counts is None else 1 / self.current_gradient_accumulation_steps
        for name, value, of in (
            ("loss_faithful", faithful, step if step and answers[0] else answers[0]),
            ("loss_unfaithful", unfaithful, step if step and answers[1] else answers[1]),
            ("entropy", entropy, sum(answers)),
            ("mean_token_accuracy", top1, sum(answers)),
        ):
            if of:
                total = self._totals[mode].setdefault(name, [0.0, 0.0])
                total[0] += value
                total[1] += of
        if mode == "train":
            self._total_train_tokens += int(seen) // self._tp_size
        self._metrics[mode]["num_tokens"] = [self._total_train_tokens]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        mode = self._mode()
        for name, (value, of) in self._totals[mode].items():
            self._metrics[mode][name] = [value / of]
        self._totals[mode].clear()
        super().log(logs, start_time)

    def _mode(self) -> str:
        own: Any = self.model
        return "train" if own.training else "eval"

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        super().save_model(output_dir, _internal_call)
        if self.args.should_save:
            folder: Any = output_dir or self.args.output_dir
            write_record(folder, self.record())

    def record(self) -> dict[str, Any]:
        """What a checkpoint says of the run so far (see [`training_record`])."""
        return training_record(self, "rhio", control_settings(self.processing_class))


def _answer_tokens(labels: torch.Tensor, branches: torch.Tensor) -> torch.Tensor:
    """Faithful and unfaithful tokens with a loss `[2]`."""
    answers, unfaithful = labels[:, 1:] != -100, branches[:, 1:] == 1
    return torch.stack([(answers & ~unfaithful).sum(), (answers & unfaithful).sum()])


def _keep_tokens_exact(model: Any) -> None:
    """Train the rows of the control tokens in float32, where TRL casts them to bfloat16 with the LoRA weights (QLoRA).

    Most small updates of a row would round away; for the LoRA weights bfloat16 is TRL's choice, after QLoRA's paper.
    """
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "trainable_tokens_delta" in name:
            parameter.data = parameter.data.float()


def _additive(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)


def _check_packable(model: Any) -> None:
    """Raise for models whose attention cannot take the block mask of a packed pair."""
    config = hf.text_config(model)
    if config._attn_implementation not in ("sdpa", "eager"):
        raise FaithgenError(
            f"share_prompt needs attn_implementation sdpa or eager, not {config._attn_implementation}; set that, or "
            "share_prompt: false"
        )
    types = set(getattr(config, "layer_types", None) or ())
    if types - {"full_attention"} or (not types and getattr(config, "sliding_window", None)):
        raise FaithgenError(
            f"share_prompt needs full attention in every layer, which {type(model).__name__} does not have; set "
            "share_prompt: false"
        )
