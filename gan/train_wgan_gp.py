"""Train a WGAN-GP, or one of the course's GANs, on a prepared set or a folder of images.

    accelerate launch gan/train_wgan_gp.py --config configs/gan/thesis_z64.yaml

One step is one generator update and, before it on the same real batch, its critic updates. Several
processes share each batch (BatchNorm then sees each process's part of it).
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from core.config import parse
from core.curves import plot, write_csv
from core.ema import Ema
from core.errors import command
from core.images import check_images, grid, write_png
from core.measures import Measure
from core.plan import activation_bytes, check_disk, checkpoint_bytes, count_parameters
from core.runs import read_metrics
from core.seeds import batches_per_epoch, image_noise, step_limit
from core.session import Session
from core.sets import ImageSet, held_out_of, open_set
from gan import health
from gan.batches import Batches, read_classes
from gan.growing import level_at, shrink
from gan.sample import draw
from gan.settings import WganGpSettings
from gan.steps import Players, critic_step, generator_step, make_players
from gan.weights import keep_if_best, make_networks, network_config, save_generator, settled

FAMILY = "wgan-gp"
CURVES = ("distance", "penalty", "generator_loss", "diversity", "score_frechet")
GRID_COLUMNS = 8
SCORE_BATCH = 100
MOST_SEARCHED = 2000  # training images among which copies are sought while training


def train(settings: WganGpSettings, dry_run: bool = False) -> None:
    """Train, or go on from the run's newest checkpoint; `dry_run` checks all and tells the plan.

    Raises:
        UserError: bad data, a run of other settings, a full disk, a loss that is not finite.
    """
    image_set = open_set(settings.data)
    check_images(image_set.paths)
    if settings.flip:
        image_set.check_mirrored("flip")
    limit = step_limit(settings.steps, settings.epochs, len(image_set), settings.batch)
    settings = dataclasses.replace(settings, steps=limit)
    names, labels = read_classes(image_set, settings.condition)
    session = Session(FAMILY, settings, image_set, advice=health.ADVICE)
    measure = measure_of(settings, image_set, session)
    players = make_players(settings, session.accelerator, len(names))
    again = 2 * checkpoint_bytes([players.generator, players.critic])
    check_disk(session.run.path, disk_bytes(settings, players), again)
    if dry_run:
        session.say(plan(settings, image_set, players))
        return

    # Images in memory; what a checkpoint holds; on from there
    batches = Batches(settings, image_set, labels, players.generator.low, session.accelerator)
    decay = settings.ema_decay
    ema = Ema(players.generator.parameters(), decay) if decay is not None else None
    session.start(
        players.state() | ({"ema": ema} if ema else {}),
        beware=image_set.greyed("channels", settings.channels),
        objective=f"{settings.loss}, networks {network_config(settings)['networks']}",
        generator_parameters=count_parameters(players.generator),
        critic_parameters=count_parameters(players.critic),
    )
    now = Snapshot(players, ema, settings, session.run.path, names, labels)

    for step in session.steps(settings.batch):
        batch = batches(step)
        if settings.grow:
            level = level_at(step, settings.grow, settings.size)
            players.generator.level = players.critic.level = level
            batch = dataclasses.replace(batch, real=shrink(batch.real, level))

        # K critic updates on the same images, then the generator's one
        updates = []
        for k in range(settings.critic_steps):
            number = step * settings.critic_steps + k
            penalised = settings.penalty > 0 and number % settings.penalty_every == 0
            updates.append(critic_step(players, batch, k, settings, session.accelerator, penalised))
        made = generator_step(players, batch, settings, session.accelerator)
        if ema:
            ema.update(players.generator.parameters(), step)

        # Losses and health; all stays on the device until the next flush
        session.log(**means(updates), **made, **chances(players))

        # Grids of samples, scores, weights for the sampler
        if session.due_after(settings.preview_every) and session.main:
            now.write_preview(step + 1)
        if session.due_after(settings.checkpoint_every):
            session.check_finite(step + 1)  # the older weights stay
            if session.main:
                now.write_weights(session.run.weights)
                write_curves(session.run.path)
                session.warn(health.warnings_of(read_metrics(session.run.path)))
        if measure and session.due_after(settings.score_every):
            session.check_finite(step + 1)
            score = take_score(now, measure, session)
            session.log(**{f"score_{name}": value for name, value in score.items()})
            if session.main:
                now.write_weights(session.run.weights)
                keep_if_best(session.run.weights, score, step + 1, now.run / "best")

    session.finish()


@dataclasses.dataclass
class Snapshot:
    """The generator as a sampler would have it now."""

    players: Players
    ema: Ema | None
    settings: WganGpSettings
    run: Path
    names: list[str]
    labels: list[int] | None

    def settle(self) -> Any:
        labels = None if self.labels is None else torch.tensor(self.labels)
        settings = self.settings
        return settled(self.players.generator, self.ema, settings.batch, settings.seed, labels)

    def draw(self, count: int) -> list[Any]:
        """What `osteon generate` would draw now for the seeds 0, 1, 2, ..."""
        sampled, images = self.settle(), []
        device = next(sampled.parameters()).device
        for first in range(0, count, SCORE_BATCH):
            seeds = range(first, min(first + SCORE_BATCH, count))
            noise = image_noise(seeds, (self.settings.z_dim,)).to(device)
            classes = torch.tensor(seeds, device=device) % len(self.names) if self.names else None
            images += draw(sampled, noise, classes)
        return images

    def write_preview(self, step: int) -> None:
        """previews/step-000400.png"""
        images = self.draw(self.settings.preview_count)
        sheet = grid(images, min(GRID_COLUMNS, len(images)))
        write_png(sheet, self.run / f"previews/step-{step:06d}.png", synthetic=True)

    def write_weights(self, folder: Path) -> None:
        config = network_config(self.settings) | {"ema": self.ema is not None}
        config |= {"classes": self.names} if self.names else {}
        save_generator(self.settle(), config, folder)


def measure_of(settings: WganGpSettings, image_set: ImageSet, session: Session) -> Measure | None:
    """What scores generated images; None where it is not asked for."""
    if not settings.score_every:
        return None
    real = open_set(settings.score_data) if settings.score_data else held_out_of(settings.data)
    searched = dataclasses.replace(
        image_set, paths=image_set.paths[:MOST_SEARCHED], rows=image_set.rows[:MOST_SEARCHED]
    )
    return Measure(real, searched, settings.size, str(session.device))


def take_score(now: Snapshot, measure: Measure, session: Session) -> dict[str, float]:
    """Scores of fresh images, which are left in run_dir/scored; all processes work together."""
    folder = now.run / "scored"
    if session.main:
        for number, image in enumerate(now.draw(now.settings.score_images)):
            write_png(image, folder / f"{number:06d}.png", synthetic=True)
    session.accelerator.wait_for_everyone()
    return measure(open_set(folder))


def means(updates: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Of the critic's updates, each value over those that have it; the gap as a distance."""
    found = {}
    for name in dict.fromkeys(name for update in updates for name in update):
        values = [update[name] for update in updates if name in update]
        found[name] = torch.stack(values).mean()
    return {"distance": -found.pop("gap")} | found


def chances(players: Players) -> dict[str, torch.Tensor]:
    if players.augmentation is None:
        return {}
    return {"augment_probability": players.augmentation.probability}


def write_curves(run: Path) -> None:
    """losses.csv and curves.png from metrics.jsonl."""
    rows = read_metrics(run)  # of steps, and between them of scores
    write_csv([row for row in rows if "generator_loss" in row], run / "losses.csv")
    known = {name for row in rows for name in row}
    plot(rows, [name for name in CURVES if name in known], run / "curves.png")


def disk_bytes(settings: WganGpSettings, players: Players) -> int:
    """Of the run folder: the checkpoints kept, one more while it is written, and weights."""
    checkpoint = checkpoint_bytes([players.generator, players.critic])
    return checkpoint * (settings.checkpoints_kept + 2)


def memory_bytes(settings: WganGpSettings) -> int:
    """Rough need of the device at the peak of a step."""
    with torch.device("meta"):
        generator, critic = make_networks(dataclasses.replace(settings, grow=None))
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
            *(f"beware     {line}" for line in image_set.greyed("channels", settings.channels)),
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
