"""How well features tell classes apart before anything is trained on them."""

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from sklearn.neighbors import NearestNeighbors
from torch import Tensor
from torchmetrics import Metric

TEMPERATURE = 0.07


class KnnAccuracy(Metric):
    """Share of a split's examples whose class their nearest others vote for.

    Neighbours are those of the highest cosine similarity s, within the split and without the example itself; each votes
    for its class with weight exp(s / 0.07) (Wu et al. 2018, arXiv:1805.01978, section 3.4). Labels are measured with,
    never trained on.

    Args:
        k: How many neighbours vote.
    """

    full_state_update = False
    higher_is_better = True
    features: list[Tensor]
    labels: list[Tensor]

    def __init__(self, k: int = 20) -> None:
        super().__init__()
        self.k = k
        self.add_state("features", default=[], dist_reduce_fx="cat")
        self.add_state("labels", default=[], dist_reduce_fx="cat")

    def update(self, features: Tensor, labels: Tensor) -> None:
        """Add features (B, F) and classes (B,)."""
        self.features.append(F.normalize(features.float(), dim=1))
        self.labels.append(labels)

    def compute(self) -> Tensor:
        """Return the share, a scalar; NaN of fewer than two examples."""
        features, labels = _joined(self.features), _joined(self.labels)
        if len(labels) < 2:
            return torch.tensor(torch.nan, device=labels.device)
        search = NearestNeighbors(n_neighbors=min(self.k, len(labels) - 1), metric="cosine")
        distances, nearest = search.fit(features.cpu().numpy()).kneighbors()  # of each, without itself
        weights = torch.from_numpy(np.exp(-distances / TEMPERATURE)).to(features)  # up to a factor
        voted = labels[torch.from_numpy(nearest).to(labels.device)]
        votes = weights.new_zeros(len(labels), int(labels.max()) + 1).scatter_add(1, voted, weights)
        return (votes.argmax(dim=1) == labels).float().mean()


def _joined(parts: list[Tensor] | Tensor) -> Tensor:
    """Return one tensor of a state, which processes that have been gathered hold joined already."""
    return parts if isinstance(parts, Tensor) else torch.cat(parts)
