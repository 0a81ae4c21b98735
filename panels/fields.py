"""Fields that several tabs have: the same words, the same limits, the same way to stop."""

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import gradio as gr

from panels import look
from panels.label import WHEN
from panels.wish import LIMITS, MAX_SEED, MAX_TEXT, SCHEDULERS

DEVICE = {"concurrency_id": "device", "concurrency_limit": 1}
"""Of every event that runs a model: one at a time, whoever asks."""
QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
"""Of events that only arrange the page."""


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
            gr.Button("Stop", scale=1, min_width=90),
        )


def can_stop(stop: gr.Button, run: Any, status: gr.HTML) -> None:
    """End the event `run`, waiting or under way; what it has shown so far stays."""
    words = look.status("Stopped. Pictures already made are kept.")
    # First the end, then the words: else the run's last line, on its way, would overwrite them
    ended = stop.click(None, cancels=[run], queue=False, **QUIET)
    ended.then(lambda: words, outputs=status, queue=False, **QUIET)


def on_start(
    triggers: Sequence[Any], function: Any, inputs: Any, outputs: Any, api_name: str
) -> Any:
    """Wire what runs a model: one at a time, its own status line in place of Gradio's overlay."""
    return gr.on(
        triggers,
        function,
        inputs,
        outputs,
        api_name=api_name,
        show_progress="hidden",
        **DEVICE,
    )
