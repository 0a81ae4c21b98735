"""Replay: a PNG that Osteon made, its settings, the picture drawn again, and what differs."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from core.errors import UserError
from core.images import open_image
from panels import fields, look
from panels.drawing import Failure, Picture, Progress, as_drawn, draw
from panels.history import model_of, read_facts
from panels.tasks import task_of
from panels.viewer import difference, pair
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
        """Show the settings, draw again, compare pixel by pixel."""
        yield look.status("Starting", 0.0), ""
        if not file:
            raise UserError("Give a PNG first.")
        open_image(Path(file))  # refuses what is damaged or has too many pixels
        facts = read_facts(Path(file))
        yield gr.skip(), look.table(facts)
        models = self.bench.models()
        task = task_of(facts, model_of(facts, models), models)
        with closing(draw(self.bench.resident, [task], self.bench.pictures)) as events:
            for event in events:
                if isinstance(event, Failure):
                    yield look.problem(event.sentence), gr.skip()
                if isinstance(event, Progress):
                    yield look.status(event.words, event.share), gr.skip()
                if isinstance(event, Picture):
                    yield self._told(Path(file), facts, event)

    def _told(self, file: Path, facts: dict[str, Any], again: Picture) -> tuple[str, str]:
        given = as_drawn(file, facts)
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
