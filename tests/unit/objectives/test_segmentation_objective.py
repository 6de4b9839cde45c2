"""A class for every pixel: against what the definitions give by hand."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics.segmentation import GeneralizedDiceScore

from frostline.batch import NO_LABEL, Batch
from frostline.objectives.cross_entropy import CrossEntropy
from frostline.objectives.segmentation import Segmentation, dice_loss

CLASSES = ("a", "b", "c")


def batch_of(labels: Tensor) -> Batch:
    return Batch(torch.zeros(len(labels), 3, *labels.shape[1:]), labels, torch.arange(len(labels)))


@pytest.fixture
def logits() -> Tensor:
    return torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def labels() -> Tensor:
    drawn = torch.randint(3, (2, 4, 5), generator=torch.Generator().manual_seed(1))
    drawn[0, :2] = NO_LABEL
    return drawn


def test_the_loss_is_the_mean_over_the_pixels_that_count(logits: Tensor, labels: Tensor) -> None:
    losses = [
        -torch.log_softmax(logits[i, :, y, x], dim=0)[labels[i, y, x]]
        for i, y, x in np.ndindex(2, 4, 5)
        if labels[i, y, x] != NO_LABEL
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
    counted = labels != NO_LABEL
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
    loss = Segmentation(dice=1.0).loss(logits, batch_of(torch.full((2, 4, 5), NO_LABEL)))
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
    counted = (labels != NO_LABEL).numpy()
    p, t = predicted.numpy()[counted], labels.numpy()[counted]
    ious = [((p == c) & (t == c)).sum() / ((p == c) | (t == c)).sum() for c in (0, 1)]
    found = metrics.compute()
    assert found["iou"][:2].tolist() == pytest.approx(ious)
    assert torch.isnan(found["iou"][2])
    assert found["miou"].item() == pytest.approx(np.mean(ious)), "a class that is nowhere is no part of the mean"
    assert found["pixel_accuracy"].item() == pytest.approx((p == t).mean())
    assert found["confusion"].sum() == counted.sum()


def test_each_image_has_a_line_of_its_own(labels: Tensor) -> None:
    labels[0] = NO_LABEL
    right = torch.nn.functional.one_hot(labels.clamp(min=0), 3).movedim(-1, 1).float()
    rows = Segmentation().predictions(right, batch_of(labels))
    assert rows["pixel_accuracy"].tolist()[1] == rows["miou"].tolist()[1] == 1
    assert torch.isnan(rows["pixel_accuracy"][0])
    assert torch.isnan(rows["miou"][0])


def test_a_batch_counts_by_its_pixels(logits: Tensor, labels: Tensor) -> None:
    objective = Segmentation()
    whole, parts = batch_of(labels), [batch_of(labels[:1]), batch_of(labels[1:])]
    weights = [objective.weight(logits, part) for part in parts]
    assert weights == [10, 20]
    losses = [objective.loss(logits[i : i + 1], part) for i, part in enumerate(parts)]
    mean = sum(weight * loss for weight, loss in zip(weights, losses, strict=True)) / 30
    torch.testing.assert_close(mean, objective.loss(logits, whole))
    assert objective.weight(logits, batch_of(torch.full_like(labels, NO_LABEL))) == 0


def test_smoothing_and_class_weights_leave_ignored_pixels_out(logits: Tensor, labels: Tensor) -> None:
    loss = CrossEntropy(label_smoothing=0.1, class_weights=[1.0, 2.0, 3.0])
    counted = labels != NO_LABEL
    expected = loss(logits.movedim(1, -1)[counted], labels[counted])
    torch.testing.assert_close(Segmentation(loss=loss).loss(logits, batch_of(labels)), expected)


@pytest.mark.parametrize("absent", [False, True])
def test_tables_and_means_are_those_of_a_confusion_matrix_made_by_hand(labels: Tensor, *, absent: bool) -> None:
    objective, predicted = Segmentation(), torch.randint(3, (2, 4, 5), generator=torch.Generator().manual_seed(2))
    if absent:
        labels[labels == 2], predicted[predicted == 2] = 1, 0
    metrics = objective.metrics(CLASSES)
    objective.measure(metrics, torch.nn.functional.one_hot(predicted, 3).movedim(-1, 1).float(), batch_of(labels))
    confusion = np.zeros((3, 3))
    for truth, guess in zip(labels.flatten().tolist(), predicted.flatten().tolist(), strict=True):
        if truth != NO_LABEL:
            confusion[truth, guess] += 1
    union = confusion.sum(0) + confusion.sum(1) - confusion.diagonal()
    found = metrics.compute()
    assert found["confusion"].tolist() == confusion.tolist()
    ious = confusion.diagonal()[union > 0] / union[union > 0]
    assert len(ious) == (2 if absent else 3)
    assert found["miou"].item() == pytest.approx(ious.mean())
    assert found["iou"][torch.from_numpy(union > 0)].tolist() == pytest.approx(ious.tolist())


def test_a_class_that_is_predicted_and_nowhere_labelled_lowers_the_mean() -> None:
    labels = torch.tensor([[[0, 0, 1, 1]]])
    predicted = torch.tensor([[[0, 0, 1, 2]]])
    metrics = (objective := Segmentation()).metrics(CLASSES)
    objective.measure(metrics, torch.nn.functional.one_hot(predicted, 3).movedim(-1, 1).float(), batch_of(labels))
    assert metrics.compute()["miou"].item() == pytest.approx((1 + 0.5 + 0) / 3)


def test_dice_is_that_of_torchmetrics_where_predictions_are_certain(labels: Tensor) -> None:
    labels = labels.clamp(min=0)
    predicted = torch.randint(3, labels.shape, generator=torch.Generator().manual_seed(2))
    score = GeneralizedDiceScore(3, weight_type="simple", input_format="index", per_class=True)
    rows = labels.reshape(1, -1), predicted.reshape(1, -1)  # as of one image: ours sums over the batch
    expected = score(rows[1], rows[0])
    certain = torch.nn.functional.one_hot(predicted, 3).movedim(-1, 1) * 100.0
    torch.testing.assert_close(dice_loss(certain, labels), 1 - expected.mean())
