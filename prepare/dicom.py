"""DICOM radiographs as a prepared set, without their headers.

    osteon prepare dicom --source exports/chest --out data/chest

Kept: view, sex, age. Dropped: all else. File names and patients become numbers that say nothing.
What is written on the pixels themselves is not looked for: see for yourself before sharing.
"""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from core.config import parse
from core.errors import UserError, command
from core.files import list_files
from prepare.captions import chest_caption
from prepare.settings import DicomSettings
from prepare.splitting import split_by_group


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Prepare DICOM files."""
    settings, dry_run = parse(DicomSettings, argv, "Prepare radiographs from DICOM files.")
    from prepare.pool import spread
    from prepare.radiographs import is_dicom, load_radiograph, read_header
    from prepare.writing import Item, check_apart, check_free, say_result, write_set

    source, out = Path(settings.source), Path(settings.out)
    check_apart(source, out)
    check_free(out, settings)
    files = list_files(source)
    paths = [path for path in files if is_dicom(path)]
    if not paths:
        raise UserError(f"{source} holds no DICOM file (none has the mark DICM).")
    print(f"{len(paths)} DICOM files, {len(files) - len(paths)} others left out.")
    if dry_run:
        return

    read = partial(read_header, allow_burned_in=settings.allow_burned_in)
    headers = dict(zip(paths, spread(read, paths, settings.workers, "headers"), strict=True))
    named: dict[str, Path] = {}
    for path, header in headers.items():
        named.setdefault(header.key, path)
    refused = {
        path: h.reason or f"the same content as {h.key}"
        for path, h in headers.items()
        if h.reason or named[h.key] != path
    }
    kept = sorted((h for p, h in headers.items() if p not in refused), key=lambda h: h.key)
    if not kept:
        path, reason = next(iter(refused.items()))
        raise UserError(f"No file of {source} can be used; the first, {path.name}: {reason}.")

    groups = [h.group for h in kept]
    splits = split_by_group(groups, settings.validation, settings.test, settings.seed)
    numbers = {group: n for n, group in enumerate(dict.fromkeys(groups), 1)}
    items = [
        Item(h.key, split, row_of(h, numbers[h.group], settings.caption), named[h.key])
        for h, split in zip(kept, splits, strict=True)
    ]
    facts = facts_of(settings, all(h.chest for h in kept))
    rejected = [{"file": headers[p].key, "reason": reason} for p, reason in refused.items()]
    make = partial(load_radiograph, size=settings.size)
    result = write_set(out, items, make, settings, facts, rejected)
    undecoded = result["rejected"][len(rejected) :]
    refused |= {named[entry["file"]]: entry["reason"] for entry in undecoded}
    for path, reason in refused.items():  # by name here alone: a name may be a patient's
        print(f"left out: {path.relative_to(source)}: {reason}", file=sys.stderr)
    say_result(out, result, reasons=False)


def facts_of(settings: DicomSettings, chest: bool) -> dict[str, Any]:
    """What set.json says beside counts and rejects."""
    return {
        "source": "DICOM files",
        "licence": settings.licence,
        "citation": settings.citation,
        "domain": "chest" if chest else "images",
        "size": settings.size,
        "mode": "L",
        "split_rule": f"test {settings.test:g}, validation {settings.validation:g} of patients "
        f"by hash, seed {settings.seed}",
        "headers": "dropped, but for view, sex and age; burned-in text was not looked for",
    }


def row_of(header: Any, patient: int, caption: str | None) -> dict[str, Any]:
    """Caption and typed columns of one `radiographs.Header`."""
    if caption is None:
        said = chest_caption(None, header.view, header.sex, header.age)
        caption = said if header.chest else ""
    return {
        "text": caption,
        "view": header.view,
        "sex": header.sex,
        "age": header.age,
        "patient_id": patient,
    }


if __name__ == "__main__":
    main()
