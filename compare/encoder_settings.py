"""Settings of the small encoder's trainer. Imports without torch."""

from dataclasses import dataclass

from core.bounds import check_bounds

BOUNDS = {
    "above 0": ("lr",),
    "at least 1": ("steps", "width"),
    "0 or more": ("weight_decay", "shift", "brightness", "contrast", "noise"),
    "from 0 to 1": ("faulty",),
}
"""See `core.bounds`."""


@dataclass(frozen=True)
class TrainEncoderSettings:
    """Train MiniEncoder to read attributes from images."""

    data: tuple[str, ...]
    """Prepared sets; their train splits are learned from, their validation splits reported on."""
    out: str = "models/encoder-mini"
    """Folder to write."""
    columns: tuple[str, ...] = ()
    """Metadata columns to read, such as findings or animal; none: every column that qualifies."""
    steps: int = 1500
    """Optimiser steps."""
    batch: int = 64
    """Images a step."""
    lr: float = 2e-3
    """AdamW's highest learning rate, after a tenth of the steps; falls to 0 as a cosine."""
    weight_decay: float = 0.02
    """AdamW's."""
    shift: int = 4
    """Augmentation: pixels up, down, left or right, at most."""
    brightness: float = 0.1
    """Augmentation: added to all pixels of an image, at most (images lie in [0, 1])."""
    contrast: float = 0.2
    """Augmentation: change of contrast around the image's mean, at most."""
    noise: float = 0.1
    """Fault "rough": largest standard deviation of pixel noise."""
    faulty: float = 0.5
    """Share of the images that get each of the faults soft, rough and blocky, to be read too."""
    width: int = 32
    """Channels of the first stage; features are four times as many."""
    size: int = 64
    """Pixels a side."""
    seed: int = 0
    """Of weights, order and augmentation."""

    def __post_init__(self) -> None:
        if not self.data:
            raise ValueError("--data needs at least one prepared set")
        check_bounds(self, BOUNDS)
        if self.batch < 2:
            raise ValueError(f"batch must be at least 2, not {self.batch}")
