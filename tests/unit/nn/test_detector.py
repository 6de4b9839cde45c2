"""torchvision's detectors give their own losses whatever is frozen, and the same in evaluation each time."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD

from frostline.nn.detector import Detector
from frostline.nn.stages import stages


class Body(nn.Module):
    """Two steps of a trunk, with statistics to disturb."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 32, 3, 4, 1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3, 2), nn.ReLU()
        )
        self.out_channels = 32

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"0": self.body(images)}


def faster_rcnn() -> nn.Module:
    return FasterRCNN(
        Body(),
        num_classes=4,
        rpn_anchor_generator=AnchorGenerator(((8, 16),), ((1.0,),)),
        box_batch_size_per_image=8,
        rpn_batch_size_per_image=8,
        box_detections_per_img=5,
    )


def retinanet() -> nn.Module:
    return RetinaNet(Body(), num_classes=3, anchor_generator=AnchorGenerator(((8, 16),), ((1.0,),)), score_thresh=0.0)


def fcos() -> nn.Module:
    return FCOS(Body(), num_classes=3, anchor_generator=AnchorGenerator(((8,),), ((1.0,),)), score_thresh=0.0)


def ssd() -> nn.Module:
    body = Body()
    body.out_channels = [32]
    return SSD(body, DefaultBoxGenerator([[2]]), (64, 64), num_classes=4, score_thresh=0.0)


FAMILIES: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "faster_rcnn": (faster_rcnn, 1),
    "retinanet": (retinanet, 0),
    "fcos": (fcos, 0),
    "ssd": (ssd, 1),
}
EACH = pytest.mark.parametrize(("make", "first"), FAMILIES.values(), ids=FAMILIES)


def inputs(*, height: int = 64) -> dict:
    torch.manual_seed(5)
    return {
        "images": [torch.rand(3, height, 64), torch.rand(3, height, 64), torch.rand(3, height, 64)],
        "targets": [
            {"boxes": torch.tensor([[4.0, 4, 30, 36], [20, 30, 50, 60]]), "labels": torch.tensor([0, 2])},
            {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
            {"boxes": torch.tensor([[1.0, 2, 60, 62]]), "labels": torch.tensor([1])},
        ],
    }


def both(make, first: int) -> tuple[Detector, nn.Module]:
    """Our detector and torchvision's, with the same weights."""
    torch.manual_seed(1)
    ours, theirs = Detector(make(), first_label=first), make()
    theirs.load_state_dict(ours.model.state_dict())
    theirs.transform._skip_resize = True  # of evaluation's twin below, too: the images are of the size already
    theirs.transform.min_size, theirs.transform.fixed_size = (64,), None
    return ours, theirs


def shifted(targets: list[dict], first: int) -> list[dict]:
    return [{"boxes": each["boxes"], "labels": each["labels"] + first} for each in targets]


@EACH
def test_losses_are_torchvisions_own(make, first) -> None:
    ours, theirs = both(make, first)
    given = inputs()
    torch.manual_seed(7)
    mine = ours.train()(given)
    torch.manual_seed(7)
    own = theirs.train()(given["images"], shifted(given["targets"], first))
    assert mine.losses.keys() == own.keys()
    assert mine.detections == []
    for name, loss in own.items():
        assert loss.item() > 0
        torch.testing.assert_close(mine.losses[name], loss, rtol=1e-6, atol=1e-6)


@EACH
def test_detections_are_torchvisions_own_with_labels_from_zero(make, first) -> None:
    ours, theirs = both(make, first)
    given = inputs()
    with torch.no_grad():
        mine, own = ours.eval()(given).detections, theirs.eval()(given["images"])
    assert sum(len(each["labels"]) for each in own) > 0
    for found, expected in zip(mine, own, strict=True):
        torch.testing.assert_close(found["boxes"], expected["boxes"])
        torch.testing.assert_close(found["scores"], expected["scores"])
        assert torch.equal(found["labels"], expected["labels"] - first)
        assert found["labels"].min() >= 0
        assert found["labels"].max() < 3


@EACH
def test_evaluation_has_losses_of_stored_statistics_and_disturbs_nothing(make, first) -> None:
    ours, _ = both(make, first)
    given, before = inputs(), {n: t.clone() for n, t in ours.state_dict().items()}
    torch.manual_seed(11)
    random = torch.get_rng_state()
    first_time, again = ours.eval()(given), ours(given)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(first_time.losses[name], again.losses[name]) for name in first_time.losses)
    assert all(torch.equal(tensor, before[name]) for name, tensor in ours.state_dict().items())
    assert not any(module.training for module in ours.modules())
    assert "forward" not in vars(ours.model.backbone)


def test_evaluation_calls_the_backbone_once() -> None:
    ours, _ = both(faster_rcnn, 1)
    calls = []
    ours.model.backbone.body.register_forward_hook(lambda *_: calls.append(1))
    ours.eval()(inputs())
    assert len(calls) == 1


def test_what_has_no_targets_is_only_detected_in() -> None:
    ours, _ = both(faster_rcnn, 1)
    found = ours.eval()({"images": inputs()["images"]})
    assert found.losses == {}
    assert len(found.detections) == 3


@EACH
def test_frozen_parts_still_give_losses_and_keep_their_statistics(make, first) -> None:
    ours, _ = both(make, first)
    ours.train()
    for module in ours.model.modules():  # as the engine sets a frozen stage: all but the containers above it
        if module is not ours.model:
            module.eval()
    before = {name: buffer.clone() for name, buffer in ours.named_buffers()}
    modes = {name: module.training for name, module in ours.named_modules()}
    losses = ours(inputs()).losses
    assert all(loss.item() > 0 for loss in losses.values())
    assert all(torch.equal(buffer, before[name]) for name, buffer in ours.named_buffers())
    assert {name: module.training for name, module in ours.named_modules()} == modes


def test_gradients_reach_the_body_through_losses_in_evaluation() -> None:
    ours, _ = both(retinanet, 0)
    sum(ours.eval()(inputs()).losses.values()).backward()
    assert ours.model.backbone.body[0].weight.grad.abs().sum() > 0


@EACH
def test_the_head_is_all_that_detection_adds(make, first) -> None:
    ours, _ = both(make, first)
    parts = stages(ours, inputs())
    body = {name for name in ours.state_dict() if ".body." in name}
    owned = [{*part.parameters, *part.buffers} for part in parts]
    assert set.union(*owned[:-1]) == body
    assert owned[-1] == set(ours.state_dict()) - body


def test_images_of_other_sizes_are_padded_not_resized() -> None:
    ours, _ = both(faster_rcnn, 1)
    given = {"images": [torch.rand(3, 40, 64), torch.rand(3, 64, 33)], "targets": inputs()["targets"][:2]}
    batch, _ = ours.model.transform(given["images"], given["targets"])
    assert batch.image_sizes == [(40, 64), (64, 33)]
    assert batch.tensors.shape == (2, 3, 64, 64)
    assert len(ours.eval()(given).detections) == 2
