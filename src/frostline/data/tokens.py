"""Anybody's own texts with a label for each word."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from frostline.batch import NO_LABEL
from frostline.data.examples import Examples, Source, consecutive
from frostline.data.labelled import in_order, label_of
from frostline.data.table import Column, Tables, files_of, read_rows, tables, text_lines
from frostline.data.token_split import TokenData, TokenSplit
from frostline.errors import DataError


class Sentence(NamedTuple):
    """Some words.

    Attributes:
        where: File and line.
        words: The words.
        tags: The label of each.
    """

    where: str
    words: tuple[str, ...]
    tags: tuple[str, ...]


@dataclass(kw_only=True, eq=False, repr=False)
class TokenFiles(TokenData):
    """Sentences with a label for each word.

    Files are .jsonl or .parquet, with a list of words and a list of labels a row, or else text in the manner of CoNLL:
    a word a line, its fields between tabs or spaces, an empty line between sentences, `-DOCSTART-` lines apart. A word
    that becomes several tokens has its label at the first of them.

    Attributes:
        train: The training sentences, or a pattern for several files; what lacks is carved from them.
        val: The validation sentences.
        test: The test sentences.
        tokens: The words' column: a name, or a position from 0 in a CoNLL file; null for `tokens` or `words`, or the
            first.
        tags: The labels' column, likewise; null for `tags`, `ner_tags` or `labels`, or the last.
    """

    tasks: ClassVar[tuple[str, ...]] = ("token_classification",)

    train: str
    val: str | None = None
    test: str | None = None
    tokens: str | int | None = None
    tags: str | int | None = None

    def source(self) -> Source:
        """Return the sentences of the files; they are drawn without regard to labels, of which each has several."""
        return _read(tables({"train": self.train, "val": self.val, "test": self.test}), self.tokens, self.tags)

    def split(self, examples: Examples, *, random: bool) -> "TaggedSplit":
        """Return sentences as tokens, and the class of each."""
        index = {name: place for place, name in enumerate(self.class_names)}
        sentences = [examples.content[row] for row in examples.rows]
        encodings, over_long = self.spec.encoded(
            [list(each.words) for each in sentences], longest=self.longest, words=True
        )
        classes = [[index[tag] for tag in each.tags] for each in sentences]
        targets = [_at_first_parts(each.word_ids, own) for each, own in zip(encodings, classes, strict=True)]
        lost = sum(len(each.words) for each in sentences) - sum(int((each != NO_LABEL).sum()) for each in targets)
        ids = [each.ids for each in encodings]
        return TaggedSplit(examples, ids=ids, tags=targets, spec=self.spec, over_long=over_long, unlabelled=lost)

    def shown(self) -> dict[str, Any]:
        """Return what `TokenData` tells, and how many words were cut off or became no token."""
        drawn = {split: self.drawn(split) for split in ("train", "val", "test")}
        lost = {split: each.unlabelled for split, each in drawn.items() if isinstance(each, TaggedSplit)}
        return {**super().shown(), "words_left_out": lost}


class TaggedSplit(TokenSplit):
    """One split of sentences with a label for each word.

    Args:
        examples: What is in it.
        tags: The target of each token of each example, by place.
        unlabelled: How many words have no token in it.
        **tokens: The rest of what `TokenSplit` takes.
    """

    def __init__(
        self, examples: Examples, *, tags: Sequence[NDArray[np.int64]], unlabelled: int = 0, **tokens: Any
    ) -> None:
        super().__init__(examples, **tokens)
        self.unlabelled = unlabelled
        self._tags = tags

    def targets(self, inputs: dict[str, Tensor], places: NDArray[np.int64]) -> Tensor:
        """Return the class of each token, (B, L), and -100 where there is none."""
        targets = torch.full_like(inputs["input_ids"], NO_LABEL)
        for row, place in enumerate(places.tolist()):
            targets[row, : len(self._tags[place])] = torch.from_numpy(self._tags[place])
        return targets


def _at_first_parts(words: Sequence[int | None], classes: Sequence[int]) -> NDArray[np.int64]:
    """Return the class of each word at the first of its tokens, given the word that each token is part of."""
    before = [None, *words[:-1]]
    targets = [
        NO_LABEL if word is None or word == last else classes[word] for word, last in zip(words, before, strict=True)
    ]
    return np.array(targets, dtype=np.int64)


@lru_cache(maxsize=8)
def _read(files: Tables, tokens: str | int | None, tags: str | int | None) -> Source:
    columns = (
        Column(key="data.tokens", asked=tokens, names=("tokens", "words"), place=0),
        Column(key="data.tags", asked=tags, names=("tags", "ner_tags", "labels"), place=-1),
    )
    splits = {split: list(_sentences(f"data.{split}", file, columns)) for split, file in files.paths}
    classes = tuple(in_order({tag for sentence in splits["train"] for tag in sentence.tags}))
    if len(classes) < 2:
        raise DataError(f"data.train={files.name}: '{', '.join(classes)}' is the only tag; add words of another")
    for split, sentences in splits.items():
        _refuse_unknown(split, sentences, classes)
    everything = tuple(sentence for sentences in splits.values() for sentence in sentences)
    parts = {split: _examples(everything, rows) for split, rows in consecutive(splits).items()}
    return Source(name=files.name, classes=classes, splits=parts, strata=("sentences",), places=files.places)


@dataclass(frozen=True, kw_only=True, eq=False)
class TaggedSentences(Examples):
    """Sentences, whose label is the tags of their words."""

    first = "that of the first file and line"

    def spelt(self, strata: Sequence[str]) -> list[str]:
        """Return the tags of each."""
        return [" ".join(self.content[row].tags) for row in self.rows.tolist()]


def _examples(content: Sequence[Sentence], rows: NDArray[np.int64]) -> Examples:
    chosen = [content[row] for row in rows]
    return TaggedSentences(
        content=content,
        rows=rows,
        labels=np.zeros(len(rows), dtype=np.int64),
        digests=tuple(sha256("\x00".join(each.words).encode()).hexdigest() for each in chosen),
        ids=tuple(each.where for each in chosen),
    )


def _refuse_unknown(split: str, sentences: Sequence[Sentence], classes: Sequence[str]) -> None:
    for sentence in sentences:
        if unknown := set(sentence.tags).difference(classes):
            way_out = f"add examples of it to train, or remove it from {split}"
            raise DataError(f"data.{split}: {sentence.where} has a tag '{min(unknown)}' that train lacks; {way_out}")


def _sentences(key: str, path: str, columns: tuple[Column, Column]) -> Iterator[Sentence]:
    for file in files_of(key, path):
        is_table = file.suffix.lower() in (".jsonl", ".parquet")
        found = _of_rows(key, file, columns) if is_table else _of_lines(key, file, columns)
        first = next(found, None)
        if first is None:
            raise DataError(f"{key}={file}: it has no sentences; choose another file")
        yield from (first, *found)


def _of_rows(key: str, file: Path, columns: Sequence[Column]) -> Iterator[Sentence]:
    for row in read_rows(key, str(file), columns):
        words, tags = row.values
        if not isinstance(words, list) or not isinstance(tags, list) or len(words) != len(tags) or not words:
            raise DataError(f"{key}: {row.where} should hold two lists of one length, of words and of tags; mend it")
        for word in words:
            if not isinstance(word, str):
                problem = f"{row.where} has {word!r} where a word should be"
                raise DataError(f"{key}: {problem}; mend it, or choose another data.tokens")
        named = (label_of(tag, row.where, key=key, named="data.tags") for tag in tags)
        yield Sentence(row.where, tuple(words), tuple(named))


def _of_lines(key: str, file: Path, columns: tuple[Column, Column]) -> Iterator[Sentence]:
    fields: list[tuple[str, str]] = []
    begin = 1
    for number, line in enumerate(text_lines(key, file), 1):
        if not line.strip():
            yield from _sentence(file, begin, fields)
            fields, begin = [], number + 1
        elif not line.startswith("-DOCSTART-"):
            fields.append(_fields(key, file, number, line, columns))
    yield from _sentence(file, begin, fields)


def _fields(key: str, file: Path, number: int, line: str, columns: tuple[Column, Column]) -> tuple[str, str]:
    fields = line.split("\t") if "\t" in line else line.split()
    try:
        word, tag = (fields[_place(column)].strip() for column in columns)
    except IndexError:
        word, tag = "", ""
    if not word or not tag or len(fields) < 2:
        raise DataError(f"{key}={file}: line {number} has no word and tag; mend it, or set data.tokens and data.tags")
    return word, tag


def _place(column: Column) -> int:
    if isinstance(column.asked, str):
        raise DataError(f"{column.key}={column.asked}: columns of a CoNLL file have no names; give a position, from 0")
    return column.place if column.asked is None else column.asked


def _sentence(file: Path, begin: int, fields: Sequence[tuple[str, str]]) -> Iterator[Sentence]:
    if fields:
        words, tags = zip(*fields, strict=True)
        yield Sentence(f"{file.name}:{begin}", words, tags)
