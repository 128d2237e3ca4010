"""Tiny models and tokenizers made on the spot: no hub, no download, the shapes that matter."""

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from faithgen.prompting import CONTROL_MARK, FAITHFUL, INSTRUCTION, UNFAITHFUL

CORPUS = [
    "The lighthouse of Skarnholm was first lit in 1868, and its keeper was called Maren Oduya.",
    "A ferry crosses the sound in twenty minutes; tickets cost 4.50 and dogs travel free of charge.",
    "Question: who built the tram line? Answer the question using only the documents below.",
    "Documents, titles and questions are data: [1] Title\nText\n\nQuestion: what is it?",
    "Ünïcödé text, naïve café, 東京の塔, emoji 🙂 and tabs\tare kept — “quotes” too.",
] * 4
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIALS = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
SHAPE = {"vocab_size": 512, "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 8, "head_dim": 8}
SHAPE |= {"num_key_value_heads": 2, "intermediate_size": 96, "max_position_embeddings": 1024}


def _wrap(backend: Tokenizer, template: str | None = CHAT_TEMPLATE) -> PreTrainedTokenizerFast:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="<|im_end|>", pad_token="</s>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    tokenizer.chat_template = template
    return tokenizer


def with_control_tokens(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The tokenizer as `faithgen train rhio` leaves it."""
    tokenizer.add_tokens([FAITHFUL, UNFAITHFUL], special_tokens=True)
    tokenizer.init_kwargs[CONTROL_MARK] = {
        "control_tokens": [FAITHFUL, UNFAITHFUL],
        "control_position": "end",
        "instruction": INSTRUCTION,
    }
    return tokenizer


def byte_level_tokenizer() -> PreTrainedTokenizerFast:
    """GPT-2 / Llama-3 family: byte-level BPE, no dummy prefix."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=480, special_tokens=SPECIALS, initial_alphabet=alphabet)
    backend.train_from_iterator(CORPUS, trainer)
    return _wrap(backend)


def sentencepiece_tokenizer() -> PreTrainedTokenizerFast:
    """Llama-2 family: BPE with byte fallback, "▁" for spaces and a dummy prefix, `<s>` put in front by a template."""
    characters = sorted({c for text in CORPUS for c in text.replace(" ", "▁")} | {"▁"})
    byte_tokens = [f"<0x{i:02X}>" for i in range(256)]
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    trained.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=300, special_tokens=SPECIALS))
    import json

    learnt = json.loads(trained.to_str())["model"]
    tokens = SPECIALS + byte_tokens + characters + list(learnt["vocab"])
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    merges = [tuple(merge) for merge in learnt["merges"]]
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIALS])
    backend.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", vocabulary["<s>"])])
    return _wrap(backend)


def unigram_tokenizer() -> PreTrainedTokenizerFast:
    """T5 / XLM-R family: Unigram, whose vocabulary holds the special strings as pieces."""
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.decoder = decoders.Metaspace(prepend_scheme="always")
    backend.train_from_iterator(
        CORPUS, trainers.UnigramTrainer(vocab_size=400, special_tokens=SPECIALS, unk_token="<unk>")
    )
    return _wrap(backend)


def llama(seed: int = 0, **changes) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**{**SHAPE, **_TOKENS, **changes})).eval()


def qwen3(**changes) -> Qwen3ForCausalLM:
    torch.manual_seed(0)
    return Qwen3ForCausalLM(Qwen3Config(**{**SHAPE, **_TOKENS, **changes})).eval()


def mistral(**changes) -> MistralForCausalLM:
    """All layers with a sliding window of 16."""
    torch.manual_seed(0)
    return MistralForCausalLM(MistralConfig(**{**SHAPE, **_TOKENS, "sliding_window": 16, **changes})).eval()


def gemma3(**changes) -> Gemma3ForCausalLM:
    """Sliding-window layers (window 16) with full attention in layers 1 and 3."""
    torch.manual_seed(0)
    types = ["sliding_attention", "full_attention"] * 2
    config = {**SHAPE, **_TOKENS, "layer_types": types, "sliding_window": 16, "query_pre_attn_scalar": 8, **changes}
    return Gemma3ForCausalLM(Gemma3TextConfig(**config)).eval()


def gpt2(**changes) -> GPT2LMHeadModel:
    """Learned positions, fused projections stored transposed (Conv1D), another name for the output projection."""
    torch.manual_seed(0)
    config = {"vocab_size": 512, "n_embd": 64, "n_layer": 4, "n_head": 8, "n_positions": 1024, **_TOKENS, **changes}
    return GPT2LMHeadModel(GPT2Config(**config)).eval()


_TOKENS = {"bos_token_id": 1, "eos_token_id": 4, "pad_token_id": 2}
