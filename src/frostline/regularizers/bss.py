"""Features that carry little are kept small, so that what does not transfer is not transferred."""

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn

from frostline.regularizers.features import Caught, head_of
from frostline.regularizers.regularizer import Start


class BSS(nn.Module):
    """Batch spectral shrinkage: penalise the smallest singular values of a batch's features.

    Chen et al. 2019, "Catastrophic Forgetting Meets Negative Transfer" (NeurIPS), section 3.3: `eta` times the sum of
    the squares of the `k` smallest of the min(B, D) singular values of the head's input, a matrix of shape (B, D).
    They are the eigenvalues of the smaller Gram matrix, whose gradient is finite also where examples are equal.

    Args:
        eta: Strength.
        k: How many singular values; all of them where a batch has fewer.
    """

    def __init__(self, *, eta: Annotated[float, Ge(0)] = 0.001, k: Annotated[int, Ge(1)] = 1) -> None:
        super().__init__()
        self._eta, self._k = eta, k
        self._caught: Caught | None = None

    def start(self, start: Start) -> None:
        """Watch the input of the head."""
        head = start.network.get_submodule(head_of(list(start.stages), "regularizer"))
        self._caught = Caught(inputs_of={"features": head}, outputs_of={})

    def forward(self) -> Tensor:
        """Return the penalty on the features of the last pass, a scalar."""
        assert self._caught is not None, "start() comes first"
        features = self._caught.take()["features"].flatten(1)
        return self._eta * smallest_squares(features, self._k).sum()


def smallest_squares(matrix: Tensor, k: int) -> Tensor:
    """Return the squares of the k smallest of the min(B, D) singular values of a matrix (B, D), ascending."""
    precise = matrix.double()
    gram = precise @ precise.T if len(precise) <= precise.shape[1] else precise.T @ precise
    squares: Tensor = torch.linalg.eigvalsh(gram)[:k]
    return squares.clamp(min=0).to(matrix.dtype)
