import json
import math
import shutil

import pytest
import torch

pytest.importorskip("trl")

from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer

from faithgen.decoding.contrast import ContrastConfig
from faithgen.errors import FaithgenError
from faithgen.generator import FaithfulGenerator
from faithgen.heads.head_set import HeadSet
from faithgen.models import load_model, locate
from faithgen.training import RHIOConfig, RHIOTrainer, export_checkpoint
from tests import tiny

QUESTION, DOCUMENTS = "When was it lit?", ["The lighthouse was first lit in 1868.", "A ferry takes twenty minutes."]


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def base(request, tmp_path_factory):
    """A checkpoint folder with a full vocabulary, so that the table has to grow."""
    folder = tmp_path_factory.mktemp("base") / "tiny-base"
    tiny.llama(vocab_size=480, tie_word_embeddings=request.param).save_pretrained(folder)
    tiny.byte_level_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def trained(base, tmp_path_factory):
    """An adapter folder as `faithgen train` leaves it, and the model in memory."""
    from faithgen.training.rows import as_dataset, read_rows
    from tests.training.conftest import DOCUMENTS, QUESTIONS

    rows = [
        {"id": str(i), "question": q, "documents": DOCUMENTS, "answer": a, "unfaithful": u}
        for i, (q, a, u) in enumerate(QUESTIONS)
    ]
    folder = tmp_path_factory.mktemp("trained") / "adapter"
    config = RHIOConfig(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        max_steps=3,
        learning_rate=2e-2,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_steps=1,
    )
    lora = LoraConfig(r=4, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    data = as_dataset(read_rows(rows, needs=("answer", "unfaithful")))
    trainer = RHIOTrainer(model=str(base), args=config, train_dataset=data, peft_config=lora)
    trainer.data_info = {
        "source": "rows.jsonl",
        "rows": 4,
        "samples": {"kept": 4, "settings": {"masked_heads": 14, "seed": 5}},
    }
    trainer.train()
    trainer.save_model(str(folder))
    return folder, trainer.model.eval()


@pytest.fixture
def copy(trained, tmp_path):
    """The trained checkpoint, to be damaged."""
    return shutil.copytree(trained[0], tmp_path / "copy")


def logits_of(model, ids):
    with torch.no_grad():
        return model(input_ids=ids).logits


def ids_of(tokenizer):
    return torch.tensor([[*range(5, 25), *tokenizer.convert_tokens_to_ids(["[faithful]", "[unfaithful]"]), 30]])


def test_the_merged_checkpoint_is_an_ordinary_one(trained, tmp_path):
    folder, live = trained
    merged = export_checkpoint(folder, tmp_path / "merged", merge=True)
    model = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(merged)
    ids = ids_of(tokenizer)
    assert torch.allclose(logits_of(model, ids), logits_of(live, ids), atol=1e-5)
    assert model.config.vocab_size == 482
    assert tokenizer.convert_tokens_to_ids("[faithful]") == 480
    assert not (merged / "adapter_config.json").exists()
    assert (merged / "generation_config.json").exists()


def test_adapter_and_merged_checkpoint_answer_alike_and_contrast_by_themselves(trained, base, tmp_path):
    folder, live = trained
    merged = export_checkpoint(folder, tmp_path / "merged", merge=True)
    alone = export_checkpoint(folder, tmp_path / "alone")
    before = load_model(base, dtype="float32")
    heads = HeadSet([[0.5] * 8] * 4, "copying", before.model_id, before.revision)
    answers = []
    for checkpoint in (folder, alone, merged):
        loaded = load_model(checkpoint, dtype="float32")
        ids = ids_of(loaded.tokenizer)
        assert torch.allclose(logits_of(loaded.model, ids), logits_of(live, ids), atol=1e-5)
        assert loaded.model_id == before.model_id  # so the heads of the base are its heads
        assert loaded.revision.startswith(f"{before.revision}+")
        generator = FaithfulGenerator(loaded, heads, heads)
        answer = generator.generate(QUESTION, DOCUMENTS, max_new_tokens=8)
        assert answer.settings["contrast"]["source"] == "control"
        answers.append((answer.text, answer.finish_reason))
    assert len(set(answers)) == 1


def test_the_exported_adapter_names_its_base_and_can_be_small(trained, base, tmp_path):
    from safetensors.torch import load_file

    folder, _ = trained
    alone = export_checkpoint(folder, tmp_path / "alone", dtype="bfloat16", base="org/base-model")
    weights = load_file(alone / "adapter_model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    assert sum(weight.numel() for name, weight in weights.items() if "tokens" in name) == 2 * 64
    assert json.loads((alone / "adapter_config.json").read_text())["base_model_name_or_path"] == "org/base-model"
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base)
    assert sorted(file.name for file in alone.iterdir() if "token" not in file.name and file.suffix != ".jinja") == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "faithgen_training.json",
    ]


@pytest.mark.parametrize("merge", [False, True])
def test_the_strength_that_was_chosen_goes_with_the_model(trained, base, tmp_path, merge):
    folder, _ = trained
    exported = export_checkpoint(folder, tmp_path / "exported", merge=merge, alpha=0.7)
    loaded = load_model(exported, dtype="float32")
    heads = HeadSet([[0.5] * 8] * 4, "copying", loaded.model_id)
    generator = FaithfulGenerator(loaded, heads, heads)
    for given, resolved in (
        (ContrastConfig(), ("control", 0.7)),
        (ContrastConfig(source="control"), ("control", 0.7)),
        (ContrastConfig(alpha=0.5), ("control", 0.5)),
        (ContrastConfig(alpha=0.0), ("control", 0.0)),
        (ContrastConfig(method="adacad"), ("control", 1.0)),  # weighs in other units
        (ContrastConfig(method="decore", alpha=0.3), ("control", 0.3)),
        (ContrastConfig(source="heads"), ("heads", 0.2)),  # was not chosen for these
    ):
        found = generator.resolved(given)
        assert (found.source, found.alpha) == resolved
    assert generator.generate(QUESTION, DOCUMENTS, max_new_tokens=2).settings["contrast"]["alpha"] == 0.7
    assert "branches, by default with alpha 0.7." in (exported / "README.md").read_text()
    assert json.loads((exported / "faithgen_training.json").read_text())["control"]["alpha"] == 0.7
    assert "alpha" not in json.loads((folder / "faithgen_training.json").read_text())["control"]
    assert FaithfulGenerator(load_model(folder), heads, heads).resolved(ContrastConfig()).alpha == 0.2


@pytest.mark.parametrize("alpha", ["1", True, -1, float("inf"), None])
def test_a_strength_in_a_tokenizer_that_is_none_is_passed_over(trained, alpha):
    folder, _ = trained
    loaded = load_model(folder)
    loaded.tokenizer.init_kwargs["faithgen"]["alpha"] = alpha
    heads = HeadSet([[0.5] * 8] * 4, "copying", loaded.model_id)
    assert FaithfulGenerator(loaded, heads, heads).resolved(ContrastConfig()).alpha == 0.2


def test_no_strength_for_a_model_without_control_tokens(copy, tmp_path):
    record = json.loads((copy / "faithgen_training.json").read_text())
    (copy / "faithgen_training.json").write_text(json.dumps({**record, "control": None}))
    with pytest.raises(FaithgenError, match="has no control tokens to contrast; leave --alpha out"):
        export_checkpoint(copy, tmp_path / "out", alpha=1.0)


def test_the_card_states_data_heads_recipe_and_results(trained, tmp_path):
    results = tmp_path / "results.json"
    results.write_text(json.dumps([{"set": "dev | a", "faithfulness": 0.8}, {"set": "b", "faithfulness": 0.7}]))
    folder, _ = trained
    card = (export_checkpoint(folder, tmp_path / "merged", merge=True, results=results) / "README.md").read_text()
    front = card.split("---")[1]
    assert "library_name: transformers" in front
    assert "base_model:" not in front  # a local folder is no name on the hub
    for text in (
        "2501.13573",
        "| source | rows.jsonl |",
        "| masked heads | 14 |",
        "max_steps: 3",
        "r 4",
        "dev \\| a",
        "| b | 0.7 |",
        "[faithful]",
    ):
        assert text in card, text
    assert str(tmp_path) not in card
    plain = (export_checkpoint(folder, tmp_path / "alone", base="org/name") / "README.md").read_text()
    assert "base_model: org/name" in plain
    assert "library_name: peft" in plain
    assert "Not measured" in plain
    # by a name on the hub only a whole model is loaded
    assert 'from_pretrained("alone")  # a folder on this machine' in plain
    assert "hf download ORG/alone --local-dir alone" in plain
    assert "--checkpoint alone --output merged --merge" in plain
    assert 'from_pretrained("merged")\n' in card
    assert "hf download" not in card


def test_bad_input_is_said_and_nothing_is_left_behind(trained, base, tmp_path):
    folder, _ = trained
    full = tmp_path / "full"
    full.mkdir()
    (full / "x").touch()
    other = tmp_path / "other"
    tiny.llama(hidden_size=32).save_pretrained(other)
    tiny.byte_level_tokenizer().save_pretrained(other)
    broken = tmp_path / "results.json"
    broken.write_text("[1]")
    for arguments, message in (
        ({"output": full}, "not empty"),
        ({"checkpoint": base}, "faithgen train has written"),
        ({"checkpoint": tmp_path / "none"}, "faithgen_training.json"),
        ({"merge": True, "base": str(other)}, "does not fit its base model"),
        ({"merge": True, "base": str(tmp_path / "gone")}, "does not exist"),
        ({"dtype": "int8"}, "dtype 'int8'"),
        ({"results": broken}, "results"),
        ({"alpha": -1.0}, "alpha is -1.0"),
        ({"alpha": math.nan}, "alpha is nan"),
    ):
        with pytest.raises(FaithgenError, match=message):
            export_checkpoint(**{"checkpoint": folder, "output": tmp_path / "out", **arguments})
    assert not (tmp_path / "out").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("merge", [False, True])
def test_a_damaged_checkpoint_is_said_and_nothing_is_left_behind(copy, tmp_path, merge):
    record = json.loads((copy / "faithgen_training.json").read_text())
    damages = [
        ("tokenizer.json", None, "tokenizer of .* is damaged"),
        ("tokenizer.json", "{", "tokenizer of .* is damaged"),
        ("tokenizer.json", "{}", "tokenizer of .* is damaged"),
        ("tokenizer_config.json", "{", "tokenizer of .* is damaged"),
        ("tokenizer_config.json", None, "tokenizer of .* is damaged"),
        ("adapter_config.json", "[]", "adapter .* is damaged"),
        ("adapter_config.json", "{}", "adapter .* is damaged"),
        ("adapter_model.safetensors", "x" * 50, "adapter .* is damaged"),
        ("adapter_model.safetensors", None, "adapter .* is damaged or not there; give a folder"),
    ]
    records = [
        *({**record, **changes} for changes in ({"data": None}, {"data": []}, {"method": "mudaf"}, {"method": []})),
        *({**record, **changes} for changes in ({"settings": None}, {"log": 3}, {"adapter": 1}, {"control": []})),
        *({**record, **changes} for changes in ({"steps": None}, {"versions": {}}, {"base": {"name": "x"}})),
        *({k: v for k, v in record.items() if k != key} for key in ("method", "data", "settings", "log", "control")),
    ]
    damages += [("faithgen_training.json", json.dumps(damaged), "not a training record") for damaged in records]
    damages.append(("faithgen_training.json", json.dumps({**record, "adapter": {"r": 4}}), "record is damaged"))
    before = sorted(tmp_path.iterdir())
    for name, text, message in damages:
        whole = (copy / name).read_bytes()
        (copy / name).unlink()
        if text is not None:
            (copy / name).write_text(text)
        with pytest.raises(FaithgenError, match=message):
            export_checkpoint(copy, tmp_path / "out", merge=merge)
        assert sorted(tmp_path.iterdir()) == before
        (copy / name).write_bytes(whole)
    strange = {**record, "data": {"lengths": 3, "samples": [1]}}
    (copy / "faithgen_training.json").write_text(json.dumps(strange))
    assert "does not say how they were made" in (export_checkpoint(copy, tmp_path / "out") / "README.md").read_text()


def test_a_damaged_whole_model_is_not_blamed_on_its_base(trained, tmp_path):
    merged = export_checkpoint(trained[0], tmp_path / "merged", merge=True)
    for name, message in (
        ("model.safetensors", "its weights or config.json are damaged"),
        ("config.json", "config.json"),
    ):
        whole = (merged / name).read_bytes()
        (merged / name).write_text("{x")
        with pytest.raises(FaithgenError, match=f"{message}.* give another checkpoint of the run") as caught:
            export_checkpoint(merged, tmp_path / "out")
        assert "--base" not in str(caught.value)
        (merged / name).write_bytes(whole)
    assert not (tmp_path / "out").exists()


def test_an_adapter_that_cannot_be_loaded_is_said(trained, copy, tmp_path):
    settings = json.loads((copy / "adapter_config.json").read_text())
    (copy / "adapter_config.json").write_text(json.dumps({**settings, "base_model_name_or_path": None}))
    with pytest.raises(FaithgenError, match="is damaged"):
        load_model(copy)
    other = tmp_path / "other"
    tiny.llama(hidden_size=32).save_pretrained(other)
    tiny.byte_level_tokenizer().save_pretrained(other)
    (copy / "adapter_config.json").write_text(json.dumps({**settings, "base_model_name_or_path": str(other)}))
    with pytest.raises(FaithgenError, match=r"was trained on .* which is now"):
        load_model(copy)
    (copy / "faithgen_training.json").unlink()
    with pytest.raises(FaithgenError, match="does not fit its base model"):
        load_model(copy)
    with pytest.raises(FaithgenError, match="is an adapter; merge it"):
        locate(trained[0])
