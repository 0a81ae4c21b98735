"""Targets and weights, by hand and against diffusers."""

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr

from finetune.encode import Batch
from finetune.losses import denoising_loss, min_snr_weight, snr, target
from finetune.settings import DreamBoothSettings, Prior
from finetune.train_dreambooth import loss_of


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


@pytest.mark.parametrize("prior", [None, 0.25])
@pytest.mark.parametrize("gamma", [None, 5.0])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("batch", [1, 2, 3])
def test_the_loops_loss_by_hand(
    kind: str, batch: int, gamma: float | None, prior: float | None
) -> None:
    """Of the trainer itself. The official script's min-SNR weight takes the class images'
    timesteps, or fails from batch 2 on; its target was once epsilon, whatever the model."""
    own = scheduler(kind)
    count = 2 * batch if prior else batch
    random = torch.Generator().manual_seed(batch)
    latents, noise, added, guess = torch.randn((4, count, 4, 2, 2), generator=random).unbind()
    timesteps = torch.randint(0, 1000, (count,), generator=random)
    words = torch.randn((count, 77, 8), generator=random)
    met = []

    def denoiser(*given: torch.Tensor) -> torch.Tensor:
        met.extend(given)
        return guess

    settings = DreamBoothSettings(
        "data", "run", min_snr_gamma=gamma, prior=prior and Prior("a thing", weight=prior)
    )
    loss = loss_of(denoiser, own, Batch(latents, noise, added, timesteps, words), settings)

    losses = []
    for place, moment in enumerate(timesteps.tolist()):
        kept = own.alphas_cumprod[moment]
        signal, spoilt = kept.sqrt(), (1 - kept).sqrt()
        torch.testing.assert_close(
            met[0][place], signal * latents[place] + spoilt * added[place]
        )  # perturbed, as drawn; but what is asked for knows only the noise
        velocity = signal * noise[place] - spoilt * latents[place]
        wanted = noise[place] if kind == "epsilon" else velocity
        ratio = kept / (1 - kept)
        divisor = ratio if kind == "epsilon" else ratio + 1
        weight = 1.0 if gamma is None else min(ratio, gamma) / divisor
        losses.append(weight * ((guess[place] - wanted) ** 2).mean())
    by_hand = sum(losses[:batch]) / batch
    if prior:
        by_hand += prior * sum(losses[batch:]) / batch
    torch.testing.assert_close(loss, by_hand)
    assert met[1] is timesteps
    assert met[2] is words
