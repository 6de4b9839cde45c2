"""Small images on disk, the same at every run."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Plant = Callable[[Mapping[str, int]], Path]


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    """Write so many different PNGs into each folder, and return the root."""

    def write(counts: Mapping[str, int]) -> Path:
        root = tmp_path / "pics"
        generator = np.random.default_rng(0)
        for folder, count in counts.items():
            (root / folder).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                pixels = generator.integers(0, 256, (12, 10, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / folder / f"{number:03d}.png")
        return root

    return write
