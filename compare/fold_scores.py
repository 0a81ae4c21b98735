"""Scores of models that each have not seen a part of the pictures, over all of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from compare.copies import CopyBank, copy_test
from compare.features import subset
from compare.measure import Setup
from compare.similarity import nearest_cosine, unit
from core.images import open_image
from core.sets import ImageSet

SHOWN = 4  # pictures of a kind, a fold, on the page


@dataclass(frozen=True)
class Fold:
    """One model and what it has not seen."""

    folder: Path
    held_out: ImageSet
    learned: ImageSet
    tuned: ImageSet
    """What it drew, asked for the captions of the held-out pictures."""
    base: ImageSet | None
    """The same by its base, before tuning, where it has one at hand."""
    seconds: float
    """Of training."""


def score(images: ImageSet, folds: Sequence[Fold], setup: Setup, album: Path) -> dict[str, Any]:
    """Everything the report says, from features of each set and the copy test over all folds.

    Args:
        album: folder for copies of the pictures on the page.
    """
    rows, drawn, unseen = [], [], []
    for fold in folds:
        held_out = setup.extract(fold.held_out).features

        def nearness(other: ImageSet | None, target: np.ndarray = held_out) -> float | None:
            """Cosine of a picture of `other` with the nearest one held out, on average."""
            if other is None:
                return None
            return float(nearest_cosine(target, setup.extract(other).features).mean())

        bank = CopyBank(fold.learned, setup.path, setup.device)
        scores = bank.find(fold.tuned).cosine[:, 0]
        drawn.append(scores)
        unseen.append(bank.find(fold.held_out).cosine[:, 0])
        features = unit(setup.extract(fold.tuned).features)
        alike = features @ features.T
        pairs = len(alike) * (len(alike) - 1)
        rows.append(
            {
                "held_out": [row["source_file"] for row in fold.held_out.rows],
                "captions": fold.held_out.captions,
                "tuned": nearness(fold.tuned),
                "base": nearness(fold.base),
                "learned": nearness(fold.learned),
                "diversity": float(1 - (alike.sum() - np.trace(alike)) / pairs) if pairs else None,
                "copy_median": float(np.median(scores)),
                "seconds": fold.seconds,
                "images": len(fold.tuned),
                "pictures": pictures(fold, album),
            }
        )
    copies = copy_test(np.concatenate(drawn), np.concatenate(unseen))
    return {
        "title": f"{images.name}: every picture held out once",
        "data": {"name": images.name, "images": len(images), "fingerprint": images.fingerprint},
        "extractor": {
            "name": setup.extractor.name,
            "sha256": setup.extractor.sha256,
            "size": setup.path.size,
        },
        "device": setup.device,
        "folds": rows,
        "means": {key: spread([row[key] for row in rows]) for key in ("tuned", "base", "learned")},
        "against_base": paired([row["tuned"] for row in rows], [row["base"] for row in rows]),
        "against_learned": paired([row["tuned"] for row in rows], [row["learned"] for row in rows]),
        "copies": copies | {"unseen": len(images), "drawn": sum(map(len, drawn))},
    }


def spread(values: Sequence[float | None]) -> dict[str, float] | None:
    """Mean and standard deviation over folds; None where one is missing."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    return {"mean": float(np.mean(known)), "deviation": float(np.std(known, ddof=1))}


def paired(first: Sequence[Any], second: Sequence[Any]) -> dict[str, float] | None:
    """Mean of first - second over folds and p, two-sided, of the exact sign-flip test (Fisher): the
    share of all 2^K choices of signs with a mean as far from 0."""
    if None in first or None in second:
        return None
    gaps = np.subtract(first, second)
    signs = np.array(list(product((1.0, -1.0), repeat=len(gaps))))
    means = np.abs(signs @ gaps) / len(gaps)
    far = means >= abs(gaps.mean()) - 1e-12
    return {"mean": float(gaps.mean()), "p": float(far.mean()), "least_p": 2 / len(signs)}


def pictures(fold: Fold, album: Path) -> dict[str, list[str]]:
    """Files in `album`, by kind: what was held out, and the first that were drawn."""
    chosen = {
        "held out": subset(fold.held_out, range(min(SHOWN, len(fold.held_out)))),
        "model": subset(fold.tuned, range(min(SHOWN, len(fold.tuned)))),
    }
    if fold.base is not None:
        chosen["base"] = subset(fold.base, range(min(SHOWN, len(fold.base))))
    copied: dict[str, list[str]] = {}
    album.mkdir(parents=True, exist_ok=True)
    for name, images in chosen.items():
        for number, path in enumerate(images.paths):
            file = f"{fold.folder.name}-{name.replace(' ', '-')}-{number}.png"
            open_image(path, images.mode).save(album / file)
            copied.setdefault(name, []).append(file)
    return copied
