"""Fine-tune Stable Diffusion on a few images of a subject, or on a captioned set.

    accelerate launch --config_file configs/accelerate/one_gpu.yaml \
        finetune/train_dreambooth.py --config configs/dreambooth/sinomacrops.yaml

DreamBooth (Ruiz et al. 2023) with or without LoRA (Hu et al. 2021), and textual inversion. What is
in RUN/weights opens in plain diffusers: `load_lora_weights` and `load_textual_inversion`, or
`from_pretrained` where whole networks were trained. Command lines written for diffusers'
train_dreambooth.py run unchanged.
"""

import copy
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import DDPMScheduler, StableDiffusionPipeline

from core.config import parse
from core.ema import Ema
from core.errors import command
from core.files import disk_used
from core.images import grid, write_png
from core.parallel import check_share
from core.runs import check_same_inputs, read_metrics, weights_folder
from core.session import Session
from finetune.aliases import translate
from finetune.buckets import Buckets, sources_of
from finetune.captions import Words
from finetune.cost import disk_left, estimate
from finetune.encode import Batch, Source, join
from finetune.fused import replace_layers
from finetune.losses import denoising_loss, min_snr_weight, preserve_prior, target
from finetune.models import (
    Denoiser,
    Place,
    locate_pinned,
    open_pipeline,
)
from finetune.new_word import add_word
from finetune.optimisers import build_optimiser, build_schedule, gather, look
from finetune.plan import (
    look_ahead,
    looks_of,
    print_plan,
    say_that_it_tries,
    size_of,
    warnings,
)
from finetune.portions import portions
from finetune.prediction import check_prediction
from finetune.rehearsal import HALF, checkpoint_activations, work_of
from finetune.sample import StableDiffusionSampler
from finetune.schedules import end_in_noise, training_scheduler
from finetune.settings import DreamBoothSettings
from finetune.subjects import (
    Subject,
    class_subject,
    default_prompts,
    inputs_of,
    instance_subject,
)
from finetune.trained import Trained, as_sampled, freeze, groups
from finetune.validation import HeldOut, best_so_far, better, reason
from finetune.weights import facts_of, opened_by, write_weights

LESS = (
    "--accumulate 4 trains the same batch in four pieces; --gradient_checkpointing true, "
    "`accelerate launch --mixed_precision fp16`, LoRA and a smaller --size take less, too"
)
"""Where memory does not suffice."""


def train(settings: DreamBoothSettings, dry_run: bool = False) -> None:
    """Train or go on, and leave weights/ in the run folder."""
    instances = instance_subject(settings)
    session = Session(
        "dreambooth",
        settings,
        instances.images,
        settings.accumulate,
        in_parts=settings.whole and settings.optim.name == "adamw",
        clip_norm=settings.optim.clip_norm,
    )
    accelerator, device = session.accelerator, session.device
    check_share("batch", settings.batch, accelerator.num_processes, settings.accumulate)
    if dry_run:
        return print_plan(settings, instances)

    # The base, and what is drawn from while it is still untouched
    with accelerator.main_process_first():  # one process downloads, the others find the files
        place = locate_pinned(settings.base, settings.revision, session.run.path)
    unseen, _ = look_ahead(settings, instances, place)
    size = settings.size or place.size
    began = time.monotonic()
    pipeline = open_pipeline(place.folder)
    opened = time.monotonic() - began
    if not settings.whole:  # a frozen UNet may be half precise; a card never holds more of it
        pipeline.unet.to(HALF.get(accelerator.mixed_precision, torch.float32))
    pipeline.to(device)
    subjects = {"instance": instances}
    if settings.prior is not None:
        drawer = StableDiffusionSampler(pipeline, size)
        subjects["class"] = class_subject(settings.prior, place, size, accelerator, drawer)
    inputs = inputs_of(subjects, unseen)
    check_same_inputs(session.run.path, inputs)
    start = add_word(pipeline, settings.token) if settings.token is not None else ""
    if settings.zero_terminal_snr:
        end_in_noise(pipeline)
    scheduler = training_scheduler(pipeline)
    words = read_captions(subjects, pipeline, settings)
    sources = sources_of(subjects, pipeline, size, words, settings, accelerator)
    held_out = None
    if unseen is not None:
        held_out = HeldOut(unseen, session.image_set, pipeline, size, settings, accelerator)
    first = join([source.at(0, len(scheduler))[0] for source in sources])
    if session.main:
        say_that_it_tries(size_of(pipeline), first.latents)
    with accelerator.autocast():
        untouched = Denoiser(pipeline.unet, pipeline.text_encoder)
        check_prediction(untouched, scheduler, first, place.name)

    # What is trained, and by what
    denoiser = Denoiser(pipeline.unet, None if words.embedded else pipeline.text_encoder)
    trained = freeze(denoiser, settings)
    replace_layers(denoiser, settings, accelerator.mixed_precision)
    whole = Denoiser(denoiser.unet, denoiser.text_encoder)  # what samplers and files get
    if accelerator.is_fsdp2:  # each process will hold a part of a copy
        denoiser = copy.deepcopy(denoiser)
        trained = Trained(denoiser)
    packed = not (settings.whole or session.zero)
    optimiser = build_optimiser(groups(trained, settings), settings.optim, device, packed)
    schedule = build_schedule(optimiser, settings.optim, settings.steps)
    if settings.gradient_checkpointing:
        checkpoint_activations(denoiser)
    if settings.compile:
        denoiser.compile_unet(accelerator.is_fsdp2)

    denoiser.train()
    prompts = default_prompts(settings, instances)
    sampler = StableDiffusionSampler(pipeline, size, instances.images.mode, prompts)
    if accelerator.is_fsdp2:  # before it is tried: no card need hold all of it
        denoiser, optimiser = accelerator.prepare(denoiser, optimiser)
        trained = Trained(denoiser)
    park(pipeline, sources, words, trained)
    looks = looks_of(settings, instances, unseen)

    def piece() -> None:
        with accelerator.autocast():
            loss_of(denoiser, scheduler, first, settings).backward()
        optimiser.zero_grad()

    work = work_of(piece, len(scheduler), sources, sampler, held_out, opened, accelerator)
    plan = estimate(settings, work, looks, trained, device, session.run.path)
    left = disk_left(settings, len(trained), size_of(pipeline), looks, size)
    if not accelerator.is_fsdp2:
        denoiser, optimiser = accelerator.prepare(denoiser, optimiser)
        trained = Trained(accelerator.unwrap_model(denoiser))
    parameters = list(trained.parameters.values())
    learned = [each for group in optimiser.param_groups for each in group["params"]]
    ema = Ema(parameters, settings.ema_decay) if settings.ema_decay is not None else None
    look(optimiser, training=True)
    state = {"trained": trained, "optimiser": optimiser, "schedule": schedule}
    session.start(
        state | ({"ema": ema} if ema is not None else {}),
        beware=warnings(settings, size) if session.main else (),
        parameters=size_of(pipeline),
        trained_parameters=len(trained),
        in_parts=trained.in_parts,
        augment=list(settings.augment),
        plan=plan | {"disk_mb": round(left / 2**20, 1)},
        **facts_of(place),
        **inputs,
    )
    announce(session, words, subjects, len(trained), start)
    if settings.buckets:
        session.say(f"Images by height x width: {sources[0].told}.")
    park(pipeline, sources, words, trained)

    for step in session.steps(settings.batch):
        # This process's share of every subject, in pieces of B images (2B with class images)
        pieces = zip(*(source.at(step, len(scheduler)) for source in sources), strict=True)
        total = torch.zeros((), device=device)
        for batch in map(join, pieces):
            # Gradients add up over the pieces; the last one makes the update
            with accelerator.accumulate(denoiser):
                loss = loss_of(denoiser, scheduler, batch, settings)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    gather(optimiser)
                    if settings.optim.clip_norm:
                        clip(accelerator, learned, settings.optim.clip_norm)
                optimiser.step()
                optimiser.zero_grad()
            total += loss.detach() / settings.accumulate
        values = {"loss": accelerator.reduce(total, "mean"), "lr": schedule.get_last_lr()[0]}
        schedule.step()
        if ema is not None:
            ema.update(parameters, step)

        # Now and then a look at it, by the weights that a sampler would get
        if held_out is not None and session.due_after(settings.validate_every):
            with as_sampled(trained, ema, optimiser, whole):
                values |= validate(session, settings, held_out, whole, scheduler, sampler, place)
            park(pipeline, sources, words, trained)
        session.log(**values)
        if session.due_after(settings.preview_every):
            with as_sampled(trained, ema, optimiser, whole):
                preview(session, settings, sampler)
            park(pipeline, sources, words, trained)
        if session.step + 1 in settings.keep_weights:
            session.check_finite(session.step + 1)
            folder = weights_folder(session.run.path, session.step + 1)
            with as_sampled(trained, ema, optimiser, whole):
                keep(folder, session, settings, sampler, place)
            park(pipeline, sources, words, trained)

    with as_sampled(trained, ema, optimiser, whole):
        keep(session.run.weights, session, settings, sampler, place)
    accelerator.wait_for_everyone()
    finish(session, settings)


def loss_of(
    denoiser: torch.nn.Module,
    scheduler: DDPMScheduler,
    batch: Batch,
    settings: DreamBoothSettings,
) -> torch.Tensor:
    """Denoising loss of B images, or of B images and B class images after them."""
    noisy = scheduler.add_noise(batch.latents, batch.added, batch.timesteps)
    wanted = target(scheduler, batch.latents, batch.noise, batch.timesteps)
    weight = None
    if settings.min_snr_gamma is not None:
        weight = min_snr_weight(scheduler, batch.timesteps, settings.min_snr_gamma)
    losses = denoising_loss(denoiser(noisy, batch.timesteps, batch.words), wanted, weight)
    if settings.prior is not None:
        return preserve_prior(losses, settings.prior.weight)
    return losses.mean()


def clip(accelerator: Accelerator, learned: list[torch.nn.Parameter], norm: float) -> None:
    """Shrink the gradient to `norm`, if it is longer."""
    if accelerator.is_fsdp2:  # accelerate unscales fp16 twice there, where a weight is frozen
        accelerator.unscale_gradients()
        torch.nn.utils.clip_grad_norm_(learned, norm)
    else:
        accelerator.clip_grad_norm_(learned, norm)


def read_captions(
    subjects: dict[str, Subject], pipeline: StableDiffusionPipeline, settings: DreamBoothSettings
) -> Words:
    """Every caption that training will meet."""
    captions = [caption for subject in subjects.values() for caption in subject.captions]
    learns = settings.text_encoder or settings.token is not None
    return Words(captions, pipeline, learns, settings.caption_shuffle)


def park(
    pipeline: StableDiffusionPipeline,
    sources: Sequence[Source | Buckets],
    words: Words,
    trained: Trained,
) -> None:
    """Move off the device what the loop does not need: its results are cached, or it is whole."""
    if all(source.cached for source in sources):
        pipeline.vae.to("cpu")
    if words.embedded or trained.in_parts:
        pipeline.text_encoder.to("cpu")
    if trained.in_parts:
        pipeline.unet.to("cpu")


def announce(
    session: Session, words: Words, subjects: dict[str, Subject], trained: int, start: str
) -> None:
    """Say what is about to happen.

    Args:
        start: of a new word, as `add_word` tells it.
    """
    sets = " and ".join(f"{len(subject)} {name} images" for name, subject in subjects.items())
    session.say(f"{sets}; {trained:,} parameters to train.")
    if start:
        session.say(start)
    if words.cut:
        session.say(
            f"{words.cut} captions are longer than the text encoder reads; their end is cut."
        )


def card_of(sampler: StableDiffusionSampler) -> dict[str, Any]:
    """What a sampler has to know of the weights."""
    return {"size": sampler.size, "mode": sampler.mode, "prompts": sampler.default_prompts}


def validate(
    session: Session,
    settings: DreamBoothSettings,
    held_out: HeldOut,
    denoiser: Denoiser,
    scheduler: DDPMScheduler,
    sampler: StableDiffusionSampler,
    place: Place,
) -> dict[str, torch.Tensor | float]:
    """Loss and scores on the validation images; weights better than any before go to RUN/best."""
    step = session.step + 1
    session.check_finite(step)
    sampler.pipeline.to(session.device)
    loss = held_out.loss(denoiser, scheduler)
    scores = held_out.scores(sampler, session.run, step)
    old = best_so_far(session.run)
    if better(scores, old):
        score = scores | {"step": step}
        keep(session.run.path / "best", session, settings, sampler, place, score)
    session.accelerator.wait_for_everyone()
    return {"validation_loss": loss, **scores}


def keep(
    folder: Path,
    session: Session,
    settings: DreamBoothSettings,
    sampler: StableDiffusionSampler,
    place: Place,
    score: dict[str, Any] | None = None,
) -> None:
    """The weights of this moment. Raises UserError where they compute nothing finite."""
    if not session.main:
        return
    write_weights(folder, sampler.pipeline, place, settings, card_of(sampler), score)


@torch.no_grad()
def preview(
    session: Session, settings: DreamBoothSettings, sampler: StableDiffusionSampler
) -> None:
    """RUN/previews/step-000100.png: prompts down, seeds across."""
    if not session.main:
        return
    sampler.pipeline.to(session.device)
    pairs = [(seed, p) for p in sampler.default_prompts for seed in settings.preview_seeds]
    images = []
    with session.accelerator.autocast():
        for part in portions(pairs, sampler.size**2):
            seeds, prompts = zip(*part, strict=True)
            images += sampler(seeds, prompts)
    file = session.run.path / "previews" / f"step-{session.step + 1:06d}.png"
    write_png(grid(images, len(settings.preview_seeds)), file, synthetic=True)


def finish(session: Session, settings: DreamBoothSettings) -> None:
    """Say which weights to take; set what was needed beside what was planned."""
    before = session.run.info.get("measured", {}).get("memory_mb", 0)  # by an older version
    memory = max(before, session.peak_memory_mb)
    facts: dict[str, Any] = {
        "peak_memory_mb": memory,
        "measured": {
            "seconds": round(session.seconds, 1),
            "memory_mb": memory,
            "disk_mb": round(disk_used(session.run.path) / 2**20, 1),
        },
    }
    best = best_so_far(session.run)
    if best is not None and session.main:
        session.flush()
        last = [row for row in read_metrics(session.run.path) if "similarity" in row][-1]
        facts |= {"best": best, "best_reason": reason(best, last)}
        session.say(facts["best_reason"])
    session.finish(**facts)
    session.say(f"In diffusers: {opened_by(settings, session.run.weights)}")


@command(less=LESS)
def main(argv: Sequence[str] | None = None) -> None:
    words = translate(sys.argv[1:] if argv is None else argv)
    train(*parse(DreamBoothSettings, words, "Fine-tune Stable Diffusion on a few images."))


if __name__ == "__main__":
    sys.exit(main())
