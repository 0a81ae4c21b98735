"""The trainer's steps against a plain loop written from the paper, and over two processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from gan.settings import WganGpSettings
from gan.train_wgan_gp import critic_step, draw_noise, generator_step, make_players
from tests.gan import two_processes

SETTINGS = WganGpSettings(data="", run_dir="", size=32, width=4, z_dim=6, critic_steps=2)


def test_steps_equal_a_plain_loop() -> None:
    """A graph through everything, no part left out: the same numbers."""
    accelerator = Accelerator(cpu=True)
    torch.manual_seed(0)
    players = make_players(SETTINGS, accelerator)
    torch.manual_seed(0)
    plain = make_players(SETTINGS, accelerator)
    generator, critic = plain.generator, plain.critic
    for step in range(3):
        real = torch.rand(5, 1, 32, 32, generator=torch.Generator().manual_seed(step))
        noise, alpha = draw_noise(SETTINGS, step, 5)
        for k in range(SETTINGS.critic_steps):
            ours = critic_step(players, real, noise[:, k], alpha[:, k], 10.0, 1.0, accelerator)
            fake = generator(noise[:, k])
            part = alpha[:, k, None, None, None]
            mixed = real * part + fake * (1 - part)
            slopes = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)[0]
            penalty = ((slopes.flatten(1).norm(dim=1) - 1) ** 2).mean()
            gap = critic(fake).mean() - critic(real).mean()
            plain.critic_optimiser.zero_grad()
            (gap + 10 * penalty).backward()
            plain.critic_optimiser.step()
            assert ours.tolist() == pytest.approx([gap.item(), penalty.item()], rel=1e-4)
        ours = generator_step(players, noise[:, -1], 1.0, accelerator)
        loss = -critic(generator(noise[:, -1])).mean()
        plain.generator_optimiser.zero_grad()
        loss.backward()
        plain.generator_optimiser.step()
        assert ours.item() == pytest.approx(loss.item(), rel=1e-4)
    # Images, not weights: a bias before a norm has no effect and no gradient but rounding, which
    # Adam turns into full steps.
    noise = torch.randn(8, 6)
    assert torch.allclose(players.generator(noise), plain.generator(noise), atol=1e-5)


def test_two_processes_stay_in_sync_and_equal_one(tmp_path: Path) -> None:
    """Same weights in both after uneven and empty shares; the images and scores of one process."""
    result = tmp_path / "two.safetensors"
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    script = str(Path(two_processes.__file__))
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", script, result],
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
