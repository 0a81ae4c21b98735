"""Images from Stable Diffusion: a fine-tuned run, a base run, or a plain diffusers folder."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from core.errors import UserError
from core.files import read_json
from core.images import from_array, to_mode
from core.seeds import image_noise, stream
from finetune.models import locate, open_pipeline

ADAPTER = "osteon"
CARD = "osteon.json"
"""Beside the weights: the base, the size, the mode and the prompts that they were tuned with."""
SCHEDULERS = {
    "ddim": "DDIMScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler_a": "EulerAncestralDiscreteScheduler",
    "unipc": "UniPCMultistepScheduler",
}
DECODE_AT_ONCE = 16  # images; decoding takes more memory than denoising

OnStep = Callable[[int, int, torch.Tensor], None]
"""Called after each denoising step: its number (from 1), their count, B x 4 x h x w latents."""


class StableDiffusionSampler:
    """Seeds and prompts to images. Each image's noise is drawn on the CPU from its own seed."""

    def __init__(
        self,
        pipeline: StableDiffusionPipeline,
        size: int,
        mode: str = "RGB",
        default_prompts: Sequence[str] = ("",),
        adapters: bool = False,
    ) -> None:
        """
        Args:
            size: pixels a side.
            mode: "L" gives the images back as grey.
            adapters: the pipeline holds LoRA adapters under the name `ADAPTER`.
        """
        self.pipeline = pipeline
        self._schedule = pipeline.scheduler.config  # the base's own
        self.size = size
        self.mode = mode
        self.default_prompts = list(default_prompts)
        self.options: dict[str, Any] = {
            "steps": 25,
            "guidance": 4.0,
            "negative": "",
            "scheduler": "ddim",
        }
        if adapters:
            self.options["lora_scale"] = 1.0  # 0: the base model itself

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
        pipeline = self.pipeline
        pipeline.scheduler = self._scheduler(chosen["scheduler"])
        if "lora_scale" in chosen:
            pipeline.set_adapters(ADAPTER, float(chosen["lora_scale"]))
        side = self.size // pipeline.vae_scale_factor
        noise = image_noise(seeds, (pipeline.unet.config.in_channels, side, side))

        def after(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            if on_step is not None:
                on_step(step + 1, pipe.num_timesteps, tensors["latents"])
            return tensors

        latents = pipeline(
            list(prompts),
            height=self.size,
            width=self.size,
            num_inference_steps=int(chosen["steps"]),
            guidance_scale=float(chosen["guidance"]),
            negative_prompt=[str(chosen["negative"])] * len(prompts),
            latents=noise.to(pipeline.device),
            generator=[stream(seed, "sampling") for seed in seeds],  # for samplers that add noise
            callback_on_step_end=after,
            output_type="latent",
        ).images
        return self.decode(latents)

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> list[Image.Image]:
        """B x 4 x h x w latents to images, also of unfinished ones."""
        vae = self.pipeline.vae
        images: list[Image.Image] = []
        for part in (latents / vae.config.scaling_factor).split(DECODE_AT_ONCE):
            pixels = vae.decode(part.to(vae.dtype), return_dict=False)[0]  # B x 3 x H x W, [-1, 1]
            pixels = pixels.float().add(1.0).mul(127.5).round().clamp(0, 255).to(torch.uint8)
            images += from_array(pixels.permute(0, 2, 3, 1).cpu().numpy())
        return [to_mode(image, self.mode) for image in images]

    def _known(self, options: dict[str, Any]) -> dict[str, Any]:
        for name, value in options.items():
            if name not in self.options:
                raise UserError(f"No option {name} here; there are {', '.join(self.options)}.")
            if name in ("steps", "guidance", "lora_scale") and not isinstance(value, (int, float)):
                raise UserError(f"{name} must be a number, not '{value}'.")
        if options.get("steps", 1) < 1:
            raise UserError("steps must be at least 1.")
        return options

    def _scheduler(self, name: str) -> Any:
        if name not in SCHEDULERS:
            raise UserError(f"No scheduler '{name}'; choose one of {', '.join(SCHEDULERS)}.")
        kind = getattr(diffusers, SCHEDULERS[name])
        return kind.from_config(self._schedule)


def load_sampler(run: Path, device: str) -> StableDiffusionSampler:
    """Load a run of "dreambooth" or "base", or a folder in diffusers' format, onto `device`.

    Raises UserError for a run without weights, or whose base is not to be found.
    """
    is_run = (run / "run.json").exists()
    weights = run / "weights" if is_run else run
    if not weights.exists():
        raise UserError(
            f"{run} has no weights yet; the command that started it goes on to the end."
        )
    card = read_json(weights / CARD) if (weights / CARD).exists() else {}
    facts = read_json(run / "run.json") if is_run else {}
    tuned = (weights / "pytorch_lora_weights.safetensors").exists()
    if tuned and not card:
        raise UserError(f"{weights} lacks {CARD}, which names the base; train the run again.")
    place = locate(card["base"], card["revision"]) if tuned else locate(str(weights))
    if tuned and place.identity != card["base_identity"]:
        raise UserError(
            f"{run} was tuned from another {card['base']} than the one that is there now; "
            "restore it, or tune again."
        )
    pipeline = open_pipeline(place.folder)
    if tuned:
        pipeline.load_lora_weights(weights, adapter_name=ADAPTER)
    mode = card.get("mode") or facts.get("mode") or "RGB"
    prompts = card.get("prompts") or [""]
    size = card.get("size") or place.size
    return StableDiffusionSampler(pipeline.to(device), size, mode, prompts, adapters=tuned)
