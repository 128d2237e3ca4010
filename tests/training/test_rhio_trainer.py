import copy
import json

import pytest
import torch

pytest.importorskip("trl")

from peft import LoraConfig

from faithgen.errors import FaithgenError
from faithgen.training import RHIOConfig, RHIOTrainer
from faithgen.training.rows import as_dataset, read_rows
from tests import tiny


def lora(**changes):
    return LoraConfig(
        r=4, lora_alpha=8, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM", **changes
    )


def trainer_of(loaded, dataset, options, peft=True, **changes):
    return RHIOTrainer(
        model=loaded.model,
        args=RHIOConfig(**{**options, **changes}),
        train_dataset=dataset,
        processing_class=loaded.tokenizer,
        peft_config=lora() if peft else None,
    )


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_the_loss_is_the_mean_of_each_branch_over_its_own_answer_tokens(fresh, dataset, options):
    trainer = trainer_of(fresh, dataset, options, peft=False, unfaithful_weight=0.5)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(3)])
    loss = trainer.compute_loss(trainer.model, batch)
    logits = trainer.model(**{name: batch[name] for name in ("input_ids", "attention_mask")}).logits
    nll = torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), batch["labels"][:, 1:], reduction="none")
    seen = batch["labels"][:, 1:] != -100
    faithful, unfaithful = nll[:3][seen[:3]].mean(), nll[3:][seen[3:]].mean()
    assert torch.allclose(loss, faithful + 0.5 * unfaithful, atol=1e-5)
    trainer.log({})
    entry, start = trainer.state.log_history[-1], "" if trainer.model.training else "eval_"
    assert entry[f"{start}loss_faithful"] == pytest.approx(faithful.item(), abs=1e-5)
    assert entry[f"{start}loss_unfaithful"] == pytest.approx(unfaithful.item(), abs=1e-5)


def test_adapter_training_changes_every_trainable_parameter_and_nothing_else(fresh, dataset, options):
    before = copy.deepcopy(fresh.model.state_dict())
    trainer = trainer_of(fresh, dataset, options)
    start = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert any("trainable_tokens_delta" in name for name in start)
    assert all(p.dtype == torch.float32 for p in trainer.model.parameters() if p.requires_grad)
    trainer.train()
    for name, parameter in trainer.model.named_parameters():
        if name in start:
            # LoRA's A has no gradient in the first step, while B is zero
            assert not torch.equal(parameter, start[name]), name
    base = trainer.model.get_base_model().model.layers[0].self_attn.q_proj.base_layer.weight
    assert torch.equal(base, before["model.layers.0.self_attn.q_proj.weight"])
    merged = trainer.model.merge_and_unload().get_input_embeddings().weight
    assert torch.equal(merged[:480], before["model.embed_tokens.weight"][:480])
    assert {"loss_faithful", "loss_unfaithful", "num_tokens"} <= trainer.state.log_history[0].keys()
    assert trainer.state.log_history[0]["num_tokens"] > 0


@pytest.mark.parametrize("quantized", [False, True])
def test_control_rows_are_trained_in_float32_on_a_bfloat16_model(fresh, dataset, options, quantized):
    fresh.model.to(torch.bfloat16)
    if quantized:  # all that TRL looks at before it casts what is trained
        fresh.model.is_loaded_in_4bit = True
    trainer = trainer_of(fresh, dataset, options, learning_rate=1e-6)
    trained = {name: p for name, p in trainer.model.named_parameters() if p.requires_grad}
    rows = {name for name in trained if "trainable_tokens_delta" in name}
    assert len(rows) == 1
    assert {trained[name].dtype for name in rows} == {torch.float32}
    loras = {trained[name].dtype for name in trained.keys() - rows}
    assert loras == {torch.bfloat16 if quantized else torch.float32}
    (row,) = (trained[name] for name in rows)
    start = row.detach().clone()
    fresh.model.is_loaded_in_4bit = False  # transformers asks bitsandbytes from here on
    trainer.train()
    moved = row.detach() != start
    lost = moved & (row.detach().bfloat16() == start.bfloat16())
    assert moved.float().mean() > 0.9
    assert lost.float().mean() > 0.5


def test_full_fine_tuning_changes_the_control_rows_and_the_model(fresh, dataset, options):
    trainer = trainer_of(fresh, dataset, options, peft=False)
    start = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    assert all(not torch.equal(p, start[name]) for name, p in trainer.model.named_parameters())


@pytest.mark.parametrize("make", [tiny.llama, tiny.qwen3])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_shared_prompt_gives_the_gradients_of_two_sequences(fresh, dataset, options, make, attention):
    fresh.model = make(tie_word_embeddings=True)
    fresh.model.set_attn_implementation(attention)
    found = []
    for share in (False, True):
        trainer = trainer_of(copy.deepcopy(fresh), dataset, options, share_prompt=share)
        with torch.no_grad():  # LoRA's B is zero at first, and A would have no gradient
            for name, parameter in trainer.model.named_parameters():
                if "lora_B" in name:
                    parameter.copy_(torch.linspace(-0.1, 0.1, parameter.numel()).view_as(parameter))
        batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
        trainer.model.train()
        loss = trainer.compute_loss(trainer.model, batch)
        loss.backward()
        grads = {name: p.grad for name, p in trainer.model.named_parameters() if p.requires_grad}
        found.append((loss.item(), batch["input_ids"].numel(), grads, trainer._total_train_tokens))
    (plain, plain_size, plain_grads, plain_tokens), (packed, packed_size, packed_grads, packed_tokens) = found
    assert packed == pytest.approx(plain, abs=1e-5)
    assert packed_size < 0.75 * plain_size
    assert 0 < packed_tokens < 0.75 * plain_tokens
    assert max(grad.abs().max() for grad in plain_grads.values()) > 1e-2
    for name, grad in plain_grads.items():
        assert torch.allclose(packed_grads[name], grad, atol=1e-4, rtol=1e-4), name


def test_accumulated_batches_give_the_loss_and_the_step_of_one_batch(fresh, dataset, options):
    results = []
    for size, parts in ((4, 1), (1, 4)):
        changes = {"per_device_train_batch_size": size, "gradient_accumulation_steps": parts}
        trainer = trainer_of(copy.deepcopy(fresh), dataset, options, **changes)
        trainer.train()
        state = {name: p.detach() for name, p in trainer.model.named_parameters() if p.requires_grad}
        results.append((losses(trainer), state))
    assert results[0][0] == pytest.approx(results[1][0], abs=1e-4)
    for name, parameter in results[0][1].items():
        assert torch.allclose(parameter, results[1][1][name], atol=1e-4), name


@pytest.mark.parametrize("every", [1, 3])
def test_the_logged_parts_make_up_the_logged_loss(fresh, pairs, options, every):
    """Also where the batches of a step have answers of unequal lengths, and a log has several steps."""
    pairs[0]["answer"], pairs[1]["unfaithful"] = "It was first lit in 1868. " * 8, "Nobody lit it. " * 12
    data = as_dataset(read_rows(pairs, needs=("answer", "unfaithful")))
    changes = {
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 2,
        "max_steps": 3,
        "logging_steps": every,
        "unfaithful_weight": 0.3,
    }
    trainer = trainer_of(fresh, data, options, **changes)
    trainer.train()
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(entries) == 3 // every
    for entry in entries:
        parts = entry["loss_faithful"] + 0.3 * entry["loss_unfaithful"]
        assert entry["loss"] == pytest.approx(parts, abs=2e-4)


def test_entropy_and_accuracy_are_means_over_all_tokens(fresh, pairs, options):
    pairs[0]["answer"] = "It was first lit in 1868. " * 8
    data = as_dataset(read_rows(pairs, needs=("answer", "unfaithful")))
    trainer = trainer_of(fresh, data, options, peft=False)
    trainer.model.train()
    batches = [trainer.data_collator([trainer.train_dataset[i]]) for i in range(4)]
    for batch in batches:
        trainer.compute_loss(trainer.model, batch)
    trainer.log({})
    apart = trainer.state.log_history[-1]
    trainer.compute_loss(trainer.model, trainer.data_collator([trainer.train_dataset[i] for i in range(4)]))
    trainer.log({})
    together = trainer.state.log_history[-1]
    for name in ("loss_faithful", "loss_unfaithful", "entropy", "mean_token_accuracy"):
        assert apart[name] == pytest.approx(together[name], abs=1e-4), name


def test_without_weight_on_unfaithful_answers_it_is_plain_fine_tuning(fresh, pairs, options):
    rows = [{key: row[key] for key in ("id", "question", "documents", "answer")} for row in pairs]
    data = as_dataset(read_rows(rows))
    trainer = trainer_of(fresh, data, options, unfaithful_weight=0.0)
    assert "[faithful]" not in fresh.tokenizer.get_vocab()
    assert not any("trainable_tokens" in name for name, _ in trainer.model.named_parameters())
    batch = trainer.data_collator([trainer.train_dataset[0]])
    assert batch["input_ids"].shape[0] == 1
    trainer.train()
    assert "loss_unfaithful" not in trainer.state.log_history[0]
    assert trainer.state.log_history[0]["loss"] == pytest.approx(
        trainer.state.log_history[0]["loss_faithful"], abs=1e-4
    )


def test_a_run_that_was_stopped_reaches_the_same_loss(fresh, dataset, options, tmp_path):
    changes = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "lr_scheduler_type": "constant"}
    whole = trainer_of(copy.deepcopy(fresh), dataset, options, output_dir=str(tmp_path / "whole"), **changes)
    whole.train()
    first = trainer_of(copy.deepcopy(fresh), dataset, options, **{**changes, "max_steps": 2})
    first.train()
    second = trainer_of(copy.deepcopy(fresh), dataset, options, **changes)
    second.train(resume_from_checkpoint=True)
    assert losses(second) == pytest.approx(losses(whole), abs=1e-5)
    folder = tmp_path / "run" / "checkpoint-4"
    record = json.loads((folder / "faithgen_training.json").read_text())
    assert (record["method"], record["steps"], record["control"]["control_position"]) == ("rhio", 4, "end")
    assert record["data"]["lengths"]["train"]["rows"] == 4
    from safetensors.torch import load_file

    saved = load_file(folder / "adapter_model.safetensors")
    assert not any(
        tensor.shape[0] > 96 and "embed" in name for name, tensor in saved.items()
    )  # two rows, not the table


def test_evaluation_reports_both_parts(fresh, dataset, options):
    trainer = RHIOTrainer(
        model=fresh.model,
        args=RHIOConfig(**options),
        train_dataset=dataset,
        eval_dataset=dataset.select([0, 1, 2]),
        processing_class=fresh.tokenizer,
        peft_config=lora(),
    )
    metrics = trainer.evaluate()
    parts = metrics["eval_loss_faithful"] + metrics["eval_loss_unfaithful"]
    assert metrics["eval_loss"] == pytest.approx(parts, rel=0.2)  # of batches of 3 and by tokens
    assert {"train", "eval"} == trainer.length_reports.keys()


@pytest.mark.parametrize("policy", ["error", "drop", "truncate_documents"])
def test_long_rows_are_never_dropped_or_cut_without_a_word(fresh, pairs, options, policy, caplog):
    long = {"id": "long", "question": "What?", "documents": ["word " * 400], "answer": "A", "unfaithful": "B"}
    data = as_dataset(read_rows([*pairs, long], needs=("answer", "unfaithful")))
    if policy == "error":
        with pytest.raises(FaithgenError, match=r"1 of 5 rows .* max_length 300 .*rows long.*truncate_documents"):
            trainer_of(fresh, data, options, max_length=300, overlong=policy)
        return
    with caplog.at_level("WARNING"):
        trainer = trainer_of(fresh, data, options, max_length=300, overlong=policy)
    report = trainer.length_reports["train"]
    assert (report.rows, report.dropped, report.cut) == ((4, 1, 0) if policy == "drop" else (5, 0, 1))
    assert "1 of 5 rows" in caplog.text
    assert max(len(row["prompt_ids"]) + len(row["answer_ids"]) for row in trainer.train_dataset) <= 300


@pytest.mark.parametrize("policy", ["drop", "truncate_documents"])
def test_rows_that_are_all_too_long_are_an_error(fresh, pairs, options, policy):
    for row in pairs:
        row["answer"] = "word " * 300
    data = as_dataset(read_rows(pairs, needs=("answer", "unfaithful")))
    with pytest.raises(FaithgenError, match=r"4 .*rows of the train data are longer than max_length 200"):
        trainer_of(fresh, data, options, max_length=200, overlong=policy)


def test_bad_data_is_named(fresh, dataset, options):
    with pytest.raises(FaithgenError, match="train data is empty"):
        trainer_of(fresh, dataset.select([]), options)
    with pytest.raises(FaithgenError, match=r"no column 'unfaithful'.*faithgen data unfaithful"):
        trainer_of(fresh, dataset.remove_columns("unfaithful"), options)
    hollow = dataset.map(lambda row: {"unfaithful": "" if row["id"] == "2" else row["unfaithful"]})
    with pytest.raises(FaithgenError, match="row 2: 'unfaithful'"):
        trainer_of(fresh, hollow, options)


def test_a_shared_prompt_is_refused_where_the_mask_would_be_ignored(fresh, dataset, options):
    fresh.model = tiny.gemma3()
    with pytest.raises(FaithgenError, match="full attention in every layer"):
        trainer_of(fresh, dataset, options, share_prompt=True)
