"""What a denoiser is asked for, and how its error is weighed. Pure functions of tensors.

B images, C latent channels, H x W latent pixels.
"""

import torch
import torch.nn.functional as F
from diffusers import SchedulerMixin


def target(
    scheduler: SchedulerMixin, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
) -> torch.Tensor:
    """The training target of the scheduler's own prediction type, B x C x H x W.

    epsilon (Ho et al. 2020), v (Salimans and Ho 2022) or the sample itself.
    """
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        return noise
    if kind == "v_prediction":
        return scheduler.get_velocity(latents, noise, timesteps)
    if kind == "sample":
        return latents
    raise ValueError(f"unknown prediction type '{kind}'")


def snr(scheduler: SchedulerMixin, timesteps: torch.Tensor) -> torch.Tensor:
    """Signal-to-noise ratio alpha_t^2 / sigma_t^2 of each timestep, B."""
    alphas = scheduler.alphas_cumprod.to(timesteps.device)[timesteps]
    return alphas / (1.0 - alphas)


def min_snr_weight(
    scheduler: SchedulerMixin, timesteps: torch.Tensor, gamma: float
) -> torch.Tensor:
    """Min-SNR weight of each image, B (Hang et al. 2023): min(SNR, gamma) / (SNR or SNR + 1).

    Safe at zero terminal SNR: there epsilon carries no signal and its weight is 1, the limit.
    """
    ratio = snr(scheduler, timesteps)
    capped = ratio.clamp(max=gamma)
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        return torch.where(ratio > 0, capped / ratio.clamp(min=1e-12), torch.ones_like(ratio))
    if kind == "v_prediction":
        return capped / (ratio + 1.0)
    return capped


def denoising_loss(
    prediction: torch.Tensor, wanted: torch.Tensor, weight: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean squared error per image, B, in float32; times `weight` (B) where given."""
    error = F.mse_loss(prediction.float(), wanted.float(), reduction="none").mean(dim=(1, 2, 3))
    return error if weight is None else error * weight


def preserve_prior(losses: torch.Tensor, weight: float) -> torch.Tensor:
    """Loss of B instances and their B class images, 2B long, instances first (Ruiz et al. 2023)."""
    instances, prior = losses.chunk(2)
    return instances.mean() + weight * prior.mean()
