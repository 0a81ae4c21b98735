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
from torch.optim import Adam

from core.config import parse
from core.curves import plot, write_csv
from core.errors import command
from core.images import grid, write_png
from core.parallel import part_of, sum_gradients
from core.plan import activation_bytes, checkpoint_bytes, count_parameters
from core.runs import read_metrics
from core.seeds import batches_per_epoch, epoch_batch_at, image_noise, step_limit, stream
from core.session import Session, check_disk
from core.sets import ImageSet, open_set
from vae.losses import blur_loss, kl_divergence, reconstruction_loss, vae_loss
from vae.networks import Vae
from vae.sample import draw
from vae.settings import VaeSettings
from vae.weights import save_model, save_weights

FAMILY = "vae"
LOSSES = ("loss", "reconstruction", "kl", "blur")
GRID_IMAGES, GRID_COLUMNS = 64, 8


def train(settings: VaeSettings, dry_run: bool = False) -> None:
    """Train, or go on from the run's newest checkpoint; `dry_run` checks all and tells the plan.

    Raises:
        UserError: bad data, a run of other settings, a full disk, a loss that is not finite.
    """
    image_set = open_set(settings.data)
    settings = resolved(settings, len(image_set))
    session = Session(FAMILY, settings, image_set)
    model = make_model(settings).to(session.device)
    optimiser = session.accelerator.prepare(Adam(model.parameters(), lr=settings.lr))
    check_disk(session.run.path, disk_bytes(settings, model))
    if dry_run:
        session.say(plan(settings, image_set, model))
        return

    # Images in memory; what a checkpoint holds; on from there
    pixels = image_set.pixels(settings.img_size, "L" if settings.in_channels == 1 else "RGB")
    session.start({"model": model, "optimiser": optimiser}, parameters=count_parameters(model))

    for step in session.steps(settings.batch_size):
        # This process's part of the batch, and of the noise drawn for all of it
        items = epoch_batch_at(step, len(image_set), settings.batch_size, settings.seed)
        mine = part_of(items, session.accelerator)
        images = read_images(pixels, mine).to(session.device)  # N x C x H x W in [-1, 1]
        source = stream(settings.seed, "noise", step)
        noise = torch.randn(len(items), settings.latent_dim, generator=source)
        noise = part_of(noise, session.accelerator).to(session.device)

        # One update
        share = len(mine) / len(items)
        losses = update(model, optimiser, images, noise, settings, share, session.accelerator)
        if backed_off(optimiser, session.accelerator):
            session.log(gradient_scale=session.accelerator.scaler.get_scale())
        else:
            session.log(**dict(zip(LOSSES, losses, strict=True)))

        # Grids of samples, table of losses, weights for the sampler
        if session.due_after(settings.preview_every) and session.main:
            preview = session.run.path / f"previews/step-{step + 1:06d}.png"
            write_grid(model, settings.preview_count, preview)
        if session.due_after(settings.checkpoint_every):
            session.flush()
            if session.main:
                write_outputs(model, settings, session.run.path, step + 1, len(image_set))

    session.finish()


def resolved(settings: VaeSettings, count: int) -> VaeSettings:
    """Settings with the steps and their rhythm worked out for `count` images."""
    per_epoch = batches_per_epoch(count, settings.batch_size)
    return dataclasses.replace(
        settings,
        steps=step_limit(settings.steps, settings.num_epochs, count, settings.batch_size),
        checkpoint_every=settings.checkpoint_every or per_epoch,
    )


def network_config(settings: VaeSettings) -> dict[str, int]:
    """Keywords of `Vae`."""
    names = ("img_size", "latent_dim", "in_channels", "depth", "width")
    return {name: getattr(settings, name) for name in names}


def make_model(settings: VaeSettings) -> Vae:
    return Vae(**network_config(settings))


def read_images(pixels: np.ndarray, items: list[int]) -> torch.Tensor:
    """uint8 M x H x W (x 3) -> float32 N x C x H x W in [-1, 1] (mean 0.5, std 0.5)."""
    images = torch.from_numpy(pixels[np.array(items, dtype=int)]).float() / 127.5 - 1
    return images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()


def update(
    model: Vae,
    optimiser: Any,
    images: torch.Tensor,
    noise: torch.Tensor,
    settings: VaeSettings,
    share: float,
    accelerator: Accelerator,
) -> torch.Tensor:
    """One step of the optimiser.

    Args:
        images, noise: this process's N images and standard normal vectors; N may be 0.
        share: N over the images of all processes.

    Returns the loss and its three terms over all processes, 4.
    """
    values = torch.zeros(len(LOSSES), device=accelerator.device)
    if len(images):
        with accelerator.autocast():
            reconstruction, mu, logvar = model(images, noise)
        with torch.autocast(accelerator.device.type, enabled=False):
            reconstruction = reconstruction.float()
            terms = (
                reconstruction_loss(reconstruction, images),
                kl_divergence(mu, logvar),
                blur_loss(reconstruction, images),
            )
        loss = vae_loss(terms, (settings.alpha, settings.beta, settings.gamma))
        accelerator.backward(share * loss)
        values = share * torch.stack([loss, *terms]).detach()
    values = sum_gradients(model, values, accelerator)
    optimiser.step()
    optimiser.zero_grad()
    return values


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


def write_outputs(model: Vae, settings: VaeSettings, run: Path, steps: int, count: int) -> None:
    """Weights for the sampler, and the guide's outputs: CSV, plot, 8x8 grid, weights by epoch."""
    per_epoch = batches_per_epoch(count, settings.batch_size)
    save_model(model, network_config(settings), run / "weights")
    rows = epoch_rows(read_metrics(run), per_epoch)
    write_csv(rows, run / settings.log_file)
    epoch = -(-steps // per_epoch)
    pictures = run / settings.output_dir
    plot(rows, LOSSES, pictures / "losses.png", axis="epoch")
    write_grid(model, GRID_IMAGES, pictures / f"epoch-{epoch:04d}.png")
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
        model = make_model(settings)
    image = (settings.batch_size, settings.in_channels, settings.img_size, settings.img_size)
    activations = activation_bytes(model, image, (settings.batch_size, settings.latent_dim))
    return 2 * activations + 2 * checkpoint_bytes([model])  # values and gradients


def plan(settings: VaeSettings, image_set: ImageSet, model: Vae) -> str:
    """What a run would do and need, for a person."""
    per_epoch = batches_per_epoch(len(image_set), settings.batch_size)
    return "\n".join(
        [
            f"data     {image_set.name}: {len(image_set)} images, {image_set.mode}",
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
