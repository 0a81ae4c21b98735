"""The run folder (DESIGN section 5). Imports without torch."""

import contextlib
import json
import os
import platform
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from core.config import filled, leaves, read_yaml, to_dict, to_yaml
from core.errors import UserError
from core.files import (
    atomic_folder,
    lock,
    nearest_folder,
    read_json,
    read_jsonl,
    recover,
    write_json,
    write_jsonl,
    write_text,
)
from core.provenance import commit, now, public, versions

SCHEMA = 1
MARKER = "COMPLETE"
SCORE = "score.json"
"""In RUN/best: the step of those weights and what they scored."""
MAY_CHANGE = {"steps", "epochs", "num_epochs", "run_dir"}
"""Settings that a resumed run may give anew."""
DATA = re.compile(r"data|concepts\.\d+\.data")
PLACES = re.compile(rf"{DATA.pattern}|base|prior\.folder|start")
"""Settings that name folders, which may be spelt in several ways."""
CONTENT = {"base": "base_identity", "prior.folder": "class_fingerprint"}
"""Settings that name a folder of which run.json tells the content: it may have been moved, and is
compared when it is opened."""
VERDICT = ("best", "best_reason")
"""Facts in run.json that hold of a run which has come to its end."""
NO_MATTER = {"run_dir", "checkpoint_every", "checkpoints_kept", "preview_every", "tracker"}
"""Settings that say nothing of what is learned."""
INPUTS = {
    "data_fingerprint": "images",
    "captions_fingerprint": "captions",
    "class_fingerprint": "class images",
    "class_captions_fingerprint": "captions of the class images",
    "held_out_fingerprint": "validation images",
}
"""Facts in run.json of what a resumed run has to find as it was."""
BEFORE = {"config.yaml", "run.json", "log.txt", "samples"}
"""In a folder where training has not begun. samples/: images asked of a model of that name."""
GONE = "gone"
"""Begins the name of a checkpoint that is being deleted."""
WRITTEN = (
    *("config.yaml", "run.json", "metrics.jsonl", "weights*", "best"),
    *("checkpoints/step-*", f"checkpoints/{GONE}-*"),
)
"""What a process killed meanwhile may leave half done."""
LOCK = ".lock"
"""In a run folder; locked by the process that trains it."""
ASIDE = "before"
"""In a run folder: weights of steps that are done anew."""


class Run:
    """One training run on disk. Only the main process writes; the others read."""

    def __init__(self, path: Path, main: bool = True) -> None:
        self.path = path
        self.main = main
        self.info: dict[str, Any] = {}
        self._metrics: Any = None
        self._lock: Any = None

    @property
    def weights(self) -> Path:
        return self.path / "weights"

    def open(self, family: str, settings: Any, facts: dict[str, Any]) -> None:
        """Create the folder, or take up the one that is there.

        `facts` are recorded in run.json: data fingerprint, device, precision, parameter counts.

        Raises:
            UserError: the folder belongs to another family, was made with other settings or from
                other inputs, or is being trained by another process.
        """
        if not self.main:
            return
        check_same_settings(self.path, family, settings, facts.get("data_identity"))
        check_same_inputs(self.path, facts)
        old = {fact: v for fact, v in info_of(self.path).items() if fact not in VERDICT}
        changes = [*old.get("changes", []), *changed_on_the_way(self.path, old, facts)]
        self.info = old | {
            "schema": SCHEMA,
            "family": family,
            "command": shlex.join(public([Path(sys.argv[0]).name, *sys.argv[1:]])),
            **commit(),
            "versions": versions(),
            "python": platform.python_version(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            **facts,
            "status": "running",
            "started": old.get("started") or now(),
            "seconds": old.get("seconds", 0.0),
            **({"changes": changes} if changes else {}),
        }
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = lock(self.path / LOCK)
        if self._lock is None:
            raise UserError(_taken(self.path))
        for name in WRITTEN:
            recover(self.path / name)
        write_text(self.path / "config.yaml", to_yaml(settings))
        write_json(self.path / "run.json", self.info)

    def put_aside_after(self, step: int) -> bool:
        """Put aside weights that were kept after later steps than the one that is gone on from, by
        a run that was killed: they would count as this one's; whether there were any."""
        if not self.main:
            return False
        kept = {
            path
            for name, path in kept_weights(self.path).items()
            if path != self.weights and (not step or (trained_steps(self.path, name) or 0) > step)
        }
        if kept:
            shutil.rmtree(self.path / ASIDE, ignore_errors=True)
            (self.path / ASIDE).mkdir()
            for path in kept:
                path.rename(self.path / ASIDE / path.name)
        return bool(kept)

    def update(self, **facts: Any) -> None:
        """Record facts in run.json."""
        if self.main:
            self.info |= facts
            write_json(self.path / "run.json", self.info)

    def log(self, step: int, seconds: float, **values: float) -> None:
        """Append a row to metrics.jsonl."""
        if not self.main:
            return
        if self._metrics is None:
            self._metrics = (self.path / "metrics.jsonl").open("a", encoding="utf-8")
        row = {"step": step, "seconds": round(seconds, 3), **values}
        self._metrics.write(json.dumps(row) + "\n")
        self._metrics.flush()

    def write_log(self, line: str) -> None:
        """Append a dated line to log.txt."""
        if self.main:
            with (self.path / "log.txt").open("a", encoding="utf-8") as file:
                file.write(f"{now()} {line}\n")

    def rewind_metrics(self, step: int) -> None:
        """Drop rows after `step`: they will be measured again."""
        file = self.path / "metrics.jsonl"
        if self.main and file.exists():
            write_jsonl(file, [row for row in read_jsonl(file) if row["step"] <= step])

    @contextlib.contextmanager
    def checkpoint(self, step: int, keep: int) -> Iterator[Path]:
        """Yield a folder to fill; it counts only when whole. The newest `keep` are kept."""
        final = self.path / "checkpoints" / f"step-{step:06d}"
        with atomic_folder(final) as folder:
            yield folder
            (folder / MARKER).write_text(f"{step}\n")
        for old in checkpoints(self.path)[:-keep]:
            _remove(old)

    def drop_checkpoints(self) -> None:
        """Delete them, where the run has the weights that it ends with."""
        if self.main and self.weights.exists():
            for old in checkpoints(self.path):
                _remove(old)

    def close(self, status: str, seconds: float) -> None:
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = None
        self.update(status=status, ended=now(), seconds=round(seconds, 2))
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def checkpoints(run: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    return sorted((p.parent for p in (run / "checkpoints").glob(f"step-*/{MARKER}")), key=step_of)


def is_closed(run: Path) -> bool:
    """Whether a run is finished and left no checkpoint to go on from."""
    return not checkpoints(run) and info_of(run).get("status") == "finished"


def _remove(checkpoint: Path) -> None:
    """Under a name that does not count: what a process killed meanwhile leaves, `recover` takes."""
    torn = checkpoint.with_name(f".{GONE}-{checkpoint.name}.{os.getpid()}.tmp")
    shutil.rmtree(checkpoint.rename(torn))


def put_aside(checkpoint: Path) -> Path:
    """Give a checkpoint that cannot be read a name under which it does not count."""
    aside = checkpoint.with_name(f"damaged-{checkpoint.name}")
    shutil.rmtree(aside, ignore_errors=True)
    return checkpoint.rename(aside)


def step_of(path: Path) -> int:
    """Of a checkpoint, or a file named likewise."""
    return int(path.stem.removeprefix("step-"))


def kept_weights(run: Path) -> dict[str, Path]:
    """A run's weights folders by name: "newest", "best" (as measured), and the number of a step,
    the last one's too."""
    found = {"newest": run / "weights", "best": run / "best"}
    for path in sorted(run.glob("weights-*[0-9]")):
        found[path.name.removeprefix("weights-").lstrip("0")] = path
    if (last := trained_steps(run)) is not None:
        found.setdefault(str(last), run / "weights")
    return {name: path for name, path in found.items() if path.is_dir()}


def weights_folder(run: Path, step: int) -> Path:
    """Of weights that are kept beside the newest."""
    return run / f"weights-{step:06d}"


def trained_steps(run: Path, weights: str = "newest") -> int | None:
    """After how many steps a run's weights of that name are; None where the run does not say."""
    if weights.isdecimal():
        return int(weights)
    file = run / "best" / SCORE if weights == "best" else run / "run.json"
    return read_json(file).get("step" if weights == "best" else "steps") if file.exists() else None


def check_same_settings(
    path: Path, family: str, settings: Any, identity: str | None = None
) -> None:
    """Raise UserError if `path` holds a run that these settings cannot continue, or lies in a file.

    Args:
        identity: of `data`, which may lie elsewhere by now, as after a move to another machine;
            and so may what CONTENT names.
    """
    if not path.exists():
        nearest_folder(path, "run_dir")
        return
    _check_folder(path, family)
    if not (path / "config.yaml").exists():
        return
    done = max((step_of(saved) for saved in checkpoints(path)), default=0)
    if is_closed(path):
        raise UserError(
            f"{path} is finished, and there is no checkpoint to go on from: it would begin anew. "
            "Give another --run_dir, or remove that one first."
        )
    if done > settings.steps:
        raise UserError(f"{path} has already done {done} steps; ask for as many, or more.")
    _check_unchanged(path, settings, MAY_CHANGE, identity)


def check_same_weights(
    path: Path, family: str, settings: Any, facts: dict[str, Any], may_change: set[str]
) -> None:
    """Raise UserError if the run at `path`, whose weights are to be built on, learned from other
    settings or inputs than these: see `check_same_settings` and `check_same_inputs`.

    Args:
        may_change: settings that matter no more than those of NO_MATTER.
    """
    _check_folder(path, family)
    _check_unchanged(path, settings, NO_MATTER | may_change, facts.get("data_identity"))
    check_same_inputs(path, facts)


def _check_folder(path: Path, family: str) -> None:
    """Raise UserError unless `path` is a run of that family which no other process is training."""
    whole = (path / "run.json").exists() and (path / "config.yaml").exists()
    if not whole and (not path.is_dir() or _begun(path)):
        raise UserError(f"{path} exists and is not a run; give another --run_dir.")
    if (path / LOCK).exists():
        free = lock(path / LOCK, shared=True)
        if free is None:
            raise UserError(_taken(path))
        free.close()
    saved_family = info_of(path).get("family", family)
    if saved_family != family:
        raise UserError(f"{path} is a run of '{saved_family}'; give another --run_dir.")


def _check_unchanged(path: Path, settings: Any, may_change: set[str], identity: str | None) -> None:
    """Raise UserError if the run at `path` was started with other settings."""
    info = info_of(path)
    data = info.get("data_identity")  # which older runs do not tell
    saved = leaves(_numbered(filled(read_yaml(path / "config.yaml"), type(settings))))
    given = leaves(_numbered(to_dict(settings)))
    changes = [
        f"{key}: {saved.get(key)} -> {given.get(key)}"
        for key in sorted(saved.keys() | given.keys())
        if saved.get(key) != given.get(key) and key not in may_change
        if not (PLACES.fullmatch(key) and _same_place(saved.get(key), given.get(key)))
        if not (DATA.fullmatch(key) and identity and identity == data)
        if not (identity and CONTENT.get(key) in info and _is_folder(given.get(key)))
    ]
    if changes:
        raise UserError(
            f"{path} was started with other settings ({'; '.join(changes)}). "
            "Give the old ones to go on, or another --run_dir to begin anew."
        )


def _numbered(values: dict[str, Any]) -> dict[str, Any]:
    """Lists of groups as groups of their numbers: {"concepts": [{"data": "x"}]} -> {"concepts":
    {"0": {"data": "x"}}}."""
    return {
        key: {str(n): item for n, item in enumerate(value)}
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value)
        else value
        for key, value in values.items()
    }


def _same_place(one: str | None, other: str | None) -> bool:
    return bool(one and other) and os.path.abspath(str(one)) == os.path.abspath(str(other))


def _is_folder(name: str | None) -> bool:
    return os.path.isdir(os.path.expanduser(name or ""))


def check_same_inputs(path: Path, facts: dict[str, Any]) -> None:
    """Raise UserError if the run at `path` was started from other INPUTS than `facts` says.

    What an older version did not record may be anything.
    """
    old = info_of(path)
    changed = [
        what
        for fact, what in INPUTS.items()
        if fact in facts.keys() & old.keys()
        if old[fact] != facts[fact]
    ]
    if changed:
        raise UserError(
            f"The {' and '.join(changed)} of {path} have changed since it was started; "
            "restore them or give another --run_dir."
        )


def changed_on_the_way(path: Path, old: dict[str, Any], facts: dict[str, Any]) -> list[str]:
    """What a run that goes on does otherwise than `old` says: allowed, and never forgotten."""
    saved, was, now_is = checkpoints(path), old.get("precision"), facts.get("precision")
    if not saved or was is None or was == now_is:
        return []
    step = step_of(saved[-1])
    return [f"Beware: mixed_precision was {was} up to step {step}, and is {now_is} from there."]


def info_of(run: Path) -> dict[str, Any]:
    """run.json; {} where there is none."""
    info: dict[str, Any] = read_json(run / "run.json") if (run / "run.json").exists() else {}
    return info


def _begun(path: Path) -> bool:
    """Whether a folder holds more than a run that was killed while it was set up."""
    return any(p.name not in BEFORE and not p.name.startswith(".") for p in path.iterdir())


def _taken(path: Path) -> str:
    return f"{path} is being trained by another process; stop that one or give another --run_dir."


def named(run: Path) -> Path:
    """A run or model folder by its own name, where it was given as the one that one is in."""
    return run.resolve() if run.name in ("", "..") else run


def samples_folder(run: Path, name: str) -> Path:
    """Where images of a run go. A model folder in diffusers' own format (models/sd2-mini, read
    only for us) gets a folder under runs/."""
    owner = run if (run / "run.json").exists() else Path("runs") / run.name
    return owner / "samples" / name


def read_metrics(run: Path) -> list[dict[str, Any]]:
    file = run / "metrics.jsonl"
    return read_jsonl(file) if file.exists() else []
