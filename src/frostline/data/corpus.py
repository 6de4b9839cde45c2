"""Running text of any size, for language models: read once as a stream, then cut into blocks of tokens."""

import codecs
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from frostline.batch import Batch
from frostline.data.blocks import Block, Unit, running, sentences
from frostline.data.documents import Line, Share, digests_of, shares
from frostline.data.examples import Examples, Source
from frostline.data.split import Split
from frostline.data.splitted import SPLITS
from frostline.data.table import Column, files_of, read_rows
from frostline.data.text import TEXT
from frostline.data.token_file import TokenFile, token_file
from frostline.data.token_split import TokenData
from frostline.errors import DataError, RequestError, counted
from frostline.nn.text_input import TextInput

Files = tuple[tuple[str, tuple[tuple[Path, str], ...]], ...]
"""Of each split its files, each with a hash of its content."""
TABLES = (".csv", ".tsv", ".jsonl", ".parquet")
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".zip", ".7z")
_READ = 1 << 20
"""Bytes that are read at once; a longer line is taken in pieces."""
_ENCODED = 1 << 17
"""Characters that are cut into tokens at once."""


@dataclass(kw_only=True, eq=False, repr=False)
class Corpus(TokenData):
    """Running text, cut into blocks of `max_length` tokens which are its examples.

    A document ends at an empty line and at the end of a file; of tables (.csv, .tsv, .jsonl, .parquet) each row is one,
    and those without text are left out and counted in `data.json`.
    Documents are whole in one split: what lacks is carved from those of train, and one that stands in two splits, or
    twice in train, is left out of the one that can spare it, and counted in `data.json`. For encoders, blocks are
    packed with whole lines, across documents, with the tokenizer's separator between these (FULL-SENTENCES of RoBERTa,
    arXiv:1907.11692, section 4.2); a line longer than a block is cut. For decoders documents follow one another, each
    with the end-of-text token behind it, and are cut anywhere. Tokens are kept below the user's cache folder; memory
    grows with the number of documents, a hash of 16 bytes each, and of blocks, some hundred bytes each, but not with
    the text.

    Attributes:
        train: The training text, or a pattern for several files; what lacks is carved from its documents.
        val: The validation text.
        test: The test text.
        text: The texts' column in tables: a name, or a position from 0; null for `text` or `sentence`, or the first.
    """

    tasks: ClassVar[tuple[str, ...]] = ("masked_lm", "causal_lm")

    train: str
    val: str | None = None
    test: str | None = None
    text: str | int | None = None

    def check(self) -> None:
        """Read the files once, without the tokenizer that only the network brings.

        Raises:
            DataError: A file is missing, empty, or not UTF-8.
        """
        self._files()

    def source(self) -> Source:
        """Return the blocks of the files, which need the network's tokenizer."""
        fractions = {"test": self.test_fraction, "val": self.val_fraction}
        lacking = tuple((split, fraction) for split, fraction in fractions.items() if getattr(self, split) is None)
        texts = _Texts(files=self._files(), column=self.text, lacking=lacking, seed=self.split_seed)
        return _read(self.train, texts, self.spec, self.longest)

    def split(self, examples: Examples, *, random: bool) -> "BlockSplit":
        """Return blocks as they are on disk."""
        return BlockSplit(examples, spec=self.spec)

    def remarks(self) -> list[str]:
        """Say how many lines had to be cut, and how many rows and documents are left out."""
        cut, empty, twice = (
            sum(each[what] for each in self._about().values())
            for what in ("cut", "without_text", "duplicate_documents")
        )
        lines, rows, documents = counted(cut, "line"), counted(empty, "row"), counted(twice, "document")
        told = [f"data.max_length={self.longest}: cut {lines} longer than a block"] if cut else []
        told += [f"data: left out {rows} without text"] if empty else []
        told += [f"data: left out {documents} found in another split too, or twice in train"] if twice else []
        return [*told, *super().remarks()]

    def shown(self) -> dict[str, Any]:
        """Return the tokenizer, the length of blocks, and what became of each file."""
        return {"tokenizer": self.spec.fingerprint, "max_length": self.longest, "text": self._about()}

    def _about(self) -> dict[str, dict[str, Any]]:
        return {split: examples.content.about for split, examples in self.source().splits.items()}

    def _files(self) -> Files:
        """Return of each split its files with a hash of each."""
        given = {"train": self.train, "val": self.val, "test": self.test}
        return tuple(
            (split, tuple((file, _content(f"data.{split}", file)) for file in files_of(f"data.{split}", path)))
            for split, path in given.items()
            if path is not None
        )


class BlockSplit(Split):
    """One split of blocks of tokens.

    Args:
        examples: What is in it.
        spec: How they are padded.
    """

    def __init__(self, examples: Examples, *, spec: TextInput) -> None:
        super().__init__(examples, seed=None)
        self.spec = spec

    @property
    def longest(self) -> int:
        """The tokens of the longest block."""
        return int(self.examples.content.longest)

    def show(self, row: int) -> NDArray[np.int64]:
        """Return the tokens of one block."""
        block: NDArray[np.int64] = self.examples.content[row]
        return block

    def collate(self, shown: Sequence[NDArray[np.int64]], places: NDArray[np.int64]) -> Batch:
        """Return `input_ids` and `attention_mask`, (B, L), the tokens themselves as targets, and places."""
        inputs = self.spec.padded(shown)
        return Batch(inputs, inputs["input_ids"], torch.from_numpy(places))


def _content(key: str, file: Path) -> str:
    try:
        at = file.stat()
    except OSError as error:
        raise DataError(f"{key}={file}: cannot be read ({error.strerror}); name a file") from error
    return _hashed(key, file, file.resolve(), at.st_size, at.st_mtime_ns)


@lru_cache(maxsize=256)
def _hashed(key: str, file: Path, _place: Path, size: int, _changed: int) -> str:
    """Return the SHA-256 of a file, having seen that it is text where its name says so."""
    if not file.is_file() or not size:
        raise DataError(f"{key}={file}: is {'empty' if file.is_file() else 'no file'}; choose another")
    digest, decoder, lines = sha256(), codecs.getincrementaldecoder("utf-8")(), 1
    blank = is_text = file.suffix.lower() != ".parquet"
    with file.open("rb") as stream:
        while part := stream.read(_READ):
            digest.update(part)
            try:
                text = decoder.decode(part) if is_text else ""
            except UnicodeDecodeError as error:
                lines += part[: error.start].count(b"\n")
                if file.suffix.lower() in _COMPRESSED:
                    raise DataError(f"{key}={file}: compressed files are not read; unpack it") from error
                raise DataError(f"{key}={file}: line {lines} is not UTF-8; save the file as UTF-8") from error
            lines += text.count("\n")
            blank = blank and not text.strip("\ufeff").strip()
    if is_text and decoder.getstate()[0]:
        raise DataError(f"{key}={file}: ends within a character of UTF-8; save the file whole")
    if blank:
        raise DataError(f"{key}={file}: holds white space alone; choose another")
    return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class _Texts:
    """The text of each split that has files, and how its documents are shared out.

    Attributes:
        files: Where the text is.
        column: The texts' column in tables.
        lacking: The splits that are carved from train, each with its fraction.
        seed: Carves them.
    """

    files: Files
    column: str | int | None
    lacking: tuple[tuple[str, float], ...]
    seed: int

    def of(self, split: str, share: Share, counts: Counter[str], *, keep_ends: bool) -> Iterator[Line]:
        """Yield the lines of one split; rows without text are counted for the split whose files hold them."""
        own = counts if share.of == split else Counter[str]()
        return share.lines(self.lines(share.of, own, keep_ends=keep_ends))

    def lines(self, split: str, counts: Counter[str], *, keep_ends: bool = False) -> Iterator[Line]:
        """Yield all lines of a split's files, and add up the rows without text."""
        return _lines(f"data.{split}", dict(self.files)[split], self.column, counts, keep_ends=keep_ends)

    def told(self) -> list[Any]:
        """Return all that decides who has which document; the suffix says how a file is read."""
        contents = {split: [[file.suffix.lower(), content] for file, content in files] for split, files in self.files}
        return [contents, self.column, self.lacking, self.seed if self.lacking else None]


@lru_cache(maxsize=2)
def _shares(texts: _Texts) -> dict[str, Share]:
    digests = {split: digests_of(texts.lines(split, Counter())) for split, _ in texts.files}
    return shares(digests, fractions=dict(texts.lacking), seed=texts.seed)


@lru_cache(maxsize=8)
def _read(name: str, texts: _Texts, spec: TextInput, longest: int) -> Source:
    carved = dict(texts.lacking)
    splits = {split: _examples(split, _blocks(split, texts, spec, longest), carved=split in carved) for split in SPLITS}
    return Source(name=name, classes=(), splits=splits, strata=("blocks",))


def _examples(split: str, blocks: TokenFile, *, carved: bool) -> Examples:
    if not len(blocks) and carved:
        problem = f"what was carved from train for {split} holds no text of more than one token"
        way_out = f"raise it, choose another data.split_seed, or name data.{split}"
        raise DataError(f"data.{split}_fraction: {problem}; {way_out}")
    if not len(blocks):
        raise DataError(f"data.{split}: holds no text of more than one token; choose another file")
    return Examples(
        content=blocks,
        rows=np.arange(len(blocks)),
        labels=np.zeros(len(blocks), dtype=np.int64),
        digests=blocks.digests,
        ids=tuple(f"block {row}" for row in range(len(blocks))),
    )


def _blocks(split: str, texts: _Texts, spec: TextInput, longest: int) -> TokenFile:
    first, last = _bounds(spec)
    told = [split, texts.told(), spec.fingerprint, first, last, spec.causal, longest, "blocks 5"]
    counts = Counter(dict.fromkeys(("documents", "duplicate_documents", "without_text", "cut", "tokens_left_out"), 0))
    pack = partial(running, last=last) if spec.causal else partial(sentences, first=first, last=last)

    def blocks() -> Iterator[Block]:
        share = _shares(texts)[split]
        counts["duplicate_documents"] = share.duplicates
        return pack(
            _units(texts.of(split, share, counts, keep_ends=spec.causal), spec, counts), counts, longest=longest
        )

    return token_file(
        sha256(json.dumps(told).encode()).hexdigest(), blocks, lambda: dict(counts), largest=len(spec.tokenizer) - 1
    )


def _bounds(spec: TextInput) -> tuple[int, int]:
    """Return the tokens around a block of an encoder; a decoder needs the second alone, behind each document."""
    tokenizer = spec.tokenizer
    first = tokenizer.bos_token_id if tokenizer.cls_token_id is None else tokenizer.cls_token_id
    ends = (tokenizer.eos_token_id, tokenizer.sep_token_id)
    last = next((end for end in (ends if spec.causal else ends[::-1]) if end is not None), None)
    if last is None or (first is None and not spec.causal):
        needed = "an eos_token" if spec.causal else "a cls_token and a sep_token"
        raise RequestError(f"model.tokenizer: a corpus needs {needed}, and this tokenizer has none; choose another")
    return first, last


def _units(lines: Iterable[Line], spec: TextInput, counts: Counter[str]) -> Iterator[Unit]:
    """Yield the tokens of every line, some lines cut at a time."""
    waiting: list[Line] = []
    size = 0
    for line in lines:
        counts["documents"] += line.opens
        waiting.append(line)
        size += len(line.text)
        if size > _ENCODED:
            yield from _encoded(waiting, spec)
            waiting, size = [], 0
    yield from _encoded(waiting, spec)


def _encoded(lines: Sequence[Line], spec: TextInput) -> Iterator[Unit]:
    if lines:
        told = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
        cut = spec.tokenizer([line.text for line in lines], add_special_tokens=False, **told)
        yield from (Unit(ids, line.opens) for ids, line in zip(cut["input_ids"], lines, strict=True))


def _lines(
    key: str, files: Sequence[tuple[Path, str]], column: str | int | None, counts: Counter[str], *, keep_ends: bool
) -> Iterator[Line]:
    for file, _ in files:
        is_table = file.suffix.lower() in TABLES
        yield from _rows(key, file, column, counts) if is_table else _text(file, keep_ends=keep_ends)


def _rows(key: str, file: Path, column: str | int | None, counts: Counter[str]) -> Iterator[Line]:
    for row in read_rows(key, str(file), [Column(key="data.text", asked=column, names=TEXT, place=0)]):
        (text,) = row.values
        if not isinstance(text, str | None):
            raise DataError(f"{key}: {row.where} has no text, but {text!r}; choose another data.text")
        if text and text.strip():
            yield Line(text, True)
        else:
            counts["without_text"] += 1


def _text(file: Path, *, keep_ends: bool) -> Iterator[Line]:
    opens = True
    for piece in _pieces(file):
        if piece.strip():
            yield Line(piece.replace("\r\n", "\n") if keep_ends else piece.strip(), opens)
            opens = False
        else:
            opens = True


def _pieces(file: Path) -> Iterator[str]:
    """Yield lines with their ends; one that is longer than what is read at once, in pieces that end before a space."""
    rest = b""
    with file.open("rb") as stream:
        if stream.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:  # which marks a file; elsewhere it is a letter
            stream.seek(0)
        while part := stream.readline(_READ):
            piece, rest = rest + part, b""
            if len(part) == _READ and not part.endswith(b"\n"):
                cut = _cut(piece)
                piece, rest = piece[:cut], piece[cut:]
            yield piece.decode("utf-8")
    if rest:
        yield rest.decode("utf-8")


def _cut(piece: bytes) -> int:
    """Return the place of the last space, or where there is none, of the last character."""
    place = piece.rfind(b" ")
    if place <= 0:
        place = len(piece) - 1
        while place and piece[place] & 0xC0 == 0x80:  # within a character
            place -= 1
    return place
