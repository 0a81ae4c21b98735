"""Images of a trained WGAN-GP: `load_sampler(run, device)(seeds, prompts)`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from core.images import from_array
from core.seeds import image_noise
from gan.networks import Generator
from gan.weights import load_generator


class Sampler:
    """A loaded generator. Seed s is the latent vector drawn from s; there are no prompts."""

    def __init__(self, generator: Generator, device: str) -> None:
        self.options: dict[str, Any] = {}
        self.default_prompts = [""]
        self.generator = generator
        self.device = device

    def __call__(self, seeds: Sequence[int], prompts: Sequence[str]) -> list[Image.Image]:
        """One image per seed, "L" or "RGB"; `prompts` change nothing."""
        return draw(self.generator, image_noise(seeds, (self.generator.z_dim,)).to(self.device))


@torch.no_grad()
def draw(generator: Generator, noise: torch.Tensor) -> list[Image.Image]:
    """Latent vectors, N x z_dim -> N Pillow images."""
    images = generator(noise).float()  # N x C x H x W in [0, 1]
    pixels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    return from_array(pixels.cpu().numpy())


def load_sampler(run: Path, device: str) -> Sampler:
    """The newest weights of a run; averaged ones if it was trained with `ema_decay`.

    Raises UserError if there are none yet.
    """
    return Sampler(load_generator(run / "weights", device), device)
