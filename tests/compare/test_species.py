import numpy as np
import pytest

from compare.species import bleed, confusion, share_in_band


def around(axis: int, count: int, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(count, 6)) * 0.1
    return np.eye(6)[axis] + noise


def test_confusion_by_hand() -> None:
    real, other = around(0, 5, 0), around(1, 7, 1)
    fake = np.concatenate([around(0, 6, 2), around(1, 2, 3)])
    found = confusion(real, fake, {"bat": other}, "ptero")
    assert found["fake"] == {"ptero": 0.75, "bat": 0.25}
    assert found["real"] == {"ptero": 1.0, "bat": 0.0}


def test_a_real_image_does_not_count_for_itself() -> None:
    # one of the subject's images looks like the other species
    real = np.array([[1.0, 0.0], [1.0, 0.05], [0.0, 1.0]])
    found = confusion(real, real, {"other": np.array([[0.0, 1.0]])}, "subject")
    assert found["real"]["other"] == pytest.approx(1 / 3)


def test_bleed() -> None:
    real, base = around(0, 5, 0), around(1, 20, 1)
    moved = around(0, 20, 2)
    assert bleed(real, base, moved, 0)["bleeds"]
    assert not bleed(real, base, around(1, 20, 3), 0)["bleeds"]


def test_share_in_band() -> None:
    real = np.array([[1.0, 0.0]])
    fake = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])  # similarities 1, 0.71, 0
    assert share_in_band(real, fake, 0.5, 0.9) == pytest.approx(1 / 3)
