"""Scores of a model's images while it trains, so that its best state can be kept.

What measures lies in `compare`; the names below are resolved when used, so that a trainer imports
no sibling.
"""

import torch

from core.families import resolve
from core.sets import ImageSet

FEW = 20  # real images up to which a Fréchet distance says nothing
MEASURES = {
    "extractor": "compare.extractors:choose_extractor",
    "path": "compare.features:PixelPath",
    "features": "compare.features:extract",
    "similarity": "compare.similarity:similarity",
    "frechet": "compare.fid:fid",
    "find_copies": "compare.copies:find_copies",
    "copy_test": "compare.copies:copy_test",
}


def measure(
    fakes: ImageSet, held_out: ImageSet, train: ImageSet, size: int, device: str = "cpu"
) -> dict[str, float]:
    """Scores of generated images, all of them to be called together by all processes.

    Args:
        held_out: real images that were not trained on.
        size: pixels a side at which images are looked at.

    Returns:
        similarity: mean cosine of features with the nearest held-out image (higher is better).
        frechet: distance of features, by whatever extractor is at hand; above FEW images only.
        copies: share of images more like a training image than held-out ones are (`copy_test`).
    """
    use = {name: resolve(place) for name, place in MEASURES.items()}
    path = use["path"](size, held_out.mode)
    extractor = use["extractor"]("auto", device=device)
    real, fake = (use["features"](images, extractor, path, device) for images in (held_out, fakes))
    scores = {"similarity": use["similarity"](real.features, fake.features)}
    if min(len(real), len(fake)) > FEW:
        scores["frechet"] = use["frechet"](real.features, fake.features)
    with torch.inference_mode():
        unseen, drawn = (
            use["find_copies"](images, train, path, device).cosine[:, 0]
            for images in (held_out, fakes)
        )
    return scores | {"copies": use["copy_test"](drawn, unseen)["share_above"]}
