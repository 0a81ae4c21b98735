"""What a few images of a species allow to be asked besides similarity: is it taken for another
species, and has the model's idea of the whole class moved with it?"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from compare.bootstrap import interval, resample_counts
from compare.measure import Setup
from compare.similarity import nearest_cosine, real_band, similarity, similarity_resamples, unit
from compare.sources import Fake, Real
from core.sets import ImageSet

RESAMPLES = 200


def confusion(
    real: np.ndarray, fake: np.ndarray, others: Mapping[str, np.ndarray], subject: str
) -> dict[str, Any]:
    """Share of images that resemble each species, by mean cosine of features with its real images.

    Args:
        real: N x d, of the subject, at least 2.
        others: species -> features of its real images.

    Returns `fake`, the shares of the generated images, and `real`, those of the subject's own real
    images, each left out of its own mean: the ceiling.
    """
    banks = {subject: real, **others}
    names = list(banks)
    means = np.stack([unit(bank).mean(0) for bank in banks.values()])  # species x d
    generated = unit(fake) @ means.T
    own = unit(real)
    held_out = own @ means.T
    held_out[:, 0] = (held_out[:, 0] * len(real) - 1) / (len(real) - 1)  # without itself
    return {
        side: dict(zip(names, np.bincount(v.argmax(1), minlength=len(names)) / len(v), strict=True))
        for side, v in (("fake", generated), ("real", held_out))
    }


def bleed(real: np.ndarray, base: np.ndarray, tuned: np.ndarray, seed: int) -> dict[str, Any]:
    """Whether images of the class prompt (without the subject's name) came nearer to the subject by
    tuning: difference of their similarity to the real images, tuned minus base, with an interval.

    Above the interval's doubt, the name has leaked into the class.
    """
    value = similarity(real, tuned) - similarity(real, base)
    drawn = []
    for place, images in (("tuned", tuned), ("base", base)):
        counts = resample_counts(range(len(images)), RESAMPLES, seed, place)
        drawn.append(similarity_resamples(real, images, counts))
    low, high = interval(value, drawn[0] - drawn[1])
    return {
        "base": similarity(real, base),
        "tuned": similarity(real, tuned),
        "value": value,
        "low": low,
        "high": high,
        "bleeds": bool(low > 0),
    }


def share_in_band(real: np.ndarray, fake: np.ndarray, low: float, high: float) -> float:
    """Share of generated images whose similarity to the nearest real one lies in the band that real
    images span among themselves: below it is another animal, above it perhaps a copy."""
    nearest = nearest_cosine(real, fake)
    return float(((nearest >= low) & (nearest <= high)).mean())


def species_facts(
    real: Real,
    fakes: Sequence[Fake],
    others: Mapping[str, ImageSet],
    class_images: Sequence[ImageSet],
    setup: Setup,
) -> dict[str, Any]:
    """All of it for results.json; what was not given is left out.

    Args:
        others: species -> real images.
        class_images: of the class prompt without the name, by the base and by the tuned model.
    """

    def features(images: ImageSet) -> np.ndarray:
        return setup.extract(images).features

    subject, banks = features(real.held_out), {name: features(one) for name, one in others.items()}
    made = {fake.label: features(fake.images) for fake in fakes}
    _, low, high = real_band(subject)
    facts: dict[str, Any] = {
        "in_band": {label: share_in_band(subject, fake, low, high) for label, fake in made.items()}
    }
    if banks:
        facts["confusion"] = {
            label: confusion(subject, fake, banks, real.name) for label, fake in made.items()
        }
    if class_images:
        facts["bleed"] = bleed(subject, *map(features, class_images), setup.seed)
    return facts
