"""The embedded small encoder: reads the attributes that captions speak of, and gives 128 features.

    encoder = load_encoder("models/encoder-mini")
    features, logits = encoder(images)  # images in [0, 1], B x 3 x 64 x 64

Trained by compare/train_encoder.py. It stands in where no Inception weights are at hand, under its
own name: its Fréchet distance is not FID.
"""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from core.errors import UserError
from core.files import atomic_path, read_json, write_json

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
BEND = 3.0  # deviations from the mean


@dataclass(frozen=True)
class EncoderConfig:
    """What builds a MiniEncoder."""

    attributes: tuple[str, ...]
    """What each logit says, as "column=value"."""
    channels: int = 3
    """Of the images."""
    size: int = 64
    """Pixels a side."""
    width: int = 32
    """Channels of the first stage."""


class Block(nn.Module):
    """Two 3x3 convolutions with batch normalisation around a shortcut (He et al., 2016)."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outer)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inner != outer:
            self.shortcut = nn.Conv2d(inner, outer, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """B x inner x H x W -> B x outer x H/stride x W/stride"""
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class MiniEncoder(nn.Module):
    """Four residual stages.

    Features are averages over the first stage's map (edges, texture, noise: a quarter of them) and
    the last one's (what is shown), standardised on the training images and bent to (-3, 3), so
    that a few strange images do not outweigh all others.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        w = config.width
        self.stem = nn.Conv2d(config.channels, w, 3, 2, 1, bias=False)
        self.stem_norm = nn.BatchNorm2d(w)
        self.stage1 = Block(w, w, 1)
        self.stage2 = Block(w, 2 * w, 2)
        self.stage3 = nn.Sequential(Block(2 * w, 3 * w, 2), Block(3 * w, 3 * w, 1))
        self.stage4 = Block(3 * w, 3 * w, 2)
        self.heads = nn.Linear(4 * w, len(config.attributes))
        self.register_buffer("mean", torch.zeros(4 * w))
        self.register_buffer("scale", torch.ones(4 * w))

    @property
    def dimension(self) -> int:
        return 4 * self.config.width

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """B x channels x size x size in [0, 1] -> features B x 128 (at width 32), logits B x A."""
        pooled = self.pool(images)
        return BEND * torch.tanh(pooled / BEND), self.heads(pooled)

    def pool(self, images: Tensor) -> Tensor:
        """Standardised averages before the bend, B x 128."""
        x = F.relu(self.stem_norm(self.stem(images * 2 - 1)))  # B x w x 32 x 32 at size 64
        low = self.stage1(x)
        high = self.stage4(self.stage3(self.stage2(low)))  # B x 3w x 4 x 4
        pooled = torch.cat([low.mean((2, 3)), high.mean((2, 3))], dim=1)
        return (pooled - self.mean) / self.scale

    @torch.no_grad()
    def standardise(self, pooled: Tensor) -> None:
        """Take the mean and deviation of these (N x 128, from `pool`) out of all later ones;
        logits stay what they were."""
        mean, scale = pooled.mean(0), pooled.std(0).clamp_min(1e-3)
        self.heads.bias += self.heads.weight @ mean
        self.heads.weight *= scale
        self.mean += mean * self.scale
        self.scale *= scale


@torch.inference_mode()
def read_attributes(encoder: MiniEncoder, images: Tensor) -> dict[str, Tensor]:
    """Probability of every attribute, "column=value" -> B; images as for `MiniEncoder.forward`."""
    _, logits = encoder.eval()(images)
    return dict(zip(encoder.config.attributes, logits.sigmoid().T, strict=True))


def save_encoder(encoder: MiniEncoder, folder: str | Path) -> None:
    """Write config.json and model.safetensors (fp32), whole or not at all."""
    folder = Path(folder)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in _tensors(encoder)}
    with atomic_path(folder / WEIGHTS) as temporary:
        save_file(state, temporary)
    write_json(folder / CONFIG, asdict(encoder.config))


def load_encoder(folder: str | Path, device: str = "cpu") -> MiniEncoder:
    """Read back what `save_encoder` wrote, ready to be used. Raises UserError if it cannot."""
    folder = Path(folder)
    config = read_json(folder / CONFIG)
    try:
        encoder = MiniEncoder(EncoderConfig(**config | {"attributes": tuple(config["attributes"])}))
        state = load_file(folder / WEIGHTS)
        missing = {name for name, _ in _tensors(encoder)} - state.keys()
        if missing:
            raise KeyError(f"no {min(missing)}")
        encoder.load_state_dict(state, strict=False)  # without batch normalisation's counters
    except (OSError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{folder} is not an encoder of this version ({error}).") from None
    return encoder.eval().requires_grad_(False).to(device)


def encoder_hash(folder: str | Path) -> str:
    """SHA-256 of the weights' file."""
    return hashlib.sha256((Path(folder) / WEIGHTS).read_bytes()).hexdigest()


def _tensors(encoder: MiniEncoder) -> list[tuple[str, Any]]:
    """What is worth saving: everything but batch normalisation's counters."""
    return [
        (name, tensor)
        for name, tensor in encoder.state_dict().items()
        if not name.endswith("num_batches_tracked")
    ]
