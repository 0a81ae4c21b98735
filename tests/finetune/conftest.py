"""One tiny base and a few image sets for all tests of this folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import finetune.low_rank
from finetune.settings import DreamBoothSettings
from tests.finetune.tiny import tiny_pipeline, write_images


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Stable Diffusion 2 on disk, v-prediction."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five colour images without captions."""
    return write_images(tmp_path_factory.mktemp("sets") / "plain")


@pytest.fixture(scope="session")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared set of five grey images."""
    return write_images(tmp_path_factory.mktemp("sets") / "grey", mode="L", captions=True)


@pytest.fixture
def settings(base: Path, plain: Path, tmp_path: Path) -> Callable[..., DreamBoothSettings]:
    """Settings of a short run; any of them may be given."""

    def make(**changes: Any) -> DreamBoothSettings:
        values = {
            "data": str(plain),
            "base": str(base),
            "run_dir": str(tmp_path / "run"),
            "prompt": "a ramp",
            "steps": 4,
            "checkpoint_every": 2,
        }
        return DreamBoothSettings(**values | changes)

    return make


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """The networks are too small to share."""
    torch.set_num_threads(1)


@pytest.fixture(params=[False, True], ids=["MKL", "oneDNN"])
def onednn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whichever wins on this processor, both libraries' products are tested."""
    if request.param and not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        pytest.skip("this build of torch is without oneDNN")
    monkeypatch.setattr(finetune.low_rank, "ONEDNN", request.param)
    monkeypatch.setattr(finetune.low_rank, "LARGE", 0)
    return request.param
