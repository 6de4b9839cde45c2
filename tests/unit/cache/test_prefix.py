"""What takes the place of a module leaves it as it was."""

from functools import partial

import pytest
import torch
from rigs import Toy
from torch import nn

from frostline.cache.prefix import Prefix, Tail


def doubled(forward, x):
    return 2 * forward(x)


@pytest.mark.parametrize(
    "cut", [lambda network: Prefix(network, ["first"]), lambda network: Tail(network, "fc")], ids=["prefix", "tail"]
)
@pytest.mark.parametrize("name", ["", "first", "fc"])
def test_a_forward_of_a_modules_own_is_there_again(cut, name: str) -> None:
    network = Toy().eval()
    module: nn.Module = network.get_submodule(name)
    module.forward = partial(doubled, module.forward)
    inputs = torch.randn(2, 3, 6, 6)
    before = network(inputs)
    cut(network).remove()
    torch.testing.assert_close(network(inputs), before, rtol=0, atol=0)
    assert [each for each, part in network.named_modules() if "forward" in vars(part)] == [name]
