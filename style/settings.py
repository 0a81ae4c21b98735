"""Settings of neural style transfer. Imports without torch."""

from dataclasses import dataclass
from typing import Literal

from core.bounds import check_bounds

BOUNDS = {
    "above 0": ("lr",),
    "at least 1": ("steps",),
    "0 or more": ("content_weight", "style_weight", "variation_weight", "preview_every"),
}
"""See `core.bounds`."""


@dataclass(frozen=True)
class StyleSettings:
    """One picture in the style of another."""

    content: str
    """Picture that says what is shown."""
    style: str
    """Picture that says how."""
    run_dir: str
    """Folder for result.png, previews/, losses.csv and curves.png."""

    steps: int = 200
    """Updates of the picture."""
    side: int = 256
    """Pixels of the result's longer side."""
    start: Literal["content", "noise"] = "content"
    """What the picture is before the first update."""
    seed: int = 0
    """Of the noise."""

    features: Literal["auto", "vgg19", "encoder-mini"] = "auto"
    """Network whose features are compared; auto: vgg19 where its weights are at hand."""
    content_weight: float = 1.0
    """Weight of the difference in content features, as a part of those features."""
    style_weight: float = 10.0
    """Weight of the difference in Gram matrices, as a part of those matrices."""
    variation_weight: float = 5.0
    """Weight of the total variation, which keeps neighbouring pixels alike."""
    optimiser: Literal["lbfgs", "adam"] = "lbfgs"
    """lbfgs: fewer steps, each dearer; adam: plain gradient descent with momentum."""
    lr: float | None = None
    """Step width; null: 1 for lbfgs, 0.02 for adam."""

    preview_every: int = 25
    """Steps between pictures in run_dir/previews; 0: none."""

    def __post_init__(self) -> None:
        check_bounds(self, BOUNDS)
        if self.side < 32:
            raise ValueError(f"side {self.side} should be at least 32")
        if not self.content_weight + self.style_weight > 0:
            raise ValueError("content_weight and style_weight are both 0; there is nothing to do")
