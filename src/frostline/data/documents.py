"""Which documents of running text are whose: decided by content and seed before any is cut into blocks."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from frostline.data.splits import check_fractions
from frostline.errors import DataError, counted

Digests = NDArray[np.bytes_]
"""The content of each document, 16 bytes."""
Chosen = NDArray[np.bool_]
"""Whether each document is one of a split, in the order of the text."""


class Line(NamedTuple):
    """Some text.

    Attributes:
        text: The text.
        opens: Whether a document begins with it.
    """

    text: str
    opens: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Share:
    """What a split takes of some text.

    Attributes:
        of: The split whose files hold the text: its own, or `train` where it is carved.
        chosen: Which of their documents.
        duplicates: How many of the split's own are left out because they stand elsewhere, too.
    """

    of: str
    chosen: Chosen
    duplicates: int = 0

    def lines(self, lines: Iterable[Line]) -> Iterator[Line]:
        """Yield those lines of the text that are the split's."""
        document = -1
        for line in lines:
            document += line.opens
            if self.chosen[document]:
                yield line


def digests_of(lines: Iterable[Line]) -> Digests:
    """Hash every document as it passes; how it is spaced and broken into lines is not its content."""
    found, document = bytearray(), blake2b(digest_size=16)
    begun = False
    for line in lines:
        if line.opens and begun:
            found += document.digest()
            document = blake2b(digest_size=16)
        document.update("".join(f"{word} " for word in line.text.split()).encode())
        begun = True
    found += document.digest() * begun
    return np.frombuffer(found, dtype="S16")


def shares(texts: Mapping[str, Digests], *, fractions: Mapping[str, float], seed: int) -> dict[str, Share]:
    """Share documents out among splits so that none stands in two.

    A document that stands in several splits, or in train several times, is kept as `splits.without_duplicates` keeps
    examples; what lacks is carved as `splits.carve` does.

    Args:
        texts: The documents of `train`, and of `val` and `test` where there are any.
        fractions: The share of train's documents that becomes each split that lacks, in the order of carving.
        seed: Another seed carves others.

    Raises:
        DataError: A split comes out without a document.
    """
    check_fractions(fractions)
    kept = _without_duplicates(texts)
    found = {
        split: Share(of=split, chosen=chosen, duplicates=int((~chosen).sum()))
        for split, chosen in kept.items()
        if split != "train"
    }
    carved = _carved(texts["train"], kept["train"], fractions, seed)
    train = carved.pop("train")
    found |= {split: Share(of="train", chosen=chosen) for split, chosen in carved.items()}
    return {"train": Share(of="train", chosen=train, duplicates=int((~kept["train"]).sum())), **found}


def _without_duplicates(texts: Mapping[str, Digests]) -> dict[str, Chosen]:
    seen, kept = np.array([], dtype="S16"), {}
    for split in [name for name in ("test", "val", "train") if name in texts]:
        kept[split] = ~np.isin(texts[split], seen)
        if split == "train":
            kept[split] &= _firsts(texts[split])
        if len(texts[split]) and not kept[split].any():
            raise DataError(f"data.{split}: every document of it stands in {_others(split, texts)} too; add others")
        seen = np.concatenate([seen, texts[split]])
    return kept


def _firsts(digests: Digests) -> Chosen:
    firsts = np.zeros(len(digests), dtype=np.bool_)
    firsts[np.unique(digests, return_index=True)[1]] = True
    return firsts


def _others(split: str, texts: Mapping[str, Digests]) -> str:
    return " or ".join(name for name in ("val", "test") if name in texts and name != split)


def _carved(digests: Digests, kept: Chosen, fractions: Mapping[str, float], seed: int) -> dict[str, Chosen]:
    """Cut documents out of train in the order of a hash of seed and content; the rest is `train`."""
    places = np.flatnonzero(kept)
    keys = (blake2b(f"{seed}/".encode() + digest, digest_size=16).digest() for digest in digests[places])
    order = places[np.argsort(np.fromiter(keys, dtype="S16", count=len(places)), kind="stable")]
    carved, rest = {}, kept.copy()
    for split, fraction in fractions.items():
        members, order = np.split(order, [int(fraction * len(places) + 0.5)])
        carved[split] = np.zeros_like(kept)
        carved[split][members] = True
        rest[members] = False
    for split, chosen in {**carved, "train": rest}.items():
        if len(places) and not chosen.any():
            few = f"data.train: of {counted(len(places), 'document')} none is left for {split}"
            way_out = (
                f"put an empty line between documents, or name {' and '.join(f'data.{part}' for part in fractions)}"
            )
            raise DataError(f"{few}, and none is cut in two; {way_out}")
    return {**carved, "train": rest}
