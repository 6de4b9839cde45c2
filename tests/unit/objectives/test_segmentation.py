"""A class for every pixel: against what the definitions give by hand."""

import numpy as np
import pytest
import torch
from torch import Tensor

from frostline.batch import Batch
from frostline.objectives.segmentation import IGNORED, Segmentation, dice_loss

CLASSES = ("a", "b", "c")


def batch_of(labels: Tensor) -> Batch:
    return Batch(torch.zeros(len(labels), 3, *labels.shape[1:]), labels, torch.arange(len(labels)))


@pytest.fixture
def logits() -> Tensor:
    return torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def labels() -> Tensor:
    drawn = torch.randint(3, (2, 4, 5), generator=torch.Generator().manual_seed(1))
    drawn[0, :2] = IGNORED
    return drawn


def test_the_loss_is_the_mean_over_the_pixels_that_count(logits: Tensor, labels: Tensor) -> None:
    losses = [
        -torch.log_softmax(logits[i, :, y, x], dim=0)[labels[i, y, x]]
        for i, y, x in np.ndindex(2, 4, 5)
        if labels[i, y, x] != IGNORED
    ]
    assert len(losses) == 30
    torch.testing.assert_close(Segmentation().loss(logits, batch_of(labels)), torch.stack(losses).mean())


def test_auxiliary_logits_add_half_their_loss_and_are_not_measured(logits: Tensor, labels: Tensor) -> None:
    objective, batch, other = Segmentation(), batch_of(labels), torch.randn_like(logits)
    whole = objective.loss((logits, other), batch)
    torch.testing.assert_close(whole, objective.loss(logits, batch) + 0.5 * objective.loss(other, batch))
    one, both = objective.metrics(CLASSES), objective.metrics(CLASSES)
    objective.measure(one, logits, batch)
    objective.measure(both, (logits, other), batch)
    assert one.compute()["miou"] == both.compute()["miou"]


def test_dice_is_one_minus_the_overlap_of_each_class_that_is_there(logits: Tensor, labels: Tensor) -> None:
    labels[labels == 2] = 1
    probabilities, expected = logits.softmax(dim=1), []
    counted = labels != IGNORED
    for c in (0, 1):
        p, t = probabilities[:, c][counted], (labels == c)[counted].float()
        expected.append(2 * (p * t).sum() / (p.sum() + t.sum()))
    torch.testing.assert_close(dice_loss(logits, labels), 1 - sum(expected) / 2)
    perfect = torch.nn.functional.one_hot(labels.clamp(min=0), 3).movedim(-1, 1) * 100.0
    assert dice_loss(perfect, labels) < 1e-6
    both = Segmentation(dice=0.3).loss(logits, batch_of(labels))
    torch.testing.assert_close(both, Segmentation().loss(logits, batch_of(labels)) + 0.3 * dice_loss(logits, labels))


def test_a_batch_in_which_no_pixel_counts_costs_nothing_and_moves_nothing(logits: Tensor) -> None:
    logits.requires_grad_()
    loss = Segmentation(dice=1.0).loss(logits, batch_of(torch.full((2, 4, 5), IGNORED)))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_intersections_and_unions_are_summed_over_the_split(labels: Tensor) -> None:
    objective = Segmentation()
    metrics = objective.metrics(CLASSES)
    predicted = torch.randint(2, (2, 4, 5), generator=torch.Generator().manual_seed(2))
    labels[labels == 2] = 0
    for i in range(2):
        outputs = torch.nn.functional.one_hot(predicted[i : i + 1], 3).movedim(-1, 1).float()
        objective.measure(metrics, outputs, batch_of(labels[i : i + 1]))
    counted = (labels != IGNORED).numpy()
    p, t = predicted.numpy()[counted], labels.numpy()[counted]
    ious = [((p == c) & (t == c)).sum() / ((p == c) | (t == c)).sum() for c in (0, 1)]
    found = metrics.compute()
    assert found["iou"][:2].tolist() == pytest.approx(ious)
    assert torch.isnan(found["iou"][2])
    assert found["miou"].item() == pytest.approx(np.mean(ious)), "a class that is nowhere is no part of the mean"
    assert found["pixel_accuracy"].item() == pytest.approx((p == t).mean())
    assert found["confusion"].sum() == counted.sum()


def test_each_image_has_a_line_of_its_own(labels: Tensor) -> None:
    labels[0] = IGNORED
    right = torch.nn.functional.one_hot(labels.clamp(min=0), 3).movedim(-1, 1).float()
    rows = Segmentation().predictions(right, batch_of(labels))
    assert rows["pixel_accuracy"].tolist()[1] == rows["miou"].tolist()[1] == 1
    assert torch.isnan(rows["pixel_accuracy"][0])
    assert torch.isnan(rows["miou"][0])
