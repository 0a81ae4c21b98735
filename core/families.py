"""The one table of generator families. Names are "module:object" strings, resolved when used,
so that `core` imports no sibling and `osteon --help` loads no torch."""

import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from core.errors import UserError
from core.files import read_json


@dataclass(frozen=True)
class Family:
    """One kind of generator."""

    title: str
    """What people call it."""
    script: str
    """Trainer, relative to the project's root; started by `accelerate launch`."""
    settings: str
    """Dataclass of the trainer's settings."""
    sampler: str
    """`load_sampler(run, device) -> Sampler`."""
    prompts: bool
    """Whether a prompt changes the image."""
    switch: str | None = None
    """`switch_sampler(sampler, run) -> Sampler | None`, of families that share a base in memory."""
    autoencoder: str | None = None
    """`load_autoencoder(run, device) -> Autoencoder`, of families that work on its latents."""
    base: str | None = None
    """`base_folder(run) -> Path | None`, of families that tune what there is."""
    options: str = "none"
    """Of its samplers, for a help that loads none; a run may lack some."""


DIFFUSION = """--steps 25 --guidance 4 --negative TEXT --height 64 --width 96
    --scheduler ddim (dpm++, euler, euler_a, unipc) --weights best (or a step kept)
    --lora_scale 0.5 --loras '{"runs/x": 0.5}' (LoRA runs on the same base)"""


FAMILIES: dict[str, Family] = {
    "dreambooth": Family(
        "Diffusion, fine-tuned",
        "finetune/train_dreambooth.py",
        "finetune.settings:DreamBoothSettings",
        "finetune.sample:load_sampler",
        prompts=True,
        switch="finetune.sample:switch_sampler",
        autoencoder="finetune.sample:load_autoencoder",
        base="finetune.sample:base_folder",
        options=DIFFUSION,
    ),
    "base": Family(
        "Diffusion, base model",
        "finetune/train_base.py",
        "finetune.base_settings:BaseSettings",
        "finetune.sample:load_sampler",
        prompts=True,
        switch="finetune.sample:switch_sampler",
        autoencoder="finetune.sample:load_autoencoder",
        options=DIFFUSION,
    ),
    "wgan-gp": Family(
        "WGAN-GP",
        "gan/train_wgan_gp.py",
        "gan.settings:WganGpSettings",
        "gan.sample:load_sampler",
        prompts=False,
        options="--truncation 0.7 --label CLASS --weights best",
    ),
    "vae": Family(
        "VAE",
        "vae/train_vae.py",
        "vae.settings:VaeSettings",
        "vae.sample:load_sampler",
        prompts=False,
    ),
}


class Sampler(Protocol):
    """A loaded generator. An image is its seed and prompt, whatever the batch."""

    options: dict[str, Any]
    """Settings of one call that this family understands, with their defaults."""
    default_prompts: list[str]
    """Prompts to use where none is given; [""] for a family without prompts."""

    def __call__(self, seeds: Sequence[int], prompts: Sequence[str], **options: Any) -> list[Any]:
        """One Pillow image ("L" or "RGB") per seed; `prompts` is as long as `seeds`.

        A family that lists "steps" in `options` also takes `on_step(step, total, latents)`, called
        after each denoising step; an exception raised in it leaves the call. Its `decode(latents)`
        gives the unfinished images. For what lies between seeds a family offers
        `mix(seeds, prompts, **options)`, both with weights, or its `latent_dim` numbers by
        `from_latents` (N x latent_dim to N x C x H x W in [0, 1]).
        """
        ...


class Autoencoder(Protocol):
    """What a latent model's images can be at best: real ones, encoded and decoded."""

    name: str
    """Of the model it belongs to."""
    fingerprint: str

    def __call__(self, pixels: Any) -> Any:
        """uint8 arrays in and out, N x H x W or N x H x W x 3."""
        ...


def is_number(value: Any) -> bool:
    """Whether an option's value is a finite number."""
    return type(value) in (int, float) and math.isfinite(value)


def resolve(name: str) -> Any:
    """ "module:object" -> the object."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def family_of(run: Path) -> str:
    """The family name of a run folder, or "base" for a folder in diffusers' own format.

    Raises UserError if `run` is neither.
    """
    if (run / "run.json").exists():
        name = read_json(run / "run.json").get("family")
        if name in FAMILIES:
            return str(name)
        raise UserError(f"{run} was made by the family '{name}', which this version does not know.")
    if (run / "model_index.json").exists():
        return "base"
    if not run.exists():
        raise UserError(f"{run} is not there; `osteon train` makes a run.")
    raise UserError(f"{run} is neither a run (no run.json) nor a diffusers model folder.")


def load_sampler(run: Path, device: str) -> Sampler:
    """Load whatever made `run` onto `device`.

    Raises UserError for a run that is missing, unfinished or damaged.
    """
    from safetensors import SafetensorError

    try:
        sampler: Sampler = resolve(FAMILIES[family_of(run)].sampler)(run, device)
    except SafetensorError as error:
        raise UserError(
            f"The weights of {run} cannot be read ({error}); copy them again or train it anew."
        ) from None
    return sampler


def load_autoencoder(run: Path, device: str) -> Autoencoder | None:
    """What encodes images for the model of `run`; None for a family that works on pixels.

    Raises UserError as `load_sampler` does.
    """
    place = FAMILIES[family_of(run)].autoencoder
    autoencoder: Autoencoder | None = resolve(place)(run, device) if place else None
    return autoencoder


def base_folder(run: Path) -> Path | None:
    """The model folder that `run` was tuned from; None where it was trained from nothing.

    Raises UserError where the base is not to be found, or another one is there now.
    """
    place = FAMILIES[family_of(run)].base
    folder: Path | None = resolve(place)(run) if place else None
    return folder


def switch_sampler(sampler: Sampler, run: Path) -> Sampler | None:
    """The sampler of `run` made of what `sampler` holds in memory; None where it must be loaded.

    `sampler` itself is of no use afterwards. Raises UserError as `load_sampler` does.
    """
    switch = FAMILIES[family_of(run)].switch
    switched: Sampler | None = resolve(switch)(sampler, run) if switch else None
    return switched
