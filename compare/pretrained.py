"""Extractors besides Inception: CLIP and DINOv2 from a folder, torchxrayvision's DenseNet from a
file, and pytorch-ignite's default.

Nothing is downloaded: the folder is one that transformers' `save_pretrained` (or a clone of the
model's repository) left; the file is written once, where torchxrayvision is installed, by

    model = torchxrayvision.models.DenseNet(weights="densenet121-res224-all")
    safetensors.torch.save_file(model.state_dict(), "xrv-all.safetensors")
"""

import hashlib
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from compare.extractors import Extractor, checkpoints_folder, read_weights
from core.errors import UserError
from core.files import read_json

XRV_SIDE, XRV_RANGE = 224, 1024.0  # pixels; grey levels from -1024 to 1024
LEGACY_FILE = "inception_v3_google-0cc3c7bd.pth"
LEGACY_SIDE = 299
MEAN_STD = {
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "dinov2": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
"""What pixels in [0, 1] are standardised by, as the two were trained."""


def load_transformers(folder: Path, device: str) -> Extractor:
    """CLIP (its joint embeddings, of images and prompts) or DINOv2 (the class token).

    Raises UserError for any other folder.
    """
    from transformers import AutoModel, AutoTokenizer

    kind = read_json(folder / "config.json").get("model_type")
    if kind not in MEAN_STD:
        raise UserError(f"{folder} holds a model of type {kind}; give CLIP or DINOv2.")
    try:
        network = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        tokenizer = AutoTokenizer.from_pretrained(folder) if kind == "clip" else None
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{folder} cannot be loaded ({reason}); it needs safetensors.") from None
    network = network.eval().requires_grad_(False).to(device)
    side = (network.config.vision_config if kind == "clip" else network.config).image_size
    mean, deviation = (torch.tensor(v, device=device)[:, None, None] for v in MEAN_STD[kind])

    def forward(images: Tensor) -> dict[str, Tensor]:
        pixels = F.interpolate(images.float() / 255, (side, side), mode="bicubic", antialias=True)
        pixels = (pixels.clamp(0, 1) - mean) / deviation
        if kind == "clip":
            found: Any = network.visual_projection(network.vision_model(pixels).pooler_output)
        else:
            found = network(pixels).pooler_output  # the class token after the last norm
        return {"features": found}

    @torch.inference_mode()
    def read(prompts: list[str]) -> Tensor:
        words = tokenizer(prompts, padding=True, truncation=True, return_tensors="pt").to(device)
        return network.text_projection(network.text_model(**words).pooler_output)

    dimension = network.config.projection_dim if kind == "clip" else network.config.hidden_size
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        digest.update(file.read_bytes())
    return Extractor(
        name=f"{'CLIP' if kind == 'clip' else 'DINOv2'} {folder.resolve().name}",
        sha256=digest.hexdigest(),
        layer="image embedding" if kind == "clip" else "class token",
        dimension=dimension,
        resize=f"bicubic with antialiasing to {side} px",
        forward=forward,
        read=read if kind == "clip" else None,
    )


def load_xrv(file: Path, device: str) -> Extractor:
    """torchxrayvision's DenseNet-121, trained on radiographs (Cohen et al. 2022, arXiv 2111.00595);
    its 1024 features after the last activation, averaged over the image.

    Raises UserError for a file that is not there or holds another network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    from torch import nn
    from torchvision.models import densenet121

    network = densenet121(weights=None).features
    network.conv0 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    try:
        state = load_file(file)
        network.load_state_dict(
            {k.removeprefix("features."): v for k, v in state.items() if k.startswith("features.")}
        )
    except (OSError, SafetensorError, RuntimeError):
        raise UserError(
            f"{file} is not there or does not hold torchxrayvision's DenseNet-121 as safetensors; "
            "compare/pretrained.py says how to write it."
        ) from None
    network = network.eval().requires_grad_(False).to(device)

    def forward(images: Tensor) -> dict[str, Tensor]:
        grey = images.float().mean(1, keepdim=True) / 255
        grey = F.interpolate(grey, (XRV_SIDE, XRV_SIDE), mode="bicubic", antialias=True)
        found = network((2 * grey.clamp(0, 1) - 1) * XRV_RANGE)
        return {"features": F.relu(found).mean((2, 3))}

    return Extractor(
        name=f"torchxrayvision {file.stem}",
        sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
        layer="1024-d pool",
        dimension=1024,
        resize=f"grey, bicubic with antialiasing to {XRV_SIDE} px",
        forward=forward,
    )


def load_legacy(device: str, file: Path | None = None) -> Extractor:
    """What pytorch-ignite's FID and InceptionScore see by default: the 1000 softmax probabilities
    of torchvision's Inception-v3, on pixels in [0, 1], to 299 px bilinear as in its tutorial.

    Probability vectors differ by the root of 2 at most, so that this "FID" lies in [0, 2].
    """
    from torchvision.models import inception_v3

    file = file or checkpoints_folder() / LEGACY_FILE
    if not file.is_file():
        raise UserError(
            f"{file} is not there; legacy-ignite needs torchvision's {LEGACY_FILE} (104 MB) there."
        )
    network = inception_v3(weights=None, init_weights=False, transform_input=True)
    try:
        network.load_state_dict(read_weights(file))
    except (RuntimeError, AttributeError, TypeError):
        raise UserError(f"{file} does not hold torchvision's Inception-v3.") from None
    network = network.eval().requires_grad_(False).to(device)

    def forward(images: Tensor) -> dict[str, Tensor]:
        pixels = images.float() / 255
        if pixels.shape[-1] != LEGACY_SIDE:
            pixels = F.interpolate(pixels, (LEGACY_SIDE, LEGACY_SIDE), mode="bilinear")
        logits = network(pixels)
        return {"features": logits.softmax(1), "logits": logits}

    return Extractor(
        name="legacy-ignite",
        sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
        layer="1000-way softmax, range 0 to 2",
        dimension=1000,
        resize=f"bilinear without antialiasing to {LEGACY_SIDE} px, no normalisation",
        forward=forward,
        legacy=True,
        has_logits=True,
    )
