"""Replay: a PNG that Osteon made, its settings, the picture drawn again, and what differs."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from core.errors import UserError
from core.images import open_image
from panels import fields, look
from panels.catalogue import Model, pick
from panels.drawing import Failure, Mix, Picture, Progress, Task, draw
from panels.history import model_of, read_facts
from panels.label import unlabelled
from panels.viewer import difference, pair
from panels.wish import Wish
from panels.workbench import Workbench


def section(bench: Workbench) -> None:
    """Lay out the upload and what it gives; called inside a tab."""
    replay = Replay(bench)
    file = gr.File(label="A PNG that Osteon made", file_types=[".png"], type="filepath", height=140)
    buttons = fields.buttons("Draw it again", True)
    status = gr.HTML(look.status("Ready."))
    view = gr.HTML()
    shown = [status, view]
    fields.on_start(buttons, replay.draw, file, shown, status, "replay")


@dataclass(frozen=True)
class Replay:
    """What the section's events do."""

    bench: Workbench

    def draw(self, file: str | None) -> Iterator[tuple[Any, Any]]:
        """Read the settings, draw again, compare pixel by pixel."""
        try:
            if not file:
                raise UserError("Give a PNG first.")
            open_image(Path(file))  # refuses what is damaged or has too many pixels
            facts = read_facts(Path(file))
            models = self.bench.models()
            task = task_of(facts, model_of(facts, models), models)
        except UserError as error:
            yield look.problem(str(error)), ""
            return
        yield look.status("Starting", 0.0), ""
        with closing(draw(self.bench.resident, [task], self.bench.pictures)) as events:
            for event in events:
                if isinstance(event, Failure):
                    yield look.problem(event.sentence), gr.skip()
                if isinstance(event, Progress):
                    yield look.status(event.words, event.share), gr.skip()
                if isinstance(event, Picture):
                    yield self._told(Path(file), facts, event)

    def _told(self, file: Path, facts: dict[str, Any], again: Picture) -> tuple[str, str]:
        with Image.open(file) as image:
            image.load()
            given = unlabelled(image, int(facts.get("label", 0)))
        try:
            apart = difference(given, again.open())
        except UserError as error:
            return look.problem(str(error)), look.facts(again)
        words = apart.words
        then, now = facts.get("trained_steps"), again.facts.get("trained_steps")
        if then != now:
            words += f" The model was trained for {then} steps then, for {now} now."
        view = pair(given, again.open(), ("As given", "Drawn again"))
        return look.status(words), view + look.facts(again)


def task_of(facts: dict[str, Any], model: Model, models: Sequence[Model]) -> Task:
    """What draws a picture again. Raises UserError for settings that are out of range."""
    try:
        wish = Wish(
            prompt=str(facts.get("prompt", "")),
            negative=str(facts.get("negative") or ""),
            seed=facts["seed"],
            **{
                name: facts[name]
                for name in ("steps", "guidance", "scheduler", "lora_scale", "weights")
                if name in facts
            },
        )
        loras = {pick(models, run): x for run, x in (facts.get("loras") or {}).items()}
        task = Task(model, wish.seed, wish.prompt, wish.options, loras)
        if "mix" not in facts:
            return task
        parts = {name: tuple(map(tuple, facts["mix"][name])) for name in ("seeds", "prompts")}
        return replace(task, mix=Mix(**parts))
    except (TypeError, ValueError, KeyError, AttributeError):
        raise UserError("The settings in this picture cannot be read.") from None
