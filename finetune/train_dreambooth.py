"""Fine-tune Stable Diffusion on a few images of a subject, or on a captioned set.

    accelerate launch --config_file configs/accelerate/one_gpu.yaml \
        finetune/train_dreambooth.py --config configs/dreambooth/sinomacrops.yaml

DreamBooth (Ruiz et al. 2023) with or without LoRA (Hu et al. 2021). RUN/weights opens in plain
diffusers: `load_lora_weights`, or `from_pretrained` where `lora` is null.
"""

import importlib.util
import sys
from collections.abc import Sequence

import torch
from diffusers import StableDiffusionPipeline, get_scheduler

from core.config import parse
from core.ema import Ema
from core.errors import UserError, command
from core.images import grid, write_png
from core.session import Session, check_disk
from finetune.encode import Source, Words, join
from finetune.losses import denoising_loss, min_snr_weight, preserve_prior, target
from finetune.models import (
    NETWORKS,
    Denoiser,
    locate_pinned,
    open_pipeline,
    training_scheduler,
)
from finetune.plan import check_share, disk_needed, freeze, print_plan
from finetune.sample import StableDiffusionSampler
from finetune.settings import DreamBoothSettings, Optim
from finetune.subjects import Subject, class_subject, default_prompts, instance_subject
from finetune.weights import write_weights

PREVIEW_BATCH = 8  # images at once
HALF = {"fp16": torch.float16, "bf16": torch.bfloat16}


def train(settings: DreamBoothSettings, dry_run: bool = False) -> None:
    """Train or go on, and leave weights/ in the run folder."""
    instances = instance_subject(settings)
    if dry_run:
        return print_plan(settings, instances)
    session = Session("dreambooth", settings, instances.images, settings.accumulate)
    accelerator, device = session.accelerator, session.device
    check_share(settings, accelerator.num_processes)

    # The base, and what is drawn from while it is still untouched
    with accelerator.main_process_first():  # one process downloads, the others find the files
        place = locate_pinned(settings.base, settings.revision, session.run.path)
    size = settings.size or place.size
    pipeline = open_pipeline(place.folder).to(device)
    subjects = {"instance": instances}
    if settings.prior is not None:
        drawer = StableDiffusionSampler(pipeline, size)
        subjects["class"] = class_subject(settings.prior, place, size, accelerator, drawer)
    captions = [caption for subject in subjects.values() for caption in subject.captions]
    words = Words(captions, pipeline, settings.text_encoder)
    sources = [
        Source(name, subject, words, pipeline.vae, size, settings, accelerator)
        for name, subject in subjects.items()
    ]
    scheduler = training_scheduler(pipeline)

    # What is trained, and by what
    if settings.lora is not None:  # a frozen UNet may be half precise
        pipeline.unet.to(HALF.get(accelerator.mixed_precision, torch.float32))
    denoiser = Denoiser(pipeline.unet, None if words.embedded else pipeline.text_encoder)
    trained = freeze(denoiser, settings)
    parameters = list(trained.parameters.values())
    check_disk(session.run.path, disk_needed(settings, len(trained), count(pipeline)))
    optimiser = build_optimiser(parameters, settings.optim, device)
    schedule = get_scheduler(
        settings.optim.schedule,
        optimiser,
        num_warmup_steps=settings.optim.warmup,
        num_training_steps=settings.steps,
    )
    ema = Ema(parameters, settings.ema_decay) if settings.ema_decay is not None else None
    if settings.gradient_checkpointing:
        checkpoint_activations(denoiser)
    denoiser, optimiser = accelerator.prepare(denoiser, optimiser)
    denoiser.train()
    state = {"trained": trained, "optimiser": optimiser, "schedule": schedule}
    session.start(
        state | ({"ema": ema} if ema is not None else {}),
        base=place.name,
        base_revision=place.revision,
        base_identity=place.identity,
        prediction_type=place.prediction_type,
        parameters=count(pipeline),
        trained_parameters=len(trained),
    )
    announce(session, words, subjects, len(trained))
    prompts = default_prompts(settings, instances)
    sampler = StableDiffusionSampler(pipeline, size, instances.images.mode, prompts)
    park(pipeline, settings, words)

    for step in session.steps(settings.batch):
        # This process's share of every subject, in pieces of B images (2B with class images)
        pieces = zip(*(source.at(step, len(scheduler)) for source in sources), strict=True)
        total = torch.zeros((), device=device)
        for latents, noise, timesteps, caption in map(join, pieces):
            noisy = scheduler.add_noise(latents, noise, timesteps)
            wanted = target(scheduler, latents, noise, timesteps)
            weight = None
            if settings.min_snr_gamma is not None:
                weight = min_snr_weight(scheduler, timesteps, settings.min_snr_gamma)

            # Gradients add up over the pieces; the last one makes the update
            with accelerator.accumulate(denoiser):
                losses = denoising_loss(denoiser(noisy, timesteps, caption), wanted, weight)
                loss = losses.mean()
                if settings.prior is not None:
                    loss = preserve_prior(losses, settings.prior.weight)
                accelerator.backward(loss)
                if accelerator.sync_gradients and settings.optim.clip_norm:
                    accelerator.clip_grad_norm_(parameters, settings.optim.clip_norm)
                optimiser.step()
                optimiser.zero_grad()
            total += loss.detach() / settings.accumulate
        session.log(loss=accelerator.reduce(total, "mean"), lr=schedule.get_last_lr()[0])
        schedule.step()
        if ema is not None:
            ema.update(parameters, step)

        if session.due_after(settings.preview_every) and session.main:
            preview(session, settings, sampler, ema, parameters)
            park(pipeline, settings, words)

    if session.main:
        if ema is not None:
            ema.copy_to(parameters)
        write_weights(session.run, pipeline, place, settings, size, sampler.mode, prompts)
    accelerator.wait_for_everyone()
    session.finish()


def build_optimiser(
    parameters: list[torch.nn.Parameter], optim: Optim, device: torch.device
) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019), or bitsandbytes' with 8-bit moments."""
    options = {"lr": optim.lr, "betas": optim.betas, "weight_decay": optim.weight_decay}
    if optim.name == "adamw":
        return torch.optim.AdamW(parameters, **options, fused=device.type in ("cpu", "cuda"))
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError('optim.name adamw8bit needs bitsandbytes: pip install -e ".[bitsandbytes]"')
    from bitsandbytes.optim import AdamW8bit

    return AdamW8bit(parameters, **options)


def checkpoint_activations(denoiser: Denoiser) -> None:
    """Recompute activations in the backward pass (Chen et al. 2016)."""
    denoiser.unet.enable_gradient_checkpointing()
    if denoiser.text_encoder is not None:
        denoiser.text_encoder.gradient_checkpointing_enable({"use_reentrant": False})


def count(pipeline: StableDiffusionPipeline) -> int:
    """Parameters of UNet, text encoder and autoencoder."""
    return sum(p.numel() for name in NETWORKS for p in getattr(pipeline, name).parameters())


def park(pipeline: StableDiffusionPipeline, settings: DreamBoothSettings, words: Words) -> None:
    """Move off the device what the loop does not need: its results are cached."""
    if settings.cache_latents:
        pipeline.vae.to("cpu")
    if words.embedded:
        pipeline.text_encoder.to("cpu")


def announce(session: Session, words: Words, subjects: dict[str, Subject], trained: int) -> None:
    """Say what is about to happen."""
    sets = " and ".join(f"{len(subject)} {name} images" for name, subject in subjects.items())
    session.say(f"{sets}; {trained:,} parameters to train.")
    if words.cut:
        session.say(
            f"{words.cut} captions are longer than the text encoder reads; their end is cut."
        )


@torch.no_grad()
def preview(
    session: Session,
    settings: DreamBoothSettings,
    sampler: StableDiffusionSampler,
    ema: Ema | None,
    parameters: list[torch.nn.Parameter],
) -> None:
    """RUN/previews/step-000100.png: prompts down, seeds across; of the averaged weights if kept."""
    pipeline = sampler.pipeline.to(session.device)
    current = [parameter.clone() for parameter in parameters]
    if ema is not None:
        ema.copy_to(parameters)
    pipeline.unet.eval()
    pairs = [(seed, p) for p in sampler.default_prompts for seed in settings.preview_seeds]
    images = []
    with session.accelerator.autocast():
        for start in range(0, len(pairs), PREVIEW_BATCH):
            seeds, prompts = zip(*pairs[start : start + PREVIEW_BATCH], strict=True)
            images += sampler(seeds, prompts)
    pipeline.unet.train()
    for parameter, value in zip(parameters, current, strict=True):
        parameter.copy_(value)
    file = session.run.path / "previews" / f"step-{session.step + 1:06d}.png"
    write_png(grid(images, len(settings.preview_seeds)), file, synthetic=True)


@command
def main(argv: Sequence[str] | None = None) -> None:
    train(*parse(DreamBoothSettings, argv, "Fine-tune Stable Diffusion on a few images."))


if __name__ == "__main__":
    sys.exit(main())
