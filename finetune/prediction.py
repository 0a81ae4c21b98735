"""Does the base predict what its scheduler's configuration says? Asked of the weights themselves.

A Stable Diffusion 2 trained for v-prediction whose configuration says epsilon (or the other way
round) trains without complaint and draws noise.
"""

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler

from core.errors import UserError
from finetune.encode import Batch
from finetune.losses import target
from finetune.models import Denoiser

AT = 0.7  # of the schedule: there noise and velocity lie well apart
SURE = 0.3  # lead in cosine that settles the question; untrained networks have none
KINDS = ("epsilon", "v_prediction")


@torch.no_grad()
def likeness(denoiser: Denoiser, scheduler: DDPMScheduler, batch: Batch) -> dict[str, float]:
    """Cosine of the base's prediction with the target of each kind, in [-1, 1]."""
    place = int(AT * len(scheduler))
    timesteps = torch.full_like(batch.timesteps, place)
    latents = smoothed(batch.latents)
    noisy = scheduler.add_noise(latents, batch.noise, timesteps)
    guess = denoiser(noisy, timesteps, batch.words).float()
    found = {}
    for kind in KINDS:
        other = DDPMScheduler.from_config(scheduler.config, prediction_type=kind)
        wanted = target(other, latents, batch.noise, timesteps)
        found[kind] = float(F.cosine_similarity(guess.flatten(1), wanted.flatten(1)).mean())
    return found


def smoothed(latents: torch.Tensor) -> torch.Tensor:
    """B x C x h x w without what differs from neighbour to neighbour. To a base that is noise, also
    where it is in the image, as speckle is: its velocity would look like a prediction of noise."""
    coarse = F.avg_pool2d(latents, 2, ceil_mode=True)
    return F.interpolate(coarse, latents.shape[-2:], mode="bilinear")


def check_prediction(
    denoiser: Denoiser, scheduler: DDPMScheduler, batch: Batch, name: str
) -> dict[str, float]:
    """`likeness`. Raises UserError where the weights clearly predict another kind than said."""
    said = scheduler.config.prediction_type
    found = likeness(denoiser, scheduler, batch)
    best = max(found, key=lambda kind: found[kind])
    if said in found and found[best] - found[said] > SURE:
        raise UserError(
            f"{name} says prediction_type {said}, but its weights predict {best} (cosine "
            f"{found[best]:.2f} against {found[said]:.2f}); mend scheduler/scheduler_config.json."
        )
    return found
