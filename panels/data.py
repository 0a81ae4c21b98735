"""Data: a prepared set by caption and column, what was left out of it, and what to change."""

from collections import Counter
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import numpy as np
from PIL import Image

from core.errors import UserError
from core.files import read_json, read_jsonl
from core.images import open_image
from core.sets import SPLITS, open_set, read_edits, record_edit
from panels import fields, look
from panels.thumbnails import figure, img
from panels.wish import MAX_TEXT
from panels.workbench import Workbench

PAGE = 48  # images
THUMBNAIL = 160  # pixels
LARGE = 512
ANY = "any"
MOST_VALUES = 40  # of a column, in the list to choose from
DOUBLE = 0.985  # centred cosine from which two images count as near-duplicates
DOUBLES_SIDE = 32  # pixels at which they are compared
MOST_COMPARED = 20_000
SHOWN = 12
Row = dict[str, Any]


class OneImage(NamedTuple):
    """The parts that show and change the selected image."""

    view: gr.HTML
    level: gr.Slider
    window: gr.Slider
    caption: gr.Textbox
    exclude: gr.Checkbox
    save: gr.Button
    saved: gr.HTML
    facts: gr.HTML


def tab(bench: Workbench, page: gr.Blocks) -> None:
    """Lay out the tab and wire it; called inside its `gr.Tab`."""
    data = Data(bench)
    sets = bench.sets()
    first = next(iter(sets), None)
    notice = gr.HTML(_none_yet(), visible=not sets)
    with gr.Row():
        name = gr.Dropdown(sets, value=first, label="Set", min_width=220, scale=2)
        split = gr.Dropdown(list(SPLITS), label="Split", min_width=120)
        words = gr.Textbox("", label="Caption holds", max_length=MAX_TEXT, min_width=160)
        column = gr.Dropdown([ANY], label="Column", min_width=120)
        value = gr.Dropdown([ANY], label="Its value", min_width=120)
        number = gr.Number(1, label="Page", precision=0, minimum=1, min_width=90)
    status = gr.HTML(look.note("Choose a set."))
    gallery = gr.Gallery(
        label="Images",
        columns=6,
        height="auto",
        format="png",
        interactive=False,
        elem_classes="osteon-gallery",
        buttons=["fullscreen"],
    )
    one = _one_image()
    with gr.Accordion("Left out, and near-duplicates", open=False):
        rejects = gr.HTML()
        search = gr.Button("Look for near-duplicates in this split")
        doubles = gr.HTML()
    rows, picked = gr.State([]), gr.State(None)

    asked = [name, split, words, column, value, number]
    shown = [status, gallery, rows]
    for part in (words, value, number):
        part.input(data.browse, asked, shown, **fields.QUIET)
    column.input(data.values, [name, split, column], value, **fields.QUIET)
    gr.on(
        [name.change, split.change, page.load],
        data.opened,
        [name, split],
        [column, value, number, rejects, *shown],
        **fields.QUIET,
    )
    page.load(data.refresh, name, [name, notice], **fields.QUIET)
    chosen = [picked, one.caption, one.exclude, one.facts, one.view]
    greys = [one.level, one.window]
    gallery.select(data.select, [name, split, rows, *greys], chosen, **fields.QUIET)
    for slider in greys:
        slider.release(data.view, [name, split, picked, *greys], one.view, **fields.QUIET)
    given = [name, split, picked, one.caption, one.exclude]
    one.save.click(data.save, given, one.saved, api_name="edit_image", show_progress="hidden").then(
        data.browse, asked, shown, **fields.QUIET
    )
    search.click(data.doubles, [name, split], doubles, api_name="near_duplicates")


def _one_image() -> OneImage:
    """The selected image, larger, with what can be changed of it."""
    with gr.Accordion("The selected image", open=True), gr.Row():
        with gr.Column(min_width=280):
            view = gr.HTML(look.note("Select an image."), elem_classes="osteon-large")
            level = gr.Slider(0, 255, 127.5, label="Level", info="Grey value of middle grey.")
            window = gr.Slider(1, 255, 255, label="Window", info="Grey values from black to white.")
        with gr.Column(min_width=280):
            caption = gr.Textbox("", label="Caption", lines=3, max_length=MAX_TEXT)
            exclude = gr.Checkbox(False, label="Leave it out of training and comparing")
            save = gr.Button("Save", variant="primary")
            saved = gr.HTML(look.note("Changes are noted in edits.jsonl; the set stays as it is."))
            facts = gr.HTML()
    return OneImage(view, level, window, caption, exclude, save, saved, facts)


@dataclass(frozen=True)
class Data:
    """What the tab's events do."""

    bench: Workbench

    def browse(
        self, name: str, split: str, words: str, column: str, value: str, number: int
    ) -> tuple[str, list[tuple[Image.Image, str]], list[Row]]:
        """One page of the images that fit: status, thumbnails with captions, rows."""
        try:
            rows = [
                row
                for row in self.rows(name, split)
                if (words or "").lower() in str(row.get("text", "")).lower()
                and (ANY in (column, value) or value in _values(row, column))
            ]
        except UserError as error:
            return look.problem(str(error)), [], []
        pages = max(1, -(-len(rows) // PAGE))
        number = min(max(1, number or 1), pages)
        part = rows[(number - 1) * PAGE : number * PAGE]
        folder = self._folder(name) / split
        thumbnails = []
        for row in part:
            image = open_image(folder / row["file_name"])
            image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
            left_out = "left out · " if row.get("exclude") else ""
            thumbnails.append((image, f"{left_out}{row['file_name']}: {row.get('text', '')}"))
        return look.status(f"{len(rows)} images, page {number} of {pages}."), thumbnails, part

    def rows(self, name: str, split: str) -> list[Row]:
        """The split's rows with their noted changes. Raises UserError if it is not there."""
        file = self._folder(name) / split / "metadata.jsonl"
        if split not in SPLITS or not file.exists():
            raise UserError(f"{name} has no {split} split; choose another.")
        edits = read_edits(self._folder(name), split)
        return [row | edits.get(row["file_name"], {}) for row in read_jsonl(file)]

    def opened(self, name: str | None, split: str) -> list[Any]:
        """Columns to filter by, what was left out, and the first page."""
        if not name:
            return [gr.skip()] * 7
        try:
            rows = self.rows(name, split)
        except UserError:
            rows = []
        columns = [
            ANY,
            *(key for key in (rows[0] if rows else {}) if key not in ("file_name", "text")),
        ]
        none = gr.update(choices=[ANY], value=ANY)
        head = [gr.update(choices=columns, value=ANY), none, 1, self._rejects(name)]
        return [*head, *self.browse(name, split, "", ANY, ANY, 1)]

    def values(self, name: str, split: str, column: str) -> Any:
        """What a column holds, the commonest first."""
        counts = Counter(value for row in self.rows(name, split) for value in _values(row, column))
        found = [value for value, _ in counts.most_common(MOST_VALUES)]
        return gr.update(choices=[ANY, *found], value=ANY)

    def select(
        self,
        name: str,
        split: str,
        rows: list[Row],
        level: float,
        window: float,
        event: gr.SelectData,
    ) -> list[Any]:
        """The image that was clicked."""
        if not isinstance(event.index, int) or not 0 <= event.index < len(rows):
            return [gr.skip()] * 5
        row = rows[event.index]
        table = "".join(
            f'<tr><th scope="row">{escape(str(key))}</th><td>{escape(str(value))}</td></tr>'
            for key, value in row.items()
            if key not in ("text", "exclude")
        )
        facts = f'<div class="osteon-facts"><table>{table}</table></div>'
        picked = row["file_name"]
        view = self.view(name, split, picked, level, window)
        return [picked, row.get("text", ""), bool(row.get("exclude")), facts, view]

    def view(self, name: str, split: str, picked: str | None, level: float, window: float) -> str:
        """The image with its grey values windowed."""
        if picked is None:
            return look.note("Select an image.")
        image = open_image(self._file(name, split, picked))
        return img(windowed(image, level, window), f"{picked}, larger", LARGE, exact=True)

    def save(self, name: str, split: str, picked: str | None, caption: str, exclude: bool) -> str:
        """Note a new caption, or that an image is left out."""
        try:
            if picked is None:
                raise UserError("Select an image first.")
            self._file(name, split, picked)
            row = {row["file_name"]: row for row in self.rows(name, split)}[picked]
            new = {"text": (caption or "").strip(), "exclude": bool(exclude)}
            old = {"text": row.get("text", ""), "exclude": bool(row.get("exclude"))}
            changes = {key: value for key, value in new.items() if value != old[key]}
            if not changes:
                return look.status("Nothing has changed.")
            record_edit(self._folder(name), split, picked, **changes)
        except UserError as error:
            return look.problem(str(error))
        return look.status(f"Noted for {picked} in {name}/edits.jsonl.")

    def doubles(self, name: str, split: str) -> str:
        """Pairs of images that are nearly the same, the nearest first."""
        from compare.neighbours import nearest  # torch

        try:
            images = open_set(self._folder(name), split)
            if len(images) > MOST_COMPARED:
                raise UserError(f"{len(images)} images are too many to compare here.")
        except UserError as error:
            return look.problem(str(error))
        pixels = images.pixels(DOUBLES_SIDE)
        found = nearest(pixels, [pixels], own=np.arange(len(pixels)))["centred"]
        pairs = {
            frozenset((place, int(other))): float(cosine)
            for place, (other, cosine) in enumerate(
                zip(found.index[:, 0], found.cosine[:, 0], strict=True)
            )
            if cosine > DOUBLE
        }
        html = look.note(f"{len(pairs)} pairs with a cosine above {DOUBLE}.")
        for pair, cosine in sorted(pairs.items(), key=lambda item: -item[1])[:SHOWN]:
            files = [images.paths[place] for place in sorted(pair)]
            both = "".join(figure(file, f"{file.name}, {cosine:.3f}", THUMBNAIL) for file in files)
            html += f'<div class="osteon-figures">{both}</div>'
        return html

    def refresh(self, current: str | None) -> tuple[Any, Any]:
        sets = self.bench.sets()
        return fields.renewed(sets, current), gr.update(visible=not sets)

    def _rejects(self, name: str) -> str:
        """What `osteon prepare` refused, and why."""
        rejected = read_json(self._folder(name) / "set.json").get("rejected") or []
        if not rejected:
            return look.note("Nothing was refused when this set was prepared.")
        rows = "".join(
            f'<tr><th scope="row">{escape(str(row.get("file", "")))}</th>'
            f"<td>{escape(str(row.get('reason', '')))}</td></tr>"
            for row in rejected[:200]
        )
        words = look.note(f"{len(rejected)} files were refused when this set was prepared.")
        return f'{words}<div class="osteon-facts"><table>{rows}</table></div>'

    def _folder(self, name: str | None) -> Path:
        """Of a set by its name from the list. Raises UserError for any other."""
        if name not in self.bench.sets():
            raise UserError(f"There is no set '{name or ''}' here; choose one from the list.")
        return self.bench.root / str(name)

    def _file(self, name: str, split: str, picked: str) -> Path:
        """Raises UserError for a file that is not of the set."""
        if picked not in [row["file_name"] for row in self.rows(name, split)]:
            raise UserError(f"{name} has no image '{picked}' in {split}.")
        return self._folder(name) / split / picked


def windowed(image: Image.Image, level: float, window: float) -> Image.Image:
    """Grey values from `level - window / 2` to `level + window / 2` spread from black to white."""
    low = level - window / 2
    table = np.clip((np.arange(256) - low) * 255 / max(window, 1), 0, 255).round().astype(np.uint8)
    return Image.fromarray(table[np.asarray(image)])


def _values(row: Row, column: str) -> list[str]:
    """What a row holds in a column; of a list each item."""
    value = row.get(column)
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]


def _none_yet() -> str:
    return look.empty(
        "There is no prepared set yet",
        "In a terminal, in the project's folder, run one of these. Then reload this page.",
        {
            "osteon prepare folder --source DIR --out data/NAME": "From a folder of images:",
            "osteon prepare phantoms --kind chest --count 400 --out data/chest": "Or drawn:",
        },
    )
