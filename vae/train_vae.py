"""Train a variational autoencoder on a prepared set or a folder of images.

    accelerate launch vae/train_vae.py --config configs/vae/guide.yaml

Mixed precision and processes are Accelerate's (`accelerate launch --mixed_precision fp16 ...`).
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from core.config import parse
from core.curves import plot, write_csv
from core.errors import command
from core.images import check_images, from_array, grid, write_png
from core.parallel import part_of
from core.plan import activation_bytes, check_disk, checkpoint_bytes, count_parameters
from core.runs import read_metrics
from core.seeds import batches_per_epoch, epoch_batch_at, image_noise, step_limit
from core.session import Session
from core.sets import ImageSet, open_set
from vae import health
from vae.networks import Vae
from vae.sample import draw
from vae.settings import VaeSettings
from vae.steps import (
    LOSSES,
    beta_at,
    corrupted,
    make_batch,
    make_players,
    network_config,
    update,
)
from vae.weights import save_model, save_weights

FAMILY = "vae"
GRID_IMAGES, GRID_COLUMNS = 64, 8
PAIRS = 8


def train(settings: VaeSettings, dry_run: bool = False) -> None:
    """Train, or go on from the run's newest checkpoint; `dry_run` checks all and tells the plan.

    Raises:
        UserError: bad data, a run of other settings, a full disk, a loss that is not finite.
    """
    image_set = open_set(settings.data)
    check_images(image_set.paths)
    settings = resolved(settings, len(image_set))
    session = Session(FAMILY, settings, image_set, advice=health.ADVICE)
    players = make_players(settings, session.accelerator)
    model, optimiser = players.model, players.optimiser
    check_disk(session.run.path, disk_bytes(settings, model), 2 * checkpoint_bytes([model]))
    if dry_run:
        session.say(plan(settings, image_set, model))
        return

    # Images in memory; what a checkpoint holds; on from there
    pixels = image_set.pixels(settings.img_size, "L" if settings.in_channels == 1 else "RGB")
    beware = image_set.greyed("in_channels", settings.in_channels)
    session.start(players.state(), beware=beware, parameters=count_parameters(model))

    for step in session.steps(settings.batch_size):
        # This process's part of the batch, and of the numbers drawn for all of it
        items = epoch_batch_at(step, len(image_set), settings.batch_size, settings.seed)
        mine = part_of(items, session.accelerator)
        images = read_images(pixels, mine).to(session.device)  # N x C x H x W in [-1, 1]
        batch = make_batch(images, step, len(items), settings, session.accelerator)

        # One update
        values = update(players, batch, beta_at(step, settings), settings, session.accelerator)
        if backed_off(optimiser, session.accelerator):
            session.log(gradient_scale=session.accelerator.scaler.get_scale())
        else:
            session.log(**values)

        # Grids of samples, table of losses, weights for the sampler
        if session.due_after(settings.preview_every) and session.main:
            preview = session.run.path / f"previews/step-{step + 1:06d}.png"
            write_grid(model, settings.preview_count, preview)
        if session.due_after(settings.checkpoint_every):
            session.check_finite(step + 1)
            if session.main:
                write_outputs(model, settings, session.run.path, step + 1, pixels)
                rows = read_metrics(session.run.path)
                session.warn(health.warnings_of(rows) if settings.mode == "vae" else [])

    session.finish()


def resolved(settings: VaeSettings, count: int) -> VaeSettings:
    """Settings with the steps and their rhythm worked out for `count` images."""
    per_epoch = batches_per_epoch(count, settings.batch_size)
    return dataclasses.replace(
        settings,
        steps=step_limit(settings.steps, settings.num_epochs, count, settings.batch_size),
        checkpoint_every=settings.checkpoint_every or per_epoch,
    )


def read_images(pixels: np.ndarray, items: list[int]) -> torch.Tensor:
    """uint8 M x H x W (x 3) -> float32 N x C x H x W in [-1, 1] (mean 0.5, std 0.5)."""
    images = torch.from_numpy(pixels[np.array(items, dtype=int)]).float() / 127.5 - 1
    return images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()


def backed_off(optimiser: Any, accelerator: Accelerator) -> bool:
    """Whether fp16 overflowed, so that the scaler skipped the step and shrank its factor.

    False once the factor is below 1: shrinking has not helped, and the losses, not finite, stop the
    run.
    """
    return optimiser.step_was_skipped and accelerator.scaler.get_scale() >= 1


def write_grid(model: Vae, count: int, path: Path) -> None:
    """What `osteon generate` would draw now for the seeds 0, 1, 2, ..., as one picture."""
    latents = image_noise(range(count), (model.latent_dim,)).to(next(model.parameters()).device)
    write_png(grid(draw(model, latents), min(GRID_COLUMNS, count)), path, synthetic=True)


@torch.no_grad()
def write_pairs(model: Vae, settings: VaeSettings, pixels: np.ndarray, path: Path) -> None:
    """The first images and, below, their reconstructions; above, what went in where it differs."""
    device = next(model.parameters()).device
    images = read_images(pixels, list(range(min(PAIRS, len(pixels))))).to(device)
    inputs = corrupted(images, 0, len(images), settings)
    mu, _ = model.encode(inputs)
    rows = [*([] if inputs is images else [inputs]), images, model.decode(mu)]
    values = (torch.cat(rows).float().clamp(-1, 1) + 1) * 127.5  # rows x N, C x H x W
    pictures = from_array(values.round().byte().permute(0, 2, 3, 1).cpu().numpy())
    write_png(grid(pictures, len(images)), path)


def write_outputs(
    model: Vae, settings: VaeSettings, run: Path, steps: int, pixels: np.ndarray
) -> None:
    """Weights for the sampler, and the guide's outputs: CSV, plot, 8x8 grid, weights by epoch;
    beside them, pairs of images and reconstructions."""
    per_epoch = batches_per_epoch(len(pixels), settings.batch_size)
    save_model(model, network_config(settings), run / "weights")
    rows = epoch_rows(read_metrics(run), per_epoch)
    epoch = -(-steps // per_epoch)
    pictures = run / settings.output_dir
    if rows:  # fp16's scaler may still be looking for its factor
        write_csv(rows, run / settings.log_file)
        plot(rows, LOSSES, pictures / "losses.png", axis="epoch")
    write_grid(model, GRID_IMAGES, pictures / f"epoch-{epoch:04d}.png")
    write_pairs(model, settings, pixels, pictures / f"pairs-{epoch:04d}.png")
    saved = run / settings.model_save_dir
    save_weights(model, saved / f"epoch-{epoch:04d}.safetensors")
    for old in sorted(saved.glob("epoch-*.safetensors"))[: -settings.checkpoints_kept]:
        old.unlink()


def epoch_rows(metrics: list[dict[str, Any]], per_epoch: int) -> list[dict[str, Any]]:
    """Mean losses of each epoch; the last may still be short of steps."""
    epochs: dict[int, list[dict[str, Any]]] = {}
    for row in metrics:
        if "loss" in row:  # not a step that was skipped
            epochs.setdefault((row["step"] - 1) // per_epoch + 1, []).append(row)
    return [
        {"epoch": epoch}
        | {name: sum(row[name] for row in rows) / len(rows) for name in LOSSES}
        | {"seconds": rows[-1]["seconds"]}
        for epoch, rows in epochs.items()
    ]


def disk_bytes(settings: VaeSettings, model: Vae) -> int:
    """Of the run folder: checkpoints and weights kept, one more while they are written."""
    return 2 * checkpoint_bytes([model]) * (settings.checkpoints_kept + 1)


def memory_bytes(settings: VaeSettings) -> int:
    """Rough need of the device at the peak of a step."""
    with torch.device("meta"):
        model = Vae(**network_config(settings))
    image = (settings.batch_size, settings.in_channels, settings.img_size, settings.img_size)
    activations = activation_bytes(model, image, (settings.batch_size, settings.latent_dim))
    return 2 * activations + 2 * checkpoint_bytes([model])  # values and gradients


def plan(settings: VaeSettings, image_set: ImageSet, model: Vae) -> str:
    """What a run would do and need, for a person."""
    per_epoch = batches_per_epoch(len(image_set), settings.batch_size)
    return "\n".join(
        [
            f"data     {image_set.name}: {len(image_set)} images, {image_set.mode}",
            *(f"beware   {line}" for line in image_set.greyed("in_channels", settings.in_channels)),
            f"steps    {settings.steps}, {per_epoch} an epoch, batch {settings.batch_size}",
            f"network  {count_parameters(model):,} parameters, {settings.img_size} px",
            f"memory   about {memory_bytes(settings) / 1e6:,.0f} MB",
            f"disk     about {disk_bytes(settings, model) / 1e6:,.0f} MB in {settings.run_dir}",
        ]
    )


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Command line of the trainer."""
    parsed = parse(VaeSettings, argv, __doc__ or "")
    train(parsed.settings, parsed.dry_run)


if __name__ == "__main__":
    main()
