"""The Playground: a model, a prompt and a seed; pictures as they are made."""

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, NamedTuple

import gradio as gr

from core.errors import UserError
from panels import fields, look
from panels.catalogue import Model, pick
from panels.drawing import Failure, Picture, Progress, Task, draw
from panels.wish import MAX_TEXT, Wish
from panels.workbench import Workbench, choices, nothing_yet

READY = "Ready."
SELECT = "Generate a picture, then select it."
PROMPT = "What to draw. Left empty: what the model was trained on."
NO_PROMPT = "This family draws from the seed alone; it reads no prompt."
Values = tuple[Any, ...]


class Shown(NamedTuple):
    """What an answer fills."""

    gallery: gr.Gallery
    status: gr.HTML
    warning: gr.HTML
    facts: gr.HTML
    made: gr.State
    """`Picture`s in the gallery."""


def tab(bench: Workbench, page: gr.Blocks) -> None:
    """Lay out the tab and wire it; called inside its `gr.Tab`."""
    play = Playground(bench)
    models = bench.models()
    notice = gr.HTML(nothing_yet(), visible=not models)
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            model = gr.Dropdown(
                choices(models),
                value=models[0].name if models else None,
                label="Model",
                allow_custom_value=True,  # what is not there gets a sentence of ours
            )
            prompt = gr.Textbox("", label="Prompt", info=PROMPT, max_lines=4, max_length=MAX_TEXT)
            examples = gr.Dataset(
                label="Prompts it knows", components=[prompt], samples=[], visible=False
            )
            seed = fields.seed_field("Same seed, same picture.")
            count = fields.slider("count", "Number of pictures", "Their seeds count up.")
            go, stop = fields.buttons("Generate", bool(models))
            settings = fields.settings_fields()
        with gr.Column(scale=3, min_width=300):
            shown = _shown()

    asked = [model, prompt, settings.negative, seed, count, *settings[1:]]
    run = fields.on_start([go.click, prompt.submit], play.generate, asked, shown, "playground")
    fields.can_stop(stop, run, shown.status)
    shown.gallery.select(_selected, shown.made, shown.facts, **fields.QUIET)
    examples.click(lambda sample: sample[0], examples, prompt, queue=False, **fields.QUIET)
    fitted = [prompt, examples, *settings]
    model.change(play.fit, model, fitted, **fields.QUIET)
    page.load(play.refresh, model, [model, notice, go], **fields.QUIET).then(
        play.fit, model, fitted, **fields.QUIET
    )


def _shown() -> Shown:
    status = gr.HTML(look.status(READY))
    gallery = gr.Gallery(
        label="Pictures",
        elem_classes="osteon-gallery",
        columns=2,
        fit_columns=False,
        height="auto",
        object_fit="contain",
        format="png",
        interactive=False,
        buttons=["download", "download_all", "fullscreen"],
    )
    warning = gr.HTML(elem_classes="osteon-warn")
    with gr.Accordion("How this picture was made", open=False):
        facts = gr.HTML(look.note(SELECT))
    return Shown(gallery, status, warning, facts, gr.State([]))


@dataclass(frozen=True)
class Playground:
    """What the tab's events do."""

    bench: Workbench

    def generate(
        self,
        model: str | None,
        prompt: str | None,
        negative: str | None,
        seed: int | None,
        count: int,
        steps: int,
        guidance: float,
        lora_scale: float,
    ) -> Iterator[Values]:
        """Draw `count` pictures from `seed` on; every answer holds all that are done so far."""
        try:
            wish = Wish(prompt or "", negative or "", seed, count, steps, guidance, lora_scale)
            chosen = pick(self.bench.models(), model)
        except UserError as error:
            yield _only(look.problem(str(error)))
            return
        yield from self._draw(chosen, wish)

    def _draw(self, model: Model, wish: Wish) -> Iterator[Values]:
        tasks = [Task(model, seed, wish.prompt, wish.options) for seed in wish.seeds]
        made: list[Picture] = []
        warning = look.warning([model], wish.prompt)
        began = time.monotonic()
        yield [], look.status("Starting", 0.0), warning, look.note(SELECT), []
        with closing(draw(self.bench.resident, tasks, self.bench.pictures)) as events:
            for event in events:
                number = f"Picture {event.place + 1} of {len(tasks)}"
                if isinstance(event, Failure):
                    yield _only(look.problem(event.sentence))
                    return
                if isinstance(event, Progress):
                    share = event.share_of(len(tasks))
                    yield _only(look.status(f"{number}: {event.words}", share))
                if isinstance(event, Picture):
                    made.append(event)
                    line = look.status(f"{number} is done", len(made) / len(tasks))
                    pairs = [(str(picture.path), look.caption(picture)) for picture in made]
                    yield pairs, line, warning, look.facts(event), list(made)
        count = f"{len(made)} picture{'s' if len(made) != 1 else ''}"
        yield _only(look.status(f"{count} in {time.monotonic() - began:.1f} s."))

    def fit(self, name: str | None) -> Values:
        """Show the settings that the chosen model knows."""
        model = next((model for model in self.bench.models() if model.name == name), None)
        prompts = model is None or model.family.prompts
        known = gr.update(visible=prompts)
        return (
            gr.update(interactive=prompts, info=PROMPT if prompts else NO_PROMPT),
            _examples(model),
            known,
            known,
            known,
            gr.update(visible=model is not None and model.lora),
        )

    def refresh(self, current: str | None) -> Values:
        """What there is now, keeping the model that was chosen."""
        models = self.bench.models()
        names = [model.name for model in models]
        name = current if current in names else next(iter(names), None)
        return (
            gr.update(choices=choices(models), value=name),
            gr.update(visible=not models),
            gr.update(interactive=bool(models)),
        )


def _examples(model: Model | None) -> Any:
    prompts = model.prompts if model is not None and model.family.prompts else ()
    return gr.update(samples=[[prompt] for prompt in prompts], visible=bool(prompts))


def _selected(made: list[Picture], event: gr.SelectData) -> str:
    if not isinstance(event.index, int) or not 0 <= event.index < len(made):
        return look.note(SELECT)
    return look.facts(made[event.index])


def _only(line: str) -> Values:
    """A new status line; all else stays."""
    return gr.skip(), line, gr.skip(), gr.skip(), gr.skip()
