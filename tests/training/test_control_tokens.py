import pytest
import torch
from tokenizers import AddedToken

from faithgen.errors import FaithgenError
from faithgen.prompting import PromptBuilder, control_settings
from faithgen.training.control_tokens import PHRASES, add_control_tokens, train_tokens
from tests import tiny

SETTINGS = {"control_position": "end", "instruction": "Answer."}


def test_new_tokens_start_as_the_mean_of_their_phrase(fresh):
    old = fresh.model.get_input_embeddings().weight.detach().clone()
    specials = set(fresh.tokenizer.all_special_ids)
    ids = add_control_tokens(fresh.model, fresh.tokenizer, **SETTINGS)
    weight = fresh.model.get_input_embeddings().weight
    for index, (token, phrase) in zip(ids, PHRASES.items(), strict=True):
        assert fresh.tokenizer.convert_ids_to_tokens(index) == token
        expected = old[fresh.tokenizer(phrase)["input_ids"]].mean(0)
        assert torch.allclose(weight[index], expected, atol=1e-6)
    assert torch.equal(weight[:480], old[:480])
    assert specials <= set(fresh.tokenizer.all_special_ids) | {fresh.tokenizer.convert_tokens_to_ids("<|im_start|>")}
    assert fresh.tokenizer.decode([5, ids[0]], skip_special_tokens=True) == fresh.tokenizer.decode([5])


def test_spare_rows_of_the_table_are_used_before_it_grows(fresh):
    add_control_tokens(fresh.model, fresh.tokenizer, **SETTINGS)  # 480 tokens, 512 rows
    assert fresh.model.get_input_embeddings().weight.shape[0] == fresh.model.config.vocab_size == 512
    full = tiny.llama(vocab_size=480, tie_word_embeddings=True)
    add_control_tokens(full, tiny.byte_level_tokenizer(), **SETTINGS)
    assert full.get_input_embeddings().weight.shape[0] == full.config.vocab_size == 482
    assert full.get_output_embeddings().weight is full.get_input_embeddings().weight
    untied = tiny.llama(vocab_size=480)
    add_control_tokens(untied, tiny.byte_level_tokenizer(), **SETTINGS)
    outputs = untied.get_output_embeddings().weight
    assert outputs.shape[0] == 482
    assert torch.allclose(outputs[480:], outputs[:480].mean(0).expand(2, -1), atol=1e-6)


def test_what_was_trained_is_told_by_the_tokenizer_wherever_it_goes(fresh, tmp_path):
    from transformers import AutoTokenizer

    assert control_settings(fresh.tokenizer) is None
    add_control_tokens(fresh.model, fresh.tokenizer, **SETTINGS)
    fresh.tokenizer.save_pretrained(tmp_path / "one")
    AutoTokenizer.from_pretrained(tmp_path / "one").save_pretrained(tmp_path / "two")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "two")
    assert control_settings(tokenizer) == {"control_tokens": ["[faithful]", "[unfaithful]"], **SETTINGS}
    assert PromptBuilder(tokenizer, 100).has_control_tokens


def test_prompts_are_built_as_the_model_was_trained(fresh):
    from faithgen.generator import FaithfulGenerator
    from faithgen.heads.head_set import HeadSet

    add_control_tokens(fresh.model, fresh.tokenizer, control_position="front", instruction="Sing.")
    heads = HeadSet([[0.5] * 8] * 4, "copying", "tiny")
    for builder in (PromptBuilder(fresh.tokenizer, 100), FaithfulGenerator(fresh, heads, heads).builder):
        assert (builder.instruction, builder.control_position) == ("Sing.", "front")
        prompt = builder.build("Who?", [], control="[faithful]")
        assert prompt.control[0] < prompt.question[0]
    assert PromptBuilder(fresh.tokenizer, 100, "Mine.", "end").instruction == "Mine."


@pytest.mark.parametrize(
    "wrong", [{"control_position": "top"}, {"instruction": 3}, {"control_tokens": ["[faithful]"]}]
)
def test_a_mark_that_is_damaged_says_nothing(fresh, wrong):
    add_control_tokens(fresh.model, fresh.tokenizer, **SETTINGS)
    fresh.tokenizer.init_kwargs["faithgen"] |= wrong
    assert control_settings(fresh.tokenizer) is None
    assert PromptBuilder(fresh.tokenizer, 100).control_position == "end"


def test_a_trained_model_is_trained_on_with_its_tokens(fresh):
    ids = add_control_tokens(fresh.model, fresh.tokenizer, **SETTINGS)
    with torch.no_grad():
        fresh.model.get_input_embeddings().weight[ids[0]] = 7.0
    fresh.tokenizer.init_kwargs["faithgen"]["alpha"] = 1.0
    assert add_control_tokens(fresh.model, fresh.tokenizer, control_position="end", instruction="New.") == ids
    assert "alpha" not in control_settings(fresh.tokenizer)  # chosen for the model before this training
    assert (fresh.model.get_input_embeddings().weight[ids[0]] == 7.0).all()
    assert control_settings(fresh.tokenizer)["instruction"] == "New."
    with pytest.raises(FaithgenError, match=r"control_position is 'front'.*trained with 'end'"):
        add_control_tokens(fresh.model, fresh.tokenizer, control_position="front", instruction="New.")


@pytest.mark.parametrize("special", [True, False])
def test_a_token_with_another_meaning_is_refused(fresh, special):
    fresh.tokenizer.add_tokens([AddedToken("[faithful]", special=special)], special_tokens=special)
    before = len(fresh.tokenizer)
    with pytest.raises(FaithgenError, match=r"has a token \[faithful\] already"):
        add_control_tokens(fresh.model, fresh.tokenizer, **SETTINGS)
    assert len(fresh.tokenizer) == before


def test_only_the_tokens_are_trained_of_the_table(fresh):
    from peft import LoraConfig, PrefixTuningConfig

    config = LoraConfig()
    train_tokens(config, fresh.model, [480, 481])
    assert config.trainable_token_indices == {"embed_tokens": [480, 481]}
    config = LoraConfig()
    train_tokens(config, tiny.gpt2(), [480, 481])
    assert config.trainable_token_indices == {"wte": [480, 481]}
    with pytest.raises(FaithgenError, match="lora_modules_to_save"):
        train_tokens(LoraConfig(modules_to_save=["embed_tokens"]), fresh.model, [480])
    with pytest.raises(FaithgenError, match="PrefixTuningConfig cannot train single tokens"):
        train_tokens(PrefixTuningConfig(task_type="CAUSAL_LM"), fresh.model, [480])
