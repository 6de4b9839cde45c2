"""What objectives of language modelling share: the text is its own label, token by token."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torchmetrics import MetricCollection

from frostline.batch import Batch
from frostline.objectives.averages import MeanCost, MeanShare
from frostline.objectives.objective import Objective


class Guess(NamedTuple):
    """What a network made of the M tokens of a batch that it was to guess.

    Attributes:
        logits: (M, V), V the size of the vocabulary.
        tokens: What stands there, int64 of shape (M,).
        rows: In which example of the batch, int64 of shape (M,).
    """

    logits: Tensor
    tokens: Tensor
    rows: Tensor


class Perplexity(MeanCost):
    """The exponential of the mean loss over all tokens."""

    def compute(self) -> Tensor:
        """Return it, a scalar."""
        mean: Tensor = super().compute()
        return mean.exp()


class LanguageModelling(Objective):
    """Guess tokens of a text from others; means are over tokens, whatever the batches."""

    def loss(self, outputs: Guess, batch: Batch) -> Tensor:
        """Return the mean cross-entropy over the guessed tokens, a scalar in nats; 0 where there are none."""
        return F.cross_entropy(outputs.logits, outputs.tokens, reduction="sum") / max(1, len(outputs.tokens))

    def weight(self, outputs: Guess, batch: Batch) -> int:
        """Return how many tokens were guessed."""
        return len(outputs.tokens)

    def metrics(self, classes: Sequence[str]) -> MetricCollection:
        """Return perplexity and the share of tokens that are guessed right."""
        right = MeanShare(nan_strategy="disable")
        return MetricCollection(
            {"perplexity": Perplexity(nan_strategy="disable"), "token_accuracy": right}, compute_groups=False
        )

    def measure(self, metrics: MetricCollection, outputs: Guess, batch: Batch) -> None:
        """Add a batch to the metrics."""
        metrics["perplexity"].update(_losses(outputs))
        metrics["token_accuracy"].update((outputs.logits.argmax(dim=1) == outputs.tokens).float())

    def predictions(self, outputs: Guess, batch: Batch) -> dict[str, Tensor]:
        """Return of each example how many tokens were guessed and their mean loss, each of shape (B,)."""
        count = torch.bincount(outputs.rows, minlength=len(batch.places))
        total = torch.bincount(outputs.rows, weights=_losses(outputs), minlength=len(batch.places))
        return {"tokens": count, "loss": total / count.clamp(min=1)}


def _losses(outputs: Guess) -> Tensor:
    return F.cross_entropy(outputs.logits.float(), outputs.tokens, reduction="none")
