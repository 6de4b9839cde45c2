"""What every dataset of images with masks shares."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from hashlib import sha256
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from annotated_types import Gt
from numpy.typing import NDArray
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as transforms

from frostline.batch import NO_LABEL, Batch
from frostline.data.examples import Examples
from frostline.data.image_split import normalised
from frostline.data.masks import MaskedImages
from frostline.data.pixels import HELD_BYTES
from frostline.data.split import Split
from frostline.data.splitted import SPLITS, SplittedData
from frostline.errors import DataError, RequestError
from frostline.nn.backbone import ImageInput

Shown = tuple[Tensor, Tensor]
"""An image, uint8 of shape (3, h, w), and the labels of its pixels, int16 of shape (h, w)."""


@dataclass(kw_only=True, eq=False, repr=False)
class SegmentationData(SplittedData):
    """Images with a class for every pixel, in three splits that share no image.

    Losses and metrics are those of the size that the network is shown: masks are resized along, by the nearest pixel.
    Images of several sizes in a batch are padded at the right and the bottom with pixels to ignore.

    Attributes:
        image_size: Shorter side in pixels that the network sees, proportions kept; None for what the network expects.
        augment: Show of every training image another part in each epoch, of a quarter to all of its area and stretched
            by a third at most, mirrored half of the time.
    """

    tasks: ClassVar[tuple[str, ...]] = ("segmentation",)

    image_size: Annotated[int, Gt(0)] | None = None
    augment: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._expected: ImageInput | None = None

    @property
    def spec(self) -> ImageInput:
        """What the network is shown: shorter side in pixels, mean and standard deviation per channel."""
        assert self._expected is not None, "call expect() with the network's ImageInput before the data is used"
        return self._expected

    def expect(self, spec: Any) -> None:
        """Take the normalisation, and the size where the user chose none, from what the network expects.

        Raises:
            RequestError: The network takes no images.
        """
        if not isinstance(spec, ImageInput):
            raise RequestError("model: takes no images, which the data has; choose another model, or data")
        self._expected = ImageInput(size=self.image_size or spec.size, mean=spec.mean, std=spec.std)
        self._splits = {}

    def setup(self, stage: str | None = None) -> None:
        """Draw the splits, once.

        Raises:
            DataError: The data is not there, not readable or too little for what was asked, or no pixel of a split has
                a class.
        """
        super().setup(stage)
        for split in SPLITS:
            examples = self.drawn(split).examples
            if examples.content.void.issuperset(examples.rows.tolist()):
                name, many = self.source().name, f"{len(examples)} image(s)"
                raise DataError(f"{name}: no pixel of the {many} of {split} has a class; add images that have some")

    def split(self, examples: Examples, *, random: bool) -> "SegmentationSplit":
        """Return images and masks as a network takes them, changed at random where that was asked for."""
        return SegmentationSplit(examples, spec=self.spec, seed=self.seed if self.augment and random else None)

    def shown(self) -> dict[str, Any]:
        """Return size, normalisation, whether images are augmented, and how many have no pixel of any class."""
        mean, std = list(self.spec.mean), list(self.spec.std)
        void = len(self.source().splits["train"].content.void)
        return {"image_size": self.spec.size, "mean": mean, "std": std, "augment": self.augment, "void_images": void}

    def _describe(self, split: str) -> dict[str, Any]:
        return super()._describe(split) | {"masks": _masks_hash(self.drawn(split).examples)}


class SegmentationSplit(Split):
    """One split of images with masks.

    Args:
        examples: What is in it.
        spec: How images are shown.
        seed: Draws the random change of each image in each epoch; None to change nothing.
    """

    def __init__(self, examples: Examples, *, spec: ImageInput, seed: int | None) -> None:
        super().__init__(examples, seed=seed)
        self.spec = spec
        self._pairs = _resized(examples.content, spec.size)

    @cached_property
    def sizes(self) -> frozenset[tuple[int, int]]:
        """Heights and widths at which its images are shown."""
        return frozenset(map(self._pairs.shape, self.examples.rows.tolist()))

    def show(self, row: int) -> Shown:
        """Return an image and the labels of its pixels."""
        image, labels = self._pairs[row]
        return (image, labels) if self.seed is None else _changed(image, labels)

    def collate(self, shown: Sequence[Shown], places: NDArray[np.int64]) -> Batch:
        """Return normalised images (B, 3, H, W) and labels, int64 of shape (B, H, W)."""
        height, width = (max(labels.shape[axis] for _, labels in shown) for axis in (0, 1))
        images = [_padded(normalised(image, self.spec), height, width, 0) for image, _ in shown]
        labels = [_padded(labels, height, width, NO_LABEL) for _, labels in shown]
        return Batch(torch.stack(images), torch.stack(labels).long(), torch.from_numpy(places))


@dataclass(frozen=True, kw_only=True, eq=False)
class _ResizedPairs:
    """Images and labels at the size at which they are shown, held in memory while there is room."""

    pairs: MaskedImages
    size: int
    held: dict[int, Shown] = field(default_factory=dict)

    def __getitem__(self, row: int) -> Shown:
        if row in self.held:
            return self.held[row]
        image, labels = self.pairs[row]
        pixels = transforms.resize(transforms.pil_to_tensor(image), list(self.shape(row)), antialias=True)
        nearest = F.interpolate(torch.from_numpy(labels)[None, None].float(), pixels.shape[-2:], mode="nearest-exact")
        shown = pixels.contiguous(), nearest[0, 0].to(torch.int16)
        if (len(self.held) + 1) * 2 * pixels.numel() <= HELD_BYTES:
            self.held[row] = shown
        return shown

    def shape(self, row: int) -> tuple[int, int]:
        """Return height and width at which an image is shown."""
        height, width = self.pairs.shapes[row]
        shorter = min(height, width)
        return int(self.size * height / shorter), int(self.size * width / shorter)


@lru_cache(maxsize=8)
def _resized(pairs: MaskedImages, size: int) -> _ResizedPairs:
    """Return the pairs at one size; the same object for the same source, so that runs share what is decoded."""
    return _ResizedPairs(pairs=pairs, size=size)


def _changed(image: Tensor, labels: Tensor) -> Shown:
    """Cut out a quarter to all of the area, resized back, and mirror half of the time; image and labels alike.

    What is cut out has three quarters to four thirds of the image's own ratio of width to height, so that nothing is
    stretched by more than a third.
    """
    height, width = size = list(labels.shape)
    ratio = (3 / 4 * width / height, 4 / 3 * width / height)
    change = v2.Compose([v2.RandomResizedCrop(size, scale=(0.25, 1), ratio=ratio), v2.RandomHorizontalFlip()])
    changed, mask = change(tv_tensors.Image(image), tv_tensors.Mask(labels[None].float()))
    return changed.as_subclass(Tensor), mask[0].as_subclass(Tensor).to(torch.int16)


def _padded(tensor: Tensor, height: int, width: int, value: int) -> Tensor:
    return F.pad(tensor, (0, width - tensor.shape[-1], 0, height - tensor.shape[-2]), value=value)


def _masks_hash(examples: Examples) -> str:
    digests = (examples.content.digests[row] for row in examples.rows)
    return sha256("\n".join(digests).encode()).hexdigest()
