"""A run's work, to be tried before it starts: the trainer's own, or, where nothing is to be opened,
that of a base of zeros.
"""

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import diffusers
import torch
from accelerate import Accelerator
from diffusers import DDIMScheduler, StableDiffusionPipeline
from transformers import CLIPTokenizer

from core.errors import UserError
from core.parallel import process_state
from finetune.buckets import Buckets
from finetune.cost import Work
from finetune.encode import Source, cached
from finetune.fused import replace_layers
from finetune.models import NETWORKS, Denoiser, Place, open_empty, open_pipeline
from finetune.new_word import Embedding
from finetune.portions import at_once
from finetune.sample import StableDiffusionSampler
from finetune.schedules import rescheduled
from finetune.settings import DreamBoothSettings
from finetune.trained import Trained, freeze
from finetune.validation import HeldOut

HALF = {"fp16": torch.float16, "bf16": torch.bfloat16}


def work_of(
    piece: Callable[[], Any],
    timesteps: int,
    sources: Sequence[Source | Buckets],
    sampler: StableDiffusionSampler,
    held_out: HeldOut | None,
    opened: float,
    accelerator: Accelerator,
) -> Work:
    """The trainer's own.

    Args:
        timesteps: of the training schedule.
        opened: seconds in which the base was opened.
    """
    prompts = sampler.default_prompts

    def fetch() -> None:
        for source in sources:
            source.at(0, timesteps)

    def draw(count: int, **options: Any) -> None:
        sampler.pipeline.to(accelerator.device)
        with accelerator.autocast():
            sampler(range(count), (prompts * count)[:count], **options)

    def mean(seconds: float) -> float:  # so that all try as often
        return accelerator.reduce(torch.tensor(seconds, device=accelerator.device), "mean").item()

    measure = held_out.measure.prepare if held_out is not None else float
    count = at_once(sampler.size**2)
    agreed = mean if accelerator.is_fsdp2 else float
    return Work(fetch, piece, draw, count, sampler.options["steps"], opened, measure, agreed)


def checkpoint_activations(denoiser: Denoiser) -> None:
    """Recompute activations in the backward pass (Chen et al. 2016)."""
    denoiser.unet.enable_gradient_checkpointing()
    encoder: Any = denoiser.text_encoder
    if hasattr(encoder, "activation_checkpointing_enable"):  # transformers 5.23 on
        encoder.activation_checkpointing_enable({"use_reentrant": False})
    elif encoder is not None:
        encoder.gradient_checkpointing_enable({"use_reentrant": False})


def empty_pipeline(place: Place) -> StableDiffusionPipeline:
    """The base without weights, on the "meta" device. Raises UserError where it is damaged."""
    diffusers.utils.logging.set_verbosity_error()
    try:
        unet, text_encoder, vae = open_empty(place.folder)
        tokenizer = CLIPTokenizer.from_pretrained(place.folder / "tokenizer")
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{place.folder}, its configurations or tokenizer, cannot be read ({reason}); "
            "fetch or copy it again."
        ) from error
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder.eval(),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=rescheduled(DDIMScheduler, place.config("scheduler")),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def empty_denoiser(
    settings: DreamBoothSettings, pipeline: StableDiffusionPipeline, device: torch.device
) -> tuple[Denoiser, Trained]:
    """What the loop calls, as it would be trained; of zeros, and the pipeline with it."""
    text_encoder = pipeline.text_encoder
    if settings.token is not None:
        table = text_encoder.get_input_embeddings()
        rows = table.num_embeddings - settings.token.vectors  # as many as the new word's
        text_encoder.set_input_embeddings(Embedding(table, rows))
    if device.type != "meta" and not settings.whole:
        pipeline.unet.to(HALF.get(precision(), torch.float32))
    denoiser = Denoiser(pipeline.unet, text_encoder)
    freeze(denoiser, settings)
    if not _learns_words(settings):
        denoiser.text_encoder = None
    if settings.gradient_checkpointing:
        checkpoint_activations(denoiser)
    needed = {"unet": True, "text_encoder": _learns_words(settings), "vae": not cached(settings)}
    if device.type != "meta":
        for name in NETWORKS:  # where the loop has them
            network = getattr(pipeline, name).to_empty(device=device if needed[name] else "cpu")
            for tensor in (*network.parameters(), *network.buffers()):
                tensor.data.zero_()
        replace_layers(denoiser, settings, precision())
    denoiser.train()
    return denoiser, Trained(denoiser)


def empty_work(
    settings: DreamBoothSettings,
    place: Place,
    pipeline: StableDiffusionPipeline,
    denoiser: Denoiser,
    inputs: tuple[torch.Tensor, ...],
    size: int,
) -> Work:
    """The run's work on images of nothing, by one process."""
    sampler, device = StableDiffusionSampler(pipeline, size), inputs[0].device
    images = torch.zeros(len(inputs[0]), 3, size, size, device=device)

    def fetch() -> None:
        if not cached(settings):
            with torch.no_grad():
                for _ in range(settings.accumulate):
                    pipeline.vae.encode(images)

    def piece() -> None:
        with _autocast(device):
            denoiser(*inputs).square().mean().backward()
        denoiser.zero_grad()

    def draw(count: int, **options: Any) -> None:
        pipeline.to(device)
        with _autocast(device):
            sampler(range(count), [""] * count, **options)

    began = time.monotonic()
    here = any((place.folder / "unet").glob("*.safetensors"))  # the hub's may be still to come
    if here and device.type != "meta":
        open_pipeline(place.folder)
    opened = time.monotonic() - began
    count = at_once(size**2)
    return Work(fetch, piece, draw, count, sampler.options["steps"], opened, float)


def empty_inputs(
    settings: DreamBoothSettings, place: Place, denoiser: Denoiser, size: int, device: torch.device
) -> tuple[torch.Tensor, ...]:
    """Latents, timesteps and words of one piece of a process's step."""
    pieces = settings.accumulate * process_state().num_processes
    count = settings.batch // pieces * (2 if settings.prior is not None else 1)
    side, config = size // place.downscale, denoiser.unet.config
    if _learns_words(settings):
        words = torch.zeros(count, 77, dtype=torch.int64, device=device)
    else:
        words = torch.zeros(count, 77, config.cross_attention_dim, device=device)
    noisy = torch.zeros(count, config.in_channels, side, side, device=device)
    return noisy, torch.zeros(count, dtype=torch.int64, device=device), words


def _learns_words(settings: DreamBoothSettings) -> bool:
    """Whether the text encoder is called at each step."""
    return settings.text_encoder or settings.token is not None


def precision() -> str:
    return os.environ.get("ACCELERATE_MIXED_PRECISION", "no")


def _autocast(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    half = HALF.get(precision())
    if half is None or device.type == "meta":
        return contextlib.nullcontext()
    return torch.autocast(device.type, half)
