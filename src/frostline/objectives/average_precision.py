"""COCO's average precision of boxes, as metrics of one number each that share one computation."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.detection import MeanAveragePrecision

_PER_BOX = 7
"""Numbers kept of a box: image, label, score or whether it is for evaluation only, and four corners."""


class AveragePrecision(Metric):
    """Average precision of each class, and its means, over all images of a split (Lin et al. 2014, arXiv:1405.0312).

    torchmetrics evaluates them with faster-coco-eval. Kept is one row of numbers for each box: the list of tensors for
    each image that torchmetrics keeps could not be gathered from processes that have different numbers of images.

    Args:
        classes: How many classes there are.
    """

    full_state_update = False
    detected: list[Tensor]
    present: list[Tensor]

    def __init__(self, classes: int) -> None:
        super().__init__()
        self._classes = classes
        self.add_state("detected", [], dist_reduce_fx="cat")
        self.add_state("present", [], dist_reduce_fx="cat")

    def update(
        self, images: Tensor, detections: Sequence[dict[str, Tensor]], targets: Sequence[dict[str, Tensor]]
    ) -> None:
        """Add a batch.

        Args:
            images: What tells each image from all others of the split, (B,).
            detections: For each `boxes` (n, 4), `scores` (n,) and `labels` (n,).
            targets: For each `boxes` (n, 4), `labels` (n,) and `iscrowd` (n,).
        """
        for image, found, wanted in zip(images, detections, targets, strict=True):
            self.detected.append(_rows(image, found["labels"], found["scores"], found["boxes"]))
            self.present.append(_rows(image, wanted["labels"], wanted["iscrowd"], wanted["boxes"]))

    def compute(self) -> dict[str, Tensor]:
        """Return `map` over intersections of 0.5 to 0.95, `map_50`, `map_75` and `ap` of each class (C,).

        A class without objects in the split has no average precision: it is NaN, and no part of the means. So are the
        means where no class has any.
        """
        detected, present = _table(self.detected), _table(self.present)
        metric = MeanAveragePrecision(class_metrics=True, backend="faster_coco_eval")
        metric.warn_on_many_detections = False  # COCO looks at the first hundred of each class
        images = torch.unique(torch.cat([detected[:, 0], present[:, 0]]))
        metric.update(_of_each(images, detected, third="scores"), _of_each(images, present, third="iscrowd"))
        found = metric.compute()
        each = torch.full((self._classes,), torch.nan, dtype=torch.float32)
        each[found["classes"].reshape(-1).long()] = found["map_per_class"].reshape(-1).float()
        means = {name: found[name].float() for name in ("map", "map_50", "map_75")}
        return {name: value.masked_fill(value < 0, torch.nan) for name, value in {**means, "ap": each}.items()}


class Part(Metric):
    """One of the numbers that another metric computes at once.

    Args:
        of: The metric.
        name: Of the number.
        leads: Whether this part, of all that share the metric, is the one that updates it.
    """

    full_state_update = False
    higher_is_better: bool | None = True

    def __init__(self, of: AveragePrecision, name: str, *, leads: bool) -> None:
        super().__init__()
        self.of = of
        self._name, self._leads = name, leads

    def update(self, *batch: Any) -> None:
        """Add a batch."""
        if self._leads:
            self.of.update(*batch)

    def compute(self) -> Tensor:
        """Return the number."""
        value: Tensor = self.of.compute()[self._name]
        return value

    def reset(self) -> None:
        """Begin anew."""
        super().reset()
        self.of.reset()


class EachPart(Part):
    """Such numbers, one for each class: none that a choice could be made by."""

    higher_is_better = None


def _rows(image: Tensor, labels: Tensor, third: Tensor, boxes: Tensor) -> Tensor:
    """Return a row for each box, flat: torchmetrics gathers nothing from a process without images as a flat tensor."""
    columns = [image.expand(len(labels)), labels, third]
    numbers = torch.stack([column.float() for column in columns], 1)
    return torch.cat([numbers, boxes.float()], 1).flatten()


def _table(rows: list[Tensor] | Tensor) -> Tensor:
    parts = [rows] if isinstance(rows, Tensor) else rows  # a tensor once it was gathered from several processes
    flat = torch.cat([part.cpu() for part in parts]) if parts else torch.zeros(0)
    return flat.reshape(-1, _PER_BOX)


def _of_each(images: Tensor, table: Tensor, *, third: str) -> list[dict[str, Tensor]]:
    parts = [table[table[:, 0] == image] for image in images]
    kind = torch.float32 if third == "scores" else torch.int64
    return [{"boxes": part[:, 3:].float(), "labels": part[:, 1].long(), third: part[:, 2].to(kind)} for part in parts]
