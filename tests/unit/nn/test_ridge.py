"""Heads in closed form, against scikit-learn's and against what defines them."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from frostline.nn.ridge import solutions

STRENGTHS = [0.01, 1.0, 100.0]


def problem(examples: int, width: int, *, rank: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    features = random.normal(size=(examples, width)) + 3
    if rank is not None:
        features = features[:, :rank] @ random.normal(size=(rank, width))
    return features, np.eye(3)[random.integers(3, size=examples)]


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize(("examples", "width"), [(50, 8), (8, 50)])
def test_each_strength_gives_what_scikit_learn_gives(examples: int, width: int, intercept: bool) -> None:
    features, targets = problem(examples, width)
    for strength, (weight, bias) in zip(
        STRENGTHS, solutions(features, targets, STRENGTHS, intercept=intercept), strict=True
    ):
        theirs = Ridge(alpha=strength, fit_intercept=intercept, solver="cholesky").fit(features, targets)
        np.testing.assert_allclose(weight, theirs.coef_, atol=1e-8)
        np.testing.assert_allclose(bias, np.broadcast_to(theirs.intercept_, 3), atol=1e-8)


def test_without_a_penalty_it_is_the_least_squares_of_least_norm() -> None:
    features, targets = problem(50, 8, rank=3)
    ((weight, bias),) = solutions(features, targets, [0.0], intercept=False)
    expected, *_ = np.linalg.lstsq(features, targets, rcond=None)
    np.testing.assert_allclose(weight.T, expected, atol=1e-8)
    assert not bias.any()


def test_features_that_are_all_alike_leave_the_level() -> None:
    ((weight, bias),) = solutions(np.ones((6, 4)), np.eye(3)[[0, 0, 0, 1, 1, 2]], [1.0], intercept=True)
    assert not weight.any()
    np.testing.assert_allclose(bias, [1 / 2, 1 / 3, 1 / 6])
