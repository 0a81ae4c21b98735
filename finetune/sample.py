"""Images from Stable Diffusion: a fine-tuned run, a base run, or a plain diffusers folder."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from PIL import Image

from core.errors import UserError
from core.families import is_number
from core.files import read_json
from core.images import from_array, to_array, to_mode
from core.seeds import image_noise, mixed_noise, stream
from finetune.adapters import FILE
from finetune.blend import Blend, mixes, name_of
from finetune.models import Place, downscale, locate, open_pipeline, open_vae
from finetune.new_word import spelt
from finetune.portions import at_once
from finetune.schedules import sampling_scheduler
from finetune.weights import CARD, base_of, open_tuned, read_card

SCHEDULERS = {
    "ddim": "DDIMScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler_a": "EulerAncestralDiscreteScheduler",
    "unipc": "UniPCMultistepScheduler",
}

EIGHT = 8  # pixels, of which diffusers' pipeline wants multiples whatever the autoencoder
LONGEST = 4  # times the size trained at, of a side

OnStep = Callable[[int, int, torch.Tensor], None]
"""Called after each denoising step: its number (from 1), their count, B x 4 x h x w latents."""


def decode(vae: AutoencoderKL, latents: torch.Tensor, mode: str) -> list[Image.Image]:
    """B x 4 x h x w latents to images, "L" or "RGB"."""
    images: list[Image.Image] = []
    area = latents[0, 0].numel() * downscale(vae.config) ** 2  # pixels of an image
    for part in (latents / vae.config.scaling_factor).split(at_once(area)):
        pixels = vae.decode(part.to(vae.dtype), return_dict=False)[0]  # B x 3 x H x W, [-1, 1]
        pixels = pixels.float().add(1.0).mul(127.5).round().clamp(0, 255).to(torch.uint8)
        images += from_array(pixels.permute(0, 2, 3, 1).cpu().numpy())
    return [to_mode(image, mode) for image in images]


class StableDiffusionSampler:
    """Seeds and prompts to images. Each image's noise is drawn on the CPU from its own seed."""

    def __init__(
        self,
        pipeline: StableDiffusionPipeline,
        size: int,
        mode: str = "RGB",
        default_prompts: Sequence[str] = ("",),
        blend: Blend | None = None,
    ) -> None:
        """
        Args:
            size: pixels a side.
            mode: "L" gives the images back as grey.
            blend: the LoRA adapters in the pipeline; None: no more can be mixed in.
        """
        self.pipeline = pipeline
        self.blend = blend
        self.size = size
        self.mode = mode
        self.default_prompts = list(default_prompts)
        self.options: dict[str, Any] = {
            "steps": 25,
            "guidance": 4.0,
            "negative": "",
            "scheduler": "ddim",
            "height": None,  # pixels, in multiples of 8 or so; None: the size trained at
            "width": None,
        }
        if blend is not None:
            self.options["loras"] = None  # {run: scale}, further LoRA runs on the same base
            if blend.own is not None:
                self.options["lora_scale"] = 1.0  # 0: the base model itself
            if len(blend.choice) > 1:
                self.options["weights"] = "newest"  # or "best" as measured, or a step's number

    @torch.no_grad()
    def __call__(
        self,
        seeds: Sequence[int],
        prompts: Sequence[str],
        on_step: OnStep | None = None,
        **options: Any,
    ) -> list[Image.Image]:
        """One image per seed and prompt.

        Args:
            on_step: for previews; to cancel, raise an exception in it.
            options: any of `self.options`.

        Raises UserError for an option that is unknown or out of range.
        """
        chosen = self.options | self._known(options)
        noise = image_noise(seeds, self._noise_shape(chosen))
        words = {"prompt": [spelt(prompt, self.pipeline.tokenizer) for prompt in prompts]}
        return self._denoise(noise, seeds, words, on_step, chosen)

    @torch.no_grad()
    def mix(
        self,
        seeds: Mapping[int, float],
        prompts: Mapping[str, float],
        on_step: OnStep | None = None,
        **options: Any,
    ) -> Image.Image:
        """One image between seeds and between prompts, by their weights.

        The noise is that of `core.seeds.mixed_noise`; the prompts' encodings are averaged.
        """
        chosen = self.options | self._known(options)
        noise = mixed_noise(seeds, self._noise_shape(chosen))[None]
        words = {"prompt_embeds": self._encode(prompts)}
        (image,) = self._denoise(noise, list(seeds)[:1], words, on_step, chosen)
        return image

    def _noise_shape(self, chosen: Mapping[str, Any]) -> tuple[int, int, int]:
        """Of one image's noise."""
        sides = (int(chosen[name] or self.size) for name in ("height", "width"))
        height, width = (side // self.pipeline.vae_scale_factor for side in sides)
        return (self.pipeline.unet.config.in_channels, height, width)

    def _encode(self, prompts: Mapping[str, float]) -> torch.Tensor:
        """The weighted mean of the prompts' encodings, 1 x 77 x D."""
        total, pipeline = sum(prompts.values()), self.pipeline
        texts = [spelt(prompt, pipeline.tokenizer) for prompt in prompts]
        parts = [
            weight / total * pipeline.encode_prompt(text, pipeline.device, 1, False)[0]
            for text, weight in zip(texts, prompts.values(), strict=True)
        ]
        return torch.stack(parts).sum(0)

    def _denoise(
        self,
        noise: torch.Tensor,
        seeds: Sequence[int],
        words: dict[str, Any],
        on_step: OnStep | None,
        chosen: Mapping[str, Any],
    ) -> list[Image.Image]:
        """`noise` B x 4 x h x w to images, by the pipeline's argument for prompts in `words`."""
        pipeline = self.pipeline
        negative = spelt(str(chosen["negative"]), pipeline.tokenizer)
        if self.blend is not None:
            if "weights" in chosen:
                self.blend.pick(str(chosen["weights"]))
            self.blend.set(float(chosen.get("lora_scale", 1.0)), chosen["loras"] or {})

        def after(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            if on_step is not None:
                on_step(step + 1, pipe.num_timesteps, tensors["latents"])
            return tensors

        steps = int(chosen["steps"])
        with self._scheduled(chosen["scheduler"], steps):
            latents = pipeline(
                **words,
                height=noise.shape[-2] * pipeline.vae_scale_factor,
                width=noise.shape[-1] * pipeline.vae_scale_factor,
                num_inference_steps=steps,
                guidance_scale=float(chosen["guidance"]),
                negative_prompt=[negative] * len(noise),
                latents=noise.to(pipeline.device),
                generator=[stream(seed, "sampling") for seed in seeds],  # if a sampler adds noise
                callback_on_step_end=after,
                output_type="latent",
            ).images
        return self.decode(latents)

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> list[Image.Image]:
        """B x 4 x h x w latents to images, also of unfinished ones."""
        return decode(self.pipeline.vae, latents, self.mode)

    def _known(self, options: dict[str, Any]) -> dict[str, Any]:
        for name, value in options.items():
            if name not in self.options:
                raise UserError(f"No option {name} here; there are {', '.join(self.options)}.")
            if name == "negative" and not isinstance(value, str):
                raise UserError('negative must be text; "" for none.')
            if name in ("steps", "guidance", "lora_scale") and not is_number(value):
                raise UserError(f"{name} must be a number, not '{value}'.")
        steps, most = options.get("steps", 1), self.pipeline.scheduler.config.num_train_timesteps
        if not 1 <= steps <= most or steps != int(steps):
            raise UserError(f"steps must be a whole number from 1 to {most}, not {steps}.")
        unit, longest = math.lcm(EIGHT, self.pipeline.vae_scale_factor), LONGEST * self.size
        for name in ("height", "width"):
            side = options.get(name)
            fits = side is None or (is_number(side) and unit <= side <= longest and not side % unit)
            if not fits:
                raise UserError(f"{name} must be a multiple of {unit} up to {longest}, not {side}.")
        loras = {} if options.get("loras") is None else options["loras"]
        if not isinstance(loras, dict) or not all(map(is_number, loras.values())):
            raise UserError('loras must be like {"runs/a": 0.5}, LoRA runs and their scales.')
        return options

    @contextmanager
    def _scheduled(self, name: str, steps: int) -> Iterator[None]:
        """For one call the pipeline samples by `name` in `steps`; what is saved of it is its own
        scheduler."""
        if name not in SCHEDULERS:
            raise UserError(f"No scheduler '{name}'; choose one of {', '.join(SCHEDULERS)}.")
        own = self.pipeline.scheduler
        kind = getattr(diffusers, SCHEDULERS[name])
        self.pipeline.scheduler = sampling_scheduler(kind, own.config, steps)
        try:
            yield
        finally:
            self.pipeline.scheduler = own


class BaseAutoencoder:
    """Images to a base's latents and back; opened when first used."""

    def __init__(self, place: Place, device: str) -> None:
        self.name = place.name
        self.fingerprint = place.identity
        self._place, self._device = place, device

    @cached_property
    def _vae(self) -> AutoencoderKL:
        return open_vae(self._place.folder).to(self._device)

    @torch.no_grad()
    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """uint8, N x H x W or N x H x W x 3, both ways; by the posterior's mean."""
        mode = "L" if pixels.ndim == 3 else "RGB"
        colours = to_array([to_mode(image, "RGB") for image in from_array(pixels)])
        images = torch.from_numpy(colours).to(self._vae.device).permute(0, 3, 1, 2)
        latents = torch.cat(
            [
                self._vae.encode(part.float() / 127.5 - 1).latent_dist.mean
                for part in images.split(at_once(images[0, 0].numel()))
            ]
        )
        return to_array(decode(self._vae, latents * self._vae.config.scaling_factor, mode))


@dataclass(frozen=True)
class _Found:
    """What there is to know of a model before its weights are loaded."""

    place: Place
    """The base; of a model without one, the model itself."""
    weights: Path
    card: dict[str, Any]
    tuned: bool
    """Whether the weights add to a base."""
    mode: str

    @property
    def own(self) -> Path | None:
        """The weights, where they hold LoRA adapters."""
        return self.weights if self.tuned and (self.weights / FILE).exists() else None

    @property
    def switches(self) -> bool:
        """Whether it is its base and, perhaps, adapters: then the base in memory serves."""
        return not self.tuned or mixes(self.weights, self.card)


def load_sampler(run: Path, device: str) -> StableDiffusionSampler:
    """Load a run of "dreambooth" or "base", or a folder in diffusers' format, onto `device`.

    Raises UserError for a run without weights, or whose base is not to be found.
    """
    found = _find(run)
    if found.tuned:
        pipeline = open_tuned(found.place, found.weights, found.card, name_of(0))
    else:
        pipeline = open_pipeline(found.place.folder)
    blend = Blend(pipeline, found.place, found.own, None if found.switches else found.weights)
    return _sampler(pipeline.to(device), found, blend)


def load_autoencoder(run: Path, device: str) -> BaseAutoencoder:
    """The autoencoder on whose latents `run` works. Raises UserError as `load_sampler` does."""
    return BaseAutoencoder(_find(run).place, device)


def base_folder(run: Path) -> Path | None:
    """The base that `run` was tuned from, found as its sampler finds it; None where it has none.

    Raises UserError as `load_sampler` does.
    """
    found = _find(run)
    if found.tuned:
        return found.place.folder
    return base_of(found.weights, found.card).folder if "base" in found.card else None


def switch_sampler(sampler: Any, run: Path) -> StableDiffusionSampler | None:
    """The sampler of `run` on the base that `sampler` holds; None where more than adapters differ.

    `sampler` itself is of no use afterwards. Raises UserError as `load_sampler` does.
    """
    blend: Blend | None = getattr(sampler, "blend", None)
    if blend is None or not blend.plain:
        return None
    found = _find(run)
    if not found.switches or found.place.folder != blend.place.folder:
        return None
    blend.switch(found.own)
    return _sampler(sampler.pipeline, found, blend)


def _sampler(pipeline: Any, found: _Found, blend: Blend) -> StableDiffusionSampler:
    size = found.card.get("size") or found.place.size
    prompts = found.card.get("prompts") or [""]
    return StableDiffusionSampler(pipeline, size, found.mode, prompts, blend)


def _find(run: Path) -> _Found:
    """Raises UserError as `load_sampler` does."""
    is_run = (run / "run.json").exists()
    weights = run / "weights" if is_run else run
    if not weights.exists():
        raise UserError(
            f"{run} has no weights yet; the command that started it goes on to the end."
        )
    card = read_card(weights)
    facts = read_json(run / "run.json") if is_run else {}
    tuned = not (weights / "model_index.json").exists()
    if tuned and not card:
        raise UserError(f"{weights} lacks {CARD}, which names the base; train the run again.")
    place = base_of(weights, card) if tuned else locate(str(weights))
    return _Found(place, weights, card, tuned, card.get("mode") or facts.get("mode") or "RGB")
