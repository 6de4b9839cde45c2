import numpy as np
import pytest
import torch
from rigs import SGD, Examples, Rig, Toy, beginning
from torch import nn

from frostline.errors import RequestError
from frostline.freeze.last_k import LastK
from frostline.regularizers.bss import BSS, smallest_squares


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5)])
@pytest.mark.parametrize("k", [1, 3])
def test_squares_of_the_smallest_singular_values_are_numpys(shape: tuple[int, int], k: int) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = np.linalg.svd(matrix.numpy(), compute_uv=False)
    np.testing.assert_allclose(smallest_squares(matrix, k).numpy(), np.sort(values)[:k] ** 2, rtol=1e-3, atol=1e-6)


def test_the_gradient_is_that_of_finite_differences() -> None:
    matrix = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(lambda m: smallest_squares(m, 2).sum(), [matrix])


def test_equal_examples_have_a_finite_gradient() -> None:
    matrix = torch.ones(4, 6, requires_grad=True)
    smallest_squares(matrix, 2).sum().backward()
    assert torch.isfinite(matrix.grad).all()


def test_the_penalty_is_that_of_the_heads_input() -> None:
    network, penalty = Toy().eval(), BSS(eta=0.5, k=2)
    penalty.start(beginning(network))
    inputs = Examples().inputs[:3]
    network(inputs)
    features = network.pool(
        network.third(network.second(network.first(torch.relu(network.norm(network.conv(inputs))))))
    ).flatten(1)
    values = torch.linalg.svdvals(features.detach())
    assert penalty().item() == pytest.approx(0.5 * (values[-2:] ** 2).sum().item(), rel=1e-3)


def test_a_strong_penalty_shrinks_what_is_small_and_frozen_stays_frozen() -> None:
    smallest = {}
    for eta in (0.0, 10.0):
        rig = Rig(LastK(k=1), epochs=4, optimizer=SGD, regularizer=BSS(eta=eta))
        rig.fit()
        assert rig.freezing.audit.intact
        features = []
        rig.network.fc.register_forward_pre_hook(lambda _, inputs, kept=features: kept.append(inputs[0].detach()))
        rig.network.eval()(Examples().inputs)
        values = torch.linalg.svdvals(features[0])
        smallest[eta] = float(values[-1] / values[0])
    assert smallest[10.0] < smallest[0.0]


def test_no_pass_without_gradients_is_caught() -> None:
    network, penalty = Toy(), BSS()
    penalty.start(beginning(network))
    with torch.no_grad():
        network(Examples().inputs)
    with pytest.raises(KeyError, match="features"):
        penalty()


def test_a_network_that_is_all_head_is_refused() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3 * 36, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x.flatten(1))

    with pytest.raises(RequestError, match="regularizer: needs features below the head, and this network is all head"):
        BSS().start(beginning(Flat()))
