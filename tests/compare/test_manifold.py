import numpy as np
import pytest
import torch
from prdc import compute_prdc
from torch_fidelity.metric_prc import prc_features_to_metric

from compare import manifold as module
from compare.manifold import manifold


def means(real: np.ndarray, fake: np.ndarray, k: int) -> dict[str, float]:
    return {name: v.mean() for name, v in manifold(real, fake, k)._asdict().items()}


def test_by_hand() -> None:
    # on a line, k = 1: real balls [-1, 1], [0, 2] around 0 and 1, [-8, 10] around 10 is 9 wide
    real, fake = np.array([[0.0], [1.0], [10.0]]), np.array([[0.5], [30.0], [31.0]])
    found = manifold(real, fake, 1)
    assert found.precision.tolist() == [1, 0, 0]
    assert found.density.tolist() == [2, 0, 0]
    assert found.coverage.tolist() == [1, 1, 0]
    assert found.recall.tolist() == [1, 1, 1]  # the fake ball around 0.5 is 29.5 wide


@pytest.mark.parametrize("block", [7, 1024])
def test_equals_prdc(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", block)
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=(60, 6)), rng.normal(size=(50, 6)) * 0.8 + 0.3
    assert means(real, fake, 5) == pytest.approx(compute_prdc(real, fake, 5), rel=1e-9)


def test_equals_torch_fidelity() -> None:
    rng = np.random.default_rng(1)
    real, fake = rng.normal(size=(70, 8)), rng.normal(size=(64, 8)) * 1.3
    theirs = prc_features_to_metric(torch.from_numpy(fake), torch.from_numpy(real), verbose=False)
    found = means(real, fake, 3)
    assert found["precision"] == pytest.approx(theirs["precision"], rel=1e-6)
    assert found["recall"] == pytest.approx(theirs["recall"], rel=1e-6)


def test_dropped_modes_cost_recall_and_blur_costs_precision() -> None:
    rng = np.random.default_rng(2)
    modes = rng.normal(size=(4, 8)) * 6
    real = modes[np.arange(80) % 4] + rng.normal(size=(80, 8))
    half = modes[np.arange(80) % 2] + rng.normal(size=(80, 8))
    far = modes[np.arange(80) % 4] + rng.normal(size=(80, 8)) * 4
    assert means(real, half, 5)["coverage"] < 0.6 < means(real, half, 5)["precision"]
    assert means(real, far, 5)["precision"] < 0.3
