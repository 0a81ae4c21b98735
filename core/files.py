"""Files that are either whole or not there: written aside, flushed, renamed."""

import json
import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from core.errors import UserError

HIDDEN = re.compile(
    r"\.|__MACOSX|(thumbs\.db|desktop\.ini)$", re.IGNORECASE
)  # names of no interest


def list_files(folder: Path, deep: bool = True) -> list[Path]:
    """Files of a folder and, if `deep`, of all below it, sorted; hidden ones are left out.

    Links to folders are followed, each real folder once. Raises UserError if it is not there, and
    for a name that no table could hold.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give the folder that holds the files.")
    found: list[Path] = []
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        found += [Path(place, name) for name in names if not HIDDEN.match(name)]
        folders[:] = [f for f in folders if deep and not HIDDEN.match(f)]
    for path in found:
        _check_name(path)
    return sorted(found)


def nearest_folder(path: Path, setting: str) -> Path:
    """`path`, or of the folders that it would be made in the nearest that is there.

    Raises UserError where that is a file, or a link to nothing.

    Args:
        setting: which gave `path`.
    """
    place = next(each for each in (path, *path.absolute().parents) if os.path.lexists(each))
    if not place.is_dir():
        raise UserError(f"{place} is in the way, and no folder; give another --{setting}.")
    return place


def disk_used(folder: Path) -> int:
    """Bytes of the files in a folder and below; of none that goes meanwhile, as one that is being
    written under another name does."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += Path(place, name).stat().st_size
    return total


def _check_name(path: Path) -> None:
    """Raise UserError for bytes that are no UTF-8, as old ZIPs leave them."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        said = os.fsencode(path).decode("utf-8", "replace")
        raise UserError(f"{said} has a name that is not UTF-8 text; rename it.") from None


@contextmanager
def atomic_path(path: Path, flush: bool = True) -> Iterator[Path]:
    """Yield a temporary name beside `path`; on success it is flushed to disk and renamed.

    Without `flush` a file survives a killed process but perhaps not a power cut (images, which
    can be made again, and for which a flush each would cost more than their drawing).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.touch()
    mode = temporary.stat().st_mode & 0o666
    try:
        yield temporary
        _set_mode(temporary, mode)
        if flush:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Like `atomic_path` for a folder; an older folder of that name is replaced at the end.

    The older one is renamed, and goes only when the new one has its name (see `recover`).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = path.with_name(f".{path.name}.{os.getpid()}.tmp"), _aside(path)
    shutil.rmtree(temporary, ignore_errors=True)
    _settle(old)
    temporary.mkdir()
    mode = temporary.stat().st_mode & 0o666
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                _set_mode(file, mode)
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
        if path.exists():
            os.replace(path, old)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        _settle(old)


def _set_mode(file: Path, mode: int) -> None:
    """Who may read a file is up to the umask, which made a neighbour's `mode`; safetensors lets
    nobody but its owner. Some drives know no modes."""
    if not file.is_symlink() and stat.S_IMODE(file.stat().st_mode) != mode:
        with suppress(OSError):
            file.chmod(mode)


def half_written(path: Path) -> list[Path]:
    """What a process killed while writing `path`, whose name may be a pattern, left of it."""
    return list(path.parent.glob(f".{path.name}.*.tmp"))


def recover(path: Path) -> None:
    """Tidy up after a process killed while writing `path`, whose name may be a pattern: what it had
    half written goes, a folder that it was about to replace comes back."""
    for torn in half_written(path):
        shutil.rmtree(torn) if torn.is_dir() else torn.unlink()
    for old in path.parent.glob(_aside(path).name):
        _settle(old)


def _aside(path: Path) -> Path:
    """Where a folder lies while another takes its name."""
    return path.with_name(f".{path.name}.old")


def _settle(old: Path) -> None:
    """Give a folder that was put aside its name back, or, where that is taken, delete it."""
    path = old.with_name(old.name[1:].removesuffix(".old"))
    if old.exists() and not path.exists():
        os.replace(old, path)
    shutil.rmtree(old, ignore_errors=True)


def lock(path: Path, shared: bool = False) -> IO[str] | None:
    """The file `path` locked against other processes until it is closed, or this process ends;
    None if another one holds it. Some network drives, and Windows, know no such locks: there all
    get it.

    Args:
        shared: with others who ask for no more, such as those who only look whether it is free.
    """
    file = path.open("r" if shared else "a")
    try:
        import fcntl

        fcntl.lockf(file, fcntl.LOCK_NB | (fcntl.LOCK_SH if shared else fcntl.LOCK_EX))
    except (BlockingIOError, PermissionError):
        file.close()
        return None
    except (OSError, ImportError):
        pass
    return file


def write_text(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is not there.") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not valid JSON ({error}); restore or delete it.") from None


def lines_of(text: str) -> list[str]:
    """The lines of a file read as text, which ended each by "\\n". `str.splitlines` would also cut
    at line separators, form feeds and the like, which may stand in a caption."""
    return text.removesuffix("\n").split("\n") if text else []


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSON-lines file; a last line cut off by a crash is left out."""
    rows = []
    try:
        lines = lines_of(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text; save it as such.") from None
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            if number < len(lines):
                raise UserError(
                    f"{path}, line {number} is not valid JSON; mend that line."
                ) from None
    return rows
