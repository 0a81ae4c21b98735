"""Settings of the sources a set can be prepared from. No heavy imports."""

from dataclasses import dataclass
from typing import Literal

from core.errors import UserError

SEPARATORS = " ,.;:"
"""What may stand between a prefix and a caption."""


@dataclass(frozen=True)
class PhantomSettings:
    """Draw chest X-ray phantoms, a bestiary, or both in turn."""

    out: str = "data/phantoms"
    """Folder of the prepared set."""
    kind: Literal["chest", "bestiary", "both"] = "chest"
    """What to draw; chest alone is grey, the others are RGB."""
    count: int = 800
    """Training images."""
    validation: int | None = None
    """Validation images; a tenth of `count` if not given."""
    test: int | None = None
    """Test images; a tenth of `count` if not given."""
    size: int = 64
    """Side of the images in pixels, at least 64."""
    seed: int = 0
    """Draws everything; another seed, other images."""
    animal: str | None = None
    """This animal only; the genera kept out of the bestiary can be had in this way alone."""
    habitat: str | None = None
    """This habitat only."""
    style: Literal["photo", "pencil drawing"] | None = None
    """This style only: shaded and in colour, or pencil."""
    workers: int | None = None
    """Processes; as many as cores if not given."""

    def __post_init__(self) -> None:
        if self.count < 1 or min(self.held_out) < 0:
            raise UserError("--count must be at least 1, --validation and --test at least 0.")
        if self.size < 64:
            raise UserError(f"--size must be at least 64, not {self.size}.")
        if self.seed < 0:
            raise UserError(f"--seed must not be negative, not {self.seed}.")
        if self.kind == "chest" and (self.animal or self.habitat or self.style):
            raise UserError("--animal, --habitat and --style need --kind bestiary or both.")
        _check_workers(self.workers)

    @property
    def held_out(self) -> tuple[int, int]:
        """How many validation and test images."""
        tenth = self.count // 10
        return (
            tenth if self.validation is None else self.validation,
            tenth if self.test is None else self.test,
        )


@dataclass(frozen=True)
class FolderSettings:
    """Any folder of images, with or without captions."""

    source: str
    """Folder of the images, searched to the bottom; never written to."""
    out: str
    """Folder of the prepared set."""
    caption: str | None = None
    """Caption of every image that has none of its own (in a .txt file beside it or in a table)."""
    prefix: str | None = None
    """Text before every caption that does not begin with it, such as "Sinomacrops bondei, "."""
    facts: str | None = None
    """YAML file of what genera look like, such as prompts/facts.yaml; goes with `genus`."""
    genus: str | None = None
    """Genus whose looks are added to every caption, as many as fit in 75 tokens."""
    base: str | None = None
    """Folder or hub id of the base whose tokens those are; models/sd2-mini, which counts the most,
    if not given."""
    size: int = 256
    """Side of the images in pixels: centre-cropped to a square, then Lanczos."""
    mode: Literal["auto", "L", "RGB"] = "auto"
    """Grey, colour, or grey where every image is grey."""
    validation: float | None = None
    """Share held out for validation; a tenth if not given, none of fewer than 20 images."""
    test: float | None = None
    """Share held out for testing; a tenth if not given, none of fewer than 20 images."""
    group: str | None = None
    """Column whose values (patients, subjects) must not be in two splits; "folder": subfolders."""
    near: int = 24
    """Images whose 256-bit perceptual hashes differ by no more bits stay in one split; -1: off."""
    seed: int = 0
    """Draws the splits."""
    licence: str = "not stated"
    """Licence of the images."""
    citation: str = ""
    """Whom to cite for them."""
    workers: int | None = None
    """Processes; as many as cores if not given."""

    def __post_init__(self) -> None:
        _check_size(self.size)
        _check_shares(self.validation or 0.0, self.test or 0.0)
        _check_workers(self.workers)
        if self.prefix is not None and not self.prefix.strip(SEPARATORS):
            raise UserError("--prefix needs a word, such as 'Sinomacrops bondei, '.")
        if bool(self.facts) != bool(self.genus):
            raise UserError(
                "--facts and --genus go together: "
                "--facts prompts/facts.yaml --genus Sinomacrops, for one."
            )
        if self.base is not None and not self.facts:
            raise UserError("--base counts the tokens of --facts and --genus; give those, too.")


@dataclass(frozen=True)
class NihSettings:
    """ChestX-ray14 as downloaded, or any part of it."""

    source: str
    """Folder that holds images_001 to images_012 (or any of the images, however nested)."""
    out: str = "data/nih"
    """Folder of the prepared set."""
    table: str | None = None
    """Data_Entry_2017*.csv (or .csv.gz); looked for in `source` if not given."""
    size: int = 256
    """Side of the images in pixels (Lanczos)."""
    findings: list[str] | None = None
    """Only images with one of these findings, such as Cardiomegaly,Effusion ("No Finding" is one);
    all if not given."""
    limit: int | None = None
    """At most so many images, drawn at random, the same ones every time."""
    validation: float = 0.1
    """Share of the patients held out for validation."""
    test: float = 0.2
    """Share of the patients held out for testing, where the official test_list.txt is missing."""
    seed: int = 0
    """Draws the splits and `limit`."""
    workers: int | None = None
    """Processes; as many as cores if not given."""

    def __post_init__(self) -> None:
        _check_size(self.size)
        _check_shares(self.validation, self.test)
        _check_workers(self.workers)
        if self.limit is not None and self.limit < 1:
            raise UserError(f"--limit must be at least 1, not {self.limit}.")


@dataclass(frozen=True)
class DicomSettings:
    """Radiographs as DICOM files, stripped of their headers."""

    source: str
    """Folder of DICOM files, searched to the bottom; never written to."""
    out: str
    """Folder of the prepared set."""
    caption: str | None = None
    """Caption of every image; if not given, view, sex and age of a chest, nothing for others."""
    size: int = 256
    """Side of the images in pixels: centre-cropped to a square, then Lanczos."""
    allow_burned_in: bool = False
    """Take images whose header says that the pixels show the patient's name or the like."""
    validation: float = 0.1
    """Share of the patients held out for validation."""
    test: float = 0.1
    """Share of the patients held out for testing."""
    seed: int = 0
    """Draws the splits."""
    licence: str = "not stated"
    """Licence of the images."""
    citation: str = ""
    """Whom to cite for them."""
    workers: int | None = None
    """Processes; as many as cores if not given."""

    def __post_init__(self) -> None:
        _check_size(self.size)
        _check_shares(self.validation, self.test)
        _check_workers(self.workers)


def _check_size(size: int) -> None:
    if not 8 <= size <= 4096:
        raise UserError(f"--size must be from 8 to 4096 pixels, not {size}.")


def _check_shares(validation: float, test: float) -> None:
    if validation < 0 or test < 0 or validation + test >= 1:
        raise UserError("--validation and --test must be at least 0 and together below 1.")


def _check_workers(workers: int | None) -> None:
    if workers is not None and workers < 1:
        raise UserError(f"--workers must be at least 1, not {workers}.")
