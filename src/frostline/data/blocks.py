"""From lines of tokens to blocks of at most so many: nothing is left out that is not counted."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Block = NDArray[np.int64]


class Unit(NamedTuple):
    """The tokens of a line.

    Attributes:
        ids: The tokens.
        opens: Whether a document begins with it.
    """

    ids: list[int]
    opens: bool


def sentences(units: Iterable[Unit], counts: Counter[str], *, longest: int, first: int, last: int) -> Iterator[Block]:
    """Pack whole lines into blocks, across documents, with a separator between these.

    Args:
        units: The lines.
        counts: Lines that had to be cut are added under `cut`.
        longest: Tokens of a block at most, those around it included.
        first: The token before a block.
        last: The token behind it, and between two documents in it.
    """
    room, block = longest - 2, list[int]()
    for unit in units:
        counts["cut"] += len(unit.ids) > room
        for begin in range(0, len(unit.ids), room):
            part = unit.ids[begin : begin + room]
            between = [last] if block and unit.opens and not begin else []
            if block and len(block) + len(between) + len(part) > room:
                yield np.array([first, *block, last])
                block, between = [], []
            block += between + part
    if block:
        yield np.array([first, *block, last])


def running(units: Iterable[Unit], counts: Counter[str], *, longest: int, last: int) -> Iterator[Block]:
    """Let documents follow one another and cut them anywhere; the last block is as long as it comes.

    Args:
        units: The lines.
        counts: A last token that has none before it is added under `tokens_left_out`.
        longest: Tokens of a block.
        last: The token behind each document.
    """
    tokens, began = list[int](), False
    for unit in units:
        tokens += [last] * (unit.opens and began) + unit.ids
        whole, began = len(tokens) - len(tokens) % longest, True
        yield from _cut(tokens[:whole], longest)
        tokens = tokens[whole:]
    tokens += [last] * began
    alone = len(tokens) == 1
    counts["tokens_left_out"] += alone
    yield from _cut(tokens[alone:], longest)


def _cut(tokens: list[int], longest: int) -> Iterator[Block]:
    yield from (np.array(tokens[begin : begin + longest]) for begin in range(0, len(tokens), longest))
