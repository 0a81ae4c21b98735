import numpy as np
import pytest
import torch
from torch_fidelity.metric_isc import isc_features_to_metric

from compare.inception_score import inception_score, inception_score_resamples


def test_by_hand() -> None:
    # half the images surely of one class, half of another: exp(KL) = 2; all of one class: 1
    sure = np.repeat(np.array([[50.0, 0.0], [0.0, 50.0]]), 5, axis=0)
    assert inception_score(sure, splits=1)[0] == pytest.approx(2.0)
    assert inception_score(sure[:5], splits=1)[0] == pytest.approx(1.0)


def test_equals_torch_fidelity() -> None:
    logits = np.random.default_rng(0).normal(size=(203, 1008)) * 3
    theirs = isc_features_to_metric(torch.from_numpy(logits))
    mean, deviation = inception_score(logits)
    assert mean == pytest.approx(theirs["inception_score_mean"], rel=1e-9)
    assert deviation == pytest.approx(theirs["inception_score_std"], rel=1e-9)


def test_resamples() -> None:
    logits = np.random.default_rng(1).normal(size=(40, 6)) * 2
    ones, counts = np.ones(40, int), np.bincount(np.arange(40) // 2 * 2, minlength=40)
    values = inception_score_resamples(logits, np.array([ones, counts]), splits=2)
    order = np.random.RandomState(0).permutation(40)
    assert values[0] == pytest.approx(inception_score(logits[order], 2, seed=None)[0])
    repeated = np.repeat(logits, counts, 0)[order]
    assert values[1] == pytest.approx(inception_score(repeated, 2, seed=None)[0])
