"""Anybody's own images and masks, in two folders of the same shape."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Annotated

from annotated_types import Ge, Le

from frostline.batch import NO_LABEL
from frostline.data.examples import Source
from frostline.data.image_tree import SPLIT_FOLDERS, folder_of_each_split
from frostline.data.listing import IMAGE_SUFFIXES, Listing, listing
from frostline.data.masks import Pair, masked_source
from frostline.data.segmentation import SegmentationData
from frostline.data.splitted import SPLITS
from frostline.data.table import text_lines
from frostline.errors import DataError


@dataclass(kw_only=True, eq=False, repr=False)
class SegmentationFolder(SegmentationData):
    """Images below `root/images`, and below `root/masks` a mask of the same name for each.

    A mask has one number for each pixel, the class; of a palette its indices count, not its colours. Images and masks
    are both turned as their own EXIF data says, so that a mask without any belongs to the upright image. Both folders
    may hold `train/`, `val/` and `test/`; without a `train/`, what lies beside the others is train, from which the
    absent ones are carved.

    Attributes:
        root: The folder.
        classes: Names of the classes, in the order of the masks' values from 0; None for those that the lines of
            `root/classes.txt` name, or without that for the values that train's masks hold.
        ignore: The value of pixels that have no class.
    """

    root: str
    classes: list[str] | None = None
    ignore: Annotated[int, Ge(0), Le(65535)] = 255

    def source(self) -> Source:
        """Return the pairs of the folder, each proven readable and fitting."""
        names = None if self.classes is None else tuple(self.classes)
        return _read(self.root, Path(self.root).expanduser().resolve(), names, self.ignore)


@lru_cache(maxsize=4)
def _read(root: str, folder: Path, classes: tuple[str, ...] | None, ignore: int) -> Source:
    listing(folder if folder.exists() else Path(root))  # refuses what is no folder
    found = {name: _listed(root, folder, name) for name in ("images", "masks")}
    images, masks = (_files(root, folder, name, inside) for name, inside in found.items())
    _refuse_unpaired(root, images, masks)
    names = classes or _class_names(folder / "classes.txt")
    if names is not None and len(set(names)) < max(2, len(names)):
        raise DataError(f"data.classes={list(names)}: should name at least two classes, each once")
    labels = {value: value for value in range(len(names or ())) if value != ignore} | {ignore: NO_LABEL}
    pairs = [Pair(id=name, image=images[name], mask=masks[name]) for name in images]
    ignored = tuple(f"{name}/{file}" for name, inside in found.items() for file in inside.ignored)
    return masked_source(root, _by_split(root, pairs), classes=names, labels=labels, ignored=ignored)


def _listed(root: str, folder: Path, name: str) -> Listing:
    if not (folder / name).is_dir():
        raise DataError(f"data.root={root}: there is no {name}/ in it; it should hold images/ and masks/")
    return listing(folder / name)


def _files(root: str, folder: Path, name: str, inside: Listing) -> dict[str, Path]:
    """Return the images of a folder by their paths in it, without suffixes."""
    named: dict[str, Path] = {}
    for file in inside.images:
        known = named.setdefault(PurePosixPath(file).with_suffix("").as_posix(), folder / name / file)
        if known != folder / name / file:
            raise DataError(f"data.root={root}: '{name}/{file}' has another of its name; rename one of them")
    if not named:
        raise DataError(f"data.root={root}: {name}/ holds no image ({', '.join(IMAGE_SUFFIXES)})")
    return named


def _refuse_unpaired(root: str, images: dict[str, Path], masks: dict[str, Path]) -> None:
    for have, lack, what in ((images, masks, "mask in masks/"), (masks, images, "image in images/")):
        if lonely := sorted(have.keys() - lack.keys()):
            more = f", nor {len(lonely) - 1} others" if len(lonely) > 1 else ""
            raise DataError(
                f"data.root={root}: '{have[lonely[0]].name}' has no {what} of the name '{lonely[0]}'{more}; "
                "add it, or remove the file"
            )


def _class_names(file: Path) -> tuple[str, ...] | None:
    if not file.is_file():
        return None
    return tuple(line.strip() for line in text_lines("data.root", file) if line.strip())


def _by_split(root: str, pairs: Sequence[Pair]) -> dict[str, list[Pair]]:
    """Sort pairs by the folder of their split; where there is no `train/`, what is in no other is train's."""
    tops = {pair.id.partition("/")[0] for pair in pairs if "/" in pair.id}
    folders = folder_of_each_split(root, "", sorted(top for top in tops if top.lower() in SPLIT_FOLDERS))
    splits = {split: [pair for pair in pairs if pair.id.startswith(folder)] for split, folder in folders.items()}
    outside = [pair for pair in pairs if not pair.id.startswith(tuple(folders.values()))]
    if outside and "train" in splits:
        raise DataError(f"data.root={root}: '{outside[0].id}' is in no split; move it into train/, val/ or test/")
    if not outside and "train" not in splits:
        only = " or ".join(sorted(splits, key=SPLITS.index))
        raise DataError(f"data.root={root}: every image in it is one of {only}; add some of train")
    return {"train": outside, **splits}
