"""From boxes as annotation files have them to the source of a detection dataset: every file and box is checked."""

import io
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import sha256
from math import isfinite
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from frostline.data.examples import Examples, Places, Source, consecutive
from frostline.data.intact import some_of
from frostline.data.pixels import KINDS, EncodedImages, Images, content_of, opened, problem_of
from frostline.errors import DataError
from frostline.nearest import did_you_mean

STRATUM = "image"
"""An image with objects of several classes has no one class: splits and shots are drawn from all images alike."""

_LEAST = 0.01
"""Pixels of width and height below which a box may lose its area in 32 bits as it is scaled or mirrored."""
_TURNED = range(5, 9)
"""Values of EXIF's orientation that exchange height and width."""
_ORIENTATION = 0x0112


@dataclass(frozen=True, kw_only=True)
class NamedBox:
    """An object as its annotation has it.

    Attributes:
        name: Of its class.
        box: x1, y1, x2, y2 in pixels of the stored image.
        crowd: Whether it is there for evaluation only, which forgives what is detected in it.
        where: What to call it in messages: its file and its place there.
    """

    name: str
    box: tuple[float, float, float, float]
    crowd: bool
    where: str


@dataclass(frozen=True, kw_only=True)
class Annotated:
    """An image with its objects, as an annotation has it.

    Attributes:
        id: What people call it.
        file: The image.
        size: Width and height as the annotation says; None where it does not.
        objects: What is to be found in it.
        where: The annotation's file.
    """

    id: str
    file: Path
    size: tuple[int, int] | None
    objects: Sequence[NamedBox]
    where: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Objects:
    """The objects of one image.

    Attributes:
        boxes: x1, y1, x2, y2 in pixels of the stored image, float32 of shape (n, 4).
        labels: Class indices, int64 of shape (n,).
        crowd: Which of them are there for evaluation only, bool of shape (n,).
        size: Height and width of the stored image.
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    size: tuple[int, int]

    def in_order(self) -> "Objects":
        """Return them by label and box."""
        order = np.lexsort((*self.boxes.T, self.crowd, self.labels))
        return replace(self, boxes=self.boxes[order], labels=self.labels[order], crowd=self.crowd[order])

    def digest(self) -> str:
        """Return one SHA-256 over all of it."""
        parts = (self.boxes.tobytes(), self.labels.tobytes(), self.crowd.tobytes(), str(self.size).encode())
        return sha256(b"/".join(parts)).hexdigest()


@dataclass(frozen=True, kw_only=True, eq=False)
class Annotations:
    """Images and their objects by row, and what was found in the annotations.

    Attributes:
        images: The images as they are stored, not as EXIF data would turn them: so are their boxes.
        objects: Their objects.
        clipped: Boxes that reached over the border, and end there now.
        degenerate: Boxes of less than a hundredth of a pixel in width or height, left out, by file and place.
        left_out: Objects of classes that were not chosen, by class.
    """

    images: Images
    objects: tuple[Objects, ...]
    clipped: int
    degenerate: tuple[str, ...]
    left_out: Mapping[str, int]


@dataclass(frozen=True, kw_only=True, eq=False)
class AnnotatedExamples(Examples):
    """Images whose label is their objects."""

    first = "the annotation of the first name"

    def spelt(self, strata: Sequence[str]) -> list[str]:
        """Return one digest over the objects of each, in whatever order they are annotated."""
        return [self.content.objects[row].in_order().digest() for row in self.rows.tolist()]


def annotated_source(
    name: str,
    splits: Mapping[str, Sequence[Annotated]],
    *,
    classes: Sequence[str] | None,
    places: Mapping[str, str],
    ignored: tuple[str, ...] = (),
) -> Source:
    """Return the source of these images; its classes are the chosen ones, or those of `train` by name.

    Args:
        name: What to call the source: its `data.root`.
        splits: `train`, and `val` and `test` where there are any.
        classes: The classes to find; what is of another one is background. None for all.
        places: The config key and the list of each split, for messages.
        ignored: Files that are none of its examples, by name.

    Raises:
        DataError: An image cannot be read or is of another size than its annotation says, a box lies outside, or a
            class is unknown.
    """
    everything = [each for examples in splits.values() for each in examples]
    chosen = _classes(name, splits, classes)
    digests, sizes = _inspected(name, everything)
    boxes = _Boxes(name, chosen, strict=classes is None)
    objects = tuple(boxes.of(each, size) for each, size in zip(everything, sizes, strict=True))
    content = Annotations(
        images=EncodedImages(files=tuple(each.file for each in everything), upright=False),
        objects=objects,
        clipped=boxes.clipped,
        degenerate=tuple(boxes.degenerate),
        left_out=dict(sorted(boxes.left_out.items())),
    )
    parts = {split: _examples(content, everything, digests, rows) for split, rows in consecutive(splits).items()}
    return Source(name=name, classes=tuple(chosen), splits=parts, ignored=ignored, strata=(STRATUM,), places=places)


def _examples(content: Annotations, everything: Sequence[Annotated], digests: Sequence[str], rows: Places) -> Examples:
    """Digests are those of the images alone, so that no two splits share one, however it is annotated."""
    return AnnotatedExamples(
        content=content,
        rows=rows,
        labels=np.zeros(len(rows), dtype=np.int64),
        digests=tuple(digests[row] for row in rows),
        ids=tuple(everything[row].id for row in rows),
    )


def _classes(name: str, splits: Mapping[str, Sequence[Annotated]], asked: Sequence[str] | None) -> list[str]:
    found = sorted({each.name for image in splits["train"] for each in image.objects})
    if not found:
        raise DataError(f"data.root={name}: no training image has an object; there is nothing to learn")
    if asked is None:
        return found
    for each in asked:
        if each not in found:
            problem = f"data.classes={list(asked)}: no training image of {name} has an object named '{each}'"
            raise DataError(f"{problem}; {did_you_mean(each, found)}")
        if list(asked).count(each) > 1:
            raise DataError(f"data.classes={list(asked)}: '{each}' stands there twice; name each class once")
    if not asked:
        raise DataError(f"data.classes=[]: there is nothing to find; choose from {', '.join(found)}, or null for all")
    return list(asked)


class _Boxes:
    """Makes arrays of named boxes and counts what it had to change."""

    def __init__(self, root: str, classes: Sequence[str], *, strict: bool) -> None:
        self._root = root
        self._index = {name: label for label, name in enumerate(classes)}
        self._strict = strict
        self.clipped = 0
        self.degenerate: list[str] = []
        self.left_out: Counter[str] = Counter()

    def of(self, image: Annotated, size: tuple[int, int]) -> Objects:
        """Return the objects of one image of this width and height."""
        kept = [each for each in image.objects if self._keeps(each, size)]
        border = np.array([*size, *size], dtype=np.float32)
        boxes = np.array([each.box for each in kept], dtype=np.float32).reshape(-1, 4)
        inside = boxes.clip(0, border)
        self.clipped += int((boxes != inside).any(axis=1).sum())
        return Objects(
            boxes=inside,
            labels=np.array([self._index[each.name] for each in kept], dtype=np.int64),
            crowd=np.array([each.crowd for each in kept], dtype=np.bool_),
            size=(size[1], size[0]),
        )

    def _keeps(self, each: NamedBox, size: tuple[int, int]) -> bool:
        """Tell whether an object is one to find; of what is not, keep the count."""
        if not all(map(isfinite, each.box)):
            problem = f"{each.where}, '{each.name}' at {_plain(each.box)}, is not finite"
            raise DataError(f"data.root={self._root}: {problem}; correct or remove it")
        if each.name not in self._index:
            if self._strict:
                problem = f"{each.where} is a '{each.name}', which no training image has"
                raise DataError(f"data.root={self._root}: {problem}; {did_you_mean(each.name, self._index)}")
            self.left_out[each.name] += 1
            return False
        x1, y1, x2, y2 = each.box
        if x2 > x1 and y2 > y1 and (x1 >= size[0] or y1 >= size[1] or x2 <= 0 or y2 <= 0):
            problem = f"{each.where}, '{each.name}' at {_plain(each.box)}, lies outside its image of {_by(size)} pixels"
            raise DataError(f"data.root={self._root}: {problem}; correct or remove it")
        if not (min(x2, size[0]) - max(x1, 0) >= _LEAST and min(y2, size[1]) - max(y1, 0) >= _LEAST):
            self.degenerate.append(each.where)
            return False
        return True


def _plain(box: Iterable[float]) -> str:
    return f"({', '.join(f'{each:g}' for each in box)})"


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _inspected(root: str, images: Sequence[Annotated]) -> tuple[list[str], list[tuple[int, int]]]:
    """Return digest, width and height of every image, proven to decode and to be of the annotated size."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(_inspect, images))
    broken = [f"'{each.file.name}' ({problem})" for each, (_, _, problem) in zip(images, found, strict=True) if problem]
    if broken:
        raise DataError(f"data.root={root}: cannot use {some_of(broken)}; replace, correct or remove what is wrong")
    return [digest for digest, _, _ in found], [size for _, size, _ in found]


def _inspect(image: Annotated) -> tuple[str, tuple[int, int], str]:
    try:
        content = content_of(image.file)
        opened(content, least=32, upright=False)
        stored = Image.open(io.BytesIO(content), formats=KINDS)
        size, turned = stored.size, stored.getexif().get(_ORIENTATION) in _TURNED
    except Exception as error:  # Pillow's formats raise whatever they stumble over
        return "", (0, 0), problem_of(error)
    return sha256(content).hexdigest(), size, _other_size(image, size, turned=turned)


def _other_size(image: Annotated, size: tuple[int, int], *, turned: bool) -> str:
    """Say what is wrong with the annotated size, or nothing; boxes are in the pixels of the image as it is stored."""
    if image.size in (None, size):
        return ""
    assert image.size is not None
    known = f"{_by(size)} pixels, but {image.where} says {_by(image.size)}"
    if turned and image.size == size[::-1]:
        return f"{known}: its boxes are those of the image turned upright, so store it so, without EXIF rotation"
    return known
