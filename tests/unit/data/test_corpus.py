"""Running text: every token is in a block or counted, whatever its size and whoever else writes at the same time."""

import gzip
import json
import multiprocessing
import os
import pickle
import re
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from language import LINES, bert_like, gpt_like

from frostline.data import corpus, token_file
from frostline.data.blocks import Unit, running, sentences
from frostline.data.corpus import Corpus
from frostline.data.documents import Line, digests_of, shares
from frostline.data.whole import cache_folder
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


@pytest.fixture
def others(tmp_path: Path) -> dict[str, str]:
    """Texts of val and test, so that nothing is carved."""
    for name in ("val", "test"):
        (tmp_path / f"{name}.txt").write_text(f"{name} is warm\n")
    return {name: str(tmp_path / f"{name}.txt") for name in ("val", "test")}


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


def test_no_token_of_a_text_is_lost_for_an_encoder(tmp_path: Path, masked: TextInput, others: dict[str, str]) -> None:
    file = tmp_path / "a.txt"
    file.write_text("\n".join(LINES[:5]) + "\n\n" + "\r\n".join(LINES[5:]) + "\n\n\n")
    blocks = blocks_of(Corpus(seed=0, train=str(file), max_length=16, **others), masked)
    assert max(map(len, blocks)) <= 16
    assert all((block[0], block[-1]) == (2, 3) for block in blocks)
    kept = [token for block in blocks for token in block if token not in (2, 3)]
    assert kept == [t for line in LINES for t in masked.tokenizer(line, add_special_tokens=False)["input_ids"]]


def test_no_token_of_a_text_is_lost_for_a_decoder(tmp_path: Path, causal: TextInput, others: dict[str, str]) -> None:
    file = tmp_path / "a.txt"
    file.write_text("\n".join(LINES[:5]) + "\n\n" + "\n".join(LINES[5:]))
    blocks = blocks_of(Corpus(seed=0, train=str(file), max_length=16, **others), causal)
    assert {len(block) for block in blocks[:-1]} == {16}
    tokens = [token for block in blocks for token in block]
    assert causal.tokenizer.decode(tokens) == (
        "\n".join(LINES[:5]) + "\n<|endoftext|>" + "\n".join(LINES[5:]) + "<|endoftext|>"
    )


def test_rows_of_a_table_are_documents_without_their_labels(
    tmp_path: Path, causal: TextInput, others: dict[str, str]
) -> None:
    file = tmp_path / "a.tsv"
    file.write_text("".join(f"{line}\t1\n" for line in LINES[:3]))
    (block,) = blocks_of(Corpus(seed=0, train=str(file), max_length=512, **others), causal)
    assert causal.tokenizer.decode(block) == "".join(f"{line}<|endoftext|>" for line in LINES[:3])


def test_rows_without_text_are_left_out_and_counted_where_their_file_is(tmp_path: Path, causal: TextInput) -> None:
    for name, texts in {"train": [*map(numbered, range(12)), None, "", " \n"], "val": [numbered(20), None]}.items():
        rows = (json.dumps({"text": text if text is None else text.replace("\n", " ")}) for text in texts)
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
    data = drawn(causal, train=str(tmp_path / "train.jsonl"), val=str(tmp_path / "val.jsonl"))
    about = data.describe()["text"]
    assert {split: each["without_text"] for split, each in about.items()} == {"train": 3, "val": 1, "test": 0}
    assert {split: each["documents"] for split, each in about.items()} == {"train": 10, "val": 1, "test": 2}
    assert data.remarks() == ["data: left out 4 rows without text"]


@pytest.mark.parametrize("cell", ["0", "7", '["warm"]'])
def test_a_row_that_holds_no_text_but_something_else_is_refused(
    cell: str, tmp_path: Path, causal: TextInput, others: dict[str, str]
) -> None:
    (tmp_path / "a.jsonl").write_text(f'{{"text": "warm"}}\n{{"text": {cell}}}\n')
    with pytest.raises(DataError) as caught:
        blocks_of(Corpus(seed=0, train=str(tmp_path / "a.jsonl"), **others), causal)
    said = cell.replace('"', "'")
    assert str(caught.value) == f"data.train: a.jsonl:2 has no text, but {said}; choose another data.text"


def test_a_line_is_read_in_pieces_that_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.txt"
    content = "wärm " * 30 + "ö" * 100 + "\n" + "dull\n"
    file.write_text(content)
    monkeypatch.setattr(corpus, "_READ", 64)
    pieces = list(corpus._pieces(file))
    assert "".join(pieces) == content
    assert max(len(piece.encode()) for piece in pieces) < 130


@pytest.mark.slow
def test_memory_does_not_grow_with_the_text(tmp_path: Path, masked: TextInput) -> None:
    file = tmp_path / "large.txt"
    # a document of 40 lines, numbered so that none stands there twice
    file.write_text("".join(f"{LINES[n % 12]} {LINES[n % 7]} {n}\n" + "\n" * (n % 40 == 0) for n in range(120_000)))
    assert file.stat().st_size > 5_000_000
    data = Corpus(seed=0, train=str(file), max_length=512)
    data.expect(masked)
    tracemalloc.start()
    data.check()
    blocks = sum(map(len, data.source().splits.values()))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert blocks > 2_500
    assert peak < 4_500_000, peak


def test_tokens_are_written_once_and_again_for_other_text_lengths_and_tokenizers(
    tmp_path: Path, masked: TextInput, causal: TextInput
) -> None:
    file, folder = tmp_path / "a.txt", cache_folder()
    file.write_text("\n\n".join(LINES))

    def kept(spec: TextInput, length: int, path: Path = file) -> int:
        blocks_of(Corpus(seed=0, train=str(path), max_length=length), spec)
        return len(list(folder.iterdir())) // 3  # train, val and test

    assert [kept(masked, 16), kept(masked, 16), kept(masked, 12), kept(causal, 12)] == [1, 1, 2, 3]
    copied = tmp_path / "b.txt"
    copied.write_text(file.read_text())
    assert kept(masked, 16, copied) == 3
    copied.write_text(file.read_text() + "\n\nmore")
    assert kept(masked, 16, copied) == 4


def test_text_is_never_that_of_another_folder(
    tmp_path: Path, causal: TextInput, others: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for folder, text in (("one", "warm"), ("other", "dull")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.txt").write_text(text)
        os.utime(tmp_path / folder / "a.txt", (1, 1))
        monkeypatch.chdir(tmp_path / folder)
        (block,) = blocks_of(Corpus(seed=0, train="a.txt", max_length=16, **others), causal)
        found.append(causal.tokenizer.decode(block))
    assert found == ["warm<|endoftext|>", "dull<|endoftext|>"]


def _write(name: str, number: int) -> list[int]:
    blocks = (np.array([number]) for number in range(500))
    return [
        int(block[0]) for block in (token_file.token_file(name, lambda: blocks, dict, largest=600),) for block in block
    ]


@pytest.mark.slow
def test_processes_that_write_at_once_find_the_same_blocks() -> None:
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        found = pool.starmap(_write, [("same", number) for number in range(3)])
    assert found == [list(range(500))] * 3
    assert [path.name for path in cache_folder().iterdir()] == ["same"]


def test_blocks_that_were_not_all_written_are_not_there() -> None:
    def broken():
        yield np.array([1, 2])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        token_file.token_file("cut", broken, dict, largest=9)
    assert list(cache_folder().iterdir()) == []
    whole = token_file.token_file("cut", lambda: [np.array([1, 2]), np.array([3])], dict, largest=2**16)
    assert [whole[0].tolist(), whole[1].tolist()] == [[1, 2], [3]]
    assert whole.about["type"] == "uint32"
    assert pickle.loads(pickle.dumps(whole))[1].tolist() == [3]


def numbered(*numbers: int) -> str:
    """Documents of several blocks each, with a number in every line."""
    return "\n\n".join("\n".join(f"{line} <{n}> " for line in LINES[:6]) for n in numbers)


def drawn(spec: TextInput, **options: object) -> Corpus:
    data = Corpus(seed=0, max_length=16, batch_size=8, **options)
    data.check()
    data.expect(spec)
    data.setup()
    return data


def documents(data: Corpus) -> dict[str, list[int]]:
    """Return the numbers that stand in each split, one for each of its six lines."""
    found = {}
    for split, examples in data.source().splits.items():
        blocks = [examples.content[row] for row in examples.rows]
        found[split] = [int(n) for n in re.findall(r"<(\d+)>", data.spec.tokenizer.decode(np.concatenate(blocks)))]
    return found


def test_a_document_is_whole_in_one_split(tmp_path: Path, causal: TextInput) -> None:
    (tmp_path / "a.txt").write_text(numbered(*range(12)))
    (tmp_path / "b.txt").write_text(numbered(*range(12, 20)))
    data = drawn(causal, train=str(tmp_path / "[ab].txt"))
    found = documents(data)
    assert sorted(n for numbers in found.values() for n in numbers) == sorted([*range(20)] * 6)
    assert {split: len(set(numbers)) for split, numbers in found.items()} == {"train": 14, "val": 3, "test": 3}
    assert len(set.union(*map(set, found.values()))) == 20
    told = data.describe()
    assert {split: about["documents"] for split, about in told["text"].items()} == {"train": 14, "val": 3, "test": 3}
    assert json.dumps(told)
    assert data.class_names == []


def test_which_documents_are_carved_follows_content_and_split_seed_alone(tmp_path: Path, causal: TextInput) -> None:
    one, other = tmp_path / "one.txt", tmp_path / "other.txt"
    one.write_text(numbered(*range(20)))
    other.write_text(numbered(*range(19, -1, -1)))
    carved = [
        {split: set(numbers) for split, numbers in documents(drawn(causal, train=str(file), split_seed=seed)).items()}
        for file, seed in ((one, 0), (other, 0), (one, 1))
    ]
    assert carved[0] == carved[1]
    assert carved[0] != carved[2]


def test_a_document_of_two_splits_stays_in_the_one_that_cannot_spare_it_and_is_counted(
    tmp_path: Path, causal: TextInput
) -> None:
    (tmp_path / "train.txt").write_text(numbered(0, 1, 2, 2, 3))
    (tmp_path / "val.jsonl").write_text(
        "".join(json.dumps({"text": numbered(n).replace("\n", " ")}) + "\n" for n in (3, 4, 4, 5))
    )
    (tmp_path / "test.txt").write_text(numbered(5, 6, 1).replace("\n\n", "\r\n \r\n"))
    data = drawn(causal, **{name: str(next(tmp_path.glob(f"{name}.*"))) for name in ("train", "val", "test")})
    found = {split: sorted(set(numbers)) for split, numbers in documents(data).items()}
    assert found == {"train": [0, 2], "val": [3, 4], "test": [1, 5, 6]}
    told = {split: about["duplicate_documents"] for split, about in data.describe()["text"].items()}
    assert told == {"train": 3, "val": 1, "test": 0}
    assert data.remarks() == ["data: left out 4 documents found in another split too, or twice in train"]


def test_a_split_without_a_document_of_its_own_is_refused(tmp_path: Path, causal: TextInput) -> None:
    file = tmp_path / "a.txt"
    file.write_text(numbered(0))
    with pytest.raises(DataError) as caught:
        drawn(causal, train=str(file))
    assert str(caught.value) == (
        "data.train: of 1 document none is left for test, and none is cut in two; "
        "put an empty line between documents, or name data.test and data.val"
    )
    with pytest.raises(DataError) as caught:
        drawn(causal, train=str(file), val=str(file), test=str(file))
    assert str(caught.value) == "data.val: every document of it stands in test too; add others"


def test_digests_of_documents_take_sixteen_bytes_each() -> None:
    lines = [Line(f"{n}", n % 2 == 0) for n in range(2_000)]
    digests = digests_of(lines)
    assert (len(digests), digests.nbytes) == (1_000, 16_000)
    found = shares({"train": digests}, fractions={"test": 0.1, "val": 0.2}, seed=0)
    assert {split: int(share.chosen.sum()) for split, share in found.items()} == {"train": 700, "test": 100, "val": 200}
    assert sum(share.chosen.astype(int) for share in found.values()).tolist() == [1] * 1_000
    kept = [line.text for line in found["val"].lines(lines)]
    assert len(kept) == 400
    assert all(int(kept[n + 1]) == int(kept[n]) + 1 for n in range(0, 400, 2))


def test_batches_are_padded(tmp_path: Path, masked: TextInput, others: dict[str, str]) -> None:
    (tmp_path / "a.txt").write_text("\n".join(LINES))
    batch = next(iter(drawn(masked, train=str(tmp_path / "a.txt"), **others).train_dataloader()))
    assert batch.inputs["input_ids"].shape == batch.inputs["attention_mask"].shape


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "data.train={}: is empty; choose another"),
        (b" \n\t\r\n" * 9, "data.train={}: holds white space alone; choose another"),
        (b"\xef\xbb\xbf\r\n", "data.train={}: holds white space alone; choose another"),
        (b"warm\n\ndull\xff\n", "data.train={}: line 3 is not UTF-8; save the file as UTF-8"),
    ],
)
def test_files_are_looked_at_before_the_network_exists(content: bytes, sentence: str, tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(content)
    with pytest.raises(DataError) as caught:
        Corpus(seed=0, train=str(file)).check()
    assert str(caught.value) == sentence.format(file)


def test_a_compressed_file_is_told_from_one_that_is_not_utf_8(tmp_path: Path) -> None:
    file = tmp_path / "a.txt.gz"
    file.write_bytes(gzip.compress(b"warm"))
    with pytest.raises(DataError, match=rf"^data.train={file}: compressed files are not read; unpack it$"):
        Corpus(seed=0, train=str(file)).check()


def test_a_mark_of_byte_order_is_one_at_the_beginning_of_a_file_alone(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes("\ufeffwarm\n\ufeffdull\n".encode())
    assert list(corpus._pieces(file)) == ["warm\n", "\ufeffdull\n"]
    file.write_bytes("é\n".encode())
    assert list(corpus._pieces(file)) == ["é\n"]


def test_a_carved_split_without_tokens_names_what_carved_it() -> None:
    nothing = token_file.token_file("nothing", lambda: [], dict, largest=9)
    with pytest.raises(DataError, match=r"^data.val: holds no text of more than one token; choose another file$"):
        corpus._examples("val", nothing, carved=False)
    with pytest.raises(DataError) as caught:
        corpus._examples("val", nothing, carved=True)
    assert str(caught.value) == (
        "data.val_fraction: what was carved from train for val holds no text of more than one token; raise it, choose "
        "another data.split_seed, or name data.val"
    )


def test_a_cache_that_cannot_be_written_is_named_with_the_way_out(
    tmp_path: Path, masked: TextInput, others: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_text("warm\n")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a.txt"))
    with pytest.raises(DataError) as caught:
        blocks_of(Corpus(seed=0, train=str(tmp_path / "a.txt"), **others), masked)
    assert str(caught.value) == (
        f"data: no place for its tokens: {tmp_path}/a.txt/frostline cannot be written to (Not a directory); set the "
        "environment variable XDG_CACHE_HOME to a folder that has room and is yours"
    )


def test_one_line_is_told_as_one(tmp_path: Path, causal: TextInput, others: dict[str, str]) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "warm and dull"}\n{"text": null}\n')
    assert drawn(causal, train=str(tmp_path / "a.jsonl"), **others).remarks() == ["data: left out 1 row without text"]


def test_a_text_of_nothing_and_a_tokenizer_without_ends_are_refused(
    tmp_path: Path, masked: TextInput, causal: TextInput, others: dict[str, str]
) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": null}\n')
    with pytest.raises(DataError, match=r"^data.train: holds no text of more than one token; choose another file$"):
        blocks_of(Corpus(seed=0, train=str(file)), masked)
    file = tmp_path / "a.txt"
    file.write_text("warm\n")
    causal.tokenizer.eos_token = None
    with pytest.raises(RequestError, match=r"^model.tokenizer: a corpus needs an eos_token, and this tokenizer has"):
        blocks_of(Corpus(seed=0, train=str(file)), causal)
