"""Texts and words as the tokens that a network was trained on."""

from pathlib import Path

import pytest
from language import LINES, bert_like, gpt_like

from frostline.nn.text_input import TextInput
from frostline.nn.transformers import TokenClassifier


def text_input(folder: Path, made) -> TextInput:
    return TokenClassifier(name="bert", pretrained=False, tokenizer=str(made(folder))).input


@pytest.mark.parametrize("made", [gpt_like, bert_like])
def test_words_become_the_tokens_of_their_text(tmp_path: Path, made) -> None:
    spec = text_input(tmp_path, made)
    words, _ = spec.encoded([line.split() for line in LINES], longest=64, words=True)
    texts, _ = spec.encoded(LINES, longest=64)
    assert [each.ids for each in words] == [each.ids for each in texts]
    assert [each.ids for each in texts] == [spec.tokenizer(line).input_ids for line in LINES]


def test_each_token_tells_its_word_and_what_it_spells(tmp_path: Path) -> None:
    spec = text_input(tmp_path, gpt_like)
    sentence = ["a", "warm", "", "castle", "end"]
    (found,), _ = spec.encoded([sentence], longest=64, words=True)
    assert found.word_ids == sorted(found.word_ids)
    assert set(found.word_ids) == {0, 1, 3, 4}
    for place in set(found.word_ids):
        ids = [token for token, word in zip(found.ids, found.word_ids, strict=True) if word == place]
        assert spec.tokenizer.decode(ids) == (f" {sentence[place]}" if place else sentence[place])


def test_words_that_are_cut_are_those_of_the_whole(tmp_path: Path) -> None:
    spec = text_input(tmp_path, gpt_like)
    (whole,), none = spec.encoded([LINES[0].split()], longest=64, words=True)
    (cut,), one = spec.encoded([LINES[0].split()], longest=3, words=True)
    assert (none, one) == (0, 1)
    assert cut.ids == whole.ids[:3]
