"""Networks that classify every pixel: what they return, and how they are cut into stages."""

from pathlib import Path

import pytest
import torch
from selection import assert_selected, under
from torch import nn
from torchvision import models

from frostline.errors import RequestError, WeightsError
from frostline.nn.cifar_resnet import CifarResNet
from frostline.nn.fcn import Fcn
from frostline.nn.stages import stages
from frostline.nn.torchvision import Torchvision
from frostline.nn.torchvision_segmenter import TorchvisionSegmenter
from frostline.nn.transformers_segmenter import TransformersSegmenter

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
    head = {n for n, _ in network.named_parameters() if n.startswith(heads)}
    assert set(parts[-1].parameters) == head
    assert len(parts) >= 5
    last = "model.backbone.16" if "mobilenet" in name else "model.backbone.layer4"
    assert_selected(network, parts, head=head, last=under(network, [last]))


def test_the_auxiliary_head_speaks_while_the_network_trains() -> None:
    with torch.device("meta"):
        network = new("fcn_resnet50")
    images = torch.zeros(2, 3, 32, 32, device="meta")
    assert [logits.shape for logits in network.train()(images)] == [(2, 5, 32, 32)] * 2
    assert network.eval()(images).shape == (2, 5, 32, 32)


def test_weights_for_another_number_of_classes_leave_the_last_layers_new(tmp_path: Path) -> None:
    file = tmp_path / "lraspp.pth"
    torch.save(whole := models.get_model(SMALL, weights=None, weights_backbone=None, num_classes=21).state_dict(), file)
    recipe = TorchvisionSegmenter(name=SMALL, weights=str(file))
    assert recipe.brings_head(21)
    assert not recipe.brings_head(5)
    network = recipe.network(5)
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


TINY = {
    "segformer": {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 16, 16], "decoder_hidden_size": 16},
    "mobilevit": {"hidden_sizes": [8, 8, 16], "neck_hidden_sizes": [4, 8, 8, 8, 8, 8, 16], "image_size": 64},
}


@pytest.fixture(params=TINY)
def recipe(request: pytest.FixtureRequest) -> TransformersSegmenter:
    pytest.importorskip("transformers")
    return TransformersSegmenter(name=request.param, pretrained=False, size=64, config=TINY[request.param])


def test_stages_of_transformers_end_in_what_is_put_on_the_encoder(recipe: TransformersSegmenter) -> None:
    network = recipe.network(5)
    images = torch.randn(2, 3, 64, 96 if recipe.name == "segformer" else 64)
    assert network(images).shape == (2, 5, *images.shape[2:])
    parts = stages(network, images)
    heads = tuple(f"{name}." for name in network.head_modules)
    assert set(parts[-1].parameters) == {name for name, _ in network.named_parameters() if name.startswith(heads)}
    owned = [name for part in parts for name in part.parameters]
    assert sorted(owned) == sorted(name for name, _ in network.named_parameters())


def test_a_folder_of_transformers_is_taken_but_for_a_head_of_another_size(
    recipe: TransformersSegmenter, tmp_path: Path
) -> None:
    saved = recipe.network(5)
    saved.model.save_pretrained(tmp_path)
    again = TransformersSegmenter(name=str(tmp_path), size=64)
    assert again.brings_head(5)
    assert not again.brings_head(4)
    other, theirs = again.network(4).state_dict(), saved.state_dict()
    heads = tuple(f"{name}." for name in saved.head_modules)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in other.items() if not name.startswith(heads))
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(again.network(5).eval()(images), saved.eval()(images))


def test_logits_are_those_of_transformers_at_the_size_of_the_image(recipe: TransformersSegmenter) -> None:
    network = recipe.network(5).eval()
    images = torch.randn(1, 3, 64, 64)
    own = network.model(pixel_values=images).logits
    expected = nn.functional.interpolate(own, (64, 64), mode="bilinear", align_corners=False)
    torch.testing.assert_close(network(images), expected)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"name": "bert", "pretrained": False}, "model.name=bert: transformers has no bert for segmentation; choose"),
        (
            {"name": "segformer", "pretrained": False, "config": {"depth": 1}},
            "model.config.depth: the configuration of",
        ),
        ({"name": "nowhere/segformer"}, r"model.name=nowhere/segformer: cannot be read \(.*https://huggingface.co/now"),
    ],
)
def test_what_transformers_lacks_is_told(options: dict, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(RequestError, match=f"^{sentence}"):
        TransformersSegmenter(**options).network(3)


def test_a_folder_is_told_as_a_folder(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(RequestError) as caught:
        TransformersSegmenter(name=str(tmp_path)).network(3)
    assert str(caught.value).startswith(f"model.name={tmp_path}: the folder cannot be read (")
    assert str(caught.value).endswith(
        "; it should hold config.json, model.safetensors and the tokenizer's files or preprocessor_config.json"
    )
    with pytest.raises(RequestError, match=rf"^model.name={tmp_path}/none: there is no such folder; name one that "):
        TransformersSegmenter(name=f"{tmp_path}/none").network(3)


def test_a_backbone_of_another_network_is_told_under_its_own_key(tmp_path: Path) -> None:
    torch.save(models.resnet18(weights=None).state_dict(), tmp_path / "resnet18.pth")
    recipe = TorchvisionSegmenter(name=SMALL, weights=None, backbone_weights=str(tmp_path / "resnet18.pth"))
    with pytest.raises(WeightsError, match=r"^model.backbone_weights: .* and model.backbone_weights=null"):
        recipe.network(5)
