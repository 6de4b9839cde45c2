import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, f1_score, matthews_corrcoef
from torch import nn

from frostline.batch import Batch
from frostline.errors import RequestError
from frostline.objectives.classification import Classification
from frostline.objectives.cross_entropy import CrossEntropy

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.5], [1.0, 1.5, 0.0], [0.2, 0.1, 0.0]])
BATCH = Batch(torch.zeros(4, 1), torch.tensor([0, 1, 0, 2]), torch.arange(4))


def cross_entropy(logits: np.ndarray, targets: np.ndarray, smoothing: float) -> float:
    """The definition, in numpy: smoothed targets spread evenly over all classes."""
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    goal = np.eye(3)[targets] * (1 - smoothing) + smoothing / 3
    return float(-(goal * log_p).sum(axis=1).mean())


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_loss_is_the_mean_cross_entropy(smoothing: float) -> None:
    objective = Classification(loss=CrossEntropy(label_smoothing=smoothing))
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


def test_metrics_are_those_of_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(60, 7, generator=generator), torch.randint(7, (60,), generator=generator)
    objective = Classification()
    metrics = objective.metrics(classes=list("abcdefg"))
    for part in (slice(0, 40), slice(40, 60)):
        objective.measure(metrics, logits[part], Batch(None, targets[part], targets[part]))
    found, predicted = metrics.compute(), logits.argmax(1)
    assert found["f1_macro"].item() == pytest.approx(f1_score(targets, predicted, average="macro"), abs=1e-6)
    assert found["mcc"].item() == pytest.approx(matthews_corrcoef(targets, predicted), abs=1e-6)
    assert np.array_equal(found["confusion"].numpy(), confusion_matrix(targets, predicted))
    best = logits.topk(5).indices
    assert found["accuracy_top5"].item() == pytest.approx((best == targets[:, None]).any(1).float().mean().item())
    assert next(iter(metrics)) == "accuracy"


def test_the_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    """Ten sure examples, of which eight are right: confidence .99..., accuracy .8, all in one bin."""
    logits = torch.tensor([[5.0, 0.0]] * 10)
    objective, targets = Classification(), torch.tensor([0] * 8 + [1] * 2)
    metrics = objective.metrics(classes=["a", "b"])
    objective.measure(metrics, logits, Batch(None, targets, targets))
    confidence = float(np.exp(5) / (np.exp(5) + 1))
    assert metrics.compute()["ece"].item() == pytest.approx(confidence - 0.8, abs=1e-5)


def test_only_the_ratios_of_class_weights_matter_for_shares_of_classes_too() -> None:
    shares = torch.nn.functional.one_hot(BATCH.targets, 3).float()
    expected = CrossEntropy(class_weights=[1.0, 3.0, 2.0], label_smoothing=0.1)(LOGITS, BATCH.targets)
    for scale in (1.0, 10.0):
        weighted = CrossEntropy(class_weights=[scale, 3 * scale, 2 * scale], label_smoothing=0.1)
        torch.testing.assert_close(weighted(LOGITS, shares), expected)


def test_class_weights_count_as_often_as_they_say() -> None:
    weighted = CrossEntropy(class_weights=[1.0, 3.0, 1.0])(LOGITS, BATCH.targets)
    repeated = torch.tensor([0, 1, 1, 1, 2, 3])
    plain = nn.CrossEntropyLoss()(LOGITS[repeated], BATCH.targets[repeated])
    assert weighted.item() == pytest.approx(plain.item())
    with pytest.raises(
        RequestError,
        match=r"objective.loss.class_weights: there should be a weight for each of 3 classes, got 2 numbers",
    ):
        CrossEntropy(class_weights=[1.0, 3.0])(LOGITS, BATCH.targets)
