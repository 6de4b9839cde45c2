"""Labels for tokens: only what has a label counts."""

import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from frostline.batch import NO_LABEL, Batch
from frostline.objectives.token_classification import TokenClassification


def test_padding_and_second_parts_count_neither_for_the_loss_nor_for_a_metric_t51() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 9, 3, generator=generator)
    targets = torch.randint(3, (6, 9), generator=generator)
    targets[torch.rand(6, 9, generator=generator) < 0.4] = NO_LABEL
    batch, objective = Batch({}, targets, torch.arange(6)), TokenClassification()
    labelled = targets != NO_LABEL
    expected = -torch.log_softmax(logits, dim=-1)[labelled].gather(1, targets[labelled].unsqueeze(1)).mean()
    torch.testing.assert_close(objective.loss(logits, batch), expected)
    assert objective.weight(logits, batch) == int(labelled.sum())
    metrics = objective.metrics(["a", "b", "c"])
    for rows in (slice(0, 1), slice(1, 6)):
        objective.measure(metrics, logits[rows], Batch({}, targets[rows], torch.arange(6)[rows]))
    found, truth, guess = metrics.compute(), targets[labelled], logits.argmax(dim=-1)[labelled]
    assert next(iter(found)) == "accuracy"
    assert float(found["accuracy"]) == pytest.approx(accuracy_score(truth, guess))
    assert float(found["f1_macro"]) == pytest.approx(f1_score(truth, guess, average="macro"))
    assert found["f1"].tolist() == pytest.approx(f1_score(truth, guess, average=None).tolist())
    assert float(found["mcc"]) == pytest.approx(matthews_corrcoef(truth, guess))


def test_predictions_are_those_of_labelled_tokens() -> None:
    logits = torch.eye(3)[torch.tensor([[0, 1, 2], [2, 2, 2]])]
    targets = torch.tensor([[NO_LABEL, 1, 0], [2, NO_LABEL, NO_LABEL]])
    kept = TokenClassification().predictions(logits, Batch({}, targets, torch.arange(2)))
    assert kept == {"target": ["1 0", "2"], "prediction": ["1 2", "2"]}


def test_a_batch_without_a_labelled_token_teaches_nothing() -> None:
    logits = torch.randn(2, 3, 4, requires_grad=True)
    loss = TokenClassification().loss(logits, Batch({}, torch.full((2, 3), NO_LABEL), torch.arange(2)))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_a_class_that_is_nowhere_has_no_f1() -> None:
    logits = torch.eye(3)[torch.tensor([[0, 1, 0, 1]])]
    objective, batch = TokenClassification(), Batch({}, torch.tensor([[0, 1, 0, 0]]), torch.arange(1))
    objective.measure(metrics := objective.metrics(["a", "b", "c"]), logits, batch)
    found = metrics.compute()
    assert found["f1"][:2].tolist() == pytest.approx([4 / 5, 2 / 3])
    assert found["f1"][2].isnan()
    assert float(found["f1_macro"]) == pytest.approx((4 / 5 + 2 / 3) / 2)
