"""Images in a folder per class, with or without a folder per split above: read and checked once per process."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from frostline.data.examples import Examples, Source
from frostline.data.intact import intact_digests
from frostline.data.listing import IMAGE_SUFFIXES, LEFT_OUT, Listing, listing
from frostline.data.pixels import EncodedImages, Images
from frostline.errors import DataError

SPLIT_FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
OUTSIDE = f"{LEFT_OUT} and lie in a class folder"
"""What there is to say of what a tree does not hold, after their number."""


def read_tree(root: str) -> Source:
    """Read `[train|val|test]/<class>/.../<image>` in a folder or an archive, wherever inside the classes begin.

    Raises:
        DataError: It does not hold what it should; every problem of the layout or of the images is named.
    """
    return _read(root, Path(root).expanduser().resolve())


@lru_cache(maxsize=4)
def _read(root: str, path: Path) -> Source:
    found = listing(path if path.exists() else Path(root))
    folders = _split_folders(root, found)
    classes = _classes(root, found, folders)
    labels = {split: _labelled(found, folder) for split, folder in folders.items()}
    files = {name: found.images[name] for split in labels.values() for name in split}
    digests = intact_digests(f"data.root={root}", list(files), list(files.values()))
    images = EncodedImages(files=tuple(files.values()), names=tuple(files))
    rows = {name: row for row, name in enumerate(files)}
    index = {name: label for label, name in enumerate(classes)}
    splits = {
        split: _examples(images, rows, {name: index[folder] for name, folder in of.items()}, digests)
        for split, of in labels.items()
    }
    ignored = tuple(sorted({*found.ignored, *found.images} - files.keys()))
    places = {split: f"data.root={root}/{folder}" for split, folder in folders.items()}
    return Source(name=root, classes=tuple(classes), splits=splits, ignored=ignored, places=places)


def _split_folders(root: str, found: Listing) -> dict[str, str]:
    """Find the folder of each split, as a prefix; where the class folders come first, all is `train`."""
    base = ""
    while True:
        children = _children(found, base)
        named = [name for name in children if name.lower() in SPLIT_FOLDERS]
        if any(name.lower() == "train" and _children(found, f"{base}{name}/") for name in named):
            return folder_of_each_split(root, base, named)
        if named and named == children and all(_children(found, f"{base}{name}/") for name in named):
            raise DataError(f"data.root={root}: holds {' and '.join(named)}, but no train; add a folder of this name")
        if len(children) != 1 or not _children(found, f"{base}{children[0]}/"):
            return {"train": base}
        base = f"{base}{children[0]}/"


def folder_of_each_split(root: str, base: str, names: Sequence[str]) -> dict[str, str]:
    """Return the prefix of each split, of folders in `base` that are named after splits.

    Raises:
        DataError: Two of them stand for one split.
    """
    folders: dict[str, str] = {}
    for name in names:
        split = SPLIT_FOLDERS[name.lower()]
        if split in folders:
            raise DataError(
                f"data.root={root}: '{folders[split][:-1]}' and '{base}{name}' both stand for {split}; keep one of them"
            )
        folders[split] = f"{base}{name}/"
    return folders


def _children(found: Listing, prefix: str) -> list[str]:
    inside = (folder.removeprefix(prefix) for folder in found.folders if folder.startswith(prefix))
    return sorted(name for name in inside if "/" not in name)


def _classes(root: str, found: Listing, folders: Mapping[str, str]) -> list[str]:
    classes = _children(found, folders["train"])
    if not classes:
        way_out = "put the images of each class into a folder of its own, there or below train/"
        raise DataError(f"data.root={root}: there is no folder per class; {way_out}")
    if len(classes) == 1:
        raise DataError(f"data.root={root}: '{classes[0]}' is the only class folder; add the folder of another class")
    _check_filled(root, folders["train"], sorted(set(classes) - set(_labelled(found, folders["train"]).values())))
    for split, folder in folders.items():
        _check_known(root, split, folder, set(_labelled(found, folder).values()), set(classes))
    return classes


def _labelled(found: Listing, folder: str) -> dict[str, str]:
    """Return the class of every image that lies in a class folder of `folder`, by the image's path."""
    inside = ((name, name.removeprefix(folder).split("/")) for name in found.images if name.startswith(folder))
    return {name: parts[0] for name, parts in inside if len(parts) > 1}


def _check_filled(root: str, folder: str, empty: Sequence[str]) -> None:
    if empty:
        way_out = f"add some ({', '.join(IMAGE_SUFFIXES)}), or remove the folder"
        raise DataError(f"data.root={root}: class folder '{folder}{empty[0]}' holds no image; {way_out}")


def _check_known(root: str, split: str, folder: str, present: set[str], classes: set[str]) -> None:
    if not present:
        way_out = f"add some, or remove the folder to have {split} carved from train"
        raise DataError(f"data.root={root}: '{folder}' holds no image in a class folder; {way_out}")
    if unknown := sorted(present - classes):
        way_out = f"add images of it to train, or remove it from {split}"
        raise DataError(f"data.root={root}: {split} has a class '{unknown[0]}' that train lacks; {way_out}")


def _examples(images: Images, rows: Mapping[str, int], labels: Mapping[str, int], digests: Sequence[str]) -> Examples:
    places = [rows[name] for name in labels]
    return Examples(
        content=images,
        rows=np.array(places, dtype=np.int64),
        labels=np.array(list(labels.values()), dtype=np.int64),
        digests=tuple(digests[place] for place in places),
        ids=tuple(labels),
    )
