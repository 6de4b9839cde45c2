"""Adapters against their published formulas, and the network around them as it was."""

import sys

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from frostline.adapter import Adapter
from frostline.depth import Role
from frostline.errors import RequestError
from frostline.nn.adapters import attach, merged
from frostline.nn.cifar_resnet import CifarResNet
from frostline.nn.stages import stages

METHODS = pytest.mark.parametrize(
    "adapter",
    [
        Adapter(method="lora", rank=3, alpha=5.0),
        Adapter(method="dora", rank=3, alpha=5.0),
        Adapter(method="ia3"),
        Adapter(method="ia3", feedforward=True),
    ],
    ids=["lora", "dora", "ia3", "ia3-feedforward"],
)


class Pair(nn.Module):
    """One convolution, one linear layer, one head; no nonlinearity between, so that formulas are easily written."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.hidden = nn.Linear(6, 5)
        self.fc = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.hidden(self.conv(x).mean((2, 3))))


class Tied(nn.Module):
    """Two names of one matrix, and a layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last, self.fc = (nn.Linear(4, 4) for _ in range(4))
        self.last.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.last(self.middle(self.first(x))))


def transformer() -> nn.Module:
    network = VisionTransformer(
        image_size=8, patch_size=4, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=3
    )
    nn.init.normal_(network.heads.head.weight)  # zero as drawn: every output would be
    return network


def resnet() -> nn.Module:
    return CifarResNet().network(3)


NETWORKS = {transformer: (2, 3, 8, 8), resnet: (2, 3, 16, 16), Tied: (2, 4), Pair: (2, 3, 8, 8)}
EACH = pytest.mark.parametrize("make", list(NETWORKS), ids=lambda make: make.__name__)


def example(make) -> Tensor:
    return torch.randn(NETWORKS[make], generator=torch.Generator().manual_seed(1))


def adapted(make, adapter: Adapter, *, seed: int = 0):
    torch.manual_seed(0)
    network, x = make().eval(), example(make)
    attached, parts = attach(network, stages(network, x), adapter, example=x, seed=seed)
    return network, attached, parts


def trained(make, adapter: Adapter):
    """Return an adapted network whose added parameters are no longer what they started as."""
    network, attached, parts = adapted(make, adapter)
    for part in parts:
        for name, parameter in part.parameters.items():
            if part.roles[name] is Role.ADAPTER:
                parameter.detach().add_(torch.rand_like(parameter) * 0.4 - 0.2)
    return network, attached, parts


def product(layer: nn.Module, shape: torch.Size) -> Tensor:
    """5/3 B A of a trained rig, as a weight of this shape."""
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    return 5 / 3 * (b.flatten(1) @ a.flatten(1)).reshape(shape)


def normed(weight: Tensor) -> Tensor:
    return weight.flatten(1).norm(dim=1).reshape(-1, *[1] * (weight.ndim - 1))


def expected(layer: nn.Module, method: str, *, feedforward: bool) -> tuple[Tensor, Tensor]:
    """Return weight and bias of the plain layer that computes the same, from the papers' formulas."""
    weight, bias = layer.base_layer.weight, layer.base_layer.bias
    if method == "ia3":
        factors = layer.ia3_l["default"].flatten()
        across, along = (1, -1, *[1] * (weight.ndim - 2)), (-1, *[1] * (weight.ndim - 1))
        return weight * factors.reshape(across if feedforward else along), bias if feedforward else bias * factors
    updated = weight + product(layer, weight.shape)
    if method == "lora":
        return updated, bias
    magnitude = layer.lora_magnitude_vector["default"].weight.reshape(-1, *[1] * (weight.ndim - 1))
    return magnitude * updated / normed(updated), bias


@METHODS
def test_linear_and_convolution_compute_the_published_formula(adapter: Adapter) -> None:
    network, _, _ = trained(Pair, adapter)
    conv = expected(network.conv, adapter.method, feedforward=adapter.feedforward)
    hidden = expected(network.hidden, adapter.method, feedforward=adapter.feedforward)
    x = example(Pair)
    y = F.linear(F.conv2d(x, *conv, stride=2, padding=1).mean((2, 3)), *hidden)
    torch.testing.assert_close(network(x), network.fc(y), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(network(x), adapted(Pair, adapter)[0](x), atol=1e-3)


@METHODS
def test_the_magnitudes_of_dora_start_as_the_norms_and_no_method_moves_the_outputs(adapter: Adapter) -> None:
    torch.manual_seed(0)
    before = Pair()(example(Pair))
    network, _, _ = adapted(Pair, adapter)
    torch.testing.assert_close(network(example(Pair)), before)
    if adapter.method == "dora":
        magnitude = network.conv.lora_magnitude_vector["default"].weight
        torch.testing.assert_close(magnitude.flatten(), normed(network.conv.base_layer.weight).flatten())


@EACH
@METHODS
def test_merging_changes_no_output_and_leaves_the_plain_architecture(adapter: Adapter, make) -> None:
    network, _, _ = trained(make, adapter)
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with torch.no_grad():
        plain, x = merged(network), example(make)
        ours, theirs = plain(x), network(x)
    assert (ours - theirs).norm() < 1e-5 * theirs.norm()
    assert {n: t.shape for n, t in plain.state_dict().items()} == {n: t.shape for n, t in make().state_dict().items()}
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())


@EACH
@METHODS
def test_stages_keep_names_and_own_everything_once_and_nothing_else_is_frozen(adapter: Adapter, make) -> None:
    plain = stages(make(), example(make))
    network, attached, parts = adapted(make, adapter)
    assert [part.depth for part in parts] == [part.depth for part in plain]
    owned = [name for part in parts for name in part.parameters]
    assert sorted(owned) == sorted(name for name, _ in network.named_parameters())
    added = {name for part in parts for name in part.parameters if part.roles[name] is Role.ADAPTER}
    assert len(owned) - len(added) == sum(len(part.parameters) for part in plain)
    assert {name for name in added if not name.startswith(attached.targets)} == set()
    assert parts[-1].parameters.keys() == plain[-1].parameters.keys()
    assert all(p.requires_grad for p in network.parameters())
    assert [set(part.modules) for part in parts[-1:]] == [set(part.modules) for part in plain[-1:]]


def test_what_cannot_be_adapted_rightly_is_left_out() -> None:
    assert adapted(Tied, Adapter(method="lora", rank=2))[1].targets == ("middle",)
    names = adapted(transformer, Adapter(method="lora", types="linear"))[1].targets
    assert names == tuple(f"encoder.layers.encoder_layer_{n}.mlp.{m}" for n in (0, 1) for m in (0, 3))

    def convolutions() -> nn.Module:
        odd = [nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 4, 3, dilation=2), nn.Conv2d(4, 4, 3, padding_mode="reflect")]
        return nn.Sequential(nn.Conv2d(3, 4, 1), *odd, nn.Flatten(), nn.Linear(16, 2))

    NETWORKS[convolutions] = (2, 3, 10, 10)
    assert adapted(convolutions, Adapter(method="dora", rank=2))[1].targets == ("0",)
    assert adapted(convolutions, Adapter(method="ia3"))[1].targets == ("0", "1", "2", "3")
    network, _, _ = trained(convolutions, Adapter(method="ia3", feedforward=True))
    torch.testing.assert_close(merged(network)(example(convolutions)), network(example(convolutions)))
    del NETWORKS[convolutions]


def test_names_are_whole_names_never_suffixes_t9() -> None:
    _, attached, _ = adapted(resnet, Adapter(method="lora", stages=["stem"]))
    assert attached.targets == ("conv1",), "every block has a conv1 too"


def test_the_seed_draws_the_adapter_and_nothing_else_is_drawn() -> None:
    torch.manual_seed(0)
    network = Pair()
    parts, before = stages(network, example(Pair)), torch.get_rng_state()
    attach(network, parts, Adapter(method="lora", rank=2), example=example(Pair), seed=3)
    assert torch.equal(before, torch.get_rng_state())
    drawn = [adapted(Pair, Adapter(method="lora", rank=2), seed=s)[0].conv.lora_A["default"].weight for s in (3, 3, 4)]
    assert torch.equal(network.conv.lora_A["default"].weight, drawn[0])
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize(
    ("adapter", "sentence"),
    [
        (Adapter(method="lora", types="conv"), "freeze.types: lora finds no convolution below the head"),
        (Adapter(method="ia3", stages=["stem"]), "freeze.stages: ia3 finds no linear layer or convolution in stem"),
    ],
)
def test_nothing_to_adapt_is_said(adapter: Adapter, sentence: str) -> None:
    with pytest.raises(RequestError) as error:
        adapted(Tied, adapter)
    assert str(error.value) == f"{sentence} that it can adapt; choose other layers or a strategy"


def test_a_rank_above_that_of_every_layer_is_refused() -> None:
    adapted(Pair, Adapter(method="lora", rank=2))
    with pytest.raises(
        RequestError, match=r"freeze.rank: no adapted layer has a rank above \d+, so 999 is no low rank"
    ):
        adapted(Pair, Adapter(method="dora", rank=999))
    adapted(Pair, Adapter(method="ia3", rank=999))  # it has none


def test_without_peft_the_way_out_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(RequestError) as error:
        adapted(Pair, Adapter(method="dora", rank=2))
    assert str(error.value) == "freeze: dora needs peft; pip install 'frostline[peft]'"
