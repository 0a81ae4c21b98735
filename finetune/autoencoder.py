"""First stage of the base model: the image autoencoder. Its own run, so that it resumes by itself.

Loss: L1, L1 of the differences between neighbouring pixels (edges), and a light KL divergence.
"""

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, get_scheduler

from core.files import atomic_folder
from core.images import from_array, grid, write_png
from core.seeds import batch_at, stream
from core.session import Session
from core.sets import open_set
from finetune.base_settings import AutoencoderRun
from finetune.networks import build_autoencoder


def reconstruction_loss(output: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Mean absolute error of B x C x H x W images in [-1, 1], plus that of their edges."""
    across = F.l1_loss(output.diff(dim=3), wanted.diff(dim=3))
    down = F.l1_loss(output.diff(dim=2), wanted.diff(dim=2))
    return F.l1_loss(output, wanted) + across + down


def to_tensor(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 B x H x W (x 3) -> float32 B x 3 x H x W in [-1, 1]; grey is repeated."""
    if pixels.ndim == 3:
        pixels = pixels.unsqueeze(-1).expand(-1, -1, -1, 3)
    return pixels.permute(0, 3, 1, 2).float().div(127.5).sub(1.0)


def to_images(tensor: torch.Tensor) -> list:
    """float B x 3 x H x W in [-1, 1] -> Pillow images."""
    pixels = tensor.float().add(1.0).mul(127.5).round().clamp(0, 255).to(torch.uint8)
    return from_array(pixels.permute(0, 2, 3, 1).cpu().numpy())


def train_autoencoder(settings: AutoencoderRun) -> None:
    """Train until `settings.steps`; the result lies in run_dir/weights (diffusers format)."""
    image_set = open_set(settings.data)
    session = Session("base", settings, image_set)
    own = settings.autoencoder
    torch.manual_seed(settings.seed)
    model = build_autoencoder(own, settings.size).to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(model.parameters(), lr=own.lr, weight_decay=0.0)
    schedule = get_scheduler(
        "linear", optimiser, num_warmup_steps=50, num_training_steps=settings.steps
    )
    model, optimiser = session.accelerator.prepare(model, optimiser)
    session.start(
        {"model": model, "optimiser": optimiser, "schedule": schedule},
        parameters=sum(p.numel() for p in model.parameters()),
    )
    images = torch.from_numpy(image_set.pixels(settings.size, "RGB"))  # uint8 N x H x W x 3
    world, rank = session.accelerator.num_processes, session.accelerator.process_index

    for step in session.steps(own.batch):
        chosen = batch_at(step, len(images), own.batch, settings.seed)[rank::world]
        wanted = to_tensor(images[chosen].to(session.device))

        with session.accelerator.autocast():
            posterior = session.accelerator.unwrap_model(model).encode(wanted).latent_dist
            noise = torch.randn(
                posterior.mean.shape, generator=stream(settings.seed, "latent", step, rank)
            ).to(session.device)
            output = (
                session.accelerator.unwrap_model(model)
                .decode(posterior.mean + posterior.std * noise)
                .sample
            )
            error = reconstruction_loss(output, wanted)
            divergence = posterior.kl().mean() / posterior.mean[0].numel()
            loss = error + own.kl * divergence

        session.accelerator.backward(loss)
        session.accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad(set_to_none=True)
        session.log(loss=loss, error=error, kl=divergence)

        if session.main and session.due_after(settings.preview_every):
            pairs = torch.cat([wanted[:8], output[:8]])
            write_png(
                grid(to_images(pairs.detach()), 8),
                session.run.path / "previews" / f"step-{step + 1:06d}.png",
            )

    save_scaled(session.accelerator.unwrap_model(model), images, session)
    session.finish(next_command="nothing to do; text encoder and UNet follow by themselves")


@torch.no_grad()
def save_scaled(model: AutoencoderKL, images: torch.Tensor, session: Session) -> None:
    """Set scaling_factor to 1 / standard deviation of the latents, and write weights/."""
    sample = to_tensor(images[:: max(1, len(images) // 512)].to(session.device))
    latents = torch.cat([model.encode(part).latent_dist.mean for part in sample.split(64)])
    model.register_to_config(scaling_factor=1.0 / float(latents.std()))
    if session.main:
        with atomic_folder(session.run.weights) as folder:
            model.save_pretrained(folder)
