"""All numbers of a training step: images, labels, noise. A function of settings and step."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from accelerate import Accelerator

from core.errors import UserError
from core.parallel import part_of
from core.seeds import epoch_batch_at, stream
from core.sets import ImageSet
from gan.augment import NUMBERS
from gan.settings import WganGpSettings

MOST_CLASSES = 1000


@dataclasses.dataclass(frozen=True)
class Batch:
    """This process's part of a step's images and numbers, on the device; N may be 0."""

    real: torch.Tensor
    """N x C x H x W in [low, 1], low being the networks' black, 0 or -1."""
    noise: torch.Tensor
    """N x (K + 1) x z_dim, from N(0, 1), for K critic updates and the generator's."""
    alpha: torch.Tensor
    """N x K, from U(0, 1)."""
    labels: torch.Tensor | None
    """N class numbers."""
    changes: torch.Tensor | None
    """N x (K + 1) x 2 x NUMBERS, from U(0, 1): the augmentation of real and generated images."""
    share: float
    """N over the images of all processes."""


class Batches:
    """`batches(step)`; the next one is read and drawn in a thread while this one is in use."""

    def __init__(
        self,
        settings: WganGpSettings,
        images: ImageSet,
        labels: list[int] | None,
        low: float,
        accelerator: Accelerator,
    ) -> None:
        self.settings = settings
        self.pixels = images.pixels(settings.size, "L" if settings.channels == 1 else "RGB")
        self.labels = None if labels is None else torch.tensor(labels)
        self.low = low
        self.accelerator = accelerator
        self.pinned = accelerator.device.type == "cuda"
        self._thread = ThreadPoolExecutor(1)
        self._coming = (-1, self._thread.submit(dict))

    def __call__(self, step: int) -> Batch:
        number, coming = self._coming
        drawn = (coming if number == step else self._thread.submit(self._draw, step)).result()
        self._coming = (step + 1, self._thread.submit(self._draw, step + 1))
        moved = {
            name: part.to(self.accelerator.device, non_blocking=True)
            for name, part in drawn.items()
            if isinstance(part, torch.Tensor)
        }
        flip = moved.pop("flip", None)
        real = to_images(moved.pop("pixels"), self.low)
        if flip is not None:
            real = torch.where(flip[:, None, None, None], real.flip(3), real)
        if self.pinned:
            real = real.contiguous(memory_format=torch.channels_last)
        return Batch(real=real, share=drawn["share"], **{"labels": None, "changes": None} | moved)

    def _draw(self, step: int) -> dict[str, torch.Tensor | float]:
        """This process's part, on the CPU, pixels still uint8."""
        settings = self.settings
        items = epoch_batch_at(step, len(self.pixels), settings.batch, settings.seed)
        numbers = draw_numbers(settings, step, len(items))
        if self.labels is not None:
            numbers["labels"] = self.labels[torch.tensor(items)]
        mine = part_of(items, self.accelerator)
        parts = {name: part_of(tensor, self.accelerator) for name, tensor in numbers.items()}
        parts["pixels"] = torch.from_numpy(self.pixels[np.array(mine, dtype=int)])
        if self.pinned:
            parts = {name: part.pin_memory() for name, part in parts.items()}
        return parts | {"share": len(mine) / len(items)}


def draw_numbers(settings: WganGpSettings, step: int, count: int) -> dict[str, torch.Tensor]:
    """All random numbers of a step for `count` images: noise and alpha as in `Batch`; where their
    setting is on, changes, and flip, `count` truth values."""
    updates = settings.critic_steps
    source = stream(settings.seed, "noise", step)
    numbers = {
        "noise": torch.randn(count, updates + 1, settings.z_dim, generator=source),
        "alpha": torch.rand(count, updates, generator=source),
    }
    if settings.flip:
        source = stream(settings.seed, "flip", step)
        numbers["flip"] = torch.rand(count, generator=source) < 0.5
    if settings.augment is not None:
        source = stream(settings.seed, "augment", step)
        numbers["changes"] = torch.rand(count, updates + 1, 2, NUMBERS, generator=source)
    return numbers


def to_images(pixels: torch.Tensor, low: float) -> torch.Tensor:
    """uint8 N x H x W (x 3) -> float32 N x C x H x W in [low, 1]."""
    images = pixels.float() / 255
    if low:
        images = images * (1 - low) + low
    return images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()


def read_classes(images: ImageSet, column: str | None) -> tuple[list[str], list[int] | None]:
    """The different values of a metadata column, sorted, and the place of each image's among them.

    A list, such as several findings, is one value. Without a column: [], None.

    Raises UserError where there is no such column, or hardly two images share a value.
    """
    if column is None:
        return [], None
    values = [_as_text(row.get(column)) for row in images.rows]
    if "" in values:
        known = sorted({name for row in images.rows for name in row} - {"file_name", "text"})
        raise UserError(
            f"{images.paths[values.index('')]} has no '{column}'; --condition needs a column that "
            f"every image has (here: {', '.join(known) or 'there are none'})."
        )
    names = sorted(set(values))
    if len(names) > min(MOST_CLASSES, max(1, len(values) // 2)):
        raise UserError(
            f"'{column}' has {len(names)} different values among {len(values)} images; "
            "--condition needs a column with few."
        )
    return names, [names.index(value) for value in values]


def _as_text(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(str(item) for item in value) or "none"
    return "" if value is None else str(value)
