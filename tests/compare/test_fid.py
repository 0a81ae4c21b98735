import numpy as np
import pytest
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

from compare.fid import Gaussian, fid, fid_infinity, fid_resamples, frechet, gaussian


def test_two_gaussians_with_commuting_covariances_by_hand() -> None:
    first = Gaussian(np.array([0.0, 0.0]), np.diag([4.0, 9.0]))
    second = Gaussian(np.array([3.0, 4.0]), np.diag([1.0, 25.0]))
    # 3^2 + 4^2 + (2 - 1)^2 + (3 - 5)^2
    assert frechet(first, second) == pytest.approx(30.0, abs=1e-12)


def test_two_gaussians_that_do_not_commute_by_hand() -> None:
    # tr((A B)^1/2) of 2 x 2 matrices is sqrt(tr(A B) + 2 sqrt(det A det B))
    a, b = np.array([[2.0, 1.0], [1.0, 3.0]]), np.array([[5.0, -2.0], [-2.0, 1.0]])
    overlap = np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a) * np.linalg.det(b)))
    expected = np.trace(a) + np.trace(b) - 2 * overlap
    assert frechet(Gaussian(np.zeros(2), a), Gaussian(np.zeros(2), b)) == pytest.approx(expected)


def test_features_by_hand() -> None:
    # one feature: means 1 and 4, variances 2 (n - 1 = 1) and 8
    assert fid(np.array([[0.0], [2.0]]), np.array([[2.0], [6.0]])) == pytest.approx(
        9 + (8**0.5 - 2**0.5) ** 2
    )


@pytest.mark.parametrize(("n_real", "n_fake", "d"), [(300, 200, 32), (60, 40, 128), (60, 400, 128)])
def test_equals_torch_fidelity(n_real: int, n_fake: int, d: int) -> None:
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(d, d)) / d**0.5
    real = rng.normal(size=(n_real, d)) @ mix
    fake = rng.normal(size=(n_fake, d)) @ mix * 1.3 + 0.1
    theirs = fid_statistics_to_metric(
        *(fid_features_to_statistics(torch.from_numpy(x)) for x in (fake, real)), verbose=False
    )["frechet_inception_distance"]
    assert fid(real, fake) == pytest.approx(theirs, rel=1e-6)


def test_few_images_take_another_way_to_the_same_number() -> None:
    rng = np.random.default_rng(1)
    real, fake = rng.normal(size=(30, 64)), rng.normal(size=(20, 64)) + 0.5
    assert fid(real, fake) == pytest.approx(frechet(gaussian(real), gaussian(fake)), rel=1e-6)


def test_symmetric_zero_for_equal_sets_and_blind_to_order() -> None:
    rng = np.random.default_rng(2)
    real, fake = rng.normal(size=(50, 8)), rng.normal(size=(40, 8)) * 2
    assert fid(real, fake) == pytest.approx(fid(fake, real), rel=1e-10)
    assert fid(real, real) == pytest.approx(0, abs=1e-9)
    assert fid(real[::-1], fake[rng.permutation(40)]) == pytest.approx(fid(real, fake), rel=1e-10)


def test_resamples_take_images_as_often_as_counted() -> None:
    rng = np.random.default_rng(3)
    real, fake = rng.normal(size=(4, 2)), rng.normal(size=(3, 2))
    counts = np.array([[1, 1, 1, 1], [2, 0, 1, 1]]), np.array([[1, 1, 1], [0, 2, 1]])
    plain, drawn = fid_resamples(real, fake, *counts)
    assert plain == pytest.approx(fid(real, fake))
    assert drawn == pytest.approx(fid(real[[0, 0, 2, 3]], fake[[1, 1, 2]]))


def test_the_real_root_may_be_given() -> None:
    rng = np.random.default_rng(4)
    real, fake = rng.normal(size=(40, 6)), rng.normal(size=(50, 6)) * 1.2
    known = gaussian(real)
    assert fid(real, fake, known) == pytest.approx(fid(real, fake), rel=1e-12)
    assert "root" in vars(known)


def test_infinity_takes_out_what_few_images_add() -> None:
    rng = np.random.default_rng(5)
    real = rng.normal(size=(4000, 8))
    shift = np.zeros(8)
    shift[0] = 0.5  # the true distance is 0.25
    found = [fid_infinity(real, rng.normal(size=(200, 8)) + shift, seed) for seed in range(8)]
    plain = [fid(real, rng.normal(size=(200, 8)) + shift) for _ in range(8)]
    assert abs(np.mean(found) - 0.25) < abs(np.mean(plain) - 0.25)
    assert np.mean(found) == pytest.approx(0.25, abs=0.06)
