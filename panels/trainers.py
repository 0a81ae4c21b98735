"""Trainers and their runs, as the Train tab and programs use them. All raise UserError in words."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from core.config import read_yaml
from core.errors import UserError
from core.families import family_of
from core.images import list_images
from core.runs import info_of, read_metrics
from panels import form
from panels.catalogue import data_of, of_radiographs
from panels.training import Training, flags


@dataclass(frozen=True)
class Trainers:
    """Of one project. A run is "runs/<name>"; a run begins with a preset's name, with such a run,
    or with "", the defaults."""

    training: Training

    @property
    def root(self) -> Path:
        return self.training.root

    def presets(self, family: str) -> list[str]:
        """Names of a trainer's presets."""
        return [file.stem for file in form.presets_of(family)]

    def resumable(self, family: str) -> list[str]:
        """The runs that its trainer can go on with, the newest first."""
        form.trainer(family)
        whole = [run for run in self.runs() if (self.root / run / "config.yaml").exists()]
        return [run for run in whole if self.family(run) == family]

    def settings(self, family: str, begin: str = "") -> list[dict[str, Any]]:
        """Every setting of a trainer: name, help, choices, boolean, default, and the value that it
        has in `begin`."""
        values = self.values(family, begin)
        return [asdict(field) | {"value": values[field.name]} for field in form.fields_of(family)]

    def values(self, family: str, begin: str) -> dict[str, str]:
        """What every setting is at first."""
        return form.values_of(family, self._file(family, begin))

    def start(self, family: str, name: str, data: str, begin: str = "", changes: str = "{}") -> str:
        """Train runs/<name>, or go on with it; returns the command.

        Args:
            changes: settings by dotted name as JSON, such as '{"optim.lr": "5e-5"}'.
        """
        try:
            values = json.loads(changes)
        except json.JSONDecodeError as error:
            raise UserError(f"changes is not JSON: {error}.") from None
        if not isinstance(values, dict):
            raise UserError('changes must be an object of settings, such as {"steps": "50"}.')
        return self.begin(family, name, data, begin, values)

    def begin(self, family: str, name: str, data: str, begin: str, changes: dict[str, Any]) -> str:
        """`start`, with the settings as they are."""
        known = [field.name for field in form.fields_of(family)]
        for setting in changes:
            if setting not in known:
                raise UserError(f"{family} has no setting '{setting}'.")
        if not data:
            raise UserError("Choose the images to learn from.")
        file = self._file(family, begin)
        words = ["--config", str(file)] if file else []
        return self.training.start(family, name, [*words, "--data", data, *flags(changes)])

    def stop(self, run: str) -> str:
        """Let the trainer of a run save and leave; says what it does."""
        name = Path(run or "").name
        if not name:
            raise UserError("Choose a run.")
        if not self.training.stop(name):
            return f"{run} is stopping already: it ends its step and saves."
        return f"{run} ends its step, saves and stops. Start goes on from there."

    def runs(self) -> list[str]:
        """All runs that have begun, the newest first."""
        files = self.root.glob("runs/*/run.json")
        files = sorted(files, key=lambda file: file.stat().st_mtime, reverse=True)
        return [f"runs/{file.parent.name}" for file in files]

    def watchable(self) -> list[str]:
        """Runs under way, then all others."""
        under_way = [f"runs/{name}" for name in self.training.under_way()]
        return list(dict.fromkeys([*under_way, *self.runs()]))

    def state(self, run: str) -> dict[str, Any]:
        """How far a run is: status, running, finished, step, newest losses, sheets of samples, and
        the last lines that its trainer printed."""
        name = Path(run).name
        printed = self.training.printed(name)
        if run not in self.watchable() and not printed:
            raise _unknown(run)
        folder = self.root / "runs" / name
        status = info_of(folder).get("status")
        row = next(reversed(read_metrics(folder)), {})
        return {
            "status": status,
            "running": self.training.is_running(name),
            "finished": status == "finished",
            "step": row.get("step", 0),
            "losses": losses(row),
            "samples": [sheet.relative_to(self.root).as_posix() for sheet in sheets(folder)],
            "printed": printed,
        }

    def folder(self, run: str) -> Path:
        """Of a run by its name from the list."""
        if run not in self.runs():
            raise _unknown(run)
        return self.root / run

    def family(self, run: str) -> str:
        """Of a run by its name from the list; "" where this version does not know it."""
        try:
            return family_of(self.root / run)
        except UserError:
            return ""

    def draws_radiographs(self, run: str) -> bool:
        """Perhaps among other things."""
        folder = self.folder(run)
        return of_radiographs(folder, self.root, data_of(read_yaml(folder / "config.yaml")))

    def _file(self, family: str, begin: str) -> Path | None:
        if not begin:
            return None
        if begin.startswith("runs/"):
            return self.folder(begin) / "config.yaml"
        found = [file for file in form.presets_of(family) if file.stem == begin]
        if not found:
            raise UserError(f"There is no preset '{begin}' for {family}.")
        return found[0]


def losses(row: dict[str, Any]) -> dict[str, float]:
    """What a row of metrics.jsonl measured."""
    return {name: value for name, value in row.items() if name not in ("step", "seconds")}


def sheets(run: Path) -> list[Path]:
    """Sheets of samples, oldest first."""
    previews = run / "previews"
    return list_images(previews) if previews.is_dir() else []


def _unknown(run: str) -> UserError:
    return UserError(f"There is no run '{run}' here; choose one from the list.")
