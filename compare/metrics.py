"""The table of metrics. A new one is a file with its mathematics and a row here."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from compare import fid, inception_score, kid, similarity
from compare.extractors import Extractor
from compare.features import Features

Value = Callable[[Features, Features], float]
Resamples = Callable[[Features, Features, np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Metric:
    """One number per set of generated images."""

    key: str
    title: str
    """On Inception's weights of 2015, which most of these names are reserved for."""
    plain: str
    """On any other features; their name is added."""
    better: str
    """"lower" or "higher"."""
    value: Value
    """(real, fake) -> number."""
    resamples: Resamples
    """(real, fake, counts of real R x N, counts of fake R x M) -> R numbers."""
    scale: float = 1.0
    """What it is multiplied by on Inception before it is printed, said in the title."""
    meaning: str = ""
    """One sentence for the report."""
    for_few: bool = True
    """Whether it says anything with `sources.FEW` real images or fewer."""
    least: int = 2
    """Generated images below which it cannot be computed."""
    needs_logits: bool = False

    def heading(self, extractor: Extractor) -> str:
        if not extractor.official:
            return f"{self.plain} ({extractor.name})"
        return self.title if self.scale == 1 else f"{self.title} × {self.scale:g}"

    def facts(self, extractor: Extractor) -> dict[str, Any]:
        """For results.json."""
        return {
            "title": self.heading(extractor),
            "better": self.better,
            "scale": self.scale if extractor.official else 1.0,
            "meaning": self.meaning,
        }


METRICS: dict[str, Metric] = {
    metric.key: metric
    for metric in (
        Metric(
            key="frechet",
            title="FID",
            plain="Fréchet distance",
            better="lower",
            value=lambda real, fake: fid.fid(real.features, fake.features),
            resamples=lambda real, fake, r, f: fid.fid_resamples(
                real.features, fake.features, r, f
            ),
            meaning="Distance between the mean and covariance of the features of real and "
            "generated images. It falls as the number of images grows, so it is read against the "
            "same distance between real images.",
            for_few=False,
        ),
        Metric(
            key="kid",
            title="KID",
            plain="Kernel distance",
            better="lower",
            value=lambda real, fake: kid.kid(real.features, fake.features),
            resamples=lambda real, fake, r, f: kid.kid_resamples(
                real.features, fake.features, r, f
            ),
            scale=1000.0,
            meaning="Squared maximum mean discrepancy with a cubic kernel on the same features. "
            "Its mean does not depend on the number of images; it is near 0, and may fall below, "
            "where both sets are alike.",
        ),
        Metric(
            key="inception_score",
            title="Inception Score",
            plain="Inception Score",
            better="higher",
            value=lambda real, fake: inception_score.inception_score(_logits(fake))[0],
            resamples=lambda real, fake, r, f: inception_score.inception_score_resamples(
                _logits(fake), f
            ),
            meaning="How sure and how varied ImageNet's classes are on the generated images, over "
            "10 splits. It never looks at a real image.",
            for_few=False,
            least=10 * inception_score.SPLITS,
            needs_logits=True,
        ),
        Metric(
            key="similarity",
            title="Similarity to real (Inception)",
            plain="Similarity to real",
            better="higher",
            value=lambda real, fake: similarity.similarity(real.features, fake.features),
            resamples=lambda real, fake, r, f: similarity.similarity_resamples(
                real.features, fake.features, f
            ),
            meaning="Cosine of a generated image's features with the nearest real image, "
            "averaged. Above the band that real images span among themselves, it may mean copies.",
        ),
    )
}


def metrics_for(extractor: Extractor, few: bool, n_fake: int) -> list[Metric]:
    """The rows of the table that can be measured here."""
    return [
        metric
        for metric in METRICS.values()
        if (metric.for_few or not few)
        and (extractor.has_logits or not metric.needs_logits)
        and n_fake >= metric.least
    ]


def _logits(features: Features) -> np.ndarray:
    if features.logits is None:
        raise ValueError("this extractor gives no logits")
    return features.logits
