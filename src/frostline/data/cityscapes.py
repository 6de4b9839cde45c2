"""Cityscapes (Cordts et al. 2016, arXiv:1604.01685): streets of 50 cities with 19 classes to tell apart."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from torchvision.datasets import Cityscapes as Published

from frostline.data.examples import Source
from frostline.data.masks import IGNORED, Pair, masked_source
from frostline.data.segmentation import SegmentationData
from frostline.errors import DataError

_IMAGE, _MASK = "_leftImg8bit.png", "_gtFine_labelIds.png"


@dataclass(kw_only=True, eq=False, repr=False)
class Cityscapes(SegmentationData):
    """The finely annotated images, in the layout of their publisher.

    The published test images have no labels; `val` is therefore the test split here, and what choices are made on is
    carved from `train`.

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
    splits = {"train": _pairs(root, folder, "train"), "test": _pairs(root, folder, "val")}
    return masked_source(root, splits, classes=classes, labels=_labels())


def _labels() -> Mapping[int, int]:
    """Return the label of each id; one byte holds the id -1, of licence plates, as 255."""
    return {each.id % 256: IGNORED if each.ignore_in_eval else each.train_id for each in Published.classes}


def _pairs(root: str, folder: Path, split: str) -> list[Pair]:
    images = sorted((folder / "leftImg8bit" / split).glob(f"*/*{_IMAGE}"))
    if not images:
        layout = f"leftImg8bit/{split}/<city>/*{_IMAGE}"
        raise DataError(f"data.root={root}: there is no {layout}; unpack leftImg8bit_trainvaltest.zip there")
    pairs = []
    for image in images:
        name = f"{split}/{image.parent.name}/{image.name.removesuffix(_IMAGE)}"
        mask = folder / "gtFine" / f"{name}{_MASK}"
        if not mask.is_file():
            raise DataError(
                f"data.root={root}: '{image.name}' has no gtFine/{name}{_MASK}; unpack gtFine_trainvaltest.zip"
            )
        pairs.append(Pair(id=name, image=image, mask=mask))
    return pairs
