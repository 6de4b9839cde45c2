"""Maps that lie in memory with their channels innermost, for which processors and GPUs have faster convolutions."""

import torch
from torch import nn

from frostline.errors import RequestError


def lay_channels_last(network: nn.Module) -> None:
    """Lay out the weights of convolutions with their channels last: what these give is so too, whatever they get.

    Args:
        network: What to lay out, in place.

    Raises:
        RequestError: It has tensors of 5 dimensions, as for videos; the network is untouched.
    """
    if any(tensor.ndim == 5 for tensor in (*network.parameters(), *network.buffers())):
        raise RequestError("channels_last: is for images, and this network has tensors of 5 dimensions; leave it out")
    network.to(memory_format=torch.channels_last)
