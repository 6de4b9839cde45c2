"""Self-supervision by contrast: which two views are of the same image?"""

from typing import Annotated

import torch
import torch.nn.functional as F  # noqa: N812
from annotated_types import Gt
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from frostline.batch import Batch
from frostline.nn.backbone import Backbone
from frostline.nn.chance import chance
from frostline.nn.trunk import Trunk
from frostline.objectives.averages import MeanShare
from frostline.objectives.pretext import Pretext
from frostline.objectives.views import Views


class Simclr(Pretext):
    """Find the other view of the same image among all views of the batch (Chen et al. 2020, arXiv:2002.05709).

    Args:
        temperature: What similarities are divided by (tau of equation 1).
        projection: Width of the space in which views are compared, behind a hidden layer that is thrown away with it.
    """

    def __init__(self, *, temperature: Annotated[float, Gt(0)] = 0.5, projection: Annotated[int, Gt(0)] = 128) -> None:
        self._temperature = temperature
        self._projection = projection

    def on(self, trunk: Trunk, model: Backbone) -> nn.Module:
        """Return a network from images (B, 3, S, S) to `views` (2, B, projection), of unit length."""
        return _Contrast(trunk, Views(mean=model.input.mean, std=model.input.std), width=self._projection)

    def loss(self, outputs: dict[str, Tensor], batch: Batch) -> Tensor:
        """Return the mean of NT-Xent over all views (equation 1), a scalar."""
        return F.cross_entropy(*self._choices(outputs))

    def own_metrics(self) -> dict[str, Metric]:
        """Return the share of views whose most similar other view in the batch is of the same image."""
        return {"pair_accuracy": MeanShare()}

    def measure_own(self, metrics: MetricCollection, outputs: dict[str, Tensor], batch: Batch) -> None:
        """Add a batch to these."""
        metrics["pair_accuracy"].update(self._right(outputs).float())

    def predictions(self, outputs: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Return how many of the two views of each image find the other, (B,)."""
        return {"views_right": self._right(outputs).view(2, -1).sum(dim=0)}

    def _right(self, outputs: dict[str, Tensor]) -> Tensor:
        similarities, others = self._choices(outputs)
        return similarities.argmax(dim=1) == others

    def _choices(self, outputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return each view's similarities to all (2B, 2B), to itself minus infinity, and its other view (2B,)."""
        views = outputs["views"].flatten(0, 1).float()
        count = len(views)
        itself = torch.eye(count, dtype=torch.bool, device=views.device)
        similarities = (views @ views.T / self._temperature).masked_fill(itself, -torch.inf)
        return similarities, torch.arange(count, device=views.device).roll(count // 2)


class _Contrast(nn.Module):
    def __init__(self, trunk: Trunk, view: Views, *, width: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = nn.Sequential(nn.Linear(trunk.width, trunk.width), nn.ReLU(), nn.Linear(trunk.width, width))
        self.head_modules = ("head",)
        self._view = view

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Look at images (B, 3, S, S) twice, each time otherwise."""
        with chance(images.device, training=self.training):
            looks = torch.cat([self._view(images), self._view(images)])
        views = F.normalize(self.head(self.trunk(looks).pooled), dim=1).view(2, len(images), -1)
        return {"views": views} | ({} if self.training else {"features": self.trunk(images).pooled})
