"""First stage of the base model: the image autoencoder. Its own run, so that it resumes by itself.

Loss: L1 of pixels, of differences between neighbouring pixels (edges) and of colour, and a light KL
divergence.
"""

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, get_scheduler

from core.files import atomic_folder
from core.images import from_array, grid, write_png
from core.parallel import part_of
from core.plan import count_parameters
from core.seeds import batch_at, stream
from core.session import Session
from core.sets import open_set
from finetune.base_settings import AutoencoderRun
from finetune.networks import build_autoencoder, latent_side


def reconstruction_loss(output: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Mean absolute error of B x 3 x H x W images in [-1, 1], plus that of edges and of colour.

    Colour is each channel less the mean of the three. Without a term of its own it is learned
    last: few pixels have much of it, and X-rays have none.
    """
    across = F.l1_loss(output.diff(dim=3), wanted.diff(dim=3))
    down = F.l1_loss(output.diff(dim=2), wanted.diff(dim=2))
    colour = F.l1_loss(colours(output), colours(wanted))
    return F.l1_loss(output, wanted) + across + down + 2 * colour


def colours(images: torch.Tensor) -> torch.Tensor:
    """B x 3 x H x W -> like it: what is left of each channel without the grey."""
    return images - images.mean(dim=1, keepdim=True)


def to_tensor(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 B x H x W (x 3) -> float32 B x 3 x H x W in [-1, 1]; grey is repeated."""
    if pixels.ndim == 3:
        pixels = pixels.unsqueeze(-1).expand(-1, -1, -1, 3)
    return pixels.permute(0, 3, 1, 2).float().div(127.5).sub(1.0)


def to_images(tensor: torch.Tensor) -> list:
    """float B x 3 x H x W in [-1, 1] -> Pillow images."""
    pixels = tensor.float().add(1.0).mul(127.5).round().clamp(0, 255).to(torch.uint8)
    return from_array(pixels.permute(0, 2, 3, 1).cpu().numpy())


class Reconstructor(torch.nn.Module):
    """Encode, draw a latent, decode: one module, so that several processes train it as one."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae

    def forward(
        self, images: torch.Tensor, noise: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """B x 3 x H x W in [-1, 1], B x C x h x w noise -> like `images`; KL per latent element."""
        posterior = self.vae.encode(images).latent_dist
        output = self.vae.decode(posterior.mean + posterior.std * noise).sample
        return output, posterior.kl().mean() / noise[0].numel()


def open_autoencoder(settings: AutoencoderRun) -> AutoencoderKL:
    """A new one, or the one to start from with its encoder frozen (its latents stay valid)."""
    if settings.start is None:
        return build_autoencoder(settings.autoencoder, settings.size)
    vae = AutoencoderKL.from_pretrained(settings.start)
    for frozen in (vae.encoder, vae.quant_conv):
        frozen.requires_grad_(False)
    return vae


def train_autoencoder(settings: AutoencoderRun) -> None:
    """Train until `settings.steps`; the result lies in run_dir/weights (diffusers format)."""
    image_set = open_set(settings.data)
    session = Session("base", settings, image_set)
    accelerator = session.accelerator
    own = settings.autoencoder
    torch.manual_seed(settings.seed)
    vae = open_autoencoder(settings)
    model = Reconstructor(vae).to(memory_format=torch.channels_last)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=own.lr, weight_decay=0.0)
    schedule = get_scheduler(
        "linear", optimiser, num_warmup_steps=50, num_training_steps=settings.steps
    )
    model, optimiser = accelerator.prepare(model, optimiser)
    session.start(
        {"model": model, "optimiser": optimiser, "schedule": schedule},
        parameters=count_parameters(model),
    )
    images = torch.from_numpy(image_set.pixels(settings.size, "RGB"))  # uint8 N x H x W x 3
    side = latent_side(own, settings.size)
    latent = (own.batch, own.latent_channels, side, side)

    for step in session.steps(own.batch):
        chosen = batch_at(step, len(images), own.batch, settings.seed)
        noise = torch.randn(latent, generator=stream(settings.seed, "latent", step))
        wanted = to_tensor(images[part_of(chosen, accelerator)].to(session.device))

        with accelerator.autocast():
            output, divergence = model(wanted, part_of(noise, accelerator).to(session.device))
        error = reconstruction_loss(output, wanted)
        loss = error + own.kl * divergence
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad(set_to_none=True)
        own_part = torch.stack([loss, error, divergence]).detach()
        loss, error, divergence = accelerator.reduce(own_part, "mean")  # of the whole batch
        session.log(loss=loss, error=error, kl=divergence)

        if session.main and session.due_after(settings.preview_every):
            pairs = to_images(torch.cat([wanted[:8], output.detach()[:8]]))
            write_png(grid(pairs, 8), session.run.path / "previews" / f"step-{step + 1:06d}.png")

    if session.main:
        save_scaled(vae, images, session)
    whole = settings.run_dir.removesuffix("-decoder").removesuffix("-autoencoder")
    session.finish(f"the stages of {whole} that are left", last=settings.start is not None)


@torch.no_grad()
def save_scaled(vae: AutoencoderKL, images: torch.Tensor, session: Session) -> None:
    """Set scaling_factor to 1 / standard deviation of the latents, and write weights/."""
    sample = to_tensor(images[:: max(1, len(images) // 512)].to(session.device))
    latents = torch.cat([vae.encode(part).latent_dist.mean for part in sample.split(64)])
    vae.register_to_config(scaling_factor=1.0 / float(latents.std()))
    with atomic_folder(session.run.weights) as folder:
        vae.save_pretrained(folder)
