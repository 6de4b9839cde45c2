"""Small detection datasets on disk: coloured rectangles on noise, the same at every run."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"apple": (220, 30, 30), "leaf": (30, 200, 40), "sea": (20, 40, 220)}

Box = tuple[str, int, int, int, int]


def picture(seed: int, boxes: Sequence[Box], *, width: int = 64, height: int = 48) -> Image.Image:
    """Noise with a rectangle for each box."""
    pixels = np.random.default_rng(seed).integers(90, 140, (height, width, 3), dtype=np.uint8)
    for name, x1, y1, x2, y2 in boxes:
        pixels[max(0, y1) : y2, max(0, x1) : x2] = COLOURS.get(name, (255, 255, 255))
    return Image.fromarray(pixels)


def drawn_boxes(seed: int, classes: Sequence[str] = ("apple", "leaf")) -> list[Box]:
    """One or two boxes of each picture."""
    generator = np.random.default_rng(1000 + seed)
    boxes = []
    for name in classes[: 1 + seed % 2]:
        x, y = (int(each) for each in generator.integers(0, 24, 2))
        boxes.append((name, x, y, x + 20, y + 18))
    return boxes


def xml(boxes: Sequence[Box], *, width: int = 64, height: int = 48, difficult: Sequence[int] = ()) -> str:
    """A VOC annotation."""
    objects = "".join(
        f"<object><name>{name}</name><difficult>{int(place in difficult)}</difficult><bndbox><xmin>{x1}</xmin>"
        f"<ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for place, (name, x1, y1, x2, y2) in enumerate(boxes)
    )
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation>{size}{objects}</annotation>"


def add_voc(root: Path, name: str, seed: int, boxes: Sequence[Box], **annotation: object) -> None:
    """Add an image and its annotation."""
    for folder in ("JPEGImages", "Annotations"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    picture(seed, boxes).save(root / "JPEGImages" / f"{name}.png")
    (root / "Annotations" / f"{name}.xml").write_text(xml(boxes, **annotation))


def voc(root: Path, counts: Mapping[str, int] = {"train": 8, "val": 3, "test": 3}) -> Path:
    """Write a dataset in VOC's layout; without counts of splits it has no lists."""
    seed = 0
    for split, count in counts.items():
        names = []
        for _ in range(count):
            names.append(f"{seed:04d}")
            add_voc(root, names[-1], seed, drawn_boxes(seed))
            seed += 1
        if split:
            lists = root / "ImageSets" / "Main"
            lists.mkdir(parents=True, exist_ok=True)
            (lists / f"{split}.txt").write_text("\n".join(names) + "\n")
    return root


def coco(root: Path, counts: Mapping[str, int] = {"train": 8, "val": 3}) -> Path:
    """Write a dataset in COCO's layout."""
    seed = 0
    (root / "annotations").mkdir(parents=True)
    for split, count in counts.items():
        (root / f"{split}2017").mkdir()
        content = {
            "images": [],
            "annotations": [],
            "categories": [{"id": 3, "name": "leaf"}, {"id": 7, "name": "apple"}],
        }
        for _ in range(count):
            boxes = drawn_boxes(seed)
            picture(seed, boxes).save(root / f"{split}2017" / f"{seed:012d}.jpg", quality=95)
            content["images"].append({"id": seed, "file_name": f"{seed:012d}.jpg", "width": 64, "height": 48})
            for name, x1, y1, x2, y2 in boxes:
                number = len(content["annotations"]) + 1
                category = 7 if name == "apple" else 3
                row = {"id": number, "image_id": seed, "category_id": category, "bbox": [x1, y1, x2 - x1, y2 - y1]}
                content["annotations"].append({**row, "iscrowd": 0, "area": (x2 - x1) * (y2 - y1)})
            seed += 1
        (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))
    return root
