"""Objects in images: boxes with a class each."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import MetricCollection

from frostline.batch import Batch
from frostline.nn.detection import Detected
from frostline.nn.extras import library
from frostline.objectives.average_precision import AveragePrecision, EachPart, Part
from frostline.objectives.objective import Objective


class Detection(Objective):
    """Detect objects: what a network of detection defines as its losses is summed and minimised.

    The network gives `Detected`.
    """

    tasks: ClassVar[tuple[str, ...]] = ("detection",)

    def loss(self, outputs: Detected, batch: Batch) -> Tensor:
        """Return the sum of the network's losses, a scalar."""
        total = torch.stack(list(outputs.losses.values())).sum()
        return total

    def metrics(self, classes: Sequence[str]) -> MetricCollection:
        """Return COCO's mean average precision, that at intersections of 0.5 and 0.75, and, of several classes, each's.

        Raises:
            RequestError: faster-coco-eval is not installed.
        """
        library("faster_coco_eval", extra="detection", key="objective")
        of = AveragePrecision(len(classes))
        each = {"ap": EachPart(of, "ap", leads=False)} if len(classes) > 1 else {}
        means = {name: Part(of, name, leads=name == "map") for name in ("map", "map_50", "map_75")}
        return MetricCollection({**each, **means}, compute_groups=False)

    def measure(self, metrics: MetricCollection, outputs: Detected, batch: Batch) -> None:
        """Add a batch to the metrics."""
        metrics.update(batch.places, outputs.detections, batch.targets)

    def predictions(self, outputs: Detected, batch: Batch) -> Mapping[str, Tensor | Sequence[Any]]:
        """Return the objects and the detections of each image as JSON, in pixels of the stored image."""
        pairs = list(zip(outputs.detections, batch.targets, strict=True))
        return {
            "target": [_json(targets, targets["scale"], "iscrowd") for _, targets in pairs],
            "prediction": [_json(found, targets["scale"], "scores") for found, targets in pairs],
        }


def _json(objects: Mapping[str, Tensor], scale: Tensor, third: str) -> str:
    boxes = (objects["boxes"] / scale.repeat(2).to(objects["boxes"])).float().tolist()
    rounded = {"boxes": [[round(corner, 2) for corner in box] for box in boxes]}
    if third == "scores":
        rest = {third: [round(score, 4) for score in objects[third].float().tolist()]}
    else:
        rest = {third: objects[third].tolist()}
    return json.dumps(rounded | {"labels": objects["labels"].tolist()} | rest)
