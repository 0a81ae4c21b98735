from itertools import combinations

import numpy as np
import pytest
import torch
from torch_fidelity.metric_kid import kid_features_to_metric

from compare import kid as module
from compare.kid import kid, kid_resamples, kid_subsets, kid_test


def by_pairs(real: np.ndarray, fake: np.ndarray) -> float:
    """The definition, pair by pair."""

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return float((a @ b / len(a) + 1) ** 3)

    def within(x: np.ndarray) -> float:
        pairs = [k(x[i], x[j]) for i in range(len(x)) for j in range(len(x)) if i != j]
        return float(np.mean(pairs))

    return within(real) + within(fake) - 2 * float(np.mean([[k(a, b) for b in fake] for a in real]))


def test_equals_the_definition() -> None:
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=(7, 5)), rng.normal(size=(9, 5)) + 0.3
    assert kid(real, fake) == pytest.approx(by_pairs(real, fake), rel=1e-12)


def test_by_hand() -> None:
    # one feature: k(1, 1) = 8 within the real, k(0, 0) = 1 within the fake, k(1, 0) = 1 between
    assert kid(np.ones((3, 1)), np.zeros((2, 1))) == pytest.approx(8 + 1 - 2)


def test_equals_torch_fidelity_on_equal_features() -> None:
    rng = np.random.default_rng(1)
    real, fake = rng.normal(size=(120, 16)), rng.normal(size=(90, 16)) * 1.2
    theirs = kid_features_to_metric(
        torch.from_numpy(fake),
        torch.from_numpy(real),
        kid_subset_size=50,
        kid_subsets=10,
        verbose=False,
    )
    mean, deviation = kid_subsets(real, fake, subsets=10, size=50)
    assert mean == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-9)
    assert deviation == pytest.approx(theirs["kernel_inception_distance_std"], rel=1e-9)


def test_too_few_for_subsets() -> None:
    with pytest.raises(ValueError, match="1000"):
        kid_subsets(np.zeros((10, 2)), np.zeros((2000, 2)))


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    real, fake = rng.normal(size=(21, 4)), rng.normal(size=(17, 4))
    whole = kid(real, fake)
    monkeypatch.setattr(module, "BLOCK", 5)
    assert kid(real, fake[::-1]) == pytest.approx(whole, rel=1e-12)


def test_its_mean_does_not_depend_on_the_number_of_images() -> None:
    rng = np.random.default_rng(3)
    few = [kid(rng.normal(size=(8, 4)), rng.normal(size=(8, 4))) for _ in range(400)]
    assert abs(np.mean(few)) < 3 * np.std(few) / 20


def test_an_image_drawn_twice_makes_no_pair_with_itself() -> None:
    rng = np.random.default_rng(4)
    real, fake = rng.normal(size=(4, 3)), rng.normal(size=(3, 3))
    drawn = kid_resamples(real, fake, np.array([[2, 1, 0, 0]]), np.array([[1, 1, 1]]))[0]
    # the only pair of different real images is (0, 1), whatever the counts
    k = (real @ real.T / 3 + 1) ** 3
    between = (np.array([2, 1]) @ (real[:2] @ fake.T / 3 + 1) ** 3).sum() / 9
    inside = (fake @ fake.T / 3 + 1) ** 3
    within = (inside.sum() - np.trace(inside)) / 6
    assert drawn == pytest.approx(k[0, 1] + within - 2 * between)


def test_permutation_test_exact_by_hand() -> None:
    rng = np.random.default_rng(5)
    real, fake = rng.normal(size=(4, 3)), rng.normal(size=(5, 3)) + 2
    pooled = np.concatenate([real, fake])
    values = []
    for chosen in combinations(range(9), 4):
        rest = [i for i in range(9) if i not in chosen]
        values.append(by_pairs(pooled[list(chosen)], pooled[rest]))
    share = np.mean([value >= values[0] - 1e-9 for value in values])
    assert kid_test(real, fake) == pytest.approx(share)
    assert share < 0.05


def test_permutation_test_over_random_splits() -> None:
    rng = np.random.default_rng(6)
    same = [
        kid_test(rng.normal(size=(30, 4)), rng.normal(size=(30, 4)), permutations=99)
        for _ in range(60)
    ]
    assert 0.3 < np.mean(same) < 0.7  # p is uniform where both are alike
    assert kid_test(rng.normal(size=(30, 4)), rng.normal(size=(30, 4)) + 1) == 1 / 1000
