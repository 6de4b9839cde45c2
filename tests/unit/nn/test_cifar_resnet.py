import io
import os
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from PIL import Image
from torch import Tensor

from frostline.nn.backbone import Backbone
from frostline.nn.cifar_resnet import CifarResNet
from frostline.nn.weights import read_weights

SHARED = Path(os.environ.get("FROSTLINE_SHARED", Path(__file__).parents[4] / "shared"))
WEIGHTS = {20: SHARED / "weights/resnet20-12fca82f.th", 32: SHARED / "weights/resnet32-d509ac18.th"}
IMAGES = SHARED / "data/cifar10.tar.gz"


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_sizes_are_those_of_table_6_of_the_paper(depth, millions):
    count = sum(parameter.numel() for parameter in CifarResNet(depth=depth).network(10).parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.05 if depth == 110 else 0.005)


@pytest.mark.parametrize("depth", [20, 56])
def test_depth_counts_the_layers_with_weights(depth):
    matrices = [p for p in CifarResNet(depth=depth).network(10).parameters() if p.ndim > 1]
    assert len(matrices) == depth


def reference(state: Mapping[str, Tensor], images: Tensor, *, blocks: int) -> Tensor:
    """Section 4.2 of the paper as one function of a state dict, in eval mode."""

    def normed(maps: Tensor, conv: str, bn: str, stride: int = 1) -> Tensor:
        maps = F.conv2d(maps, state[f"{conv}.weight"], stride=stride, padding=1)
        mean, var = state[f"{bn}.running_mean"], state[f"{bn}.running_var"]
        return F.batch_norm(maps, mean, var, state[f"{bn}.weight"], state[f"{bn}.bias"])

    maps = normed(images, "conv1", "bn1").relu()
    for layer in (1, 2, 3):
        for block in range(blocks):
            name, stride = f"layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1
            residual = normed(maps, f"{name}.conv1", f"{name}.bn1", stride).relu()
            residual = normed(residual, f"{name}.conv2", f"{name}.bn2")
            if stride == 2:
                maps = F.avg_pool2d(maps, kernel_size=1, stride=2)
                zeros = torch.zeros_like(maps[:, : maps.shape[1] // 2])
                maps = torch.cat([zeros, maps, zeros], dim=1)
            maps = (maps + residual).relu()
    return F.linear(F.adaptive_avg_pool2d(maps, 1).flatten(1), state["linear.weight"], state["linear.bias"])


@pytest.mark.parametrize("size", [32, 28])
def test_equals_the_paper_written_as_one_function(size):
    torch.manual_seed(0)
    network = CifarResNet(depth=20).network(7)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.normal_(module.bias)
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        expected, given = reference(network.state_dict(), images, blocks=3), network.eval()(images)
    assert expected.std() > 0.1
    torch.testing.assert_close(given, expected)


def test_new_weights_have_the_spread_of_he_initialisation():
    torch.manual_seed(0)
    weight = CifarResNet().network(10).layer3[2].conv2.weight
    assert weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)


def test_is_a_backbone_for_small_images():
    recipe = CifarResNet()
    assert isinstance(recipe, Backbone)
    assert recipe.input.size == 32


@pytest.mark.shared_data
@pytest.mark.parametrize("depth", [20, 32])
def test_public_weights_have_these_names_and_shapes(depth):
    weights = public_weights(depth)
    network = CifarResNet(depth=depth).network(10)
    result = network.load_state_dict(weights, strict=False)
    assert result.unexpected_keys == []
    assert all(name.endswith("num_batches_tracked") for name in result.missing_keys)


@pytest.mark.slow
@pytest.mark.shared_data
def test_public_weights_score_what_was_measured():
    recipe = CifarResNet(depth=20)
    network = recipe.network(10)
    network.load_state_dict(public_weights(20), strict=False)
    if not IMAGES.is_file():
        pytest.skip(f"{IMAGES} is not there: set FROSTLINE_SHARED to the folder of real data")
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (recipe.input.mean, recipe.input.std))
    names, pixels = zip(*images_of_the_test_split(), strict=True)
    classes = sorted(set(names))
    targets, images = torch.tensor([classes.index(name) for name in names]), torch.from_numpy(np.stack(pixels))
    with torch.inference_mode():
        batches = images.permute(0, 3, 1, 2).split(500)
        outputs = torch.cat([network.eval()((batch / 255 - mean) / std) for batch in batches])
    assert len(targets) == 10_000
    assert (outputs.argmax(1) == targets).double().mean().item() == pytest.approx(0.8103, abs=5e-5)


def public_weights(depth: int) -> dict[str, Tensor]:
    if not WEIGHTS[depth].is_file():
        pytest.skip(f"{WEIGHTS[depth]} is not there: set FROSTLINE_SHARED to the folder of real weights")
    return {name.removeprefix("module."): weight for name, weight in read_weights(WEIGHTS[depth]).items()}


def images_of_the_test_split() -> Iterator[tuple[str, np.ndarray]]:
    with tarfile.open(IMAGES) as archive:
        for member in archive:
            parts = Path(member.name).parts
            if member.isfile() and "test" in parts:
                yield parts[-2], np.asarray(Image.open(io.BytesIO(archive.extractfile(member).read())).convert("RGB"))
