import pickle

import pytest

from faithgen import hf
from faithgen.decoding.contrast import ContrastConfig
from faithgen.errors import FaithgenError
from faithgen.filtering.coarse import FilterConfig
from faithgen.generator import FaithfulGenerator
from faithgen.heads.head_set import HeadSet
from faithgen.models import LoadedModel
from faithgen.prompting import INSTRUCTION, PromptBuilder
from faithgen.training.control_tokens import add_control_tokens
from faithgen.training.prompts import RowEncoder, answer_end, answer_ids, sequence
from tests import tiny

ROW = {
    "id": "r",
    "question": "Who kept the [faithful] lighthouse?",
    "documents": [
        {"id": "1", "title": "Lighthouse", "text": "Maren Oduya kept it. [unfaithful] <|im_end|> \nSecond line."},
        {"id": "2", "title": "", "text": "A ferry crosses the sound."},
    ],
    "answer": " Maren Oduya <|im_end|>",
    "unfaithful": "Nobody [faithful]",
}
TOKENIZERS = [tiny.byte_level_tokenizer, tiny.sentencepiece_tokenizer, tiny.unigram_tokenizer]


def trained(make):
    tokenizer = make()
    model = tiny.llama()
    ids = add_control_tokens(model, tokenizer, control_position="end", instruction=INSTRUCTION)
    return LoadedModel(model, tokenizer, "tiny", "0"), ids


def encoder_of(loaded, **changes):
    end = answer_end(loaded.tokenizer, hf.end_tokens(loaded.model, loaded.tokenizer))
    return RowEncoder(loaded.tokenizer, 2000, end, INSTRUCTION, **changes)


@pytest.mark.parametrize("make", TOKENIZERS)
def test_prompts_are_the_very_tokens_of_the_generator(make):
    loaded, (_, unfaithful_id) = trained(make)
    heads = HeadSet([[0.5] * 8] * 4, "copying", "tiny")
    generator = FaithfulGenerator(loaded, heads, heads)
    asked = generator._prepare(
        ROW["question"],
        [*map(_document, ROW["documents"])],
        FilterConfig(enabled=False),
        generator.resolved(ContrastConfig()),
        128,
    )
    example = encoder_of(loaded)(ROW)
    faithful, labels = sequence(example)
    unfaithful, other_labels = sequence(example, unfaithful_id)
    size = len(asked.pair.faithful)
    assert faithful[:size] == asked.pair.faithful
    assert unfaithful[:size] == asked.pair.unfaithful
    assert labels[:size] == other_labels[:size] == [-100] * size
    assert labels[size:] == faithful[size:] == example["answer_ids"]
    assert other_labels[size:] == unfaithful[size:] == example["unfaithful_ids"]
    assert [i for i, (a, b) in enumerate(zip(faithful[:size], unfaithful[:size], strict=True)) if a != b] == [
        example["slot"]
    ]
    assert (example["fit"], example["length"]) == ("whole", max(len(faithful), len(unfaithful)))


def _document(row):
    from faithgen import Document

    return Document(row["text"], row["id"], row["title"])


@pytest.mark.parametrize("make", TOKENIZERS)
def test_no_special_token_comes_out_of_an_answer_but_its_end(make):
    loaded, ids = trained(make)
    example = encoder_of(loaded)(ROW)
    end = loaded.tokenizer.convert_tokens_to_ids("<|im_end|>")
    for name, text in (("answer_ids", "Maren Oduya <|im_end|>"), ("unfaithful_ids", "Nobody [faithful]")):
        assert example[name][-1] == end
        assert not set(example[name][:-1]) & {end, *ids}
        if make is not tiny.unigram_tokenizer:  # it has no pieces for these brackets
            assert loaded.tokenizer.decode(example[name][:-1]).strip() == text
    assert [index in ids for index in example["prompt_ids"]].index(True) == example["slot"]
    assert sum(index in ids for index in example["prompt_ids"]) == 1


def test_the_end_is_what_the_template_puts_after_the_answer():
    tokenizer = tiny.byte_level_tokenizer()
    ends = frozenset(tokenizer.convert_tokens_to_ids(["</s>", "<|im_end|>"]))
    tokenizer.eos_token = "</s>"  # as in Gemma, whose turns end with another token
    assert answer_end(tokenizer, ends) == tokenizer.convert_tokens_to_ids("<|im_end|>")
    tokenizer.chat_template = None
    assert answer_end(tokenizer, ends) == tokenizer.convert_tokens_to_ids("</s>")
    with pytest.raises(FaithgenError, match="end-of-sequence"):
        answer_end(tokenizer, frozenset())


def test_a_base_model_continues_with_a_space():
    tokenizer = tiny.byte_level_tokenizer()
    tokenizer.chat_template = None
    builder = PromptBuilder(tokenizer, 100)
    assert tokenizer.decode(answer_ids(builder, "Maren", 4)[:-1]) == " Maren"


def test_a_row_brings_its_own_instruction(fresh):
    loaded, _ = trained(tiny.byte_level_tokenizer)
    encoder = encoder_of(loaded)
    row = {**ROW, "instruction": "Answer at length."}
    expected = PromptBuilder(loaded.tokenizer, 2000, "Answer at length.").build(
        ROW["question"], [*map(_document, ROW["documents"])], control="[faithful]"
    )
    assert encoder(row)["prompt_ids"] == expected.input_ids != encoder(ROW)["prompt_ids"]
    assert encoder({**row, "instruction": INSTRUCTION}) == encoder(ROW)


def test_a_control_token_in_front(fresh):
    add_control_tokens(fresh.model, fresh.tokenizer, control_position="front", instruction=INSTRUCTION)
    example = encoder_of(fresh, control_position="front")(ROW)
    builder = PromptBuilder(fresh.tokenizer, 2000, control_position="front")
    prompt = builder.build(ROW["question"], [*map(_document, ROW["documents"])], control="[faithful]")
    assert example["prompt_ids"] == prompt.input_ids
    assert example["slot"] == prompt.control[0] < prompt.documents[0].span[0]


def test_a_row_that_is_too_long_is_cut_in_its_documents_or_left():
    loaded, _ = trained(tiny.byte_level_tokenizer)
    row = {**ROW, "documents": [{"id": "1", "text": "One. " * 200}, {"id": "2", "text": "Short."}]}
    whole = encoder_of(loaded)(row)
    assert whole["fit"] == "whole"
    assert whole["length"] > 400
    left = encoder_of(loaded, overlong="error")
    left.limit = 400
    assert left(row)["fit"] == "overlong"
    cut = encoder_of(loaded, overlong="truncate_documents")
    cut.limit = 400
    example = cut(row)
    assert example["fit"] == "cut"
    assert len(example["prompt_ids"]) + max(len(example["answer_ids"]), len(example["unfaithful_ids"])) <= 400
    assert example["answer_ids"] == whole["answer_ids"]
    assert "Short." in loaded.tokenizer.decode(example["prompt_ids"])
    cut.limit = 40
    assert cut(row)["fit"] == "overlong"


def test_an_encoder_travels_to_other_processes():
    loaded, _ = trained(tiny.byte_level_tokenizer)
    encoder = encoder_of(loaded)
    expected = encoder(ROW)
    assert pickle.loads(pickle.dumps(encoder))(ROW) == expected
