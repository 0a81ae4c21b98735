"""What is compared: real images, training images, and generated ones from runs or plain folders."""

import re
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from compare.features import subset
from core.errors import UserError
from core.families import FAMILIES
from core.files import read_json
from core.images import list_images
from core.prompts import read_prompts
from core.sets import ImageSet, is_set, open_set, parted

ROOT = Path(__file__).resolve().parents[1]
RADIOGRAPH = re.compile(r"x-?ray|radiograph|chest|cxr", re.IGNORECASE)
FEW = 20
"""Up to so many real images no Fréchet distance is given."""


@dataclass(frozen=True)
class Fake:
    """Generated images and where they come from."""

    label: str
    images: ImageSet
    folder: Path
    """Where the images lie."""
    run: Path | None
    """The run folder that holds them; None for images from outside."""
    set_name: str = ""
    """Name of the folder under samples/."""

    @cached_property
    def seeds(self) -> list[int | None]:
        return [row.get("seed") for row in self.images.rows]

    @cached_property
    def prompts(self) -> list[str]:
        return self.images.captions

    @cached_property
    def place(self) -> dict[int | None, int]:
        """Where the image of a seed stands."""
        return {seed: number for number, seed in enumerate(self.seeds)}

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What `osteon generate` was told; {} for images from outside."""
        file = self.folder / "settings.json"
        return read_json(file) if file.exists() else {}

    @property
    def is_base(self) -> bool:
        """Whether they are by a model as it was before any tuning."""
        return self.settings.get("family") == "base"

    @property
    def family(self) -> str:
        """Its title in the table of families, or "outside images"."""
        family = FAMILIES.get(str(self.settings.get("family")))
        return family.title if family else "outside images"

    @property
    def weights(self) -> Path | None:
        """Folder of the weights that made them, where it is known."""
        if self.run is None:
            return None
        places = (self.run / "weights", ROOT / "models" / self.run.name)
        return next((place for place in places if any(place.rglob("*.safetensors"))), None)


@dataclass(frozen=True)
class Real:
    """Real images: those that are scored against and those that were learned from."""

    held_out: ImageSet
    train: ImageSet
    """Bank of the nearest-image search."""
    others: tuple[ImageSet, ...]
    """What the real-against-real anchor may be made of: another held-out split, training images."""
    choice: str
    """Which images are scored against and why, in words."""

    @property
    def name(self) -> str:
        return self.held_out.name.partition(":")[0]

    @property
    def same(self) -> bool:
        """Whether the scores are against the training images themselves."""
        return self.held_out.fingerprint == self.train.fingerprint

    @property
    def few(self) -> bool:
        return len(self.held_out) <= FEW

    @property
    def radiographs(self) -> bool:
        """Whether they are X-rays, or drawings of X-rays: by the set's name, source or captions."""
        facts = [self.name, *(str(self.held_out.info.get(k, "")) for k in ("source", "domain"))]
        captions = [caption for caption in self.held_out.captions if RADIOGRAPH.search(caption)]
        return any(map(RADIOGRAPH.search, facts)) or 2 * len(captions) > len(self.held_out)


def open_real(text: str, train: str | None = None) -> Real:
    """The real images of "data/X", "data/X:split" or a plain folder.

    Without a split: test, else validation, else train, whichever has images.
    """
    folder, split = parted(text)
    whole = not split and not is_set(folder)
    if split:
        choice = f"the {split} split of {folder.name}, as asked"
    elif whole:
        choice = f"all of {folder.name}"
    else:
        counts = {name: _count(folder, name) for name in ("test", "validation", "train")}
        split = next((name for name, count in counts.items() if count), "train")
        empty = [name for name in ("test", "validation") if not counts[name]]
        choice = f"the {split} split of {folder.name}"
        if split != "test":
            choice += (
                f" (it has no {' and no '.join(empty[: 2 if split == 'train' else 1])} images)"
            )
    held_out = open_set(folder, split)
    if train is not None:
        bank = open_set(train)
    elif not whole and _count(folder, "train"):
        bank = open_set(folder, "train")
    else:
        bank = held_out
    names = [name for name in ("validation", "test") if name != split] if not whole else []
    others = [open_set(folder, name) for name in names if _count(folder, name)]
    if bank.fingerprint != held_out.fingerprint:
        others.append(bank)
    return Real(held_out, bank, tuple(others), choice)


def _count(folder: Path, split: str) -> int:
    file = folder / split / "metadata.jsonl"
    return sum(1 for line in file.open(encoding="utf-8") if line.strip()) if file.exists() else 0


def open_fakes(texts: list[str], most: int | None = None) -> list[Fake]:
    """The generated sets named on the command line, with labels that tell them apart.

    Args:
        texts: run folders, samples folders, plain folders, splits of prepared sets (data/X:train);
            "NAME=FOLDER" gives the label.
        most: use the first so many images of each.

    Raises:
        UserError: nothing there, several sets to choose from, or fewer than two images.
    """
    fakes = [_open_fake(text) for text in texts]
    clashes = Counter(fake.label for fake in fakes)
    fakes = [
        replace(fake, label=f"{fake.label}/{fake.set_name or fake.folder.name}")
        if clashes[fake.label] > 1
        else fake
        for fake in fakes
    ]
    twice = [label for label, count in Counter(f.label for f in fakes).items() if count > 1]
    if twice:
        raise UserError(f"Two sets are called '{twice[0]}'; name one as --fake NAME=FOLDER.")
    for fake in fakes:
        if len(fake.images) < 2:
            raise UserError(f"{fake.folder} holds one image; a score needs two at the least.")
    return [
        replace(fake, images=replace(_first(fake.images, most), name=fake.label)) for fake in fakes
    ]


def _first(images: ImageSet, most: int | None) -> ImageSet:
    return subset(images, range(min(most or len(images), len(images))))


def _open_fake(text: str) -> Fake:
    given, _, place = text.rpartition("=")
    if not Path(place).exists() and Path(text).exists():  # a folder with "=" in its name
        given, place = "", text
    path = Path(place)
    folder, split = parted(place)
    if split and folder.is_dir() and not path.exists():
        images = open_set(folder, split)
        return Fake(given or images.name, images, folder / split, None)
    if not path.is_dir():
        what = "is a file" if path.exists() else "is not there"
        raise UserError(f"{path} {what}; give a run, a samples folder or a folder of images.")
    is_run = (path / "run.json").exists()  # which may hold pictures of its curves
    if (path / "samples").is_dir() and (is_run or not list_images(path)):
        run, path = path, _only_set(path)
        return Fake(given or run.name, open_set(path), path, run, path.name)
    if path.parent.name == "samples":
        run = path.parents[1]
        return Fake(given or run.name, open_set(path), path, run, path.name)
    if is_run:
        raise UserError(
            f"{path} holds no samples yet; `osteon generate --run {path} --seeds 0-99` makes some."
        )
    return Fake(given or path.resolve().name, _with_prompts(open_set(path), path), path, None)


def _with_prompts(images: ImageSet, folder: Path) -> ImageSet:
    """Captions from the folder's prompts.txt, where there is one: a line for each image in the
    order of their names, or one line for all. Raises UserError for any other number."""
    file = folder / "prompts.txt"
    if not file.exists():
        return images
    prompts = read_prompts(file)
    if len(prompts) not in (1, len(images)):
        raise UserError(
            f"{file} holds {len(prompts)} prompts for {len(images)} images; write one for each, in "
            "the order of their names, or one for all."
        )
    prompts = prompts * (len(images) // len(prompts))
    rows = [row | {"text": text} for row, text in zip(images.rows, prompts, strict=True)]
    return replace(images, rows=rows)


def _only_set(run: Path) -> Path:
    """samples/default, or the one set there is."""
    sets = sorted(p for p in (run / "samples").iterdir() if p.is_dir() and list_images(p))
    if not sets:
        raise UserError(
            f"{run} holds no samples yet; `osteon generate --run {run} --seeds 0-99` makes some."
        )
    named = [path for path in sets if path.name == "default"] or sets
    if len(named) > 1:
        names = ", ".join(str(path) for path in sets)
        raise UserError(f"{run} holds several sets; name one of {names}.")
    return named[0]
