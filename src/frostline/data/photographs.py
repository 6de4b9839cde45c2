"""What images of any size have in common, as cameras make them."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torchvision.transforms import v2

from frostline.data.images import ImageData
from frostline.data.pixels import AugmentedImages, Images


@dataclass(kw_only=True, eq=False, repr=False)
class Photographs(ImageData):
    """Images of any size.

    They are resized to the shorter side and cut to the central square; augmented ones are cut out at random and
    mirrored half of the time.
    """

    def augmented(self, images: Images, size: int) -> Images:
        """Cut out of the whole image rather than of its central square (Szegedy et al. 2015, arXiv:1409.4842)."""
        return AugmentedImages(images=images, transform=self.augmentation(size))

    def augmentation(self, size: int) -> Callable[[Tensor], Tensor]:
        """Cut out 8 to 100 % of the area at an aspect ratio of 3:4 to 4:3, and mirror half of the time."""
        change: Callable[[Tensor], Tensor] = v2.Compose([v2.RandomResizedCrop(size), v2.RandomHorizontalFlip()])
        return change
