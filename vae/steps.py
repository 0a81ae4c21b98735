"""One update of an autoencoder, in each of its modes."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch.optim import Adam

from core.parallel import part_of, sum_gradients
from core.seeds import stream
from vae import losses
from vae.networks import Adversary, Vae
from vae.settings import VaeSettings

LOSSES = ("loss", "reconstruction", "kl", "blur")


@dataclass
class Players:
    """The autoencoder, in mode adversarial its opponent, and their optimisers, on the device."""

    model: Vae
    optimiser: Any
    adversary: Adversary | None = None
    adversary_optimiser: Any = None

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of them."""
        return {name: item for name, item in vars(self).items() if item is not None}


@dataclass(frozen=True)
class Batch:
    """This process's part of a step's images and numbers, on the device; N may be 0."""

    inputs: torch.Tensor
    """N x C x H x W in [-1, 1], corrupted where the mode says so."""
    targets: torch.Tensor
    """N x C x H x W in [-1, 1]."""
    noise: torch.Tensor
    """N x latent_dim, from N(0, 1)."""
    share: float
    """N over the images of all processes."""


def network_config(settings: VaeSettings) -> dict[str, int]:
    """Keywords of `Vae`."""
    names = ("img_size", "latent_dim", "in_channels", "depth", "width")
    return {name: getattr(settings, name) for name in names}


def make_players(settings: VaeSettings, accelerator: Accelerator) -> Players:
    """Fresh networks, the same in every process."""
    model = Vae(**network_config(settings)).to(accelerator.device)
    optimiser = accelerator.prepare(Adam(model.parameters(), lr=settings.lr))
    if settings.mode != "adversarial":
        return Players(model, optimiser)
    adversary = Adversary(settings.latent_dim).to(accelerator.device)
    opponent = accelerator.prepare(Adam(adversary.parameters(), lr=settings.lr))
    return Players(model, optimiser, adversary, opponent)


def make_batch(
    images: torch.Tensor, step: int, count: int, settings: VaeSettings, accelerator: Accelerator
) -> Batch:
    """All numbers of a step drawn for its `count` images, of which `images` are this process's."""
    source = stream(settings.seed, "noise", step)
    noise = part_of(torch.randn(count, settings.latent_dim, generator=source), accelerator)
    inputs = corrupted(images, step, count, settings, accelerator)
    return Batch(inputs, images, noise.to(accelerator.device), len(images) / count)


def corrupted(
    images: torch.Tensor,
    step: int,
    count: int,
    settings: VaeSettings,
    accelerator: Accelerator | None = None,
) -> torch.Tensor:
    """What goes in: the images with noise, or averaged down and enlarged again, or as they are.

    `images`: this process's of a batch of `count`; without an accelerator, all of it.
    """
    if settings.mode == "denoising":
        source = stream(settings.seed, "corruption", step)
        grain = torch.randn(count, *images.shape[1:], generator=source)
        mine = part_of(grain, accelerator) if accelerator else grain
        return images + settings.noise * mine.to(images.device)
    if settings.mode == "super-resolution" and len(images):
        small = F.avg_pool2d(images, settings.factor)
        return F.interpolate(small, scale_factor=settings.factor, mode="bilinear")
    return images


def beta_at(step: int, settings: VaeSettings) -> float:
    """Weight of the KL divergence at a step (from 0)."""
    if settings.mode != "vae":
        return 0.0
    return settings.beta * min(1.0, (step + 1) / max(settings.beta_warmup, 1))


def update(
    players: Players, batch: Batch, beta: float, settings: VaeSettings, accelerator: Accelerator
) -> dict[str, torch.Tensor]:
    """One step of the optimiser, and in mode adversarial one of the opponent's.

    Returns, over all processes, the loss, its three terms and the share of latents in use; in mode
    adversarial also the opponent's loss.
    """
    model, adversary = players.model, players.adversary
    values = torch.zeros(len(LOSSES) + 1, device=accelerator.device)
    mu = batch.noise
    if len(batch.targets):
        with accelerator.autocast():
            noise = batch.noise if settings.mode == "vae" else torch.zeros_like(batch.noise)
            reconstruction, mu, logvar = model(batch.inputs, noise)
        with torch.autocast(accelerator.device.type, enabled=False):
            reconstruction = reconstruction.float()
            terms = (
                losses.reconstruction_loss(reconstruction, batch.targets),
                losses.kl_divergence(mu, logvar, settings.free_bits),
                losses.blur_loss(reconstruction, batch.targets),
            )
            loss = losses.vae_loss(terms, (settings.alpha, beta, settings.gamma))
            if adversary:
                adversary.requires_grad_(False)
                loss = loss + settings.adversary * losses.deceit(adversary(mu))
                adversary.requires_grad_(True)
        accelerator.backward(batch.share * loss)
        active = losses.active_share(mu)
        values = batch.share * torch.stack([loss, *terms, active]).detach()
    values = sum_gradients(model, values, accelerator)
    players.optimiser.step()
    players.optimiser.zero_grad()
    found = dict(zip((*LOSSES, "active"), values, strict=True))
    if adversary:
        found["adversary_loss"] = adversary_step(players, batch, mu.detach(), accelerator)
    return found


def adversary_step(
    players: Players, batch: Batch, encoded: torch.Tensor, accelerator: Accelerator
) -> torch.Tensor:
    """The opponent's update on vectors encoded just before and the step's draws of N(0, I)."""
    adversary: Any = players.adversary
    value = torch.zeros(1, device=accelerator.device)
    if len(encoded):
        loss = losses.detection(adversary(batch.noise), adversary(encoded))
        accelerator.backward(batch.share * loss)
        value = batch.share * loss.detach()[None]
    value = sum_gradients(adversary, value, accelerator)
    players.adversary_optimiser.step()
    players.adversary_optimiser.zero_grad()
    return value[0]
