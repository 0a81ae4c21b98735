"""The one writer of prepared sets (DESIGN section 4), whatever the source.

    result = write_set(out, items, make, settings, facts)

`make(source)` gives one image; the writer spreads the work over processes, keeps what an earlier,
stopped call has finished, lists what could not be read, and writes metadata.jsonl and set.json last.
"""

import hashlib
import math
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from tqdm import tqdm

from core.config import leaves, to_dict
from core.errors import Interrupted, UserError
from core.files import read_json, write_json, write_jsonl
from core.images import fingerprint_of, fit, open_image, write_png
from core.sets import SPLITS

SCHEMA = 1
CHUNK = 16  # images a worker takes at a time: what Ctrl-C waits for
MARKER = ".unfinished.json"  # settings of a set that is not finished yet
NOT_CONTENT = ("out", "workers")  # settings that change no image


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
    """What `make` needs: a path, or a description to draw. A path newer than the image: made again."""


class Made(NamedTuple):
    """What became of one item."""

    number: int
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
        facts: source, licence, citation, domain, size, mode, split_rule and what else is worth saying.
        rejected: files already refused, as {"file": ..., "reason": ...}.

    Raises:
        UserError: other settings made `out`, nothing could be read, or the disk is full.
        Interrupted: Ctrl-C; the same call goes on.
    """
    content = {k: v for k, v in to_dict(settings).items() if k not in NOT_CONTENT}
    claim(out, content)
    try:
        made = _make_all(out, items, make, settings.workers)
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error}); make room or give --out.") from None
    good = [(item, result) for item, result in zip(items, made, strict=True) if result.sha256]
    refused = [dict(entry) for entry in rejected] + [
        {"file": _name(item.source), "reason": result.reason}
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


def claim(out: Path, content: Mapping[str, Any]) -> None:
    """Mark `out` as being prepared with these settings; refuse a folder that holds something else."""
    marker = out / MARKER
    if marker.exists():
        before = read_json(marker)
    elif (out / "set.json").exists():
        before = read_json(out / "set.json").get("settings")
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} holds something else; give another --out.")
    else:
        before = None
    if before is not None and before != dict(content):
        old, new = leaves(before), leaves(dict(content))
        name = next(k for k in [*old, *new] if old.get(k) != new.get(k))
        raise UserError(
            f"{out} was prepared with {name} {old.get(name)}, not {new.get(name)}; "
            "delete it or give another --out."
        )
    write_json(marker, dict(content))


def check_apart(source: Path, out: Path) -> None:
    """Refuse to write into the source, or to read what is being written."""
    inside, outside = out.resolve(), source.resolve()
    if inside == outside or outside in inside.parents or inside in outside.parents:
        raise UserError(f"--out {out} and --source {source} overlap; a source is never written to.")


def say_result(out: Path, result: Mapping[str, Any]) -> None:
    """Print where the set is, what it holds and the next command."""
    counts = ", ".join(f"{count} {split}" for split, count in result["counts"].items() if count)
    print(f"{out}: {counts} ({result['size']}x{result['size']}, {result['mode']})")
    if result["rejected"]:
        print(f"{len(result['rejected'])} files left out; {out / 'set.json'} says why.")
    print(f"Next: osteon train dreambooth --data {out} --run_dir runs/{out.name}")


# -- the work


def _make_all(
    out: Path, items: Sequence[Item], make: Callable[[Any], Image.Image], workers: int | None
) -> list[Made]:
    """One Made per item, in order."""
    for split in {item.split for item in items}:
        (out / split).mkdir(parents=True, exist_ok=True)
    tasks = [
        [(i, out / items[i].split / f"{items[i].key}.png", items[i].source) for i in chunk]
        for chunk in _chunks(len(items))
    ]
    processes = min(workers or os.cpu_count() or 1, math.ceil(len(tasks) / 2))
    made: list[Made] = []
    bar = tqdm(total=len(items), desc=out.name, unit="image", dynamic_ncols=True, mininterval=0.5)
    with bar:
        try:
            for results in _run(tasks, make, processes):
                made += results
                bar.update(len(results))
        except KeyboardInterrupt:
            raise Interrupted(
                f"Stopped; {bar.n} of {len(items)} images are in {out}. The same command goes on."
            ) from None
    return sorted(made)


def _run(
    tasks: Sequence[list[tuple[int, Path, Any]]],
    make: Callable[[Any], Image.Image],
    processes: int,
) -> Iterator[list[Made]]:
    """Results of the tasks as they come, from this process or from a pool."""
    if processes <= 1:
        for task in tasks:
            yield _make_chunk(task, make)
        return
    pool = ProcessPoolExecutor(processes, mp_context=get_context("spawn"))
    try:
        with _ctrl_c_ignored():  # inherited by the workers: they finish the chunk in hand
            futures = [pool.submit(_make_chunk, task, make) for task in tasks]
        for future in as_completed(futures):
            yield future.result()
    except BrokenProcessPool:
        raise UserError(
            "A worker process was killed (out of memory?); the same command with "
            "--workers 1 goes on."
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _make_chunk(
    task: Sequence[tuple[int, Path, Any]], make: Callable[[Any], Image.Image]
) -> list[Made]:
    """Make, or keep, the images of one task."""
    results = []
    for number, target, source in task:
        try:
            if not _fresh(target, source):
                write_png(make(source), target)
            results.append(Made(number, hashlib.sha256(target.read_bytes()).hexdigest(), ""))
        except UserError as error:
            results.append(Made(number, "", str(error)))
    return results


def _fresh(target: Path, source: Any) -> bool:
    """Whether the image is there and no older than the file it is made from."""
    if not target.exists():
        return False
    if not isinstance(source, Path) or not source.exists():
        return True
    return target.stat().st_mtime >= source.stat().st_mtime


def _chunks(count: int) -> Iterator[range]:
    for start in range(0, count, CHUNK):
        yield range(start, min(start + CHUNK, count))


@contextmanager
def _ctrl_c_ignored() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


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
    for split in SPLITS:
        here = [(item, result) for item, result in good if item.split == split]
        names = [f"{item.key}.png" for item, _ in here]
        rows = [{"file_name": n, **item.row} for n, (item, _) in zip(names, here, strict=True)]
        counts[split] = len(here)
        if here:
            write_jsonl(out / split / "metadata.jsonl", rows)
            prints[split] = fingerprint_of(
                (name, bytes.fromhex(result.sha256))
                for name, (_, result) in zip(names, here, strict=True)
            )
            whole.update(f"{split} {prints[split]}\n".encode())
            whole.update((out / split / "metadata.jsonl").read_bytes())
        _drop_strangers(out / split, set(names))
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


def _name(source: Any) -> str:
    return str(source) if isinstance(source, Path) else repr(source)
