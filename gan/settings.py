"""Settings of the GAN trainer. The defaults are the thesis's; whatever departs from it is off.

Imports without torch.
"""

from dataclasses import dataclass
from typing import Literal

from core.bounds import check_bounds

SIZES = (32, 64, 128, 256, 512)
BOUNDS = {
    "above 0": ("lr", "critic_lr", "grow"),
    "at least 1": (
        *("width", "z_dim", "batch", "critic_steps", "penalty_every", "checkpoint_every"),
        *("checkpoints_kept", "preview_count"),
    ),
    "0 or more": ("steps", "epochs", "preview_every", "score_every", "penalty", "drift"),
    "from 0 to 1": ("augment", "augment_target"),
    "at least 0 and below 1": ("betas",),
    "between 0 and 1": ("ema_decay",),
}
"""See `core.bounds`."""


@dataclass(frozen=True)
class WganGpSettings:
    """One training run of a WGAN-GP, or of one of the course's GANs."""

    data: str
    """Prepared set (data/x, or data/x:test for another split) or plain folder of images."""
    run_dir: str
    """Folder of the run; the same command goes on where it was stopped."""

    # How long. The first limit reached ends the run.
    steps: int | None = None
    """Generator updates in all, each with its critic updates; null: as the epochs say."""
    epochs: int | None = 50
    """Passes over the images; null: as the steps say."""
    seed: int = 0
    """Of the first weights, the order of the images and all noise."""

    # Networks
    networks: Literal["thesis", "dcgan", "dense"] = "thesis"
    """thesis: its generator and critic; dcgan, dense: the course's, with tanh."""
    size: int = 256
    """Side of the images in pixels: 32, 64, 128, 256 or 512."""
    channels: int = 1
    """1: grey, 3: colour."""
    width: int = 16
    """Channels next to the image, the thesis's d; all others are multiples of it."""
    z_dim: int = 64
    """Numbers in a latent vector."""
    condition: str | None = None
    """Metadata column whose values become classes (projection critic); null: none."""
    grow: int | None = None
    """Steps at each side from 8 px up, progressive growing; null: the full size from the start."""

    # Objective and optimiser
    loss: Literal["wgan-gp", "non-saturating"] = "wgan-gp"
    """wgan-gp: the critic's distance; non-saturating: the course's cross-entropy."""
    batch: int = 128
    """Images of one step, over all processes; an epoch's last batch is what is left."""
    lr: float = 1e-4
    """Adam's learning rate, of both players."""
    critic_lr: float | None = None
    """The critic's own learning rate (two time-scales); null: lr."""
    betas: tuple[float, float] = (0.5, 0.9)
    """Adam's decay rates, of both players."""
    critic_steps: int = 5
    """Critic updates per generator update, on the same real batch."""
    skip_below: float | None = None
    """Leave the critic's update out while its loss is below this (balance); null: never."""
    penalty: float = 10.0
    """Weight of the gradient penalty; 0: none."""
    penalty_every: int = 1
    """Critic updates from one penalty to the next, its weight so many times as large (lazy)."""
    drift: float = 0.0
    """Weight of the mean square of the real scores, which keeps them near 0 (0.001)."""
    ema_decay: float | None = None
    """Sample from an average of the generator's weights with this decay (0.999); null: do not."""

    compile: bool = False
    """torch.compile the gradient penalty: a minute at the start, then faster steps on a GPU."""

    # Few images
    flip: bool = False
    """Show every other image mirrored. Not for X-rays: anatomy has sides."""
    augment: float | None = None
    """Probability of differentiable augmentation of all the critic sees; null: none."""
    augment_target: float | None = None
    """Adapt that probability until real scores beat the middle by this much (0.6); null: keep."""

    # Keeping and showing
    checkpoint_every: int = 1000
    """Steps between checkpoints; weights for the sampler and loss curves are written with them."""
    checkpoints_kept: int = 2
    """Newest checkpoints kept."""
    preview_every: int = 400
    """Steps between grids of samples in run_dir/previews; 0: none."""
    preview_count: int = 64
    """Images of such a grid, always of the seeds 0, 1, 2, ..."""
    score_every: int = 0
    """Steps between scores; the weights of the best one are kept in run_dir/best; 0: none."""
    score_data: str | None = None
    """Set to score against; null: the test split of data, or data itself where it has none."""
    score_images: int = 1000
    """Generated images of a score."""
    tracker: str = "none"
    """none, tensorboard, wandb or trackio."""

    def __post_init__(self) -> None:
        if self.steps is None and self.epochs is None:
            raise ValueError("give --steps or --epochs; without a limit the run would never end")
        if self.size not in SIZES:
            raise ValueError(f"size {self.size} should be one of {', '.join(map(str, SIZES))}")
        if self.channels not in (1, 3):
            raise ValueError(f"channels {self.channels} should be 1 (grey) or 3 (colour)")
        check_bounds(self, BOUNDS)
        if self.score_every and self.score_images < 2:
            raise ValueError(f"score_images {self.score_images} should be at least 2")
        self._check_together()

    def _check_together(self) -> None:
        """Refuse settings that contradict each other."""
        if self.networks == "dcgan" and self.penalty:
            raise ValueError(
                "networks dcgan has BatchNorm in its critic, which mixes the images of a batch, "
                "and penalty needs them apart; set --penalty 0 or --networks thesis"
            )
        if self.networks != "thesis" and (self.condition or self.grow):
            raise ValueError(f"networks {self.networks} knows no condition and no grow; use thesis")
        if self.condition and self.grow:
            raise ValueError("condition and grow do not go together yet; set one to null")
        if self.compile and self.grow:
            raise ValueError(
                "compile and grow do not go together: the networks change as they grow"
            )
        if self.augment_target is not None and self.augment is None:
            raise ValueError("augment_target needs augment, the probability to begin with (0)")
