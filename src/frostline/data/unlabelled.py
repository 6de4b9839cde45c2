"""Anybody's own images, without labels."""

import posixpath
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import ClassVar

import numpy as np

from frostline.data.examples import Examples, Source
from frostline.data.image_tree import SPLIT_FOLDERS, folder_of_each_split
from frostline.data.intact import intact_digests
from frostline.data.listing import IMAGE_SUFFIXES, Listing, listing
from frostline.data.photographs import Photographs
from frostline.data.pixels import EncodedImages
from frostline.data.splitted import SPLITS
from frostline.errors import DataError, RequestError

EVERYTHING = ("images",)
"""The one stratum of images of which nothing else is known."""


@dataclass(kw_only=True, eq=False, repr=False)
class Unlabelled(Photographs):
    """Images at any depth below `root`, whatever their folders are called.

    Folders `train/`, `val/` and `test/` are kept apart, so that no network is pre-trained on what another is tested on;
    without a `train/`, what lies beside the others is train, from which the absent ones are carved by content, 15 %
    each. `shots` counts all images of train.

    Attributes:
        root: A folder, or a `.tar`, `.tar.gz` or `.zip` archive, which is read into memory.
    """

    tasks: ClassVar[tuple[str, ...]] = ("self_supervised",)

    root: str

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mix is not None:
            raise RequestError(f"data.mix={self.mix}: mixes labels, and these images have none; leave data.mix out")

    def source(self) -> Source:
        """Return the images of the folder or archive, each proven readable."""
        return _read(self.root, Path(self.root).expanduser().resolve())


@lru_cache(maxsize=4)
def _read(root: str, path: Path) -> Source:
    found = listing(path if path.exists() else Path(root))
    names = _by_split(root, found)
    kept = [name for part in names.values() for name in part]
    files = [found.images[name] for name in kept]
    digests = dict(zip(kept, intact_digests(f"data.root={root}", kept, files), strict=True))
    content, rows = EncodedImages(files=files, names=kept), {name: row for row, name in enumerate(kept)}
    splits = {
        split: Examples(
            content=content,
            rows=np.array([rows[name] for name in part], dtype=np.int64),
            labels=np.zeros(len(part), dtype=np.int64),
            digests=tuple(digests[name] for name in part),
            ids=tuple(part),
        )
        for split, part in names.items()
    }
    return Source(name=root, classes=(), splits=splits, ignored=found.ignored, strata=EVERYTHING)


def _by_split(root: str, found: Listing) -> dict[str, list[str]]:
    """Return the images of each split; what lies in no folder that is named after one is train's."""
    if not found.images:
        raise DataError(f"data.root={root}: there is no image in it; add some ({', '.join(IMAGE_SUFFIXES)})")
    base = _shared_folder(found)
    tops = {name.removeprefix(base).partition("/")[0] for name in found.images if "/" in name.removeprefix(base)}
    named = sorted(name for name in tops if name.lower() in SPLIT_FOLDERS)
    folders = folder_of_each_split(root, base, named) or _folder_around(base)
    parts = {split: [name for name in found.images if name.startswith(folder)] for split, folder in folders.items()}
    outside = sorted(found.images.keys() - {name for part in parts.values() for name in part})
    if outside and "train" in folders and len(folders) > 1:
        way_out = "move it into one of these, or choose one of these as data.root"
        raise DataError(f"data.root={root}: '{outside[0]}' lies beside {', '.join(named)}; {way_out}")
    parts["train"] = sorted([*parts.get("train", []), *outside])
    if not parts["train"]:
        only, way_out = " or ".join(sorted(folders, key=SPLITS.index)), "choose the folder to train on as data.root"
        raise DataError(f"data.root={root}: every image in it is one of {only}; add some of train, or {way_out}")
    return parts


def _folder_around(base: str) -> dict[str, str]:
    """Return the split of the innermost folder around all images that is named after one, as a prefix of them all."""
    around = [SPLIT_FOLDERS[part.lower()] for part in base.split("/") if part.lower() in SPLIT_FOLDERS]
    return dict.fromkeys(around[-1:], base)


def _shared_folder(found: Listing) -> str:
    """Return the prefix of the deepest folder that holds all images."""
    folders = [str(PurePosixPath(name).parent) for name in found.images]
    shared = posixpath.commonpath(folders)
    return f"{shared}/" if shared not in ("", ".") else ""
