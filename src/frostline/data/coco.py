"""COCO: the boxes of all images of a split in one JSON file."""

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from frostline.data.annotations import Annotated, NamedBox, annotated_source
from frostline.data.detection import DetectionData, folder_of
from frostline.data.examples import Source
from frostline.data.listing import IMAGE_SUFFIXES
from frostline.errors import DataError
from frostline.nearest import nearest

_SPLITS = ("train", "val", "test")

Id = int | str
Files = tuple[tuple[str, str | None, str | None], ...]
"""For each split its name, its annotations and the folder of its images, as the user gave them."""


@dataclass(kw_only=True, eq=False, repr=False)
class Coco(DetectionData):
    """Images and boxes in the layout of COCO (Lin et al. 2014, arXiv:1405.0312).

    Boxes of `iscrowd` are not trained on; evaluation forgives what is detected in them, as pycocotools does. Splits
    that lack are carved from train.

    Attributes:
        root: The folder that the others are relative to.
        train: The training annotations; null for `annotations/instances_train*.json`.
        val: The validation annotations; null for `annotations/instances_val*.json`, where that is there.
        test: The test annotations, likewise.
        train_images: The folder of the training images; null for the one that the annotations' name ends with
            (`train2017`), or `images`, or the annotations' own.
        val_images: The folder of the validation images, likewise.
        test_images: The folder of the test images, likewise.
    """

    left_out: ClassVar[str] = "image(s) are left out, as no file of annotations lists them"

    root: str
    train: str | None = None
    val: str | None = None
    test: str | None = None
    train_images: str | None = None
    val_images: str | None = None
    test_images: str | None = None

    def source(self) -> Source:
        """Return the images of the files, each proven readable, with their boxes."""
        files = tuple((split, getattr(self, split), getattr(self, f"{split}_images")) for split in _SPLITS)
        folder = folder_of(self.root).resolve()
        return _read(self.root, folder, files, None if self.classes is None else tuple(self.classes))


@lru_cache(maxsize=4)
def _read(root: str, folder: Path, files: Files, classes: tuple[str, ...] | None) -> Source:
    splits: dict[str, list[Annotated]] = {}
    places: dict[str, str] = {}
    folders: list[Path] = []
    for split, given, images in files:
        file = _annotations(root, folder, split, given)
        if file is not None:
            base = Path(os.path.normpath(_images(root, folder, split, file, images)))  # splits may share it
            splits[split] = _File(root, folder, file).annotated(base)
            places[split] = f"data.{split}={given}" if given else f"data.root={root}/annotations/{file.name}"
            folders.append(base)
    ignored = _unlisted(folder, folders, {each.file for examples in splits.values() for each in examples})
    return annotated_source(root, splits, classes=classes, places=places, ignored=ignored)


def _unlisted(folder: Path, folders: Iterable[Path], listed: Set[Path]) -> tuple[str, ...]:
    """Return the images in these folders that no split lists; splits may share a folder."""
    found = {file for base in folders for file in base.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES}
    unlisted = (file for file in found - listed if not file.name.startswith("."))
    return tuple(sorted(os.path.relpath(file, folder) for file in unlisted))


def _annotations(root: str, folder: Path, split: str, given: str | None) -> Path | None:
    if given is not None:
        file = folder / Path(given).expanduser()
        if not file.is_file():
            siblings = [each.name for each in file.parent.glob("*.json")] if file.parent.is_dir() else []
            meant = nearest(file.name, siblings)
            hint = f"; did you mean '{Path(given).parent / meant}'?" if meant else ""
            raise DataError(f"data.{split}={given}: no such file in {root}{hint}")
        return file
    found = sorted(folder.glob(f"annotations/instances_{split}*.json"))
    if len(found) > 1:
        several = ", ".join(f"'annotations/{file.name}'" for file in found)
        raise DataError(f"data.root={root}: {several} all are {split}; choose one with data.{split}")
    if not found and split == "train":
        raise DataError(f"data.root={root}: there is no annotations/instances_train*.json; name the file in data.train")
    return found[0] if found else None


def _images(root: str, folder: Path, split: str, file: Path, given: str | None) -> Path:
    if given is not None:
        if not (folder / Path(given).expanduser()).is_dir():
            raise DataError(f"data.{split}_images={given}: no such folder in {root}")
        return folder / Path(given).expanduser()
    name = file.stem.removeprefix("instances_")
    places = [folder / name, folder / "images" / name, folder / "images" / split, folder / "images"]
    return next((place for place in places if place.is_dir()), file.parent)


class _File:
    """One file of annotations.

    Args:
        root: What the user calls the folder.
        folder: The folder.
        file: The file.
    """

    def __init__(self, root: str, folder: Path, file: Path) -> None:
        self._root = root
        self._name = file.relative_to(folder).as_posix() if file.is_relative_to(folder) else str(file)
        try:
            content = json.loads(file.read_bytes())
        except ValueError as error:
            raise self._wrong(f"is no whole JSON ({error}); get it again") from error
        self._content: Mapping[str, Any] = content if isinstance(content, dict) else {}

    def annotated(self, base: Path) -> list[Annotated]:
        """Return the images in this folder with their objects, in the order of the file."""
        images, objects = self._by_id("images"), self._objects()
        if strangers := sorted(objects.keys() - images.keys(), key=str):
            first = objects[strangers[0]][0].where
            raise self._wrong(f"has no image {strangers[0]!r}, which {first} is in; add it, or remove that")
        return [self._image(base, row, objects.get(key, [])) for key, row in images.items()]

    def _image(self, base: Path, row: Mapping[str, Any], objects: Sequence[NamedBox]) -> Annotated:
        name = self._text(row, "file_name", f"image {row['id']!r}")
        if not (base / name).is_file():
            raise self._wrong(f"lists image '{name}', which is not in {base.name}/; add it, or remove its entry")
        size = (row["width"], row["height"]) if row.get("width") and row.get("height") else None
        if size is not None and not all(isinstance(side, int | float) for side in size):
            raise self._wrong(f"gives image '{name}' a width and height that are no numbers, {size}; correct them")
        return Annotated(id=name, file=base / name, size=size, objects=objects, where=self._name)

    def _objects(self) -> dict[Id, list[NamedBox]]:
        """Return the objects of each image, by its id."""
        categories = self._by_id("categories")
        names = {key: self._text(row, "name", f"category {key!r}") for key, row in categories.items()}
        found = defaultdict(list)
        for place, row in enumerate(self._rows("annotations"), start=1):
            where = f"annotation {row.get('id', place)}"
            category, image = (self._id(row, key, where) for key in ("category_id", "image_id"))
            if category not in names:
                raise self._wrong(f"has no category {category!r}, which {self._name} {where} is of; add it")
            found[image].append(self._object(row, names[category], f"{self._name} {where}"))
        return found

    def _object(self, row: Mapping[str, Any], name: str, where: str) -> NamedBox:
        said = row.get("bbox")
        try:
            left, top, width, height = (float(each) for each in (said if isinstance(said, list) else ()))
        except (TypeError, ValueError, OverflowError):
            problem = f"{where}, '{name}', has no bbox of four numbers (x, y, width, height); correct or remove it"
            raise DataError(f"data.root={self._root}: {problem}") from None
        box = (left, top, left + width, top + height)
        return NamedBox(name=name, box=box, crowd=bool(row.get("iscrowd", 0)), where=where)

    def _rows(self, key: str) -> list[Mapping[str, Any]]:
        rows = self._content.get(key)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise self._wrong(f"has no list of {key}, which COCO's files of instances have; choose another file")
        return rows

    def _by_id(self, what: str) -> dict[Id, Mapping[str, Any]]:
        known: dict[Id, Mapping[str, Any]] = {}
        for place, row in enumerate(self._rows(what), start=1):
            key = self._id(row, "id", f"entry {place} of {what}")
            if key in known:
                raise self._wrong(f"has two {what} of id {key!r}; number them")
            known[key] = row
        return known

    def _id(self, row: Mapping[str, Any], key: str, where: str) -> Id:
        """Return a number or a text by which one entry refers to another; 1 and '1' are not the same."""
        found = row.get(key)
        if isinstance(found, bool) or not isinstance(found, int | str):
            said = "no" if found is None else f"{found!r} as"
            raise self._wrong(f"has {said} {key} in {where}, which should be a whole number or a text; correct it")
        return found

    def _text(self, row: Mapping[str, Any], key: str, where: str) -> str:
        found = row.get(key)
        if not isinstance(found, str) or not found.strip():
            said = f"no {key}" if found in (None, "") else f"{found!r} as {key}"
            raise self._wrong(f"has {said} in {where}, which should be a text; correct it")
        return found

    def _wrong(self, what: str) -> DataError:
        return DataError(f"data.root={self._root}: {self._name} {what}")
