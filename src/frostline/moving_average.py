"""A moving average of the weights, which validation and the end of the run see in their place."""

from typing import Annotated, Any

import pytorch_lightning as pl
import torch
from annotated_types import Gt, Lt
from pytorch_lightning.callbacks import WeightAveraging
from torch.optim.swa_utils import get_ema_multi_avg_fn


class MovingAverage(WeightAveraging):
    """Average the weights exponentially, after each optimizer step (Polyak and Juditsky 1992).

    Lightning's own `EMAWeightAveraging` computes `decay * average + (1 - decay) * weight`, which rounds a frozen weight
    anew at each step until it is another; this one moves the average by a share of the difference. What freezes is its
    own average from then on: it would else be another in the average than in the network. Buffers are those of the
    last step.

    Args:
        decay: How much of the average a step leaves.
    """

    def __init__(self, *, decay: Annotated[float, Gt(0), Lt(1)] = 0.999) -> None:
        super().__init__(use_buffers=False, multi_avg_fn=get_ema_multi_avg_fn(decay))  # type: ignore[no-untyped-call]

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the average, and let what is frozen be as it is."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        assert self._average_model is not None
        with torch.no_grad():
            for average, weight in zip(self._average_model.module.parameters(), pl_module.parameters(), strict=True):
                if not weight.requires_grad:
                    average.copy_(weight)
