"""What many tests share."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """`make_folder(name, count, size, mode)`: a folder of seeded noise pictures."""

    def make(name: str = "images", count: int = 5, size: int = 8, mode: str = "L") -> Path:
        folder = tmp_path / name
        folder.mkdir()
        rng = np.random.default_rng(count * size)
        for number in range(count):
            shape = (size, size) if mode == "L" else (size, size, 3)
            pixels = rng.integers(0, 256, shape, dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number:03d}.png")
        return folder

    return make
