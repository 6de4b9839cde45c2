"""What every detection network takes and gives, whatever its kind."""

from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class DetectionInput:
    """The images that a detection network expects; it normalises them itself.

    Attributes:
        size: Shorter side in pixels; both sides, where images are made square.
        longest: The longer side is at most this many pixels, and the shorter one less where that asks for it.
        square: Whether images lose their proportions.
    """

    size: int
    longest: int
    square: bool = False

    def of_size(self, size: int) -> "DetectionInput":
        """Return the same for images of another size; the bound of the longer side keeps its proportion."""
        return replace(self, size=size, longest=round(self.longest * size / self.size))

    def shape(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width at which an image of these is shown."""
        if self.square:
            return self.size, self.size
        scale = min(self.size / min(height, width), self.longest / max(height, width))
        return max(1, round(height * scale)), max(1, round(width * scale))


class Detected(NamedTuple):
    """What a detection network makes of B images.

    Attributes:
        losses: The network's own losses, scalars, whose sum is trained on; empty where there were no targets.
        detections: Per image `boxes` (n, 4) as x1, y1, x2, y2 in pixels, `scores` (n,) and `labels` (n,), the highest
            score first; empty while the network trains.
    """

    losses: dict[str, Tensor]
    detections: list[dict[str, Tensor]]
