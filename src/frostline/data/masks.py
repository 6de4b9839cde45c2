"""Images with a mask each, which has a class for every pixel: every pair is checked before anything trains."""

import io
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from frostline.batch import NO_LABEL
from frostline.data.examples import Examples, Places, Source, consecutive
from frostline.data.intact import some_of
from frostline.data.pixels import KINDS, content_of, opened, problem_of
from frostline.errors import DamagedError, DataError, counted

STRATUM = "image"
"""An image with many classes has no one class: splits and shots are drawn from all images alike."""

_VALUES = 2**16


@dataclass(frozen=True, kw_only=True)
class Pair:
    """An image and its mask, by what people call it."""

    id: str
    image: Path
    mask: Path


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskedImages:
    """Images and their masks, by row.

    Attributes:
        pairs: The files.
        labels: From what a mask holds to labels.
        digests: Of the masks, hexadecimal SHA-256.
        void: The rows of images that have no pixel of any class.
        shapes: Height and width of each.
    """

    pairs: Sequence[Pair]
    labels: "Labels"
    digests: Sequence[str]
    void: frozenset[int]
    shapes: Sequence[tuple[int, int]]

    def __getitem__(self, row: int) -> tuple[Image.Image, NDArray[np.int16]]:
        """Return an upright RGB image and the labels of its pixels, (H, W).

        Raises:
            DamagedError: A file cannot be read any more.
        """
        pair, file = self.pairs[row], self.pairs[row].image
        try:
            image, file = opened(content_of(pair.image)), pair.mask
            return image, self.labels.of(_values(content_of(pair.mask)))
        except Exception as error:  # Pillow's formats raise whatever they stumble over
            way_out = "restore it, and resume the run or start it again"
            raise DamagedError(f"{file}: cannot be read any more ({problem_of(error)}); {way_out}") from error


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskedExamples(Examples):
    """Images whose label is their mask."""

    first = "the mask of the first name"

    def spelt(self, strata: Sequence[str]) -> list[str]:
        """Return the digest of each mask."""
        return [self.content.digests[row] for row in self.rows.tolist()]


@dataclass(frozen=True, kw_only=True)
class Labels:
    """From the values of a mask to labels.

    Attributes:
        by_value: The label of each value that stands for a class, or NO_LABEL.
    """

    by_value: Mapping[int, int]
    _table: NDArray[np.int16] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        table = np.full(_VALUES, NO_LABEL, dtype=np.int16)
        for value, label in self.by_value.items():
            table[value] = label
        object.__setattr__(self, "_table", table)

    def of(self, values: NDArray[np.int64]) -> NDArray[np.int16]:
        """Return the label of each value."""
        return self._table[values]


@dataclass(frozen=True, kw_only=True)
class _Looked:
    """What a look at a pair of files found."""

    image: str = ""
    mask: str = ""
    counts: Mapping[int, int] = field(default_factory=dict)
    shape: tuple[int, int] = (0, 0)
    problem: str = ""


def masked_source(
    root: str,
    splits: Mapping[str, Sequence[Pair]],
    *,
    classes: Sequence[str] | None,
    labels: Mapping[int, int],
    ignored: tuple[str, ...] = (),
) -> Source:
    """Return the source of these pairs, each proven to decode and to fit.

    Args:
        root: `data.root`, for the messages.
        splits: `train`, and `val` and `test` where there are any.
        classes: Their names; None for the values that the masks of train hold, by number.
        labels: The label of each value, or NO_LABEL; with `classes=None` of the values to ignore alone.
        ignored: Files that are none of them, by name.

    Raises:
        DataError: A file does not decode, sizes differ, or a mask holds a value that is no class.
    """
    everything = [pair for pairs in splits.values() for pair in pairs]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        looked = list(pool.map(_look, everything))
    broken = [(pair.id, look.problem) for pair, look in zip(everything, looked, strict=True) if look.problem]
    _refuse(root, broken, way_out="correct or remove these")
    places = consecutive(splits)
    remarks: tuple[str, ...] = ()
    if classes is None:
        train = [looked[row] for row in places["train"]]
        classes, labels = _numbered(root, train, labels)
        remarks = tuple(_odd_values(root, [everything[row] for row in places["train"]], train, labels))
    known = [(pair.id, _unknown(pair, look, labels)) for pair, look in zip(everything, looked, strict=True)]
    way_out = "correct or remove these, or name what to ignore with data.ignore"
    _refuse(root, [(name, problem) for name, problem in known if problem], way_out=way_out)
    void = {row for row, look in enumerate(looked) if all(labels[value] == NO_LABEL for value in look.counts)}
    digests = tuple(look.mask for look in looked)
    shapes = tuple(look.shape for look in looked)
    content = MaskedImages(
        pairs=everything, labels=Labels(by_value=labels), digests=digests, void=frozenset(void), shapes=shapes
    )
    parts = {split: _examples(content, looked, rows) for split, rows in places.items()}
    return Source(name=root, classes=tuple(classes), splits=parts, ignored=ignored, strata=(STRATUM,), remarks=remarks)


def _examples(content: MaskedImages, looked: Sequence[_Looked], rows: Places) -> "MaskedExamples":
    return MaskedExamples(
        content=content,
        rows=rows,
        labels=np.zeros(len(rows), dtype=np.int64),
        digests=tuple(looked[row].image for row in rows),
        ids=tuple(content.pairs[row].id for row in rows),
    )


def _look(pair: Pair) -> _Looked:
    for file, what in ((pair.image, "image"), (pair.mask, "mask")):
        try:
            content = content_of(file)
            size = opened(content).size if what == "image" else None
            values = None if what == "image" else _values(content)
        except Exception as error:  # Pillow's formats raise whatever they stumble over
            return _Looked(problem=f"its {what} {file.name}: {problem_of(error)}")
        if size is not None:
            shape, digest = (size[1], size[0]), sha256(content).hexdigest()
    assert values is not None
    if values.shape != shape:
        return _Looked(problem=_other_size(shape, values.shape))
    numbers, counts = np.unique(values, return_counts=True)
    found = dict(zip(numbers.tolist(), counts.tolist(), strict=True))
    return _Looked(image=digest, mask=sha256(content).hexdigest(), counts=found, shape=shape)


def _values(content: bytes) -> NDArray[np.int64]:
    """Return what a mask holds, (H, W), turned as its EXIF data says: of a palette its indices, never its colours.

    Raises:
        ValueError: There is nothing in the file, or it holds colours, fractions or what no 16 bits hold.
    """
    if not content:
        raise ValueError("an empty file")
    mask = Image.open(io.BytesIO(content), formats=KINDS)
    if mask.mode == "L" and mask.tile and mask.tile[0][3] in ("L;2", "L;4"):
        raise ValueError("a mask in grey of 2 or 4 bits, whose numbers nobody can read as they are; save it in 8 bits")
    if mask.mode not in ("1", "L", "P") and not mask.mode.startswith("I"):
        raise ValueError(f"a mask holds one whole number for each pixel, not {mask.mode}")
    values = np.asarray(ImageOps.exif_transpose(mask)).astype(np.int64)
    if values.min() < 0 or values.max() >= _VALUES:
        raise ValueError(f"a mask holds numbers from 0 to {_VALUES - 1}, not {values.min()} to {values.max()}")
    return values


def _other_size(image: tuple[int, ...], mask: tuple[int, ...]) -> str:
    (height, width), (mask_height, mask_width) = image, mask
    turned = "; the image is turned by its EXIF data, so turn the mask, too" if mask == image[::-1] else ""
    return f"the image has {width}x{height} pixels and its mask {mask_width}x{mask_height}{turned}"


def _numbered(root: str, looked: Sequence[_Looked], ignored: Mapping[int, int]) -> tuple[list[str], Mapping[int, int]]:
    """Name classes by the values that masks hold."""
    held = {value for look in looked for value in look.counts}
    values = sorted(held - ignored.keys())
    if len(values) < 2:
        left_out = ", ".join(map(str, sorted(held & ignored.keys())))
        way_out = f" beside {left_out}, which data.ignore leaves out; choose another value for it if this is a class"
        found = ", ".join(map(str, values)) or "nothing"
        apart = way_out if left_out else "; there is nothing to tell apart"
        raise DataError(f"data.root={root}: masks of train hold {found}{apart}")
    return [str(value) for value in values], {**{value: place for place, value in enumerate(values)}, **ignored}


def _odd_values(
    root: str, pairs: Sequence[Pair], looked: Sequence[_Looked], labels: Mapping[int, int]
) -> Iterator[str]:
    """Name the values that became classes although one mask alone holds them, or where numbers between are missing."""
    values = sorted(value for value, label in labels.items() if label != NO_LABEL)
    held = {value: [place for place, look in enumerate(looked) if value in look.counts] for value in values}
    rare = {value: places[0] for value, places in held.items() if len(places) == 1}
    alone = [
        f"{v} ({counted(looked[place].counts[v], 'pixel')} of '{pairs[place].mask.name}')" for v, place in rare.items()
    ]
    way_out = "name the classes with data.classes if one of these is none"
    if alone and len(looked) > 1:
        yield f"{root}: a value of one mask alone is a class here: {some_of(alone)}; {way_out}"
    elif values[-1] - values[0] >= len(values):
        yield f"{root}: the values {some_of([str(value) for value in values])} are the classes; {way_out}"


def _unknown(pair: Pair, look: _Looked, labels: Mapping[int, int]) -> str:
    unknown = Counter({value: count for value, count in look.counts.items() if value not in labels})
    if not unknown:
        return ""
    value, count = unknown.most_common(1)[0]
    return f"its mask {pair.mask.name} holds {value} in {counted(count, 'pixel')}, which is no class"


def _refuse(root: str, problems: Sequence[tuple[str, str]], *, way_out: str) -> None:
    if problems:
        some = some_of([f"'{name}' ({problem})" for name, problem in problems])
        raise DataError(f"data.root={root}: cannot use {some}; {way_out}")
