"""The learning rate over the steps of a run, as a factor on the configured one.

Any class of `torch.optim.lr_scheduler` can stand in the place of these through `scheduler._target_`.
"""

import math
from typing import Annotated

from annotated_types import Ge, Lt
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

Warmup = Annotated[float, Ge(0), Lt(1)]


def constant(optimizer: Optimizer, *, total_steps: int, warmup: Warmup = 0.0) -> LambdaLR:
    """Keep the learning rate, after a linear rise over the share `warmup` of the run's optimizer steps."""
    return LambdaLR(optimizer, lambda step: _rise(step, warmup * total_steps))


def cosine(optimizer: Optimizer, *, total_steps: int, warmup: Warmup = 0.0) -> LambdaLR:
    """Fall to zero along half a cosine (SGDR, arXiv:1608.03983, eq. 5, one period), after a linear rise.

    Args:
        optimizer: Whose learning rate it is.
        total_steps: Optimizer steps of the whole run.
        warmup: Share of them in which the rate rises linearly from near zero.
    """
    rising = warmup * total_steps

    def factor(step: int) -> float:
        if step < rising:
            return _rise(step, rising)
        done = (step - rising) / max(1.0, total_steps - rising)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    return LambdaLR(optimizer, factor)


def _rise(step: int, rising: float) -> float:
    return min(1.0, (step + 1) / (rising + 1))
