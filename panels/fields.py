"""Fields that several tabs have: the same words, the same limits, the same way to stop."""

import functools
import inspect
import json
import logging
import random
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import gradio as gr

from core.errors import UserError
from panels import look
from panels.drawing import reason
from panels.label import WHEN
from panels.marks import Marks
from panels.wish import LIMITS, MAX_SEED, MAX_TEXT, SCHEDULERS

DEVICE = {"concurrency_id": "device", "concurrency_limit": 1}
"""Of every event that runs a model: one at a time, whoever asks."""
QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
"""Of events that only arrange the page."""
WAITING = look.status("Waiting for its turn: one picture is drawn at a time, whoever asks.")
STOPPING = look.status("Stopping: the step under way ends first.")
STOPPED = look.status("Stopped. Pictures already made are kept.")
REFUSED = look.problem("That was refused: too many are waiting. Try again in a moment.")
log = logging.getLogger("osteon.app")


class Settings(NamedTuple):
    """Of a diffusion model's call."""

    negative: gr.Textbox
    steps: gr.Slider
    guidance: gr.Slider
    lora_scale: gr.Slider
    scheduler: gr.Dropdown
    label: gr.Dropdown


class Buttons(NamedTuple):
    """To start and to stop."""

    go: gr.Button
    stop: gr.Button


def seed_field(info: str, **where: Any) -> gr.Number:
    """A seed, with a button that draws another."""
    button = gr.Button("New seed", size="sm", render=False)
    seed = gr.Number(0, label="Seed", info=info, precision=0, buttons=[button], **where)
    button.click(lambda: random.randrange(MAX_SEED + 1), outputs=seed, queue=False, **QUIET)
    return seed


def slider(name: str, label: str, info: str) -> gr.Slider:
    """One of the numbers in `LIMITS`."""
    low, high, default, step = LIMITS[name]
    return gr.Slider(low, high, default, step=step, label=label, info=info, min_width=220)


def settings_fields() -> Settings:
    """Folded away: the defaults serve."""
    with gr.Accordion("More settings", open=False), gr.Row():
        return Settings(
            gr.Textbox(
                "",
                label="Negative prompt",
                info="What to keep out.",
                max_length=MAX_TEXT,
                min_width=220,
            ),
            slider("steps", "Steps", "More steps: finer, slower."),
            slider("guidance", "Guidance", "How closely to follow the prompt."),
            slider("lora_scale", "LoRA scale", "0 is the base model itself."),
            gr.Dropdown(
                list(SCHEDULERS), label="Scheduler", info="How noise is taken away.", min_width=220
            ),
            gr.Dropdown(
                list(WHEN),
                label="Visible label",
                info="The word SYNTHETIC below a picture; the file's data always say it.",
                min_width=220,
            ),
        )


def buttons(words: str, ready: bool) -> Buttons:
    """`words` on the button that starts."""
    with gr.Row():
        return Buttons(
            gr.Button(words, variant="primary", scale=2, min_width=140, interactive=ready),
            gr.Button("Stop", scale=1, min_width=90, interactive=False),
        )


def on_start(
    buttons: Buttons,
    function: Any,
    inputs: Any,
    outputs: Any,
    status: gr.HTML,
    api_name: str,
    prompt: gr.Textbox | None = None,
) -> Any:
    """Wire what runs a model: one at a time, its own status line in place of Gradio's overlay.
    What `function` raises is told there, and at the field of that parameter. Enter in `prompt`
    starts it, too.

    Stop ends it, waiting or under way; what it has shown so far stays. Gradio drops in silence a
    start that comes before the step under way has ended; so "Stopped" is said only then.
    """
    given = inputs if isinstance(inputs, list) else [inputs]
    triggers = [buttons.go.click, *([prompt.submit] if prompt else [])]
    stop = f"window.osteon_{api_name}"  # whether Stop was pressed: a failure is not told why
    parts = dict(zip(inspect.signature(function).parameters, given, strict=True))
    marks = Marks(parts, f"osteon_{api_name}_wrong")
    begun = f"[{_able(True)}, {json.dumps(WAITING)}, ...({marks.js})('')]"
    waiting = f"{{ {stop} = false; return {begun} }}"
    stopping = f"{{ {stop} = true; return {json.dumps(STOPPING)} }}"
    # What the browser does by itself comes first: it waits for an event's end before the next one
    first = [buttons.stop, status, *marks.outputs]
    gr.on(triggers, None, outputs=first, js=f"() => {waiting}", **QUIET)
    run = gr.on(
        triggers,
        _in_words(function, given, list(outputs).index(status), len(outputs)),
        inputs,
        outputs,
        api_name=api_name,
        show_progress="minimal",  # the place in the queue, while it waits
        show_progress_on=[status],
        # As they come: what is out of bounds gets a sentence of ours, not one that names no field
        preprocess=any(isinstance(part, gr.File) for part in given),
        **DEVICE,
    )
    buttons.stop.click(
        None, outputs=status, js=f"() => {stopping}", cancels=[run], queue=False, **QUIET
    )
    ended = f"() => {stop} ? {json.dumps(STOPPED)} : {json.dumps(REFUSED)}"
    run.failure(None, outputs=status, js=ended, **QUIET)
    run.then(None, outputs=buttons.stop, js=f"() => ({_able(False)})", **QUIET)
    if marks.outputs:
        run.then(None, status, marks.outputs, js=marks.js, **QUIET)
    return run


def _in_words(function: Any, parts: Sequence[Any], place: int, count: int) -> Any:
    """A generator of answers that ends with a sentence in part `place` of `count` where it would
    have ended with an error; a traceback goes to the terminal.

    Args:
        parts: the fields whose values it is given.
    """

    @functools.wraps(function)
    def told(*given: Any) -> Iterator[Any]:
        answer = [gr.skip()] * count
        try:
            yield from function(*map(_text, parts, given))
        except UserError as error:
            answer[place] = look.problem(str(error), getattr(error, "field", ""))
            yield answer
        except Exception as error:
            log.exception("no answer")
            told_why = f"That failed ({reason(error)}); the terminal tells more."
            answer[place] = look.problem(told_why)
            yield answer

    return told


def _text(part: Any, value: Any) -> Any:
    """A program may give a number where there is room for text."""
    return str(value) if isinstance(part, gr.Textbox) and value is not None else value


def _able(able: bool) -> str:
    """For the browser: a button that can be pressed, or cannot."""
    return f"{{__type__: 'update', interactive: {json.dumps(able)}}}"


def renewed(choices: Sequence[str] | Sequence[tuple[str, str]], current: str | None) -> Any:
    """A list's choices as they are now; the first is chosen where `current` is gone.

    Where it is not, no value is sent: another may have been chosen while this was on its way.
    """
    names = [choice if isinstance(choice, str) else choice[1] for choice in choices]
    value = {} if current in names else {"value": next(iter(names), None)}
    return gr.update(choices=choices, **value)
