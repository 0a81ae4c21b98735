from collections.abc import Callable
from itertools import combinations
from math import comb
from pathlib import Path

import numpy as np
import pytest

from compare import closest as module
from compare.closest import chance_of_lead, search
from compare.features import PixelPath
from core.sets import open_set

PATH = PixelPath(16, "L")


def test_chance_of_lead_counts_orders() -> None:
    # of the ways to place 3 generated images among 5, those with the first two places generated
    ways = [places for places in combinations(range(5), 3) if {0, 1} <= set(places)]
    assert chance_of_lead(2, 3, 2) == pytest.approx(len(ways) / comb(5, 3))
    assert chance_of_lead(0, 7, 3) == 1


def test_memory_limit_does_not_change_what_is_found(
    make_set: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_set()
    queries, bank = open_set(folder, "test"), open_set(folder, "train")
    whole = search(queries, bank, PATH, "cpu")
    monkeypatch.setattr(module, "QUERY_BYTES", 4 * 16 * 16 * 5)  # five queries at once
    monkeypatch.setattr(module, "BLOCK", 7)
    parts = search(queries, bank, PATH, "cpu")
    for kind in ("raw", "centred"):
        assert (whole[kind].index == parts[kind].index).all()
        assert np.allclose(whole[kind].cosine, parts[kind].cosine, atol=1e-5)
    own = search(bank, bank, PATH, "cpu", leave_out_self=True)
    assert (own["raw"].index[:, 0] != np.arange(30)).all()
