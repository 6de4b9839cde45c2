"""Networks with auxiliary classifiers give, while they train, a tuple of logits; the first of them decide."""

from collections.abc import Callable

from torch import Tensor

Logits = Tensor | tuple[Tensor, ...]
"""Of shape (B, C, ...), or a tuple of them with those of auxiliary classifiers."""


def deciding(outputs: Logits) -> Tensor:
    """Return the logits that decide, (B, C, ...)."""
    return outputs[0] if isinstance(outputs, tuple) else outputs


def total(loss: Callable[[Tensor], Tensor], outputs: Logits, *, weight: float) -> Tensor:
    """Return the loss of the logits that decide, a scalar, and `weight` times that of each others."""
    logits, *auxiliary = outputs if isinstance(outputs, tuple) else (outputs,)
    return loss(logits) + weight * sum(map(loss, auxiliary), start=logits.new_zeros(()))
