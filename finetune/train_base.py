"""Train a small Stable Diffusion 2 from nothing on a captioned set.

    accelerate launch finetune/train_base.py --config configs/base/sd2_mini.yaml

First the autoencoder (its own run, RUN-autoencoder), then text encoder and UNet together on
cached latents, at last the decoder alone (RUN-decoder). RUN/weights is a Stable Diffusion folder:
`StableDiffusionPipeline.from_pretrained` opens it.
"""

import copy
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, get_scheduler
from transformers import CLIPTokenizer

from core.config import parse
from core.ema import Ema
from core.errors import UserError, command
from core.files import atomic_folder
from core.images import check_images, grid, write_png
from core.parallel import check_share, part_of, process_state
from core.plan import check_disk, count_parameters
from core.runs import Run, check_same_weights, is_closed
from core.seeds import batch_at, image_noise, stream
from core.session import Session
from core.sets import ImageSet, open_set
from finetune.autoencoder import to_images, to_tensor, train_autoencoder
from finetune.base_settings import AutoencoderRun, BaseSettings, autoencoder_run, decoder_run
from finetune.losses import denoising_loss, target
from finetune.models import Denoiser
from finetune.networks import (
    build_scheduler,
    build_text_encoder,
    build_tokenizer,
    build_unet,
    latent_side,
    save_pipeline,
)

DISK_BYTES = 400_000_000  # checkpoints of both stages, previews, weights
LATER = {"steps", "autoencoder.decoder_steps"}
"""Settings of the first stage that its weights do not show; its steps are autoencoder.steps too."""


def train(settings: BaseSettings, dry_run: bool = False) -> None:
    """All stages; see the module's docstring."""
    image_set = open_set(settings.data)
    check_images(image_set.paths)
    if not any(image_set.captions):
        raise UserError(f"{settings.data} has no captions; prepare it with captions.")
    check_disk(Path(settings.run_dir), DISK_BYTES, DISK_BYTES // 2)
    left = stages_left(settings, image_set)
    if dry_run:
        return print_plan(settings, image_set) if process_state().is_main_process else None
    first, last = autoencoder_run(settings), decoder_run(settings)
    if first in left:
        train_autoencoder(first)
    if settings in left:
        autoencoder = Path(first.run_dir, "weights")
        train_denoiser(settings, image_set, autoencoder, ends=last not in left)
    if last in left:
        train_autoencoder(last)
    if settings.autoencoder.decoder_steps and process_state().is_main_process:
        decoder = AutoencoderKL.from_pretrained(Path(last.run_dir, "weights"))
        with atomic_folder(Path(settings.run_dir, "weights", "vae")) as folder:
            decoder.half().save_pretrained(folder)
        if not left:
            print(f"All stages of {settings.run_dir} are trained; it has its decoder.")


def stages_left(settings: BaseSettings, image_set: ImageSet) -> list[BaseSettings | AutoencoderRun]:
    """The stages that are still to be trained, or may go on from a checkpoint.

    Raises UserError where one of the others was trained on other settings or images, and where one
    of these has a batch that the processes cannot share.
    """
    first, last = autoencoder_run(settings), decoder_run(settings)
    stages = [first, settings, *([last] if settings.autoencoder.decoder_steps else [])]
    done = [first] if Path(first.run_dir, "weights").exists() else []
    if last in stages:  # a run without checkpoints that was killed once the denoiser was trained
        ended = [stage for stage in (settings, last) if is_closed(Path(stage.run_dir))]
        done += [stage for stage in ended if Path(stage.run_dir, "weights").exists()]
    for stage in done:
        facts = {"data_fingerprint": image_set.fingerprint, "data_identity": image_set.identity}
        may_change = LATER if stage is first else set()
        check_same_weights(Path(stage.run_dir), "base", stage, facts, may_change)
    left = [stage for stage in stages if stage not in done]
    for stage in left:
        if stage is settings:
            name, batch = "batch", settings.batch
        else:
            name, batch = "autoencoder.batch", settings.autoencoder.batch
        check_share(name, batch, process_state().num_processes)
    return left


def train_denoiser(
    settings: BaseSettings, image_set: ImageSet, autoencoder: Path, ends: bool
) -> None:
    """Text encoder and UNet on cached latents, v-prediction, exponential average kept.

    Args:
        ends: no other stage follows.
    """
    session = Session("base", settings, image_set)
    device = session.device
    torch.manual_seed(settings.seed)
    own, side = settings.autoencoder, latent_side(settings.autoencoder, settings.size)
    tokenizer = build_tokenizer(image_set.captions, settings.text.vocabulary)
    model = Denoiser(
        build_unet(settings.unet, settings.text, own.latent_channels, side),
        build_text_encoder(settings.text, tokenizer),
    ).to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=0.01)
    schedule = get_scheduler(
        "linear", optimiser, num_warmup_steps=settings.warmup, num_training_steps=settings.steps
    )
    model, optimiser = session.accelerator.prepare(model, optimiser)
    ema = Ema(model.parameters(), settings.ema)
    session.start(
        {"model": model, "optimiser": optimiser, "schedule": schedule, "ema": ema},
        parameters=count_parameters(model),
    )
    vae = AutoencoderKL.from_pretrained(autoencoder).to(device).eval()
    means, stds = encode_all(vae, image_set, settings.size)  # N x C x h x w each, on the CPU
    tokens = tokenize(tokenizer, image_set.captions)  # N x 77
    empty = tokenize(tokenizer, [""])
    scheduler = build_scheduler()

    begun = session.step
    for step in session.steps(settings.batch):
        # The global batch's randomness, of which each process takes its share
        chosen = batch_at(step, len(image_set), settings.batch, settings.seed)
        random = stream(settings.seed, "noise", step)
        noise = torch.randn((2, settings.batch, *means.shape[1:]), generator=random)
        spread = torch.arange(settings.batch) + torch.rand(settings.batch, generator=random)
        timesteps = (spread * 1000 / settings.batch).long()  # stratified: one in each 1/B
        dropped = torch.rand(settings.batch, generator=random) < settings.caption_dropout
        words = torch.where(dropped[:, None], empty, tokens[chosen])
        latents = (means[chosen] + stds[chosen] * noise[0]) * vae.config.scaling_factor
        latents, noise_, timesteps, words = (
            part_of(part, session.accelerator).to(device)
            for part in (latents, noise[1], timesteps, words)
        )

        # One update
        noisy = scheduler.add_noise(latents, noise_, timesteps)
        with session.accelerator.autocast():
            prediction = model(noisy, timesteps, words)
        wanted = target(scheduler, latents, noise_, timesteps)
        loss = denoising_loss(prediction, wanted).mean()
        session.accelerator.backward(loss)
        norm = session.accelerator.clip_grad_norm_(model.parameters(), settings.clip_norm)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad(set_to_none=True)
        ema.update(model.parameters(), step)
        scaled = session.accelerator.scaler is not None  # a step that overflows is skipped
        loss = session.accelerator.reduce(loss.detach(), "mean")  # of all timesteps
        session.log(loss=loss, **({} if scaled else {"gradient_norm": norm}))

        if session.due_after(settings.preview_every):
            session.check_finite(step + 1)
            if session.main:
                pipeline = assemble(session.accelerator.unwrap_model(model), ema, vae, tokenizer)
                preview(pipeline, settings, image_set, session.run.path, step + 1)
                save(pipeline, session.run)

    # Again, as previews may be off, or a finished run's weights/ lost; a whole one has its decoder
    if session.main and (session.step > begun or not session.run.weights.exists()):
        averaged = assemble(session.accelerator.unwrap_model(model), ema, vae, tokenizer)
        save(averaged, session.run)
    session.accelerator.wait_for_everyone()
    session.finish(last=ends)


@torch.no_grad()
def encode_all(
    vae: AutoencoderKL, image_set: ImageSet, size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Posterior mean and standard deviation of every image, N x C x h x w on the CPU."""
    images = torch.from_numpy(image_set.pixels(size, "RGB"))
    means, stds = [], []
    for part in images.split(64):
        posterior = vae.encode(to_tensor(part.to(vae.device))).latent_dist
        means.append(posterior.mean.cpu())
        stds.append(posterior.std.cpu())
    return torch.cat(means), torch.cat(stds)


def tokenize(tokenizer: CLIPTokenizer, captions: Sequence[str]) -> torch.Tensor:
    """N captions -> N x 77 token numbers, padded and cut."""
    return tokenizer(
        list(captions), padding="max_length", truncation=True, return_tensors="pt"
    ).input_ids


def assemble(
    model: Denoiser, ema: Ema, vae: AutoencoderKL, tokenizer: CLIPTokenizer
) -> StableDiffusionPipeline:
    """A pipeline of the averaged weights; the model in training is not touched."""
    text_encoder = type(model.text_encoder)(model.text_encoder.config)
    unet = type(model.unet).from_config(model.unet.config)
    averaged = Denoiser(unet, text_encoder).to(vae.device)
    ema.copy_to(averaged.parameters())
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=averaged.text_encoder.eval(),
        tokenizer=tokenizer,
        unet=averaged.unet.eval(),
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@torch.no_grad()
def preview(
    pipeline: StableDiffusionPipeline,
    settings: BaseSettings,
    image_set: ImageSet,
    run: Path,
    step: int,
) -> None:
    """A sheet of two seeds (rows) by eight prompts (columns)."""
    spread = max(1, len(image_set) // 8)
    prompts = list(settings.preview_prompts) or image_set.captions[::spread][:8]
    config = pipeline.unet.config
    shape = (config.in_channels, config.sample_size, config.sample_size)
    seeds = [seed for seed in range(2) for _ in prompts]
    pipeline.set_progress_bar_config(disable=True)
    output = pipeline(
        prompts * 2,
        latents=image_noise(seeds, shape).to(pipeline.device),
        num_inference_steps=16,
        guidance_scale=3.0,
        output_type="pt",
    ).images
    sheet = grid(to_images(output * 2 - 1), len(prompts))
    write_png(sheet, run / "previews" / f"step-{step:06d}.png")


def save(pipeline: StableDiffusionPipeline, run: Run) -> None:
    """weights/ in fp16, under the names that plain diffusers reads by default."""
    parts = pipeline.components
    halved = {k: copy.deepcopy(parts[k]).half() for k in ("vae", "text_encoder", "unet")}
    copied = StableDiffusionPipeline(**parts | halved, requires_safety_checker=False)
    with atomic_folder(run.weights) as folder:
        save_pipeline(copied, folder)


def print_plan(settings: BaseSettings, image_set: ImageSet) -> None:
    """What a run would do."""
    print(f"{len(image_set)} images of {image_set.name} at {settings.size} px")
    print(f"autoencoder: {settings.autoencoder.steps} steps of {settings.autoencoder.batch}")
    print(f"text encoder and UNet: {settings.steps} steps of {settings.batch}")
    print(f"into {settings.run_dir}; nothing was trained.")


@command
def main(argv: Sequence[str] | None = None) -> None:
    train(*parse(BaseSettings, argv, "Train a small Stable Diffusion 2 from nothing."))


if __name__ == "__main__":
    sys.exit(main())
