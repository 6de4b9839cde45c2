"""A moving average of the weights, which validation and the end of the run see in their place."""

from typing import Annotated

from annotated_types import Gt, Lt
from pytorch_lightning.callbacks import WeightAveraging
from torch.optim.swa_utils import get_ema_multi_avg_fn


class MovingAverage(WeightAveraging):
    """Average the weights exponentially, after each optimizer step (Polyak and Juditsky 1992).

    Lightning's own `EMAWeightAveraging` computes `decay * average + (1 - decay) * weight`, which rounds a frozen weight
    anew at each step until it is another; this one moves the average by a share of the difference, which is zero for
    what is frozen. Buffers are those of the last step.

    Args:
        decay: How much of the average a step leaves.
    """

    def __init__(self, *, decay: Annotated[float, Gt(0), Lt(1)] = 0.999) -> None:
        super().__init__(use_buffers=False, multi_avg_fn=get_ema_multi_avg_fn(decay))  # type: ignore[no-untyped-call]
