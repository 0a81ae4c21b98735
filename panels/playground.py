"""The Playground: a model, a prompt and a seed; pictures as they are made."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import closing
from dataclasses import dataclass
from typing import Any, NamedTuple

import gradio as gr

from core.errors import UserError
from panels import copies, fields, history, look, pictures, wildcards
from panels.catalogue import Model, pick
from panels.drawing import Failure, Picture, Progress, Task, draw, label_height, reason
from panels.label import WHEN
from panels.tasks import is_marked, task_of, tasks_of, wish_of, without_field
from panels.wish import MAX_SEED, MAX_TEXT, SCHEDULERS, Wish, at, check
from panels.workbench import Workbench, choices, nothing_yet

READY = "Ready."
SELECT = "Generate a picture, then select it."
PROMPT = "What to draw. Left empty: what the model was trained on."
NO_PROMPT = "This family draws from the seed alone; it reads no prompt."
RENEW = f"(fresh, seed) => fresh ? Math.floor(Math.random() * {MAX_SEED + 1}) : seed"
LOOK_EVERY = 0.25  # seconds between two looks whether a picture has been compared
log = logging.getLogger("osteon.app")
MIXED = 2  # LoRA runs besides the model's own
Values = tuple[Any, ...]


class Made(NamedTuple):
    """A picture in a gallery, and what it resembles."""

    picture: Picture
    nearest: copies.Nearest | None = None
    trouble: str = ""
    """Why it could not be compared with training images."""


class Shown(NamedTuple):
    """What an answer fills."""

    gallery: gr.Gallery
    status: gr.HTML
    warning: gr.HTML
    facts: gr.HTML
    preview: gr.HTML
    made: gr.State
    """`Made`s in the gallery."""
    picked: gr.State
    """The `Picture` whose facts are shown, or None."""


class Asked(NamedTuple):
    """The fields of a request."""

    model: gr.Dropdown
    prompt: gr.Textbox
    seed: gr.Number
    count: gr.Slider
    settings: fields.Settings
    mixed: list[Any]
    """MIXED times a LoRA run and its scale."""

    @property
    def inputs(self) -> list[Any]:
        """In the order of `Playground.generate`."""
        head = [self.model, self.prompt, self.settings.negative, self.seed, self.count]
        return [*head, *self.settings[1:], *self.mixed]


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
            fresh = gr.Checkbox(label="A new seed each time", info="Else the seed stays as it is.")
            count = fields.slider("count", "Number of pictures", "Their seeds count up.")
            buttons = fields.buttons("Generate", bool(models))
            settings = fields.settings_fields()
            preset = _preset(bench)
            with gr.Accordion("Mix in other LoRA runs", open=False) as mixing:
                mixed = _mixed(models)
        with gr.Column(scale=3, min_width=300):
            shown, again, old = _shown()

    asked = Asked(model, prompt, seed, count, settings, mixed)
    starts = [buttons.go.click, prompt.submit]
    gr.on(starts, None, [fresh, seed], seed, js=RENEW, **fields.QUIET)
    run = fields.on_start(
        buttons, play.generate, asked.inputs, shown, shown.status, "playground", prompt
    )
    told = [shown.facts, shown.picked]
    shown.gallery.select(play.selected, shown.made, told, **fields.QUIET)
    recent = gr.State([])
    old.select(play.selected, recent, told, **fields.QUIET)
    run.then(play.recent, None, [old, recent], **fields.QUIET)
    page.load(play.recent, None, [old, recent], **fields.QUIET)
    restored = [*asked.inputs, fresh, shown.status]
    again.click(play.restore, shown.picked, restored, **fields.QUIET)
    examples.click(lambda sample: sample[0], examples, prompt, queue=False, **fields.QUIET)
    preset.input(lambda line: line, preset, prompt, queue=False, **fields.QUIET)
    fitted = [prompt, examples, *settings[:-1], mixing]
    model.change(play.fit, model, fitted, **fields.QUIET)
    page.load(play.refresh, model, [model, notice, buttons.go, *mixed[::2]], **fields.QUIET).then(
        play.fit, model, fitted, **fields.QUIET
    )
    pictures.offer(bench)


def _preset(bench: Workbench) -> gr.Dropdown:
    # Gradio's info reads two underscores as bold, even in code: they are named in words
    lists = ", ".join(wildcards.names(bench.wildcards))
    return gr.Dropdown(
        bench.presets(),
        value=None,
        label="Presets",
        info="A prompt from prompts/. In a prompt, {a|b} is one of the two, by the seed"
        + (
            f"; a name between double underscores is a line of its list: {lists}." if lists else "."
        ),
    )


def _mixed(models: list[Model]) -> list[Any]:
    parts: list[Any] = []
    for number in range(1, MIXED + 1):
        with gr.Row():
            parts.append(
                gr.Dropdown(
                    _loras(models),
                    value="",
                    label=f"LoRA run {number}",
                    allow_custom_value=True,  # for programs: it lists those there at the start
                    min_width=160,
                    scale=2,
                )
            )
            parts.append(
                gr.Slider(0, 2, 1.0, step=0.05, label=f"Scale {number}", min_width=120, scale=1)
            )
    return parts


def _shown() -> tuple[Shown, gr.Button, gr.Gallery]:
    """The answer's parts, the button that takes settings over, and the gallery of older ones."""
    status = gr.HTML(look.status(READY))
    preview = gr.HTML()
    gallery = _gallery("Pictures", 2)
    warning = gr.HTML()
    with gr.Accordion("How this picture was made", open=False):
        facts = gr.HTML(look.note(SELECT))
        again = gr.Button("Use these settings", size="sm")
    with gr.Accordion("History", open=False):
        gr.HTML(look.note("The last pictures made here. Select one to see how it was made."))
        old = _gallery("History", 4)
    shown = Shown(gallery, status, warning, facts, preview, gr.State([]), gr.State(None))
    return shown, again, old


def _gallery(label: str, columns: int) -> gr.Gallery:
    return gr.Gallery(
        label=label,
        elem_classes="osteon-gallery",
        columns=columns,
        fit_columns=False,
        height="auto",
        object_fit="contain",
        format="png",
        interactive=False,
        buttons=["download", "download_all", "fullscreen"],
    )


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
        scheduler: str = SCHEDULERS[0],
        label: str = WHEN[0],
        lora_1: str | None = None,
        scale_1: float = 1.0,
        lora_2: str | None = None,
        scale_2: float = 1.0,
    ) -> Iterator[Values]:
        """Draw `count` pictures from `seed` on; every answer holds all that are done so far."""
        pairs = [(lora_1, scale_1), (lora_2, scale_2)]
        for number, (name, scale) in enumerate(pairs, 1):
            if name:
                with at(f"lora_{number}"):
                    pick(self.bench.models(), name)
                check("lora_scale", scale, f"The scale of {name}", f"scale_{number}")
        wish = Wish(
            prompt or "", negative or "", seed, count, steps, guidance, scheduler, lora_scale,
            {name: scale for name, scale in pairs if name},
        )  # fmt: skip
        tasks = tasks_of(self.bench, model, wish, label)
        yield from self._draw(tasks)

    def _draw(self, tasks: list[Task]) -> Iterator[Values]:
        made: list[Made] = []
        warning = look.warning([task.model for task in tasks], " ".join(t.prompt for t in tasks))
        began = time.monotonic()
        yield [], look.status("Starting", 0.0), warning, look.note(SELECT), "", [], None
        with closing(draw(self.bench.resident, tasks, self.bench.pictures)) as events:
            for event in events:
                number = f"Picture {event.place + 1} of {len(tasks)}"
                if isinstance(event, Failure):
                    yield _only(look.problem(event.sentence, event.field), "")
                    return
                if isinstance(event, Progress):
                    line = look.status(f"{number}: {event.words}", event.share_of(len(tasks)))
                    seen = look.preview(event.preview) if event.preview else gr.skip()
                    yield _only(line, seen)
                if isinstance(event, Picture):
                    line = f"{number} is done. Comparing with the training images"
                    line = look.status(line, (event.place + 1) / len(tasks))
                    made.append(Made(event))
                    yield _pairs(made), line, warning, look.facts(event), "", list(made), event
                    judging = _aside(self.judged, event)
                    while wait([judging], LOOK_EVERY).not_done:  # here, too, Stop is heeded
                        yield _only(gr.skip())
                    made[-1] = judging.result()
                    yield _all(made)
        count = f"{len(made)} picture{'s' if len(made) != 1 else ''}"
        yield _only(look.status(f"{count} in {time.monotonic() - began:.1f} s."), "")

    def judged(self, picture: Picture) -> Made:
        """With the training image that it resembles most; what goes wrong becomes a sentence."""
        models = [picture.model, *picture.loras]
        try:
            return Made(picture, copies.nearest_of(models, self.bench.root, picture.open()))
        except UserError as error:
            return Made(picture, trouble=str(error))
        except Exception as error:
            log.exception("%s was not compared", picture.path.name)
            words = "It could not be compared with its training images"
            return Made(picture, trouble=f"{words} ({reason(error)}); the terminal tells more.")

    def selected(self, made: list[Made], event: gr.SelectData) -> Values:
        """How a picture of a gallery was made, and what it resembles."""
        if not isinstance(event.index, int) or not 0 <= event.index < len(made):
            return look.note(SELECT), None
        shown = made[event.index]
        if shown.nearest is None:
            shown = self.judged(shown.picture)
        return look.facts(shown.picture) + look.resemblance(*shown), shown.picture

    def recent(self) -> Values:
        """Of the gallery of older pictures, and what is in it."""
        made = [Made(each) for each in history.newest(self.bench.pictures, self.bench.models())]
        return _pairs(made), made

    def restore(self, picture: Picture | None) -> Values:
        """Fill the fields with what made a picture; the next one takes no new seed."""
        none = [gr.skip()] * (11 + 2 * MIXED)
        if picture is None:
            return (*none, look.problem("Select a picture first."))
        try:
            task = task_of(picture.facts, picture.model, self.bench.models())
            wish = wish_of(task)
        except UserError as error:
            return (*none, look.problem(f"The Playground cannot make that picture. {error}"))
        mixed = [*wish.loras.items(), *[("", 1.0)] * MIXED]
        by_rule = is_marked(WHEN[0], [task.model, *task.loras], task.prompt)
        marked = label_height(picture.facts) > 0
        lost = without_field(task) + [f"LoRA run {name}" for name in [*wish.loras][MIXED:]]
        lost += ["the mix"] if history.is_mix(picture.facts) else []
        words = f"These are the settings of seed {wish.seed}"
        told = look.status(f"{words}; Generate makes it again.")
        if lost:
            told = look.problem(f"{words}, but the Playground has no field for {', '.join(lost)}.")
        return (
            picture.model.name,
            wish.prompt,
            wish.negative,
            wish.seed,
            1,
            wish.steps,
            wish.guidance,
            wish.lora_scale,
            wish.scheduler,
            WHEN[0] if marked == by_rule else WHEN[1] if marked else WHEN[2],
            *(part for pair in mixed[:MIXED] for part in pair),
            False,
            told,
        )

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
            known,
            known,
        )

    def refresh(self, current: str | None) -> Values:
        """What there is now, keeping the model that was chosen."""
        models = self.bench.models()
        return (
            fields.renewed(choices(models), current),
            gr.update(visible=not models),
            gr.update(interactive=bool(models)),
            *[gr.update(choices=_loras(models))] * MIXED,
        )


def _loras(models: list[Model]) -> list[tuple[str, str]]:
    return [("none", ""), *((model.label, model.name) for model in models if model.lora)]


def _examples(model: Model | None) -> Any:
    prompts = model.prompts if model is not None and model.family.prompts else ()
    return gr.update(samples=[[prompt] for prompt in prompts], visible=bool(prompts))


def _pairs(made: list[Made]) -> list[tuple[str, str]]:
    """Files and captions of a gallery."""
    return [(str(each.picture.path), look.caption(each.picture, each.nearest)) for each in made]


def _all(made: list[Made]) -> Values:
    """The pictures, the last one's facts; all else stays."""
    picture = made[-1].picture
    facts = look.facts(picture) + look.resemblance(*made[-1])
    return _pairs(made), gr.skip(), gr.skip(), facts, gr.skip(), list(made), picture


def _aside(function: Callable[[Picture], Made], picture: Picture) -> "Future[Made]":
    """In a thread of its own: it comes to its end, though nobody may wait for it any more."""
    answer: Future[Made] = Future()
    work = threading.Thread(
        target=lambda: answer.set_result(function(picture)), name="osteon-judging", daemon=True
    )
    work.start()
    return answer


def _only(line: Any, preview: Any = None) -> Values:
    """A new status line (and preview); all else stays."""
    seen = gr.skip() if preview is None else preview
    return gr.skip(), line, gr.skip(), gr.skip(), seen, gr.skip(), gr.skip()
