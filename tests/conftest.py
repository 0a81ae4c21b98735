"""What many tests share."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from PIL import Image

# A shell's background jobs ignore Ctrl-C, and so would the processes whose stopping is tested
signal.signal(signal.SIGINT, signal.default_int_handler)


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


@pytest.fixture
def half(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[float], None]]:
    """`half(scale)`: from now on fp16 with a gradient scaler, which starts at `scale` and grows
    every second step. accelerate gives both to GPUs only; here the CPU gets them."""

    def give(scale: float) -> None:
        def init(accelerator: Accelerator, **given: Any) -> None:
            real(accelerator, **given)
            accelerator.native_amp = True
            accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=2)

        monkeypatch.setattr(Accelerator, "__init__", init)
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
        AcceleratorState._reset_state(reset_partial_state=True)

    real = Accelerator.__init__
    yield give
    AcceleratorState._reset_state(reset_partial_state=True)
