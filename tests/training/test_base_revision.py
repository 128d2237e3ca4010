"""What was trained is found again: the commit of a model on the hub, the checksum of one in a folder."""

import json
import shutil

import pytest
import torch

pytest.importorskip("trl")

from peft import LoraConfig
from transformers import AutoModelForCausalLM

from faithgen.errors import FaithgenError
from faithgen.models import load_model
from faithgen.training import RetMaskConfig, RetMaskTrainer, RHIOConfig, RHIOTrainer, export_checkpoint
from faithgen.training.loading import Base, load_trainable
from tests import tiny

NAME, PINNED, MAIN = "org/tiny-model", "1" * 40, "2" * 40


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub (its cache) with a model of two commits; `main` is the later one, whose weights are others."""
    root = tmp_path / "hub"
    repository = root / f"models--{NAME.replace('/', '--')}"
    for seed, commit in enumerate((PINNED, MAIN)):
        folder = repository / "snapshots" / commit
        tiny.llama(seed, vocab_size=480).save_pretrained(folder)
        tiny.byte_level_tokenizer().save_pretrained(folder)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(MAIN)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(root))
    return repository


def train(method, model, dataset, options, folder, revision=None, peft=True, **changes):
    kinds = {"rhio": (RHIOTrainer, RHIOConfig), "retmask": (RetMaskTrainer, RetMaskConfig)}
    trainer_type, config_type = kinds[method]
    lora = LoraConfig(r=4, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    init = {} if revision is None else {"model_init_kwargs": {"revision": revision}}
    trainer = trainer_type(
        model=model,
        args=config_type(**{**options, **init, **changes}),
        train_dataset=dataset,
        peft_config=lora if peft else None,
    )
    trainer.train()
    trainer.save_model(str(folder))
    return trainer


def logits(model):
    with torch.no_grad():
        return model.eval()(torch.arange(5, 30)[None]).logits


def settings_of(folder):
    settings = json.loads((folder / "adapter_config.json").read_text())
    return settings["base_model_name_or_path"], settings["revision"]


@pytest.mark.parametrize("method", ["rhio", "retmask"])
def test_an_adapter_goes_on_the_commit_that_it_was_trained_on(hub, dataset, options, tmp_path, method):
    trainer = train(method, NAME, dataset, options, tmp_path / "run", PINNED)
    assert trainer.base == Base(NAME, NAME, PINNED)
    assert settings_of(tmp_path / "run") == (NAME, PINNED)
    live = logits(trainer.model)
    merged = export_checkpoint(tmp_path / "run", tmp_path / "merged", merge=True)
    alone = export_checkpoint(tmp_path / "run", tmp_path / "alone")
    assert settings_of(alone) == (NAME, PINNED)
    assert torch.allclose(logits(AutoModelForCausalLM.from_pretrained(merged)), live, atol=1e-5)
    loaded = load_model(alone, dtype="float32")
    assert torch.allclose(logits(loaded.model), live, atol=1e-5)
    assert loaded.model_id == NAME
    assert f"{NAME} (revision {PINNED})" in (merged / "README.md").read_text()


def test_without_a_pin_the_commit_of_the_day_is_kept(hub, dataset, options, tmp_path):
    trainer = train("rhio", NAME, dataset, options, tmp_path / "run", max_steps=1)
    assert settings_of(tmp_path / "run") == (NAME, MAIN)
    (hub / "refs" / "main").write_text(PINNED)  # the hub has gone on
    merged = export_checkpoint(tmp_path / "run", tmp_path / "merged", merge=True)
    assert torch.allclose(logits(AutoModelForCausalLM.from_pretrained(merged)), logits(trainer.model), atol=1e-5)
    other = export_checkpoint(tmp_path / "run", tmp_path / "other", base="org/a-copy")
    assert settings_of(other) == ("org/a-copy", None)  # which has commits of its own


def test_a_model_in_memory_is_of_the_revision_that_is_said(hub):
    model = AutoModelForCausalLM.from_pretrained(NAME, revision=PINNED)
    _, tokenizer, base = load_trainable(model, init_kwargs={"revision": PINNED})
    assert base == Base(NAME, NAME, PINNED)
    assert tokenizer.is_fast
    assert load_trainable(model)[2] == Base(NAME, "tiny-model", "")


@pytest.mark.parametrize("precompute", [False, True])
def test_the_reference_of_full_fine_tuning_is_the_pinned_model(hub, dataset, options, tmp_path, precompute):
    shutil.rmtree(hub / "snapshots" / MAIN)  # offline there is the pinned commit alone
    changes = {"precompute_ref_log_probs": precompute, "learning_rate": 1e-4}
    trainer = train("retmask", NAME, dataset, options, tmp_path / "run", PINNED, peft=False, **changes)
    logs = [entry for entry in trainer.state.log_history if "rewards/margins" in entry]
    assert logs[0]["rewards/margins"] == pytest.approx(0.0, abs=1e-4)
    if precompute:
        assert trainer.ref_model is None
    else:
        pinned = AutoModelForCausalLM.from_pretrained(NAME, revision=PINNED)
        assert torch.equal(logits(trainer.ref_model), logits(pinned))


@pytest.fixture
def local(dataset, options, tmp_path):
    """An adapter, and the folder of its base."""
    base = tmp_path / "base"
    tiny.llama(vocab_size=480).save_pretrained(base)
    tiny.byte_level_tokenizer().save_pretrained(base)
    train("rhio", str(base), dataset, options, tmp_path / "run", max_steps=1)
    assert settings_of(tmp_path / "run") == (str(base), None)
    return tmp_path / "run", base


def test_a_local_base_that_has_changed_is_refused_unless_it_is_named(local, tmp_path):
    run, base = local
    tiny.llama(7, vocab_size=480).save_pretrained(base)
    with pytest.raises(FaithgenError, match=r"base model '.*base' has revision .* was trained on .*--base") as caught:
        export_checkpoint(run, tmp_path / "merged", merge=True)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "merged").exists()
    with pytest.warns(UserWarning, match="are they the same model"):
        export_checkpoint(run, tmp_path / "merged", merge=True, base=str(base))


def test_a_base_that_has_moved_is_named_without_a_warning(local, tmp_path, recwarn):
    run, base = local
    base.rename(tmp_path / "moved")
    with pytest.raises(FaithgenError, match="does not exist"):
        export_checkpoint(run, tmp_path / "merged", merge=True)
    export_checkpoint(run, tmp_path / "merged", merge=True, base=str(tmp_path / "moved"))
    assert not [one for one in recwarn if "has revision" in str(one.message)]


def test_another_name_on_the_hub_is_not_asked_for_the_commit(hub, local, tmp_path):
    run, _ = local
    with pytest.warns(UserWarning, match=f"'{NAME}' has revision {MAIN}"):
        export_checkpoint(run, tmp_path / "merged", merge=True, base=NAME)
    assert settings_of(export_checkpoint(run, tmp_path / "alone", base=NAME)) == (NAME, None)


@pytest.mark.parametrize("shipped", [True, False])
def test_the_default_model_is_called_its_base_only_where_it_has_no_adapter(tmp_path, monkeypatch, shipped):
    folders = {"default-base": tmp_path / "base", "default": tmp_path / ("merged" if shipped else "base")}
    for seed, folder in enumerate(dict.fromkeys(folders.values())):
        tiny.llama(seed, vocab_size=480).save_pretrained(folder)
        tiny.byte_level_tokenizer().save_pretrained(folder)
    monkeypatch.setattr(
        "faithgen.models.locate", lambda name: (str(folders[name]), "smollm2", f"of-{folders[name].name}")
    )
    assert load_trainable("default-base")[2] == Base("default-base", "smollm2", "of-base")
    expected = Base(str(tmp_path / "merged"), "smollm2", "of-merged") if shipped else load_trainable("default-base")[2]
    assert load_trainable("default")[2] == expected
    assert expected.commit is None


def test_records_of_older_runs_are_read():
    record = {"base": {"name": "default", "model_id": "x"}}
    assert Base.from_record(record) == Base("default-base", "x", "")
    assert Base.from_record(record).commit is None
