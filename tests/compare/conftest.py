"""A tiny prepared set, runs with samples, and a randomly initialised encoder."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from compare.encoder import EncoderConfig, MiniEncoder, save_encoder
from compare.extractors import Extractor, load_mini
from core.files import write_json, write_jsonl

SIZE = 16


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test has a feature cache, and no Inception weights, of its own."""
    monkeypatch.setenv("OSTEON_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "cache"


def draw(count: int, seed: int, contrast: float = 1.0) -> list[Image.Image]:
    """Smooth grey pictures that differ."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    pictures = []
    for _ in range(count):
        a, b, c = rng.uniform(-1, 1, 3)
        pixels = 0.5 + contrast * (0.3 * np.sin(4 * a * x + 3 * b * y) + 0.2 * c * x * y)
        pictures.append(Image.fromarray(np.uint8(np.clip(pixels, 0, 1) * 255)))
    return pictures


def write_folder(folder: Path, pictures: Sequence[Image.Image]) -> Path:
    folder.mkdir(parents=True)
    for number, picture in enumerate(pictures):
        picture.save(folder / f"{number:06d}.png")
    return folder


@contextmanager
def stops_when_named(last: str) -> Iterator[None]:
    """Ctrl-C at the moment at which a file or folder written aside takes the name `last`."""
    real = os.replace

    def replace(source: Path, target: Path) -> None:
        real(source, target)
        if target.name == last:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("core.files.os.replace", replace)
        yield


@pytest.fixture
def make_set(tmp_path: Path) -> Callable[..., Path]:
    """`make_set(name, train, validation, test)`: a prepared set, two images a patient."""

    def make(name: str = "set", train: int = 30, validation: int = 24, test: int = 26) -> Path:
        folder = tmp_path / name
        counts = {"train": train, "validation": validation, "test": test}
        for number, (split, count) in enumerate(counts.items()):
            if not count:
                continue
            write_folder(folder / split, draw(count, seed=number))
            rows = [
                {
                    "file_name": f"{i:06d}.png",
                    "text": f"chest X-ray number {i % 3}",
                    "patient_id": f"{split}{i // 2}",
                    "findings": ["Mass"] if i % 2 else [],
                }
                for i in range(count)
            ]
            write_jsonl(folder / split / "metadata.jsonl", rows)
        facts = {"size": SIZE, "mode": "L", "source": "drawn", "licence": "CC0-1.0", "citation": ""}
        write_json(folder / "set.json", {"counts": counts, **facts})
        return folder

    return make


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """`make_run(name, count, ...)`: a run folder with samples, metrics and weights."""

    def make(
        name: str = "run",
        count: int = 24,
        seed: int = 7,
        prompts: Sequence[str] = ("",),
        set_name: str = "default",
        family: str = "vae",
        contrast: float = 1.0,
    ) -> Path:
        run = tmp_path / "runs" / name
        folder = write_folder(run / "samples" / set_name, draw(count, seed, contrast))
        rows = [
            {"file": f"{i:06d}.png", "seed": i, "prompt": prompts[i % len(prompts)]}
            for i in range(count)
        ]
        write_jsonl(folder / "samples.jsonl", rows)
        write_json(folder / "settings.json", {"run": name, "family": family, "dtype": "fp32"})
        write_json(folder / "cost.json", {"images": count, "seconds": 3.0, "device": "cpu"})
        info = {"family": family, "seconds": 12.5, "steps": 40, "peak_memory_mb": 321}
        info |= {"command": f"train.py --run_dir runs/{name}", "parameters": 1234}
        write_json(run / "run.json", info)
        metrics = [{"step": s, "seconds": s / 4, "loss": 1 / (s + 1)} for s in range(1, 41)]
        write_jsonl(run / "metrics.jsonl", metrics)
        (run / "config.yaml").write_text("batch: 8\nsteps: 40\n")
        return run

    return make


@pytest.fixture
def encoder_folder(tmp_path: Path) -> Path:
    """A MiniEncoder of 16 features with seeded random weights."""
    torch.manual_seed(0)
    encoder = MiniEncoder(EncoderConfig(("findings=Mass", "fault=soft"), 3, SIZE, 4))
    save_encoder(encoder, tmp_path / "encoder")
    return tmp_path / "encoder"


@pytest.fixture
def extractor(encoder_folder: Path) -> Extractor:
    return load_mini(encoder_folder, "cpu")
