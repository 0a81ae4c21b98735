"""The nearest images of a bank by cosine on pixels: exact, by matrix products, in blocks."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from compare.cosine import cosines, measured

PART = 64  # bank images at once: as float32 at 256 pixels they stay in a processor's cache


@dataclass(frozen=True)
class Neighbours:
    """The k nearest bank images of each query, nearest first."""

    index: np.ndarray
    """Places in the bank, Q x k."""
    cosine: np.ndarray
    """Q x k."""


def nearest(
    queries: np.ndarray,
    bank: Iterable[np.ndarray],
    k: int = 1,
    device: str = "cpu",
    own: np.ndarray | None = None,
) -> dict[str, Neighbours]:
    """Search a bank that comes in blocks, of which one is held at a time.

    Args:
        queries: uint8, Q x H x W or Q x H x W x 3, all held in memory as float32.
        bank: blocks of the same shape.
        own: place in the bank of each query itself, Q, which is not its own neighbour.

    Returns:
        "raw" (the thesis's number) and "centred" (each image's mean taken out).
    """
    asked = measured(_flat(queries, device))
    best: dict[str, tuple[Tensor, Tensor]] = {}
    first = 0
    for block in bank:
        for part in np.array_split(block, range(PART, len(block), PART)):
            both = cosines(asked, measured(_flat(part, device)))._asdict()
            places = torch.arange(first, first + len(part), device=device)
            for kind, values in both.items():
                if own is not None:
                    values[places[None] == torch.from_numpy(own).to(device)[:, None]] = -2.0
                best[kind] = _merge(best.get(kind), values, places, k)
            first += len(part)
    return {
        kind: Neighbours(index.cpu().numpy(), value.clamp(-1, 1).cpu().numpy())
        for kind, (value, index) in best.items()
    }


def _merge(
    before: tuple[Tensor, Tensor] | None, values: Tensor, places: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """The k best of what was found before and a new block; the earlier place wins a tie."""
    values, order = values.topk(min(k, values.shape[1]), dim=1)
    index = places[order]
    if before is not None:
        values = torch.cat([before[0], values], 1)
        index = torch.cat([before[1], index], 1)
    order = values.argsort(dim=1, descending=True, stable=True)[:, :k]
    return values.gather(1, order), index.gather(1, order)


def _flat(pixels: np.ndarray, device: str) -> Tensor:
    """uint8 images as rows of float32."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).to(device).flatten(1).float()
