"""What the LightningModules log."""

import pytest
import torch

from frostline.modules import WeightedMean


def test_batches_count_in_the_loss_by_their_weight_and_nan_is_seen() -> None:
    mean = WeightedMean(nan_strategy="disable")
    for value, weight in ((1.0, 64), (3.0, 1024), (9.0, 0)):
        mean.update(torch.tensor(value), weight=weight)
    assert mean.compute().item() == pytest.approx((64 + 3 * 1024) / 1088)
    mean.update(torch.tensor(torch.nan), weight=1)
    assert torch.isnan(mean.compute())
