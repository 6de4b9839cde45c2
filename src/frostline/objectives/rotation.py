"""Self-supervision by rotation: by how many quarter turns was the image turned?"""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from frostline.batch import Batch
from frostline.nn.backbone import Backbone
from frostline.nn.trunk import Trunk
from frostline.objectives.pretext import Pretext

TURNS = 4


class Rotation(Pretext):
    """Tell by 0, 90, 180 or 270 degrees an image is rotated; every image comes all four ways (arXiv:1803.07728)."""

    def on(self, trunk: Trunk, model: Backbone) -> nn.Module:
        """Return a network from images (B, 3, S, S) to `logits` (4, B, 4), by turn, image and turn told."""
        return _Rotations(trunk)

    def loss(self, outputs: dict[str, Tensor], batch: Batch) -> Tensor:
        """Return the mean cross-entropy over all turns of all images, a scalar."""
        logits = outputs["logits"]
        return F.cross_entropy(logits.flatten(0, 1), _turns(logits).flatten())

    def own_metrics(self) -> dict[str, Metric]:
        """Return the share of rotated images whose turn is told right."""
        return {"rotation_accuracy": MulticlassAccuracy(TURNS, average="micro")}

    def measure_own(self, metrics: MetricCollection, outputs: dict[str, Tensor], batch: Batch) -> None:
        """Add a batch to these."""
        logits = outputs["logits"]
        metrics["rotation_accuracy"].update(logits.flatten(0, 1).float(), _turns(logits).flatten())

    def predictions(self, outputs: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Return how many of the four turns of each image are told right, (B,)."""
        logits = outputs["logits"]
        return {"turns_right": (logits.argmax(dim=2) == _turns(logits)).sum(dim=0)}


class _Rotations(nn.Module):
    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = nn.Linear(trunk.width, TURNS)
        self.head_modules = ("head",)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Turn images (B, 3, S, S) all four ways and tell them apart."""
        turned = torch.cat([images.rot90(turn, dims=(2, 3)) for turn in range(TURNS)])
        pooled = self.trunk(turned).pooled
        return {"logits": self.head(pooled).unflatten(0, (TURNS, -1)), "features": pooled[: len(images)]}


def _turns(logits: Tensor) -> Tensor:
    """Return the turn of each row of logits (4, B, 4), as (4, B)."""
    return torch.arange(TURNS, device=logits.device).unsqueeze(1).expand(logits.shape[:2])
