"""What the loop draws from at each step: latents, noise, timesteps and words.

Everything drawn belongs to the global batch and is a function of seed and step; a process takes its
slice. So processes, resuming and caching change nothing that is learned.

B images, latents of 4 x h x w (4 channels, or as many as the base has).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL

from core.seeds import batch_at, stream
from finetune.augment import NUMBERS, mirrored, vary
from finetune.captions import Words
from finetune.models import send
from finetune.portions import at_once
from finetune.settings import DreamBoothSettings

ON_DEVICE = 2**30  # bytes of cached latents that may stay on the device


class Draws(NamedTuple):
    """The randomness of one subject's global batch, on the CPU."""

    posterior: torch.Tensor
    """B x 4 x h x w, standard normal: the autoencoder's sampling noise."""
    noise: torch.Tensor
    """B x 4 x h x w: what the denoiser has to find."""
    added: torch.Tensor
    """B x 4 x h x w: what is added to the latents; `noise`, perhaps perturbed."""
    timesteps: torch.Tensor
    """B, int64."""
    silent: torch.Tensor
    """B, bool: the caption is left out."""
    variation: torch.Tensor
    """B x NUMBERS, uniform: see `augment.vary`."""
    order: torch.Tensor
    """B, uniform: which order of a caption's parts."""


class Batch(NamedTuple):
    """One process's share of a step, on its device."""

    latents: torch.Tensor
    """B x 4 x h x w"""
    noise: torch.Tensor
    """B x 4 x h x w"""
    added: torch.Tensor
    """B x 4 x h x w"""
    timesteps: torch.Tensor
    """B"""
    words: torch.Tensor
    """B x 77 token numbers, or B x 77 x D embeddings"""


def draw(
    settings: DreamBoothSettings, name: str, step: int, shape: Sequence[int], timesteps: int
) -> Draws:
    """All random numbers of step `step` for the subject `name`.

    Timesteps are stratified: one in each of B equal parts of their distribution, which has the same
    mean as independent ones and less variance. Noise offset: one more normal number per image and
    channel (N. Guttenberg 2023). Input perturbation: noise that the target does not know (Ning et
    al. 2023).

    Args:
        shape: of one latent, (4, h, w).
        timesteps: of the training schedule.
    """
    count = settings.batch
    random = stream(settings.seed, "noise", name, step)
    posterior, noise = torch.randn((2, count, *shape), generator=random)
    place = torch.arange(count) + torch.rand(count, generator=random, dtype=torch.float64)
    share = spread(place / count, settings.timesteps)
    silent, order = torch.rand((2, count), generator=random)
    variation = torch.rand((count, NUMBERS), generator=random)
    if settings.noise_offset:
        shift = torch.randn((count, shape[0], 1, 1), generator=random)
        noise = noise + settings.noise_offset * shift
    added = noise
    if settings.input_perturbation:
        added = noise + settings.input_perturbation * torch.randn(noise.shape, generator=random)
    return Draws(
        posterior,
        noise,
        added,
        (share * timesteps).long().clamp(max=timesteps - 1),
        silent < settings.caption_dropout,
        variation,
        order,
    )


def spread(uniform: torch.Tensor, kind: str) -> torch.Tensor:
    """Uniform numbers to places in the schedule, both in [0, 1], in order.

    "logit_normal": around the middle (Esser et al. 2024). "cubic": 1 - u^3, at much noise.
    """
    if kind == "logit_normal":
        return torch.sigmoid(torch.special.ndtri(uniform))
    return 1.0 - uniform**3 if kind == "cubic" else uniform


def cached(settings: DreamBoothSettings) -> bool:
    """Whether each image is encoded once."""
    return settings.cache_latents and set(settings.augment) <= {"mirror"}


class Latents:
    """A subject's images as the autoencoder's posterior, encoded once (or each time anew)."""

    def __init__(
        self,
        pixels: np.ndarray,
        vae: AutoencoderKL,
        settings: DreamBoothSettings,
        accelerator: Accelerator,
    ) -> None:
        """
        Args:
            pixels: uint8 N x H x W x 3.
        """
        self.vae = vae
        self.device = accelerator.device
        self.augment = settings.augment
        self.at_once = at_once(4 * pixels[0, :, :, 0].size)  # beside all networks, so fewer
        self.pixels = pixels
        with torch.no_grad():
            one = self._moments([0], torch.ones(1, NUMBERS))
        self.shape = tuple(one.shape[2:])  # of one latent: 4, h, w
        self.cache: torch.Tensor | None = None  # N x sides x 2 x 4 x h x w
        if cached(settings):
            self.cache = self._encode_all(1 + len(self.augment), accelerator)
            self.pixels = np.empty(0)  # their memory is not needed any more

    def sample(
        self, items: list[int], variation: torch.Tensor, noise: torch.Tensor
    ) -> torch.Tensor:
        """B x 4 x h x w scaled latents on the device: mean + std x `noise` of the posterior."""
        if self.cache is None:
            moments = self._moments(items, variation)
        else:
            place = self.cache.device
            sides = send(mirrored(self.augment, variation).long(), place)
            moments = send(self.cache[send(torch.tensor(items), place), sides], self.device)
        mean, std = moments.unbind(dim=1)
        scaled = (mean + std * send(noise, self.device)) * self.vae.config.scaling_factor
        return scaled.float()

    @torch.no_grad()
    def _moments(self, items: list[int], variation: torch.Tensor) -> torch.Tensor:
        """B x 2 x 4 x h x w: the posterior's mean and standard deviation."""
        pixels = torch.from_numpy(np.stack([self.pixels[item] for item in items]))
        images = send(pixels, self.device).permute(0, 3, 1, 2).float().div(127.5).sub(1.0)
        posterior = self.vae.encode(vary(images, self.augment, variation)).latent_dist
        return torch.stack([posterior.mean, posterior.std], dim=1)

    def _encode_all(self, sides: int, accelerator: Accelerator) -> torch.Tensor:
        """Each process encodes every so many images; the sum puts the parts together."""
        count = len(self.pixels)
        starts = range(0, count, self.at_once)
        total = torch.zeros((count, sides, 2, *self.shape))
        keep = total.nbytes <= ON_DEVICE
        total = total.to(self.device if keep else "cpu")
        for start in starts[accelerator.process_index :: accelerator.num_processes]:
            items = list(range(start, min(start + self.at_once, count)))
            for side in range(sides):
                variation = torch.full((len(items), NUMBERS), 1.0 - side)  # 0: mirrored
                total[items, side] = self._moments(items, variation).to(total.device)
        if accelerator.num_processes > 1:
            for start in starts:  # in pieces: a device need not hold them all
                part = total[start : start + self.at_once]
                part.copy_(accelerator.reduce(part.to(self.device), "sum"))
        return total


class Source:
    """A subject, ready to be drawn from."""

    def __init__(
        self,
        name: str,
        captions: Sequence[str],
        pixels: np.ndarray,
        words: Words,
        vae: AutoencoderKL,
        settings: DreamBoothSettings,
        accelerator: Accelerator,
    ) -> None:
        """
        Args:
            name: sets this subject's random numbers apart from another's.
            captions: one per image.
            pixels: uint8 N x H x W x 3.
        """
        self.name = name
        self.captions = captions
        self.latents = Latents(pixels, vae, settings, accelerator)
        self.words = words
        self.settings = settings
        self.share = settings.batch // accelerator.num_processes
        self.first = self.share * accelerator.process_index
        self.order_seed = int(stream(settings.seed, "order", name).initial_seed())

    @property
    def cached(self) -> bool:
        """Whether the autoencoder is not needed any more."""
        return self.latents.cache is not None

    def at(self, step: int, timesteps: int) -> list[Batch]:
        """This process's share of step `step`, in `settings.accumulate` pieces."""
        settings = self.settings
        items = batch_at(step, len(self.captions), settings.batch, self.order_seed)
        draws = draw(settings, self.name, step, self.latents.shape, timesteps)
        size = self.share // settings.accumulate
        pieces = []
        for start in range(self.first, self.first + self.share, size):
            part = slice(start, start + size)
            own = Draws(*(tensor[part] for tensor in draws))
            latents = self.latents.sample(items[part], own.variation, own.posterior)
            captions = [self.captions[item] for item in items[part]]
            words = self.words.of(captions, own.silent, own.order)
            others = (own.noise, own.added, own.timesteps, words)
            pieces.append(Batch(latents, *(send(tensor, latents.device) for tensor in others)))
        return pieces


def join(batches: Sequence[Batch]) -> Batch:
    """Several subjects' batches one after the other."""
    if len(batches) == 1:
        return batches[0]
    return Batch(*(torch.cat(tensors) for tensors in zip(*batches, strict=True)))
