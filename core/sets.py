"""Prepared sets (DESIGN section 4) and plain image folders, read the same way."""

import hashlib
import json
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import UserError
from core.files import atomic_path, read_json, read_jsonl
from core.images import (
    TAKE,
    fingerprint,
    fingerprint_of,
    fit,
    is_grey,
    left_out,
    list_images,
    open_image,
    to_array,
)
from core.radiographs import DOMAINS, RADIOGRAPH
from core.tables import TABLES, rows_by_path, text_beside

SPLITS = ("train", "validation", "test")
EDITS = "edits.jsonl"
"""In a prepared set's folder: captions changed and images left out, after it was made."""
MEMORY_LIMIT = 512 * 2**20  # bytes of decoded pixels kept in memory; above it a memory map is used


class Empty(UserError):
    """A folder or split that is there and holds no image."""


@dataclass(frozen=True)
class ImageSet:
    """Images in a fixed order with what is known of each."""

    name: str
    paths: list[Path]
    rows: list[dict[str, Any]]
    """One per image: file_name, text (a caption, "" if none), then typed columns."""
    info: dict[str, Any]
    """set.json; {} for a plain folder."""
    folder: Path | None = None
    """That it was opened from, or the first of several; None: that of the images."""

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def captions(self) -> list[str]:
        return [str(row.get("text") or "") for row in self.rows]

    @cached_property
    def mode(self) -> str:
        """ "L" or "RGB"; a plain folder is grey only if all its images are."""
        return self.info.get("mode") or ("L" if all(map(is_grey, self.paths)) else "RGB")

    def check_mirrored(self, setting: str) -> None:
        """Raise UserError, naming the setting that would mirror them, where X-rays are among these
        images: by the set's domain, that of any image, or any caption."""
        domains = {self.info.get("domain"), *(row.get("domain") for row in self.rows)}
        if domains & DOMAINS or any(map(RADIOGRAPH.search, self.captions)):
            raise UserError(
                f"{setting} would put the heart on the right in X-rays of {self.name}; "
                "leave it out."
            )

    def greyed(self, setting: str, channels: int) -> list[str]:
        """What to beware of where these images are colour and learned in that many channels."""
        if channels > 1 or self.mode == "L":
            return []
        return [f"{setting} 1: colour images become grey; {setting} 3 keeps their colours"]

    @cached_property
    def fingerprint(self) -> str:
        """Of the files' names and contents."""
        return fingerprint(self.paths)

    @cached_property
    def identity(self) -> str:
        """The same, and of what is known of each image: captions, classes."""
        rows = (json.dumps(row, sort_keys=True, default=str) for row in self.rows)
        return f"{self.fingerprint}-{fingerprint_of((row, b'') for row in rows)}"

    def pixels(self, size: int, mode: str | None = None) -> np.ndarray:
        """Every image decoded once: uint8, N x H x W (grey) or N x H x W x 3.

        Above MEMORY_LIMIT a memory map in the folder's .cache, or, where that cannot be written, in
        the system's temporary folder; reused while contents agree.
        """
        mode = mode or self.mode
        shape = (len(self), size, size) + ((3,) if mode == "RGB" else ())
        if np.prod(shape, dtype=np.int64) <= MEMORY_LIMIT:
            return to_array([fit(open_image(path, mode), size) for path in self.paths])
        return self._memory_map(shape, mode)

    def _memory_map(self, shape: tuple[int, ...], mode: str) -> np.ndarray:
        key = hashlib.sha256(repr((self.fingerprint, shape, mode)).encode()).hexdigest()[:16]
        near = (self.folder or self.paths[0].parent) / ".cache"
        temporary = Path(tempfile.gettempdir()) / f"osteon-{Path.home().name}"
        files = [place / f"{key}.npy" for place in (near, temporary)]
        file = next((file for file in files if file.exists()), None)
        if file is None:
            size = int(np.prod(shape, dtype=np.int64))
            file = next((file for file in files if _takes(file.parent, size)), None)
            if file is None:
                raise UserError(
                    f"{near} and {temporary} cannot take {size / 1e6:.0f} MB of pixels; make room, "
                    "or set TMPDIR to a folder that can."
                )
            if file.parent == temporary:
                told = f"{near} cannot take {size / 1e6:.0f} MB of pixels; they go to {temporary}."
                print(told, file=sys.stderr)
            with atomic_path(file) as partial:  # each process writes its own, the last one stays
                target = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=shape)
                for place, path in enumerate(self.paths):
                    target[place] = np.asarray(fit(open_image(path, mode), shape[1]))
                target.flush()
        return np.load(file, mmap_mode="r")


def _takes(place: Path, size: int) -> bool:
    """Whether files of so many bytes can be written there. It is tried: the rights of a mounted
    drive do not tell; and writing to a memory map on a full disk would end the process."""
    try:
        if shutil.disk_usage(place.parent).free <= size:
            return False
        place.mkdir(exist_ok=True)
        with tempfile.TemporaryFile(dir=place):
            return True
    except OSError:
        return False


def parted(path: str | Path) -> tuple[Path, str | None]:
    """ "data/x:test" -> (data/x, "test"), and "data/x" -> (data/x, None)."""
    folder, _, split = str(path).rpartition(":")
    return (Path(folder), split) if split in SPLITS else (Path(path), None)


def open_set(
    path: str | Path, split: str | None = None, unread: list[Path] | None = None
) -> ImageSet:
    """Open a prepared set's split, or a plain folder of images.

    `data/x:test` names a split too, if `split` names none. Without one: train for a prepared set.
    A plain folder's captions are the prompts that it was generated with, or come from its
    metadata.jsonl or .csv, or from a .txt file beside each image.

    Args:
        unread: gets .txt files that are no UTF-8 text; None: one is an error.

    Raises:
        UserError: nothing there, no such split, no image in it, or one that is named and missing.
    """
    folder, named = parted(path)
    split = split or named
    if folder.is_file():
        raise UserError(f"{folder} is a file; give a folder of images, or a prepared set.")
    if not folder.is_dir():
        raise UserError(f"{folder} is not there; make it with `osteon prepare` (see --help).")
    prepared = (folder / "set.json").exists()
    if not prepared:
        if split is not None:
            raise UserError(f"{folder} has no set.json, so it has no {split} split.")
        paths = list_images(folder)
        rows = _plain_rows(folder, paths, unread)
        info: dict[str, Any] = {}
    else:
        split = split or "train"
        if not (folder / split / "metadata.jsonl").exists():
            raise UserError(f"{folder} has no {split} split; choose one of {', '.join(SPLITS)}.")
        rows = _edited(read_jsonl(folder / split / "metadata.jsonl"), folder, split)
        paths = image_files(folder, split, [row["file_name"] for row in rows])
        info = read_json(folder / "set.json")
    if not paths:
        there = "" if prepared else left_out(folder)
        raise Empty(
            f"{folder} holds no image{f' in {split}' if split else ''}"
            f"{f' but {there}; {TAKE}' if there else ''}."
        )
    _check_there(folder, split, dict(zip(paths, rows, strict=True)))
    name = f"{folder.name}:{split}" if prepared else folder.name
    return ImageSet(name, paths, rows, info, folder)


def training_of(data: str | Path) -> str:
    """The command that learns from a set: one prompt for all where there are no captions.

    Raises UserError where there are no images to train on.
    """
    run = Path("runs") / parted(Path(data).resolve())[0].name
    words = ["osteon", "train", "dreambooth", "--data", str(data), "--run_dir", str(run)]
    if not any(caption.strip() for caption in open_set(data).captions):
        words += ["--prompt", "a photo of ..."]
    return shlex.join(words)


def image_files(folder: Path, split: str, names: Iterable[str]) -> list[Path]:
    """Where images of a prepared set lie, by their names in metadata.jsonl.

    Raises UserError for one that lies outside of the set, by its name or by a link.
    """
    home = folder.resolve()  # which may be a link itself, to a mounted drive
    paths = [folder / split / name for name in names]
    inside = {place: place.resolve().is_relative_to(home) for place in {p.parent for p in paths}}
    for path in paths:
        own = path.resolve().is_relative_to(home) if path.is_symlink() else inside[path.parent]
        if not own:
            raise UserError(f"{path} leads out of the set {folder}; put the image itself there.")
    return paths


def _check_there(folder: Path, split: str | None, rows: dict[Path, dict[str, Any]]) -> None:
    """Raise UserError for images that are listed and missing: deleted since, or links to nowhere.

    Here, where a set is opened, so that no run draws or encodes for hours before it finds out.
    """
    gone = [path for path in rows if not path.is_file()]
    if not gone:
        return
    first = f"{gone[0]} is not there"
    if len(gone) > 1:
        first += f", and {len(gone) - 1} more of {len(rows)} are not"
    if split is None:
        raise UserError(f"{first}: a link that leads nowhere; mend or delete it.")
    edit = {"split": split, "file_name": rows[gone[0]]["file_name"], "exclude": True}
    line = json.dumps(edit, ensure_ascii=False)
    raise UserError(f"{first}; restore it, or leave it out by a line {line} in {folder / EDITS}.")


def held_out_of(path: str) -> ImageSet:
    """The images to score against where none are named: a prepared set's test split, or, where it
    has none, `path` itself, as `open_set` reads it."""
    folder, _ = parted(path)
    has_test = is_set(folder) and (folder / "test" / "metadata.jsonl").exists()
    return open_set(folder, "test") if has_test else open_set(path)


def record_edit(folder: Path, split: str, name: str, **changes: Any) -> None:
    """Note a new caption (`text`) or `exclude` for one image; the set's own files stay as they are.

    The notes are the lines of edits.jsonl; `open_set` heeds them, the newest of an image first.
    """
    with (folder / EDITS).open("a", encoding="utf-8") as lines:
        row = {"split": split, "file_name": name, **changes}
        lines.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_edits(folder: Path, split: str) -> dict[str, dict[str, Any]]:
    """Noted changes by file name: `text`, `exclude`."""
    edits: dict[str, dict[str, Any]] = {}
    for row in read_jsonl(folder / EDITS) if (folder / EDITS).exists() else []:
        if row.pop("split") == split:
            name = row.pop("file_name")
            edits[name] = edits.get(name, {}) | row
    return edits


def _edited(rows: list[dict[str, Any]], folder: Path, split: str) -> list[dict[str, Any]]:
    edits = read_edits(folder, split)
    changed = [row | edits.get(row["file_name"], {}) for row in rows]
    return [row for row in changed if not row.pop("exclude", False)]


def is_set(path: Path) -> bool:
    return (path / "set.json").exists()


def _plain_rows(folder: Path, paths: list[Path], unread: list[Path] | None) -> list[dict[str, Any]]:
    """Of generated images seed and prompt, from samples.jsonl; of others what is told of them."""
    if (folder / "samples.jsonl").exists():
        known = {row["file"]: row for row in read_jsonl(folder / "samples.jsonl")}
        return [
            {"file_name": path.name, "text": known.get(path.name, {}).get("prompt", "")}
            | known.get(path.name, {})
            for path in paths
        ]
    table = next((folder / name for name in TABLES if (folder / name).exists()), None)
    told = rows_by_path(folder, table) if table else {}
    columns = dict.fromkeys(name for row in told.values() for name in row)
    rows = []
    for path in paths:
        row = {**columns, **told.get(path, {})}
        text = str(row.get("text") or "").strip() or text_beside(path, unread)
        rows.append({**row, "file_name": path.name, "text": text})
    return rows
