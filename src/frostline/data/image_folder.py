"""Anybody's own images, sorted into a folder per class."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torchvision.transforms import v2

from frostline.data.examples import Source, chosen
from frostline.data.image_tree import read_tree
from frostline.data.images import ImageData
from frostline.data.pixels import AugmentedImages, Images


@dataclass(kw_only=True, eq=False, repr=False)
class ImageFolder(ImageData):
    """Images below `root`, in a folder per class.

    The class folders may stand in `root` itself, which is then split 70/15/15 by content, or in `train/`, with `val/`
    and `test/` beside it; whichever of the two is absent is carved from `train/`. Images are resized to the shorter
    side and cut to the central square; augmented ones are cut out at random and mirrored half of the time.

    Attributes:
        root: A folder, or a `.tar`, `.tar.gz` or `.zip` archive, which is read into memory.
        classes: Which classes to tell apart; None for all. Their labels are their places in this list.
    """

    root: str
    classes: list[str] | None = None

    def source(self) -> Source:
        """Return the images of the folder or archive, each proven readable."""
        return chosen(read_tree(self.root), self.classes)

    def augmented(self, images: Images, size: int) -> Images:
        """Cut out of the whole image rather than of its central square (Szegedy et al. 2015, arXiv:1409.4842)."""
        return AugmentedImages(images=images, transform=self.augmentation(size))

    def augmentation(self, size: int) -> Callable[[Tensor], Tensor]:
        """Cut out 8 to 100 % of the area at an aspect ratio of 3:4 to 4:3, and mirror half of the time."""
        change: Callable[[Tensor], Tensor] = v2.Compose([v2.RandomResizedCrop(size), v2.RandomHorizontalFlip()])
        return change
