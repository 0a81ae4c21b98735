"""Settings of the base model's trainer. Imports without torch."""

from dataclasses import dataclass, field
from pathlib import Path

from core.bounds import check_bounds

BOUNDS = {
    "above 0": ("lr", "autoencoder.lr"),
    "at least 1": (
        *("size", "steps", "batch", "autoencoder.steps", "autoencoder.batch"),
        *("autoencoder.channels", "autoencoder.latent_channels", "checkpoints_kept"),
        *("text.hidden", "text.layers", "text.heads", "unet.channels", "unet.layers"),
    ),
    "0 or more": (
        *("warmup", "clip_norm", "autoencoder.kl", "autoencoder.decoder_steps"),
        *("checkpoint_every", "preview_every"),
    ),
    "at least 0 and below 1": ("caption_dropout", "ema"),
}
"""See `core.bounds`."""
AUTOENCODER_GROUPS, UNET_GROUPS = 8, 16
"""Of channels, which are normed together."""


@dataclass(frozen=True)
class Autoencoder:
    """The image autoencoder, trained first: its depth sets the size of the latents."""

    channels: tuple[int, ...] = (32, 64, 64)
    """Width at full, half, quarter... resolution, multiples of 8; latents have the last."""
    latent_channels: int = 4
    """Numbers for each pixel of a latent."""
    steps: int = 1800
    """Optimiser steps."""
    batch: int = 24
    """Images a step."""
    lr: float = 2e-3
    """AdamW's learning rate at the start; falls linearly to 0."""
    kl: float = 1e-3
    """Weight of the KL divergence per latent element."""
    decoder_steps: int = 0
    """Steps of the decoder alone, after everything else: sharper images from the same latents."""


@dataclass(frozen=True)
class TextEncoder:
    """The text encoder and its tokenizer."""

    hidden: int = 128
    """Width, a multiple of heads; also the UNet's cross-attention width."""
    layers: int = 3
    """Transformer layers."""
    heads: int = 4
    """Attention heads."""
    vocabulary: int = 1200
    """Byte-pair tokens, learned from the captions."""


@dataclass(frozen=True)
class Unet:
    """The denoiser, on latents."""

    channels: tuple[int, ...] = (96, 160)
    """Width at full and half latent resolution, multiples of 16; cross-attention at the lower
    ones."""
    heads: tuple[int, ...] = (4, 8)
    """Attention heads at each resolution."""
    layers: int = 1
    """Residual blocks at each resolution."""


@dataclass(frozen=True)
class BaseSettings:
    """Train a small Stable Diffusion 2 from nothing: autoencoder, then text encoder and UNet."""

    data: str
    """Prepared set with captions."""
    run_dir: str
    """Run folder; its weights/ is the finished pipeline."""
    steps: int = 3000
    """Optimiser steps of the denoiser."""
    seed: int = 0
    """Of weights, order and noise."""
    size: int = 64
    """Pixels a side; a multiple of 2 for each level of autoencoder and UNet but their first."""
    batch: int = 48
    """Images a step of the denoiser, over all processes."""
    lr: float = 1e-3
    """AdamW's learning rate after warm-up; falls linearly to 0."""
    warmup: int = 100
    """Steps of linear warm-up."""
    clip_norm: float = 1.0
    """Largest gradient norm."""
    caption_dropout: float = 0.1
    """Share of captions left out, for classifier-free guidance."""
    ema: float = 0.999
    """Decay of the averaged weights, which are the ones saved."""
    autoencoder: Autoencoder = field(default_factory=Autoencoder)
    text: TextEncoder = field(default_factory=TextEncoder)
    unet: Unet = field(default_factory=Unet)
    preview_prompts: tuple[str, ...] = ()
    """Prompts of the preview sheet; none: eight captions of the set."""
    preview_every: int = 250
    """Steps between preview sheets."""
    checkpoint_every: int = 250
    """Steps between checkpoints."""
    checkpoints_kept: int = 1
    """Newest checkpoints kept."""
    tracker: str = "none"
    """none, tensorboard, wandb or trackio."""

    def __post_init__(self) -> None:
        for name in ("autoencoder", "unet"):
            if not getattr(self, name).channels:
                raise ValueError(f"{name}.channels needs at least one width, such as [32]")
        check_bounds(self, BOUNDS)
        smallest = 2 ** (len(self.autoencoder.channels) + len(self.unet.channels) - 2)
        if self.size % smallest:
            raise ValueError(f"size {self.size} is not a multiple of {smallest}")
        if len(self.unet.channels) != len(self.unet.heads):
            raise ValueError("unet.channels and unet.heads must be of one length")
        check_networks(self)


def check_networks(settings: BaseSettings) -> None:
    """Raise ValueError, in one sentence, for widths and heads of which no network can be built."""
    text, unet = settings.text, settings.unet
    for name, widths, parts, what in (
        ("autoencoder.channels", settings.autoencoder.channels, AUTOENCODER_GROUPS, "norm groups"),
        ("unet.channels", unet.channels, UNET_GROUPS, "norm groups"),
        ("text.hidden", (text.hidden,), text.heads, "text.heads"),
    ):
        for width in widths:
            if width % parts:
                near = width + parts - width % parts
                raise ValueError(
                    f"{name} {width} cannot be shared by {parts} {what}; make it a multiple of "
                    f"{parts}, such as {near}"
                )
    levels = list(zip(unet.heads, unet.channels, strict=True))
    for heads, width in levels[1:] or levels:  # the first has attention only where it is the last
        if not 1 <= heads <= width:
            raise ValueError(
                f"unet.heads {heads} cannot share unet.channels {width}; give at least 1, and "
                f"{width} at most"
            )


@dataclass(frozen=True)
class AutoencoderRun:
    """The settings of the first stage alone, as its own run folder records them."""

    data: str
    run_dir: str
    steps: int
    seed: int
    size: int
    autoencoder: Autoencoder
    checkpoint_every: int
    checkpoints_kept: int
    tracker: str
    preview_every: int
    start: str | None
    """Autoencoder to start from, its encoder frozen; None: from nothing, all of it."""


def autoencoder_run(settings: BaseSettings) -> AutoencoderRun:
    """The first stage: the whole autoencoder."""
    return _part(settings, "autoencoder", settings.autoencoder.steps, None)


def decoder_run(settings: BaseSettings) -> AutoencoderRun:
    """The last stage: its decoder alone."""
    start = autoencoder_run(settings).run_dir
    return _part(settings, "decoder", settings.autoencoder.decoder_steps, f"{start}/weights")


def _part(settings: BaseSettings, name: str, steps: int, start: str | None) -> AutoencoderRun:
    return AutoencoderRun(
        data=settings.data,
        run_dir=f"{Path(settings.run_dir)}-{name}",
        steps=steps,
        start=start,
        seed=settings.seed,
        size=settings.size,
        autoencoder=settings.autoencoder,
        checkpoint_every=settings.checkpoint_every,
        checkpoints_kept=settings.checkpoints_kept,
        tracker=settings.tracker,
        preview_every=settings.preview_every,
    )
