"""The one writer of prepared sets (DESIGN section 4), whatever the source.

    result = write_set(out, items, make, settings, facts)

`make(source)` gives one image; the writer spreads the work over processes, keeps what an earlier,
stopped call has finished, lists what could not be read, and writes metadata.jsonl and set.json at
the end.
"""

import hashlib
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from core.config import leaves, to_dict
from core.errors import UserError
from core.files import read_json, write_json, write_jsonl
from core.images import fingerprint_of, fit, open_image, write_png
from core.sets import SPLITS, open_set, training_of
from prepare.columns import settle
from prepare.pool import spread

SCHEMA = 1
MARKER = ".unfinished.json"  # settings of a set that is not finished yet
NOT_CONTENT = ("out", "workers")  # settings that change no image
FEW = 3  # reasons that are printed, not only written


@dataclass(frozen=True)
class Item:
    """One image to be."""

    key: str
    """File name without suffix; unique in its split."""
    split: str
    """One of core.sets.SPLITS."""
    row: dict[str, Any]
    """`text` and typed columns, for metadata.jsonl."""
    source: Any
    """What `make` needs: a path (if newer than the image: made again), or a description to draw."""
    name: str = ""
    """What to call the source in `rejected`; the key if empty."""


class Made(NamedTuple):
    """What became of one item."""

    sha256: str
    """Of the file, hexadecimal; "" if rejected."""
    reason: str
    """Why rejected; "" if not."""


def write_set(
    out: Path,
    items: Sequence[Item],
    make: Callable[[Any], Image.Image],
    settings: Any,
    facts: Mapping[str, Any],
    rejected: Sequence[Mapping[str, str]] = (),
) -> dict[str, Any]:
    """Write `items` to `out`/{train,validation,test}/KEY.png and return what set.json says.

    Args:
        out: folder of the set; new, empty, or written before with the same settings.
        make: importable by name, so that other processes find it; raises UserError to reject.
        settings: the source's settings dataclass, with `workers`.
        facts: source, licence, citation, domain, size, mode, split_rule, and what else matters.
        rejected: files already refused, as {"file": ..., "reason": ...}.

    Raises:
        UserError: other settings made `out`, nothing could be read, or the disk is full.
        Interrupted: Ctrl-C; the same call goes on.
    """
    check_free(out, settings)
    content = _content(settings)
    write_json(out / MARKER, content)
    for split in {item.split for item in items}:
        (out / split).mkdir(parents=True, exist_ok=True)
    tasks = [(out / item.split / f"{item.key}.png", item.source) for item in items]
    try:
        made = spread(partial(_make, make=make), tasks, settings.workers, out.name)
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error}); make room or give --out.") from None
    good = [(item, result) for item, result in zip(items, made, strict=True) if result.sha256]
    refused = [dict(entry) for entry in rejected] + [
        {"file": item.name or item.key, "reason": result.reason}
        for item, result in zip(items, made, strict=True)
        if result.reason
    ]
    if not good:
        _give_up(out)
        first = f"{refused[0]['file']}: {refused[0]['reason']}"
        raise UserError(f"None of {len(refused)} images can be used; the first, {first}.")
    return _finish(out, good, {"schema": SCHEMA, "name": out.name, **facts}, refused, content)


def load_square(path: Path, size: int, mode: str) -> Image.Image:
    """Decode, centre-crop and resize one file (Lanczos). Raises UserError with the reason alone."""
    try:
        return fit(open_image(path, mode), size)
    except UserError as error:
        raise UserError(str(error).removeprefix(f"{path}: ")) from None


def check_free(out: Path, settings: Any) -> None:
    """Refuse a folder of something else, or one that other settings prepared."""
    if (out / MARKER).exists():
        before = leaves(read_json(out / MARKER))
    elif (out / "set.json").exists():
        before = leaves(read_json(out / "set.json").get("settings", {}))
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} holds something else; give another --out.")
    else:
        return
    now = leaves(_content(settings))
    for name in [*before, *now]:
        if before.get(name) != now.get(name):
            raise UserError(
                f"{out} was prepared with {name} {before.get(name)}, not {now.get(name)}; "
                "delete it or give another --out."
            )


def check_apart(source: Path, out: Path) -> None:
    """Refuse to write into the source, or to read what is being written."""
    inside, outside = out.resolve(), source.resolve()
    if inside == outside or outside in inside.parents or inside in outside.parents:
        raise UserError(f"--out {out} and --source {source} overlap; a source is never written to.")


def say_result(out: Path, result: Mapping[str, Any], reasons: bool = True) -> None:
    """Print where the set is, what it holds, what was left out and the next command.

    Args:
        reasons: say why, of few files; False where the source has said it.
    """
    counts = ", ".join(f"{count} {split}" for split, count in result["counts"].items() if count)
    print(f"{out}: {counts} ({result['size']}x{result['size']}, {result['mode']})")
    if result["rejected"]:
        print(left_out(result["rejected"], out / "set.json", FEW if reasons else 0))
    print(f"Next: {next_of(out)}")


def next_of(out: Path) -> str:
    """The command that learns from a new set. Training refuses one where only some images have a
    caption: there, too, it has one prompt for all."""
    captions = [bool(caption.strip()) for caption in open_set(out).captions]
    prompt = " --prompt 'a photo of ...'" if any(captions) and not all(captions) else ""
    return training_of(out) + prompt


def left_out(rejected: Sequence[Mapping[str, str]], file: Path, few: int = FEW) -> str:
    """ "2 files left out: a.png: empty file; b.png: truncated", or, of more than `few`, which
    `file` says why."""
    together = [re.search(r", (\d+) of them$", entry["file"]) for entry in rejected]
    count = sum(int(found[1]) if found else 1 for found in together)
    told = f"{count} file{'s' if count > 1 else ''} left out"
    if len(rejected) > few:
        return f"{told}; {file} says why."
    return f"{told}: " + "; ".join(f"{entry['file']}: {entry['reason']}" for entry in rejected)


# -- the work


def _content(settings: Any) -> dict[str, Any]:
    """The settings that change images or rows."""
    return {k: v for k, v in to_dict(settings).items() if k not in NOT_CONTENT}


def _make(task: tuple[Path, Any], make: Callable[[Any], Image.Image]) -> Made:
    """Make one image, or keep it where it is there already."""
    target, source = task
    try:
        if not _fresh(target, source):
            write_png(make(source), target)
        return Made(hashlib.sha256(target.read_bytes()).hexdigest(), "")
    except UserError as error:
        return Made("", str(error))


def _fresh(target: Path, source: Any) -> bool:
    """Whether the image is there and no older than the file it is made from."""
    if not target.exists():
        return False
    if not isinstance(source, Path) or not source.exists():
        return True
    return target.stat().st_mtime >= source.stat().st_mtime


# -- the end


def _finish(
    out: Path,
    good: Sequence[tuple[Item, Made]],
    facts: dict[str, Any],
    refused: list[dict[str, str]],
    content: dict[str, Any],
) -> dict[str, Any]:
    """Write metadata.jsonl and set.json, and drop images that no longer belong."""
    counts, prints = {}, {}
    whole = hashlib.sha256()
    parts = {split: [pair for pair in good if pair[0].split == split] for split in SPLITS}
    rows = settle({split: [item.row for item, _ in part] for split, part in parts.items()})
    for split, part in parts.items():
        files = [(f"{item.key}.png", bytes.fromhex(made.sha256)) for item, made in part]
        counts[split] = len(files)
        if files:
            named = zip(files, rows[split], strict=True)
            metadata = out / split / "metadata.jsonl"
            write_jsonl(metadata, ({"file_name": name, **row} for (name, _), row in named))
            prints[split] = fingerprint_of(files)
            whole.update(f"{split} {prints[split]}\n".encode() + metadata.read_bytes())
        _drop_strangers(out / split, {name for name, _ in files})
    description = {
        **facts,
        "counts": counts,
        "fingerprint": whole.hexdigest()[:16],
        "fingerprints": prints,
        "rejected": refused,
        "settings": content,
    }
    write_json(out / "set.json", description)
    (out / MARKER).unlink()
    return description


def _drop_strangers(folder: Path, names: set[str]) -> None:
    """Remove images of an earlier call that moved to another split or lost their source."""
    if not folder.is_dir():
        return
    if not names:
        shutil.rmtree(folder)
        return
    for path in folder.glob("*.png"):
        if path.name not in names:
            path.unlink()


def _give_up(out: Path) -> None:
    """Leave nothing half-written behind."""
    (out / MARKER).unlink()
    for split in SPLITS:
        if (out / split).is_dir() and not any((out / split).iterdir()):
            (out / split).rmdir()
    if not any(out.iterdir()):
        out.rmdir()
