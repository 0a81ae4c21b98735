"""One wish over up to three settings: a table of pictures (X/Y/Z), or a strip of LoRA scales."""

import itertools
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from core.errors import UserError
from core.images import write_png
from core.provenance import now
from core.runs import kept_weights
from panels import fields, look
from panels.drawing import Failure, Picture, Progress, Task, draw, label_height
from panels.label import WHEN, labelled, strip_height
from panels.sheets import sheet
from panels.tasks import tasks_of
from panels.thumbnails import img
from panels.wish import MAX_TEXT, FieldError, Wish, at
from panels.workbench import Workbench, choices

NONE = "none"
AXES: dict[str, tuple[str, type]] = {
    "Seed": ("seed", int),
    "Prompt": ("prompt", str),
    "Negative prompt": ("negative", str),
    "Steps": ("steps", int),
    "Guidance": ("guidance", float),
    "Scheduler": ("scheduler", str),
    "LoRA scale": ("lora_scale", float),
    "Model": ("model", str),
    "Weights": ("weights", str),
}
"""Title -> name of the setting and what its values are."""
MOST = 64  # pictures of a grid
SMALL = 160  # pixels of a picture in the table
SHOW_EVERY = 1.0  # seconds between two tables, at least
STRIP = ("LoRA scale", "0, 0.25, 0.5, 0.75, 1")
INFO = "Values with commas between them; prompts with | between them."


@dataclass(frozen=True)
class Axis:
    """One setting and the values that it takes."""

    title: str
    values: tuple[Any, ...]

    @property
    def name(self) -> str:
        return AXES[self.title][0] if self.title in AXES else ""

    def label(self, value: Any) -> str:
        """Over a column or beside a row; "" where nothing varies."""
        return f"{self.title}: {value}" if self.name else ""


def read_axis(title: str, text: str) -> Axis:
    """`title` of AXES or "none". Raises UserError for values that it cannot take."""
    if title == NONE:
        return Axis(NONE, ("",))
    if title not in AXES:
        raise UserError(f"There is no setting '{title}'; choose one from the list.")
    name, kind = AXES[title]
    parts = [part.strip() for part in text.split("|" if name in ("prompt", "negative") else ",")]
    parts = [part for part in parts if part]
    try:
        values = tuple(kind(part) for part in parts)
    except ValueError:
        raise UserError(f"{title} takes numbers with commas between them, not '{text}'.") from None
    if not values:
        raise UserError(f"Write the values that {title} is to take. {INFO}")
    return Axis(title, values)


def section(bench: Workbench) -> None:
    """Lay out the grid's fields; called inside a tab."""
    maker = Grid(bench)
    models = bench.models()
    with gr.Row():
        model = gr.Dropdown(
            choices(models),
            value=models[0].name if models else None,
            label="Model of the grid",
            allow_custom_value=True,
            min_width=220,
        )
        prompt = gr.Textbox("", label="Prompt of the grid", max_length=MAX_TEXT, min_width=220)
        seed = fields.seed_field("Of all pictures, unless it is varied.", min_width=200)
    axes: list[Any] = []
    with gr.Row():
        for letter, (title, text) in zip("XYZ", (STRIP, (NONE, ""), (NONE, "")), strict=True):
            with gr.Column(min_width=220):
                axes.append(gr.Dropdown([NONE, *AXES], value=title, label=f"{letter}: setting"))
                axes.append(gr.Textbox(text, label=f"{letter}: values", info=INFO))
    settings = fields.settings_fields()
    buttons = fields.buttons("Draw the grid", bool(models))
    status = gr.HTML(look.status("Ready."))
    warning = gr.HTML()
    table = gr.HTML(elem_classes="osteon-grid")
    sheet = gr.File(label="The whole grid as one PNG", visible=False)
    asked = [model, prompt, seed, *axes, *settings]
    shown = [status, warning, table, sheet]
    fields.on_start(buttons, maker.draw, asked, shown, status, "grid")


@dataclass(frozen=True)
class Grid:
    """What the section's events do."""

    bench: Workbench

    def draw(
        self,
        model: str | None,
        prompt: str | None,
        seed: int | None,
        x: str,
        x_values: str,
        y: str = NONE,
        y_values: str = "",
        z: str = NONE,
        z_values: str = "",
        negative: str = "",
        steps: int = 25,
        guidance: float = 4.0,
        lora_scale: float = 1.0,
        scheduler: str = "ddim",
        label: str = WHEN[0],
    ) -> Iterator[tuple[Any, ...]]:
        """Every combination of the values, shown as they are made."""
        wish = Wish(prompt or "", negative, seed, 1, steps, guidance, scheduler, lora_scale)
        axes = []
        for letter, title, text in zip(
            "xyz", (x, y, z), (x_values, y_values, z_values), strict=True
        ):
            with at(f"{letter}_values" if title in AXES else letter):
                axes.append(read_axis(title, text or ""))
        tasks = self.tasks(model, wish, axes, label)
        yield from self._draw(tasks, axes)

    def tasks(self, model: str | None, wish: Wish, axes: Sequence[Axis], label: str) -> list[Task]:
        """In the order of the table: z, then y, then x. Raises UserError for what cannot be."""
        x, y, z = axes
        named = [axis.name for axis in axes if axis.name]
        if len(set(named)) < len(named):
            double = next(letter for letter, axis in zip("zy", (z, y), strict=True) if axis.name)
            sentence = "Two axes vary the same setting; choose another for one of them."
            raise FieldError(double, sentence)
        count = len(x.values) * len(y.values) * len(z.values)
        if count > MOST:
            raise UserError(f"That would be {count} pictures; a grid holds {MOST} at most.")
        tasks = []
        for values in itertools.product(z.values, y.values, x.values):
            changes = {
                axis.name: value for axis, value in zip((z, y, x), values, strict=True) if axis.name
            }
            try:
                task = self._task(model, wish, changes, label)
            except FieldError as error:  # of a value on an axis, where it varies
                raise FieldError(_varied(axes, error.field), str(error)) from None
            tasks.append(replace(task, needs=frozenset(changes) - {"weights"}))
        return tasks

    def _task(self, model: str | None, wish: Wish, changes: dict[str, Any], label: str) -> Task:
        """Of one cell. Raises FieldError for what cannot be."""
        name = changes.pop("model", model)
        (task,) = tasks_of(self.bench, name, replace(wish, count=1, **changes), label)
        kept = ["newest", *kept_weights(task.model.folder)]
        if changes.get("weights", "newest") not in kept:
            sentence = f"{task.model.name} kept no weights '{changes['weights']}' while training; "
            sentence += f"there are: {', '.join(dict.fromkeys(kept))}."
            raise FieldError("weights", sentence)
        return task

    def _draw(self, tasks: list[Task], axes: list[Axis]) -> Iterator[tuple[Any, ...]]:
        made: dict[int, Picture] = {}
        cells: dict[int, str] = {}
        failed: dict[int, str] = {}
        warning = look.warning([task.model for task in tasks], " ".join(t.prompt for t in tasks))
        shown = time.monotonic()
        yield look.status("Starting", 0.0), warning, "", gr.update(visible=False)
        with closing(draw(self.bench.resident, tasks, self.bench.pictures)) as events:
            for event in events:
                number = f"Picture {event.place + 1} of {len(tasks)}"
                if isinstance(event, Progress):
                    line = look.status(f"{number}: {event.words}", event.share_of(len(tasks)))
                    yield line, gr.skip(), gr.skip(), gr.skip()
                    continue
                if isinstance(event, Failure):
                    failed[event.place] = event.sentence
                    cells[event.place] = look.problem(event.sentence)
                if isinstance(event, Picture):
                    made[event.place] = event
                    small = img(event.path, look.caption(event), SMALL)
                    cells[event.place] = look.linked(small, event.path)
                if time.monotonic() - shown > SHOW_EVERY:
                    shown = time.monotonic()
                    yield gr.skip(), gr.skip(), _tables(axes, cells), gr.skip()
        done = f"{len(made)} of {len(tasks)} pictures drawn"
        why = f"{done}; the table says why the rest was not."
        line = look.problem(why) if failed else look.status(f"{done}.")
        file = gr.skip()
        if made:
            file = gr.update(value=str(self._sheet(made, failed, axes)), visible=True)
        yield line, gr.skip(), _tables(axes, cells), file

    def _sheet(
        self, made: dict[int, Picture], failed: dict[int, str], axes: Sequence[Axis]
    ) -> Path:
        """All in one PNG that carries the settings of each."""
        cells = [
            made[place].open() if place in made else failed[place]
            for place in range(len(made) + len(failed))
        ]
        x, y, z = axes
        headings = [[axis.label(value) for value in axis.values] for axis in (x, y)]
        page = sheet([(z.label(deep), *headings) for deep in z.values], cells)
        if any(label_height(picture.facts) for picture in made.values()):
            page = labelled(page, strip_height(page.width))
        facts = {
            "axes": [[axis.title, list(axis.values)] for axis in axes],
            "pictures": [made[place].facts for place in sorted(made)],
        }
        path = self.bench.pictures / "grids" / f"grid-{now().replace(':', '')}.png"
        write_png(page, path, {"osteon-grid": json.dumps(facts, ensure_ascii=False)}, True)
        return path


def _varied(axes: Sequence[Axis], field: str) -> str:
    """The field of the values of a setting that an axis varies; else its own."""
    letters = zip("xyz", axes, strict=True)
    return next((f"{letter}_values" for letter, axis in letters if axis.name == field), field)


def _tables(axes: Sequence[Axis], filled: dict[int, str]) -> str:
    """A table for each value of z; cells that are not there yet are left empty."""
    x, y, z = axes
    places = itertools.count()
    html = ""
    for deep in z.values:
        head = "".join(f'<th scope="col">{escape(x.label(value))}</th>' for value in x.values)
        rows = ""
        for down in y.values:
            cells = "".join(f"<td>{filled.get(next(places), '')}</td>" for _ in x.values)
            rows += f'<tr><th scope="row">{escape(y.label(down))}</th>{cells}</tr>'
        caption = f"<caption>{escape(z.label(deep))}</caption>" if z.name else ""
        html += f"<table>{caption}<thead><tr><td></td>{head}</tr></thead>{rows}</table>"
    return html
