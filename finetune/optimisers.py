"""Optimisers, by name; those that are not torch's own are extras."""

import importlib
from typing import Any

import torch
from diffusers import get_scheduler

from core.errors import UserError
from finetune.settings import Optim

EXTRAS = {
    "adamw8bit": ("bitsandbytes", "bitsandbytes.optim", "AdamW8bit"),
    "prodigy": ("prodigy", "prodigyopt", "Prodigy"),
    "schedule_free": ("schedulefree", "schedulefree", "AdamWScheduleFree"),
}
"""Name: the extra to install, the module and the class."""
MOMENTS = {"adamw": 8, "adamw8bit": 2, "prodigy": 16, "schedule_free": 8}
"""Name: bytes kept for each trained float32 number."""


def build_optimiser(
    groups: list[dict[str, Any]], optim: Optim, device: torch.device
) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019), with 8-bit moments (Dettmers et al. 2022), Prodigy
    (Mishchenko and Defazio 2023) or schedule-free AdamW (Defazio et al. 2024).

    Args:
        groups: parameters with what differs from `optim` for them.

    Raises UserError where the optimiser's package is missing.
    """
    options = {"lr": optim.lr, "betas": optim.betas, "weight_decay": optim.weight_decay}
    if optim.name == "adamw":
        return torch.optim.AdamW(groups, **options, fused=device.type in ("cpu", "cuda"))
    extra, module, name = EXTRAS[optim.name]
    try:
        kind = getattr(importlib.import_module(module), name)
    except ImportError:
        raise UserError(
            f'optim.name {optim.name} needs {module.split(".")[0]}: pip install -e ".[{extra}]"'
        ) from None
    return kind(groups, **options)


def build_schedule(optimiser: torch.optim.Optimizer, optim: Optim, steps: int) -> Any:
    """Of the learning rate, over so many steps."""
    return get_scheduler(
        optim.schedule, optimiser, num_warmup_steps=optim.warmup, num_training_steps=steps
    )


def look(optimiser: torch.optim.Optimizer, training: bool) -> None:
    """Schedule-free optimisers train one set of weights and are judged by another: switch."""
    switch = getattr(optimiser, "train" if training else "eval", None)
    if switch is not None:
        switch()
