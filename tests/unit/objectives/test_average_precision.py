"""Average precision, by hand and by another computation; losses as the network has them; predictions as people read."""

import json

import pytest
import torch

from frostline.batch import Batch
from frostline.errors import RequestError
from frostline.nn.detection import Detected
from frostline.objectives.detection import Detection

pytest.importorskip("faster_coco_eval")

HERE = [0.0, 0.0, 10.0, 10.0]
THERE = [20.0, 20.0, 40.0, 40.0]


def found(*rows) -> dict[str, torch.Tensor]:
    """Detections as (label, score, box)."""
    boxes = torch.tensor([row[2] for row in rows]).reshape(-1, 4)
    scores, labels = torch.tensor([row[1] for row in rows]), torch.tensor([row[0] for row in rows], dtype=torch.int64)
    return {"boxes": boxes, "scores": scores, "labels": labels}


def present(*rows, crowd=()) -> dict[str, torch.Tensor]:
    """Objects as (label, box)."""
    return {
        "boxes": torch.tensor([row[1] for row in rows]).reshape(-1, 4),
        "labels": torch.tensor([row[0] for row in rows], dtype=torch.int64),
        "iscrowd": torch.tensor([int(place in crowd) for place in range(len(rows))], dtype=torch.int64),
        "scale": torch.tensor([0.5, 0.25]),
    }


def batch(*targets, first: int = 0) -> Batch:
    return Batch(None, list(targets), torch.arange(first, first + len(targets)))


def measured(*pairs, classes=("a", "b", "c")) -> dict[str, torch.Tensor]:
    """Metrics of (detections, objects) of each image, two images a batch."""
    objective = Detection()
    metrics = objective.metrics(classes)
    for begin in range(0, len(pairs), 2):
        some = pairs[begin : begin + 2]
        outputs = Detected({}, [each[0] for each in some])
        objective.measure(metrics, outputs, batch(*[each[1] for each in some], first=begin))
    return metrics.compute()


def test_the_loss_is_the_sum_of_the_networks_own() -> None:
    losses = {"one": torch.tensor(1.5, requires_grad=True), "two": torch.tensor(2.0)}
    total = Detection().loss(Detected(losses, []), batch(present()))
    assert total.item() == 3.5
    assert total.requires_grad


def test_the_headline_is_map() -> None:
    assert (
        next(iter(measured((found((0, 0.9, HERE)), present((0, HERE)))))) == "ap"
    )  # a vector: the first number is map
    assert [
        name for name, value in measured((found((0, 0.9, HERE)), present((0, HERE)))).items() if not value.ndim
    ] == [
        "map",
        "map_50",
        "map_75",
    ]


def test_one_class_has_no_precision_beside_the_mean() -> None:
    values = measured((found((0, 0.9, HERE)), present((0, HERE))), classes=["a"])
    assert {name: value.item() for name, value in values.items()} == {"map": 1, "map_50": 1, "map_75": 1}


def test_perfect_detections_score_one_and_labels_are_the_classes_places() -> None:
    values = measured(
        (found((2, 0.9, HERE), (0, 0.8, THERE)), present((2, HERE), (0, THERE))),
        (found((0, 0.7, HERE)), present((0, HERE))),
    )
    assert values["map"] == values["map_50"] == values["map_75"] == 1
    assert values["ap"].isnan().tolist() == [False, True, False]
    assert values["ap"][[0, 2]].tolist() == [1, 1]


def test_an_intersection_of_two_thirds_counts_up_to_065() -> None:
    box = [0.0, 0.0, 10.0, 20.0 / 3]  # IoU with HERE is 2/3: right at 0.5, 0.55, 0.6 and 0.65
    values = measured((found((0, 0.9, box)), present((0, HERE))))
    assert values["map"].item() == pytest.approx(0.4)
    assert values["map_50"] == 1
    assert values["map_75"] == 0


def test_a_better_scored_miss_halves_the_precision() -> None:
    values = measured((found((0, 0.9, THERE), (0, 0.8, HERE)), present((0, HERE))))
    assert values["map"].item() == pytest.approx(0.5)


def test_one_of_two_objects_is_half_of_the_recall() -> None:
    values = measured((found((0, 0.9, HERE)), present((0, HERE), (0, THERE))))
    assert values["map"].item() == pytest.approx(51 / 101)  # recalls 0, 0.01, ..., 0.5 of 101


def test_a_class_with_objects_but_no_detection_scores_nothing() -> None:
    values = measured((found((0, 0.9, HERE)), present((0, HERE), (1, THERE))))
    assert values["ap"][:2].tolist() == [1, 0]
    assert values["map"].item() == pytest.approx(0.5)


def test_a_class_without_objects_is_no_part_of_the_mean() -> None:
    values = measured((found((0, 0.9, HERE), (1, 0.9, THERE)), present((0, HERE))))
    assert values["map"] == 1
    assert values["ap"].isnan().tolist() == [False, True, True]


def test_a_split_without_objects_has_no_score() -> None:
    values = measured((found((0, 0.9, HERE)), present()), (found(), present()))
    assert values["map"].isnan()
    assert values["ap"].isnan().all()


def test_without_detections_the_score_is_nothing() -> None:
    values = measured((found(), present((1, HERE))), (found(), present()))
    assert values["map"] == 0


def test_what_is_detected_in_a_crowd_is_forgiven() -> None:
    inside = [21.0, 21.0, 25.0, 25.0]
    pair = (found((0, 0.9, inside), (0, 0.8, HERE)), present((0, HERE), (0, THERE), crowd=[1]))
    assert measured(pair)["map"] == 1
    assert measured((pair[0], present((0, HERE), (0, THERE))))["map"] < 0.6


def test_each_epoch_begins_anew() -> None:
    objective = Detection()
    metrics = objective.metrics(["a"])
    for box, score in ((THERE, 0.0), (HERE, 1.0)):
        objective.measure(metrics, Detected({}, [found((0, 0.9, box))]), batch(present((0, HERE))))
        assert metrics.compute()["map"].item() == score
        metrics.reset()


def test_images_are_told_apart_across_batches() -> None:
    one = (found((0, 0.9, HERE)), present((0, HERE)))
    assert measured(one, one, one)["map"] == 1


def test_parts_agree_with_precision_and_recall_by_hand() -> None:
    generator = torch.Generator().manual_seed(0)
    pairs = []
    for _ in range(12):
        corners = torch.rand(6, 2, generator=generator) * 50
        boxes = torch.cat([corners, corners + 5 + torch.rand(6, 2, generator=generator) * 30], 1)
        labels = torch.randint(3, (6,), generator=generator)
        noise = torch.randn(6, 4, generator=generator)
        scores = torch.rand(6, generator=generator)
        rows = [(int(labels[i]), float(scores[i]), (boxes[i] + noise[i]).tolist()) for i in range(5)]
        objects = [(int(labels[i]), boxes[i].tolist()) for i in range(1, 6)]
        pairs.append((found(*rows), present(*objects)))
    values = measured(*pairs)
    thresholds = [0.5 + 0.05 * step for step in range(10)]
    table = torch.tensor([[by_hand(pairs, label, threshold) for threshold in thresholds] for label in range(3)])
    assert 0.2 < table.mean() < 0.9
    torch.testing.assert_close(values["ap"], table.mean(1), atol=1e-6, rtol=0)
    torch.testing.assert_close(values["map"], table.mean(), atol=1e-6, rtol=0)
    torch.testing.assert_close(values["map_50"], table[:, 0].mean(), atol=1e-6, rtol=0)
    torch.testing.assert_close(values["map_75"], table[:, 5].mean(), atol=1e-6, rtol=0)


def by_hand(pairs, label: int, threshold: float) -> float:
    """COCO's average precision of one class at one intersection: greedy matching, precision at 101 recalls."""
    rows, total = [], 0
    for image, (detections, objects) in enumerate(pairs):
        total += int((objects["labels"] == label).sum())
        for place in range(len(detections["labels"])):
            if detections["labels"][place] == label:
                rows.append((-float(detections["scores"][place]), image, detections["boxes"][place].tolist()))
    taken, hits = set(), []
    for _, image, box in sorted(rows):
        best, chosen = threshold - 1e-10, None
        objects = pairs[image][1]
        for place, other in enumerate(objects["boxes"].tolist()):
            if objects["labels"][place] == label and (image, place) not in taken and overlap(box, other) >= best:
                best, chosen = overlap(box, other), (image, place)
        hits.append(chosen is not None)
        taken.add(chosen)
    precisions = [sum(hits[: n + 1]) / (n + 1) for n in range(len(hits))]
    recalls = [sum(hits[: n + 1]) / total for n in range(len(hits))]
    at = [
        max((p for p, r in zip(precisions, recalls, strict=True) if r >= step / 100), default=0) for step in range(101)
    ]
    return sum(at) / 101


def overlap(one: list[float], other: list[float]) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    area = max(0.0, width) * max(0.0, height)
    both = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return area / (both - area)


def test_predictions_are_in_pixels_of_the_stored_image() -> None:
    outputs = Detected({}, [found((1, 0.91234, [1.0, 2.0, 3.0, 4.0]))])
    rows = Detection().predictions(outputs, batch(present((0, HERE), crowd=[0])))
    assert json.loads(rows["prediction"][0]) == {"boxes": [[2, 8, 6, 16]], "labels": [1], "scores": [0.9123]}
    assert json.loads(rows["target"][0]) == {"boxes": [[0, 0, 20, 40]], "labels": [0], "iscrowd": [1]}


def test_a_missing_library_is_one_sentence(monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "faster_coco_eval", None)
    with pytest.raises(
        RequestError,
        match=r"objective: needs faster_coco_eval, which is not here; pip install 'frostline\[detection\]'",
    ):
        Detection().metrics(["a"])
