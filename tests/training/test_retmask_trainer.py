import copy
import json

import pytest
import torch

pytest.importorskip("trl")

from peft import LoraConfig

from faithgen.errors import FaithgenError
from faithgen.training import RetMaskConfig, RetMaskTrainer
from faithgen.training.control_tokens import add_control_tokens
from faithgen.training.rows import as_dataset, read_rows


def trainer_of(loaded, dataset, options, peft=True, ref_model=None, **changes):
    config = LoraConfig(r=4, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    return RetMaskTrainer(
        model=loaded.model,
        ref_model=ref_model,
        args=RetMaskConfig(**{**options, **changes}),
        train_dataset=dataset,
        processing_class=loaded.tokenizer,
        peft_config=config if peft else None,
    )


def test_the_models_answer_is_chosen_and_the_masked_ones_rejected(fresh, dataset, options):
    from faithgen.prompting import PromptBuilder
    from faithgen.training.prompts import answer_ids

    trainer = trainer_of(fresh, dataset, options)
    builder = PromptBuilder(fresh.tokenizer, 1024)
    for row, source in zip(trainer.train_dataset, dataset, strict=True):
        from faithgen.documents import as_documents

        prompt = builder.build(source["question"], as_documents(source["documents"]))
        assert row["prompt_ids"] == prompt.input_ids
        assert row["chosen_ids"] == answer_ids(builder, source["answer"], 4)
        assert row["rejected_ids"] == answer_ids(builder, source["unfaithful"], 4)


@pytest.mark.parametrize("peft", [True, False])
def test_training_prefers_the_chosen_answers(fresh, dataset, options, peft, tmp_path):
    reference = None if peft else copy.deepcopy(fresh.model)
    settings = {"max_steps": 6, "learning_rate": 1e-2 if peft else 1e-3, "warmup_steps": 0}
    trainer = trainer_of(fresh, dataset, options, peft, reference, **settings)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    trainer.train()
    changed = [
        name for name, p in trainer.model.named_parameters() if name in before and not torch.equal(p, before[name])
    ]
    assert len(changed) == len(before)
    logs = [entry for entry in trainer.state.log_history if "rewards/margins" in entry]
    assert logs[0]["rewards/margins"] == pytest.approx(0.0, abs=1e-4)  # the reference is the model itself
    assert logs[-1]["rewards/margins"] > 0.01
    assert logs[-1]["loss"] < logs[0]["loss"]
    trainer.save_model(str(tmp_path / "saved"))
    record = json.loads((tmp_path / "saved" / "faithgen_training.json").read_text())
    assert (record["method"], record["control"], record["steps"]) == ("retmask", None, 6)


def test_a_model_with_control_tokens_keeps_its_prompt(fresh, dataset, options):
    ids = add_control_tokens(fresh.model, fresh.tokenizer, control_position="end", instruction="x")
    trainer = trainer_of(fresh, dataset, options)
    assert all(row["prompt_ids"].count(ids[0]) == 1 for row in trainer.train_dataset)


def test_long_rows_are_refused_by_default(fresh, pairs, options):
    long = {"id": "long", "question": "What?", "documents": ["word " * 400], "answer": "A", "unfaithful": "B"}
    data = as_dataset(read_rows([*pairs, long]))
    with pytest.raises(FaithgenError, match="1 of 5 rows"):
        trainer_of(fresh, data, options, max_length=300)
    trainer = trainer_of(fresh, data, options, max_length=300, overlong="drop")
    assert (len(trainer.train_dataset), trainer.length_reports["train"].dropped) == (4, 1)


@pytest.mark.parametrize("method", ["rhio", "retmask"])
def test_the_draft_of_a_card_names_the_methods_own_paper(fresh, dataset, options, method, tmp_path):
    from faithgen.training import RHIOConfig, RHIOTrainer

    kinds = {"rhio": (RHIOTrainer, RHIOConfig), "retmask": (RetMaskTrainer, RetMaskConfig)}
    trainer_type, config_type = kinds[method]
    lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    arguments = {"train_dataset": dataset, "processing_class": fresh.tokenizer, "peft_config": lora}
    trainer = trainer_type(model=fresh.model, args=config_type(**options), **arguments)
    trainer.create_model_card(model_name="mine")
    card = (tmp_path / "run" / "README.md").read_text()
    name, paper, other = {
        "rhio": ("RHIO", "2501.13573", "2601.11020"),
        "retmask": ("RetMask", "2601.11020", "2305.18290"),
    }[method]
    assert f"trained with {name}" in card
    assert f"papers/{paper}" in card
    assert other not in card
    assert "Direct Preference Optimization" not in card


def test_a_schedule_of_ones_own_does_not_get_the_defaults_settings(options):
    assert RetMaskConfig(**options).lr_scheduler_kwargs == {"min_lr_rate": 0.1}
    assert not RetMaskConfig(**options, lr_scheduler_type="linear").lr_scheduler_kwargs
