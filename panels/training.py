"""Trainers as processes of their own: they outlive the browser and the app.

runs/.training/<name>.json    process id, when it began, command, whether it was told to stop
runs/.training/<name>.txt     what it printed
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from core.config import parse
from core.errors import UserError
from core.families import resolve
from core.files import read_json, write_json
from core.runs import check_same_settings
from panels import form

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,60}")
TAIL = 2000  # bytes of what a trainer printed


@dataclass(frozen=True)
class Training:
    """The trainers that the app started in one project."""

    root: Path
    changing: threading.Lock = field(default_factory=threading.Lock)

    def start(self, family: str, name: str, words: list[str]) -> str:
        """Start, or take up, runs/<name> with the settings in `words`; returns the command.

        Raises UserError for settings that the trainer would refuse, for files and folders outside
        the project, and while a run is under way.
        """
        kind = form.trainer(family)
        if not NAME.fullmatch(name or ""):
            raise UserError("Name the run: letters, digits, dots, dashes, underscores.")
        words = [*words, "--run_dir", f"runs/{name}"]
        settings = parse(resolve(kind.settings), words, "").settings
        command = ["train", family, *words]
        with self.changing:
            for other in self.under_way():
                raise UserError(
                    f"runs/{other} is being trained, and two at once may not fit in memory; "
                    "stop it first, or wait for its end."
                )
            run = self.root / "runs" / name
            check_same_settings(run, family, settings)
            if not (run / "config.yaml").exists():  # it goes on with what it was started with
                check_places(settings, self.root)
            self._launch(name, command)
        return " ".join(["osteon", *command])

    def _launch(self, name: str, command: list[str]) -> None:
        with self._printed(name, "wb") as printed:
            process = subprocess.Popen(
                [sys.executable, "-m", "core.cli", *command],
                cwd=self.root,
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # signals to the app are not for it
            )
        threading.Thread(target=process.wait, daemon=True).start()  # leaves no zombie
        began = psutil.Process(process.pid).create_time()
        write_json(self._file(name), {"pid": process.pid, "began": began, "command": command})

    def stop(self, name: str) -> bool:
        """As Ctrl-C does: the trainer ends its step, saves and leaves. Raises UserError.

        False where it was told before: a second Ctrl-C would make it leave without saving.
        """
        with self.changing:
            process = self._process(name)
            if process is None:
                raise UserError(f"runs/{name} is not being trained by this app.")
            note = read_json(self._file(name))
            if note.get("stopping"):
                return False
            write_json(self._file(name), note | {"stopping": True})
            os.killpg(process.pid, signal.SIGINT)
            return True

    def is_running(self, name: str) -> bool:
        return self._process(name) is not None

    def under_way(self) -> list[str]:
        """Names of the runs that are being trained."""
        notes = sorted((self.root / "runs" / ".training").glob("*.json"))
        return [note.stem for note in notes if self.is_running(note.stem)]

    def printed(self, name: str) -> str:
        """The last lines that a trainer printed; of a progress bar the newest state."""
        try:
            with self._printed(name, "rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - TAIL))
                text = file.read().decode("utf-8", errors="replace")
        except FileNotFoundError:
            return ""
        lines = [line.rpartition("\r")[2] for line in text.replace("\r\n", "\n").split("\n")]
        return "\n".join(line.rstrip() for line in lines if line.strip())

    def _process(self, name: str) -> psutil.Process | None:
        """The trainer of a run, if it lives; another process of its number is none."""
        with contextlib.suppress(UserError, psutil.Error):
            note = read_json(self._file(name))
            process = psutil.Process(note["pid"])
            ended = process.status() == psutil.STATUS_ZOMBIE
            if not ended and abs(process.create_time() - note["began"]) < 1:
                return process
        return None

    def _file(self, name: str, suffix: str = ".json") -> Path:
        return self.root / "runs" / ".training" / f"{name}{suffix}"

    def _printed(self, name: str, mode: str) -> Any:
        path = self._file(name, ".txt")
        if "w" in mode:
            path.parent.mkdir(parents=True, exist_ok=True)
        return path.open(mode)


def check_places(settings: Any, root: Path) -> None:
    """Raise UserError for a file or folder outside the project; links count as where they lead.

    What a trainer writes (..._file, ..._dir) must lie in the run's own folder.
    """
    run = root / settings.run_dir
    for name, value in form.places(settings):
        if name in form.NOT_SHOWN:
            continue
        written = name.endswith(("_file", "_dir"))
        folder, words = (run, "the run's folder") if written else (root, "the project's folder")
        for place in (value, value.partition(":")[0]):  # data/x:test
            inside = (folder / place).resolve().is_relative_to(folder.resolve())
            if not inside or place.startswith("~"):
                raise UserError(f"{name}: '{value}' must lie in {words}.")


def flags(changes: Mapping[str, Any]) -> list[str]:
    """{"optim.lr": "5e-5"} -> ["--optim.lr=5e-5"]"""
    return [
        f"--{name}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in changes.items()
    ]
