"""What is learned from: the images given (instances), and images of their class by the base."""

import hashlib
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator
from PIL import Image
from tqdm import tqdm

from core.errors import UserError
from core.files import nearest_folder, read_json, write_json
from core.images import check_images, fingerprint_of, left_out, list_images, write_png
from core.sets import ImageSet, is_set, open_set, parted
from finetune.augment import check_domain
from finetune.models import Place
from finetune.portions import portions
from finetune.sample import StableDiffusionSampler
from finetune.settings import Concept, DreamBoothSettings, Prior

CONTRACT = "class.json"
CLASS_STEPS, CLASS_GUIDANCE, CLASS_SCHEDULER = 25, 4.0, "ddim"


@dataclass(frozen=True)
class Subject:
    """Images, and the caption of each."""

    images: ImageSet
    captions: list[str]

    def __len__(self) -> int:
        return len(self.images)


def instance_subject(settings: DreamBoothSettings) -> Subject:
    """The images of `settings.data` and of every concept, each with its prompt or captions.

    Smaller sets are repeated, so that every concept is seen about equally often.

    Raises UserError where there is neither prompt nor captions, or an augmentation would lie.
    """
    subjects = [_subject(concept) for concept in settings.subjects]
    for subject in subjects:
        check_domain(settings.augment, subject.images)
    largest = max(len(subject) for subject in subjects)
    return _joined(subjects, [max(1, round(largest / len(subject))) for subject in subjects])


def _joined(subjects: list[Subject], times: list[int]) -> Subject:
    """One after the other, each so many times."""
    if len(subjects) == 1:
        return subjects[0]
    sets = [subject.images for subject in subjects]
    grey = all(images.mode == "L" for images in sets)
    return Subject(
        ImageSet(
            " + ".join(images.name for images in sets),
            [path for images, n in zip(sets, times, strict=True) for path in images.paths * n],
            [row for images, n in zip(sets, times, strict=True) for row in images.rows * n],
            {"mode": "L" if grey else "RGB"},
            sets[0].folder,
        ),
        [text for one, n in zip(subjects, times, strict=True) for text in one.captions * n],
    )


def _subject(concept: Concept, split: str | None = None) -> Subject:
    """Raises UserError, before anything is drawn or encoded, for an image that cannot be read."""
    data, prompt = concept.data, concept.prompt
    images = open_set(data, split)
    check_images(images.paths)
    if prompt is not None:
        if not prompt.strip():
            raise UserError('--prompt is empty; write what the images show, like "a photo of ...".')
        return Subject(images, [prompt] * len(images))
    silent = sum(not caption.strip() for caption in images.captions)
    if silent:
        raise UserError(
            f"{silent} of {len(images)} images of {data} have no caption; "
            "give one --prompt for all, or prepare the set with captions."
        )
    return Subject(images, images.captions)


def held_out_subject(settings: DreamBoothSettings) -> Subject:
    """The validation images of `settings.data` and of every concept that has some, their prompts
    or captions.

    Raises UserError where none has.
    """
    given = [concept for concept in settings.subjects if _has_validation(concept.data)]
    if not given:
        sets = " or ".join(concept.data for concept in settings.subjects)
        raise UserError(
            f"validate_every needs validation images, and {sets} has none; "
            "prepare the set with some, or give 0."
        )
    return _joined([_subject(concept, "validation") for concept in given], [1] * len(given))


def _has_validation(data: str) -> bool:
    """Besides the images that are learned from."""
    folder, named = parted(data)
    split = folder / "validation"
    if named == split.name:
        return False
    return (split / "metadata.jsonl").exists() and bool(list_images(split))


def default_prompts(settings: DreamBoothSettings, subject: Subject) -> list[str]:
    """At most eight prompts that show what was learned."""
    if settings.preview_prompts:
        return list(settings.preview_prompts)
    distinct = list(dict.fromkeys(subject.captions))
    return distinct[:: -(-len(distinct) // 8)]


def inputs_of(subjects: dict[str, Subject], unseen: Subject | None) -> dict[str, str]:
    """Fingerprints of all that is learned from, and of the held-out images."""

    def captions(subject: Subject) -> str:
        return fingerprint_of((text, b"") for text in subject.captions)

    instances = subjects["instance"]
    inputs = {
        "data_fingerprint": instances.images.fingerprint,
        "captions_fingerprint": captions(instances),
    }
    if "class" in subjects:
        inputs["class_fingerprint"] = subjects["class"].images.fingerprint
        inputs["class_captions_fingerprint"] = captions(subjects["class"])
    if unseen is not None:
        inputs["held_out_fingerprint"] = unseen.images.fingerprint + captions(unseen)
    return inputs


def contract_of(prior: Prior, place: Place, size: int) -> dict[str, object]:
    """All that class images depend on, besides their number and rounding."""
    return {
        "model": place.identity,
        "configs": place.configs,
        "prompt": " | ".join(prior.prompts),
        "size": size,
        "scheduler": CLASS_SCHEDULER,
        "steps": CLASS_STEPS,
        "guidance": CLASS_GUIDANCE,
        "seeds": "0, 1, 2, ...",
    }


def class_folder(prior: Prior, contract: dict[str, object]) -> Path:
    """The folder asked for, or one whose name is the contract's fingerprint."""
    if prior.folder is not None:
        return Path(prior.folder)
    named = {key: value for key, value in contract.items() if key != "configs"}  # as ever
    digest = hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:12]
    slug = re.sub(r"\W+", "-", prior.prompts[0].lower()).strip("-")[:40]
    return Path("data/class") / f"{slug}-{digest}"


@dataclass(frozen=True)
class ClassImages:
    """Images of the subject's class in a folder, and what is still to be drawn of them."""

    folder: Path
    subject: Subject
    """With those that are missing."""
    missing: list[int]
    """Seeds."""
    own: bool
    """Whether they are your own."""


def class_images(prior: Prior, place: Place, size: int) -> ClassImages:
    """A prepared set or a folder of your own images (without class.json) is used as it is, with its
    captions where there are several prompts; else image s, by the base, has the prompt s modulo
    their number.

    Raises UserError where a folder holds class images of another model, configuration, prompt, size
    or scheduler, one that cannot be read, or too few of your own.
    """
    contract = contract_of(prior, place, size)
    folder = class_folder(prior, contract)
    nearest_folder(folder.absolute().parent, "prior.folder")
    own = own_class_images(prior, folder)
    if own is not None:
        return ClassImages(folder, Subject(own, _told(prior, own)), [], own=True)
    _check_contract(folder, contract)
    files = [folder / f"{seed:06d}.png" for seed in range(prior.count)]
    captions = _in_turn(prior, prior.count)
    rows = [{"file_name": f.name, "text": text} for f, text in zip(files, captions, strict=True)]
    subject = Subject(ImageSet(folder.name, files, rows, {"mode": "RGB"}), captions)
    missing = [seed for seed, file in enumerate(files) if not file.exists()]
    _check_drawn([file for file in files if file.exists()], size)
    return ClassImages(folder, subject, missing, own=False)


def class_subject(
    prior: Prior,
    place: Place,
    size: int,
    accelerator: Accelerator,
    sampler: StableDiffusionSampler,
) -> Subject:
    """Class images: found, or topped up to `prior.count` by the base itself (`sampler`), each
    process drawing its share.

    Raises UserError as `class_images` does.
    """
    found = class_images(prior, place, size)
    folder, subject = found.folder, found.subject
    if found.own:
        accelerator.print(f"Class images: {len(subject)} of your own in {folder}.", file=sys.stderr)
        return subject
    accelerator.wait_for_everyone()  # all have seen what is missing before one draws
    if accelerator.is_main_process and found.missing:  # a whole folder may be read-only
        write_json(folder / CONTRACT, contract_of(prior, place, size) | {"name": place.name})
    mine = found.missing[accelerator.process_index :: accelerator.num_processes]
    for seeds in tqdm(
        portions(mine, size**2),
        desc=f"class images in {folder}",
        disable=not (mine and accelerator.is_main_process),
    ):
        prompts = [subject.captions[seed] for seed in seeds]
        with accelerator.autocast():
            drawn = sampler(
                seeds,
                prompts,
                steps=CLASS_STEPS,
                guidance=CLASS_GUIDANCE,
                scheduler=CLASS_SCHEDULER,
            )
        for seed, prompt, image in zip(seeds, prompts, drawn, strict=True):
            if not subject.images.paths[seed].exists():  # by another run that draws them, too
                write_png(image, subject.images.paths[seed], {"prompt": prompt}, synthetic=True)
    accelerator.wait_for_everyone()
    return subject


def own_class_images(prior: Prior, folder: Path) -> ImageSet | None:
    """The images of a prepared set, or its split, or of a folder that was not drawn for here; None
    where there are none.

    Raises UserError where there are fewer than `prior.count`, one cannot be read, or all lie in
    folders below.
    """
    place, split = parted(folder)
    given = split is not None or is_set(place) or folder.is_file()  # the last is refused
    drawn = not folder.is_dir() or not list_images(folder) or (folder / CONTRACT).exists()
    if drawn and not given:
        _check_empty(folder)
        return None
    images = open_set(folder)
    if len(images) < prior.count:
        raise UserError(
            f"{folder} has {len(images)} images of your own, and prior.count (diffusers' "
            f"--num_class_images) asks for {prior.count}; give --prior.count {len(images)}, or "
            "another --prior.folder for drawn ones."
        )
    check_images(images.paths)
    return images


def _told(prior: Prior, own: ImageSet) -> list[str]:
    """Prompts of your own class images: the one there is, or, of several, each image's caption.

    Raises UserError where nothing tells which image is of which class.
    """
    if len(prior.prompts) == 1:
        return _in_turn(prior, len(own))
    if not all(caption.strip() for caption in own.captions):
        raise UserError(
            f"prior.prompt names {len(prior.prompts)} classes, and not every image of {own.name} "
            "has a caption that tells which it shows; give captions, or one prior.prompt."
        )
    return own.captions


def _check_empty(folder: Path) -> None:
    """Raise UserError for pictures of your own that are not looked at, where the base would draw
    its own among them."""
    if folder.is_dir() and not list_images(folder) and (there := left_out(folder)):
        raise UserError(
            f"{folder} holds no class image but {there}; give --prior.folder the folder in which "
            "PNG or JPEG files lie, or an empty one to have them drawn."
        )


def _in_turn(prior: Prior, count: int) -> list[str]:
    """`count` prompts."""
    return [prior.prompts[number % len(prior.prompts)] for number in range(count)]


def _check_contract(folder: Path, contract: dict[str, object]) -> None:
    """What an older version did not record may be anything."""
    if not (folder / CONTRACT).exists():
        return
    old = read_json(folder / CONTRACT)
    changes = [
        f"{key}: {old[key]} -> {value}"
        for key, value in contract.items()
        if old.get(key, value) != value
    ]
    if changes:
        raise UserError(
            f"{folder} holds class images of another kind ({'; '.join(changes)}); "
            "give another --prior.folder, or delete that one."
        )


def _check_drawn(files: list[Path], size: int) -> None:
    """Raise UserError for a class image that cannot be read, or is not as the base drew it."""
    check_images(files)
    for file in files:
        with Image.open(file) as image:
            width, height = image.size
        if (width, height) != (size, size):
            raise UserError(
                f"{file} is {width}x{height}, and class images here are drawn at {size}x{size}; "
                "delete it to have it drawn anew, or give another --prior.folder."
            )
