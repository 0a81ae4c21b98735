"""One model in memory, and none of those before it."""

import gc
import os
import shutil
import weakref
from pathlib import Path

import pytest
import torch

from core.errors import UserError
from gan.networks import Generator
from gan.weights import save_generator
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


def test_the_best_weights_are_loaded_anew_when_they_change(project: Path, tmp_path: Path) -> None:
    resident, folder = Resident(), tmp_path / "run"
    shutil.copytree(project / "runs/chest-gan", folder)
    shutil.copytree(folder / "weights", folder / "best")

    def draw() -> bytes:
        with resident.use(folder) as sampler:
            (image,) = sampler([0], [""], weights="best")
        return bytes(image.tobytes())

    before = draw()
    shape = {"z_dim": 8, "size": 32, "channels": 1, "width": 2}
    save_generator(Generator(**shape), shape, folder / "best")
    assert draw() != before


def test_switching_loras_keeps_one_base_and_a_level_memory(project: Path) -> None:
    resident = Resident()
    names = ["runs/tuned", "models/tiny"]

    def draw(name: str) -> bytes:
        with resident.use(project / name) as sampler:
            (image,) = sampler([3], ["a ramp"], steps=1)
            unets.add(id(sampler.pipeline.unet))
        return image.tobytes()

    unets: set[int] = set()
    first = [draw(name) for name in names]
    assert first[0] != first[1]
    gc.collect()
    level = sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects())
    for _ in range(10):
        assert [draw(name) for name in names] == first
    gc.collect()
    assert sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects()) <= level
    assert len(unets) == 1


@pytest.mark.slow
def test_twenty_switches_among_all_families_leave_memory_level(
    project: Path, tmp_path: Path
) -> None:
    resident = Resident()
    another = shutil.copytree(project / "models/tiny", tmp_path / "another")
    folders = [project / f"runs/{run}" for run in ("tuned", "chest-gan", "small-vae")]
    folders.insert(2, another)

    def draw(folder: Path) -> bytes:
        with resident.use(folder) as sampler:
            few = {"steps": 1} if "steps" in sampler.options else {}
            (image,) = sampler([3], ["a ramp"], **few)
        return image.tobytes()

    def tensors() -> int:
        gc.collect()
        return sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects())

    first = [draw(folder) for folder in folders]
    level = tensors()
    for _ in range(5):
        assert [draw(folder) for folder in folders] == first
    assert tensors() <= level


def test_another_lora_is_mixed_in(project: Path) -> None:
    resident = Resident()
    with resident.use(project / "models/tiny") as sampler:
        (plain,) = sampler([3], ["a ramp"], steps=1)
        (mixed,) = sampler([3], ["a ramp"], steps=1, loras={str(project / "runs/tuned"): 0.5})
        (again,) = sampler([3], ["a ramp"], steps=1)
        with pytest.raises(UserError, match="holds no LoRA"):
            sampler([3], [""], loras={str(project / "runs/chest-gan"): 1.0})
    with resident.use(project / "runs/tuned") as sampler:
        (half,) = sampler([3], ["a ramp"], steps=1, lora_scale=0.5)
        with pytest.raises(UserError, match="twice"):
            sampler([3], [""], loras={str(project / "runs/tuned"): 1.0})
    assert plain.tobytes() == again.tobytes()
    assert mixed.tobytes() == half.tobytes() != plain.tobytes()


def test_a_failed_load_leaves_nothing_behind(project: Path, tmp_path: Path) -> None:
    resident = Resident()
    with pytest.raises(UserError), resident.use(tmp_path / "nothing"):
        pass
    with resident.use(project / "runs/chest-gan") as sampler:  # the lock is free again
        assert sampler([0], [""])[0].size == (32, 32)
