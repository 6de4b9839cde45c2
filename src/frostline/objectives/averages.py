"""Means that say whether more of them is better, which torchmetrics' own leaves open; choices are made by it."""

from torchmetrics import MeanMetric


class MeanShare(MeanMetric):
    """A mean of which more is better."""

    higher_is_better = True  # type: ignore[assignment]


class MeanCost(MeanMetric):
    """A mean of which less is better."""

    higher_is_better = False  # type: ignore[assignment]
