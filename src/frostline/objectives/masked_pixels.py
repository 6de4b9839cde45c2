"""Self-supervision by masking: what do the hidden patches of an image look like?"""

from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F  # noqa: N812
from annotated_types import Gt, Lt
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from frostline.batch import Batch
from frostline.nn.backbone import Backbone
from frostline.nn.chance import chance
from frostline.nn.trunk import Trunk
from frostline.objectives.averages import MeanCost
from frostline.objectives.pretext import Pretext


class MaskedPixels(Pretext):
    """Predict the pixels of hidden patches from the rest of the image.

    The loss is the mean squared error over hidden pixels only, as in MAE (He et al. 2022, arXiv:2111.06377, section 3).
    Hidden patches are shown in the mean colour rather than left out, and one linear layer predicts their pixels from
    the last feature map, as in SimMIM (Xie et al. 2022, arXiv:2111.09886, section 3), so that it suits any network.

    Args:
        patch: Side of a patch in pixels.
        share: Share of the patches that is hidden.
    """

    def __init__(self, *, patch: Annotated[int, Gt(0)] = 4, share: Annotated[float, Gt(0), Lt(1)] = 0.6) -> None:
        self._patch = patch
        self._share = share

    def network(self, model: Backbone, classes: Sequence[str]) -> nn.Module:
        """Put the guess on the recipe's feature maps; what the network does after them goes."""
        return self.on(Trunk(model, maps=True), model)

    def on(self, trunk: Trunk, model: Backbone) -> nn.Module:
        """Return a network from images (B, 3, H, W) to `error` (B, 1, H, W), squared, and `hidden`, of the same."""
        return _Guess(trunk, side=model.input.size, patch=self._patch, share=self._share)

    def loss(self, outputs: dict[str, Tensor], batch: Batch) -> Tensor:
        """Return the mean squared error over all hidden pixels, a scalar."""
        hidden = outputs["hidden"]
        return (outputs["error"] * hidden).sum() / hidden.sum()

    def own_metrics(self) -> dict[str, Metric]:
        """Return the mean squared error over hidden pixels, in units of the normalised image."""
        return {"pixel_error": MeanCost()}

    def measure_own(self, metrics: MetricCollection, outputs: dict[str, Tensor], batch: Batch) -> None:
        """Add a batch to these."""
        metrics["pixel_error"].update(outputs["error"].float(), weight=outputs["hidden"])

    def predictions(self, outputs: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Return each image's mean squared error over its hidden pixels, (B,)."""
        hidden = outputs["hidden"]
        return {"pixel_error": (outputs["error"] * hidden).sum(dim=(1, 2, 3)) / hidden.sum(dim=(1, 2, 3))}


class _Guess(nn.Module):
    def __init__(self, trunk: Trunk, *, side: int, patch: int, share: float) -> None:
        super().__init__()
        self.trunk = trunk
        stride = max(1, side // trunk.side)
        self.head = nn.Sequential(nn.Conv2d(trunk.channels, 3 * stride**2, kernel_size=1), nn.PixelShuffle(stride))
        self.head_modules = ("head",)
        self._patch, self._share = patch, share

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Hide patches of images (B, 3, H, W) and guess them."""
        with chance(images.device, training=self.training):
            hidden = self._hidden(images)
        guess = self.head(self.trunk(images * (1 - hidden)).maps)
        guess = F.interpolate(guess, images.shape[2:], mode="bilinear", align_corners=False)
        error = (guess - images).square().mean(dim=1, keepdim=True)
        return {"error": error, "hidden": hidden} | ({} if self.training else {"features": self.trunk(images).pooled})

    def _hidden(self, images: Tensor) -> Tensor:
        """Draw which pixels are hidden, exactly the same number of patches in each image: (B, 1, H, W) of 0 and 1."""
        rows, columns = (-(-side // self._patch) for side in images.shape[2:])
        ranks = torch.rand(len(images), rows * columns, device=images.device).argsort(dim=1).argsort(dim=1)
        patches = (ranks < max(1, round(self._share * rows * columns))).view(-1, 1, rows, columns).to(images.dtype)
        whole = patches.repeat_interleave(self._patch, dim=2).repeat_interleave(self._patch, dim=3)
        return whole[..., : images.shape[2], : images.shape[3]]
