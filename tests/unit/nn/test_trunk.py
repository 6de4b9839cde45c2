"""Networks without their heads."""

import pytest
import torch
from torch import nn

from frostline.nn.cifar_resnet import CifarResNet
from frostline.nn.torchvision import Torchvision
from frostline.nn.trunk import Trunk, as_maps


def test_features_of_a_cifar_resnet_are_those_before_pooling_and_before_the_head() -> None:
    trunk = Trunk(CifarResNet(depth=20)).eval()
    images = torch.randn(2, 3, 32, 32)
    maps, pooled = trunk(images)
    assert (trunk.channels, trunk.width) == (64, 64)
    assert maps.shape == (2, 64, 8, 8)
    torch.testing.assert_close(pooled, maps.mean(dim=(2, 3)))


@pytest.mark.parametrize(
    ("name", "channels", "width", "side"),
    [
        ("resnet18", 512, 512, 7),
        ("mobilenet_v3_small", 576, 1024, 7),
        ("vit_b_32", 768, 768, 7),
        ("densenet121", 1024, 1024, 7),
        ("swin_t", 768, 768, 7),
        pytest.param("inception_v3", 2048, 2048, 8, marks=pytest.mark.slow),
        ("googlenet", 1024, 1024, 7),
    ],
)
def test_any_classifier_of_torchvision_has_a_trunk(name: str, channels: int, width: int, side: int) -> None:
    trunk = Trunk(Torchvision(name=name, weights=None))
    assert (trunk.channels, trunk.width) == (channels, width)
    size = Torchvision(name=name, weights=None).input.size
    features = trunk.train()(torch.randn(2, 3, size, size))
    assert features.maps.shape == (2, channels, side, side)
    assert features.pooled.shape == (2, width)


def test_parameters_keep_their_names_and_the_head_is_gone() -> None:
    whole = CifarResNet(depth=20).network(10).state_dict()
    kept = Trunk(CifarResNet(depth=20)).state_dict()
    assert {f"network.{name}" for name in whole} - kept.keys() == {"network.linear.weight", "network.linear.bias"}


def test_tokens_lie_on_their_grid_without_the_class_token() -> None:
    tokens = torch.arange(10.0).view(1, 10, 1)
    assert torch.equal(as_maps(tokens, width=1), torch.arange(1.0, 10).view(1, 1, 3, 3))


def test_maps_with_channels_last_are_turned() -> None:
    features = torch.randn(2, 7, 5, 16)
    assert torch.equal(as_maps(features, width=16), features.permute(0, 3, 1, 2))
    assert as_maps(features, width=7) is features


def test_mode_and_random_state_stay() -> None:
    torch.manual_seed(0)
    recipe = CifarResNet(depth=20)
    recipe.network(2)
    expected = torch.rand(1)
    torch.manual_seed(0)
    trunk = Trunk(recipe)
    assert torch.equal(torch.rand(1), expected)
    assert all(module.training for module in trunk.modules())
    assert isinstance(trunk.network.linear, nn.Identity)
