import numpy as np
import pytest

from compare.cmmd import cmmd, cmmd_resamples
from compare.similarity import likeness, likeness_resamples
from compare.variety import diversity, diversity_resamples, vendi, vendi_resamples


def test_vendi_counts_different_images() -> None:
    assert vendi(np.eye(5)) == pytest.approx(5)
    assert vendi(np.ones((7, 3))) == pytest.approx(1)
    two = np.array([[1.0, 0], [2, 0], [0, 1], [0, 3]])  # length does not matter
    assert vendi(two) == pytest.approx(2)
    assert vendi(np.repeat(np.eye(3), 4, 0)) == pytest.approx(3)  # both Gram matrices


def test_vendi_resamples() -> None:
    features = np.random.default_rng(0).normal(size=(9, 4))
    counts = np.array([[1] * 9, [3, 0, 2, 0, 0, 1, 1, 1, 1]])
    plain, drawn = vendi_resamples(features, counts)
    assert plain == pytest.approx(vendi(features))
    assert drawn == pytest.approx(vendi(np.repeat(features, counts[1], 0)))


def test_diversity_equals_the_loop_over_pairs() -> None:
    features = np.random.default_rng(1).normal(size=(8, 5))
    rows = features / np.linalg.norm(features, axis=1, keepdims=True)
    pairs = [1 - rows[i] @ rows[j] for i in range(8) for j in range(8) if i != j]
    assert diversity(features) == pytest.approx(np.mean(pairs))
    # an image drawn twice makes no pair with itself
    drawn = diversity_resamples(features, np.array([[2, 1, 0, 0, 0, 0, 0, 0]]))[0]
    assert drawn == pytest.approx(1 - rows[0] @ rows[1])


def test_cmmd_equals_the_definition() -> None:
    rng = np.random.default_rng(2)
    real, fake = rng.normal(size=(6, 4)), rng.normal(size=(5, 4)) + 1
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (real, fake))

    def k(x: np.ndarray, y: np.ndarray) -> float:
        return float(np.mean([[np.exp(-((i - j) @ (i - j)) / 200) for j in y] for i in x]))

    assert cmmd(real, fake) == pytest.approx(1000 * (k(a, a) + k(b, b) - 2 * k(a, b)))
    counts = np.array([[2, 0, 1, 1, 1, 1]]), np.array([[1, 1, 3, 0, 0]])
    drawn = cmmd_resamples(real, fake, *counts)[0]
    assert drawn == pytest.approx(cmmd(np.repeat(real, counts[0][0], 0), fake[[0, 1, 2, 2, 2]]))


def test_likeness_is_the_mean_over_all_pairs() -> None:
    rng = np.random.default_rng(3)
    real, fake = rng.normal(size=(4, 3)), rng.normal(size=(5, 3))
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (real, fake))
    assert likeness(real, fake) == pytest.approx((a @ b.T).mean())
    ones = np.ones((1, 4)), np.ones((1, 5))
    assert likeness_resamples(real, fake, *ones)[0] == pytest.approx((a @ b.T).mean())
