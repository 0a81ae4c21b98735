"""How good is it now? Asked of images that are not trained on, the same question every time."""

from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import DDPMScheduler, StableDiffusionPipeline

from core.files import read_json
from core.images import write_png
from core.measures import Measure
from core.parallel import part_of
from core.runs import SCORE, Run
from core.seeds import stream
from core.sets import ImageSet, open_set
from finetune.augment import NUMBERS
from finetune.captions import Words
from finetune.encode import Latents
from finetune.losses import denoising_loss, target
from finetune.models import Denoiser, send
from finetune.portions import portions
from finetune.sample import StableDiffusionSampler
from finetune.settings import DreamBoothSettings
from finetune.subjects import Subject

IMAGES = 16  # looked at, and drawn
TIMESTEPS = 8  # in the middle of as many equal parts of the schedule
TOLERATED_COPIES = 0.1  # share of drawn images: one in ten comes near by chance


class HeldOut:
    """Validation images with noise and timesteps that never change."""

    def __init__(
        self,
        subject: Subject,
        train: ImageSet,
        pipeline: StableDiffusionPipeline,
        size: int,
        settings: DreamBoothSettings,
        accelerator: Accelerator,
    ) -> None:
        count = min(IMAGES, len(subject))
        chosen = [place * len(subject) // count for place in range(count)]  # of every concept
        images = subject.images
        self.images: ImageSet = replace(
            images,
            paths=[images.paths[place] for place in chosen],
            rows=[images.rows[place] for place in chosen],
        )
        self.captions = [subject.captions[place] for place in chosen]
        self.accelerator = accelerator
        self.size = size
        self.measure = Measure(self.images, train, size, str(accelerator.device))
        frozen = replace(settings, augment=(), cache_latents=True)
        self.latents = Latents(self.images.pixels(size, "RGB"), pipeline.vae, frozen, accelerator)
        trained = settings.text_encoder or settings.token is not None
        self.words = Words(self.captions, pipeline, trained, learned=False)

    @torch.no_grad()
    def loss(self, denoiser: Denoiser, scheduler: DDPMScheduler) -> torch.Tensor:
        """Mean squared error over images and timesteps, unweighted; shared by the processes."""
        mine = part_of(list(range(len(self.captions))), self.accelerator)
        total = torch.zeros((), device=self.accelerator.device)
        for place in range(TIMESTEPS):
            random = stream(0, "validation", place)
            noise = torch.randn((len(self.captions), *self.latents.shape), generator=random)
            step = int((place + 0.5) * len(scheduler) / TIMESTEPS)
            for items in portions(mine, self.size**2):
                total += self._loss(list(items), noise[items], step, denoiser, scheduler)
        return self.accelerator.reduce(total, "sum") / (len(self.captions) * TIMESTEPS)

    def _loss(
        self,
        items: list[int],
        noise: torch.Tensor,
        step: int,
        denoiser: Denoiser,
        scheduler: DDPMScheduler,
    ) -> torch.Tensor:
        """The sum over these images at one timestep."""
        count, device = len(items), self.accelerator.device
        timesteps = torch.full((count,), step, device=device)
        still = torch.zeros_like(noise)  # the posterior's mean
        latents = self.latents.sample(items, torch.ones(count, NUMBERS), still)
        words = self.words.of(
            [self.captions[item] for item in items],
            torch.zeros(count, dtype=torch.bool),
            torch.zeros(count),
        )
        noise = send(noise, device)
        noisy = scheduler.add_noise(latents, noise, timesteps)
        with self.accelerator.autocast():
            guess = denoiser(noisy, timesteps, send(words, device))
        return denoising_loss(guess, target(scheduler, latents, noise, timesteps)).sum()

    def draw(self, sampler: StableDiffusionSampler, run: Run, step: int) -> ImageSet:
        """One image per validation image, with its caption and its number as seed, on disk."""
        folder = run.path / "validation" / f"step-{step:06d}"
        pairs = list(enumerate(self.captions))
        mine = pairs[self.accelerator.process_index :: self.accelerator.num_processes]
        for part in portions(mine, sampler.size**2):
            with self.accelerator.autocast():
                images = sampler([seed for seed, _ in part], [text for _, text in part])
            for (seed, text), image in zip(part, images, strict=True):
                write_png(image, folder / f"{seed:06d}.png", {"prompt": text}, synthetic=True)
        self.accelerator.wait_for_everyone()
        return open_set(folder)

    def scores(self, sampler: StableDiffusionSampler, run: Run, step: int) -> dict[str, float]:
        """Similarity of drawn images to the held-out ones, and the share of copies."""
        found = self.measure(self.draw(sampler, run, step))
        return {name: found[name] for name in ("similarity", "copies")}


def better(new: dict[str, Any], old: dict[str, Any] | None) -> bool:
    """Few copies first, then similarity to the held-out images."""

    def rank(scores: dict[str, Any]) -> tuple[float, float]:
        return -max(scores["copies"], TOLERATED_COPIES), scores["similarity"]

    return old is None or rank(new) > rank(old)


def best_so_far(run: Run) -> dict[str, Any] | None:
    """Step and scores of RUN/best."""
    file = run.path / "best" / SCORE
    return read_json(file) if file.exists() else None


def reason(best: dict[str, Any], last: dict[str, Any]) -> str:
    """One sentence on which weights to take, and by what rule."""
    scores = f"similarity to held-out images {best['similarity']:.3f}, copies {best['copies']:.0%}"
    if best["step"] == last["step"]:
        rule = "few copies first, then nearest to the held-out images"
        return f"The last weights are the best measured: {rule} ({scores})."
    fewer = max(last["copies"], TOLERATED_COPIES) > max(best["copies"], TOLERATED_COPIES)
    why = "fewer copies of training images" if fewer else "nearer to the held-out images"
    other = f"{last['similarity']:.3f}, {last['copies']:.0%} at step {last['step']}"
    return (
        f"The best weights are those of step {best['step']}, in best/: {why} ({scores}; {other})."
    )
