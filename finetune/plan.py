"""What a run would do: printed by --dry_run."""

import os
from pathlib import Path

from accelerate import PartialState

from core.errors import UserError
from core.plan import STATE_COPIES, activation_bytes, count_parameters
from core.runs import check_same_settings
from core.session import check_disk
from finetune.adapters import attach
from finetune.models import Denoiser, Place, locate_pinned, open_empty
from finetune.settings import DreamBoothSettings
from finetune.subjects import Subject, class_folder, contract_of
from finetune.weights import Trained

FLOAT = 4  # bytes


def check_share(settings: DreamBoothSettings, processes: int) -> None:
    """Raise UserError unless the batch can be shared out evenly."""
    if settings.batch % (processes * settings.accumulate):
        raise UserError(
            f"batch {settings.batch} cannot be shared by {processes} processes in "
            f"{settings.accumulate} pieces each; make it a multiple of "
            f"{processes * settings.accumulate}."
        )


def freeze(denoiser: Denoiser, settings: DreamBoothSettings) -> Trained:
    """Leave gradients only to what is trained: adapters, or all weights of the UNet."""
    denoiser.requires_grad_(False)
    text_encoder = denoiser.text_encoder if settings.text_encoder else None
    if settings.lora is not None:
        attach(denoiser.unet, text_encoder, settings.lora, settings.seed)
    else:
        denoiser.unet.requires_grad_(True)
        if text_encoder is not None:
            text_encoder.requires_grad_(True)
    return Trained(denoiser)


def disk_needed(settings: DreamBoothSettings, trained: int, total: int) -> int:
    """Bytes of checkpoints (weights and two moments, average) and of weights/."""
    copies = STATE_COPIES + (settings.ema_decay is not None)
    kept = settings.checkpoints_kept + 1 if settings.checkpoint_every else 0
    return FLOAT * (trained * copies * kept + (trained if settings.lora is not None else total))


def print_plan(settings: DreamBoothSettings, subject: Subject) -> None:
    """Images, base, parameters, steps, memory, disk.

    Raises UserError for whatever would stop the run: another run's folder, no base, a full disk.
    """
    check_same_settings(Path(settings.run_dir), "dreambooth", settings)
    check_share(settings, PartialState().num_processes)
    run = Path(settings.run_dir)
    place = locate_pinned(settings.base, settings.revision, run, weights=False)
    size = settings.size or place.size
    parts = open_empty(place)
    unet, text_encoder, _ = parts
    total = sum(count_parameters(part) for part in parts)
    trained = len(freeze(Denoiser(unet, text_encoder), settings))
    needed = disk_needed(settings, trained, total)
    check_disk(run, needed)
    if not PartialState().is_main_process:
        return
    images, distinct = subject.images, len(set(subject.captions))
    seen = settings.steps * settings.batch / len(images)
    kind = "all weights" if settings.lora is None else f"LoRA of rank {settings.lora.rank}"
    kept, passing = memory_needed(settings, place, Denoiser(unet, None), total, trained, size)
    print(f"images     {len(images)} of {images.name} ({images.mode}), at {size} px")
    print(f"captions   {distinct} distinct, such as '{subject.captions[0]}'")
    if settings.prior is not None:
        folder = class_folder(settings.prior, contract_of(settings.prior, place, size))
        there = len(list(folder.glob("*.png")))
        print(f"class      {settings.prior.count} images in {folder} ({there} are there)")
    print(f"base       {place.name} ({total / 1e6:.1f} M parameters, {place.prediction_type})")
    print(f"trained    {trained:,} parameters ({kind})")
    print(f"steps      {settings.steps} of {settings.batch} images: each is seen {seen:.1f} times")
    print(f"memory     about {kept / 1e6:.0f} MB for weights, gradients and moments,")
    print(f"           and {passing / 1e6:.0f} MB in passing, on one process")
    print(f"disk       {needed / 1e6:.0f} MB in {settings.run_dir}")
    print("Nothing was trained or written (--dry_run).")


def memory_needed(
    settings: DreamBoothSettings,
    place: Place,
    denoiser: Denoiser,
    total: int,
    trained: int,
    size: int,
) -> tuple[int, int]:
    """Bytes that stay (weights, gradients, moments) and bytes of one step's activations.

    Args:
        denoiser: without a text encoder, on the "meta" device.
        total, trained: numbers of parameters.
    """
    half = os.environ.get("ACCELERATE_MIXED_PRECISION", "no") != "no"
    frozen = total - (0 if settings.lora is not None else trained)
    kept = frozen * (2 if half else FLOAT) + trained * (STATE_COPIES + 1) * FLOAT
    count = settings.batch // settings.accumulate * (2 if settings.prior is not None else 1)
    side, width = size // place.downscale, denoiser.unet.config.cross_attention_dim
    shapes = ((count, 4, side, side), (count,), (count, 77, width))
    passing = activation_bytes(denoiser, *shapes) // (2 if half else 1)
    return kept, passing // (4 if settings.gradient_checkpointing else 1)
