"""One split of labelled images."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms import v2

from frostline.batch import Batch
from frostline.data.examples import Examples
from frostline.data.order import randomness_kept, seed_global_generators
from frostline.data.pixels import Images
from frostline.data.split import Split
from frostline.nn.backbone import ImageInput
from frostline.seeds import stream


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """Mixes each image and label of a batch with those of another one of it.

    Attributes:
        kind: `mixup` blends pixels (Zhang et al. 2017, arXiv:1710.09412), `cutmix` pastes a rectangle (Yun et al. 2019,
            arXiv:1905.04899); both as torchvision has them.
        alpha: Parameter of the Beta distribution from which the share is drawn.
        classes: How many classes there are.
        seed: Draws the shares, for each batch anew.
    """

    kind: Literal["mixup", "cutmix"]
    alpha: float
    classes: int
    seed: int

    def __call__(self, batch: Batch, *, first: int) -> Batch:
        """Return the batch with mixed images and targets of shape (B, C); `first` is the key of its first example."""
        kind = v2.MixUp if self.kind == "mixup" else v2.CutMix
        with randomness_kept():
            seed_global_generators(stream(self.seed, f"mix/{first}"))
            inputs, targets = kind(alpha=self.alpha, num_classes=self.classes)(batch.inputs, batch.targets)
        return Batch(inputs, targets, batch.places)


class ImageSplit(Split):
    """One split of labelled images.

    Args:
        examples: What is in it.
        pixels: The images by row, of one size.
        spec: How they are normalised.
        seed: Draws the random change of each image in each epoch; None where `pixels` draws nothing.
        mixing: What mixes the images and labels of a batch, or None.
    """

    def __init__(
        self,
        examples: Examples,
        *,
        pixels: Images,
        spec: ImageInput,
        seed: int | None,
        mixing: Mixing | None = None,
    ) -> None:
        super().__init__(examples, seed=seed)
        self.pixels = pixels
        self.spec = spec
        self.mixing = mixing

    def __getitems__(self, keys: Sequence[int]) -> Batch:
        """Return a whole batch, mixed where that was asked for."""
        batch = super().__getitems__(keys)
        return batch if self.mixing is None else self.mixing(batch, first=keys[0])

    @property
    def mixes(self) -> bool:
        """Whether what is shown of an example depends on the others of its batch."""
        return self.mixing is not None

    def without_inputs(self, keys: Sequence[int]) -> Batch:
        """Return a batch with NaN for images, so that whoever looks at them notices."""
        size, places = self.spec.size, np.asarray(keys, dtype=np.int64) % len(self)
        images = torch.full((), torch.nan).expand(len(places), 3, size, size)
        return Batch(images, torch.from_numpy(self.examples.targets(places)), torch.from_numpy(places))

    def show(self, row: int) -> NDArray[np.uint8]:
        """Return an image of shape (3, H, W)."""
        return self.pixels[row]

    def __getitem__(self, key: int) -> Batch:
        """Return one example, without the first axis."""
        inputs, targets, places = self.__getitems__([key])
        return Batch(inputs[0], targets[0], places[0])

    def collate(self, shown: Sequence[NDArray[np.uint8]], places: NDArray[np.int64]) -> Batch:
        """Return normalised float images of shape (B, 3, H, W), the examples' targets and places of shape (B,)."""
        targets = torch.from_numpy(self.examples.targets(places))
        pixels = np.empty((len(shown), *shown[0].shape), np.uint8)  # left to itself, stack orders axes as it finds them
        images = torch.from_numpy(np.stack(shown, out=pixels))
        return Batch(normalised(images, self.spec), targets, torch.from_numpy(places))


def normalised(pixels: Tensor, spec: ImageInput) -> Tensor:
    """Return uint8 images of shape (..., 3, H, W) as a network takes them."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (spec.mean, spec.std))
    return pixels.to(torch.float32).div_(255).sub_(mean).div_(std)
