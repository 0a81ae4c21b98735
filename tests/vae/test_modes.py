"""The lesson's modes and the VAE's opt-ins: by hand, and through the real trainer."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from core.families import load_sampler
from core.runs import checkpoints, read_metrics
from core.state import load_state
from vae import health, losses
from vae.settings import VaeSettings
from vae.steps import beta_at, corrupted, make_batch, make_players, update
from vae.train_vae import train

MODES = ("vae", "autoencoder", "denoising", "super-resolution", "adversarial")


@pytest.fixture
def tiny(make_folder: Callable[..., Path], tmp_path: Path) -> VaeSettings:
    return VaeSettings(
        data=str(make_folder(count=5, size=16)),
        run_dir=str(tmp_path / "run"),
        num_epochs=None,
        steps=3,
        img_size=16,
        in_channels=1,
        latent_dim=6,
        depth=2,
        width=4,
        batch_size=4,
        preview_every=0,
    )


@pytest.mark.parametrize("mode", MODES)
def test_the_trainer_takes_every_mode(tiny: VaeSettings, mode: str) -> None:
    train(replace(tiny, mode=mode))
    run = Path(tiny.run_dir)
    rows = read_metrics(run)
    weights = 5 * rows[0]["reconstruction"] + 10 * rows[0]["blur"]
    kl = rows[0]["kl"] if mode == "vae" else 0
    if mode != "adversarial":
        assert rows[0]["loss"] == pytest.approx(weights + kl, rel=1e-5)
    assert ("adversary_loss" in rows[0]) == (mode == "adversarial")
    rows_of_pairs = 3 if mode in ("denoising", "super-resolution") else 2
    pairs = Image.open(run / "output_images/pairs-0002.png")
    assert pairs.size == (5 * 18 - 2, rows_of_pairs * 18 - 2)
    held = load_state(checkpoints(run)[-1])
    assert ("adversary" in held) == (mode == "adversarial")


def test_only_the_vae_takes_noise(tiny: VaeSettings) -> None:
    """The other modes reconstruct from the mean itself."""
    accelerator = Accelerator(cpu=True)
    images = torch.rand(4, 1, 16, 16) * 2 - 1
    found = {}
    for mode in ("vae", "autoencoder"):
        settings = replace(tiny, mode=mode)
        torch.manual_seed(0)
        players = make_players(settings, accelerator)
        with torch.no_grad():
            mu, _ = players.model.encode(images)
            wanted = losses.reconstruction_loss(players.model.decode(mu), images)
        batch = make_batch(images, 0, 4, settings, accelerator)
        values = update(players, batch, beta_at(0, settings), settings, accelerator)
        found[mode] = (values["reconstruction"].item(), wanted.item())
    assert found["autoencoder"][0] == pytest.approx(found["autoencoder"][1], rel=1e-5)
    assert found["vae"][0] != pytest.approx(found["vae"][1], rel=1e-5)


def test_corruption_by_hand(tiny: VaeSettings) -> None:
    images = torch.rand(4, 1, 16, 16) * 2 - 1
    assert corrupted(images, 0, 4, tiny) is images
    noisy = corrupted(images, 0, 4, replace(tiny, mode="denoising", noise=0.5))
    assert (noisy - images).std().item() == pytest.approx(0.5, rel=0.1)
    assert torch.equal(noisy, corrupted(images, 0, 4, replace(tiny, mode="denoising", noise=0.5)))
    ramp = torch.arange(16.0).expand(1, 1, 16, 16)
    coarse = corrupted(ramp, 0, 1, replace(tiny, mode="super-resolution", factor=4))
    assert coarse.shape == ramp.shape
    assert coarse[0, 0, 0, 0].item() == 1.5  # the mean of 0, 1, 2, 3
    assert torch.allclose(coarse[..., 2:14], ramp[..., 2:14], atol=1e-5)


def test_beta_rises_over_its_warm_up(tiny: VaeSettings) -> None:
    assert [beta_at(step, tiny) for step in (0, 9)] == [1.0, 1.0]
    slow = replace(tiny, beta=2.0, beta_warmup=4)
    assert [beta_at(step, slow) for step in (0, 1, 3, 9)] == [0.5, 1.0, 2.0, 2.0]
    assert beta_at(9, replace(tiny, mode="autoencoder")) == 0


def test_free_bits_press_no_further() -> None:
    """Two latent elements: KL 0.5 (mu = 1, sigma = 1) and 0. With 0.2 free the second counts 0.2
    and has no gradient."""
    mu = torch.tensor([[1.0, 0.1]]).requires_grad_()
    logvar = torch.zeros(1, 2)
    assert losses.kl_divergence(mu, logvar).item() == pytest.approx((0.5 + 0.005) / 2)
    free = losses.kl_divergence(mu, logvar, free_bits=0.2)
    assert free.item() == pytest.approx((0.5 + 0.2) / 2)
    free.backward()
    assert mu.grad is not None
    assert mu.grad.tolist() == [[0.5, 0.0]]


def test_entropies_of_the_adversary_at_no_knowledge() -> None:
    nothing = torch.zeros(3)
    ln2 = pytest.approx(0.6931, abs=1e-4)
    assert losses.deceit(nothing).item() == ln2
    assert losses.detection(nothing, nothing).item() == ln2
    assert losses.detection(torch.tensor([9.0]), torch.tensor([-9.0])).item() < 1e-3


def test_a_posterior_collapse_is_told_in_words() -> None:
    mu = torch.zeros(8, 4)
    mu[:, 1] = torch.arange(8.0)
    assert losses.active_share(mu).item() == 0.25
    used = [{"step": n, "active": 0.5} for n in range(300)]
    unused = [{"step": n, "active": 0.0} for n in range(300)]
    assert health.warnings_of(used) == []
    assert health.warnings_of(unused[:50]) == []
    (warning,) = health.warnings_of(used + unused)
    assert "Posterior collapse?" in warning


def test_the_sampler_encodes_and_decodes(tiny: VaeSettings) -> None:
    train(tiny)
    sampler = load_sampler(Path(tiny.run_dir), "cpu")
    images = torch.rand(2, 1, 16, 16)
    latents = sampler.to_latents(images)
    assert latents.shape == (2, sampler.latent_dim)
    decoded = sampler.from_latents(latents)
    assert decoded.shape == images.shape
    assert decoded.min() >= 0
    assert decoded.max() <= 1


def test_a_factor_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="divide img_size"):
        VaeSettings(data="x", run_dir="y", mode="super-resolution", factor=3)
