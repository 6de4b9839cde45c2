"""How well features tell classes apart before anything is trained on them."""

import torch
import torch.nn.functional as F  # noqa: N812
from sklearn.neighbors import NearestNeighbors
from torch import Tensor
from torchmetrics import Metric


class KnnAccuracy(Metric):
    """Share of a split's examples that most of their nearest others share the class of.

    Neighbours are those of the highest cosine similarity, within the split and without the example itself; the class
    that most of them have wins (Wu et al. 2018, arXiv:1805.01978, section 3.4, unweighted). Labels are measured with,
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
        search = NearestNeighbors(n_neighbors=min(self.k, len(labels) - 1), algorithm="brute")
        nearest = search.fit(features.cpu().numpy()).kneighbors(return_distance=False)  # of each, without itself
        votes = labels[torch.from_numpy(nearest).to(labels.device)]
        return (votes.mode(dim=1).values == labels).float().mean()


def _joined(parts: list[Tensor] | Tensor) -> Tensor:
    """Return one tensor of a state, which processes that have been gathered hold joined already."""
    return parts if isinstance(parts, Tensor) else torch.cat(parts)
