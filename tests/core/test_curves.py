"""The thick line through a run's losses."""

from pathlib import Path

import numpy as np
import pytest

import core.curves
from core.curves import plot, running_mean


def test_the_mean_is_of_what_lies_to_both_sides() -> None:
    values = np.array([4.0, 1.0, 7.0, 1.0, 2.0, 9.0])
    assert running_mean(values, 3).tolist() == [2.5, 4.0, 3.0, 10 / 3, 4.0, 5.5]
    assert running_mean(values, 2).tolist() == running_mean(values, 3).tolist()
    assert running_mean(values, 0).tolist() == running_mean(values, 1).tolist() == values.tolist()


def test_a_straight_line_stays_where_it_is() -> None:
    """A mean of what came before would lag."""
    line = np.linspace(1e-3, 0, 500)
    np.testing.assert_allclose(running_mean(line, 50)[25:-25], line[25:-25])


def test_learning_rates_are_drawn_as_they_were_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    averaged = []
    monkeypatch.setattr(
        core.curves, "running_mean", lambda y, width: averaged.append((y.tolist(), width)) or y
    )
    rows = [{"step": s, "loss": s / 2, "lr": 0.1 * (s < 20)} for s in range(40)]
    plot(rows, ["loss", "lr"], tmp_path / "curves.png")
    assert averaged == [([s / 2 for s in range(40)], 4)]
