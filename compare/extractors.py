"""From images to features: Inception-v3 where its weights are at hand, else encoder-mini."""

import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from compare.encoder import BEND, encoder_hash, load_encoder
from core.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
ENCODER = ROOT / "models" / "encoder-mini"
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
NAMES = ("auto", "inception", "encoder-mini", "legacy-ignite")


@dataclass(frozen=True)
class Extractor:
    """A network with all that its scores must be labelled with."""

    name: str
    """Such as "encoder-mini"."""
    sha256: str
    """Of the weights' file."""
    layer: str
    dimension: int
    resize: str
    """What becomes of an image on its way in."""
    forward: Callable[[Tensor], dict[str, Tensor]]
    """uint8 B x 3 x H x W -> "features" B x dimension, and "logits" of classifiers."""
    dtype: str = "float32"
    official: bool = False
    """Whether it is the Inception that FID, KID and Inception Score are named after."""
    has_logits: bool = False
    """Whether its logits are ImageNet's classes."""
    read: Callable[[list[str]], Tensor] | None = None
    """Prompts -> B x dimension, beside the images' features; CLIP's."""
    attributes: tuple[str, ...] = ()
    """What its logits say, "column=value"; encoder-mini's."""
    legacy: bool = False
    """Whether it is pytorch-ignite's default, which has metrics of its own."""


def choose_extractor(
    name: str = "auto",
    inception_weights: Path | None = None,
    encoder: Path | None = None,
    device: str = "cpu",
) -> Extractor:
    """The extractor asked for: one of NAMES, a folder with CLIP or DINOv2, or a .safetensors file
    with torchxrayvision's DenseNet.

    "auto" is Inception where its weights are at hand. Nothing is downloaded. Raises UserError where
    the weights are not there.
    """
    # which import this
    from compare.inception import load_inception
    from compare.pretrained import load_legacy, load_transformers, load_xrv

    if name == "legacy-ignite":
        return load_legacy(device)
    if name.endswith(".safetensors"):
        return load_xrv(Path(name), device)
    if name not in NAMES:
        if not (Path(name) / "config.json").exists():
            known = ", ".join(NAMES)
            raise UserError(
                f"'{name}' is no extractor: {known}, a folder of CLIP or DINOv2, or "
                "torchxrayvision's DenseNet as .safetensors."
            )
        return load_transformers(Path(name), device)
    found = inception_weights or inception_file()
    if name == "inception" or inception_weights or (name == "auto" and found.exists()):
        return load_inception(found, device)
    return load_mini(encoder or ENCODER, device)


def checkpoints_folder() -> Path:
    """Where torch keeps downloaded weights."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return Path(os.environ.get("TORCH_HOME", cache / "torch")) / "hub" / "checkpoints"


def inception_file() -> Path:
    """Where torch-fidelity keeps its weights."""
    return checkpoints_folder() / INCEPTION_FILE


def read_weights(file: Path) -> Any:
    """What a .pth file holds, where that is tensors only. Raises UserError for anything else."""
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, ValueError) as error:
        raise UserError(f"{file} does not hold weights ({brief(error)}).") from None


def load_mini(folder: Path, device: str) -> Extractor:
    """The embedded encoder. Raises UserError if it is not there."""
    if not (folder / "config.json").exists():
        raise UserError(
            f"{folder} is not there; train it with `python -m compare.train_encoder --data "
            "'[data/SET]'`, or give --inception_weights FILE."
        )
    network = load_encoder(folder, device)
    size, channels = network.config.size, network.config.channels

    def forward(images: Tensor) -> dict[str, Tensor]:
        pixels = images.float() / 255
        if channels == 1:
            pixels = pixels.mean(1, keepdim=True)
        if pixels.shape[-1] != size:
            pixels = F.interpolate(pixels, (size, size), mode="bicubic", antialias=True)
        features, logits = network(pixels.clamp(0, 1))
        return {"features": features, "logits": logits}

    return Extractor(
        name="encoder-mini",
        sha256=encoder_hash(folder),
        layer=f"{network.dimension}-d pool, bent to ±{BEND:g} deviations",
        dimension=network.dimension,
        resize=f"bicubic with antialiasing to {size} px",
        forward=forward,
        attributes=network.config.attributes,
    )


def brief(error: Exception) -> str:
    """Its first 160 characters, in one line."""
    text = " ".join(str(error).split())
    return text if len(text) < 160 else text[:157] + "..."
