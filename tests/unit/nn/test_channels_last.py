"""Channels last is for images."""

import re

import pytest
import torch
from torch import nn

from frostline.errors import RequestError
from frostline.nn.channels_last import lay_channels_last


def test_convolutions_over_images_give_maps_with_channels_last() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    lay_channels_last(network)
    assert network(torch.randn(2, 3, 8, 8)).is_contiguous(memory_format=torch.channels_last)


def test_convolutions_over_videos_are_refused() -> None:
    sentence = "channels_last: is for images, and this network has tensors of 5 dimensions; leave it out"
    with pytest.raises(RequestError, match=re.escape(sentence)):
        lay_channels_last(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv3d(3, 4, 3)))
