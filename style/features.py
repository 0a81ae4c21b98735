"""Networks whose features say what is shown and how: VGG-19, or the embedded encoder offline."""

import hashlib
import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from core.errors import UserError
from core.families import resolve

ROOT = Path(__file__).resolve().parents[1]
VGG_FILE = "vgg19-dcbb9e9d.pth"
VGG_STYLE = (1, 6, 11, 20, 29)  # relu1_1, 2_1, 3_1, 4_1, 5_1, as in the paper
VGG_CONTENT = 22  # relu4_2
VGG_MEAN, VGG_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
ENCODER = ROOT / "models" / "encoder-mini"
ENCODER_LOADER = "compare.encoder:load_encoder"  # by name: style imports no sibling
ENCODER_STYLE = ("stem_norm", "stage1", "stage2", "stage3")
ENCODER_CONTENT = "stage2"


@dataclass(frozen=True)
class Features:
    """A network with what its results must be labelled with."""

    name: str
    sha256: str
    """Of the weights."""
    extract: Callable[[torch.Tensor], tuple[torch.Tensor, list[torch.Tensor]]]
    """1 x 3 x H x W in [0, 1] -> content features, style features by layer; with a graph."""


def choose(name: str, device: str) -> Features:
    """The network asked for; "auto" is VGG-19 where its weights are at hand. Nothing is downloaded.

    Raises UserError where the weights are missing or damaged.
    """
    file = vgg_file()
    if name == "vgg19" or (name == "auto" and file.exists()):
        return load_vgg(file, device)
    return load_mini(ENCODER, device)


def vgg_file() -> Path:
    """Where torchvision keeps its weights."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    home = Path(os.environ.get("TORCH_HOME", cache / "torch"))
    return home / "hub" / "checkpoints" / VGG_FILE


def load_vgg(path: Path, device: str) -> Features:
    """torchvision's VGG-19 up to relu5_1, with average pooling, as the paper advises."""
    from torchvision.models import vgg19

    if not path.is_file():
        raise UserError(
            f"{path} is not there; put torchvision's {VGG_FILE} (548 MB) there, or give "
            "--features encoder-mini."
        )
    network = vgg19(weights=None)
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError) as error:
        raise UserError(f"{path} does not hold VGG-19's weights ({error}).") from None
    return Features("vgg19", digest(path), vgg_extractor(network.features, device))


def vgg_extractor(
    layers: nn.Sequential, device: str
) -> Callable[[torch.Tensor], tuple[torch.Tensor, list[torch.Tensor]]]:
    """`Features.extract` of VGG-19's convolutional layers."""
    layers = layers[: VGG_STYLE[-1] + 1].to(device).eval().requires_grad_(False)
    mean, std = (torch.tensor(x, device=device)[:, None, None] for x in (VGG_MEAN, VGG_STD))

    def extract(image: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        x, found = (image - mean) / std, {}
        for place, layer in enumerate(layers):
            if isinstance(layer, nn.ReLU):
                x = torch.relu(x)  # not in place: the features are needed
            elif isinstance(layer, nn.MaxPool2d):
                x = torch.nn.functional.avg_pool2d(x, 2)
            else:
                x = layer(x)
            found[place] = x
        return found[VGG_CONTENT], [found[place] for place in VGG_STYLE]

    return extract


def load_mini(folder: Path, device: str) -> Features:
    """The embedded encoder's first stages; small, and trained on phantoms: textures come out
    coarser than VGG-19's."""
    encoder = resolve(ENCODER_LOADER)(folder, device).eval().requires_grad_(False)
    kept: dict[str, torch.Tensor] = {}
    for name in {*ENCODER_STYLE, ENCODER_CONTENT}:
        encoder.get_submodule(name).register_forward_hook(
            lambda _, __, output, name=name: kept.update({name: output})
        )

    def extract(image: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        grey = encoder.config.channels == 1
        encoder(image.mean(1, keepdim=True) if grey else image)
        return kept[ENCODER_CONTENT], [kept[name] for name in ENCODER_STYLE]

    return Features("encoder-mini", digest(folder / "model.safetensors"), extract)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
