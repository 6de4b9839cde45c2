"""What every dataset of images with boxes shares."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from annotated_types import Gt
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from frostline.batch import Batch
from frostline.data.annotations import Annotations
from frostline.data.examples import Examples
from frostline.data.pixels import HELD_BYTES, Images, as_tensor
from frostline.data.split import Split
from frostline.data.splitted import SPLITS, SplittedData
from frostline.errors import DataError, RequestError
from frostline.nearest import nearest
from frostline.nn.detection import DetectionInput

Shown = tuple[Tensor, dict[str, Tensor]]
"""An image, uint8 of shape (3, h, w), and its targets."""


@dataclass(kw_only=True, eq=False, repr=False)
class DetectionData(SplittedData):
    """Images with boxes, in three splits that share no image.

    Boxes are in the pixels of the image as it is stored: as torchvision's datasets do, EXIF rotation is left alone.
    What is outside the image is cut off, what has no area is left out, both counted in `data.json`. Objects for
    evaluation only (`difficult` of VOC, `iscrowd` of COCO) are not trained on, and detections in them are forgiven.

    Attributes:
        image_size: Shorter side in pixels that the network sees; None for what the network expects.
        augment: Mirror every training image in half of the epochs.
        classes: Names of the classes to find, in the order of their labels; objects of others are background. None for
            all that training images have, by name.
    """

    tasks: ClassVar[tuple[str, ...]] = ("detection",)

    image_size: Annotated[int, Gt(0)] | None = None
    augment: bool = False
    classes: list[str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._expected: DetectionInput | None = None

    @property
    def spec(self) -> DetectionInput:
        """How the network is shown images."""
        assert self._expected is not None, "call expect() with the network's DetectionInput before the data is used"
        return self._expected

    def expect(self, spec: Any) -> None:
        """Take the size, where the user chose none, from what the network expects.

        Raises:
            RequestError: The network does not take images with boxes.
        """
        if not isinstance(spec, DetectionInput):
            raise RequestError("model: takes no images with boxes, which the data has; choose another model, or data")
        self._expected = spec if self.image_size is None else spec.of_size(self.image_size)
        self._splits = {}

    def split(self, examples: Examples, *, random: bool) -> "DetectionSplit":
        """Return images and boxes as a network takes them, mirrored at random where that was asked for."""
        return DetectionSplit(examples, spec=self.spec, seed=self.seed if self.augment and random else None)

    def fingerprint(self) -> str:
        """Return one SHA-256 over class names, images and boxes of all splits as drawn."""
        hashes = [_boxes_hash(self.drawn(split).examples) for split in SPLITS]
        return sha256("\n".join([super().fingerprint(), *hashes]).encode()).hexdigest()

    def shown(self) -> dict[str, Any]:
        """Return how images are shown, and what was found in the annotations."""
        found: Annotations = self.source().splits["train"].content
        size = {"image_size": self.spec.size, "longest_side": self.spec.longest, "square": self.spec.square}
        boxes = {
            "clipped": found.clipped,
            "degenerate": len(found.degenerate),
            "degenerate_boxes": list(found.degenerate),
            "of_other_classes": dict(found.left_out),
        }
        return {**size, "augment": self.augment, "boxes": boxes}

    def _describe(self, split: str) -> dict[str, Any]:
        examples = self.drawn(split).examples
        objects = [examples.content.objects[row] for row in examples.rows]
        counts = np.bincount(
            np.concatenate([each.labels for each in objects]).astype(np.int64), minlength=len(self.class_names)
        )
        return super()._describe(split) | {
            "objects": dict(zip(self.class_names, counts.tolist(), strict=True)),
            "for_evaluation_only": int(sum(each.crowd.sum() for each in objects)),
            "without_objects": sum(not len(each.labels) for each in objects),
            "boxes": _boxes_hash(examples),
        }


class DetectionSplit(Split):
    """One split of images with boxes.

    Args:
        examples: What is in it.
        spec: How images are shown.
        seed: Draws which images are mirrored in each epoch; None to mirror none.
    """

    def __init__(self, examples: Examples, *, spec: DetectionInput, seed: int | None) -> None:
        super().__init__(examples, seed=seed)
        self._annotations: Annotations = examples.content
        self._spec = spec
        self._images = _resized(self._annotations.images, spec)

    @cached_property
    def sizes(self) -> frozenset[tuple[int, int]]:
        """Heights and widths at which its images are shown."""
        stored = {self._annotations.objects[row].size for row in self.examples.rows.tolist()}
        return frozenset(self._spec.shape(*size) for size in stored)

    def show(self, row: int) -> Shown:
        """Return an image and its targets, mirrored or not."""
        image = self._images[row]
        targets = self._targets(row, image)
        return mirrored(image, targets) if self.seed is not None and torch.rand(()) < 0.5 else (image, targets)

    def collate(self, shown: Sequence[Shown], places: NDArray[np.int64]) -> Batch:
        """Return B images of any sizes with their targets.

        Returns:
            Inputs are `images`, float tensors (3, h, w) in [0, 1], and `targets`, for each image the `boxes` (n, 4) and
            `labels` (n,) to train on. The batch's targets have for each image all `boxes` and `labels`, `iscrowd` (n,),
            and `scale` (2,): pixels shown for each pixel of width and height.
        """
        images = [image.to(torch.float32).div_(255) for image, _ in shown]
        targets = [targets for _, targets in shown]
        return Batch(
            {"images": images, "targets": [_trained_on(each) for each in targets]}, targets, torch.from_numpy(places)
        )

    def _targets(self, row: int, image: Tensor) -> dict[str, Tensor]:
        objects = self._annotations.objects[row]
        height, width = image.shape[-2:]
        scale = torch.tensor([width / objects.size[1], height / objects.size[0]])
        return {
            "boxes": torch.from_numpy(objects.boxes) * scale.repeat(2),
            "labels": torch.from_numpy(objects.labels),
            "iscrowd": torch.from_numpy(objects.crowd).long(),
            "scale": scale,
        }


def mirrored(image: Tensor, targets: dict[str, Tensor]) -> Shown:
    """Return an image and its boxes, left and right exchanged."""
    x1, y1, x2, y2 = targets["boxes"].unbind(1)
    width = image.shape[-1]
    return image.flip(-1), {**targets, "boxes": torch.stack([width - x2, y1, width - x1, y2], 1)}


def folder_of(root: str) -> Path:
    """Return the folder that `data.root` names.

    Raises:
        DataError: It is not there.
    """
    folder = Path(root).expanduser()
    if not folder.is_dir():
        siblings = [each.name for each in folder.parent.iterdir()] if folder.parent.is_dir() else []
        meant = nearest(folder.name, siblings)
        hint = f"; did you mean '{folder.parent / meant}'?" if meant else ""
        raise DataError(f"data.root={root}: no such folder{hint}")
    return folder


@dataclass(frozen=True, kw_only=True, eq=False)
class _ResizedImages:
    """Images at the size at which they are shown, held in memory as uint8 while there is room."""

    images: Images
    spec: DetectionInput
    held: dict[int, Tensor]

    def __getitem__(self, row: int) -> Tensor:
        """Return the image as uint8 of shape (3, h, w)."""
        if row in self.held:
            return self.held[row]
        image = as_tensor(self.images[row])
        size = list(self.spec.shape(*image.shape[-2:]))
        resized: Tensor = transforms.resize(image, size, antialias=True).contiguous()
        if (len(self.held) + 1) * resized.numel() <= HELD_BYTES:
            self.held[row] = resized
        return resized


@lru_cache(maxsize=8)
def _resized(images: Images, spec: DetectionInput) -> _ResizedImages:
    """Return the images at one size; the same object for the same source, so that runs share what is decoded."""
    return _ResizedImages(images=images, spec=spec, held={})


def _trained_on(targets: dict[str, Tensor]) -> dict[str, Tensor]:
    kept = targets["iscrowd"] == 0
    return {name: targets[name][kept] for name in ("boxes", "labels")}


def _boxes_hash(examples: Examples) -> str:
    digests = (examples.content.objects[row].digest() for row in examples.rows)
    return sha256("\n".join(digests).encode()).hexdigest()
