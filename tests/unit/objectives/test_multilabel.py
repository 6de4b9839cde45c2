"""The loss, the metrics and the gradient of several labels are those of their definitions."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score
from torch import Tensor, nn
from torchmetrics.classification import MultilabelAveragePrecision

from frostline.batch import Batch
from frostline.errors import RequestError
from frostline.objectives.binary_cross_entropy import BinaryCrossEntropy
from frostline.objectives.multilabel import Multilabel

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [-0.3, 0.2, -2.0]])
TARGETS = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
BATCH = Batch(None, TARGETS, torch.arange(2))


def by_definition(logits: Tensor, targets: Tensor, smoothing: float, weights: list[float]) -> float:
    z, y = logits.double().numpy(), targets.double().numpy() * (1 - smoothing) + smoothing / 2
    p = 1 / (1 + np.exp(-z))
    return float(-(np.array(weights) * y * np.log(p) + (1 - y) * np.log(1 - p)).mean())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [3.0, 1.0, 0.5]])
def test_loss_is_the_mean_binary_cross_entropy(smoothing: float, weights: list[float]) -> None:
    objective = Multilabel(loss=BinaryCrossEntropy(label_smoothing=smoothing, pos_weight=weights))
    expected = by_definition(LOGITS, TARGETS, smoothing, weights)
    assert objective.loss(LOGITS.double(), BATCH).item() == pytest.approx(expected)


def test_the_default_is_torchs_own_loss() -> None:
    assert torch.equal(Multilabel().loss(LOGITS, BATCH), nn.BCEWithLogitsLoss()(LOGITS, TARGETS))


def test_auxiliary_logits_add_their_weighted_loss() -> None:
    objective = Multilabel(auxiliary_weight=0.3)
    expected = objective.loss(LOGITS, BATCH) + 0.3 * objective.loss(-LOGITS, BATCH)
    assert torch.equal(objective.loss((LOGITS, -LOGITS), BATCH), expected)


def test_weights_of_another_number_of_classes_are_refused() -> None:
    with pytest.raises(
        RequestError,
        match=r"^objective\.loss\.pos_weight: there should be a weight for each of 3 classes, got 2 numbers$",
    ):
        BinaryCrossEntropy(pos_weight=[1.0, 2.0])(LOGITS, TARGETS)


def measured(logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    objective = Multilabel()
    metrics = objective.metrics([f"c{place}" for place in range(logits.shape[1])])
    for part in (slice(0, 37), slice(37, None)):
        objective.measure(metrics, logits[part], Batch(None, targets[part], torch.arange(len(targets[part]))))
    return metrics.compute()


def drawn() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(60, 5, generator=generator)
    return logits, (torch.rand(60, 5, generator=generator) < 0.3).float()


def test_metrics_are_those_of_scikit_learn_and_torchmetrics_over_uneven_batches() -> None:
    logits, targets = drawn()
    found, told = measured(logits, targets), (logits > 0).numpy()
    truth = targets.numpy().astype(int)
    assert found["ap"].tolist() == pytest.approx(average_precision_score(truth, logits.numpy(), average=None), abs=1e-6)
    assert found["average_precision"].item() == pytest.approx(average_precision_score(truth, logits.numpy()), abs=1e-6)
    theirs = MultilabelAveragePrecision(5, average="macro")(logits.sigmoid(), targets.int())
    assert found["average_precision"].item() == pytest.approx(theirs.item(), abs=1e-6)
    for average in ("macro", "micro"):
        assert found[f"f1_{average}"].item() == pytest.approx(f1_score(truth, told, average=average), abs=1e-6)
    assert found["exact_match"].item() == pytest.approx((told == truth).all(axis=1).mean(), abs=1e-6)


def test_a_batch_of_small_logits_is_squashed_like_every_other() -> None:
    """Where all scores of a batch lie in [0, 1], torchmetrics takes them for probabilities."""
    logits, targets = drawn()
    small = logits.sigmoid()
    assert measured(small, targets)["exact_match"].item() == pytest.approx(
        ((small > 0) == targets.bool()).all(dim=1).float().mean().item()
    )


def test_a_class_without_positives_has_no_average_precision_and_no_part_in_the_mean() -> None:
    logits, targets = drawn()
    targets[:, 2] = 0
    found = measured(logits, targets)
    assert found["ap"].isnan().tolist() == [False, False, True, False, False]
    rest = [0, 1, 3, 4]
    expected = average_precision_score(targets[:, rest].numpy(), logits[:, rest].numpy())
    assert found["average_precision"].item() == pytest.approx(expected, abs=1e-6)


def test_the_mean_average_precision_is_the_metric_that_a_run_reports() -> None:
    scalars = [name for name, value in measured(*drawn()).items() if value.ndim == 0]
    assert scalars[0] == "average_precision"


def test_predictions_name_the_classes_of_each_example() -> None:
    rows = Multilabel().predictions(LOGITS, BATCH)
    assert rows["target"] == [[0], [0, 1]]
    assert rows["prediction"] == [[0, 2], [1]]
    assert rows["probabilities"][1] == pytest.approx(LOGITS[1].sigmoid().tolist(), abs=1e-6)


def test_a_step_is_that_of_a_plain_loop() -> None:
    torch.manual_seed(0)
    ours, theirs = nn.Linear(4, 3), nn.Linear(4, 3)
    theirs.load_state_dict(ours.state_dict())
    inputs = torch.randn(2, 4)
    Multilabel().loss(ours(inputs), BATCH).backward()
    probabilities = theirs(inputs).sigmoid()
    by_hand = ((probabilities - TARGETS).T @ inputs) / TARGETS.numel()  # the gradient, derived on paper
    torch.testing.assert_close(ours.weight.grad, by_hand)
