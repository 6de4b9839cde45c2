"""Running text: every token is in a block or counted, whatever its size and whoever else writes at the same time."""

import json
import multiprocessing
import pickle
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from language import LINES, bert_like, gpt_like

from frostline.data import corpus, token_file
from frostline.data.blocks import Unit, running, sentences
from frostline.data.corpus import Corpus
from frostline.errors import DataError, RequestError
from frostline.nn.text_input import TextInput
from frostline.nn.transformers import CausalLanguageModel, MaskedLanguageModel


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def masked(tmp_path: Path) -> TextInput:
    return MaskedLanguageModel(name="bert", pretrained=False, tokenizer=str(bert_like(tmp_path / "bert"))).input


@pytest.fixture
def causal(tmp_path: Path) -> TextInput:
    return CausalLanguageModel(name="gpt2", pretrained=False, tokenizer=str(gpt_like(tmp_path / "gpt"))).input


def blocks_of(data: Corpus, spec: TextInput, split: str = "train") -> list[list[int]]:
    data.check()
    data.expect(spec)
    examples = data.source().splits[split]
    return [examples.content[row].tolist() for row in examples.rows]


def test_blocks_of_an_encoder_hold_whole_lines_with_a_separator_between_documents() -> None:
    lines = [Unit([5, 6], True), Unit([7], False), Unit([8, 9], True), Unit([10], False), Unit([11] * 9, False)]
    counts = Counter[str]()
    found = [block.tolist() for block in sentences(lines, counts, longest=8, first=1, last=2)]
    assert found == [[1, 5, 6, 7, 2, 8, 9, 2], [1, 10, 2], [1, *[11] * 6, 2], [1, *[11] * 3, 2]]
    assert counts["cut"] == 1


def test_blocks_of_a_decoder_are_the_documents_one_after_the_other() -> None:
    documents = [[5, 6], [7, 8, 9], [10]]
    counts = Counter[str]()
    found = list(running([Unit(ids, True) for ids in documents], counts, longest=4, last=2))
    assert [block.tolist() for block in found] == [[5, 6, 2, 7], [8, 9, 2, 10]]
    assert counts["tokens_left_out"] == 1  # a separator that stands alone predicts nothing


def test_no_token_of_a_text_is_lost_for_an_encoder(tmp_path: Path, masked: TextInput) -> None:
    file = tmp_path / "a.txt"
    file.write_text("\n".join(LINES[:5]) + "\n\n" + "\r\n".join(LINES[5:]) + "\n\n\n")
    blocks = blocks_of(Corpus(seed=0, train=str(file), max_length=16), masked)
    assert max(map(len, blocks)) <= 16
    assert all((block[0], block[-1]) == (2, 3) for block in blocks)
    kept = [token for block in blocks for token in block if token not in (2, 3)]
    assert kept == [t for line in LINES for t in masked.tokenizer(line, add_special_tokens=False)["input_ids"]]


def test_no_token_of_a_text_is_lost_for_a_decoder(tmp_path: Path, causal: TextInput) -> None:
    file = tmp_path / "a.txt"
    file.write_text("\n".join(LINES[:5]) + "\n\n" + "\n".join(LINES[5:]))
    blocks = blocks_of(Corpus(seed=0, train=str(file), max_length=16), causal)
    assert {len(block) for block in blocks[:-1]} == {16}
    tokens = [token for block in blocks for token in block]
    assert causal.tokenizer.decode(tokens) == (
        "\n".join(LINES[:5]) + "\n<|endoftext|>" + "\n".join(LINES[5:]) + "<|endoftext|>"
    )


def test_rows_of_a_table_are_documents_without_their_labels(tmp_path: Path, causal: TextInput) -> None:
    file = tmp_path / "a.tsv"
    file.write_text("".join(f"{line}\t1\n" for line in LINES[:3]))
    (block,) = blocks_of(Corpus(seed=0, train=str(file), max_length=512), causal)
    assert causal.tokenizer.decode(block) == "".join(f"{line}<|endoftext|>" for line in LINES[:3])


def test_a_line_is_read_in_pieces_that_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.txt"
    content = "wärm " * 30 + "ö" * 100 + "\n" + "dull\n"
    file.write_text(content)
    monkeypatch.setattr(corpus, "_READ", 64)
    pieces = list(corpus._pieces(file))
    assert "".join(pieces) == content
    assert max(len(piece.encode()) for piece in pieces) < 130


def test_memory_does_not_grow_with_the_text(tmp_path: Path, masked: TextInput) -> None:
    file = tmp_path / "large.txt"
    file.write_text("".join(f"{LINES[n % 12]} {LINES[n % 7]}\n" for n in range(200_000)))
    assert file.stat().st_size > 7_000_000
    data = Corpus(seed=0, train=str(file), max_length=512)
    data.expect(masked)
    tracemalloc.start()
    data.check()
    blocks = len(data.source().splits["train"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert blocks > 3_000
    assert peak < 6_000_000, peak


def test_tokens_are_written_once_and_again_for_other_text_lengths_and_tokenizers(
    tmp_path: Path, masked: TextInput, causal: TextInput
) -> None:
    file, folder = tmp_path / "a.txt", token_file.cache_folder()
    file.write_text("\n".join(LINES))

    def kept(spec: TextInput, length: int, path: Path = file) -> int:
        blocks_of(Corpus(seed=0, train=str(path), max_length=length), spec)
        return len(list(folder.iterdir()))

    assert [kept(masked, 16), kept(masked, 16), kept(masked, 12), kept(causal, 12)] == [1, 1, 2, 3]
    copied = tmp_path / "b.txt"
    copied.write_text(file.read_text())
    assert kept(masked, 16, copied) == 3
    copied.write_text(file.read_text() + "\nmore")
    assert kept(masked, 16, copied) == 4


def _write(name: str, number: int) -> list[int]:
    blocks = (np.array([number]) for number in range(500))
    return [
        int(block[0]) for block in (token_file.token_file(name, lambda: blocks, dict, largest=600),) for block in block
    ]


def test_processes_that_write_at_once_find_the_same_blocks() -> None:
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        found = pool.starmap(_write, [("same", number) for number in range(3)])
    assert found == [list(range(500))] * 3
    assert [path.name for path in token_file.cache_folder().iterdir()] == ["same"]


def test_blocks_that_were_not_all_written_are_not_there() -> None:
    def broken():
        yield np.array([1, 2])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        token_file.token_file("cut", broken, dict, largest=9)
    assert list(token_file.cache_folder().iterdir()) == []
    whole = token_file.token_file("cut", lambda: [np.array([1, 2]), np.array([3])], dict, largest=2**16)
    assert [whole[0].tolist(), whole[1].tolist()] == [[1, 2], [3]]
    assert whole.about["type"] == "uint32"
    assert pickle.loads(pickle.dumps(whole))[1].tolist() == [3]


def test_splits_are_carved_by_block_and_batches_padded(tmp_path: Path, masked: TextInput) -> None:
    file = tmp_path / "a.txt"
    file.write_text("\n".join(f"{line} {n}" for n, line in enumerate(LINES * 4)))
    data = Corpus(seed=0, train=str(file), max_length=16, batch_size=8)
    data.check()
    data.expect(masked)
    data.setup()
    counts = {split: len(data.drawn(split)) for split in ("train", "val", "test")}
    assert (
        sum(counts.values())
        == data.describe()["text"]["train"]["blocks"] - data.describe()["duplicates_removed"]["train"]
    )
    assert data.class_names == []
    batch = next(iter(data.train_dataloader()))
    assert batch.inputs["input_ids"].shape == batch.inputs["attention_mask"].shape
    assert json.dumps(data.describe())


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "data.train={}: is empty; choose another"),
        (b"warm\n\ndull\xff\n", "data.train={}: line 3 is not UTF-8; save the file as UTF-8"),
    ],
)
def test_files_are_looked_at_before_the_network_exists(content: bytes, sentence: str, tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(content)
    with pytest.raises(DataError) as caught:
        Corpus(seed=0, train=str(file)).check()
    assert str(caught.value) == sentence.format(file)


def test_a_text_of_nothing_and_a_tokenizer_without_ends_are_refused(
    tmp_path: Path, masked: TextInput, causal: TextInput
) -> None:
    file = tmp_path / "a.txt"
    file.write_text("\n \n")
    with pytest.raises(DataError, match=r"^data.train: holds no text of more than one token; choose another file$"):
        blocks_of(Corpus(seed=0, train=str(file)), masked)
    file.write_text("warm\n")
    causal.tokenizer.eos_token = None
    with pytest.raises(RequestError, match=r"^model.tokenizer: a corpus needs an eos_token, and this tokenizer has"):
        blocks_of(Corpus(seed=0, train=str(file)), causal)
