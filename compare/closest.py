"""The nearest training image of every generated one, beside what unseen real images reach."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from compare.features import Noise, PixelPath, pixel_batches
from compare.measure import pick
from compare.neighbours import Neighbours, nearest
from compare.sources import Fake, Real
from core.sets import ImageSet

BLOCK = 256  # images of the bank held at once
QUERY_BYTES = 2**30  # float32 pixels of queries held at once
MOST_HELD_OUT = 2000  # unseen real images that make the yardstick
NOISE_IMAGES = 64
PAIRS = 6
CHANCE = 0.01
"""Below this probability of as many by chance, images count as possible copies."""


def closest(
    real: Real, fakes: Sequence[Fake], path: PixelPath, device: str, seed: int
) -> dict[str, Any]:
    """Cosines on raw pixels (the thesis's number) and mean-centred ones, of every set with the
    training images; the closest pairs; the share closer than unseen real images come."""
    sets: dict[str, ImageSet | Noise] = {fake.label: fake.images for fake in fakes}
    found = {label: search(images, real.train, path, device) for label, images in sets.items()}
    noise = search(Noise(NOISE_IMAGES, seed), real.train, path, device)
    unseen = real.held_out
    if len(unseen) > MOST_HELD_OUT:
        unseen = pick(unseen, MOST_HELD_OUT, seed, "yardstick")
    yardstick = None
    if len(real.train) > 1 or not real.same:
        yardstick = search(unseen, real.train, path, device, leave_out_self=real.same)
    bound = yardstick["centred"].cosine[:, 0] if yardstick else None
    return {
        "bank": {"name": real.train.name, "n": len(real.train)},
        "held_out": _summary(yardstick, None) if yardstick else None,
        "held_out_images": len(unseen),
        "leave_one_out": real.same,
        "noise": _summary(noise, None),
        "bound": float(bound.max()) if bound is not None else None,
        "sets": {label: _summary(both, bound) for label, both in found.items()},
        "pairs": {
            fake.label: {
                "raw": _pairs(fake.images, real.train, found[fake.label]["raw"], by_order=True),
                "centred": _pairs(fake.images, real.train, found[fake.label]["centred"]),
            }
            for fake in fakes
        },
        "held_out_pairs": _pairs(unseen, real.train, yardstick["centred"]) if yardstick else [],
    }


def search(
    images: ImageSet | Noise,
    bank: ImageSet,
    path: PixelPath,
    device: str,
    leave_out_self: bool = False,
) -> dict[str, Neighbours]:
    """`nearest` with k = 1 over files, both sides in blocks, so that memory is bounded."""
    per_image = 4 * path.size**2 * (3 if path.mode == "RGB" else 1)
    many = max(1, QUERY_BYTES // per_image)
    place = {file: number for number, file in enumerate(bank.paths)}
    parts = []
    for number, block in enumerate(pixel_batches(images, path, many)):
        own = None
        if leave_out_self and isinstance(images, ImageSet):
            files = images.paths[number * many : number * many + len(block)]
            own = np.array([place[file] for file in files])
        parts.append(nearest(block, pixel_batches(bank, path, BLOCK), 1, device, own))
    return {
        kind: Neighbours(
            np.concatenate([part[kind].index for part in parts]),
            np.concatenate([part[kind].cosine for part in parts]),
        )
        for kind in parts[0]
    }


def chance_of_lead(ahead: int, generated: int, unseen: int) -> float:
    """Probability that the first `ahead` of all images, by cosine, are generated ones, were they
    and the unseen real ones alike (drawn from one distribution): exact, by counting orders."""
    places = np.arange(ahead)
    return float(np.prod((generated - places) / (generated + unseen - places)))


def _summary(both: Mapping[str, Neighbours], unseen: np.ndarray | None) -> dict[str, Any]:
    """Cosines with the nearest training image; how many are nearer than any of `unseen` is."""
    raw, centred = both["raw"].cosine[:, 0], both["centred"].cosine[:, 0]
    summary: dict[str, Any] = {
        "raw_median": float(np.median(raw)),
        "raw_highest": float(raw.max()),
        "centred_median": float(np.median(centred)),
        "centred_highest": float(centred.max()),
    }
    if unseen is not None:
        ahead = int((centred > unseen.max()).sum())
        chance = chance_of_lead(ahead, len(centred), len(unseen))
        summary |= {"share_above": ahead / len(centred), "chance": chance}
        summary["possible_copies"] = chance < CHANCE
    return summary


def _pairs(
    images: ImageSet, bank: ImageSet, found: Neighbours, by_order: bool = False
) -> list[dict[str, Any]]:
    """The first images with their nearest (not picked), or else the closest pairs of all."""
    cosine = found.cosine[:, 0]
    order = np.arange(len(cosine)) if by_order else np.argsort(-cosine, kind="stable")
    return [
        {
            "image": str(images.paths[i]),
            "seed": images.rows[i].get("seed"),
            "nearest": str(bank.paths[found.index[i, 0]]),
            "cosine": float(cosine[i]),
        }
        for i in order[:PAIRS]
    ]
