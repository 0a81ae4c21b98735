"""Settings of the WGAN-GP trainer. The defaults are the thesis's. Imports without torch."""

from dataclasses import dataclass

SIZES = (32, 64, 128, 256, 512)


@dataclass(frozen=True)
class WganGpSettings:
    """One training run of a WGAN-GP."""

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
    size: int = 256
    """Side of the images in pixels: 32, 64, 128, 256 or 512."""
    channels: int = 1
    """1: grey, 3: colour."""
    width: int = 16
    """Channels next to the image, the thesis's d; all others are multiples of it."""
    z_dim: int = 64
    """Numbers in a latent vector."""

    # Objective and optimiser
    batch: int = 128
    """Images of one step, over all processes; an epoch's last batch is what is left."""
    lr: float = 1e-4
    """Adam's learning rate, of both players."""
    betas: tuple[float, float] = (0.5, 0.9)
    """Adam's decay rates, of both players."""
    critic_steps: int = 5
    """Critic updates per generator update, on the same real batch."""
    penalty: float = 10.0
    """Weight of the gradient penalty."""
    ema_decay: float | None = None
    """Sample from an average of the generator's weights with this decay (0.999); null: do not."""

    # Keeping and showing
    checkpoint_every: int = 1000
    """Steps between checkpoints; weights for the sampler and loss curves are written with them."""
    checkpoints_kept: int = 2
    """Newest checkpoints kept."""
    preview_every: int = 400
    """Steps between grids of samples in run_dir/previews; 0: none."""
    preview_count: int = 64
    """Images of such a grid, always of the seeds 0, 1, 2, ..."""
    tracker: str = "none"
    """none, tensorboard, wandb or trackio."""

    def __post_init__(self) -> None:
        if self.steps is None and self.epochs is None:
            raise ValueError("give --steps or --epochs; without a limit the run would never end")
        if self.size not in SIZES:
            raise ValueError(f"size {self.size} should be one of {', '.join(map(str, SIZES))}")
        if self.channels not in (1, 3):
            raise ValueError(f"channels {self.channels} should be 1 (grey) or 3 (colour)")
        for name in ("width", "z_dim", "batch", "critic_steps", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} should be at least 1")
        for name in ("checkpoints_kept", "preview_count"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} should be at least 1")
        for name in ("steps", "epochs", "preview_every", "penalty"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name} {getattr(self, name)} should not be negative")
        if not self.lr > 0:
            raise ValueError(f"lr {self.lr} should be above 0")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas {self.betas} should be at least 0 and below 1")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay {self.ema_decay} should lie between 0 and 1")
