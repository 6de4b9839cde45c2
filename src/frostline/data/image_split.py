"""One split of labelled images."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from frostline.batch import Batch
from frostline.data.examples import Examples
from frostline.data.pixels import Images
from frostline.data.split import Split
from frostline.nn.backbone import ImageInput


class ImageSplit(Split):
    """One split of labelled images.

    Args:
        examples: What is in it.
        pixels: The images by row, of one size.
        spec: How they are normalised.
        seed: Draws the random change of each image in each epoch; None where `pixels` draws nothing.
    """

    def __init__(self, examples: Examples, *, pixels: Images, spec: ImageInput, seed: int | None) -> None:
        super().__init__(examples, seed=seed)
        self.pixels = pixels
        self.spec = spec

    def show(self, row: int) -> Tensor:
        """Return an image, uint8 of shape (3, H, W)."""
        return self.pixels[row]

    def __getitem__(self, key: int) -> Batch:
        """Return one example, without the first axis."""
        inputs, targets, places = self.__getitems__([key])
        return Batch(inputs[0], targets[0], places[0])

    def collate(self, shown: Sequence[Tensor], places: NDArray[np.int64]) -> Batch:
        """Return normalised float images of shape (B, 3, H, W), labels and places of shape (B,)."""
        labels = torch.from_numpy(self.examples.labels[places])
        return Batch(normalised(torch.stack(list(shown)), self.spec), labels, torch.from_numpy(places))


def normalised(pixels: Tensor, spec: ImageInput) -> Tensor:
    """Return uint8 images of shape (..., 3, H, W) as a network takes them."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (spec.mean, spec.std))
    return pixels.to(torch.float32).div_(255).sub_(mean).div_(std)
