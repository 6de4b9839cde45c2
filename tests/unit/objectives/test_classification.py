import numpy as np
import pytest
import torch
from torch import nn

from frostline.batch import Batch
from frostline.objectives.classification import Classification

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.5], [1.0, 1.5, 0.0], [0.2, 0.1, 0.0]])
BATCH = Batch(torch.zeros(4, 1), torch.tensor([0, 1, 0, 2]), torch.arange(4))


def cross_entropy(logits: np.ndarray, targets: np.ndarray, smoothing: float) -> float:
    """The definition, in numpy: smoothed targets spread evenly over all classes."""
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    goal = np.eye(3)[targets] * (1 - smoothing) + smoothing / 3
    return float(-(goal * log_p).sum(axis=1).mean())


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_loss_is_the_mean_cross_entropy(smoothing: float) -> None:
    objective = Classification(loss=nn.CrossEntropyLoss(label_smoothing=smoothing))
    expected = cross_entropy(LOGITS.double().numpy(), BATCH.targets.numpy(), smoothing)
    assert objective.loss(LOGITS.double(), BATCH).item() == pytest.approx(expected)


def test_auxiliary_logits_add_their_weighted_loss() -> None:
    objective = Classification(auxiliary_weight=0.3)
    plain = objective.loss(LOGITS, BATCH)
    assert objective.loss((LOGITS, -LOGITS), BATCH).item() == pytest.approx(
        (plain + 0.3 * objective.loss(-LOGITS, BATCH)).item()
    )


def test_accuracy_over_uneven_batches_is_over_examples_t47() -> None:
    objective = Classification()
    metrics = objective.metrics(classes=["a", "b", "c"])
    for part in (slice(0, 3), slice(3, 4)):
        objective.measure(metrics, LOGITS[part], Batch(None, BATCH.targets[part], BATCH[2][part]))
    assert metrics.compute()["accuracy"].item() == 0.5


def test_predictions_hold_target_prediction_and_its_probability() -> None:
    rows = Classification().predictions(LOGITS, BATCH)
    assert rows["prediction"].tolist() == [0, 1, 1, 0]
    assert rows["target"].tolist() == [0, 1, 0, 2]
    assert rows["confidence"][0].item() == pytest.approx(np.exp(2) / (np.exp(2) + 1 + np.exp(-1)), rel=1e-6)
