"""Re-estimated statistics are those of the data, blended as the definition says; nothing else moves."""

import numpy as np
import pytest
import torch
from rigs import Examples, Toy
from torch import nn

from frostline.nn.batch_statistics import reestimate, storing


def test_one_layer_has_the_mean_and_the_unbiased_variance_of_all_data() -> None:
    torch.manual_seed(0)
    data = torch.randn(10, 3, 4, 4) * 3 + 5
    layer = nn.BatchNorm2d(3)
    reestimate(layer, [(part, len(part)) for part in data.split(4)])
    values = data.numpy().astype(np.float64).transpose(1, 0, 2, 3).reshape(3, -1)
    np.testing.assert_allclose(layer.running_mean.numpy(), values.mean(1), rtol=1e-6)
    np.testing.assert_allclose(layer.running_var.numpy(), values.var(1, ddof=1), rtol=1e-6)


@pytest.mark.parametrize("pseudo_count", [0.0, 10.0, 30.0, float("inf")])
def test_old_and_new_are_blended_by_their_counts(pseudo_count: float) -> None:
    data = torch.randn(10, 3) * 3 + 5
    layer = nn.BatchNorm1d(3)
    layer.running_mean.fill_(2.0)
    layer.running_var.fill_(7.0)
    reestimate(layer, [(data, 10)], pseudo_count=pseudo_count)
    old = 1.0 if pseudo_count == float("inf") else pseudo_count / (pseudo_count + 10)
    torch.testing.assert_close(layer.running_mean, old * 2.0 + (1 - old) * data.mean(0))
    torch.testing.assert_close(layer.running_var, old * 7.0 + (1 - old) * data.var(0))


def test_a_single_batch_gives_the_statistics_that_training_would_store_at_full_momentum() -> None:
    """The independent implementation: torch's own update with momentum 1."""
    torch.manual_seed(0)
    mine, theirs = Toy(), Toy()
    theirs.load_state_dict(mine.state_dict())
    for module in theirs.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    theirs.train()(Examples().inputs)
    reestimate(mine, [(Examples().inputs, 16)])
    for name, layer in storing(mine).items():
        torch.testing.assert_close(layer.running_mean, theirs.get_submodule(name).running_mean)
        torch.testing.assert_close(layer.running_var, theirs.get_submodule(name).running_var)


def test_modes_parameters_counters_flags_and_randomness_stay() -> None:
    network = Toy()
    network.first.eval()
    network.fc.requires_grad_(requires_grad=False)
    before = {n: t.clone() for n, t in network.state_dict().items()}
    modes = [m.training for m in network.modules()]
    random = torch.get_rng_state()
    reestimate(network, [(Examples().inputs, 16)])
    changed = {n for n, t in network.state_dict().items() if not torch.equal(t, before[n])}
    assert changed == {f"{name}.running_{kind}" for name in storing(network) for kind in ("mean", "var")}
    assert modes == [m.training for m in network.modules()]
    assert torch.equal(random, torch.get_rng_state())
    assert all(p.grad is None for p in network.parameters())


def test_a_layer_that_only_training_calls_keeps_its_statistics() -> None:
    class Auxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.main, self.aside = nn.BatchNorm1d(3), nn.BatchNorm1d(3)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return self.main(inputs) + (self.aside(inputs) if self.training else 0)

    network = Auxiliary()
    reestimate(network, [(torch.randn(8, 3) + 4, 8)])
    assert network.main.running_mean.min() > 2
    assert torch.equal(network.aside.running_mean, torch.zeros(3))
    assert torch.equal(network.aside.running_var, torch.ones(3))
