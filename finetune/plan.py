"""What a run will need: told before it starts, kept in run.json beside what it then needed."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from core.checkup import check_set
from core.errors import UserError
from core.plan import activation_bytes, count_parameters
from core.runs import check_same_settings
from core.session import check_disk, peak_memory_mb, pick_device
from finetune.models import Denoiser, Place, locate_pinned, open_empty
from finetune.new_word import Embedding
from finetune.optimisers import MOMENTS
from finetune.settings import DreamBoothSettings
from finetune.subjects import Subject, class_folder, contract_of, held_out_subject
from finetune.trained import Trained, freeze

FLOAT = 4  # bytes
TRIABLE = 200e6  # parameters up to which a step is tried on a CPU too


def check_share(settings: DreamBoothSettings, processes: int) -> None:
    """Raise UserError unless the batch can be shared out evenly."""
    if settings.batch % (processes * settings.accumulate):
        raise UserError(
            f"batch {settings.batch} cannot be shared by {processes} processes in "
            f"{settings.accumulate} pieces each; make it a multiple of "
            f"{processes * settings.accumulate}."
        )


def disk_needed(settings: DreamBoothSettings, trained: int, total: int) -> int:
    """Bytes of checkpoints (weights, moments, average), of weights/ and others kept."""
    checkpoint = trained * (FLOAT + beside(settings))
    kept = settings.checkpoints_kept + 1 if settings.checkpoint_every else 0
    written = 1 + (settings.validate_every > 0) + len(settings.keep_weights)
    return kept * checkpoint + written * FLOAT * (total if settings.whole else trained)


def beside(settings: DreamBoothSettings) -> int:
    """Bytes kept beside each trained number: the optimiser's, and the running average."""
    return MOMENTS[settings.optim.name] + FLOAT * (settings.ema_decay is not None)


def estimate(
    settings: DreamBoothSettings, step: Callable[[], Any], device: torch.device, trained: int
) -> dict[str, float]:
    """Seconds of training and MB at the peak, from two tries of one piece of a step.

    Args:
        step: forward and backward of one piece, without an update; its gradients are dropped.
        trained: numbers that get moments, which are made at the first update.
    """
    for _ in range(2):
        _wait(device)
        began = time.monotonic()
        step()
        _wait(device)
        seconds = time.monotonic() - began
    states = beside(settings) * trained
    return {
        "seconds": round(seconds * settings.accumulate * settings.steps, 1),
        "memory_mb": peak_memory_mb(device) + states // 2**20,
    }


def disk_used(run: Path) -> int:
    """MB of the run folder."""
    return sum(file.stat().st_size for file in run.rglob("*") if file.is_file()) // 2**20


def print_plan(settings: DreamBoothSettings, subject: Subject) -> None:
    """Images, base, parameters, steps, time, memory, disk.

    Raises UserError for whatever would stop the run: another run's folder, no base, a full disk.
    """
    check_same_settings(Path(settings.run_dir), "dreambooth", settings)
    check_share(settings, PartialState().num_processes)
    run = Path(settings.run_dir)
    place = locate_pinned(settings.base, settings.revision, run, weights=False)
    held_out = held_out_subject(settings) if settings.validate_every else None
    size = settings.size or place.size
    parts = open_empty(place)
    unet, text_encoder, _ = parts
    if settings.token is not None:
        table = text_encoder.get_input_embeddings()
        rows = table.num_embeddings - settings.token.vectors  # as many as the new word's
        text_encoder.set_input_embeddings(Embedding(table, rows))
    total = sum(count_parameters(part) for part in parts)
    denoiser = Denoiser(unet, text_encoder)
    trained = len(freeze(denoiser, settings))
    needed = disk_needed(settings, trained, total)
    check_disk(run, needed)
    if not PartialState().is_main_process:
        return
    images, distinct = subject.images, len(set(subject.captions))
    seen = settings.steps * settings.batch / len(images)
    print(f"images     {len(images)} of {images.name} ({images.mode}), at {size} px")
    print(f"captions   {distinct} distinct, such as '{subject.captions[0]}'")
    for fine, what, remedy in check_set(settings.data):
        if not fine:
            print(f"beware     {what} ({remedy})")
    if held_out is not None:
        print(f"held out   {len(held_out)} validation images")
    if settings.prior is not None:
        folder = class_folder(settings.prior, contract_of(settings.prior, place, size))
        there = len(list(folder.glob("*.png")))
        print(f"class      {settings.prior.count} images in {folder} ({there} are there)")
    print(f"base       {place.name} ({total / 1e6:.1f} M parameters, {place.prediction_type})")
    print(f"trained    {trained:,} parameters ({kind(settings)})")
    print(f"steps      {settings.steps} of {settings.batch} images: each is seen {seen:.1f} times")
    _print_cost(settings, place, denoiser, total, trained, size)
    print(f"disk       {needed / 1e6:.0f} MB in {settings.run_dir}")
    print("Nothing was trained or written (--dry_run).")


def kind(settings: DreamBoothSettings) -> str:
    """What is trained, in words."""
    parts = []
    if settings.adapted and settings.lora is not None:
        parts.append(f"LoRA of rank {settings.lora.rank}")
    if settings.whole:
        parts.append("all weights")
    if settings.token is not None:
        parts.append(f"the word {settings.token.name}")
    return " and ".join(parts)


def _print_cost(
    settings: DreamBoothSettings,
    place: Place,
    denoiser: Denoiser,
    total: int,
    trained: int,
    size: int,
) -> None:
    """Time and memory: tried on this machine where that takes moments, else worked out.

    Args:
        denoiser: on the "meta" device.
    """
    shapes = _shapes(settings, place, denoiser, size)
    device = torch.device(pick_device())
    if device.type == "cpu" and total > TRIABLE:
        kept, passing = memory_needed(settings, denoiser, shapes, total, trained)
        print(f"memory     about {kept / 1e6:.0f} MB for weights, gradients and moments,")
        print(f"           and {passing / 1e6:.0f} MB in passing, on one process")
        return
    denoiser = denoiser.to_empty(device=device)
    with torch.no_grad():
        for tensor in denoiser.state_dict().values():
            tensor.zero_() if tensor.is_floating_point() else tensor
    noisy, timesteps, words = (torch.zeros(shape, device=device) for shape in shapes)
    words.requires_grad_(True)  # where the UNet is frozen, gradients flow to the words

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=_half()):
            denoiser.unet(noisy, timesteps, words, return_dict=False)[0].square().mean().backward()

    cost = estimate(settings, step, device, len(Trained(denoiser)))
    print(f"time       about {cost['seconds']:.0f} s on {device}, as one step tried here took")
    print(f"memory     about {cost['memory_mb']:.0f} MB on one process")


def _shapes(
    settings: DreamBoothSettings, place: Place, denoiser: Denoiser, size: int
) -> tuple[tuple[int, ...], ...]:
    """Of latents, timesteps and words of one piece of a step."""
    count = settings.batch // settings.accumulate * (2 if settings.prior is not None else 1)
    side, width = size // place.downscale, denoiser.unet.config.cross_attention_dim
    channels = denoiser.unet.config.in_channels
    return (count, channels, side, side), (count,), (count, 77, width)


def memory_needed(
    settings: DreamBoothSettings,
    denoiser: Denoiser,
    shapes: tuple[tuple[int, ...], ...],
    total: int,
    trained: int,
) -> tuple[int, int]:
    """Bytes that stay (weights, gradients, moments) and bytes of one step's activations.

    Args:
        denoiser: on the "meta" device.
        total, trained: numbers of parameters.
    """
    frozen = total - (trained if settings.whole else 0)
    stays = frozen * (2 if _half() else FLOAT) + trained * (2 * FLOAT + beside(settings))
    passing = activation_bytes(Denoiser(denoiser.unet, None), *shapes) // (2 if _half() else 1)
    return stays, passing // (4 if settings.gradient_checkpointing else 1)


def _half() -> bool:
    return os.environ.get("ACCELERATE_MIXED_PRECISION", "no") != "no"


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
