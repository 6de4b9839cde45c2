"""Anybody's own images, sorted into a folder per class."""

from dataclasses import dataclass
from typing import ClassVar

from frostline.data.examples import Source, chosen
from frostline.data.image_tree import OUTSIDE, read_tree
from frostline.data.photographs import Photographs


@dataclass(kw_only=True, eq=False, repr=False)
class ImageFolder(Photographs):
    """Images below `root`, in a folder per class.

    The class folders may stand in `root` itself, which is then split 70/15/15 by content, or in `train/`, with `val/`
    and `test/` beside it; whichever of the two is absent is carved from `train/`.

    Attributes:
        root: A folder, or a `.tar`, `.tar.gz` or `.zip` archive, which is read into memory.
        classes: Which classes to tell apart; None for all. Their labels are their places in this list.
    """

    left_out: ClassVar[str] = OUTSIDE

    root: str
    classes: list[str] | None = None

    def source(self) -> Source:
        """Return the images of the folder or archive, each proven readable."""
        return chosen(read_tree(self.root), self.classes)
