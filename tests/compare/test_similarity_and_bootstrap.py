import numpy as np
import pytest

from compare.bootstrap import interval, resample_counts
from compare.fid import fid, fid_resamples
from compare.similarity import nearest_cosine, real_band, similarity, similarity_resamples


def test_similarity_by_hand() -> None:
    real = np.array([[1.0, 0.0], [0.0, 2.0]])
    fake = np.array([[3.0, 0.0], [1.0, 1.0], [-1.0, 0.0]])
    assert nearest_cosine(real, fake) == pytest.approx([1, 2**-0.5, 0])
    assert similarity(real, fake) == pytest.approx((1 + 2**-0.5) / 3)
    counts = np.array([[3, 0, 0], [0, 0, 3]])
    assert similarity_resamples(real, fake, counts) == pytest.approx([1, 0])


def test_the_band_leaves_each_image_itself_out() -> None:
    mean, low, high = real_band(np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]))
    assert (mean, low, high) == pytest.approx((2**-0.5,) * 3)
    mean, low, high = real_band(np.array([[1.0, 0.0]] * 10 + [[0.0, 1.0]]))
    assert (low, high) == pytest.approx((1, 1))  # one odd image does not make the band
    assert mean == pytest.approx(10 / 11)


def test_patients_are_drawn_whole() -> None:
    groups = ["a", "a", "b", "c", "c", "c"]
    counts = resample_counts(groups, 50, 0, "real")
    assert counts.shape == (50, 6)
    assert (counts[:, 0] == counts[:, 1]).all()
    assert (counts[:, 3] == counts[:, 5]).all()
    assert (counts[:, [0, 2, 3]].sum(1) == 3).all()  # as many patients as there are
    assert (counts == resample_counts(groups, 50, 0, "real")).all()
    assert (counts != resample_counts(groups, 50, 0, "other")).any()


def test_an_interval_of_a_mean_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        sample = rng.normal(size=60)
        means = resample_counts(range(60), 200, trial, "x") @ sample / 60
        low, high = interval(sample.mean(), means)
        hits += low <= 0 <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_repeats_do_not_shift_the_interval_of_a_frechet_distance() -> None:
    rng = np.random.default_rng(1)
    real, fake = rng.normal(size=(60, 16)), rng.normal(size=(60, 16))
    counts = [resample_counts(range(60), 50, 0, name) for name in ("real", "fake")]
    drawn = fid_resamples(real, fake, *counts)
    value = fid(real, fake)
    assert drawn.min() > value  # which is why the interval is centred
    low, high = interval(value, drawn)
    assert low < value < high


def test_resamples_without_a_number_are_left_out() -> None:
    assert interval(1.0, np.array([np.nan, 0.5, 1.5])) == pytest.approx((0.525, 1.475))
