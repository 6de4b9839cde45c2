"""Networks without their heads."""

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from frostline.batch import Batch
from frostline.checkpoint import carry
from frostline.config.build import build
from frostline.errors import RequestError
from frostline.nn.cifar_resnet import CifarResNet
from frostline.nn.fcn import Fcn
from frostline.nn.stages import stages
from frostline.nn.timm import Timm
from frostline.nn.torchvision import Torchvision
from frostline.nn.trunk import Trunk, as_maps
from frostline.objectives.masked_pixels import MaskedPixels
from frostline.objectives.rotation import Rotation


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


@pytest.mark.parametrize("size", [64, 96])
def test_pooled_features_are_as_many_for_images_of_any_size(size: int) -> None:
    network = Rotation().network(Torchvision(name="squeezenet1_1", weights=None), []).eval()
    images = torch.randn(2, 3, size, size)
    maps, pooled = network.trunk(images)
    assert network.trunk.width == 512
    torch.testing.assert_close(pooled, maps.mean(dim=(2, 3)))
    assert network(images)["features"].shape == (2, 512)


class _Maps(nn.Module):
    """Gives what its head would have taken as maps."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 4, kernel_size=2, stride=2), nn.Conv2d(4, 2, kernel_size=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(images))


def test_a_head_of_maps_is_given_their_means() -> None:
    class Recipe(CifarResNet):
        def network(self, num_classes: int) -> nn.Module:
            return _Maps()

    trunk = Trunk(Recipe(depth=20))
    maps, pooled = trunk(torch.randn(2, 3, 12, 16))
    assert (trunk.width, tuple(maps.shape)) == (4, (2, 4, 6, 8))
    torch.testing.assert_close(pooled, maps.mean(dim=(2, 3)))


def test_a_backbone_speaks_of_its_keys_as_they_stand() -> None:
    backbone = {"_target_": "frostline.nn.torchvision.Torchvision", "name": "resnet99"}
    cfg = OmegaConf.create({"model": {"_target_": "frostline.nn.fcn.Fcn", "backbone": backbone}})
    with pytest.raises(RequestError, match=r"^model\.backbone\.name: 'resnet99' is no classification network"):
        build(cfg.model)
    with pytest.raises(RequestError, match=r"^model\.backbone\.name: the feature maps of crossvit_tiny_240 do"):
        Fcn(backbone=Timm(name="crossvit_tiny_240", weights=None)).network(2)


def test_parameters_keep_their_names_and_the_head_is_gone() -> None:
    whole = CifarResNet(depth=20).network(10).state_dict()
    kept = Trunk(CifarResNet(depth=20)).state_dict()
    assert {f"network.{name}" for name in whole} - kept.keys() == {"network.linear.weight", "network.linear.bias"}


def test_tokens_lie_on_their_grid_without_the_class_token() -> None:
    tokens = torch.arange(10.0).view(1, 10, 1)
    assert torch.equal(as_maps(tokens, width=1, grid=(3, 3)), torch.arange(1.0, 10).view(1, 1, 3, 3))
    assert torch.equal(as_maps(tokens, width=1, grid=(2, 4)), torch.arange(2.0, 10).view(1, 1, 2, 4))


def test_maps_with_channels_last_are_turned() -> None:
    features = torch.randn(2, 7, 5, 16)
    assert torch.equal(as_maps(features, width=16, grid=(0, 0)), features.permute(0, 3, 1, 2))
    assert as_maps(features, width=7, grid=(0, 0)) is features


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


SEVERAL = [
    CifarResNet(depth=20),
    Torchvision(name="mobilenet_v3_small", weights=None),
    Torchvision(name="alexnet", weights=None),
    pytest.param(Torchvision(name="vgg11_bn", weights=None), marks=pytest.mark.slow),
    Timm(name="mobilenetv3_small_050", weights=None),
    Timm(name="test_vit3", weights=None),  # its attention pooling comes after the maps
]


def name_of(recipe: object) -> str:
    return getattr(recipe, "name", "resnet20")


@pytest.mark.parametrize("recipe", SEVERAL, ids=name_of)
def test_every_parameter_of_a_network_of_maps_gets_a_gradient(recipe) -> None:
    side = recipe.input.size
    network = Fcn(backbone=recipe).network(3)
    network(torch.randn(2, 3, side, side)).square().mean().backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []
    owned = [name for part in stages(network, torch.zeros(2, 3, side, side)) for name in part.parameters]
    assert sorted(owned) == sorted(name for name, _ in network.named_parameters())


def test_every_parameter_that_guesses_pixels_gets_a_gradient() -> None:
    recipe = Torchvision(name="mobilenet_v3_small", weights=None)
    network, objective = MaskedPixels().network(recipe, ["a", "b"]), MaskedPixels()
    images = torch.randn(2, 3, 64, 64)
    batch = Batch(inputs=images, targets=torch.zeros(2, dtype=torch.int64), places=torch.arange(2))
    objective.loss(network.train()(images), batch).backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []
    assert network.eval()(images)["features"].shape == (2, 576)


@pytest.mark.parametrize("recipe", SEVERAL[:3], ids=name_of)
def test_a_network_of_maps_carries_all_of_its_classifier_that_it_has(recipe) -> None:
    whole, network = recipe.network(7).state_dict(), Fcn(backbone=recipe).network(3)
    head = [name for name, _ in network.named_parameters() if name.startswith("head.")]
    assert carry(network, whole, head=head, min_coverage=1.0).coverage == 1
    filled = network.trunk.network.state_dict()
    assert filled
    assert all(torch.equal(tensor, whole[name]) for name, tensor in filled.items())


def test_maps_are_the_same_without_what_runs_after_them() -> None:
    recipe, images = Torchvision(name="mobilenet_v3_small", weights=None), torch.randn(2, 3, 96, 64)
    whole, cut = Trunk(recipe).eval(), Trunk(recipe, maps=True).eval()
    cut.load_state_dict(whole.state_dict(), strict=False)
    assert {n.rpartition(".")[0] for n in whole.state_dict().keys() - cut.state_dict()} == {"network.classifier.0"}
    maps, pooled = cut(images)
    torch.testing.assert_close(maps, whole(images).maps)
    torch.testing.assert_close(pooled, maps.mean(dim=(2, 3)))


def test_a_network_of_several_paths_is_refused_for_its_maps() -> None:
    with pytest.raises(RequestError, match=r"^model.name: the feature maps of crossvit_tiny_240 do without some of"):
        Trunk(Timm(name="crossvit_tiny_240", weights=None), maps=True)


@pytest.mark.parametrize(
    "recipe", [Torchvision(name="alexnet", weights=None), SEVERAL[3], SEVERAL[1], Timm(name="resnet10t", weights=None)],
    ids=name_of,
)  # fmt: skip
def test_maps_grow_with_the_image(recipe) -> None:
    trunk = Trunk(recipe, maps=True).eval()
    with torch.no_grad():
        small, large = (trunk(torch.zeros(1, 3, side, 2 * side)).maps for side in (128, 256))
    assert small.shape[2:] == ((3, 7) if recipe.name == "alexnet" else (4, 8))
    assert large.shape[2:] == ((7, 15) if recipe.name == "alexnet" else (8, 16))


@pytest.mark.parametrize("name", ["xcit_nano_12_p16_224", "deit_tiny_distilled_patch16_224"])
def test_tokens_of_an_image_that_is_no_square_lie_where_their_patches_were(name: str) -> None:
    trunk = Trunk(Timm(name=name, weights=None)).eval()
    final: list[torch.Tensor] = []
    trunk.network.norm.register_forward_hook(lambda *call: final.append(call[-1]))
    maps = trunk(torch.randn(1, 3, 240, 320)).maps
    assert maps.shape[2:] == (15, 20)
    prefix = final[0].shape[1] - 15 * 20
    for row, column in ((0, 0), (0, 19), (7, 3), (14, 19)):
        assert torch.equal(maps[0, :, row, column], final[0][0, prefix + 20 * row + column])


def test_tokens_on_no_grid_are_refused() -> None:
    trunk = Trunk(Timm(name="xcit_nano_12_p16_224", weights=None))
    way_out = "show it squares of 224, or choose a convolutional network"
    problem = "images of 240 x 330 pixels become 12 tokens of xcit_nano_12_p16_224, which are no grid"
    with pytest.raises(RequestError, match=rf"^data.image_size: {problem}; {way_out}$"):
        trunk._tokens.grid(12, (240, 330))
    assert trunk._tokens.grid(15 * 20 + 1, (240, 330)) == (15, 20)
    assert trunk._tokens.grid(15 * 21 + 1, (240, 330)) == (15, 21)
