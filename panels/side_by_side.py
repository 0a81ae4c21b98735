"""Side by side: one prompt and one seed, one picture from each family in a row."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from html import escape
from typing import Any, NamedTuple

import gradio as gr

from core.errors import UserError
from core.families import FAMILIES
from panels import fields, look
from panels.catalogue import Model, pick
from panels.drawing import Failure, Picture, Progress, Task, draw
from panels.wish import MAX_TEXT, Wish
from panels.workbench import Workbench, nothing_yet

ORDER = sorted(FAMILIES, key=lambda name: name != "base")
"""Families of the columns: the base model first, as what the others are measured by."""
READY = "Ready. The models are loaded one after another."
NONE = ("none", "")
Values = list[Any]


class Column(NamedTuple):
    """Which model, its picture, and the words under it."""

    model: gr.Dropdown
    image: gr.Image
    words: gr.HTML


def tab(bench: Workbench, page: gr.Blocks) -> None:
    """Lay out the tab and wire it; called inside its `gr.Tab`."""
    row = SideBySide(bench)
    models = bench.models()
    notice = gr.HTML(nothing_yet(), visible=not models)
    with gr.Row():
        prompt = gr.Textbox(
            "",
            label="Prompt",
            info="For the models that read one. Left empty: one that they were trained on.",
            max_length=MAX_TEXT,
            scale=3,
            min_width=280,
        )
        seed = fields.seed_field("The same for all.", scale=1, min_width=200)
    settings = fields.settings_fields()
    go, stop = fields.buttons("Draw the row", bool(models))
    status = gr.HTML(look.status(READY))
    with gr.Row():
        columns = [_column(family, models) for family in ORDER]
    warning = gr.HTML(elem_classes="osteon-warn")

    chosen = [column.model for column in columns]
    cells = [part for column in columns for part in (column.image, column.words)]
    asked = [prompt, settings.negative, seed, *settings[1:], *chosen]
    shown = [status, warning, *cells]
    run = fields.on_start([go.click, prompt.submit], row.draw, asked, shown, "side_by_side")
    fields.can_stop(stop, run, status)
    page.load(row.refresh, chosen, [notice, go, *chosen], **fields.QUIET)


def _column(family: str, models: list[Model]) -> Column:
    title, found = FAMILIES[family].title, _choices(models, family)
    with gr.Column(min_width=200):
        model = gr.Dropdown(found, value=found[0][1], label=title, allow_custom_value=True)
        image = gr.Image(
            label=title,
            show_label=False,
            type="filepath",
            format="png",
            interactive=False,
            buttons=["download", "fullscreen"],
            height=240,
            elem_classes="osteon-cell",
        )
        return Column(model, image, gr.HTML())


@dataclass(frozen=True)
class SideBySide:
    """What the tab's events do."""

    bench: Workbench

    def draw(
        self,
        prompt: str | None,
        negative: str | None,
        seed: int | None,
        steps: int,
        guidance: float,
        lora_scale: float,
        *names: str | None,
    ) -> Iterator[Values]:
        """One picture from each model named ("" leaves a column out), shown one by one."""
        try:
            wish = Wish(prompt or "", negative or "", seed, 1, steps, guidance, lora_scale)
            found = self.bench.models()
            chosen = [pick(found, name) if name else None for name in names]
            if not any(chosen):
                raise UserError("Choose a model in at least one column.")
        except UserError as error:
            yield [look.problem(str(error)), *[gr.skip()] * (1 + 2 * len(names))]
            return
        yield from self._draw(chosen, wish)

    def _draw(self, chosen: Sequence[Model | None], wish: Wish) -> Iterator[Values]:
        places = [place for place, model in enumerate(chosen) if model is not None]
        models = [model for model in chosen if model is not None]
        own = (prompt for model in models if model.family.prompts for prompt in model.prompts)
        prompt = wish.prompt.strip() or next(own, "")  # one for all
        tasks = [Task(model, wish.seed, prompt, wish.options) for model in models]
        cells: list[Any] = [None, ""] * len(chosen)  # picture and words of each column
        warning = look.warning(models, prompt)
        failed = 0
        yield [look.status("Starting", 0.0), warning, *cells]
        with closing(draw(self.bench.resident, tasks, self.bench.pictures)) as events:
            for event in events:
                name = tasks[event.place].model.folder.name
                at, share = 2 * places[event.place], (event.place + 1) / len(tasks)
                if isinstance(event, Progress):
                    line = look.status(
                        f"{name}: {event.words}", share + (event.share - 1) / len(tasks)
                    )
                    yield [line, warning, *[gr.skip()] * len(cells)]
                    continue
                if isinstance(event, Failure):
                    failed += 1
                    cells[at : at + 2] = [None, look.problem(event.sentence)]
                if isinstance(event, Picture):
                    cells[at : at + 2] = [str(event.path), _words(event)]
                yield [look.status(f"{name} is done", share), warning, *cells]
        done = f"{len(tasks) - failed} of {len(tasks)} drawn"
        why = f"{done}; the columns say why the rest was not."
        last = look.problem(why) if failed else look.status(f"{done}.")
        yield [last, warning, *[gr.skip()] * len(cells)]

    def refresh(self, *current: str | None) -> Values:
        """What there is now, keeping the models that were chosen."""
        models = self.bench.models()
        updates = [gr.update(visible=not models), gr.update(interactive=bool(models))]
        for family, name in zip(ORDER, current, strict=True):
            found = _choices(models, family)
            kept = name if name in [value for _, value in found] else found[0][1]
            updates.append(gr.update(choices=found, value=kept))
        return updates


def _choices(models: list[Model], family: str) -> list[tuple[str, str]]:
    """(label, name) of a family's models, and of none."""
    return [(m.label, m.name) for m in models if m.family_name == family] + [NONE]


def _words(picture: Picture) -> str:
    """Under a picture: what made it, and what its seed and prompt mean for this family."""
    facts = picture.facts
    settings = [f"seed {facts['seed']}"]
    if "steps" in facts:
        settings.append(f"{facts['steps']} steps")
    if "guidance" in facts:
        settings.append(f"guidance {facts['guidance']:g}")
    if "lora_scale" in facts:
        settings.append(f"LoRA scale {facts['lora_scale']:g}")
    first = f"<p><strong>{escape(picture.model.name)}</strong><br>{escape(', '.join(settings))}</p>"
    if picture.model.family.prompts:
        return first + look.note(f"“{facts['prompt']}”")
    return first + look.note(
        "Reads no prompt. The seed gives it noise of its own, not that of the diffusion models."
    )
