"""A run equals the loop that anyone would write by hand, bit for bit on the CPU."""

import copy
import functools
import math
from collections.abc import Callable

import pytest
import torch
from rigs import SGD, Examples, Rig, Toy
from torch import nn
from torch.nn.functional import cross_entropy

from frostline.freeze.freezeout import FreezeOut
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
    "gradual": (Gradual(every=1, ratio=1), lambda epoch: list(range(4 - epoch, 5))),
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


def by_step(network: nn.Module, rate: Callable[[int, float], float], epochs: int) -> nn.Module:
    """Train with a rate for each part and step, from (place, share of the run); at rate 0 a part is frozen."""
    examples, momenta, steps = Examples(), {}, 2 * epochs
    for step in range(steps):
        network.eval()
        rates = {}
        for name, module in network.named_children():
            place = next((p for p, names in enumerate(PARTS) if name in names.split()), 3)  # the pool has no parameters
            module.train(rate(place, step / steps) > 0)
            for p in module.parameters():
                p.requires_grad_(module.training)
                rates |= {p: rate(place, step / steps)} if module.training else {}
        start = 8 * (step % 2)
        loss = cross_entropy(network(examples.inputs[start : start + 8]), examples.targets[start : start + 8])
        for parameter, gradient in zip(rates, torch.autograd.grad(loss, list(rates)), strict=True):
            with torch.no_grad():
                gradient = gradient.add(parameter, alpha=0.01 if parameter.ndim > 1 else 0.0)
                before = momenta.get(parameter)
                momenta[parameter] = gradient.clone() if before is None else before.mul_(0.9).add_(gradient)
                parameter.add_(momenta[parameter], alpha=-0.1 * rates[parameter])
    return network


def test_freezeout_equals_a_loop_that_sets_every_rate_at_every_step() -> None:
    def rate(place: int, done: float) -> float:
        end = (0.8 + 0.2 * place / 4) ** 3
        return 0.0 if done >= end else 0.5 * (1 + math.cos(math.pi * done / end)) / end

    rig = Rig(FreezeOut(), epochs=6, optimizer=SGD)
    for module in rig.network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    expected = by_step(copy.deepcopy(rig.network), rate, epochs=6)
    rig.fit(limit_val_batches=0)
    assert rig.freezing.audit.intact
    assert any(audit["span"].startswith("steps") for audit in rig.freezing.audit.findings), (
        "a stage froze within an epoch"
    )
    for (name, ours), theirs in zip(rig.network.state_dict().items(), expected.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, msg=name)


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
