"""What a model cost, how its training went and where it came from: read from its run folder."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from compare.sources import Fake
from core.config import leaves, read_yaml
from core.curves import Curves
from core.files import read_json
from core.images import open_image
from core.runs import read_metrics

POINTS = 200  # of a curve
RUN_FACTS = (
    "command", "commit", "dirty", "versions", "python", "machine", "device", "precision",
    "processes", "data", "data_fingerprint", "data_images", "seed", "status", "started", "ended",
)  # fmt: skip


def describe(fake: Fake) -> dict[str, Any]:
    """All that results.json says of a generated set besides its scores."""
    info = _info(fake.run)
    logged = read_metrics(fake.run) if fake.run else []
    cost = _cost(fake, info, logged)
    seeds = [seed for seed in fake.seeds if seed is not None]
    prompts = list(dict.fromkeys(prompt for prompt in fake.prompts if prompt))
    return {
        "label": fake.label,
        "family": fake.family,
        "folder": str(fake.folder),
        "run": str(fake.run) if fake.run else None,
        "images": len(fake.images),
        "size": list(open_image(fake.images.paths[0]).size),
        "fingerprint": fake.images.fingerprint,
        "seeds": [min(seeds), max(seeds)] if seeds else None,
        "prompts": len(prompts),
        "first_prompts": prompts[:3],
        "settings": fake.settings,
        "training": {key: info[key] for key in RUN_FACTS if key in info},
        "warnings": info.get("warnings", []),
        "cost": cost,
        "curves": curves(logged, cost.get("steps")),
    }


def _cost(fake: Fake, info: dict[str, Any], logged: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Absent facts are left out."""
    cost: dict[str, Any] = {}
    steps, seconds = _training(fake, info, logged)
    if seconds:
        cost["train_seconds"] = seconds
    if steps:
        cost["steps"] = steps
        batch = _setting(fake.run, "batch")
        if batch and seconds:
            cost["images_per_second"] = steps * batch / seconds
    if info.get("peak_memory_mb"):
        cost["train_peak_memory_mb"] = info["peak_memory_mb"]
    trained = {k: v for k, v in info.items() if k.endswith("parameters") and isinstance(v, int)}
    if trained:
        cost["parameters"] = trained
    if fake.weights:
        files = _weights(fake.weights)
        cost["weights_mb"] = sum(file.stat().st_size for file in files) / 1e6
        cost.setdefault("parameters", {"parameters": sum(map(_count, files))})
    made = fake.folder / "cost.json"
    if made.exists():
        generation = read_json(made)
        cost["generation_seconds_per_image"] = generation["seconds"] / max(1, generation["images"])
        cost["generation_peak_memory_mb"] = generation.get("peak_memory_mb")
        cost["generation_device"] = generation.get("device")
    return cost


def _training(
    fake: Fake, info: dict[str, Any], logged: Sequence[dict[str, Any]]
) -> tuple[int | None, float | None]:
    """Steps and seconds up to the weights that drew these images, not to the run's end."""
    whole, seconds = info.get("steps"), info.get("seconds")
    steps = fake.settings.get("trained_steps", whole)
    if fake.run is None or steps is None or steps == whole:
        return steps, seconds
    upto = [row["seconds"] for row in logged if row["step"] <= steps]
    return steps, max(upto, default=None)


def curves(logged: Sequence[dict[str, Any]], steps: int | None = None) -> Curves:
    """Every logged value over steps and seconds, as means over at most POINTS stretches; up to
    `steps`, where the weights are of then."""
    rows = [row for row in logged if steps is None or row["step"] <= steps]
    found = {}
    for name in dict.fromkeys(key for row in rows for key in row):
        points = [(row["step"], row["seconds"], row[name]) for row in rows if name in row]
        values = np.array(points, dtype=float)
        if name in ("step", "seconds") or len(values) < 2:
            continue
        parts = np.array_split(values, min(POINTS, len(values)))
        means = np.array([part.mean(0) for part in parts])
        found[name] = {
            "step": np.round(means[:, 0], 1).tolist(),
            "seconds": np.round(means[:, 1], 2).tolist(),
            "value": [float(f"{value:.5g}") for value in means[:, 2]],
        }
    return found


def _info(run: Path | None) -> dict[str, Any]:
    return read_json(run / "run.json") if run and (run / "run.json").exists() else {}


def _setting(run: Path | None, name: str) -> Any:
    if run is None or not (run / "config.yaml").exists():
        return None
    return leaves(read_yaml(run / "config.yaml")).get(name)


def _weights(folder: Path) -> list[Path]:
    """Weight files, of which a model folder may hold some twice in another precision."""
    files = sorted(folder.rglob("*.safetensors"))
    names = {file.relative_to(folder) for file in files}
    return [
        file
        for file in files
        if ".fp16." not in file.name
        or file.relative_to(folder).with_name(file.name.replace(".fp16.", ".")) not in names
    ]


def _count(file: Path) -> int:
    """Elements of all tensors, from a safetensors header."""
    with file.open("rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        header = json.loads(handle.read(length))
    return sum(
        int(np.prod(tensor["shape"])) for name, tensor in header.items() if name != "__metadata__"
    )
