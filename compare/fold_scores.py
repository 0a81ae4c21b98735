"""Scores of models that each have not seen a part of the pictures, over all of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from compare.copies import CopyBank, copy_test
from compare.measure import Setup
from compare.pictures import Album
from compare.similarity import similarity
from compare.variety import diversity
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


def score(images: ImageSet, folds: Sequence[Fold], setup: Setup, album: Album) -> dict[str, Any]:
    """Everything the report says, from features of each set and the copy test over all folds.

    Args:
        album: for small copies of the pictures on the page.
    """
    rows, drawn, unseen = [], [], []
    for fold in folds:
        held_out = setup.extract(fold.held_out).features
        sets = {"tuned": fold.tuned, "base": fold.base, "learned": fold.learned}
        features = {name: setup.extract(own).features for name, own in sets.items() if own}
        near = {name: similarity(held_out, own) for name, own in features.items()}
        bank = CopyBank(fold.learned, setup.path, setup.device)
        scores = bank.find(fold.tuned).cosine[:, 0]
        drawn.append(scores)
        unseen.append(bank.find(fold.held_out).cosine[:, 0])
        rows.append(
            {
                "held_out": [row["source_file"] for row in fold.held_out.rows],
                "captions": fold.held_out.captions,
                **{name: near.get(name) for name in sets},
                "diversity": diversity(features["tuned"]),
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


def pictures(fold: Fold, album: Album) -> dict[str, list[str]]:
    """Names in `album`, by kind: what was held out, and the first that were drawn."""
    kinds = {"held out": fold.held_out, "model": fold.tuned, "base": fold.base}
    return {
        kind: [album.add(path, f"{fold.folder.name} {kind}") for path in images.paths[:SHOWN]]
        for kind, images in kinds.items()
        if images is not None
    }
