"""What a run will need: told before it starts, kept in run.json beside what it then needed."""

import math
import re
from contextlib import suppress
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from core.checkup import QUICK, warnings_of
from core.device import pick_device
from core.errors import UserError
from core.kinds import find_clip
from core.parallel import process_state
from core.plan import activation_bytes, check_disk, count_parameters
from core.runs import check_same_inputs
from core.sets import open_set
from finetune.buckets import shapes, unit_of
from finetune.captions import lengths
from finetune.cost import (
    FLOAT,
    Looks,
    Work,
    beside,
    disk_again,
    disk_left,
    disk_needed,
    estimate,
    reckon,
    try_drawing,
)
from finetune.models import (
    NETWORKS,
    Denoiser,
    Place,
    check_unknown,
    locate,
    locate_pinned,
)
from finetune.new_word import where_it_starts
from finetune.optimisers import EXTRAS, extra_optimiser
from finetune.rehearsal import (
    empty_denoiser,
    empty_inputs,
    empty_pipeline,
    empty_work,
    precision,
)
from finetune.schedules import end_in_noise
from finetune.settings import DreamBoothSettings, check_heard
from finetune.subjects import (
    ClassImages,
    Subject,
    class_images,
    default_prompts,
    held_out_subject,
    inputs_of,
)
from finetune.validation import IMAGES

BEFORE = "           and before it about"
TRIABLE = 200e6  # parameters up to which a run is tried on a CPU too
LONG = 2e11  # of them times latent pixels of a piece: above that its try takes more than moments
ENDLESS = 20 * LONG  # so many minutes that a plan is worked out


def warnings(settings: DreamBoothSettings, size: int, clip: Path | None = None) -> list[str]:
    """What a person should know before the first step: of the settings, and of every set.

    Args:
        size: pixels a side that is trained at.
        clip: folder of a CLIP that looks for skeletons among life images.
    """
    found = []
    late = [step for step in settings.keep_weights if step > settings.steps]
    if late:
        said = ", ".join(map(str, late))
        found.append(f"keep_weights {said}: beyond the {settings.steps} steps, never reached")
    warmup, steps = settings.optim.warmup, settings.steps
    if settings.optim.schedule != "constant" and warmup >= steps:
        found.append(f"optim.warmup {warmup} of {steps} steps: the learning rate never arrives")
    if settings.zero_terminal_snr and settings.min_snr_gamma is not None:
        found.append("min_snr_gamma gives pure noise, which zero_terminal_snr adds, a weight of 0")
    if settings.compile and settings.buckets:
        found.append(
            "compile with buckets: the UNet is compiled anew for each shape of images, at the "
            "first step of it, which on a processor can take minutes (--compile false does not)"
        )
    if settings.token is not None:
        found += _pieces(settings.token.name, settings)
    for concept in settings.subjects:
        found += warnings_of(concept.data, concept.prompt is None, clip)
        found += _shapes(concept.data, size, settings.buckets)
    return found


def _pieces(word: str, settings: DreamBoothSettings) -> list[str]:
    """Of a new word that is a part of another one in a caption: tokenizers look for it everywhere,
    and read that one as what is before it, the new word, and what is after."""
    longer = re.compile(rf"\w+{re.escape(word)}\w*|{re.escape(word)}\w+")
    for concept in settings.subjects:
        asked = [concept.prompt] if concept.prompt is not None else open_set(concept.data).captions
        inside = next((match for text in asked if (match := longer.search(text.lower()))), None)
        if inside is not None and re.fullmatch(r"\w+", word):
            return [
                f"token.name {word} is a part of '{inside[0]}', which is then read in pieces "
                f"(of <{word}> no other word has a part)"
            ]
    return []


def _shapes(data: str, size: int, buckets: bool) -> list[str]:
    """Of images that are enlarged, and of buckets that none needs; the first of them are asked."""
    sides = []
    for path in open_set(data).paths[:QUICK]:
        with suppress(OSError), Image.open(path) as image:  # others are named where all are read
            sides.append(image.size)
    lengths = [math.isqrt(w * h) if buckets else min(w, h) for w, h in sides]
    small = [length for length in lengths if length < size]
    found = []
    if small:
        found.append(
            f"{data}, {len(small)} of {len(sides)} images are enlarged to {size} px, the smallest "
            f"from {min(small)} (prepare the originals with --size {size}, or train at less)"
        )
    if buckets and sides and all(width == height for width, height in sides):
        found.append(
            f"{data}, all images are square, so buckets change nothing (prepared sets are cut to "
            "squares; give the folder of the originals)"
        )
    return found


def looks_of(settings: DreamBoothSettings, instances: Subject, held_out: Subject | None) -> Looks:
    sheet = len(default_prompts(settings, instances)) * len(settings.preview_seeds)
    return Looks(
        sheet if settings.preview_every else 0,
        min(IMAGES, len(held_out)) if held_out is not None else 0,
    )


def look_ahead(
    settings: DreamBoothSettings, subject: Subject, place: Place
) -> tuple[Subject | None, ClassImages | None]:
    """The validation images, and the class images as far as they are there.

    Raises UserError for what would stop the run later, when much is drawn and encoded already:
    images that are not there or not those of before, a base that does not fit, an optimiser that
    is not installed, a full disk.
    """
    if settings.optim.name in EXTRAS:
        extra_optimiser(settings.optim.name)
    run = Path(settings.run_dir)
    held_out = held_out_subject(settings) if settings.validate_every else None
    subjects, found = {"instance": subject}, None
    if settings.prior is not None:
        found = class_images(settings.prior, place, settings.size or place.size)
        if not found.missing:
            subjects["class"] = found.subject
    if run.exists():
        check_same_inputs(run, inputs_of(subjects, held_out))
    pipeline = empty_pipeline(place)
    if settings.token is not None:
        heard = subject.captions + (found.subject.captions if found is not None else [])
        check_heard(settings.token.name, heard)
        check_unknown(pipeline.tokenizer, settings.token.name)
    if settings.zero_terminal_snr:
        end_in_noise(pipeline)
    size, unit = settings.size or place.size, unit_of(pipeline)
    if settings.buckets and not shapes(size, unit):
        raise UserError(f"buckets need --size {unit} or more; sides are multiples of {unit}.")
    trained = empty_denoiser(settings, pipeline, torch.device("meta"))[1]
    sizes = len(trained), size_of(pipeline)
    check_disk(run, disk_needed(settings, *sizes), disk_again(settings, *sizes))
    return held_out, found


def size_of(pipeline: StableDiffusionPipeline) -> int:
    """Parameters of UNet, text encoder and autoencoder."""
    return sum(count_parameters(getattr(pipeline, name)) for name in NETWORKS)


def say_that_it_tries(parameters: int, latents: torch.Tensor) -> None:
    """On a processor, where trying a piece of these latents (B x 4 x h x w) takes a while."""
    work = parameters * latents[:, 0].numel()
    if latents.device.type == "cpu" and (parameters > TRIABLE or work > LONG):
        lasts = "minutes" if parameters > TRIABLE else "a minute"
        print(f"Trying a step, to tell the run's time and memory; here that can take {lasts}.")


def print_plan(settings: DreamBoothSettings, subject: Subject) -> None:
    """Images, base, parameters, steps, time, memory, disk.

    Raises UserError for whatever would stop a run of which `Session` has no complaint.
    """
    run = Path(settings.run_dir)
    place = locate_pinned(settings.base, settings.revision, run, weights=False)
    if place.revision is None:  # a folder: its weights are there now, or never
        locate(str(place.folder))
    held_out, found = look_ahead(settings, subject, place)
    size = settings.size or place.size
    pipeline = empty_pipeline(place)
    total = size_of(pipeline)
    device = torch.device(pick_device())
    pixels = settings.batch // settings.accumulate * (size // place.downscale) ** 2
    if device.type == "cpu" and (total > TRIABLE or total * pixels > ENDLESS):
        device = torch.device("meta")  # worked out
    denoiser, trained = empty_denoiser(settings, pipeline, device)
    needed = disk_needed(settings, len(trained), total)
    if not process_state().is_main_process:
        return
    images, distinct = subject.images, len(set(subject.captions))
    seen = settings.steps * settings.batch / len(images)
    print(f"images     {len(images)} of {images.name} ({images.mode}), at {size} px")
    print(f"captions   {distinct} distinct, such as '{subject.captions[0]}'{unread(settings)}")
    for line in [*_cut(subject, pipeline), *warnings(settings, size, find_clip())]:
        print(f"beware     {line}")
    if settings.token is not None and (told := where_it_starts(pipeline.tokenizer, settings.token)):
        print(f"new word   {told}")
    if held_out is not None:
        print(f"held out   {len(held_out)} validation images")
    if found is not None:
        print(f"class      {_there(found)}")
    print(f"base       {place.name} ({total / 1e6:.1f} M parameters, {place.prediction_type})")
    print(f"trained    {len(trained):,} parameters ({kind(settings)})")
    print(f"steps      {settings.steps} of {settings.batch} images: each is seen {seen:.1f} times")
    looks = looks_of(settings, subject, held_out)
    inputs = empty_inputs(settings, place, denoiser, size, device)
    work = empty_work(settings, place, pipeline, denoiser, inputs, size)
    missing = len(found.missing) if found is not None else 0
    if device.type == "meta":
        _print_reckoned(settings, work, looks, denoiser, inputs, total, len(trained), missing)
    else:
        cost = estimate(settings, work, looks, trained, device, run)
        parts = ", ".join(f"{name} {seconds:.0f}" for name, seconds in cost["parts"].items())
        print(f"time       about {cost['seconds']:.0f} s on {device}, as tried here ({parts})")
        if missing:
            image, _ = try_drawing(work, min(missing, work.at_once), device)
            print(f"{BEFORE} {missing * image:.0f} s, to draw {missing} class images")
        print(f"memory     about {cost['memory_mb']} MB on one process{_in_all(cost['memory_mb'])}")
    left = disk_left(settings, len(trained), total, looks, size)
    print(f"disk       {needed / 1e6:.0f} MB at most, {left / 1e6:.0f} at the end in {run}")
    print("Nothing was trained or written (--dry_run).")


def unread(settings: DreamBoothSettings) -> str:
    """That a prompt stands for captions which are there."""
    prompted = [concept.data for concept in settings.subjects if concept.prompt is not None]
    told = any(caption.strip() for data in prompted for caption in open_set(data).captions)
    return "; prompt stands for the captions that the images have" if told else ""


def kind(settings: DreamBoothSettings) -> str:
    """What is trained, in words."""
    parts = []
    if settings.adapted and settings.lora is not None:
        parts.append(f"LoRA of rank {settings.lora.rank}")
    if settings.whole:
        parts.append("all weights")
    if settings.token is not None:
        parts.append(f"the word {settings.token.name}")
    return " and ".join(parts)


def _print_reckoned(
    settings: DreamBoothSettings,
    work: Work,
    looks: Looks,
    denoiser: Denoiser,
    inputs: tuple[torch.Tensor, ...],
    total: int,
    trained: int,
    missing: int,
) -> None:
    """Time and memory where a try would take too long. missing: class images."""

    def guess() -> None:
        one = (part[:1] for part in inputs)
        with torch.no_grad():
            denoiser(*one)

    one = reckon(settings, work.piece, guess, work.denoised)
    told = _long(sum(one.parts(settings, looks).values()))
    print(f"time       about {told} on this processor, by its operations; not tried")
    if missing:
        print(f"{BEFORE} {_long(missing * one.image)}, to draw {missing} class images")
    kept, passing = memory_needed(settings, denoiser, inputs, total, trained)
    print(f"memory     about {kept / 1e6:.0f} MB for weights, gradients and moments,")
    in_all = _in_all((kept + passing) / 1e6)
    print(f"           and {passing / 1e6:.0f} MB in passing, on one process{in_all}")


def _in_all(megabytes: float) -> str:
    """What several processes take that take so much each."""
    count = process_state().num_processes
    return f", {count * megabytes:.0f} MB on all {count}" if count > 1 else ""


def _long(seconds: float) -> str:
    return f"{seconds / 3600:.1f} hours" if seconds >= 3600 else f"{seconds / 60:.0f} min"


def memory_needed(
    settings: DreamBoothSettings,
    denoiser: Denoiser,
    inputs: tuple[torch.Tensor, ...],
    total: int,
    trained: int,
) -> tuple[int, int]:
    """Bytes that stay (weights, gradients, moments) and bytes of one step's activations.

    Args:
        denoiser, inputs: on the "meta" device.
        total, trained: numbers of parameters.
    """
    width = 2 if precision() != "no" else FLOAT
    frozen = total - (trained if settings.whole else 0)
    stays = frozen * width + trained * (2 * FLOAT + beside(settings))
    passing = activation_bytes(denoiser, *inputs) * width // FLOAT
    return stays, passing // (4 if settings.gradient_checkpointing else 1)


def _there(found: ClassImages) -> str:
    """Where class images come from, in words."""
    count, folder = len(found.subject), found.folder
    if found.own:
        return f"{count} images of your own in {folder}"
    return f"{count} images in {folder} ({count - len(found.missing)} are there)"


def _cut(subject: Subject, pipeline: StableDiffusionPipeline) -> list[str]:
    """Of captions that the text encoder does not read to the end, by its own tokens."""
    most = pipeline.tokenizer.model_max_length - 2
    cut = sum(n > most for n in lengths(pipeline.tokenizer, set(subject.captions)))
    return [f"{cut} captions are longer than {most} tokens; their end is cut"] * bool(cut)
