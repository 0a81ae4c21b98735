"""Latent: from one seed or prompt to another, a walk over seeds, arithmetic with their vectors."""

import io
import json
import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from core.errors import UserError
from core.files import atomic_path
from core.vectors import saved_vectors
from panels import fields, look
from panels.catalogue import pick
from panels.drawing import Failure, Mix, Picture, Progress, Task, draw
from panels.endpoints import endpoint
from panels.label import WHEN
from panels.tasks import tasks_of
from panels.thumbnails import img
from panels.wish import MAX_TEXT, FieldError, Wish, at
from panels.workbench import Workbench, choices

MODES = {
    "Between": "From the first seed and prompt to the last, over all that are given.",
    "Walk": "The same, and back to the first: the pictures make a loop.",
    "Arithmetic": "First seed − second + third; the three and the sum.",
}
MOST = 48  # pictures
MOST_POINTS = 8  # seeds or prompts
SMALL = 192  # pixels of a picture on the page
FRAME_MS = 160


def tab(bench: Workbench, page: gr.Blocks) -> None:
    """Lay out the tab and wire it; called inside its `gr.Tab`."""
    latent = Latent(bench)
    models = bench.models()
    with gr.Row():
        model = gr.Dropdown(
            choices(models),
            value=models[0].name if models else None,
            label="Model",
            allow_custom_value=True,
            min_width=220,
        )
        mode = gr.Radio(list(MODES), value="Between", label="What to do", min_width=220)
        count = gr.Slider(2, MOST, 8, step=1, label="Pictures", min_width=180)
    how = gr.HTML(look.note(MODES["Between"]))
    saved = gr.HTML()
    with gr.Row():
        seeds = gr.Textbox(
            "0, 1",
            label="Seeds",
            info="With commas between them. Of a GAN or VAE also names of saved vectors.",
            min_width=200,
        )
        prompts = gr.Textbox(
            "",
            label="Prompts",
            info="For diffusion models; with | between them.",
            max_length=MAX_TEXT,
            min_width=200,
        )
        keep = gr.Textbox(
            "",
            label="Save the last vector as",
            info="Of a GAN or VAE; empty: not at all.",
            max_length=64,
            min_width=200,
        )
    settings = fields.settings_fields()
    buttons = fields.buttons("Draw the way", bool(models))
    status = gr.HTML(look.status("Ready."))
    warning = gr.HTML()
    row = gr.HTML()
    film = gr.File(label="As a film (GIF)", visible=False)
    asked = [model, mode, count, seeds, prompts, *settings, keep]
    shown = [status, warning, row, film]
    run = fields.on_start(buttons, latent.draw, asked, shown, status, "latent")
    run.then(latent.saved, model, saved, **fields.QUIET)
    model.change(latent.saved, model, saved, **fields.QUIET)
    page.load(latent.saved, model, saved, **fields.QUIET)
    mode.input(lambda mode: look.note(MODES[mode]), mode, how, queue=False, **fields.QUIET)
    page.load(latent.refresh, model, [model, buttons.go], **fields.QUIET)
    endpoint(latent.vectors, "vectors")


@dataclass(frozen=True)
class Latent:
    """What the tab's events do."""

    bench: Workbench

    def draw(
        self,
        model: str | None,
        mode: str,
        count: int,
        seeds: str,
        prompts: str = "",
        negative: str = "",
        steps: int = 25,
        guidance: float = 4.0,
        lora_scale: float = 1.0,
        scheduler: str = "ddim",
        label: str = WHEN[0],
        keep: str = "",
    ) -> Iterator[tuple[Any, ...]]:
        """The pictures one by one, then all as a GIF."""
        with at("seeds"):
            points = read_points(seeds)
        seed = _number(points[0])
        wish = Wish(prompts or "", negative, seed, 1, steps, guidance, scheduler, lora_scale)
        (task,) = tasks_of(self.bench, model, wish, label)  # marked if any prompt is an X-ray's
        own = task.model.prompts[:1] if task.model.family.prompts else ()
        texts = [text.strip() for text in task.prompt.split("|") if text.strip()] or [*own]
        tasks = [
            replace(task, seed=_number(mix.seeds[0][0]), prompt=mix.prompts[0][0], mix=mix)
            for mix in way(mode, points, texts or [""], count)
        ]
        tasks[-1] = replace(tasks[-1], keep=(keep or "").strip())
        yield from self._draw(tasks)

    def _draw(self, tasks: list[Task]) -> Iterator[tuple[Any, ...]]:
        made: list[Picture] = []
        prompts = " ".join(task.prompt for task in tasks)
        warning = look.warning([tasks[0].model], prompts)
        yield look.status("Starting", 0.0), warning, "", gr.update(visible=False)
        with closing(draw(self.bench.resident, tasks, self.bench.pictures)) as events:
            for event in events:
                if isinstance(event, Failure):
                    line = look.problem(event.sentence, event.field)
                    yield line, gr.skip(), gr.skip(), gr.skip()
                    return
                if isinstance(event, Progress):
                    words = f"Picture {event.place + 1} of {len(tasks)}: {event.words}"
                    line = look.status(words, event.share_of(len(tasks)))
                    yield line, gr.skip(), gr.skip(), gr.skip()
                if isinstance(event, Picture):
                    made.append(event)
                    line = look.status(f"{len(made)} of {len(tasks)}", len(made) / len(tasks))
                    yield line, gr.skip(), _row(made), gr.skip()
        film = write_film(made, self.bench.pictures / "films")
        done = look.status(f"{len(made)} pictures.")
        yield done, gr.skip(), gr.skip(), gr.update(value=str(film), visible=True)

    def saved(self, name: str | None) -> str:
        """Names of the vectors that a model has saved, in words."""
        known = name in self.bench.model_names()
        names = self.vectors(str(name)) if known else []
        return look.note(f"Saved vectors: {', '.join(names)}.") if names else ""

    def vectors(self, model: str) -> list[str]:
        """Names of the vectors that a model has saved, as the seeds of /latent take them."""
        return saved_vectors(pick(self.bench.models(), model).folder)

    def refresh(self, current: str | None) -> tuple[Any, Any]:
        models = self.bench.models()
        return fields.renewed(choices(models), current), gr.update(interactive=bool(models))


def read_points(text: str) -> list[int | str]:
    """ "0, smile" -> [0, "smile"]: seeds, and names of saved vectors. Raises UserError."""
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise UserError(f"Seeds are whole numbers with commas between, not '{text}'.")
    if len(parts) > MOST_POINTS:
        raise UserError(f"Give {MOST_POINTS} seeds at the most.")
    points = [int(part) if re.fullmatch(r"-?\d+", part) else part for part in parts]
    for point in points:
        Wish(seed=_number(point))
    return points


def _number(point: int | str) -> int:
    """A seed as it is; 0 for a saved vector, whose picture has none."""
    return point if isinstance(point, int) else 0


def way(mode: str, seeds: list[int | str], prompts: list[str], count: int) -> list[Mix]:
    """The places where pictures are drawn. Raises UserError where there is nothing to go between.

    Between and walk: `count` places, evenly along the seeds and, at the same time, the prompts.
    """
    if mode not in MODES:
        raise FieldError("mode", f"There is no '{mode}'; choose one of {', '.join(MODES)}.")
    if mode == "Arithmetic":
        if len(seeds) != 3:
            raise FieldError("seeds", "Arithmetic takes three: first − second + third.")
        points = [{seed: 1.0} for seed in seeds]
        total: dict[int | str, float] = {}
        for seed, weight in zip(seeds, (1.0, -1.0, 1.0), strict=True):
            total[seed] = total.get(seed, 0.0) + weight
        if not any(total.values()):
            raise FieldError("seeds", "That sum is nothing; take other seeds.")
        return [Mix(tuple(p.items()), ((prompts[0], 1.0),)) for p in [*points, total]]
    if not isinstance(count, int | float) or not 2 <= count <= MOST:
        raise FieldError("count", f"Pictures must be 2 to {MOST}.")
    count = int(count)
    if len(seeds) < 2 and len(prompts) < 2:
        raise FieldError("seeds", "Give two seeds, or two prompts, to go between.")
    if mode == "Walk":
        seeds, prompts = [*seeds, seeds[0]], [*prompts, prompts[0]]
    shares = np.linspace(0, 1, count, endpoint=mode == "Between")
    return [Mix(_at(seeds, share), _at(prompts, share)) for share in shares]


def _at(points: list[Any], share: float) -> tuple[tuple[Any, float], ...]:
    """The two points next to `share` of the way, and their weights; one where it is on a point."""
    place = share * (len(points) - 1)
    number = min(int(place), len(points) - 1)
    rest = float(place - number)
    if rest < 1e-9 or points[number] == points[number + 1]:
        return ((points[number], 1.0),)
    return ((points[number], 1.0 - rest), (points[number + 1], rest))


def write_film(pictures: list[Picture], folder: Path) -> Path:
    """A GIF of the pictures that says what it is; with the visible mark where they have one."""
    frames = [_loaded(picture.path) for picture in pictures]
    facts = {"synthetic": True, "pictures": [picture.facts for picture in pictures]}
    path = folder / f"{pictures[0].path.stem}-{len(pictures)}.gif"
    content = io.BytesIO()
    frames[0].save(
        content,
        "GIF",
        save_all=True,
        append_images=frames[1:],
        duration=FRAME_MS,
        loop=0,
        comment=json.dumps(facts).encode(),
    )
    with atomic_path(path, flush=False) as temporary:
        temporary.write_bytes(content.getvalue())
    return path


def _loaded(file: Path) -> Image.Image:
    with Image.open(file) as image:
        return image.copy()


def _words(mix: dict[str, Any]) -> str:
    """Under a picture."""
    return f"{'' if len(mix['seeds']) > 1 else 'Seed '}{look.mixed(mix)}"


def _row(made: list[Picture]) -> str:
    figures = ""
    for picture in made:
        words = _words(picture.facts["mix"])
        small = look.linked(img(_loaded(picture.path), words, SMALL), picture.path)
        figures += f"<figure>{small}<figcaption>{escape(words)}</figcaption></figure>"
    return f'<div class="osteon-figures">{figures}</div>'
