"""The text that a network expects: which tokens a text becomes, and how many of them it takes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


@dataclass(frozen=True, kw_only=True, eq=False)
class TextInput:
    """The tokens that a network expects.

    Attributes:
        tokenizer: One of transformers, with a fast backend.
        max_length: Tokens of a text that the network takes, those that the tokenizer adds included.
        fingerprint: What tells this tokenizer from others, a hexadecimal SHA-256.
        causal: Whether each token sees only those before it, so that running text may be cut anywhere.
    """

    tokenizer: Any = field(repr=False)
    max_length: int
    fingerprint: str
    causal: bool = False

    def encoded(self, texts: Sequence[Any], *, longest: int, words: bool = False) -> tuple[list[Any], int]:
        """Return the encoding of each text, cut to `longest` tokens, and how many of them had to be cut.

        Args:
            texts: The texts; each a list of words where `words` says so.
            longest: Tokens that are kept of a text, those that the tokenizer adds included.
            words: Whether the texts are cut into words.
        """
        texts = list(texts)
        encodings = self._encodings(texts, words=words)
        over = [place for place, encoding in enumerate(encodings) if len(encoding.ids) > longest]
        cut = self._encodings([texts[place] for place in over], words=words, truncation=True, max_length=longest)
        for place, encoding in zip(over, cut, strict=True):
            encodings[place] = encoding
        return encodings, len(over)

    def padded(self, ids: Sequence[Any]) -> dict[str, Tensor]:
        """Return `input_ids` and `attention_mask`, int64 of shape (B, L), L the longest of these B."""
        rows = [torch.as_tensor(row, dtype=torch.int64) for row in ids]
        padded = pad_sequence(rows, batch_first=True, padding_value=self.tokenizer.pad_token_id)
        mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        return {"input_ids": padded, "attention_mask": mask}

    def _encodings(self, texts: list[Any], *, words: bool, **cutting: Any) -> list[Any]:
        if not texts:
            return []
        if words:
            texts = [_as_in_running_text(text) for text in texts]
        told = {"is_split_into_words": words, "return_attention_mask": False, "return_token_type_ids": False}
        return list(self.tokenizer(texts, verbose=False, **told, **cutting).encodings)


def _as_in_running_text(words: Sequence[str]) -> list[str]:
    """Give each word the space before it, but the first: to some tokenizers, such as GPT-2's, it is part of a token."""
    return [f" {word}" if place and word else word for place, word in enumerate(words)]
