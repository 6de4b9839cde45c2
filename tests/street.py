"""Images with masks, as small as they can be."""

from pathlib import Path

import numpy as np
from PIL import Image


def plant(root: Path, count: int = 10, *, split: str = "", size: tuple[int, int] = (16, 8), first: int = 0) -> Path:
    """Images of one colour each, whose left half is class 0 and whose right half is class 1 or 2."""
    for number in range(first, first + count):
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
        width, height = size
        Image.new("RGB", size, (number, 2 * number, 200)).save(root / "images" / split / f"{number:03d}.png")
        mask = np.zeros((height, width), dtype=np.uint8)
        mask[:, width // 2 :] = 1 + number % 2
        Image.fromarray(mask).save(root / "masks" / split / f"{number:03d}.png")
    return root
