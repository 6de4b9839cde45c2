"""torchvision's detection networks by name: weights, classes, sizes and stages."""

import pytest
import torch
from safetensors.torch import save_file
from selection import assert_selected, trained
from test_torchvision import hub  # noqa: F401 (a fixture)
from torch import nn
from torchvision import models
from torchvision.models.detection import backbone_utils, ssd, ssdlite
from torchvision.ops import FrozenBatchNorm2d

from frostline.errors import RequestError, WeightsError
from frostline.freeze.last_k import LastK
from frostline.nn.backbone import Backbone
from frostline.nn.detection import DetectionInput
from frostline.nn.stages import stages
from frostline.nn.torchvision_detector import TorchvisionDetector

LITE = "ssdlite320_mobilenet_v3_large"
RCNN = "fasterrcnn_mobilenet_v3_large_320_fpn"
NAMES = [
    name for name in models.list_models(module=models.detection) if not name.startswith(("maskrcnn", "keypointrcnn"))
]


def published(name: str, file, *, num_classes: int = 91, **arguments) -> nn.Module:
    """A network of torchvision, and its weights in a file."""
    torch.manual_seed(1)
    network = models.get_model(name, weights=None, weights_backbone=None, num_classes=num_classes, **arguments)
    torch.save(network.state_dict(), file)
    return network


def differences(left: nn.Module, right: nn.Module) -> set[str]:
    ours, theirs = left.state_dict(), right.state_dict()
    assert ours.keys() == theirs.keys()
    return {n for n in ours if ours[n].shape != theirs[n].shape or not torch.equal(ours[n], theirs[n])}


def message(error: type[RequestError], **arguments) -> str:
    with pytest.raises(error) as caught:
        TorchvisionDetector(**arguments).network(3)
    return str(caught.value)


def test_a_recipe_is_a_backbone_for_detection() -> None:
    recipe = TorchvisionDetector(name=LITE)
    assert isinstance(recipe, Backbone)
    assert recipe.tasks == ("detection",)


def test_weights_are_carried_all_but_what_predicts_other_classes(hub) -> None:  # noqa: F811
    url = models.get_model_weights(LITE)["DEFAULT"].url
    theirs = published(LITE, hub / url.rpartition("/")[2])
    recipe = TorchvisionDetector(name=LITE)
    changed = differences(recipe.network(3).model, theirs)
    assert changed
    assert all(name.startswith("head.classification_head.module_list") for name in changed)
    assert {name.split(".")[-2] for name in changed} == {"1"}  # the last convolution of each; those below fit
    assert recipe.brings_head(90)
    assert not recipe.brings_head(3)
    assert differences(recipe.network(90).model, theirs) == set()


def test_a_file_says_itself_how_many_classes_it_has(tmp_path) -> None:
    published(LITE, tmp_path / "mine.pth", num_classes=4)
    recipe = TorchvisionDetector(name=LITE, weights=str(tmp_path / "mine.pth"))
    assert recipe.brings_head(3)
    assert not recipe.brings_head(4)
    assert not TorchvisionDetector(name=LITE, weights=None).brings_head(3)


@pytest.mark.parametrize(
    ("name", "eps"), [(RCNN, 1e-5), pytest.param("retinanet_resnet50_fpn", 0.0, marks=pytest.mark.slow)]
)
def test_weights_for_frozen_norms_get_them_with_their_epsilon_t50(tmp_path, name, eps) -> None:
    theirs = published(name, tmp_path / "coco.pth")
    state = {n: t for n, t in theirs.state_dict().items() if not n.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "coco.pth")  # as FrozenBatchNorm2d saves it
    network = TorchvisionDetector(name=name, weights=str(tmp_path / "coco.pth")).network(3)
    norms = [m for m in network.model.backbone.modules() if hasattr(m, "running_mean")]
    assert norms
    assert all(isinstance(norm, FrozenBatchNorm2d) and norm.eps == eps for norm in norms)
    state_of = network.model.state_dict()
    assert all(torch.equal(state_of[n], t) for n, t in state.items() if n.startswith("backbone"))


def test_new_networks_have_batch_normalisation_and_nothing_frozen() -> None:
    network = TorchvisionDetector(name=RCNN, weights=None).network(3)
    assert any(isinstance(m, nn.BatchNorm2d) for m in network.modules())
    assert not any(isinstance(m, FrozenBatchNorm2d) for m in network.modules())
    assert all(p.requires_grad for p in network.parameters())


@pytest.mark.slow
def test_a_backbone_takes_a_classification_networks_weights_and_epsilon(tmp_path) -> None:
    torch.manual_seed(2)
    classifier = models.mobilenet_v3_large(num_classes=7)
    save_file(classifier.state_dict(), file := tmp_path / "trunk.safetensors")
    network = TorchvisionDetector(name=RCNN, weights=None, backbone_weights=str(file)).network(3)
    body, wanted = network.model.backbone.body.state_dict(), classifier.features.state_dict()
    assert body.keys() == wanted.keys()
    assert all(torch.equal(body[name], wanted[name]) for name in wanted)
    norms = [m for m in network.model.backbone.body.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {norm.eps for norm in norms} == {0.001}
    images = torch.rand(2, 3, 64, 64)
    expected = classifier.eval().features(images)
    torch.testing.assert_close(list(network.eval().model.backbone.body(images).values())[-1], expected)


@pytest.mark.slow
def test_ssd_takes_the_vgg_that_torchvision_takes(hub) -> None:  # noqa: F811
    assert "vgg16_features" in message(WeightsError, name="ssd300_vgg16", weights=None, backbone_weights="DEFAULT")


@pytest.mark.slow
def test_ssds_vgg_is_filled_over_both_its_parts(tmp_path) -> None:
    classifier = models.vgg16()
    torch.save(classifier.state_dict(), file := tmp_path / "vgg.pth")
    network = TorchvisionDetector(name="ssd300_vgg16", weights=None, backbone_weights=str(file)).network(3)
    backbone = network.model.backbone
    assert torch.equal(backbone.features[21].weight, classifier.features[21].weight)
    assert torch.equal(backbone.extra[0][5].weight, classifier.features[28].weight)


@pytest.mark.slow
def test_weights_that_do_not_fit_a_backbone_are_refused(tmp_path) -> None:
    torch.save(models.mobilenet_v3_large().state_dict(), file := tmp_path / "trunk.pth")
    told = message(WeightsError, name=LITE, weights=None, backbone_weights=str(file))
    assert told.startswith("model.backbone_weights: the backbone of this network is narrower")
    torch.save(models.mobilenet_v3_small().state_dict(), file)
    told = message(WeightsError, name=RCNN, weights=None, backbone_weights=str(file))
    assert "choose the weights of the classification network that this one is built on" in told


def test_sizes_are_torchvisions_until_another_is_chosen() -> None:
    assert TorchvisionDetector(name="retinanet_resnet50_fpn").input == DetectionInput(size=800, longest=1333)
    assert TorchvisionDetector(name=RCNN, size=160).input == DetectionInput(size=160, longest=320)
    assert TorchvisionDetector(name=LITE, size=96).input == DetectionInput(size=96, longest=96, square=True)
    assert DetectionInput(size=320, longest=640).shape(480, 640) == (320, 427)
    assert DetectionInput(size=320, longest=640).shape(200, 800) == (160, 640)
    assert DetectionInput(size=96, longest=96, square=True).shape(480, 640) == (96, 96)


@pytest.mark.parametrize("name", NAMES)
def test_sizes_are_those_of_the_networks_own_transform(name) -> None:
    with torch.device("meta"):
        own = models.get_model(name, weights=None, weights_backbone=None).transform
    spec = TorchvisionDetector(name=name, weights=None).input
    if own.fixed_size is not None:
        assert (spec.size, spec.size) == own.fixed_size
        assert spec.square
    else:
        assert (spec.size, spec.longest) == (own.min_size[-1], own.max_size)


def test_what_is_wrong_is_told_in_a_sentence() -> None:
    assert message(RequestError, name="maskrcnn_resnet50_fpn") == (
        "model.name: maskrcnn_resnet50_fpn learns from masks, which boxes lack; choose fasterrcnn_resnet50_fpn"
    )
    assert "did you mean 'fcos_resnet50_fpn'?" in message(RequestError, name="fcos_resnet50")
    assert "is neither a file nor weights that" in message(RequestError, name=LITE, weights="COCO")
    assert "set one of them to null" in message(RequestError, name=LITE, backbone_weights="DEFAULT")
    told = message(RequestError, name=RCNN, weights=None, arguments={"box_batch_size": 8})
    assert told.endswith("takes no such argument here; did you mean 'box_batch_size_per_image'?")
    assert "model.arguments.num_classes" in message(RequestError, name=RCNN, arguments={"num_classes": 8})


def test_arguments_reach_torchvisions_class() -> None:
    network = TorchvisionDetector(name=RCNN, weights=None, arguments={"box_detections_per_img": 7}).network(3)
    assert network.model.roi_heads.detections_per_img == 7


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_stages_are_the_trunk_in_forward_order_and_the_head_all_else(name) -> None:
    recipe = TorchvisionDetector(name=name, weights=None)
    network, side = recipe.network(3), 300 if name == "ssd300_vgg16" else 64
    images = [torch.rand(3, side, side)] * 2
    boxes = {"boxes": torch.tensor([[2.0, 3, 30, 40]]), "labels": torch.tensor([1])}
    example = {"images": images, "targets": [boxes, boxes]}
    parts = stages(network, example)
    owned = [p for part in parts for p in part.parameters.values()]
    assert len(parts) >= 5
    assert {id(p) for p in owned} == {id(p) for p in network.parameters()}
    assert len(owned) == len({id(p) for p in owned})
    assert_trains_what_torchvision_does(name, network, parts)
    trunk = [name for part in parts[:-1] for name in part.parameters]
    assert all(name.startswith("model.backbone.") for name in trunk)
    assert not any(".fpn." in name for name in trunk)
    assert {name.split(".")[1] for name in parts[-1].parameters} <= {"backbone", "rpn", "roi_heads", "head"}
    assert trunk == [name for name, _ in network.named_parameters() if name in set(trunk)]


# Its trunk is cut finer, or coarser, than torchvision's own `trainable_backbone_layers`: by our stages, by theirs.
SAME_DEPTH = {"ssd300_vgg16": (3, 1), "ssdlite320_mobilenet_v3_large": (2, 2)}
LAST = {"ssd300_vgg16": "model.backbone.extra.0.5.", "ssdlite320_mobilenet_v3_large": "model.backbone.features.1."}


def assert_trains_what_torchvision_does(name: str, network: nn.Module, parts) -> None:
    """Compare with what torchvision leaves free where it is told how many layers of a trunk shall train."""
    names = {each for each, _ in network.named_parameters()}
    head = names - frozen_by_torchvision(name, 0)
    ours, theirs = SAME_DEPTH.get(name, (1, 1))
    assert trained(parts, LastK(k=ours)) == names - frozen_by_torchvision(name, theirs)
    last = {each for each in names if each.startswith(LAST[name])} if name in LAST else trained(parts, LastK(k=1))
    assert_selected(network, parts, head=head, last=last - head)


def frozen_by_torchvision(name: str, layers: int) -> set[str]:
    with torch.device("meta"):
        if "resnet50" in name:
            backbone = backbone_utils._resnet_fpn_extractor(models.resnet50(), layers)
        elif name == "ssd300_vgg16":
            backbone = ssd._vgg_extractor(models.vgg16(), False, layers)
        elif name == LITE:
            backbone = ssdlite._mobilenet_extractor(models.mobilenet_v3_large(), layers, nn.BatchNorm2d)
        else:
            backbone = backbone_utils._mobilenet_extractor(models.mobilenet_v3_large(), True, layers)
    return {f"model.backbone.{each}" for each, parameter in backbone.named_parameters() if not parameter.requires_grad}
