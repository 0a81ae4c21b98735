"""The table of metrics. A new one is a file with its mathematics and a row here."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from compare import cmmd, fid, inception_score, kid, similarity, variety
from compare.extractors import Extractor
from compare.features import Features
from compare.manifold import K, Manifold, manifold

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
    """"lower", "higher", or "real": the nearer to what real images have, the better."""
    value: Value
    """(real, fake) -> number."""
    resamples: Resamples | None
    """(real, fake, counts of real R x N, counts of fake R x M) -> R numbers; None: no interval."""
    scale: float = 1.0
    """What it is multiplied by on Inception before it is printed, said in the title."""
    meaning: str = ""
    """One sentence for the report."""
    test: Value | None = None
    """(real, fake) -> p-value of "both are draws from one distribution"."""
    for_few: bool = True
    """Whether it says anything with `sources.FEW` real images or fewer."""
    main: bool = True
    """Whether it stands in the first table or among the further scores."""
    least: int = 2
    """Images, on either side, below which it cannot be computed."""
    fits: Callable[[Extractor], bool] = lambda extractor: not extractor.legacy
    """Whether an extractor's features suit it."""

    def heading(self, extractor: Extractor) -> str:
        if extractor.legacy:
            return self.title
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
            "main": self.main,
        }


@lru_cache(maxsize=64)  # every row of a table, for four metrics
def _manifold(real: Features, fake: Features) -> Manifold:
    return manifold(real.features, fake.features)


def _of_manifold(part: str) -> dict[str, Any]:
    """`value` and `resamples` of a mean over images: the balls stay, the images are drawn anew."""
    place = Manifold._fields.index(part)

    def resamples(real: Features, fake: Features, r: np.ndarray, f: np.ndarray) -> np.ndarray:
        counts = f if part in ("precision", "density") else r
        return counts @ _manifold(real, fake)[place] / counts.sum(1)

    def value(real: Features, fake: Features) -> float:
        return float(_manifold(real, fake)[place].mean())

    return {"value": value, "resamples": resamples, "least": K + 1, "for_few": False}


def _frechet(real: Features, fake: Features) -> float:
    few = min(len(real), len(fake)) < real.features.shape[1]
    return fid.fid(real.features, fake.features, None if few else real.gaussian)


def _logits(features: Features) -> np.ndarray:
    if features.logits is None:
        raise ValueError("this extractor gives no logits")
    return features.logits


def _agreement(fake: Features) -> np.ndarray:
    """Cosine of every image with its own prompt, M; NaN where there are no prompts."""
    if fake.texts is None:
        return np.full(len(fake), np.nan)
    return (similarity.unit(fake.features) * similarity.unit(fake.texts)).sum(1)


_ROWS = (
    Metric(
        "frechet",
        "FID",
        "Fréchet distance",
        "lower",
        _frechet,
        lambda real, fake, r, f: fid.fid_resamples(real.features, fake.features, r, f),
        meaning="Distance between the mean and covariance of the features of real and generated "
        "images. It falls as the number of images grows, so it is read against the same distance "
        "between real images.",
        for_few=False,
    ),
    Metric(
        "frechet_infinity",
        "FID∞",
        "Fréchet distance∞",
        "lower",
        lambda real, fake: fid.fid_infinity(real.features, fake.features),
        None,
        meaning="The same, extrapolated to infinitely many generated images by a line over 1/n.",
        for_few=False,
        main=False,
        least=200,
    ),
    Metric(
        "kid",
        "KID",
        "Kernel distance",
        "lower",
        lambda real, fake: kid.kid(real.features, fake.features),
        lambda real, fake, r, f: kid.kid_resamples(real.features, fake.features, r, f),
        scale=1000.0,
        meaning="Squared maximum mean discrepancy with a cubic kernel on the same features. Its "
        "mean does not depend on the number of images; it is near 0, and may fall below, where "
        "both sets are alike. p: how often a random split of all these images into two has as high "
        "a distance.",
        test=lambda real, fake: kid.kid_test(real.features, fake.features),
    ),
    Metric(
        "inception_score",
        "Inception Score",
        "Inception Score",
        "higher",
        lambda real, fake: inception_score.inception_score(_logits(fake))[0],
        lambda real, fake, r, f: inception_score.inception_score_resamples(_logits(fake), f),
        meaning="How sure and how varied ImageNet's classes are on the generated images, over 10 "
        "splits. It never looks at a real image.",
        for_few=False,
        least=10 * inception_score.SPLITS,
        fits=lambda extractor: extractor.has_logits and not extractor.legacy,
    ),
    Metric(
        "precision",
        "Precision",
        "Precision",
        "higher",
        meaning="Share of generated images that lie among the real ones: within reach of the 5th "
        "neighbour of one of them.",
        **_of_manifold("precision"),
    ),
    Metric(
        "recall",
        "Recall",
        "Recall",
        "higher",
        meaning="Share of real images that lie among the generated ones, likewise: what the model "
        "leaves out lowers it.",
        **_of_manifold("recall"),
    ),
    Metric(
        "density",
        "Density",
        "Density",
        "higher",
        meaning="How many real images' neighbourhoods hold a generated image, over 5: precision "
        "that one odd real image does not raise. May exceed 1.",
        main=False,
        **_of_manifold("density"),
    ),
    Metric(
        "coverage",
        "Coverage",
        "Coverage",
        "higher",
        meaning="Share of real images with a generated one in their neighbourhood.",
        main=False,
        **_of_manifold("coverage"),
    ),
    Metric(
        "cmmd",
        "CMMD",
        "CMMD",
        "lower",
        lambda real, fake: cmmd.cmmd(real.features, fake.features),
        lambda real, fake, r, f: cmmd.cmmd_resamples(real.features, fake.features, r, f),
        meaning="Maximum mean discrepancy of CLIP's embeddings, × 1000.",
        fits=lambda extractor: extractor.read is not None,
    ),
    Metric(
        "clip_t",
        "CLIP-T",
        "CLIP-T",
        "higher",
        lambda real, fake: float(_agreement(fake).mean()),
        lambda real, fake, r, f: f @ _agreement(fake) / f.sum(1),
        meaning="Cosine of an image with its own prompt.",
        fits=lambda extractor: extractor.read is not None,
    ),
    Metric(
        "likeness",
        "Likeness",
        "Likeness",
        "higher",
        lambda real, fake: similarity.likeness(real.features, fake.features),
        lambda real, fake, r, f: similarity.likeness_resamples(real.features, fake.features, r, f),
        meaning="Cosine of the features of a generated and a real image, over all pairs: on CLIP "
        "known as CLIP-I, on DINOv2 as DINO.",
        main=False,
        fits=lambda extractor: extractor.name.startswith(("CLIP", "DINOv2")),
    ),
    Metric(
        "similarity",
        "Similarity to real (Inception)",
        "Similarity to real",
        "higher",
        lambda real, fake: similarity.similarity(real.features, fake.features),
        lambda real, fake, r, f: similarity.similarity_resamples(real.features, fake.features, f),
        meaning="Cosine of a generated image's features with the nearest real image, averaged. "
        "Above the band that real images span among themselves, it may mean copies.",
    ),
    Metric(
        "diversity",
        "Diversity",
        "Diversity",
        "real",
        lambda real, fake: variety.diversity(fake.features),
        lambda real, fake, r, f: variety.diversity_resamples(fake.features, f),
        meaning="Mean of 1 − cosine over all pairs of one set. Read it against real images.",
    ),
    Metric(
        "vendi",
        "Vendi score",
        "Vendi score",
        "real",
        lambda real, fake: variety.vendi(fake.features),
        lambda real, fake, r, f: variety.vendi_resamples(fake.features, f),
        meaning="Effective number of different images in a set, from 1 to all of them. Read it "
        "against real images.",
        main=False,
    ),
    Metric(
        "legacy_fid",
        "FID as pytorch-ignite's default (softmax, range 0 to 2)",
        "",
        "lower",
        _frechet,
        None,
        meaning="For comparison with numbers made that way; on no published scale.",
        fits=lambda extractor: extractor.legacy,
    ),
    Metric(
        "legacy_is",
        "Inception Score as pytorch-ignite's default",
        "",
        "higher",
        lambda real, fake: inception_score.inception_score(_logits(fake), 1, None)[0],
        None,
        meaning="One split, torchvision's weights; likewise.",
        fits=lambda extractor: extractor.legacy,
    ),
)
METRICS: dict[str, Metric] = {metric.key: metric for metric in _ROWS}


def metrics_for(extractor: Extractor, few: bool, n_real: int, n_fake: int) -> list[Metric]:
    """The rows of the table that can be measured here."""
    return [
        metric
        for metric in METRICS.values()
        if (metric.for_few or not few)
        and metric.fits(extractor)
        and min(n_real, n_fake) >= metric.least
    ]
