"""One update of each player."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim import Adam

from core.errors import UserError
from core.parallel import sum_gradients
from gan import losses
from gan.augment import Augmentation, augment
from gan.batches import Batch
from gan.health import diversity, gradient_norm
from gan.settings import WganGpSettings
from gan.weights import make_networks


@dataclass
class Players:
    """Both networks and their optimisers, on the device."""

    generator: Any
    critic: Any
    generator_optimiser: Any
    critic_optimiser: Any
    augmentation: Augmentation | None = None
    penalty: Callable[..., Any] | None = None
    """`losses.compiled_penalty` of the critic; None: in eager mode."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of them."""
        return {name: item for name, item in vars(self).items() if hasattr(item, "state_dict")}


def make_players(settings: WganGpSettings, accelerator: Accelerator, classes: int = 0) -> Players:
    """Fresh networks, the same in every process, and their optimisers."""
    device = accelerator.device
    networks = make_networks(settings, classes)
    cuda = device.type == "cuda"
    for network in networks:  # channels last: what a GPU's convolutions are written for
        network.to(device, memory_format=torch.channels_last if cuda else torch.preserve_format)
    rates = (settings.lr, settings.critic_lr or settings.lr)
    fused = cuda and accelerator.scaler is None
    optimisers = [
        accelerator.prepare(Adam(network.parameters(), lr=lr, betas=settings.betas, fused=fused))
        for network, lr in zip(networks, rates, strict=True)
    ]
    augmentation = None
    if settings.augment is not None:
        augmentation = Augmentation(settings.augment, settings.augment_target, device)
    penalty = None
    if settings.compile and settings.penalty:
        if accelerator.scaler is not None:
            raise UserError("compile goes with fp32 or bf16; give one of them, or compile false.")
        penalty = losses.compiled_penalty(networks[1])
    return Players(*networks, *optimisers, augmentation, penalty)


def critic_step(
    players: Players,
    batch: Batch,
    k: int,
    settings: WganGpSettings,
    accelerator: Accelerator,
    penalised: bool = True,
) -> dict[str, torch.Tensor]:
    """The critic's update number `k` on a batch.

    Returns, over all processes: gap, penalty (where `penalised`), loss and the gradient's norm.
    """
    critic = players.critic
    values = torch.zeros(4, device=accelerator.device)
    if len(batch.real):
        # The fakes need no graph through the generator. Its BatchNorm sees this batch alone.
        with torch.no_grad(), accelerator.autocast():
            fake = players.generator(batch.noise[:, k], batch.labels).float()
        real, fake = seen(players, batch, k, batch.real, 0), seen(players, batch, k, fake, 1)
        with accelerator.autocast():
            # Apart, not as one batch: so the last bias's gradients, 1 and -1, cancel exactly. What
            # rounding leaves of them Adam would blow up to full steps, a drift of all scores.
            scores = critic(real, batch.labels).float(), critic(fake, batch.labels).float()
        gap = losses.score_gap(*scores)
        loss = gap if settings.loss == "wgan-gp" else losses.discriminator_entropy(*scores)
        if settings.drift:
            loss = loss + settings.drift * losses.score_drift(scores[0])
        penalty = torch.zeros_like(gap)
        weight = settings.penalty * settings.penalty_every
        if penalised and players.penalty is None:
            with torch.autocast(accelerator.device.type, enabled=False):  # it stays exact
                penalty = losses.gradient_penalty(
                    lambda mixed: critic(mixed, batch.labels), real, fake, batch.alpha[:, k]
                )
            loss = losses.critic_loss(loss, penalty, weight)
        accelerator.backward(batch.share * loss)
        if penalised and players.penalty is not None:
            mixed = losses.mix(real, fake, batch.alpha[:, k])
            own = dict(critic.named_parameters())
            gradients, penalty = players.penalty(own, mixed, batch.labels)
            for name, parameter in own.items():
                parameter.grad.add_(gradients[name], alpha=batch.share * weight)
            loss = losses.critic_loss(loss, penalty, weight)
        realism = losses.realism(*scores)
        values = batch.share * torch.stack([gap, penalty, loss, realism]).detach()
    gap, penalty, loss, realism = sum_gradients(critic, values, accelerator)
    found = {"gap": gap, "critic_loss": loss} | ({"penalty": penalty} if penalised else {})
    found |= norm_of(critic, "critic_gradient", accelerator)
    if settings.skip_below is None or loss >= settings.skip_below:
        players.critic_optimiser.step()
    players.critic_optimiser.zero_grad()
    if players.augmentation:
        players.augmentation.adapt(realism, settings.batch)
    return found


def generator_step(
    players: Players, batch: Batch, settings: WganGpSettings, accelerator: Accelerator
) -> dict[str, torch.Tensor]:
    """The generator's update. Returns, over all processes, its loss, the diversity of its images
    and the gradient's norm."""
    values = torch.zeros(2, device=accelerator.device)
    if len(batch.real):
        players.critic.requires_grad_(False)
        with accelerator.autocast():
            fake = players.generator(batch.noise[:, -1], batch.labels)
            scores = players.critic(seen(players, batch, -1, fake, 1), batch.labels).float()
        wasserstein = settings.loss == "wgan-gp"
        loss = (losses.generator_loss if wasserstein else losses.non_saturating_loss)(scores)
        accelerator.backward(batch.share * loss)
        players.critic.requires_grad_(True)
        varied = diversity(fake, batch.real)
        values = batch.share * torch.stack([loss.detach(), varied])
    loss, varied = sum_gradients(players.generator, values, accelerator)
    found = {"generator_loss": loss, "diversity": varied}
    found |= norm_of(players.generator, "generator_gradient", accelerator)
    players.generator_optimiser.step()
    players.generator_optimiser.zero_grad()
    return found


def seen(players: Players, batch: Batch, k: int, images: torch.Tensor, kind: int) -> torch.Tensor:
    """Images as the critic gets to see them; `kind`: 0 real, 1 generated."""
    if players.augmentation is None or batch.changes is None:
        return images
    return augment(images, batch.changes[:, k, kind], players.augmentation.probability)


def norm_of(module: nn.Module, name: str, accelerator: Accelerator) -> dict[str, torch.Tensor]:
    """The gradient's norm by its name; none under a gradient scaler, where it is scaled."""
    return {} if accelerator.scaler is not None else {name: gradient_norm(module)}
