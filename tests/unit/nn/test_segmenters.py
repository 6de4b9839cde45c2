"""Networks that classify every pixel: what they return, and how they are cut into stages."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision import models

from frostline.errors import RequestError
from frostline.nn.cifar_resnet import CifarResNet
from frostline.nn.fcn import Fcn
from frostline.nn.stages import stages
from frostline.nn.torchvision import Torchvision
from frostline.nn.torchvision_segmenter import TorchvisionSegmenter

NAMES = models.list_models(module=models.segmentation)
SMALL = "lraspp_mobilenet_v3_large"


def new(name: str) -> nn.Module:
    return TorchvisionSegmenter(name=name, weights=None).network(5)


@pytest.mark.parametrize("backbone", [CifarResNet(), Torchvision(name="mobilenet_v3_small", weights=None)])
def test_a_classifier_becomes_a_segmenter(backbone) -> None:
    network = Fcn(backbone=backbone).network(5)
    images = torch.randn(2, 3, 64, 96)
    assert network(images).shape == (2, 5, 64, 96)
    parts = stages(network, images)
    assert all(name.startswith("head.") for name in parts[-1].parameters)
    assert {name for part in parts[:-1] for name in part.parameters} == {
        name for name, _ in network.named_parameters() if name.startswith("trunk.network.")
    }


@pytest.mark.parametrize(
    "name", [name if name == SMALL else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)
def test_stages_of_torchvision_end_in_what_classifies(name: str) -> None:
    network = new(name)
    parts = stages(network, torch.zeros(2, 3, 64, 64))
    owned = [parameter for part in parts for parameter in part.parameters.values()]
    assert len(owned) == len(set(owned)) == len(list(network.parameters()))
    heads = ("model.classifier.", "model.aux_classifier.")
    assert set(parts[-1].parameters) == {n for n, _ in network.named_parameters() if n.startswith(heads)}
    assert len(parts) >= 5


def test_the_auxiliary_head_speaks_while_the_network_trains() -> None:
    with torch.device("meta"):
        network = new("fcn_resnet50")
    images = torch.zeros(2, 3, 32, 32, device="meta")
    assert [logits.shape for logits in network.train()(images)] == [(2, 5, 32, 32)] * 2
    assert network.eval()(images).shape == (2, 5, 32, 32)


def test_weights_for_another_number_of_classes_leave_the_last_layers_new(tmp_path: Path) -> None:
    file = tmp_path / "lraspp.pth"
    torch.save(whole := models.get_model(SMALL, weights=None, weights_backbone=None, num_classes=21).state_dict(), file)
    network = TorchvisionSegmenter(name=SMALL, weights=str(file)).network(5)
    filled = network.model.state_dict()
    resized = {name for name, tensor in filled.items() if tensor.shape != whole[name].shape}
    assert resized == {
        "classifier.low_classifier.weight", "classifier.low_classifier.bias",
        "classifier.high_classifier.weight", "classifier.high_classifier.bias",
    }  # fmt: skip
    assert all(torch.equal(tensor, whole[name]) for name, tensor in filled.items() if name not in resized)


def test_the_backbone_takes_the_weights_of_its_classifier(tmp_path: Path) -> None:
    file = tmp_path / "mobilenet.pth"
    classifier = models.mobilenet_v3_large(weights=None)
    torch.save(classifier.state_dict(), file)
    network = TorchvisionSegmenter(name=SMALL, weights=None, backbone_weights=str(file)).network(5)
    backbone, features = network.model.backbone.state_dict(), classifier.features.state_dict()
    assert all(torch.equal(tensor, features[name]) for name, tensor in backbone.items())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"name": "fcn_resnet5"}, r"model.name: 'fcn_resnet5' is no segmentation network of torchvision; did you mean"),
        ({"name": SMALL, "weights": "COCO"}, "model.weights: 'COCO' is neither a file nor weights that lraspp"),
        (
            {"name": SMALL, "backbone_weights": "DEFAULT"},
            "model.backbone_weights: model.weights hold a backbone already",
        ),
    ],
)
def test_what_is_not_there_is_told(options: dict[str, str], sentence: str) -> None:
    with pytest.raises(RequestError, match=f"^{sentence}"):
        TorchvisionSegmenter(**options)
