"""weights/ of a run: the generator as a sampler needs it, in safetensors, and its shape in JSON."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from core.ema import Ema
from core.errors import UserError
from core.files import atomic_folder, read_json, write_json
from core.seeds import stream
from gan.networks import Generator

STATISTICS_IMAGES = 512  # images over which BatchNorm's mean and variance are measured


@torch.no_grad()
def settled(generator: Generator, ema: Ema | None, batch: int, seed: int) -> Generator:
    """A copy of the generator for sampling, in eval mode; the generator itself goes on unchanged.

    In training BatchNorm takes the mean and variance of the batch at hand, as in the thesis, so an
    image depends on its neighbours. A sampled image must depend on its seed alone: the copy uses
    fixed statistics. They are measured here, over batches of the training size, rather than taken
    from the running averages, which lag behind the weights and are not the averaged weights' own.

    Args:
        ema: where given, its average of the weights is used.
    """
    copy = deepcopy(generator).train()
    if ema is not None:
        ema.copy_to(copy.parameters())
    for module in copy.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the plain mean over all batches
    device = next(copy.parameters()).device
    for number in range(-(-STATISTICS_IMAGES // batch)):
        noise = torch.randn(batch, copy.z_dim, generator=stream(seed, "statistics", number))
        copy(noise.to(device))
    return copy.eval()


def save_generator(generator: Generator, config: dict[str, Any], folder: Path) -> None:
    """Write generator.safetensors and config.json (keywords of `Generator`, and `ema`)."""
    tensors = {name: t.detach().cpu().contiguous() for name, t in generator.state_dict().items()}
    with atomic_folder(folder) as temporary:
        save_file(tensors, temporary / "generator.safetensors")
        write_json(temporary / "config.json", config)


def load_generator(folder: Path, device: str) -> Generator:
    """Read what `save_generator` wrote, in eval mode. Raises UserError if it is not all there."""
    if not (folder / "generator.safetensors").exists():
        raise UserError(
            f"{folder} holds no generator yet; train on (weights are written with each checkpoint)."
        )
    config = read_json(folder / "config.json")
    config.pop("ema", None)
    generator = Generator(**config)
    generator.load_state_dict(load_file(folder / "generator.safetensors"))
    return generator.to(device).eval()
