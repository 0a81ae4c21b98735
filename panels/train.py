"""Train: every setting of every trainer as a field, live losses and samples, stop and resume."""

import json
import tempfile
import time
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from core.curves import plot
from core.errors import UserError
from core.families import FAMILIES, family_of
from core.files import read_json
from core.images import list_images
from core.runs import read_metrics
from panels import fields, form, look
from panels.thumbnails import figure
from panels.training import Training, flags
from panels.workbench import Workbench

FIRST = ("base", "steps", "epochs", "num_epochs", "seed", "size", "img_size", "prompt")
"""Settings that stand outside the folded part, of those that a trainer has."""
SHEETS = 6  # newest sample sheets shown in a row
SHEET_SIDE = 400  # pixels
CURVES = 4  # losses drawn, at most
LOOK_EVERY = 2.0  # seconds
IDLE = "Nothing is being trained from here."
NOTE = "A closed browser, or a stopped app, does not stop a training run."


def tab(bench: Workbench, page: gr.Blocks) -> None:
    """Lay out the tab and wire it; called inside its `gr.Tab`."""
    train = Train(bench, Training(bench.root))
    run = gr.Dropdown(train.runs(), label="Run to watch", allow_custom_value=True, render=False)
    with gr.Row():
        with gr.Column(scale=3, min_width=300):
            family = gr.Dropdown(
                [(row.title, name) for name, row in FAMILIES.items()], label="What to train"
            )
            begin = gr.Dropdown(
                train.beginnings(next(iter(FAMILIES))),
                label="Settings to begin with",
                info="A preset, or a run to go on with.",
            )
            name = gr.Textbox(
                "my-run", label="Name of the run", info="Its folder under runs/.", interactive=True
            )
            data = gr.Dropdown(
                bench.sets(),
                label="Images to learn from",
                info="A prepared set under data/, or a folder of images.",
                interactive=True,
                allow_custom_value=True,
            )
            status = gr.HTML(look.note(NOTE))
            _form(train, family, begin, [name, data], [status, run])
        with gr.Column(scale=2, min_width=300):
            run.render()
            stop = gr.Button("Stop it", elem_id="osteon-stop-training")
            live = gr.HTML(look.note(IDLE))
    seen = gr.State("")
    family.change(train.begin_with, family, begin, **fields.QUIET)
    begin.input(train.take_up, begin, [name, data], **fields.QUIET)
    stop.click(train.stop, run, status, api_name="stop_training", show_progress="hidden")
    watched = [live, seen]
    run.change(lambda name: train.watch(name, ""), run, watched, **fields.QUIET)
    gr.Timer(LOOK_EVERY).tick(train.watch, [run, seen], watched, **fields.QUIET)
    page.load(train.refresh, run, [run, data], **fields.QUIET)
    gr.api(train.start, api_name="train")
    gr.api(train.state, api_name="training")


def _form(train: "Train", family: Any, begin: Any, asked: list[Any], shown: list[Any]) -> None:
    """The fields of the chosen trainer, made anew with every choice.

    Args:
        asked: the run's name and its images.
        shown: where the answer goes, and the run that is watched.
    """

    @gr.render(inputs=[family, begin])
    def show(family_name: str, beginning: str) -> None:
        values = train.values(family_name, beginning)
        parts: dict[str, Any] = {}
        known = [field for field in form.fields_of(family_name) if field.name != "data"]
        first = [field for field in known if field.name in FIRST]
        for field in first:
            parts[field.name] = _part(field, values[field.name])
        with gr.Accordion("All settings", open=False):
            for field in known:
                if field not in first:
                    parts[field.name] = _part(field, values[field.name])
        go = gr.Button("Start training", variant="primary")

        def start(name: str, data: str, *given: Any) -> tuple[str, Any]:
            changed = form.changes(values, dict(zip(parts, given, strict=True)))
            return train.told(family_name, name, data, beginning, changed)

        go.click(start, [*asked, *parts.values()], shown, **fields.QUIET)


def _part(field: form.Field, value: str) -> Any:
    # Gradio takes a field with a value, made while the page runs, for one to be read only
    words: dict[str, Any] = {"label": field.name, "info": field.help, "interactive": True}
    if field.boolean:
        return gr.Checkbox(value == "true", **words)
    if field.choices:
        return gr.Dropdown(list(field.choices), value=value or None, **words)
    return gr.Textbox(value, **words)


@dataclass(frozen=True)
class Train:
    """What the tab's events do."""

    bench: Workbench
    training: Training

    def beginnings(self, family: str) -> list[tuple[str, str]]:
        """(label, value) of what a run may begin with: defaults, presets, runs of this family."""
        presets = [(f"preset {file.stem}", file.stem) for file in form.presets_of(family)]
        runs = [(f"go on with {run}", run) for run in self.runs() if self._family(run) == family]
        return [("defaults", ""), *presets, *runs]

    def begin_with(self, family: str) -> Any:
        found = self.beginnings(family)
        return gr.update(choices=found, value=found[0][1])

    def take_up(self, beginning: str) -> tuple[Any, Any]:
        """The name and the images of a run to go on with."""
        file = self.bench.root / beginning / "config.yaml"
        if not beginning.startswith("runs/") or not file.exists():
            return gr.skip(), gr.skip()
        values = form.values_of(self._family(beginning), file)
        return Path(beginning).name, values["data"]

    def values(self, family: str, beginning: str) -> dict[str, str]:
        """What the fields hold at first."""
        if beginning not in [value for _, value in self.beginnings(family)]:
            beginning = ""  # of the family that was chosen before
        return form.values_of(family, self._file(family, beginning))

    def start(self, family: str, name: str, data: str, begin: str = "", changes: str = "{}") -> str:
        """Train runs/<name>, or go on with it; returns the command. An endpoint for programs.

        Args:
            begin: name of a preset, "runs/<name>", or "" for the defaults.
            changes: settings by dotted name as JSON, such as '{"optim.lr": "5e-5"}'.

        Raises gr.Error for what the trainer would refuse.
        """
        try:
            return self._start(family, name, data, begin, json.loads(changes))
        except (UserError, json.JSONDecodeError) as error:
            raise gr.Error(str(error), print_exception=False) from None

    def told(self, family: str, name: str, *others: Any) -> tuple[str, Any]:
        """`start`, its answer or its complaint in words, and the run to watch."""
        try:
            command = self._start(family, name, *others)
        except UserError as error:
            return look.problem(str(error)), gr.skip()
        return look.status(f"Started: {command}"), f"runs/{name}"

    def _start(self, family: str, name: str, data: str, begin: str, changes: Any) -> str:
        if family not in FAMILIES:
            raise UserError(f"There is no trainer '{family}'; there are {', '.join(FAMILIES)}.")
        if not data:
            raise UserError("Choose the images to learn from.")
        known = [field.name for field in form.fields_of(family)]
        for setting, value in {**changes, "data": data}.items():
            place = Path(str(value))
            if setting not in known:
                raise UserError(f"{family} has no setting '{setting}'.")
            if place.is_absolute() or ".." in place.parts:
                raise UserError(f"{setting}: what the app uses must lie in the project's folder.")
        file = self._file(family, begin)
        words = ["--config", str(file)] if file else []
        return self.training.start(family, name, [*words, "--data", data, *flags(changes)])

    def stop(self, run: str) -> str:
        """Let the trainer of a run save and leave."""
        try:
            self.training.stop(Path(run or "").name)
        except UserError as error:
            return look.problem(str(error))
        return look.status(f"{run} ends its step, saves and stops. Start goes on from there.")

    def runs(self) -> list[str]:
        """All runs, the newest first."""
        files = self.bench.root.glob("runs/*/run.json")
        files = sorted(files, key=lambda file: file.stat().st_mtime, reverse=True)
        return [f"runs/{file.parent.name}" for file in files]

    def refresh(self, current: str | None) -> tuple[Any, Any]:
        return fields.renewed(self.runs(), current), gr.update(choices=self.bench.sets())

    def state(self, run: str) -> dict[str, Any]:
        """Status, steps and newest losses of a run."""
        folder = self._folder(run)
        facts = read_json(folder / "run.json")
        rows = read_metrics(folder)
        return {
            "status": facts.get("status"),
            "running": self.training.is_running(folder.name),
            "newest": rows[-1] if rows else {},
        }

    def watch(self, run: str | None, seen: str) -> tuple[Any, Any]:
        """The run as it stands, and a stamp of that; nothing new where the stamp is `seen`."""
        name = Path(run or "").name
        if run not in self.runs():
            printed = self.training.printed(name) if name else ""
            return (_printed(printed) if printed else look.note(IDLE)), ""
        folder = self._folder(run)
        running = self.training.is_running(name)
        files = [folder / "metrics.jsonl", folder / "run.json", *_sheets(folder)]
        stamp = f"{run} {running} {[f.stat().st_mtime for f in files if f.exists()]}"
        if stamp == seen:
            return gr.skip(), gr.skip()
        try:
            return self._live(folder, running), stamp
        except UserError as error:  # a file in the middle of being written
            return look.problem(str(error)), ""

    def _live(self, folder: Path, running: bool) -> str:
        rows = read_metrics(folder)
        status = read_json(folder / "run.json").get("status", "")
        step = rows[-1]["step"] if rows else 0
        words = "being trained" if running else status
        if status == "running" and not running:
            words = "not being trained by this app, and not finished; Start goes on with it"
        html = look.status(f"{folder.name}: {words}, step {step}.")
        if rows:
            html += _curves(rows)
        sheets = _sheets(folder)[-SHEETS:]
        figures = "".join(figure(sheet, f"After {_step(sheet)}", SHEET_SIDE) for sheet in sheets)
        if figures:
            html += look.note("Samples of the same seeds as training goes on:")
            html += f'<div class="osteon-figures osteon-sheets">{figures}</div>'
        printed = self.training.printed(folder.name)
        return html + (_printed(printed) if printed else "")

    def _family(self, run: str) -> str:
        try:
            return family_of(self._folder(run))
        except UserError:
            return ""

    def _folder(self, run: str) -> Path:
        """Of a run by its name from the list. Raises UserError for any other."""
        if run not in self.runs():
            raise UserError(f"There is no run '{run}' here; choose one from the list.")
        return self.bench.root / run

    def _file(self, family: str, beginning: str) -> Path | None:
        if not beginning:
            return None
        if beginning.startswith("runs/"):
            return self._folder(beginning) / "config.yaml"
        found = [file for file in form.presets_of(family) if file.stem == beginning]
        if not found:
            raise UserError(f"There is no preset '{beginning}' for {family}.")
        return found[0]


def _sheets(folder: Path) -> list[Path]:
    """Sheets of samples, oldest first."""
    previews = folder / "previews"
    return list_images(previews) if previews.is_dir() else []


def _step(sheet: Path) -> str:
    number = sheet.stem.rpartition("-")[2].lstrip("0")
    return f"{number} steps" if number.isdigit() else sheet.stem


def _curves(rows: list[dict[str, Any]]) -> str:
    names = [name for name in rows[-1] if name not in ("step", "seconds")][:CURVES]
    words = ", ".join(f"{name} {rows[-1][name]:.4g}" for name in names)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{time.monotonic_ns()}.png"
        plot(rows, names, file)
        picture = figure(file, f"Losses; the newest: {words}", 1200)
    return f'<div class="osteon-figures osteon-sheets">{picture}</div>'


def _printed(text: str) -> str:
    return (
        "<details><summary>What the trainer printed</summary>"
        f'<div class="osteon-facts"><pre>{escape(text)}</pre></div></details>'
    )
