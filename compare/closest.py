"""The nearest training image of every generated one, beside what unseen real images reach."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from compare.copies import copy_test, find_copies, flag_rows
from compare.features import Made, MeanImage, Noise, PixelPath, pixel_batches
from compare.measure import AVERAGED, Setup, pick
from compare.ms_ssim import pair_similarity
from compare.neighbours import Neighbours, nearest
from compare.similarity import nearest_cosine
from compare.sources import Fake, Real
from core.files import read_jsonl, write_jsonl
from core.sets import ImageSet

BLOCK = 256  # images of the bank held at once
QUERY_BYTES = 2**30  # float32 pixels of queries held at once
MOST_HELD_OUT = 1000  # unseen real images that make the yardstick
NOISE_IMAGES = 64
PAIRS = 6
CHANCE = 0.01
"""Below this probability of as many by chance, images count as possible copies."""
Found = Mapping[str, Neighbours]


def closest(real: Real, fakes: Sequence[Fake], setup: Setup) -> dict[str, Any]:
    """Cosines on raw pixels (the thesis's number), mean-centred ones and those of features, of
    every set with the training images; the copy test, and the pairs most like copies."""
    path, seed, bank = setup.path, setup.seed, real.train
    found = {fake.label: search_all(fake.images, real, setup) for fake in fakes}
    mean = MeanImage(1, pick(bank, AVERAGED, seed, "mean image"))
    far = {"noise": Noise(NOISE_IMAGES, seed), "mean": mean}
    unseen = unseen_images(real, seed)
    yardstick = None
    if len(bank) > 1 or not real.same:
        yardstick = search_all(unseen, real, setup, leave_out_self=real.same)
    unseen_scores = yardstick["copy"].cosine[:, 0] if yardstick else None
    sets = {
        fake.label: _summary(found[fake.label], unseen_scores)
        | _of_features(setup, real, fake.images)
        | {"ms_ssim": pair_similarity(fake.images, path, seed)}
        for fake in fakes
    }
    held_out = None
    if yardstick:
        own = _of_features(setup, real, unseen, leave_out_self=real.same)
        alike = {"ms_ssim": pair_similarity(unseen, path, seed)} if len(unseen) > 1 else {}
        held_out = _summary(yardstick) | own | alike
    return {
        "bank": {"name": bank.name, "n": len(bank)},
        "held_out": held_out,
        "held_out_images": len(unseen),
        "leave_one_out": real.same,
        **{name: _summary(search(made, bank, path, setup.device)) for name, made in far.items()},
        "bound": next((row["bound"] for row in sets.values() if "bound" in row), None),
        "sets": sets,
        "pairs": {
            fake.label: {
                "raw": _pairs(fake.images, bank, found[fake.label]["raw"], by_order=True),
                "copy": _pairs(fake.images, bank, found[fake.label]["copy"]),
            }
            for fake in fakes
        },
        "held_out_pairs": _pairs(unseen, bank, yardstick["copy"]) if yardstick else [],
        "flags": {fake.label: _flags(fake, found[fake.label], bank, sets) for fake in fakes},
    }


def unseen_images(real: Real, seed: int) -> ImageSet:
    """Held-out images that make the yardstick."""
    return pick(real.held_out, MOST_HELD_OUT, seed, "yardstick")


def write_flags(fakes: Sequence[Fake], flags: Mapping[str, list[dict[str, Any]]]) -> None:
    """Note "possible copy" in each run's samples.jsonl; folders from outside are left as they
    are."""
    for fake in fakes:
        index = fake.folder / "samples.jsonl"
        if fake.run is None or not index.exists():
            continue
        known = {row["file"]: row for row in flags[fake.label]}
        write_jsonl(index, [row | known.get(row["file"], {}) for row in read_jsonl(index)])


def search(
    images: ImageSet | Made,
    bank: ImageSet,
    path: PixelPath,
    device: str,
    leave_out_self: bool = False,
) -> dict[str, Neighbours]:
    """`nearest` with k = 1 over files, both sides in blocks, so that memory is bounded."""
    per_image = 4 * path.size**2 * (3 if path.mode == "RGB" else 1)
    many = max(1, QUERY_BYTES // per_image)
    own = _places(images, bank) if leave_out_self and isinstance(images, ImageSet) else None
    parts = []
    for number, block in enumerate(pixel_batches(images, path, many)):
        mine = None if own is None else own[number * many : number * many + len(block)]
        parts.append(nearest(block, pixel_batches(bank, path, BLOCK), 1, device, mine))
    return {
        kind: Neighbours(
            np.concatenate([part[kind].index for part in parts]),
            np.concatenate([part[kind].cosine for part in parts]),
        )
        for kind in parts[0]
    }


def search_all(
    images: ImageSet | Made, real: Real, setup: Setup, leave_out_self: bool = False
) -> dict[str, Neighbours]:
    """The nearest training image by "raw" and "centred" cosine, and as a "copy"."""
    path, device = setup.path, setup.device
    own = _places(images, real.train) if leave_out_self and isinstance(images, ImageSet) else None
    found = search(images, real.train, path, device, leave_out_self)
    return found | {"copy": find_copies(images, real.train, path, device, own)}


def chance_of_lead(ahead: int, generated: int, unseen: int) -> float:
    """Probability that the first `ahead` of all images, by score, are generated ones, were they
    and the unseen real ones alike (drawn from one distribution): exact, by counting orders."""
    places = np.arange(ahead)
    return float(np.prod((generated - places) / (generated + unseen - places)))


def _places(images: ImageSet, bank: ImageSet) -> np.ndarray:
    place = {file: number for number, file in enumerate(bank.paths)}
    return np.array([place[file] for file in images.paths])


def _of_features(
    setup: Setup, real: Real, images: ImageSet, leave_out_self: bool = False
) -> dict[str, float]:
    """Median cosine of features with the nearest training image."""
    bank, mine = setup.extract(real.train).features, setup.extract(images).features
    own = _places(images, real.train) if leave_out_self else None
    return {"feature_median": float(np.median(nearest_cosine(bank, mine, own)))}


def _summary(found: Found, unseen: np.ndarray | None = None) -> dict[str, Any]:
    """Medians; with the copy scores of `unseen` images, the copy test too."""
    summary: dict[str, Any] = {
        f"{kind}_median": float(np.median(neighbours.cosine)) for kind, neighbours in found.items()
    }
    if "copy" in found:
        summary["copy_highest"] = float(found["copy"].cosine.max())
    if unseen is not None:
        scores = found["copy"].cosine[:, 0]
        ahead = int((scores > unseen.max()).sum())
        chance = chance_of_lead(ahead, len(scores), len(unseen))
        summary |= copy_test(scores, unseen) | {"chance": chance}
        summary["possible_copies"] = chance < CHANCE
    return summary


def _flags(
    fake: Fake, found: Found, bank: ImageSet, sets: Mapping[str, dict[str, Any]]
) -> list[dict[str, Any]]:
    """`file`, `nearest`, `copy_score`, `possible_copy` of every image; [] without a yardstick."""
    bound = sets[fake.label].get("bound")
    if bound is None:
        return []
    rows = [{"file": file.name} for file in fake.images.paths]
    return flag_rows(rows, found["copy"], bank, bound)


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
