"""How fast compare/ is, beside what people use today. One line per step; writes a JSON file.

    python benchmarks/compare_speed.py --out benchmarks/results/compare_speed.json

1. Extraction with FID, KID, Inception Score, precision and recall of the same images and the same
   weights (seeded random ones in the layout of torch-fidelity's file, unless the real file is
   given): `osteon compare`'s functions against `torch_fidelity.calculate_metrics`. The numbers must
   agree to 1e-4 relative.
2. The Fréchet term at 2048 features against `scipy.linalg.sqrtm`.
3. The nearest of a bank of images by cosine against a loop over pairs.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg
import torch
from PIL import Image

from compare.features import PixelPath, extract
from compare.fid import fid, frechet, gaussian
from compare.inception import load_inception
from compare.inception_score import inception_score
from compare.kid import kid_subsets
from compare.manifold import manifold
from compare.neighbours import nearest
from core.files import write_json
from core.sets import open_set

RELATIVE = 1e-4


def timed(step: Callable[[], Any], repeats: int = 1) -> tuple[float, Any]:
    """Seconds of the fastest of `repeats` calls, and what the last returned."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        result = step()
        times.append(time.perf_counter() - began)
    return min(times), result


def draw(folder: Path, count: int, seed: int, side: int) -> None:
    """Smooth random colour pictures."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    for number in range(count):
        small = rng.integers(0, 256, (6, 6, 3), np.uint8)
        Image.fromarray(small).resize((side, side)).save(folder / f"{number:05d}.png")


def random_weights(file: Path) -> Path:
    """Seeded weights of Inception in torch-fidelity's layout."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Unloaded(FeatureExtractorInceptionV3):
        def load_state_dict(self, *_: Any, **__: Any) -> Any:
            return None

    torch.manual_seed(0)
    torch.save({}, file)
    network = Unloaded("x", ["2048"], feature_extractor_weights_path=str(file))
    torch.save(network.state_dict(), file)
    return file


def metrics(work: Path, weights: Path, count: int, side: int) -> dict[str, Any]:
    """Step 1."""
    from torch_fidelity import calculate_metrics

    for name, seed in (("real", 0), ("fake", 1)):
        draw(work / name, count, seed, side)
    size = min(1000, count // 2)

    def ours() -> dict[str, float]:
        extractor = load_inception(weights, "cpu")
        path = PixelPath(side, "RGB")
        real, fake = (extract(open_set(work / n), extractor, path) for n in ("real", "fake"))
        ball = manifold(real.features, fake.features, 3)
        return {
            "frechet_inception_distance": fid(real.features, fake.features),
            "kernel_inception_distance_mean": kid_subsets(real.features, fake.features, size=size)[
                0
            ],
            "inception_score_mean": inception_score(fake.logits)[0],
            "precision": ball.precision.mean(),
            "recall": ball.recall.mean(),
        }

    def theirs() -> dict[str, float]:
        return calculate_metrics(
            input1=str(work / "fake"),
            input2=str(work / "real"),
            cuda=False,
            fid=True,
            kid=True,
            isc=True,
            prc=True,
            feature_extractor="inception-v3-compat",
            feature_layer_prc="2048",
            kid_subset_size=size,
            feature_extractor_weights_path=str(weights),
            samples_shuffle=True,
            cache=False,
            verbose=False,
        )

    our_seconds, mine = timed(ours)
    again, _ = timed(ours)  # features come from the cache
    their_seconds, reference = timed(theirs)
    for key, value in mine.items():
        if not np.isclose(value, reference[key], rtol=RELATIVE, atol=1e-6):
            raise SystemExit(f"{key}: {value} is not torch-fidelity's {reference[key]}")
    return {
        "images": 2 * count,
        "ours": our_seconds,
        "ours_cached": again,
        "torch_fidelity": their_seconds,
    }


def frechet_term(dimension: int) -> dict[str, Any]:
    """Step 2: two Gaussians, the real one's root cached, as from the second generated set on."""
    rng = np.random.default_rng(0)
    spectrum = 1 / np.arange(1, dimension + 1) ** 0.5
    real, fake = (
        gaussian(rng.normal(size=(2 * dimension, dimension)) * spectrum + shift)
        for shift in (0, 0.1)
    )
    first, _ = timed(lambda: frechet(real, fake))
    cached, value = timed(lambda: frechet(real, fake), 2)
    sqrtm, root = timed(lambda: scipy.linalg.sqrtm(real.covariance @ fake.covariance))
    gap = real.mean - fake.mean
    expected = gap @ gap + np.trace(real.covariance + fake.covariance) - 2 * np.trace(root).real
    if not np.isclose(value, expected, rtol=1e-6):
        raise SystemExit(f"Fréchet distance: {value} is not {expected}")
    return {"first": first, "cached": cached, "sqrtm": sqrtm}


def neighbours(count: int, side: int) -> dict[str, Any]:
    """Step 3: as many queries as one usually generates; the pair loop on a part, scaled up."""
    rng = np.random.default_rng(0)
    bank = rng.integers(0, 256, (count, side, side), np.uint8)
    queries, few, part = bank[:512], bank[:8], min(count, 500)
    blocks = [bank[first : first + 256] for first in range(0, count, 256)]
    ours, _ = timed(lambda: nearest(queries, blocks), 2)
    ours_few, _ = timed(lambda: nearest(few, blocks), 2)

    def loop() -> None:
        cosine = torch.nn.CosineSimilarity(dim=0)
        for query in few:
            a = torch.from_numpy(query).flatten().float()
            for image in bank[:part]:
                cosine(a, torch.from_numpy(image).flatten().float())

    seconds, _ = timed(loop)
    of_few = seconds * count / part
    return {
        "bank": count,
        f"{len(queries)} queries": {"ours": ours, "pair_loop": of_few * len(queries) / len(few)},
        f"{len(few)} queries": {"ours": ours_few, "pair_loop": of_few},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=128, help="of either set (default 128)")
    parser.add_argument("--side", type=int, default=256, help="pixels (default 256)")
    parser.add_argument("--dimension", type=int, default=2048)
    parser.add_argument("--bank", type=int, default=8000, help="images of the bank")
    parser.add_argument(
        "--only", choices=["metrics", "frechet", "nearest"], help="one step of these"
    )
    parser.add_argument("--inception_weights", type=Path)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        os.environ["OSTEON_CACHE"] = work
        weights = arguments.inception_weights or random_weights(Path(work) / "inception.pth")
        steps = {
            "metrics": lambda: metrics(Path(work), weights, arguments.images, arguments.side),
            "frechet": lambda: frechet_term(arguments.dimension),
            "nearest": lambda: neighbours(arguments.bank, arguments.side),
        }
        wanted = [arguments.only] if arguments.only else list(steps)
        results = {"threads": torch.get_num_threads()} | {name: steps[name]() for name in wanted}
    print(json.dumps(results, indent=2))
    if arguments.out:
        write_json(arguments.out, results)


if __name__ == "__main__":
    main()
