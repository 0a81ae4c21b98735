"""All randomness is a function of a seed and a place, never of what ran before.

A training step draws from `stream(seed, "noise", step)`; an image from its own seed. So a resumed
run draws what the unbroken run would have drawn, two processes draw what one would have, and the
batch size does not change an image. Nothing about random numbers needs to be saved.
"""

import hashlib
from collections.abc import Mapping, Sequence

import torch


def stream(seed: int, *place: str | int) -> torch.Generator:
    """A CPU generator that belongs to this seed and place alone."""
    digest = hashlib.sha256(repr((int(seed), *place)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def seed_everything(seed: int, *place: str | int) -> None:
    """Seed torch's global generators (dropout inside networks) for this place."""
    torch.manual_seed(stream(seed, *place).initial_seed())


def image_noise(seeds: Sequence[int], shape: tuple[int, ...]) -> torch.Tensor:
    """Standard normal noise, N x shape, float32 on the CPU: one generator per image."""
    return torch.stack(
        [torch.randn(shape, generator=torch.Generator().manual_seed(int(s))) for s in seeds]
    )


def mixed_noise(seeds: Mapping[int, float], shape: tuple[int, ...]) -> torch.Tensor:
    """The weighted sum of the seeds' noises, float32 of `shape`, brought back to unit variance.

    Independent normal noises stay normal noise; between two seeds that is nearly the arc of
    spherical interpolation.
    """
    weights = torch.tensor(list(seeds.values()))
    summed = torch.einsum("n,n...->...", weights, image_noise(list(seeds), shape))
    return summed / weights.norm()


def batch_at(step: int, count: int, batch: int, seed: int) -> list[int]:
    """Item numbers of batch `step` (from 0) in an endless shuffled stream over `count` items.

    Every item comes once per epoch; a batch may reach over the end of an epoch into the next one.
    """
    orders: dict[int, list[int]] = {}
    items = []
    for position in range(step * batch, (step + 1) * batch):
        epoch, place = divmod(position, count)
        if epoch not in orders:
            orders[epoch] = _order(count, seed, epoch)
        items.append(orders[epoch][place])
    return items


def epoch_batch_at(step: int, count: int, batch: int, seed: int) -> list[int]:
    """Like `batch_at`, but epochs end with a smaller batch of what is left."""
    epoch, place = divmod(step, batches_per_epoch(count, batch))
    return _order(count, seed, epoch)[place * batch : (place + 1) * batch]


def batches_per_epoch(count: int, batch: int) -> int:
    return -(-count // batch)


def step_limit(steps: int | None, epochs: int | None, count: int, batch: int) -> int:
    """Steps to train for: `steps`, or whole `epochs` over `count` items; given both, the fewer."""
    limits = [steps] if steps is not None else []
    if epochs is not None:
        limits.append(epochs * batches_per_epoch(count, batch))
    return min(limits)


_last_order: dict[tuple[int, int, int], list[int]] = {}


def _order(count: int, seed: int, epoch: int) -> list[int]:
    """The shuffled item numbers of one epoch; the newest two are kept (they serve many steps)."""
    key = (count, seed, epoch)
    if key not in _last_order:
        while len(_last_order) > 1:
            _last_order.pop(next(iter(_last_order)))
        _last_order[key] = torch.randperm(count, generator=stream(seed, "order", epoch)).tolist()
    return _last_order[key]
