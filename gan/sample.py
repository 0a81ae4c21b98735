"""Images of a trained GAN: `load_sampler(run, device)(seeds, prompts)`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from core.errors import UserError
from core.families import is_number
from core.images import from_array
from core.seeds import image_noise
from gan.weights import load_generator


class Sampler:
    """A loaded generator. Seed s is the latent vector drawn from s; there are no prompts.

    `truncation` shrinks latent vectors towards 0, their mean: below 1, images are more typical and
    less varied. `label`, of a conditional run: a class; "": seed s takes class s modulo their
    number. `weights`, where scores were taken: "newest" or "best".
    """

    def __init__(self, run: Path, device: str) -> None:
        self.run = run
        self.device = device
        self.generator, self.classes = load_generator(run / "weights", device)
        self.latent_dim: int = self.generator.z_dim
        self.default_prompts = [""]
        self.options: dict[str, Any] = {"truncation": 1.0}
        if self.classes:
            self.options["label"] = ""
        if (run / "best").exists():
            self.options["weights"] = "newest"
        self._best: Any = None

    def __call__(
        self,
        seeds: Sequence[int],
        prompts: Sequence[str],
        truncation: float = 1.0,
        label: str = "",
        weights: str = "newest",
    ) -> list[Image.Image]:
        """One image per seed, "L" or "RGB"; `prompts` change nothing.

        Raises UserError for a label or weights that are not there.
        """
        if not is_number(truncation):
            raise UserError(f"--truncation '{truncation}' should be a number.")
        noise = truncation * image_noise(seeds, (self.latent_dim,)).to(self.device)
        labels = self._labels(seeds, label) if self.classes else None
        return draw(self._pick(weights), noise, labels)

    def from_latents(self, latents: torch.Tensor, label: str = "") -> torch.Tensor:
        """N x latent_dim -> N x C x H x W in [0, 1], with a graph; without a label of the first
        class, where there are classes."""
        labels = self._labels([0] * len(latents), label) if self.classes else None
        return to_unit(self.generator(latents, labels), self.generator.low)

    def label_of(self, seed: int) -> str:
        """Class that a seed takes where none is asked for."""
        return self.classes[seed % len(self.classes)]

    def _labels(self, seeds: Sequence[int], label: str) -> torch.Tensor:
        """Class numbers, on the device. Raises UserError for a label that is none."""
        label = str(label)  # a class may be a number by name
        if label and label not in self.classes:
            raise UserError(f"--label '{label}' should be one of: {', '.join(self.classes)}.")
        chosen = [self.classes.index(label or self.label_of(seed)) for seed in seeds]
        return torch.tensor(chosen, device=self.device)

    def _pick(self, weights: str) -> Any:
        if weights == "newest":
            return self.generator
        if weights != "best" or not (self.run / "best").exists():
            raise UserError(f"--weights '{weights}' should be newest, or best where scores were.")
        if self._best is None:
            self._best, _ = load_generator(self.run / "best", self.device)
        return self._best


def to_unit(images: torch.Tensor, low: float) -> torch.Tensor:
    """[low, 1] -> [0, 1], float32."""
    return (images.float() - low) / (1 - low) if low else images.float()


@torch.no_grad()
def draw(
    generator: Any, noise: torch.Tensor, labels: torch.Tensor | None = None
) -> list[Image.Image]:
    """Latent vectors, N x z_dim -> N Pillow images."""
    images = to_unit(generator(noise, labels), generator.low)  # N x C x H x W in [0, 1]
    pixels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    return from_array(pixels.cpu().numpy())


def load_sampler(run: Path, device: str) -> Sampler:
    """The newest weights of a run; averaged ones if it was trained with `ema_decay`.

    Raises UserError if there are none yet.
    """
    return Sampler(run, device)
