"""Side by side: one prompt and one seed, a picture from each family in a row, two on one place."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
from PIL import Image

from core.errors import UserError
from core.families import FAMILIES
from core.images import list_images, open_image
from panels import fields, grid, look, outside
from panels.catalogue import Model, pick
from panels.drawing import Failure, Picture, Progress, Task, draw
from panels.tasks import tasks_of
from panels.viewer import difference, pair
from panels.wish import MAX_TEXT, FieldError, Wish, at
from panels.workbench import Workbench, nothing_yet

ORDER = sorted(FAMILIES, key=lambda name: name != "base")
"""Families of the columns: the base model first, as what the others are measured by."""
READY = "Ready. The models are loaded one after another."
NONE = ("none", "")
OUTSIDE = ("Pictures from outside", "Others from outside")
TITLES = (*(FAMILIES[name].title for name in ORDER), *OUTSIDE)
Values = list[Any]
Drawn = dict[str, Picture | Path]
"""What can be looked at more closely, by the title of its column."""


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
    buttons = fields.buttons("Draw the row", bool(models))
    status = gr.HTML(look.status(READY))
    with gr.Row():
        columns = [_column(FAMILIES[name].title, _choices(models, name)) for name in ORDER]
        columns += [_column(title, _folders(bench), place) for place, title in enumerate(OUTSIDE)]
    warning = gr.HTML()
    with gr.Accordion("Two on one place", open=True):
        with gr.Row():
            both = [_choice(label, place) for place, label in enumerate(("First", "Second"))]
        view = gr.HTML(look.note("Draw the row; then two of its pictures are shown here."))
    with gr.Accordion("Grid over settings (X/Y/Z)", open=False):
        grid.section(bench)

    chosen = [column.model for column in columns]
    cells = [part for column in columns for part in (column.image, column.words)]
    drawn = gr.State({})
    asked = [prompt, settings.negative, seed, *settings[1:], *chosen]
    shown = [status, warning, *cells, drawn]
    run = fields.on_start(buttons, row.draw, asked, shown, status, "side_by_side", prompt)
    looked = {"fn": row.closer, "inputs": [drawn, *both], "outputs": view, **fields.QUIET}
    run.then(**looked)
    for choice in both:
        choice.input(**looked)
    page.load(row.refresh, chosen, [notice, buttons.go, *chosen], **fields.QUIET)


def _choice(label: str, place: int) -> gr.Dropdown:
    """Of a column, whose picture is looked at more closely."""
    return gr.Dropdown(list(TITLES), value=TITLES[place], label=label, min_width=160)


def _column(title: str, found: list[tuple[str, str]], place: int = 0) -> Column:
    """With choice number `place` chosen, or the last ("none") where there are fewer."""
    chosen = found[min(place, len(found) - 1)][1]
    with gr.Column(min_width=200):
        model = gr.Dropdown(
            found,
            value=chosen,
            label=title,
            allow_custom_value=True,
            elem_classes="osteon-choice",
        )
        image = gr.Image(
            label=title,
            alt_text=f"{title}: the picture told of below",
            show_label=False,
            type="filepath",
            format="png",
            interactive=False,
            buttons=["download", "fullscreen"],
            height=240,
            elem_classes=["osteon-cell", *(["osteon-spare"] if title in OUTSIDE else [])],
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
        scheduler: str,
        label: str,
        base: str = "",
        tuned: str = "",
        gan: str = "",
        vae: str = "",
        outside: str = "",
        others: str = "",
    ) -> Iterator[Values]:
        """One picture from each model named ("" leaves a column out), shown one by one, and number
        `seed` of the folders outside/`outside` and outside/`others`."""
        text = prompt or ""
        wish = Wish(text, negative or "", seed, 1, steps, guidance, scheduler, lora_scale)
        chosen = self._models({"base": base, "tuned": tuned, "gan": gan, "vae": vae})
        wish = replace(wish, prompt=text.strip() or _own_prompt(chosen))  # one for all
        tasks = {
            place: tasks_of(self.bench, model.name, wish, label)[0]
            for place, model in enumerate(chosen)
            if model is not None
        }
        folders = {"outside": outside, "others": others}
        files = [self._outside(field, name, wish.seed) for field, name in folders.items()]
        if not tasks:
            raise UserError("Choose a model in at least one column.")
        cells = [None, ""] * len(chosen)
        for file in files:
            cells += self._by_others(file) if file else [None, ""]
        drawn = {title: file for title, file in zip(OUTSIDE, files, strict=True) if file}
        yield from self._draw(tasks, cells, drawn)

    def _models(self, names: Mapping[str, str | None]) -> list[Model | None]:
        """By the fields that name them."""
        found, models = self.bench.models(), []
        for field, name in names.items():
            with at(field):
                models.append(pick(found, name) if name else None)
        return models

    def _draw(self, placed: dict[int, Task], cells: Values, drawn: Drawn) -> Iterator[Values]:
        """Fill `cells` (picture and words of each column) with what the tasks of columns draw."""
        places, tasks = list(placed), list(placed.values())
        warning = look.warning([task.model for task in tasks], tasks[0].prompt)
        failed = 0
        yield [look.status("Starting", 0.0), warning, *cells, drawn]
        with closing(draw(self.bench.resident, tasks, self.bench.pictures)) as events:
            for event in events:
                name = tasks[event.place].model.folder.name
                at, share = 2 * places[event.place], (event.place + 1) / len(tasks)
                if isinstance(event, Progress):
                    line = look.status(
                        f"{name}: {event.words}", share + (event.share - 1) / len(tasks)
                    )
                    yield [line, warning, *[gr.skip()] * (len(cells) + 1)]
                    continue
                if isinstance(event, Failure):
                    failed += 1
                    cells[at : at + 2] = [None, look.problem(event.sentence)]
                if isinstance(event, Picture):
                    cells[at : at + 2] = [str(event.path), _words(event)]
                    drawn[TITLES[places[event.place]]] = event
                yield [look.status(f"{name} is done", share), warning, *cells, drawn]
        done = f"{len(tasks) - failed} of {len(tasks)} drawn"
        why = f"{done}; the columns say why the rest was not."
        last = look.problem(why) if failed else look.status(f"{done}.")
        yield [last, warning, *[gr.skip()] * (len(cells) + 1)]

    def _outside(self, field: str, name: str | None, seed: int) -> Path | None:
        """Picture number `seed` of a folder, round and round."""
        if not name:
            return None
        folder = next((found for found in self.bench.outside() if found.name == name), None)
        if folder is None:
            sentence = f"There is no folder outside/{name}; choose one from the list."
            raise FieldError(field, sentence)
        files = list_images(folder)
        return files[seed % len(files)]

    def _by_others(self, file: Path) -> Values:
        """What is shown of a picture by others, and the words under it."""
        copy = outside.served(file, self.bench.pictures)
        link = look.linked("The file itself", copy)
        return [outside.shown(copy), f'{_from(file)}<p class="osteon-note">{link}</p>']

    def closer(self, drawn: Drawn, first: str, second: str) -> str:
        """Two of the pictures on one place, and by how much they differ."""
        try:
            missing = [title for title in (first, second) if title not in drawn]
            if missing:
                raise UserError(f"There is no picture of {missing[0]} yet.")
            one, two = _opened(drawn[first]), _opened(drawn[second])
        except UserError as error:
            return look.note(str(error))
        apart = look.note(difference(one, two).words) if one.size == two.size else ""
        return pair(one, two, (first, second)) + apart

    def refresh(self, *current: str | None) -> Values:
        """What there is now, keeping the models that were chosen."""
        models = self.bench.models()
        updates = [gr.update(visible=not models), gr.update(interactive=bool(models))]
        lists = [_choices(models, family) for family in ORDER]
        lists += [_folders(self.bench)] * len(OUTSIDE)
        for found, name in zip(lists, current, strict=True):
            updates.append(fields.renewed(found, name))
        return updates


def _opened(picture: Picture | Path) -> Image.Image:
    return open_image(picture) if isinstance(picture, Path) else picture.open()


def _from(file: Path) -> str:
    """Under a picture by others."""
    return look.note(f"{file.name}, from outside/{file.parent.name}.")


def _own_prompt(models: Sequence[Model | None]) -> str:
    """The first that one of the models was trained on."""
    readers = (model for model in models if model is not None and model.family.prompts)
    return next((prompt for model in readers for prompt in model.prompts), "")


def _folders(bench: Workbench) -> list[tuple[str, str]]:
    """(label, name) of the folders of pictures by others, and of none."""
    return [*((folder.name, folder.name) for folder in bench.outside()), NONE]


def _choices(models: list[Model], family: str) -> list[tuple[str, str]]:
    """(label, name) of a family's models, and of none; first those that were trained on what the
    newest tuned one was, so that a row shows one subject."""
    subject = next((set(m.data) for m in models if m.family_name == "dreambooth"), set())
    own = sorted(
        (m for m in models if m.family_name == family), key=lambda m: not subject & set(m.data)
    )
    return [(m.label, m.name) for m in own] + [NONE]


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
