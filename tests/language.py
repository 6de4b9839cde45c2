"""Small texts, tokenizers and networks for text, all made here."""

import functools
import json
import logging
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

LINES = [
    "a warm and funny film",
    "a dull and empty film",
    "the cast is funny and warm",
    "the plot is dull",
    "funny from end to end",
    "empty from end to end and dull",
    "warm",
    "dull",
    "a film of warm and funny people",
    "a film of dull and empty people",
    "the end is warm",
    "the end is empty",
] * 2
"""Sentences of which every other is a good one."""

ENCODERS = {
    "bert": {"num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3},
    "roberta": {"num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3},
    "xlm-roberta": {"num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3},
    "camembert": {"num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3},
    "distilbert": {"n_heads": 2, "dim": 16, "hidden_dim": 24, "n_layers": 3},
    "electra": {
        "num_attention_heads": 2,
        "hidden_size": 16,
        "embedding_size": 8,
        "intermediate_size": 24,
        "num_hidden_layers": 3,
    },
    "albert": {
        "num_attention_heads": 2,
        "hidden_size": 16,
        "embedding_size": 8,
        "intermediate_size": 24,
        "num_hidden_layers": 3,
    },
    "deberta-v2": {"num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3},
    "mpnet": {"num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3},
    "modernbert": {"num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3},
    "roformer": {
        "num_attention_heads": 2,
        "hidden_size": 16,
        "embedding_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 3,
    },
    "layoutlm": {"num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3},
}
"""Kinds of encoders, and what makes them tiny."""

DECODERS = {
    "gpt2": {"n_embd": 16, "n_head": 2, "n_layer": 3},
    "llama": {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "num_hidden_layers": 3,
    },
    "qwen2": {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "num_hidden_layers": 3,
        "tie_word_embeddings": True,
    },
    "opt": {
        "hidden_size": 16,
        "ffn_dim": 24,
        "num_attention_heads": 2,
        "num_hidden_layers": 3,
        "word_embed_proj_dim": 16,
    },
    "gpt_neox": {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_hidden_layers": 3},
    "mistral": {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "num_hidden_layers": 3,
    },
    "bloom": {"hidden_size": 16, "n_head": 2, "n_layer": 3},
}
"""Kinds of decoders, and what makes them tiny."""

TINY = {**ENCODERS, **DECODERS}


@functools.cache
def _trained() -> str:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(LINES, trainers.WordPieceTrainer(vocab_size=60, special_tokens=special))
    ends = [(name, tokenizer.token_to_id(name)) for name in ("[SEP]", "[CLS]")]
    tokenizer.post_processor = processors.BertProcessing(*ends)
    return tokenizer.to_str()


@functools.cache
def _trained_bytes() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(LINES, trainer)
    return tokenizer.to_str()


def bert_like(folder: Path) -> Path:
    """Save a WordPiece tokenizer with BERT's special tokens."""
    names = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    tokenizer = Tokenizer.from_str(_trained())
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", **names).save_pretrained(folder)
    return folder


def gpt_like(folder: Path) -> Path:
    """Save a byte-level BPE tokenizer with GPT-2's only special token."""
    tokenizer = Tokenizer.from_str(_trained_bytes())
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>").save_pretrained(folder)
    return folder


def saved(kind: str, folder: Path, *, tokenizer=bert_like, model=AutoModel, **more) -> Path:
    """Save a tiny network of a kind with its tokenizer, as a hub would have it."""
    tokenizer(folder)
    size = len(PreTrainedTokenizerFast.from_pretrained(folder))
    config = AutoConfig.for_model(kind, vocab_size=size, **TINY[kind], **more)
    torch.manual_seed(0)
    with _silence():
        model.from_config(config).save_pretrained(folder)
    return folder


def _silence():
    logging.getLogger("transformers").setLevel(logging.ERROR)
    return torch.random.fork_rng(devices=[])


def override(config: dict) -> str:
    """Write a mapping as an override has it."""
    return json.dumps(config).replace('"', "").replace(" ", "")
