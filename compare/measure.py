"""Scores of every set with its anchors and intervals, in tables of like contract."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import torch

from compare import similarity
from compare.bootstrap import interval, resample_counts
from compare.contract import Contract, check_alike
from compare.extractors import Extractor
from compare.features import (
    Features,
    Made,
    MeanImage,
    Noise,
    PixelPath,
    RoundTrip,
    extract,
    subset,
)
from compare.fid import fid
from compare.metrics import Metric, metrics_for
from compare.sources import Fake, Real
from core.errors import UserError
from core.families import Autoencoder, load_autoencoder
from core.seeds import stream
from core.sets import ImageSet

MANY, FEWER = 200, 40
"""Resamples behind an interval: usually, and where a single one takes seconds."""
COSTLY = 2e9
"""Multiplications of one Fréchet distance above which there are fewer resamples."""
FAR = ("mean", "noise")
"""Landmarks far away, whose spread is of no interest."""
AVERAGED = 1000
"""Training images in the mean image, at most."""
RELIABLE_SCORE = 5000
"""Images below which an Inception Score is not to be set beside published ones."""


@dataclass(frozen=True)
class Setup:
    """How everything of one comparison is measured."""

    extractor: Extractor
    path: PixelPath
    device: str
    batch: int
    seed: int

    def extract(self, images: ImageSet | Made) -> Features:
        return extract(images, self.extractor, self.path, self.device, self.batch)

    def contract(self, real: Features, fake: Features) -> Contract:
        return Contract(
            extractor=self.extractor.name,
            sha256=self.extractor.sha256,
            layer=self.extractor.layer,
            resize=self.extractor.resize,
            dtype=self.extractor.dtype,
            size=self.path.size,
            mode=self.path.mode,
            real=real.fingerprint,
            n_real=len(real),
            n_fake=len(fake),
        )


@dataclass(frozen=True)
class Row:
    """One line of a table: a generated set, or an anchor."""

    label: str
    kind: str
    """"fake", "real", "autoencoder", "copies", "mean" or "noise"."""
    features: Features


def measure(
    real: Real, fakes: Sequence[Fake], setup: Setup, also: Sequence[Extractor] = ()
) -> dict[str, Any]:
    """All tables, one for each extractor and number of generated images, and what goes with them.

    Raises UserError for files that are not images.
    """
    held_out = setup.extract(real.held_out)
    band = similarity.real_band(held_out.features) if len(held_out) > 1 else None
    setups = [setup, *(replace(setup, extractor=extractor) for extractor in also)]
    codecs = autoencoders(fakes, setup.device)
    return {
        "tables": [table for one in setups for table in _tables(real, fakes, codecs, one)],
        "band": dict(zip(("mean", "low", "high"), band, strict=True)) if band else None,
        "halves": None if real.few else _halves(real, held_out, setup),
    }


def autoencoders(fakes: Sequence[Fake], device: str) -> list[Autoencoder]:
    """Of the latent models among the runs, each once; none where its base is not at hand."""
    found: dict[str, Autoencoder] = {}
    for fake in fakes:
        if fake.run is None or not (fake.run / "run.json").exists():
            continue
        try:
            autoencoder = load_autoencoder(fake.run, device)
        except UserError as error:
            print(f"No anchor for the autoencoder of {fake.label}: {error}", flush=True)
            continue
        if autoencoder is not None:
            found.setdefault(autoencoder.fingerprint, autoencoder)
    return list(found.values())


def _tables(
    real: Real, fakes: Sequence[Fake], codecs: Sequence[Autoencoder], setup: Setup
) -> list[dict[str, Any]]:
    """By one extractor, a table for each number of images, the largest first."""
    held_out = setup.extract(real.held_out)
    groups: dict[int, list[Row]] = {}
    for fake in fakes:
        row = Row(fake.label, "fake", setup.extract(fake.images))
        groups.setdefault(len(row.features), []).append(row)
    return [
        _table([*rows, *_anchors(real, count, codecs, setup)], held_out, real, setup)
        for count, rows in sorted(groups.items(), reverse=True)
    ]


def pick(images: ImageSet, count: int, seed: int, place: str) -> ImageSet:
    """`count` images drawn at random, in the set's order."""
    order = torch.randperm(len(images), generator=stream(seed, place)).tolist()
    return subset(images, sorted(order[:count]))


def _anchors(real: Real, count: int, codecs: Sequence[Autoencoder], setup: Setup) -> list[Row]:
    """Real images against real ones, the same through each autoencoder, training images given out
    as new, their mean, and noise: `count` each."""
    rows = []
    other = next((images for images in real.others if len(images) >= count), None)
    if other is not None:
        images = pick(other, count, setup.seed, "anchor real")
        rows.append(Row(f"Real images ({other.name})", "real", setup.extract(images)))
        for codec in codecs:
            label = f"The same, through the autoencoder of {codec.name}"
            features = setup.extract(RoundTrip(images, codec))
            rows.append(Row(label, "autoencoder", features))
    if not real.same and other is not real.train and len(real.train) >= count:
        images = pick(real.train, count, setup.seed, "anchor copies")
        rows.append(Row("Training images, given out as new", "copies", setup.extract(images)))
    mean = setup.extract(MeanImage(count, pick(real.train, AVERAGED, setup.seed, "mean image")))
    rows.append(Row("The mean training image, again and again", "mean", mean))
    rows.append(Row("Uniform noise", "noise", setup.extract(Noise(count, setup.seed))))
    return rows


def _table(rows: Sequence[Row], held_out: Features, real: Real, setup: Setup) -> dict[str, Any]:
    """Scores of rows of one size, and the differences between any two but the far landmarks."""
    contracts = {row.label: setup.contract(held_out, row.features) for row in rows}
    check_alike(contracts)
    contract = contracts[rows[0].label]
    metrics = metrics_for(setup.extractor, real.few, contract.n_real, contract.n_fake)
    resamples = _resamples(setup.extractor.dimension, contract)
    patients = [row.get("patient_id", number) for number, row in enumerate(real.held_out.rows)]
    counts = {
        row.label: resample_counts(range(contract.n_fake), resamples, setup.seed, row.label)
        for row in rows
    }
    real_counts = resample_counts(patients, resamples, setup.seed, "real")
    columns, differences = {}, []
    for metric in metrics:
        values, drawn = _draw(metric, rows, held_out, real_counts, counts)
        floor = next((values[row.label] for row in rows if row.kind == "real"), None)
        column = {}
        for row in rows:
            value, many = values[row.label], drawn.get(row.label)
            score = _score(metric, value, many, floor, contract, setup.extractor)
            if metric.test and row.kind not in FAR:
                score["p"] = metric.test(held_out, row.features)
            column[row.label] = score
        columns[metric.key] = column
        names = [row.label for row in rows if row.label in drawn]
        differences += _differences(metric.key, names, values, drawn)
    return {
        "contract": asdict(contract),
        "resamples": resamples,
        "resampled": "patients" if len(set(patients)) < len(patients) else "images",
        "metrics": {metric.key: metric.facts(setup.extractor) for metric in metrics},
        "rows": [
            {
                "label": row.label,
                "kind": row.kind,
                "fingerprint": row.features.fingerprint,
                "scores": {key: column[row.label] for key, column in columns.items()},
            }
            for row in rows
        ],
        "differences": differences,
    }


def _draw(
    metric: Metric,
    rows: Sequence[Row],
    held_out: Features,
    real_counts: np.ndarray,
    counts: Mapping[str, np.ndarray],
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """One metric's value of every row, and its resampled values where there is a use for them."""
    values, drawn = {}, {}
    for row in rows:
        values[row.label] = metric.value(held_out, row.features)
        if metric.resamples and row.kind not in FAR and np.isfinite(values[row.label]):
            drawn[row.label] = metric.resamples(
                held_out, row.features, real_counts, counts[row.label]
            )
    return values, drawn


def _score(
    metric: Metric,
    value: float,
    drawn: np.ndarray | None,
    floor: float | None,
    contract: Contract,
    extractor: Extractor,
) -> dict[str, Any]:
    """A value with its interval and what is to be said of it."""
    low, high = (None, None) if drawn is None else interval(value, drawn)
    if metric.key == "frechet" and low is not None:
        low = max(low, 0.0)
    known = value if np.isfinite(value) else None  # no prompt, no agreement with it
    score = {"value": known, "low": low, "high": high, "interpretable": True, "note": ""}
    fewest = min(contract.n_real, contract.n_fake)
    if metric.key in ("frechet", "legacy_fid"):
        score["times_floor"] = value / floor if floor else None
        if fewest <= extractor.dimension:
            score["interpretable"] = False
            score["note"] = (
                f"{fewest} images do not fix {extractor.dimension} features: read it only beside "
                "the other rows"
                + (f" and the {floor:.3g} of real images." if floor is not None else ".")
            )
    if metric.key == "inception_score" and contract.n_fake < RELIABLE_SCORE:
        score["interpretable"] = False
        score["note"] = f"{contract.n_fake} images; published scores are on 50,000."
    return score


def _differences(
    key: str, names: Sequence[str], values: Mapping[str, float], drawn: Mapping[str, np.ndarray]
) -> list[dict[str, Any]]:
    """second - first for each pair; both saw the same resamples of the real images."""
    found = []
    for first, second in combinations(names, 2):
        value = values[second] - values[first]
        finite = np.isfinite(drawn[first]) & np.isfinite(drawn[second])
        low, high = interval(value, drawn[second][finite] - drawn[first][finite])
        found.append(
            {
                "metric": key,
                "first": first,
                "second": second,
                "value": value,
                "low": low,
                "high": high,
                "decided": bool(low > 0 or high < 0),
            }
        )
    return found


def _halves(real: Real, held_out: Features, setup: Setup) -> dict[str, Any] | None:
    """The distance between two halves of the real images (apart by patient): the floor's stand-in
    where no other real images are at hand."""
    patients = [row.get("patient_id", number) for number, row in enumerate(real.held_out.rows)]
    names = list(dict.fromkeys(patients))
    order = torch.randperm(len(names), generator=stream(setup.seed, "halves")).tolist()
    chosen = {names[i] for i in order[: len(names) // 2]}
    mask = np.array([patient in chosen for patient in patients])
    if min(mask.sum(), (~mask).sum()) < 2:
        return None
    first, second = held_out.features[mask], held_out.features[~mask]
    return {"value": fid(first, second), "n_first": len(first), "n_second": len(second)}


def _resamples(dimension: int, contract: Contract) -> int:
    cost = contract.n_real * dimension * min(contract.n_fake, dimension)
    return MANY if cost <= COSTLY else FEWER
