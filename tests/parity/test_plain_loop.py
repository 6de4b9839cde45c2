"""A run equals the loop that anyone would write by hand, bit for bit on the CPU."""

import copy
import functools
from collections.abc import Callable

import pytest
import torch
from rigs import SGD, Examples, Rig, Toy
from torch import nn
from torch.nn.functional import cross_entropy

from frostline.freeze.full import Full
from frostline.freeze.gradual import Gradual
from frostline.freeze.head import Head
from frostline.freeze.last_k import LastK
from frostline.freeze.lp_ft import LpFt
from frostline.freeze.only import Only

PARTS = ["conv norm", "first", "second", "third", "fc"]
FREE: dict[str, tuple[object, Callable[[int], list[int]]]] = {
    "full": (Full(), lambda epoch: [0, 1, 2, 3, 4]),
    "head": (Head(), lambda epoch: [4]),
    "last_k": (LastK(k=2), lambda epoch: [2, 3, 4]),
    "only": (Only(stages=["stem"]), lambda epoch: [0]),
    "gradual": (Gradual(every=1), lambda epoch: list(range(4 - epoch, 5))),
    "lp_ft": (LpFt(), lambda epoch: [4] if epoch < 2 else [0, 1, 2, 3, 4]),
}


def by_hand(network: nn.Module, free: Callable[[int], list[int]], epochs: int) -> nn.Module:
    """Train as one does without a framework: modes and flags by hand, one optimizer over what trains in the epoch.

    Momentum of what stays trainable is carried over, as the engine does.
    """
    examples, momenta = Examples(), {}
    for epoch in range(epochs):
        network.eval()
        trained = {}
        for name, module in network.named_children():
            chosen = any(name in PARTS[part].split() for part in free(epoch))
            module.train(chosen)
            trained |= {f"{name}.{n}": p for n, p in module.named_parameters() if chosen}
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name in trained)
        for start in (0, 8):
            loss = cross_entropy(network(examples.inputs[start : start + 8]), examples.targets[start : start + 8])
            for parameter, gradient in zip(
                trained.values(), torch.autograd.grad(loss, list(trained.values())), strict=True
            ):
                decay = 0.01 if parameter.ndim > 1 else 0.0
                with torch.no_grad():
                    gradient = gradient.add(parameter, alpha=decay)
                    before = momenta.get(parameter)
                    momenta[parameter] = gradient.clone() if before is None else before.mul_(0.9).add_(gradient)
                    parameter.add_(momenta[parameter], alpha=-0.1)
    return network


@pytest.mark.parametrize("strategy", FREE)
def test_weights_and_statistics_equal_the_plain_loop(strategy: str) -> None:
    chosen, free = FREE[strategy]
    torch.manual_seed(0)
    start = Toy()
    rig = Rig(chosen, epochs=4, optimizer=SGD, network=copy.deepcopy(start))
    torch.manual_seed(1)
    rig.fit(limit_val_batches=0)
    torch.manual_seed(1)
    plain = by_hand(start, free, epochs=4)
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, rig.network.state_dict()[name]), name


def test_head_on_a_frozen_network_equals_a_head_on_stored_features() -> None:
    """What freezing means, all at once: statistics, dropout and optimizer, against features computed beforehand."""
    rig = Rig(Head(), epochs=5, optimizer=SGD)
    examples = Examples()
    network = copy.deepcopy(rig.network).eval()
    head, network.fc = network.fc, nn.Identity()
    with torch.no_grad():
        features = network(examples.inputs)
    groups = [{"params": [head.weight]}, {"params": [head.bias], "weight_decay": 0.0}]
    optimizer = functools.partial(SGD)(groups)
    for _ in range(5):
        for start in (0, 8):
            optimizer.zero_grad()
            cross_entropy(head(features[start : start + 8]), examples.targets[start : start + 8]).backward()
            optimizer.step()
    rig.fit()
    assert torch.allclose(rig.network.fc.weight, head.weight, rtol=1e-5, atol=1e-6)
    assert torch.allclose(rig.network.fc.bias, head.bias, rtol=1e-5, atol=1e-6)
