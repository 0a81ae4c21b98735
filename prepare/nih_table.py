"""The files of a ChestX-ray14 download, and its table read by position.

The header has commas without quotes ("OriginalImage[Width,Height]"), so names of columns cannot be
trusted; the first seven columns are the same in every release.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from core.errors import UserError
from core.files import list_files
from core.images import SUFFIXES
from core.tables import csv_lines, read_text
from prepare.captions import NO_FINDING, in_order

MAX_AGE = 120  # years; the first release has ages up to 414
COLUMNS = 7  # image, findings, follow-up, patient, age, sex, view
AGE = re.compile(r"(\d+)([YMWD]?)")  # "57", or "057Y" and "006M" as in the sample release
PER_YEAR = {"": 1.0, "Y": 1.0, "M": 12.0, "W": 52.2, "D": 365.25}


class Download(NamedTuple):
    """Where the parts of a download are."""

    images: dict[str, Path]
    """File name -> path; of two files of one name, the first."""
    table: Path
    test: set[str] | None
    """Names in the official test set, or None where no list is there."""


@dataclass(frozen=True)
class Entry:
    """One row of the table."""

    name: str
    """File name of the image."""
    findings: tuple[str, ...]
    """As in the table; () for "No Finding"."""
    follow_up: int
    patient: int
    age: int | None
    """Years; None where the table's age cannot be."""
    sex: str | None
    """"M" or "F"."""
    view: str | None
    """"PA" or "AP"."""


@dataclass(frozen=True)
class Table:
    """What a Data_Entry table says."""

    entries: list[Entry]
    bad_ages: list[str]
    """Impossible ages as "00000001_000.png: 414"."""
    rejected: list[dict[str, str]]
    """Rows that cannot be read, as {"file", "reason"}."""


def find_download(source: Path, table: Path | None = None) -> Download:
    """Find images, table and official lists, however nested.

    Raises UserError if `source` or a table is not there.
    """
    images: dict[str, Path] = {}
    others: dict[str, Path] = {}
    for path in list_files(source):
        (images if path.suffix.lower() in SUFFIXES else others).setdefault(path.name, path)
    if table is None:
        tables = [name for name in others if re.fullmatch(r"Data_Entry.*\.csv(\.gz)?", name)]
        if not tables:
            raise UserError(f"No Data_Entry_2017*.csv is in {source}; give it with --table.")
        table = others[max(tables)]  # the newest release sorts last
    test = None
    if "test_list.txt" in others:
        test = set(read_text(others["test_list.txt"]).split())
    elif "train_val_list.txt" in others:
        test = set(images) - set(read_text(others["train_val_list.txt"]).split())
    return Download(images, table, test)


def read_entries(path: Path) -> Table:
    """Read a Data_Entry table (.csv or .csv.gz), sorted by image name.

    Raises UserError if no row of it can be understood.
    """
    entries: dict[str, Entry] = {}
    bad_ages, rejected = [], []
    for number, cells in enumerate(csv_lines(path), 1):
        if not cells:
            continue
        try:
            entry, impossible = _entry([cell.strip() for cell in cells[:COLUMNS]])
        except ValueError as error:
            if number > 1:  # the first row is the header
                rejected.append({"file": f"{path.name}, row {number}", "reason": str(error)})
            continue
        if entry.name in entries:
            rejected.append({"file": entry.name, "reason": f"again in row {number} of the table"})
            continue
        entries[entry.name] = entry
        if impossible:
            bad_ages.append(f"{entry.name}: {cells[4].strip()}")
    if not entries:
        raise UserError(f"{path} has no row like those of Data_Entry_2017*.csv; check --table.")
    return Table([entries[name] for name in sorted(entries)], bad_ages, rejected)


def _entry(cells: list[str]) -> tuple[Entry, bool]:
    """One row, and whether its age is impossible. Raises ValueError with the reason."""
    if len(cells) < COLUMNS:
        raise ValueError(f"{len(cells)} cells where {COLUMNS} are needed")
    name, findings, follow_up, patient, age, sex, view = cells
    if not re.fullmatch(r"[\w.-]+\.\w+", name):
        raise ValueError(f"'{name}' is no file name")
    if not (patient.isdecimal() and follow_up.isdecimal()):
        raise ValueError(f"'{patient}' or '{follow_up}' is no number")
    years = years_of(age)
    entry = Entry(
        name=name,
        findings=tuple(in_order(f for f in findings.split("|") if f and f != NO_FINDING)),
        follow_up=int(follow_up),
        patient=int(patient),
        age=years,
        sex=sex.upper() if sex.upper() in ("M", "F") else None,
        view=view.upper() if view.upper() in ("PA", "AP") else None,
    )
    return entry, years is None and bool(age)


def years_of(age: str) -> int | None:
    """ "57", "057Y" or "018M" in whole years; None for what is missing or cannot be."""
    match = AGE.fullmatch(age.upper())
    if not match:
        return None
    years = int(int(match[1]) / PER_YEAR[match[2]])
    return years if years < MAX_AGE else None
