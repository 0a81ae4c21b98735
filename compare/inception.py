"""torch-fidelity's Inception-v3: its blocks and weights, by a quicker way to the same numbers."""

import hashlib
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils.fusion import fuse_conv_bn_eval

from compare.extractors import INCEPTION_FILE, Extractor, brief, read_weights
from core.errors import UserError

SIDE = 299  # pixels
HASH = "6726825d"  # first digits of the SHA-256 of the weights, as their file's name says
SIZE_MB = 91
CPU_BATCH = 8  # images: what a layer writes stays in the cache for the next one
LAYERS = (
    *("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "MaxPool_1"),
    *("Conv2d_3b_1x1", "Conv2d_4a_3x3", "MaxPool_2"),
    *("Mixed_5b", "Mixed_5c", "Mixed_5d"),
    *("Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"),
    *("Mixed_7a", "Mixed_7b", "Mixed_7c", "AvgPool"),
)
"""From 3 x 299 x 299 in [-1, 1] to 2048 x 1 x 1, in their order."""


def load_inception(path: Path, device: str) -> Extractor:
    """Inception-v3 by torch-fidelity's weights file, with its own TensorFlow-like resize to 299.

    Raises UserError if the file is missing, damaged, or holds more than tensors.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    if not path.is_file():
        raise UserError(
            f"{path} is not there; put torch-fidelity's {INCEPTION_FILE} ({SIZE_MB} MB) "
            "there, or give --inception_weights FILE, or --extractor encoder-mini."
        )
    read_weights(path)  # refuses a pickle that runs code
    try:
        whole = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path)
        )
    except (RuntimeError, KeyError, ValueError) as error:
        raise UserError(f"{path} does not hold Inception's weights ({brief(error)}).") from None
    layers = torch.nn.Sequential(*(getattr(whole, name) for name in LAYERS), torch.nn.Flatten())
    fold_norms(layers).to(device, memory_format=torch.channels_last)
    classes = whole.fc.weight.T.to(device)  # 2048 x 1008; the logits leave out the bias
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    official = digest.startswith(HASH)

    def forward(images: Tensor) -> dict[str, Tensor]:
        parts = images.split(CPU_BATCH if images.device.type == "cpu" else len(images))
        features = torch.cat([layers(resized(part.float()) / 128 - 1) for part in parts])
        return {"features": features, "logits": features @ classes}

    return Extractor(
        name="inception-v3" if official else f"inception-v3 with weights {digest[:8]}",
        sha256=digest,
        layer="2048-d pool",
        dimension=2048,
        resize="bilinear as in TensorFlow 1, without antialiasing, to 299 px (torch-fidelity)",
        forward=forward,
        official=official,
        has_logits=True,
    )


def resized(images: Tensor) -> Tensor:
    """N x C x H x W -> N x C x 299 x 299 as TensorFlow 1 does it: pixel i is read at
    i * H / 299, between two pixels, whatever lies between the next ones."""
    rows, columns = (_reader(side).to(images.device) for side in images.shape[2:])
    return rows @ images @ columns.T


@lru_cache(maxsize=4)
def _reader(side: int) -> Tensor:
    """299 x `side`, two weights in a row; places rounded to float32, as there."""
    place = torch.arange(SIDE) * torch.tensor(side / SIDE)
    low = place.long()
    high = (low + 1).clamp(max=side - 1)
    share = (place - low)[:, None]
    pixels = torch.eye(side)
    return (1 - share) * pixels[low] + share * pixels[high]


def fold_norms(network: torch.nn.Module) -> torch.nn.Module:
    """BatchNorm's fixed scale and shift taken into the convolution before it: equal to 1e-6."""
    for module in network.modules():
        if isinstance(getattr(module, "bn", None), torch.nn.BatchNorm2d):
            module.conv = fuse_conv_bn_eval(module.conv, module.bn)
            module.bn = torch.nn.Identity()
    return network
