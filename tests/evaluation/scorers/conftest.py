"""Tiny pair classifiers made on the spot: random weights, the shapes and label orders that matter."""

import string

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

_WORDS = """the a of in was is are lit first keeper lighthouse ferry crosses sound twenty minutes ticket costs dogs travel
free tram line built who maren oduya skarnholm 1868 1870 never always again night day storm lamp oil keeps harbour stone
tower predict : . , ? !"""
WORDS = _WORDS.split()
TEXT = (
    "The lighthouse of Skarnholm was first lit in 1868. The keeper was Maren Oduya. The ferry crosses the sound in twenty "
    "minutes. The ticket costs 4. Dogs travel free. The lamp was lit again in 1870. The storm was in the harbour. "
)
CLAIMS = ["The keeper was Maren Oduya.", "Dogs travel free in the storm.", "The tram line was built in 1870."]


def pair_tokenizer(length=64):
    """BERT's family: WordPiece, `[CLS] a [SEP] b [SEP]`."""
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    pieces = [*string.ascii_lowercase, *string.digits]
    vocabulary = [*specials, *WORDS, *pieces, *("##" + piece for piece in pieces)]
    numbers = {word: place for place, word in enumerate(dict.fromkeys(vocabulary))}
    backend = Tokenizer(models.WordPiece(numbers, unk_token="[UNK]", max_input_chars_per_word=100))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", numbers["[CLS]"]), ("[SEP]", numbers["[SEP]"])],
    )
    names = {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "eos_token": "[SEP]",
    }
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=length, **names)


def t5_tokenizer():
    """T5's family: `a </s>`; a vocabulary that reaches the label tokens 3 and 209."""
    words = ["<pad>", "</s>", "<unk>", *WORDS, *string.ascii_lowercase, *string.digits]
    words += [f"filler{number}" for number in range(230)]
    numbers = {word: place for place, word in enumerate(dict.fromkeys(words))}
    backend = Tokenizer(models.WordLevel(numbers, unk_token="<unk>"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=512, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}


def bert(labels, seed=0):
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(pair_tokenizer()),
        max_position_embeddings=128,
        initializer_range=0.6,
        pad_token_id=0,
        id2label=dict(enumerate(labels)),
        label2id={label: place for place, label in enumerate(labels)},
        **SHAPE,
    )
    return BertForSequenceClassification(config).eval()


def reordered(model, order, labels):
    """The same classifier with its outputs in another order."""
    copy = bert(labels)
    copy.load_state_dict(model.state_dict())
    with torch.no_grad():
        copy.classifier.weight.copy_(model.classifier.weight[order])
        copy.classifier.bias.copy_(model.classifier.bias[order])
    return copy


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """A function that writes a model and a tokenizer as a checkpoint folder."""

    def save(model, tokenizer, name):
        folder = tmp_path_factory.mktemp("scorers") / name
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return save


@pytest.fixture(scope="session")
def nli_model():
    return bert(["contradiction", "entailment", "neutral"])


@pytest.fixture(scope="session")
def nli_folder(saved, nli_model):
    return saved(nli_model, pair_tokenizer(), "nli")


@pytest.fixture(scope="session")
def support_model():
    """One output, as a trained support cross-encoder has."""
    return bert(["LABEL_0"], seed=3)


@pytest.fixture(scope="session")
def embedding_folder(saved):
    """A model without a classifier."""
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(pair_tokenizer()), max_position_embeddings=128, pad_token_id=0, **SHAPE)
    return saved(BertModel(config), pair_tokenizer(), "embedding")


@pytest.fixture(scope="session")
def deberta():
    torch.manual_seed(1)
    config = DebertaV2Config(
        vocab_size=len(pair_tokenizer()),
        max_position_embeddings=32,
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
        position_buckets=16,
        type_vocab_size=0,
        initializer_range=0.6,
        pad_token_id=0,
        num_labels=2,
        **SHAPE,
    )
    return DebertaV2ForSequenceClassification(config).eval()


@pytest.fixture(scope="session")
def t5():
    torch.manual_seed(2)
    config = T5Config(
        vocab_size=len(t5_tokenizer()),
        d_model=32,
        d_kv=16,
        d_ff=48,
        num_layers=2,
        num_heads=2,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
        initializer_factor=0.7,
        tie_word_embeddings=False,
    )
    return T5ForConditionalGeneration(config).eval()
