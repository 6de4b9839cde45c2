"""Cityscapes (Cordts et al. 2016, arXiv:1604.01685): streets of 50 cities with 19 classes to tell apart."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from torchvision.datasets import Cityscapes as Published

from frostline.batch import NO_LABEL
from frostline.data.examples import Source
from frostline.data.masks import Pair, masked_source
from frostline.data.segmentation import SegmentationData
from frostline.errors import DataError

_IMAGE = "_leftImg8bit.png"
_BY_ID, _BY_CLASS = "_gtFine_labelIds.png", "_gtFine_labelTrainIds.png"


@dataclass(kw_only=True, eq=False, repr=False)
class Cityscapes(SegmentationData):
    """The finely annotated images, in the layout of their publisher.

    The published test images have no labels; `val` is therefore the test split here, and what choices are made on is
    carved from `train`. Where `*_labelIds.png` are not there, `*_labelTrainIds.png` are read, which publish the same
    19 classes by their numbers.

    Attributes:
        root: The folder that holds `leftImg8bit/{train,val}/<city>/` and `gtFine/{train,val}/<city>/`.
    """

    root: str

    def source(self) -> Source:
        """Return the images of train and val, each proven readable, with the 19 classes that are evaluated."""
        return _read(self.root, Path(self.root).expanduser().resolve())


@lru_cache(maxsize=2)
def _read(root: str, folder: Path) -> Source:
    evaluated = [each for each in Published.classes if not each.ignore_in_eval]
    classes = [each.name for each in sorted(evaluated, key=lambda each: each.train_id)]
    suffix = _suffix(folder)
    splits = {split: _pairs(root, folder, theirs, suffix) for split, theirs in (("train", "train"), ("test", "val"))}
    return masked_source(root, splits, classes=classes, labels=_labels(suffix))


def _suffix(folder: Path) -> str:
    """Return which masks to read: by id, as they are published, unless there are only those by class."""
    by_id, by_class = (any(folder.glob(f"gtFine/train/*/*{suffix}")) for suffix in (_BY_ID, _BY_CLASS))
    return _BY_CLASS if by_class and not by_id else _BY_ID


def _labels(suffix: str) -> Mapping[int, int]:
    """Return the label of each value; one byte holds the id -1, of licence plates, as 255."""
    number = "train_id" if suffix == _BY_CLASS else "id"
    classes = Published.classes
    return {getattr(each, number) % 256: NO_LABEL if each.ignore_in_eval else each.train_id for each in classes}


def _pairs(root: str, folder: Path, split: str, suffix: str) -> list[Pair]:
    images = sorted((folder / "leftImg8bit" / split).glob(f"*/*{_IMAGE}"))
    if not images:
        layout = f"leftImg8bit/{split}/<city>/*{_IMAGE}"
        raise DataError(f"data.root={root}: there is no {layout}; unpack leftImg8bit_trainvaltest.zip there")
    pairs = []
    for image in images:
        name = f"{split}/{image.parent.name}/{image.name.removesuffix(_IMAGE)}"
        mask = folder / "gtFine" / f"{name}{suffix}"
        if not mask.is_file():
            raise DataError(
                f"data.root={root}: '{image.name}' has no gtFine/{name}{suffix}; unpack gtFine_trainvaltest.zip"
            )
        pairs.append(Pair(id=name, image=image, mask=mask))
    return pairs
