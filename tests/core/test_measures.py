"""Scores while training: nearer images score higher, and copies are seen."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.families import resolve
from core.measures import FEW, MEASURES, Measure
from core.sets import ImageSet, open_set


def pictures(folder: Path, count: int, seed: int, noise: float = 30.0) -> ImageSet:
    """Gradients of one direction with noise of their own."""
    random = np.random.default_rng(seed)
    folder.mkdir()
    for number in range(count):
        ramp = np.linspace(0, 255, 64)[None] * np.ones((64, 1))
        pixels = (ramp + random.normal(0, noise, (64, 64))).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return open_set(folder)


def test_the_table_names_what_is_there() -> None:
    assert len(MEASURES) > 3
    for name in MEASURES.values():
        assert callable(resolve(name))


def test_like_images_score_higher_and_copies_are_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OSTEON_CACHE", str(tmp_path / "cache"))
    train, held_out = pictures(tmp_path / "train", 5, 0), pictures(tmp_path / "held", 5, 1)
    like, unlike = pictures(tmp_path / "like", 4, 2), pictures(tmp_path / "unlike", 4, 3, 200.0)
    good, bad, copies = map(Measure(held_out, train, 64), (like, unlike, train))
    assert good["similarity"] > bad["similarity"]
    assert good["copies"] < copies["copies"] == 1.0
    assert "frechet" not in good
    more = [pictures(tmp_path / f"more{i}", FEW + 1, 4 + i) for i in (0, 1)]
    assert Measure(more[1], train, 64)(more[0])["frechet"] >= 0
