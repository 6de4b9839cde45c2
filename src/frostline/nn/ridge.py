"""Linear heads in closed form, those of many strengths of the penalty from one factorisation."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import nn

from frostline.errors import RequestError
from frostline.nn.stages import Stage

Matrix = NDArray[np.float64]


def solutions(
    features: Matrix, targets: Matrix, strengths: Sequence[float], *, intercept: bool
) -> Iterator[tuple[Matrix, Matrix]]:
    """Yield, for each strength s, the W and b of least |Y - X W^T - b|^2 + s |W|^2.

    From the singular values of X, see Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, 2nd
    edition, section 3.4.1; without a penalty, the solution of least norm. The intercept bears no penalty.

    Args:
        features: X of shape (N, D).
        targets: Y of shape (N, C).
        strengths: Each 0 or more.
        intercept: Whether there is a b; else it is 0.

    Yields:
        W of shape (C, D) and b of shape (C,).
    """
    centre = features.mean(0) if intercept else np.zeros(features.shape[1])
    level = targets.mean(0) if intercept else np.zeros(targets.shape[1])
    left, values, right = np.linalg.svd(features - centre, full_matrices=False)
    heard = values > values.max(initial=0.0) * max(features.shape) * np.finfo(np.float64).eps
    left, values, right = left[:, heard], values[heard], right[heard]
    seen = left.T @ (targets - level)
    for strength in strengths:
        weight = ((values / (values**2 + strength))[:, None] * seen).T @ right
        yield weight, level - weight @ centre


def linear_head(stages: Sequence[Stage]) -> nn.Linear:
    """Return the head of a network of these stages.

    Raises:
        RequestError: It is more than one linear layer.
    """
    modules = list(stages[-1].modules.values())
    if len(modules) != 1 or type(modules[0]) is not nn.Linear:
        kinds = ", ".join(dict.fromkeys(type(module).__name__ for module in modules))
        raise RequestError(
            f"freeze: ridge solves a head of one linear layer, and this network's is made of {kinds}; "
            "choose freeze=head, which trains any"
        )
    return modules[0]
