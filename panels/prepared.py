"""Prepared sets, as the Data tab and programs read and edit them. All raise UserError in words."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import UserError
from core.files import read_json, read_jsonl
from core.sets import SPLITS, ImageSet, image_files, open_set, read_edits, record_edit
from panels.greys import Greys, read_greys, windowed
from panels.thumbnails import data_uri
from panels.wish import MAX_TEXT
from panels.workbench import Workbench

PAGE = 48  # images
ANY = "any"
DOUBLE = 0.985  # centred cosine from which two images count as near-duplicates
DOUBLES_SIDE = 32  # pixels at which they are compared
MOST_COMPARED = 20_000
Row = dict[str, Any]


@dataclass(frozen=True)
class Prepared:
    """The sets of one project. `name` is one of `Workbench.sets`."""

    bench: Workbench

    def rows(self, name: str, split: str) -> list[Row]:
        """The split's rows with their noted changes."""
        file = self.folder(name) / split / "metadata.jsonl"
        if split not in SPLITS or not file.exists():
            raise UserError(f"{name} has no {split} split; choose another.")
        edits = read_edits(self.folder(name), split)
        rows = _metadata(file, file.stat().st_mtime_ns)
        return [row | edits.get(row["file_name"], {}) for row in rows]

    def images(
        self,
        name: str,
        split: str = "train",
        words: str = "",
        column: str = ANY,
        value: str = ANY,
        page: int = 1,
    ) -> dict[str, Any]:
        """One page of the rows whose caption holds `words` and whose `column` holds `value`."""
        rows = [
            row
            for row in self.rows(name, split)
            if (words or "").lower() in str(row.get("text", "")).lower()
            and (ANY in (column, value) or value in _values(row, column))
        ]
        pages = max(1, -(-len(rows) // PAGE))
        page = min(max(1, page or 1), pages)
        part = rows[(page - 1) * PAGE : page * PAGE]
        return {"count": len(rows), "page": page, "pages": pages, "rows": part}

    def columns(self, name: str, split: str = "train") -> dict[str, dict[str, int]]:
        """What each column holds and how often, the commonest first."""
        rows = self.rows(name, split)
        return {column: _counts(rows, column) for column in column_names(rows)}

    def values(self, name: str, split: str, column: str) -> dict[str, int]:
        """The same of one column."""
        return _counts(self.rows(name, split), column)

    def rejects(self, name: str) -> list[dict[str, str]]:
        """What `osteon prepare` refused ("file"), and why ("reason")."""
        return read_json(self.folder(name) / "set.json").get("rejected") or []

    def rejected_file(self, name: str, file: str) -> Path | None:
        """Of a refused image, where it still lies in the project's folder."""
        settings = read_json(self.folder(name) / "set.json").get("settings") or {}
        path = (self.bench.root / str(settings.get("source", "")) / file).resolve()
        return path if path.is_relative_to(self.bench.root) and path.is_file() else None

    def greys(self, name: str, split: str, file: str) -> Greys:
        """An image's grey values as stored."""
        self.row(name, split, file)
        return read_greys(self.file(name, split, file))

    def window(
        self,
        name: str,
        split: str,
        file: str,
        level: float | None = None,
        window: float | None = None,
    ) -> dict[str, Any]:
        """An image, its stored grey values windowed (None: all of them): a PNG as a data URI."""
        greys = self.greys(name, split, file)
        whole = greys.whole
        level, window = (whole[0] if level is None else level), (window or whole[1])
        image = data_uri(windowed(greys.values, level, window), exact=True)
        low, high = greys.limits
        return {"image": image, "level": level, "window": window, "low": low, "high": high}

    def edit(
        self,
        name: str,
        split: str,
        file: str,
        caption: str | None = None,
        exclude: bool | None = None,
    ) -> dict[str, Any]:
        """Note a new caption, or that an image is left out (None: as it is); what changed."""
        row = self.row(name, split, file)
        new = {"text": None if caption is None else caption.strip(), "exclude": exclude}
        old = {"text": row.get("text") or "", "exclude": bool(row.get("exclude"))}
        changes = {key: new[key] for key in new if new[key] not in (None, old[key])}
        if len(str(changes.get("text", ""))) > MAX_TEXT:
            raise UserError(f"The caption is longer than {MAX_TEXT} characters; shorten it.")
        if changes:
            record_edit(self.folder(name), split, file, **changes)
        return changes

    def near_duplicates(
        self, name: str, split: str = "train", across: bool = False
    ) -> list[dict[str, Any]]:
        """Pairs of nearly the same image as "first" and "second" ("split/file") with their
        "cosine", the nearest first; `across`: one of the split, one of another (leakage)."""
        images = open_set(self.folder(name), split)
        others = self._others(name, split) if across else []
        if len(images) + sum(map(len, others)) > MOST_COMPARED:
            raise UserError(f"More than {MOST_COMPARED} images are too many to compare here.")
        pairs = [pair for other in others for pair in _doubles(images, other)]
        return sorted(pairs if across else _doubles(images), key=lambda pair: -pair["cosine"])

    def folder(self, name: str | None) -> Path:
        """Of a set by its name from the list."""
        if name not in self.bench.sets():
            raise UserError(f"There is no set '{name or ''}' here; choose one from the list.")
        return self.bench.root / str(name)

    def file(self, name: str, split: str, file: str) -> Path:
        """Of an image. Raises UserError for one that lies outside of its set."""
        return image_files(self.folder(name), split, [file])[0]

    def _others(self, name: str, split: str) -> list[ImageSet]:
        folder = self.folder(name)
        rest = [s for s in SPLITS if s != split and (folder / s / "metadata.jsonl").exists()]
        filled = [s for s in rest if self.rows(name, s)]
        if not filled:
            raise UserError(f"{name} has no other split than {split} to compare with.")
        return [open_set(folder, other) for other in filled]

    def row(self, name: str, split: str, file: str) -> Row:
        for row in self.rows(name, split):
            if row["file_name"] == file:
                return row
        raise UserError(f"{name} has no image '{file}' in {split}.")


def column_names(rows: Sequence[Row]) -> list[str]:
    """Those to filter by."""
    return [key for key in (rows[0] if rows else {}) if key not in ("file_name", "text")]


@lru_cache(maxsize=2)
def _metadata(file: Path, changed: int) -> list[Row]:
    """Of a file as it was at `changed` (ns): a large one takes too long to be read at every key."""
    return read_jsonl(file)


def _counts(rows: Sequence[Row], column: str) -> dict[str, int]:
    return dict(Counter(value for row in rows for value in _values(row, column)).most_common())


def _values(row: Row, column: str) -> list[str]:
    """What a row holds in a column; of a list each item."""
    value = row.get(column)
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]


def _doubles(images: ImageSet, other: ImageSet | None = None) -> list[dict[str, Any]]:
    """Each image of `other` with the nearest of `images`, if nearly the same; without `other` the
    pairs among `images`."""
    from compare.neighbours import nearest  # torch

    asked = other or images
    own = None if other else np.arange(len(images))
    bank = images.pixels(DOUBLES_SIDE)
    queries = other.pixels(DOUBLES_SIDE, images.mode) if other else bank
    found = nearest(queries, [bank], own=own)["centred"]
    near = zip(found.index[:, 0], found.cosine[:, 0], strict=True)
    pairs = {
        tuple(sorted((images.paths[place], asked.paths[query]))): float(cosine)
        for query, (place, cosine) in enumerate(near)
        if cosine > DOUBLE
    }
    return [
        {"first": _place(first), "second": _place(second), "cosine": cosine}
        for (first, second), cosine in pairs.items()
    ]


def _place(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"
