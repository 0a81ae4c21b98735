"""Targets and weights, by hand and against diffusers."""

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr

from finetune.losses import denoising_loss, min_snr_weight, preserve_prior, snr, target


def scheduler(prediction_type: str = "epsilon", zero_snr: bool = False) -> DDPMScheduler:
    return DDPMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type=prediction_type,
        rescale_betas_zero_snr=zero_snr,
    )


TIMESTEPS = torch.tensor([0, 10, 250, 500, 998])


def test_targets_by_hand() -> None:
    latents, noise = torch.full((5, 1, 1, 1), 2.0), torch.full((5, 1, 1, 1), -3.0)
    kept = scheduler().alphas_cumprod[TIMESTEPS]
    velocity = target(scheduler("v_prediction"), latents, noise, TIMESTEPS).flatten()
    torch.testing.assert_close(velocity, kept.sqrt() * -3.0 - (1 - kept).sqrt() * 2.0)
    assert target(scheduler("epsilon"), latents, noise, TIMESTEPS) is noise
    assert target(scheduler("sample"), latents, noise, TIMESTEPS) is latents


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_min_snr_agrees_with_diffusers(kind: str) -> None:
    own = scheduler(kind)
    ratio = compute_snr(own, TIMESTEPS)
    torch.testing.assert_close(snr(own, TIMESTEPS), ratio)
    divisor = ratio if kind == "epsilon" else ratio + 1
    wanted = torch.minimum(ratio, torch.full_like(ratio, 5.0)) / divisor
    torch.testing.assert_close(min_snr_weight(own, TIMESTEPS, 5.0), wanted)


def test_min_snr_is_finite_at_zero_terminal_snr() -> None:
    last = torch.tensor([999])
    assert compute_snr(scheduler(zero_snr=True), last).item() == 0.0
    assert min_snr_weight(scheduler("epsilon", True), last, 5.0).item() == 1.0
    assert min_snr_weight(scheduler("v_prediction", True), last, 5.0).item() == 0.0


def test_loss_per_image_by_hand() -> None:
    prediction = torch.zeros(2, 4, 2, 2, dtype=torch.bfloat16)
    wanted = torch.stack([torch.full((4, 2, 2), 1.0), torch.full((4, 2, 2), 3.0)])
    losses = denoising_loss(prediction, wanted, torch.tensor([1.0, 0.5]))
    assert losses.dtype == torch.float32
    assert losses.tolist() == [1.0, 4.5]


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_prior_weighs_class_images_alone(batch: int) -> None:
    """The official script's weight takes the class images' timesteps, or fails from batch 2 on."""
    own = scheduler("v_prediction")
    timesteps = torch.randint(0, 1000, (2 * batch,), generator=torch.Generator().manual_seed(batch))
    weight = min_snr_weight(own, timesteps, 5.0)
    prediction, wanted = torch.randn(2, 2 * batch, 4, 2, 2).unbind()
    losses = denoising_loss(prediction, wanted, weight)
    by_hand = [weight[i] * ((prediction[i] - wanted[i]) ** 2).mean() for i in range(2 * batch)]
    instances, prior = sum(by_hand[:batch]) / batch, sum(by_hand[batch:]) / batch
    torch.testing.assert_close(preserve_prior(losses, 0.25), instances + 0.25 * prior)
