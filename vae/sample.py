"""Images of a trained VAE: `load_sampler(run, device)(seeds, prompts)`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from core.images import from_array
from core.seeds import image_noise
from vae.networks import Vae
from vae.weights import load_model


class Sampler:
    """A loaded decoder. Seed s is a latent vector drawn from N(0, I); there are no prompts."""

    def __init__(self, model: Vae, device: str) -> None:
        self.options: dict[str, Any] = {}
        self.default_prompts = [""]
        self.model = model
        self.device = device
        self.latent_dim = model.latent_dim

    def __call__(self, seeds: Sequence[int], prompts: Sequence[str]) -> list[Image.Image]:
        """One image per seed, "L" or "RGB"; `prompts` change nothing."""
        return draw(self.model, image_noise(seeds, (self.model.latent_dim,)).to(self.device))

    def from_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """N x latent_dim -> N x C x H x W in [0, 1], with a graph."""
        return (self.model.decode(latents).float() + 1) / 2

    def to_latents(self, images: torch.Tensor) -> torch.Tensor:
        """N x C x H x W in [0, 1] -> the means of their latent vectors, N x latent_dim."""
        return self.model.encode(images * 2 - 1)[0]


@torch.no_grad()
def draw(model: Vae, latents: torch.Tensor) -> list[Image.Image]:
    """Latent vectors, N x latent_dim -> N Pillow images."""
    images = model.decode(latents).float()  # N x C x H x W in [-1, 1]
    pixels = ((images + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)
    return from_array(pixels.cpu().numpy())


def load_sampler(run: Path, device: str) -> Sampler:
    """The newest weights of a run. Raises UserError if there are none yet."""
    return Sampler(load_model(run / "weights", device), device)
