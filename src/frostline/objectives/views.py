"""Random views of images, a whole batch at once: cut out, mirrored, recoloured, each image in its own way."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log, pi

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

_GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601
_TO_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))


@dataclass(frozen=True, kw_only=True)
class Views:
    """The views of SimCLR (Chen et al. 2020, arXiv:2002.05709, appendix A) at its strength for small images.

    A cut of 20 to 100 % of the area at an aspect ratio of 3:4 to 4:3, resized back; mirrored half of the time; in four
    of five cases brightness, contrast, saturation (each by a factor) and hue (as a turn of the chroma plane) changed;
    one in five grey. Without blur, as the paper has it for CIFAR-10.

    Attributes:
        mean: Per channel, that the images were normalised with.
        std: Per channel, likewise.
        area: The least share of the area that is cut out.
        colour: How far colours change: factors within 1 +- 0.8 of it, hue within 0.2 of it in turns.
    """

    mean: Sequence[float]
    std: Sequence[float]
    area: float = 0.2
    colour: float = 0.5

    def __call__(self, images: Tensor) -> Tensor:
        """Return a view of each normalised image, of the same shape (B, 3, H, W)."""
        mean, std = (images.new_tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        pixels = self._recoloured(self._cut(images * std + mean))
        return (pixels.clamp(0, 1) - mean) / std

    def _cut(self, pixels: Tensor) -> Tensor:
        area, ratio = _between(pixels, self.area, 1), _between(pixels, -log(4 / 3), log(4 / 3)).exp()
        width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
        mirrored = torch.where(_between(pixels, 0, 1) < 0.5, -width, width)
        none = torch.zeros_like(width)
        across = torch.stack([mirrored, none, _between(pixels, -1, 1) * (1 - width)], dim=1)
        down = torch.stack([none, height, _between(pixels, -1, 1) * (1 - height)], dim=1)
        grid = F.affine_grid(torch.stack([across, down], dim=1), list(pixels.shape), align_corners=False)
        return F.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)

    def _recoloured(self, pixels: Tensor) -> Tensor:
        changed = pixels * self._factor(pixels)
        changed = torch.lerp(_grey(changed).mean(dim=(2, 3), keepdim=True), changed, self._factor(pixels))
        changed = torch.lerp(_grey(changed), changed, self._factor(pixels))
        changed = _turned(changed, 2 * pi * _between(pixels, -0.2, 0.2) * self.colour)
        pixels = torch.where(_drawn(pixels, 0.8), changed, pixels)
        return torch.where(_drawn(pixels, 0.2), _grey(pixels), pixels)

    def _factor(self, pixels: Tensor) -> Tensor:
        reach = 0.8 * self.colour
        return _between(pixels, 1 - reach, 1 + reach).view(-1, 1, 1, 1)


def _between(pixels: Tensor, low: float, high: float) -> Tensor:
    """Draw one number for each image, (B,)."""
    return torch.empty(len(pixels), device=pixels.device).uniform_(low, high)


def _drawn(pixels: Tensor, share: float) -> Tensor:
    """Draw for each image whether it is one of this share of them, (B, 1, 1, 1)."""
    return (_between(pixels, 0, 1) < share).view(-1, 1, 1, 1)


def _grey(pixels: Tensor) -> Tensor:
    weights = pixels.new_tensor(_GREY).view(1, 3, 1, 1)
    return (pixels * weights).sum(dim=1, keepdim=True)


def _turned(pixels: Tensor, angles: Tensor) -> Tensor:
    """Turn the chroma of images (B, 3, H, W) by angles (B,) in radians; luma stays."""
    there = pixels.new_tensor(_TO_YIQ)
    cos, sin, zero, one = angles.cos(), angles.sin(), torch.zeros_like(angles), torch.ones_like(angles)
    rows = [[one, zero, zero], [zero, cos, -sin], [zero, sin, cos]]
    turn = torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)
    return torch.einsum("bij,bjhw->bihw", torch.linalg.inv(there) @ turn @ there, pixels)
