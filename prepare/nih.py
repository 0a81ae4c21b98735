"""NIH ChestX-ray14 (Wang et al., CVPR 2017) as a prepared set.

    osteon prepare nih --source downloads/chestxray14 --out data/nih --size 256

Takes the download as it is (images_001/ to images_012/, Data_Entry_2017*.csv, test_list.txt) or any
part of it. Patients never cross splits.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from core.config import parse
from core.errors import UserError, command
from core.sets import SPLITS
from prepare.captions import NO_FINDING, chest_caption
from prepare.nih_table import Entry, Table, find_download, read_entries
from prepare.settings import NihSettings
from prepare.splitting import place_of, split_by_group

SOURCE = "NIH ChestX-ray14, NIH Clinical Center, https://nihcc.app.box.com/v/ChestXray-NIHCC"
LICENCE = "unrestricted use; cite the paper and link the source"
CITATION = (
    "X. Wang, Y. Peng, L. Lu, Z. Lu, M. Bagheri, R. M. Summers: ChestX-ray8: Hospital-scale Chest "
    "X-ray Database and Benchmarks on Weakly-Supervised Classification and Localization of Common "
    "Thorax Diseases. CVPR 2017."
)
NAMED = 20  # of files missing by the thousand, so many are named


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Prepare ChestX-ray14."""
    settings, dry_run = parse(NihSettings, argv, "Prepare NIH ChestX-ray14, or a part of it.")
    from prepare.writing import Item, check_apart, check_free, load_square, say_result, write_set

    source, out = Path(settings.source), Path(settings.out)
    check_apart(source, out)
    check_free(out, settings)
    download = find_download(source, Path(settings.table) if settings.table else None)
    table = read_entries(download.table)
    entries = choose(table.entries, set(download.images), settings)
    missing = [e.name for e in table.entries if e.name not in download.images]
    strangers = sorted(set(download.images) - {e.name for e in table.entries})
    say_table(table, len(missing), len(strangers))
    if dry_run:  # the table alone will do
        entries = entries or choose(table.entries, {e.name for e in table.entries}, settings)
    if not entries:
        raise UserError(
            f"None of the {len(table.entries)} images of {download.table} is in {source}"
            f"{' with such findings' if settings.findings else ''}; check --source and --table."
        )

    splits = splits_of(entries, download.test, settings)
    patients = {
        split: len({e.patient for e, s in zip(entries, splits, strict=True) if s == split})
        for split in SPLITS
    }
    if dry_run:
        counts = ", ".join(f"{splits.count(s)} {s} ({patients[s]} patients)" for s in SPLITS)
        print(f"Would prepare {len(entries)} images: {counts}.")
        return
    items = [
        Item(Path(e.name).stem, split, row_of(e), download.images[e.name], e.name)
        for e, split in zip(entries, splits, strict=True)
    ]
    facts = {
        "source": SOURCE,
        "licence": LICENCE,
        "citation": CITATION,
        "domain": "chest",
        "size": settings.size,
        "mode": "L",
        "split_rule": split_rule(settings, download.test is not None),
        "patients": patients,
        "table": download.table.name,
        "missing": {"count": len(missing), "first": missing[:NAMED]},
        "not_in_table": {"count": len(strangers), "first": strangers[:NAMED]},
        "ages_left_out": {"count": len(table.bad_ages), "first": table.bad_ages[:NAMED]},
    }
    make = partial(load_square, size=settings.size, mode="L")
    say_result(out, write_set(out, items, make, settings, facts, table.rejected))


def choose(entries: Sequence[Entry], present: set[str], settings: NihSettings) -> list[Entry]:
    """Entries whose images are there, with the asked findings, at most `limit`, in table order.

    Raises UserError for a finding that the table does not know.
    """
    wanted = wanted_findings(entries, settings.findings)
    chosen = [
        e
        for e in entries
        if e.name in present and (wanted is None or wanted & set(e.findings or [NO_FINDING]))
    ]
    if settings.limit is not None and settings.limit < len(chosen):
        drawn = sorted(chosen, key=lambda e: place_of(e.name, settings.seed))[: settings.limit]
        chosen = sorted(drawn, key=lambda e: e.name)
    return chosen


def wanted_findings(entries: Sequence[Entry], findings: Sequence[str] | None) -> set[str] | None:
    """Findings as the table spells them, whatever the case; None for all."""
    if findings is None:
        return None
    known = {name.casefold(): name for e in entries for name in e.findings}
    known[NO_FINDING.casefold()] = NO_FINDING
    known |= {name.replace("_", " "): spelled for name, spelled in known.items()}
    asked = {name: known.get(name.strip().casefold()) for name in findings}
    for name, match in asked.items():
        if match is None:
            spelled = ", ".join(sorted({*known.values()}))
            raise UserError(f"--findings '{name}' is not in the table; known: {spelled}.")
    return {match for match in asked.values() if match}


def splits_of(entries: Sequence[Entry], test: set[str] | None, settings: NihSettings) -> list[str]:
    """The split of each entry. All patients of the official test list are for testing."""
    if test is None:
        groups = [str(e.patient) for e in entries]
        return split_by_group(groups, settings.validation, settings.test, settings.seed)
    patients = {e.patient for e in entries if e.name in test}
    others = [str(e.patient) for e in entries if e.patient not in patients]
    rest = iter(split_by_group(others, settings.validation, 0.0, settings.seed))
    return ["test" if e.patient in patients else next(rest) for e in entries]


def split_rule(settings: NihSettings, official: bool) -> str:
    """The rule in words, for set.json."""
    seed = f", seed {settings.seed}"
    share = f"validation {settings.validation:g}"
    if official:
        return f"test: patients of the official list; {share} of the others by hash{seed}"
    return f"test {settings.test:g}, {share} of patients by hash{seed}"


def row_of(entry: Entry) -> dict[str, Any]:
    """Caption and typed columns."""
    return {
        "text": chest_caption(entry.findings, entry.view, entry.sex, entry.age),
        "domain": "chest",
        "findings": list(entry.findings) or [NO_FINDING],
        "view": entry.view,
        "sex": entry.sex,
        "age": entry.age,
        "patient_id": entry.patient,
        "follow_up": entry.follow_up,
    }


def say_table(table: Table, missing: int, strangers: int) -> None:
    """Print what the table holds and what does not fit."""
    patients = len({e.patient for e in table.entries})
    print(f"Table: {len(table.entries)} images of {patients} patients; {missing} not on disk.")
    if strangers:
        print(f"{strangers} images on disk are not in the table and are left out.")
    if table.bad_ages:
        print(f"{len(table.bad_ages)} impossible ages, left out of captions: {table.bad_ages[0]}…")


if __name__ == "__main__":
    main()
