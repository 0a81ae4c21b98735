"""The trainer against a plain loop written from the thesis, and over two processes."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from benchmarks.gan_speed import largest_difference, plain_loop
from core.runs import read_metrics
from gan.settings import WganGpSettings
from gan.train_wgan_gp import train
from tests.gan import two_processes


def test_the_first_20_losses_equal_a_plain_loops(
    make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    """A graph through everything, files read one by one, no part left out: the same numbers, with
    a smaller last batch in each epoch."""
    assert difference_to_a_plain_loop(make_folder(count=7, size=32), tmp_path / "run") < 1e-4


@pytest.mark.slow
def test_the_compiled_penalty_trains_like_a_plain_loop(
    make_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In double precision: another order of adding up is another run in single precision, where a
    leaky ReLU's input rounds to the other side of 0 and the penalty jumps."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    torch.set_default_dtype(torch.float64)
    try:
        folder = make_folder(count=7, size=32)
        assert difference_to_a_plain_loop(folder, tmp_path / "run", compiled=True) < 1e-10
    finally:
        torch.set_default_dtype(torch.float32)


def difference_to_a_plain_loop(folder: Path, run_dir: Path, compiled: bool = False) -> float:
    settings = WganGpSettings(
        data=str(folder),
        run_dir=str(run_dir),
        steps=20,
        size=32,
        z_dim=6,
        batch=4,
        preview_every=0,
        compile=compiled,
    )
    train(settings)
    ours, plain = read_metrics(run_dir), plain_loop(settings, "cpu")
    assert len(ours) == 20
    assert abs(plain[0]["critic_loss"]) > 1
    return largest_difference(ours, plain)


@pytest.mark.slow
def test_two_processes_stay_in_sync_and_equal_one(tmp_path: Path) -> None:
    """Same weights in both after uneven and empty shares; the images and scores of one process."""
    result = tmp_path / "two.safetensors"
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    script = str(Path(two_processes.__file__))
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [sys.executable, *launcher, script, result],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    together = load_file(result)
    alone = two_processes.outcome(two_processes.few_steps(Accelerator(cpu=True)))
    assert together["images"].std() > 0
    assert torch.allclose(alone["images"], together["images"], atol=1e-5)
    assert torch.allclose(alone["scores"], together["scores"], atol=1e-4)
