"""Maps that lie in memory with their channels innermost, for which processors and GPUs have faster convolutions."""

import torch
from torch import nn

from frostline.errors import RequestError


def lay_channels_last(network: nn.Module) -> None:
    """Lay out the weights of convolutions with their channels last: what these give is so too, whatever they get.

    Args:
        network: What to lay out, in place.

    Raises:
        RequestError: It convolves more than images; the network is untouched.
    """
    if any(parameter.ndim > 4 for parameter in network.parameters()):
        raise RequestError(
            "channels_last: torch has it for images alone, and this network convolves more; leave it out"
        )
    network.to(memory_format=torch.channels_last)
