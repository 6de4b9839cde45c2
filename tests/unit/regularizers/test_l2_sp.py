import pytest
import torch
from rigs import Toy, beginning
from torch import nn

from frostline.regularizers.l2_sp import L2SP


def test_penalty_is_the_definition_over_what_trains() -> None:
    torch.manual_seed(0)
    network = Toy()
    penalty = L2SP(alpha=0.5, beta=0.2)
    penalty.start(beginning(network))
    start = {name: p.detach().clone() for name, p in network.named_parameters()}
    with torch.no_grad():
        for p in network.parameters():
            p.add_(torch.randn_like(p))
    network.first.conv.weight.requires_grad_(False)
    expected = 0.0
    for name, p in network.named_parameters():
        if "norm" in name or name == "first.conv.weight":
            continue
        expected += 0.1 * p.square().sum() if name.startswith("fc") else 0.25 * (p - start[name]).square().sum()
    assert penalty().item() == pytest.approx(expected.item(), rel=1e-5)


def test_what_it_remembers_is_saved_and_does_not_train_t26() -> None:
    network = Toy()
    penalty = L2SP()
    penalty.start(beginning(network))
    assert not list(penalty.parameters())
    assert sum(b.numel() for b in penalty.state_dict().values()) == sum(
        p.numel() for m in network.modules() if isinstance(m, nn.Conv2d) for p in m.parameters()
    )
