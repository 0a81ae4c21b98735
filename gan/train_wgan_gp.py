"""Train a WGAN-GP on a prepared set or a folder of images.

    accelerate launch gan/train_wgan_gp.py --config configs/gan/thesis_z64.yaml

One step is one generator update and, before it on the same real batch, its critic updates. Several
processes share each batch (BatchNorm then sees each process's part of it).
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch.optim import Adam

from core.config import parse
from core.curves import plot, write_csv
from core.ema import Ema
from core.errors import command
from core.images import grid, write_png
from core.parallel import part_of, sum_gradients
from core.plan import activation_bytes, checkpoint_bytes, count_parameters
from core.runs import read_metrics
from core.seeds import batches_per_epoch, epoch_batch_at, image_noise, step_limit, stream
from core.session import Session, check_disk
from core.sets import ImageSet, open_set
from gan.losses import critic_loss, generator_loss, gradient_penalty, score_gap
from gan.networks import Critic, Generator
from gan.sample import draw
from gan.settings import WganGpSettings
from gan.weights import save_generator, settled

FAMILY = "wgan-gp"
CURVES = ("distance", "penalty", "generator_loss")
GRID_COLUMNS = 8


@dataclasses.dataclass
class Players:
    """Both networks and their optimisers, on the device."""

    generator: Generator
    critic: Critic
    generator_optimiser: Any
    critic_optimiser: Any


def train(settings: WganGpSettings, dry_run: bool = False) -> None:
    """Train, or go on from the run's newest checkpoint; `dry_run` checks all and tells the plan.

    Raises:
        UserError: bad data, a run of other settings, a full disk, a loss that is not finite.
    """
    image_set = open_set(settings.data)
    limit = step_limit(settings.steps, settings.epochs, len(image_set), settings.batch)
    settings = dataclasses.replace(settings, steps=limit)
    session = Session(FAMILY, settings, image_set)
    players = make_players(settings, session.accelerator)
    check_disk(session.run.path, disk_bytes(settings, players))
    if dry_run:
        session.say(plan(settings, image_set, players))
        return

    # Images in memory; what a checkpoint holds; on from there
    pixels = image_set.pixels(settings.size, "L" if settings.channels == 1 else "RGB")
    decay = settings.ema_decay
    ema = Ema(players.generator.parameters(), decay) if decay is not None else None
    session.start(
        vars(players) | ({"ema": ema} if ema else {}),
        generator_parameters=count_parameters(players.generator),
        critic_parameters=count_parameters(players.critic),
    )

    for step in session.steps(settings.batch):
        # This process's part of the batch, and of the noise drawn for all of it
        items = epoch_batch_at(step, len(image_set), settings.batch, settings.seed)
        mine = part_of(items, session.accelerator)
        share = len(mine) / len(items)
        real = read_images(pixels, mine).to(session.device)  # N x C x H x W in [0, 1]
        noise, alpha = draw_noise(settings, step, len(items))
        noise = part_of(noise, session.accelerator).to(session.device)  # N x (K + 1) x z_dim
        alpha = part_of(alpha, session.accelerator).to(session.device)  # N x K

        # K critic updates on the same images, then the generator's one
        updates = [
            critic_step(
                players,
                real,
                noise[:, k],
                alpha[:, k],
                settings.penalty,
                share,
                session.accelerator,
            )
            for k in range(settings.critic_steps)
        ]
        loss = generator_step(players, noise[:, -1], share, session.accelerator)
        if ema:
            ema.update(players.generator.parameters(), step)

        # Losses, grids of samples, weights for the sampler
        gap, penalty = torch.stack(updates).mean(0)
        session.log(
            distance=-gap,
            penalty=penalty,
            critic_loss=critic_loss(gap, penalty, settings.penalty),
            generator_loss=loss,
        )
        if session.due_after(settings.preview_every) and session.main:
            write_preview(players.generator, ema, settings, session.run.path, step + 1)
        if session.due_after(settings.checkpoint_every):
            session.flush()
            if session.main:
                write_weights(players.generator, ema, settings, session.run.weights)
                write_curves(session.run.path)

    session.finish()


def make_players(settings: WganGpSettings, accelerator: Accelerator) -> Players:
    """Fresh networks, the same in every process, and their optimisers."""
    generator, critic = make_networks(settings)
    generator.to(accelerator.device)
    critic.to(accelerator.device)
    optimisers = [
        accelerator.prepare(Adam(network.parameters(), lr=settings.lr, betas=settings.betas))
        for network in (generator, critic)
    ]
    return Players(generator, critic, *optimisers)


def make_networks(settings: WganGpSettings) -> tuple[Generator, Critic]:
    size, channels, width = settings.size, settings.channels, settings.width
    return Generator(settings.z_dim, size, channels, width), Critic(size, channels, width)


def read_images(pixels: np.ndarray, items: list[int]) -> torch.Tensor:
    """uint8 M x H x W (x 3) -> float32 N x C x H x W in [0, 1]."""
    images = torch.from_numpy(pixels[np.array(items, dtype=int)]).float() / 255
    return images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()


def draw_noise(
    settings: WganGpSettings, step: int, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """All random numbers of a step for `count` images, K critic updates and the generator's.

    Returns latent vectors, count x (K + 1) x z_dim, from N(0, 1); alphas, count x K, from U(0, 1).
    """
    updates = settings.critic_steps
    source = stream(settings.seed, "noise", step)
    noise = torch.randn(count, updates + 1, settings.z_dim, generator=source)
    return noise, torch.rand(count, updates, generator=source)


def critic_step(
    players: Players,
    real: torch.Tensor,
    noise: torch.Tensor,
    alpha: torch.Tensor,
    penalty_weight: float,
    share: float,
    accelerator: Accelerator,
) -> torch.Tensor:
    """One update of the critic.

    Args:
        real, noise, alpha: this process's N images, latent vectors, mixing numbers; N may be 0.
        share: N over the images of all processes.

    Returns score gap and penalty over all processes, 2.
    """
    values = torch.zeros(2, device=accelerator.device)
    if len(real):
        # The fakes need no graph through the generator. Its BatchNorm sees this batch alone.
        with torch.no_grad(), accelerator.autocast():
            fake = players.generator(noise).float()
        with accelerator.autocast():
            # Apart, not as one batch: so the last bias's gradients, 1 and -1, cancel exactly. What
            # rounding leaves of them Adam would blow up to full steps, a drift of all scores.
            gap = score_gap(players.critic(real).float(), players.critic(fake).float())
        with torch.autocast(accelerator.device.type, enabled=False):  # the penalty stays exact
            penalty = gradient_penalty(players.critic, real, fake, alpha)
        accelerator.backward(share * critic_loss(gap, penalty, penalty_weight))
        values = share * torch.stack([gap, penalty]).detach()
    values = sum_gradients(players.critic, values, accelerator)
    players.critic_optimiser.step()
    players.critic_optimiser.zero_grad()
    return values


def generator_step(
    players: Players, noise: torch.Tensor, share: float, accelerator: Accelerator
) -> torch.Tensor:
    """One update of the generator. Arguments as in `critic_step`. Returns its loss."""
    value = torch.zeros(1, device=accelerator.device)
    if len(noise):
        players.critic.requires_grad_(False)
        with accelerator.autocast():
            scores = players.critic(players.generator(noise)).float()
        loss = generator_loss(scores)
        accelerator.backward(share * loss)
        players.critic.requires_grad_(True)
        value = share * loss.detach()[None]
    value = sum_gradients(players.generator, value, accelerator)
    players.generator_optimiser.step()
    players.generator_optimiser.zero_grad()
    return value[0]


def write_preview(
    generator: Generator, ema: Ema | None, settings: WganGpSettings, run: Path, step: int
) -> None:
    """previews/step-000400.png: what `osteon generate` would draw now for the seeds 0, 1, 2, ..."""
    sampled = settled(generator, ema, settings.batch, settings.seed)
    noise = image_noise(range(settings.preview_count), (settings.z_dim,))
    images = draw(sampled, noise.to(next(sampled.parameters()).device))
    sheet = grid(images, min(GRID_COLUMNS, len(images)))
    write_png(sheet, run / f"previews/step-{step:06d}.png", synthetic=True)


def write_weights(
    generator: Generator, ema: Ema | None, settings: WganGpSettings, folder: Path
) -> None:
    config = {name: getattr(settings, name) for name in ("z_dim", "size", "channels", "width")}
    sampled = settled(generator, ema, settings.batch, settings.seed)
    save_generator(sampled, config | {"ema": ema is not None}, folder)


def write_curves(run: Path) -> None:
    """losses.csv and curves.png from metrics.jsonl."""
    rows = read_metrics(run)
    write_csv(rows, run / "losses.csv")
    plot(rows, CURVES, run / "curves.png")


def disk_bytes(settings: WganGpSettings, players: Players) -> int:
    """Of the run folder: the checkpoints kept, one more while it is written, and weights."""
    checkpoint = checkpoint_bytes([players.generator, players.critic])
    return checkpoint * (settings.checkpoints_kept + 2)


def memory_bytes(settings: WganGpSettings) -> int:
    """Rough need of the device at the peak of a step."""
    with torch.device("meta"):
        generator, critic = make_networks(settings)
    image = (settings.batch, settings.channels, settings.size, settings.size)
    judged = activation_bytes(critic, image)
    made = activation_bytes(generator, (settings.batch, settings.z_dim))
    # Scores of real and fake; the penalty's pass, its gradient, and the graph of that gradient
    activations = max(6 * judged, 2 * (made + judged))
    return activations + 2 * checkpoint_bytes([generator, critic])


def plan(settings: WganGpSettings, image_set: ImageSet, players: Players) -> str:
    """What a run would do and need, for a person."""
    per_epoch = batches_per_epoch(len(image_set), settings.batch)
    return "\n".join(
        [
            f"data       {image_set.name}: {len(image_set)} images, {image_set.mode}",
            f"steps      {settings.steps}, {per_epoch} an epoch, batch {settings.batch}",
            f"generator  {count_parameters(players.generator):,} parameters, {settings.size} px",
            f"critic     {count_parameters(players.critic):,} parameters",
            f"memory     about {memory_bytes(settings) / 1e6:,.0f} MB",
            f"disk       about {disk_bytes(settings, players) / 1e6:,.0f} MB in {settings.run_dir}",
        ]
    )


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Command line of the trainer."""
    parsed = parse(WganGpSettings, argv, __doc__ or "")
    train(parsed.settings, parsed.dry_run)


if __name__ == "__main__":
    main()
