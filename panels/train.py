"""Train: every setting of every trainer as a field, live losses and samples, stop and resume."""

import tempfile
import time
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from core.curves import plot
from core.errors import UserError
from core.families import FAMILIES
from core.files import read_json
from core.runs import read_metrics
from panels import fields, form, look
from panels.endpoints import endpoint
from panels.thumbnails import figure
from panels.trainers import Trainers, losses, sheets
from panels.training import Training
from panels.workbench import Workbench

FIRST = ("base", "steps", "epochs", "num_epochs", "seed", "size", "img_size", "prompt")
"""Settings that stand outside the folded part, of those that a trainer has."""
SHEETS = 6  # newest sample sheets shown in a row
SHEET_SIDE = 400  # pixels
CURVES = 4  # losses drawn, at most
LOOK_EVERY = 2.0  # seconds
NOTICE_EVERY = 10.0
IDLE = "Nothing is being trained from here."
NOTE = "A closed browser, or a stopped app, does not stop a training run."


def notice(bench: Workbench, page: gr.Blocks) -> None:
    """Above all tabs, while a run is being trained: what that means for drawing."""
    train = _train(bench)
    words = gr.HTML()
    often = gr.Timer(NOTICE_EVERY).tick
    gr.on([page.load, often], train.notice, outputs=words, queue=False, **fields.QUIET)


def tab(bench: Workbench, page: gr.Blocks) -> None:
    """Lay out the tab and wire it; called inside its `gr.Tab`."""
    train = _train(bench)
    runs = train.trainers.watchable()
    run = gr.Dropdown(runs, label="Run to watch", allow_custom_value=True, render=False)
    stopped = gr.HTML(render=False)
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
            status = gr.HTML(look.note(NOTE), render=False)
            _form(train, family, begin, [name, data], [status, run, stopped])
            status.render()
        with gr.Column(scale=2, min_width=300):
            run.render()
            stop = gr.Button("Stop it", interactive=False)
            stopped.render()
            live = gr.HTML(look.note(IDLE))
    seen, known = gr.State(""), gr.State(runs)
    family.change(train.begin_with, family, begin, **fields.QUIET)
    begin.input(train.take_up, begin, [name, data], **fields.QUIET)
    stop.click(train.stop, run, stopped, **fields.QUIET)
    watched = [live, seen, known, stop]
    run.change(lambda name: train.watch(name, ""), run, watched, **fields.QUIET)
    gr.Timer(LOOK_EVERY).tick(train.watch, [run, seen], watched, **fields.QUIET)
    lists = [run, data, begin]
    gr.on([page.load, known.change], train.refresh, [run, family, begin], lists, **fields.QUIET)
    endpoint(train.trainers.start, "train")
    endpoint(train.trainers.stop, "stop_training")
    endpoint(train.trainers.state, "training")
    endpoint(train.trainers.settings, "training_settings")
    endpoint(train.trainers.presets, "training_presets")
    endpoint(train.trainers.resumable, "training_runs")


def _form(train: "Train", family: Any, begin: Any, asked: list[Any], shown: list[Any]) -> None:
    """The fields of the chosen trainer, made anew with every choice.

    Args:
        asked: the run's name and its images.
        shown: where the answer goes, the run that is watched, and the answer to Stop.
    """

    @gr.render(inputs=[family, begin])
    def show(family_name: str, beginning: str) -> None:
        values = train.values(family_name, beginning)
        known = {field.name: field for field in form.fields_of(family_name) if field.name != "data"}
        parts = {name: _part(known[name], values[name]) for name in known if name in FIRST}
        with gr.Accordion("All settings", open=False) as others:
            parts |= {name: _part(known[name], values[name]) for name in known if name not in FIRST}
        go = gr.Button("Start training", variant="primary")

        def start(name: str, data: str, *given: Any) -> list[Any]:
            changed = form.changes(values, dict(zip(parts, given, strict=True)))
            *told, complaint = train.told(family_name, name, data, beginning, changed)
            wrong = form.named(complaint, known)
            opened = gr.skip() if wrong in ("", *FIRST) else gr.update(open=True)
            words = [_words(known[n], complaint if n == wrong else "") for n in parts]
            return [*told, opened, *words]

        outputs = [*shown, others, *parts.values()]
        go.click(start, [*asked, *parts.values()], outputs, **fields.QUIET)


def _part(field: form.Field, value: str) -> Any:
    # Gradio takes a field with a value, made while the page runs, for one to be read only
    words: dict[str, Any] = {"label": field.name, "info": field.help, "interactive": True}
    if field.boolean:
        return gr.Checkbox(value == "true", **words)
    if field.choices:
        return gr.Dropdown(list(field.choices), value=value or None, **words)
    return gr.Textbox(value, **words)


def _words(field: form.Field, complaint: str) -> Any:
    """What stands at a field: its help, or what is wrong with its value."""
    mark = ["osteon-wrong"] if complaint else []
    return gr.update(info=complaint or field.help, elem_classes=mark)


def _train(bench: Workbench) -> "Train":
    return Train(bench, Trainers(Training(bench.root)))


@dataclass(frozen=True)
class Train:
    """What the tab's events do."""

    bench: Workbench
    trainers: Trainers

    def beginnings(self, family: str) -> list[tuple[str, str]]:
        """(label, value) of what a run may begin with: defaults, presets, runs of this family."""
        presets = [(f"preset {name}", name) for name in self.trainers.presets(family)]
        runs = [(f"go on with {run}", run) for run in self.trainers.resumable(family)]
        return [("defaults", ""), *presets, *runs]

    def begin_with(self, family: str) -> Any:
        found = self.beginnings(family)
        return gr.update(choices=found, value=found[0][1])

    def take_up(self, beginning: str) -> tuple[Any, Any]:
        """The name and the images of a run to go on with."""
        if beginning not in self.trainers.runs():  # a preset
            return gr.skip(), gr.skip()
        values = self.trainers.values(self.trainers.family(beginning), beginning)
        return Path(beginning).name, values["data"]

    def values(self, family: str, beginning: str) -> dict[str, str]:
        """What the fields hold at first."""
        if beginning not in [value for _, value in self.beginnings(family)]:
            beginning = ""  # of the family that was chosen before
        return self.trainers.values(family, beginning)

    def told(self, family: str, name: str, *others: Any) -> tuple[str, Any, Any, str]:
        """Start: the answer in words, the run to watch, Stop's answer, and the complaint."""
        try:
            command = self.trainers.begin(family, name, *others)
        except UserError as error:
            return look.problem(str(error)), gr.skip(), gr.skip(), str(error)
        return look.status(f"Started: {command}") + self.notice(), f"runs/{name}", "", ""

    def stop(self, run: str) -> str:
        try:
            return look.status(self.trainers.stop(run))
        except UserError as error:
            return look.problem(str(error))

    def notice(self) -> str:
        """What the run under way means for drawing; "" where there is none."""
        names = ", ".join(f"runs/{name}" for name in self.trainers.training.under_way())
        slow = "until it ends, drawing is slow and may not fit in memory."
        return look.note(f"{names} is being trained: {slow}") if names else ""

    def refresh(self, run: str | None, family: str, begin: str) -> tuple[Any, Any, Any]:
        """The lists to choose from: runs to watch, images, settings to begin with."""
        return (
            fields.renewed(self.trainers.watchable(), run),
            gr.update(choices=self.bench.sets()),
            fields.renewed(self.beginnings(family), begin),
        )

    def watch(self, run: str | None, seen: str) -> tuple[Any, Any, list[str], Any]:
        """The run as it stands and a stamp of that, nothing new where the stamp is `seen`; all runs
        that there are to watch; and whether this one can be stopped."""
        running = self.trainers.training.is_running(Path(run or "").name)
        stop = gr.update(interactive=running)
        return (*self._look(run, seen), self.trainers.watchable(), stop)

    def _look(self, run: str | None, seen: str) -> tuple[Any, Any]:
        name, training = Path(run or "").name, self.trainers.training
        if run not in self.trainers.runs():
            printed = training.printed(name) if name else ""
            return (_printed(printed) if printed else look.note(IDLE)), ""
        folder = self.trainers.folder(run)
        running = training.is_running(name)
        files = [folder / "metrics.jsonl", folder / "run.json", *sheets(folder)]
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
        newest = sheets(folder)[-SHEETS:]
        if newest:
            if self.trainers.draws_radiographs(f"runs/{folder.name}"):
                html += look.NOT_FOR_DIAGNOSIS
            html += look.note("Samples of the same seeds as training goes on:")
            figures = "".join(figure(s, f"After {_step(s)}", SHEET_SIDE) for s in newest)
            html += f'<div class="osteon-figures osteon-sheets">{figures}</div>'
        printed = self.trainers.training.printed(folder.name)
        return html + (_printed(printed) if printed else "")


def _step(sheet: Path) -> str:
    number = sheet.stem.rpartition("-")[2].lstrip("0")
    return f"{number} steps" if number.isdigit() else sheet.stem


def _curves(rows: list[dict[str, Any]]) -> str:
    newest = losses(rows[-1])
    names = list(newest)[:CURVES]
    words = ", ".join(f"{name} {newest[name]:.4g}" for name in names)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{time.monotonic_ns()}.png"
        plot(rows, names, file)
        picture = figure(file, f"Newest values: {words}", 1200)
    return f'<div class="osteon-figures osteon-sheets">{picture}</div>'


def _printed(text: str) -> str:
    return (
        "<details><summary>What the trainer printed</summary>"
        f'<div class="osteon-facts"><pre>{escape(text)}</pre></div></details>'
    )
