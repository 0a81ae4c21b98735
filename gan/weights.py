"""weights/ of a run: the generator as a sampler needs it, in safetensors, and its shape in JSON."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from core.ema import Ema
from core.errors import UserError
from core.files import atomic_folder, read_json, write_json
from core.runs import SCORE
from core.seeds import stream
from gan.growing import GrowingCritic, GrowingGenerator
from gan.lessons import DcganCritic, DcganGenerator, DenseCritic, DenseGenerator
from gan.networks import Critic, Generator
from gan.settings import WganGpSettings

NETWORKS: dict[str, tuple[Any, Any]] = {
    "thesis": (Generator, Critic),
    "growing": (GrowingGenerator, GrowingCritic),
    "dcgan": (DcganGenerator, DcganCritic),
    "dense": (DenseGenerator, DenseCritic),
}
STATISTICS_IMAGES = 512  # images over which BatchNorm's mean and variance are measured


def network_config(settings: WganGpSettings) -> dict[str, Any]:
    """What builds the generator of these settings again; written beside its weights."""
    names = ("z_dim", "size", "channels", "width")
    kind = "growing" if settings.grow else settings.networks
    return {"networks": kind} | {name: getattr(settings, name) for name in names}


def make_networks(settings: WganGpSettings, classes: int = 0) -> tuple[nn.Module, nn.Module]:
    """Generator and critic, fresh."""
    config = network_config(settings)
    make_generator, make_critic = NETWORKS[config.pop("networks")]
    extra = {"classes": classes} if classes else {}
    generator = make_generator(**config, **extra)
    del config["z_dim"]
    return generator, make_critic(**config, **extra)


@torch.no_grad()
def settled(
    generator: Any, ema: Ema | None, batch: int, seed: int, labels: torch.Tensor | None = None
) -> Any:
    """A copy of the generator for sampling, in eval mode; the generator itself goes on unchanged.

    In training BatchNorm takes the mean and variance of the batch at hand, as in the thesis, so an
    image depends on its neighbours. A sampled image must depend on its seed alone: the copy uses
    fixed statistics. They are measured here, over batches of the training size, rather than taken
    from the running averages, which lag behind the weights and are not the averaged weights' own.

    Args:
        ema: where given, its average of the weights is used.
        labels: class numbers of the training images, drawn from as training does.
    """
    copy = deepcopy(generator).train()
    if ema is not None:
        ema.copy_to(copy.parameters())
    for module in copy.modules():
        if isinstance(module, _BatchNorm):
            module.reset_running_stats()
            module.momentum = None  # the plain mean over all batches
    device = next(copy.parameters()).device
    for number in range(-(-STATISTICS_IMAGES // batch)):
        source = stream(seed, "statistics", number)
        noise = torch.randn(batch, copy.z_dim, generator=source).to(device)
        if labels is None:
            copy(noise)
        else:
            chosen = torch.randint(len(labels), (batch,), generator=source)
            copy(noise, labels[chosen].to(device))
    return copy.eval()


def save_generator(generator: Any, config: dict[str, Any], folder: Path) -> None:
    """Write generator.safetensors and config.json (`network_config`, names of classes, and ema)."""
    if hasattr(generator, "level"):
        config = config | {"level": generator.level}
    tensors = {name: t.detach().cpu().contiguous() for name, t in generator.state_dict().items()}
    with atomic_folder(folder) as temporary:
        save_file(tensors, temporary / "generator.safetensors")
        write_json(temporary / "config.json", config)


def load_generator(folder: Path, device: str) -> tuple[Any, list[str]]:
    """Read what `save_generator` wrote, in eval mode, and the names of its classes.

    Raises UserError if it is not all there.
    """
    if not (folder / "generator.safetensors").exists():
        raise UserError(
            f"{folder} holds no generator yet; train on (weights are written with each checkpoint)."
        )
    config = read_json(folder / "config.json")
    config.pop("ema", None)
    make_generator, _ = NETWORKS[config.pop("networks", "thesis")]
    classes = config.pop("classes", [])
    generator = make_generator(**config, **({"classes": len(classes)} if classes else {}))
    generator.load_state_dict(load_file(folder / "generator.safetensors"))
    return generator.to(device).eval(), classes


def keep_if_best(newest: Path, score: dict[str, float], step: int, folder: Path) -> bool:
    """Copy the weights in `newest`, with their score, to `folder` if it beats the one there.

    The Fréchet distance decides, or, where there are too few images for one, the similarity.
    Returns whether it did.
    """
    if (folder / SCORE).exists() and not _badness(score) < _badness(read_json(folder / SCORE)):
        return False
    with atomic_folder(folder) as temporary:
        for file in sorted(newest.iterdir()):
            (temporary / file.name).write_bytes(file.read_bytes())
        write_json(temporary / SCORE, {"step": step, **score})
    return True


def _badness(score: dict[str, float]) -> float:
    return score["frechet"] if "frechet" in score else -score["similarity"]
