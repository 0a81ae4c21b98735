"""How the app looks: its theme, and the small pieces of HTML that the tabs share.

Every text that comes from outside (prompts, names, captions, errors) goes through `html.escape`.
"""

import json
import shlex
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from gradio.themes import Base, Color, sizes

from core.errors import UserError
from core.families import FAMILIES
from panels.catalogue import RADIOGRAPH, Model
from panels.copies import Nearest
from panels.drawing import Picture
from panels.history import is_mix, options_of
from panels.thumbnails import figure

BLUE = Color(
    c50="#eaf3fb", c100="#d3e6f7", c200="#a9cdee", c300="#79b4ea", c400="#4a93d4", c500="#2c75b5",
    c600="#1f5f99", c700="#1a4e7e", c800="#163f66", c900="#12324f", c950="#0c2135",
)  # fmt: skip
SLATE = Color(
    c50="#f6f7f9", c100="#edeff2", c200="#dfe3e8", c300="#c5ccd4", c400="#98a4af", c500="#6f7b86",
    c600="#55606a", c700="#39434d", c800="#232b33", c900="#1a2027", c950="#12161b",
)  # fmt: skip
FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "DejaVu Sans Mono", "monospace")

CSS = """
.gradio-container { width: 100% !important; max-width: 1180px !important;
  margin: 0 auto !important; }
.osteon-head h1 { font: 600 2rem/1.2 "Iowan Old Style", "Palatino Linotype", Palatino, Charter,
  Georgia, serif; margin: .6rem 0 .2rem; }
.osteon-head p { margin: 0 0 .4rem; color: var(--body-text-color-subdued); max-width: 46rem; }
.osteon-status { min-height: 2.6rem; }
.osteon-status p { margin: 0 0 .35rem; }
.minimal:has(+ .pending .osteon-status) { inset: 0; overflow: visible;
  align-items: start; justify-content: end; }
.minimal:has(+ .pending .osteon-status) .progress-text { position: static; transform: none;
  padding: 0 12px .2rem; background: none; font: .85rem var(--font);
  color: var(--body-text-color-subdued); }
.pending:has(.osteon-status) { opacity: 1; padding-bottom: 1.5rem; }
.osteon-status progress { appearance: none; width: 100%; height: .45rem; border: 0;
  border-radius: 1rem; overflow: hidden; background: var(--background-fill-secondary); }
.osteon-status progress::-webkit-progress-bar { background: var(--border-color-primary); }
.osteon-status progress::-webkit-progress-value { background: var(--color-accent); }
.osteon-status progress::-moz-progress-bar { background: var(--color-accent); }
.osteon-preview { width: min(100%, 16rem); image-rendering: auto; border-radius: 6px; }
.osteon-figures { display: flex; flex-wrap: wrap; gap: .8rem; margin: .3rem 0 .8rem; }
.osteon-figures figure { margin: 0; width: min(12rem, 46%); }
.osteon-figures img { width: 100%; border-radius: 6px; }
.osteon-figures a { display: block; padding: 0; }
.osteon-sheets figure { width: 100%; }
.osteon-arena figure { width: min(22rem, 46%); }
.osteon-large img { width: min(100%, 32rem); border-radius: 6px; }
.osteon-figures figcaption { font-size: .85rem; color: var(--body-text-color-subdued); }
.osteon-pair { --cut: 50%; max-width: 34rem; }
.osteon-pair fieldset { border: 0; padding: 0; margin: 0 0 .3rem; display: flex; gap: .9rem;
  flex-wrap: wrap; }
.osteon-pair input[type="range"] { width: 100%; }
.osteon-pair input[type="radio"] { appearance: auto; border: revert; background: none;
  accent-color: var(--color-accent); margin-right: .3rem; }
.osteon-pair div { display: grid; gap: 4px; background: #000; border-radius: 6px; overflow: hidden;
  isolation: isolate; }
.osteon-pair img { grid-area: 1 / 1; width: 100%; display: block; }
.osteon-pair:has([value="beside"]:checked) img + img { grid-area: 1 / 2; }
.osteon-pair:has([value="cut"]:checked) img + img { clip-path: inset(0 0 0 var(--cut)); }
.osteon-pair:has([value="flicker"]:checked) img + img { animation: osteon-flicker 1s infinite; }
.osteon-pair:has([value="difference"]:checked) img + img { mix-blend-mode: difference; }
.osteon-pair:has([value="difference"]:checked) div { filter: brightness(3); }
.osteon-pair:not(:has([value="cut"]:checked)) .osteon-cut { visibility: hidden; }
@keyframes osteon-flicker { 0%, 49% { opacity: 1; } 50%, 100% { opacity: 0; } }
.osteon-grid { overflow-x: auto; }
.osteon-grid table { border-collapse: collapse; margin: 0 0 1rem; }
.osteon-grid caption { text-align: left; font-weight: 600; padding: .3rem 0; }
.osteon-grid :is(th, td) { border: 0 !important; padding: 2px !important; font-size: .85rem; }
.osteon-grid img { width: 8rem; min-width: 4rem; display: block; border-radius: 4px; }
.osteon-error { border-left: 3px solid #c0392b; padding: .1rem 0 .1rem .7rem; }
.osteon-wrong { box-shadow: inset 3px 0 #c0392b !important; }
.block:has(> .html-container > .prose:empty) { display: none; }
.osteon-note { color: var(--body-text-color-subdued); font-size: .92rem; margin: .2rem 0; }
.osteon-warning { border: 1px solid #f0cfa5; background: #fdf1e3; color: #7a3b00;
  border-radius: 6px; padding: .45rem .8rem; margin: 0; }
.dark .osteon-warning { border-color: #5d4524; background: #2d2317; color: #f2c48d; }
.osteon-empty { border: 1px solid var(--border-color-primary); border-radius: 8px;
  padding: 1rem 1.2rem; }
.osteon-empty h2 { margin: 0 0 .4rem; font-size: 1.15rem; }
.osteon-empty pre, .osteon-facts pre { background: var(--background-fill-secondary);
  border: 1px solid var(--border-color-primary); border-radius: 6px; padding: .5rem .7rem;
  margin: .3rem 0 .7rem; white-space: pre-wrap; overflow-wrap: anywhere;
  font: .85rem/1.5 var(--font-mono); }
.osteon-facts table { border-collapse: collapse; margin: .2rem 0 .8rem; }
.osteon-facts :is(table, tr, th, td) { border: 0 !important; background: none !important; }
.osteon-facts th { text-align: left; font-weight: 500; color: var(--body-text-color-subdued);
  padding: .12rem 1.2rem .12rem 0; vertical-align: top; white-space: nowrap; }
.osteon-facts td { padding: .12rem 0; overflow-wrap: anywhere; }
@media (max-width: 40rem) { .osteon-facts th { white-space: normal; overflow-wrap: anywhere;
  min-width: 6rem; } .osteon-facts td { min-width: 9rem; } }
input[role="combobox"] { text-overflow: ellipsis; margin-right: 1.2rem !important; }
.osteon-choice input[role="combobox"] { font-size: .77rem; }
.osteon-gallery .grid-wrap { max-height: none !important; }
.osteon-gallery .thumbnail-lg { aspect-ratio: auto !important; height: auto !important; }
.osteon-gallery .thumbnail-lg > img { aspect-ratio: 1; height: auto !important; }
.osteon-gallery .caption-label { position: static !important; max-width: 100% !important;
  border: 0 !important; background: none !important; }
.osteon-cell img { width: 100% !important; height: 100% !important; object-fit: contain; }
.osteon-spare:has(.empty) { display: none; }
.osteon-report iframe { width: 100%; height: 80vh; border: 1px solid var(--border-color-primary);
  border-radius: 8px; background: #fff; }
.dark { --color-accent: #4a93d4; }
.dark input[type="range"] { --neutral-200: var(--neutral-600); }
input[type="range"]::-webkit-slider-thumb { box-shadow: 0 0 0 2px var(--color-accent) !important; }
input[type="range"]::-moz-range-thumb { box-shadow: 0 0 0 2px var(--color-accent) !important; }
input[type="checkbox"] { border: 1px solid var(--neutral-500) !important; }
footer .divider { display: none; }
.osteon-unseen { position: absolute; width: 1px; height: 1px; overflow: hidden;
  clip-path: inset(50%); }
"""

HEADER = """<header class="osteon-head"><h1>Osteon</h1>
<p>Train models, draw pictures with them, set them side by side, and read how they compare.
Everything runs on this computer; nothing is sent anywhere.</p></header>"""

_WARNING = '<p class="osteon-warning" role="note"><strong>Not for diagnosis.</strong> {}</p>'
NOT_FOR_DIAGNOSIS = _WARNING.format(
    "A model made these pictures up; an X-ray among them shows no patient."
)
FOR_STUDY = _WARNING.format("X-rays here, real or made up, are for study alone.")
"""Stands beside X-rays that may be real."""

ROWS = {
    "run": "Model",
    "family": "Family",
    "trained_steps": "Trained for",
    "prompt": "Prompt",
    "negative": "Negative prompt",
    "seed": "Seed",
    "mix": "Mix",
    "label": "Class",
    "truncation": "Truncation",
    "steps": "Steps",
    "guidance": "Guidance",
    "lora_scale": "LoRA scale",
    "loras": "Mixed in",
    "scheduler": "Scheduler",
    "weights": "Weights",
    "dtype": "Arithmetic",
}
"""Facts of a picture that have words of their own; other settings are shown by their names."""


def theme() -> Base:
    """Calm blue on grey, the system's own fonts: nothing is fetched."""
    return Base(
        primary_hue=BLUE,
        secondary_hue=BLUE,
        neutral_hue=SLATE,
        radius_size=sizes.radius_md,
        font=FONTS,
        font_mono=MONO,
    ).set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_400",
        block_label_text_color="*neutral_600",
        block_title_text_color="*neutral_700",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover_dark="*primary_500",
        button_primary_text_color="white",
        button_primary_text_color_dark="white",
    )


def status(words: str, share: float | None = None) -> str:
    """A line that is spoken (see `panels.spoken`), with a bar while there is something to wait
    for."""
    done = "" if share is None else f'max="1" value="{share:.3f}"'
    bar = done and f'<progress aria-label="Done" {done}></progress>'
    return f'<div class="osteon-status"><p>{escape(words)}</p>{bar}</div>'


def preview(address: str) -> str:
    """An unfinished picture."""
    return f'<img class="osteon-preview" src="{address}" alt="Preview of the picture in work">'


def problem(sentence: str, field: str = "") -> str:
    """What went wrong, in words; with the name of the field where it is one (`marks`)."""
    where = f' data-field="{escape(field, quote=True)}"' if field else ""
    return (
        '<div class="osteon-status" role="alert">'
        f'<p class="osteon-error"{where}>{escape(sentence)}</p></div>'
    )


def note(words: str) -> str:
    return f'<p class="osteon-note">{escape(words)}</p>'


def empty(title: str, words: str, commands: Mapping[str, str]) -> str:
    """What to do where there is nothing to show: commands and what each one does."""
    steps = "".join(
        f"<p>{escape(what)}</p><pre><code>{escape(line)}</code></pre>"
        for line, what in commands.items()
    )
    title, words = escape(title), escape(words)
    return f'<section class="osteon-empty"><h2>{title}</h2><p>{words}</p>{steps}</section>'


def linked(small: str, file: Path) -> str:
    """A small picture, or words, that lead to the file itself: a PNG with its settings inside."""
    address = f"gradio_api/file={quote(str(file))}"
    return f'<a href="{address}" target="_blank" rel="noopener">{small}</a>'


def caption(picture: Picture, near: Nearest | None = None) -> str:
    """Under a picture, and its text for those who cannot see it. Plain text."""
    values = picture.facts
    words = f"Seed {values['seed']}{': ' if values['prompt'] else ''}{values['prompt']}"
    return f"Possible copy! {words}" if near is not None and near.possible_copy else words


def resemblance(picture: Picture, near: Nearest | None, trouble: str = "") -> str:
    """A picture beside the training image that is nearest to it, or why there is none."""
    if near is None:
        unknown = "Its training images are not here, so it cannot be compared with them."
        return problem(trouble) if trouble else note(unknown)
    try:
        pair = figure(picture.path, "This picture") + figure(near.image, "Nearest training image")
    except UserError as error:  # a file that was deleted
        return problem(str(error))
    kind = problem if near.possible_copy else note
    return f'<div class="osteon-figures">{pair}</div>{kind(near.words + ".")}'


def facts(picture: Picture) -> str:
    """How a picture was made: a table, and the command that makes it again."""
    if is_mix(picture.facts):
        return table(picture.facts) + note("It was made in the Latent tab; no command makes it.")
    return (
        f'{table(picture.facts)}<div class="osteon-facts"><p>The same picture from a terminal:</p>'
        f"<pre><code>{escape(command(picture))}</code></pre></div>"
    )


def table(facts: Mapping[str, Any]) -> str:
    """What a picture's file says of how it was made."""
    hidden = ("seed", "prompt") if is_mix(facts) else ("mix",)
    options = options_of(facts)
    told = {name: facts[name] for name in ROWS if name in facts and name != "label"} | options
    rows = "".join(
        f'<tr><th scope="row">{escape(ROWS.get(name, name))}</th>'
        f"<td>{escape(_shown(name, value))}</td></tr>"
        for name, value in told.items()
        if value not in (None, "", {}) and name not in hidden
    )
    return f'<div class="osteon-facts"><table>{rows}</table></div>'


def command(picture: Picture) -> str:
    """The `osteon generate` line that makes a picture again."""
    values = picture.facts
    words = ["osteon", "generate", "--run", picture.model.name, "--seeds", str(values["seed"])]
    if values["prompt"]:
        words += ["--prompt", values["prompt"]]
    options = options_of(values) | {"loras": values.get("loras")}
    for name, value in options.items():
        if value not in (None, "", {}):
            words += [f"--{name}", _word(value)]
    if values.get("dtype", "fp32") != "fp32":
        words += ["--dtype", values["dtype"]]
    return shlex.join([*words, "--set", picture.path.stem])


def _word(value: Any) -> str:
    """As the command line reads it back: text that would pass for JSON is quoted."""
    try:
        json.loads(value)
    except TypeError:
        return json.dumps(value)
    except ValueError:
        return str(value)
    return json.dumps(value)


def warning(models: Iterable[Model], prompt: str) -> str:
    """What stands beside pictures that may be X-rays; "" beside others."""
    return NOT_FOR_DIAGNOSIS if are_radiographs(models, prompt) else ""


def are_radiographs(models: Iterable[Model], prompt: str) -> bool:
    """Whether there may be X-rays among the pictures."""
    return bool(RADIOGRAPH.search(prompt)) or any(model.radiographs for model in models)


def mixed(mix: Mapping[str, Any], kind: str = "seeds") -> str:
    """ "0 × 0.75 + 1 × 0.25", or "0" alone."""
    parts = [f"{key} × {weight:.2g}" for key, weight in mix[kind]]
    return " + ".join(parts) if len(parts) > 1 else str(mix[kind][0][0])


def _shown(name: str, value: Any) -> str:
    if name == "family" and str(value) in FAMILIES:
        return FAMILIES[value].title
    if name == "trained_steps":
        return f"{value} steps"
    if name == "mix":
        prompts = mixed(value, "prompts")
        return f"seeds {mixed(value)}" + (f"; prompts {prompts}" if prompts else "")
    if isinstance(value, dict):
        return ", ".join(f"{key} × {_shown('', share)}" for key, share in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)
