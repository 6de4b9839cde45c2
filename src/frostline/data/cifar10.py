"""CIFAR-10 (Krizhevsky 2009), as its authors packed it or as image files."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import ClassVar

import numpy as np
from torch import Tensor
from torchvision.datasets import CIFAR10
from torchvision.transforms import v2

from frostline.data.examples import Examples, Source, chosen
from frostline.data.image_tree import OUTSIDE, read_tree
from frostline.data.images import ImageData
from frostline.data.pixels import ArrayImages
from frostline.errors import DataError


@dataclass(kw_only=True, eq=False, repr=False)
class Cifar10(ImageData):
    """50,000 training and 10,000 test images of 32x32 pixels in ten classes; val is carved from the training images.

    Attributes:
        root: The folder of torchvision's `cifar-10-batches-py`, or a folder or archive with `train/<class>/` and
            `test/<class>/` images anywhere inside.
        download: Fetch the original into `root` where nothing is there yet.
        classes: Which classes to tell apart; None for all ten. Their labels are their places in this list.
    """

    left_out: ClassVar[str] = OUTSIDE

    root: str = "data"
    download: bool = True
    classes: list[str] | None = None

    def prepare_data(self) -> None:
        """Fetch the original where it is asked for and `root` holds nothing.

        Raises:
            DataError: It cannot be fetched.
        """
        if self.download and not _is_there(Path(self.root).expanduser()):
            _download(self.root)

    def source(self) -> Source:
        """Return the official training and test images."""
        root = Path(self.root).expanduser()
        whole = _read_batches(self.root, root.resolve()) if _batches(root).is_dir() else _read_images(self.root)
        return chosen(whole, self.classes)

    def augmentation(self, size: int) -> Callable[[Tensor], Tensor]:
        """Shift by up to an eighth of the side and mirror half of the time (He et al. 2016, section 4.2)."""
        change: Callable[[Tensor], Tensor] = v2.Compose(
            [v2.RandomCrop(size, padding=size // 8), v2.RandomHorizontalFlip()]
        )
        return change


def _batches(root: Path) -> Path:
    return root / str(CIFAR10.base_folder)


def _is_there(root: Path) -> bool:
    return root.is_file() or _batches(root).is_dir() or (root.is_dir() and any(root.rglob("train")))


def _download(root: str) -> None:
    try:
        CIFAR10(Path(root).expanduser(), download=True)
    except (OSError, RuntimeError) as error:
        by_hand = f"get {CIFAR10.url} and put it into {root}/, or set data.root to a folder or an archive of its images"
        raise DataError(f"data.root={root}: CIFAR-10 could not be downloaded ({error}); {by_hand}") from error


@lru_cache(maxsize=2)
def _read_batches(root: str, path: Path) -> Source:
    # The batches are pickles; torchvision opens them only after their MD5 sums have proven them the published ones.
    try:
        train, test = CIFAR10(path, train=True), CIFAR10(path, train=False)
    except RuntimeError as error:
        way_out = f"remove {CIFAR10.base_folder}/ to have it downloaded again"
        raise DataError(f"data.root={root}: the batches of CIFAR-10 are damaged or incomplete; {way_out}") from error
    splits = {"train": _examples("train", train), "test": _examples("test", test)}
    return Source(name="CIFAR-10", classes=tuple(train.classes), splits=splits)


def _examples(split: str, batches: CIFAR10) -> Examples:
    array = np.ascontiguousarray(batches.data)
    return Examples(
        content=ArrayImages(array=array),
        rows=np.arange(len(array)),
        labels=np.array(batches.targets, dtype=np.int64),
        digests=tuple(sha256(image.tobytes()).hexdigest() for image in array),
        ids=tuple(f"{split}/{row:05d}" for row in range(len(array))),
    )


def _read_images(root: str) -> Source:
    source = read_tree(root)
    if "test" not in source.splits:
        raise DataError(f"data.root={root}: CIFAR-10 needs train/<class>/ and test/<class>/ in it; test/ is not there")
    return source
