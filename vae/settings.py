"""Settings of the VAE trainer. Names and defaults are the guide's. Imports without torch.

The guide's `file_path` is `data` here. Its output folders lie in the run folder unless absolute.
"""

from dataclasses import dataclass
from typing import Literal

from core.bounds import check_bounds

BOUNDS = {
    "above 0": ("lr",),
    "at least 1": (
        *("latent_dim", "depth", "width", "batch_size", "preview_count"),
        *("checkpoint_every", "checkpoints_kept"),
    ),
    "0 or more": (
        *("steps", "num_epochs", "alpha", "beta", "gamma", "preview_every"),
        *("noise", "adversary", "beta_warmup", "free_bits"),
    ),
}
"""See `core.bounds`."""


@dataclass(frozen=True)
class VaeSettings:
    """One training run of a variational autoencoder, or of one of the lesson's autoencoders."""

    data: str
    """Prepared set (data/x, or data/x:test for another split) or plain folder of images."""
    run_dir: str
    """Folder of the run; the same command goes on where it was stopped."""

    # How long. The first limit reached ends the run.
    steps: int | None = None
    """Updates in all; null: as num_epochs says."""
    num_epochs: int | None = 25
    """Passes over the images; null: as steps says."""
    seed: int = 0
    """Of the first weights, the order of the images and all noise."""

    # What is learnt
    mode: Literal["vae", "autoencoder", "denoising", "super-resolution", "adversarial"] = "vae"
    """vae: the guide's; the others have no KL and no noise; adversarial: a critic of codes."""
    noise: float = 0.3
    """Deviation of the noise on the images, which lie in [-1, 1]; denoising."""
    factor: int = 4
    """How much smaller the images are that go in; super-resolution."""
    adversary: float = 0.1
    """Weight of deceiving the critic of latent vectors; adversarial."""

    # Network
    img_size: int = 128
    """Side of the images in pixels; divisible by 2^depth."""
    in_channels: int = 3
    """1: grey, 3: colour."""
    latent_dim: int = 750
    """Numbers in a latent vector."""
    depth: int = 4
    """Convolutions of the encoder, each halving the side; as many in the decoder."""
    width: int = 32
    """Channels of the first convolution; each further one doubles them."""

    # Loss and optimiser
    alpha: float = 5.0
    """Weight of the reconstruction loss."""
    beta: float = 1.0
    """Weight of the KL divergence; vae."""
    beta_warmup: int = 0
    """Steps over which beta rises from 0; 0: it is there from the start."""
    free_bits: float = 0.0
    """Nats that each latent number may hold for nothing, which keeps it in use; vae."""
    gamma: float = 10.0
    """Weight of the blur loss."""
    lr: float = 1e-4
    """Adam's learning rate."""
    batch_size: int = 10
    """Images of one step, over all processes; an epoch's last batch is what is left."""

    # Keeping and showing
    log_file: str = "vae_training_log.csv"
    """CSV in the run folder: one row per epoch, with the mean of each loss."""
    model_save_dir: str = "vae_checkpoints"
    """Folder in the run folder for the model's weights, by epoch."""
    output_dir: str = "output_images"
    """Folder in the run folder for 8x8 grids of samples, by epoch, and the plot of the losses."""
    checkpoint_every: int | None = None
    """Steps between checkpoints, with which the four outputs above are written; null: an epoch."""
    checkpoints_kept: int = 2
    """Newest checkpoints, and files in model_save_dir, kept."""
    preview_every: int = 400
    """Steps between grids of samples in run_dir/previews; 0: none."""
    preview_count: int = 64
    """Images of such a grid, always of the seeds 0, 1, 2, ..."""
    tracker: str = "none"
    """none, tensorboard, wandb or trackio."""

    def __post_init__(self) -> None:
        if self.steps is None and self.num_epochs is None:
            raise ValueError("give --steps or --num_epochs; without a limit the run would not end")
        if self.in_channels not in (1, 3):
            raise ValueError(f"in_channels {self.in_channels} should be 1 (grey) or 3 (colour)")
        check_bounds(self, BOUNDS)
        if self.img_size < 1 or self.img_size % 2**self.depth:
            raise ValueError(
                f"img_size {self.img_size} should be divisible by 2^depth, {2**self.depth}"
            )
        if self.mode == "super-resolution" and (self.factor < 2 or self.img_size % self.factor):
            raise ValueError(f"factor {self.factor} should be 2 or more and divide img_size")
