"""What the loop draws from at each step: latents, noise, timesteps and words.

Everything drawn belongs to the global batch and is a function of seed and step; a process takes its
slice. So processes, resuming and caching change nothing that is learned.

B images, latents of 4 x h x w.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL, StableDiffusionPipeline

from core.seeds import batch_at, stream
from finetune.models import tokenize
from finetune.settings import DreamBoothSettings
from finetune.subjects import Subject

ENCODE_AT_ONCE = 16  # images
ON_DEVICE = 2**30  # bytes of cached latents or embeddings that may stay on the device


class Draws(NamedTuple):
    """The randomness of one subject's global batch, on the CPU."""

    posterior: torch.Tensor
    """B x 4 x h x w, standard normal: the autoencoder's sampling noise."""
    noise: torch.Tensor
    """B x 4 x h x w: what the denoiser has to find."""
    timesteps: torch.Tensor
    """B, int64."""
    mirrored: torch.Tensor
    """B, bool."""
    silent: torch.Tensor
    """B, bool: the caption is left out."""


class Batch(NamedTuple):
    """One process's share of a step, on its device."""

    latents: torch.Tensor
    """B x 4 x h x w"""
    noise: torch.Tensor
    """B x 4 x h x w"""
    timesteps: torch.Tensor
    """B"""
    words: torch.Tensor
    """B x 77 token numbers, or B x 77 x D embeddings"""


def draw(
    settings: DreamBoothSettings, name: str, step: int, shape: Sequence[int], timesteps: int
) -> Draws:
    """All random numbers of step `step` for the subject `name`.

    Timesteps are stratified: one in each of B equal parts of the schedule, which has the same mean
    as independent ones and less variance. Noise offset: one more normal number per image and
    channel (N. Guttenberg 2023).

    Args:
        shape: of one latent, (4, h, w).
        timesteps: of the training schedule.
    """
    count = settings.batch
    random = stream(settings.seed, "noise", name, step)
    posterior, noise = torch.randn((2, count, *shape), generator=random)
    place = torch.arange(count) + torch.rand(count, generator=random, dtype=torch.float64)
    mirrored, silent = torch.rand((2, count), generator=random)
    if settings.noise_offset:
        shift = torch.randn((count, shape[0], 1, 1), generator=random)
        noise = noise + settings.noise_offset * shift
    return Draws(
        posterior,
        noise,
        (place * timesteps / count).long().clamp(max=timesteps - 1),
        mirrored < (0.5 if settings.flip else 0.0),
        silent < settings.caption_dropout,
    )


class Latents:
    """A subject's images as the autoencoder's posterior, encoded once (or each time anew)."""

    def __init__(
        self,
        subject: Subject,
        vae: AutoencoderKL,
        size: int,
        settings: DreamBoothSettings,
        accelerator: Accelerator,
    ) -> None:
        self.vae = vae
        self.device = accelerator.device
        self.pixels = subject.images.pixels(size, "RGB")  # uint8 N x H x W x 3
        with torch.no_grad():
            one = self._moments([0], torch.zeros(1, dtype=torch.bool))
        self.shape = tuple(one.shape[2:])  # of one latent: 4, h, w
        self.cache: torch.Tensor | None = None  # N x sides x 2 x 4 x h x w
        if settings.cache_latents:
            self.cache = self._encode_all(2 if settings.flip else 1, accelerator)
            self.pixels = np.empty(0)  # their memory is not needed any more

    def sample(self, items: list[int], mirrored: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """B x 4 x h x w scaled latents on the device: mean + std x `noise` of the posterior."""
        if self.cache is None:
            moments = self._moments(items, mirrored)
        else:
            place = self.cache.device
            sides = send(mirrored.long(), place)
            moments = send(self.cache[send(torch.tensor(items), place), sides], self.device)
        mean, std = moments.unbind(dim=1)
        scaled = (mean + std * send(noise, self.device)) * self.vae.config.scaling_factor
        return scaled.float()

    @torch.no_grad()
    def _moments(self, items: list[int], mirrored: torch.Tensor) -> torch.Tensor:
        """B x 2 x 4 x h x w: the posterior's mean and standard deviation."""
        pixels = torch.from_numpy(np.stack([self.pixels[item] for item in items]))
        images = pixels.permute(0, 3, 1, 2).to(self.device, torch.float32).div(127.5).sub(1.0)
        sides = mirrored[:, None, None, None].to(self.device)
        posterior = self.vae.encode(torch.where(sides, images.flip(3), images)).latent_dist
        return torch.stack([posterior.mean, posterior.std], dim=1)

    def _encode_all(self, sides: int, accelerator: Accelerator) -> torch.Tensor:
        """Each process encodes every so many images; the sum puts the parts together."""
        count = len(self.pixels)
        starts = range(0, count, ENCODE_AT_ONCE)
        total = torch.zeros((count, sides, 2, *self.shape))
        keep = total.nbytes <= ON_DEVICE
        total = total.to(self.device if keep else "cpu")
        for start in starts[accelerator.process_index :: accelerator.num_processes]:
            items = list(range(start, min(start + ENCODE_AT_ONCE, count)))
            for side in range(sides):
                mirrored = torch.full((len(items),), bool(side))
                total[items, side] = self._moments(items, mirrored).to(total.device)
        if accelerator.num_processes > 1:
            for start in starts:  # in pieces: a device need not hold them all
                part = total[start : start + ENCODE_AT_ONCE]
                part.copy_(accelerator.reduce(part.to(self.device), "sum"))
        return total


class Words:
    """Distinct captions as token numbers, or as embeddings where the text encoder is frozen."""

    def __init__(
        self, captions: Sequence[str], pipeline: StableDiffusionPipeline, trained: bool
    ) -> None:
        """
        Args:
            trained: the text encoder learns too, so embeddings cannot be kept.
        """
        texts = ["", *dict.fromkeys(captions)]
        tokenizer, encoder = pipeline.tokenizer, pipeline.text_encoder
        self.place = {text: number for number, text in enumerate(texts)}
        self.table = tokenize(tokenizer, texts)
        self.cut = sum(len(tokenizer.tokenize(t)) > self.table.shape[1] - 2 for t in texts)
        """Captions too long for the text encoder: their end is not read."""
        size = self.table.numel() * encoder.config.hidden_size * 4
        self.embedded = not trained and size <= ON_DEVICE
        if self.embedded:
            with torch.no_grad():
                parts = self.table.to(encoder.device).split(ENCODE_AT_ONCE)
                self.table = torch.cat([encoder(part)[0] for part in parts])

    def of(self, captions: Sequence[str], silent: torch.Tensor) -> torch.Tensor:
        """B x 77 (x D); a silent caption is the empty one."""
        numbers = torch.tensor([self.place[caption] for caption in captions])
        return self.table[send(torch.where(silent, 0, numbers), self.table.device)]


class Source:
    """A subject, ready to be drawn from."""

    def __init__(
        self,
        name: str,
        subject: Subject,
        words: Words,
        vae: AutoencoderKL,
        size: int,
        settings: DreamBoothSettings,
        accelerator: Accelerator,
    ) -> None:
        """
        Args:
            name: sets this subject's random numbers apart from another's.
            size: pixels a side.
        """
        self.name = name
        self.captions = subject.captions
        self.latents = Latents(subject, vae, size, settings, accelerator)
        self.words = words
        self.settings = settings
        self.share = settings.batch // accelerator.num_processes
        self.first = self.share * accelerator.process_index
        self.order_seed = int(stream(settings.seed, "order", name).initial_seed())

    def at(self, step: int, timesteps: int) -> list[Batch]:
        """This process's share of step `step`, in `settings.accumulate` pieces."""
        settings = self.settings
        items = batch_at(step, len(self.captions), settings.batch, self.order_seed)
        draws = draw(settings, self.name, step, self.latents.shape, timesteps)
        size = self.share // settings.accumulate
        pieces = []
        for start in range(self.first, self.first + self.share, size):
            part = slice(start, start + size)
            latents = self.latents.sample(items[part], draws.mirrored[part], draws.posterior[part])
            captions = [self.captions[item] for item in items[part]]
            words = self.words.of(captions, draws.silent[part])
            others = (draws.noise[part], draws.timesteps[part], words)
            pieces.append(Batch(latents, *(send(tensor, latents.device) for tensor in others)))
        return pieces


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """To the device without waiting for it."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def join(batches: Sequence[Batch]) -> Batch:
    """Several subjects' batches one after the other."""
    return Batch(*(torch.cat(tensors) for tensors in zip(*batches, strict=True)))
