"""One model in memory, and none of those before it."""

import gc
import os
import weakref
from pathlib import Path

import pytest

from core.errors import UserError
from panels.resident import Resident


def test_the_model_before_is_freed(project: Path) -> None:
    resident = Resident()
    with resident.use(project / "models/tiny") as sampler:
        first = weakref.ref(sampler.pipeline.unet)
        assert resident.holds(project / "models/tiny")
    del sampler
    with resident.use(project / "runs/chest-gan"):
        gc.collect()
        assert first() is None
    resident.free()
    assert not resident.holds(project / "runs/chest-gan")


def test_the_same_model_is_kept_until_its_weights_change(project: Path) -> None:
    resident = Resident()
    folder = project / "runs/chest-gan"
    with resident.use(folder) as first:
        pass
    with resident.use(folder) as second:
        assert second is first
    weights = folder / "weights/generator.safetensors"
    os.utime(weights, (weights.stat().st_mtime + 5,) * 2)
    with resident.use(folder) as third:
        assert third is not first


def test_a_failed_load_leaves_nothing_behind(project: Path, tmp_path: Path) -> None:
    resident = Resident()
    with pytest.raises(UserError), resident.use(tmp_path / "nothing"):
        pass
    with resident.use(project / "runs/chest-gan") as sampler:  # the lock is free again
        assert sampler([0], [""])[0].size == (32, 32)
