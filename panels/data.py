"""Data: a prepared set by caption and column, what was left out of it, and what to change."""

from dataclasses import dataclass
from html import escape
from typing import Any, NamedTuple

import gradio as gr
from PIL import Image

from core.errors import UserError
from core.images import open_image
from core.sets import SPLITS
from panels import fields, look
from panels.catalogue import of_radiographs
from panels.endpoints import endpoint
from panels.greys import BITS_8, windowed
from panels.prepared import ANY, DOUBLE, Prepared, Row, column_names
from panels.thumbnails import figure, img
from panels.wish import MAX_TEXT
from panels.workbench import Workbench

THUMBNAIL = 160  # pixels
MOST_VALUES = 40  # of a column, in the list to choose from
MOST_REJECTS = 200  # named in the page
SHOWN = 12  # pairs of near-duplicates, pictures of refused files
FIRST = "Select an image."
LATEST: dict[str, Any] = {**fields.QUIET, "trigger_mode": "always_last"}
"""Of events that come faster than they are answered: only the last one counts."""


class Shown(NamedTuple):
    """An image in a gallery: whose it is does not change while the page turns to another set."""

    name: str
    """Of the set."""
    split: str
    row: Row

    @property
    def place(self) -> tuple[str, str, str]:
        return self.name, self.split, self.row["file_name"]


class Picked(NamedTuple):
    """The selected image."""

    place: tuple[str, str, str]
    """Set, split and file."""
    limits: tuple[int, int]
    """Of its grey values."""


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
    gallery = _gallery("Images", 6)
    warning = gr.HTML()
    one = _one_image()
    with gr.Accordion("Left out, and near-duplicates", open=False):
        rejects = gr.HTML()
        across = gr.Checkbox(False, label="Between this split and the others (leakage)")
        search = gr.Button("Look for near-duplicates of this split's images")
        found = gr.HTML()
        pairs = _gallery("Near-duplicates", 4, visible=False)
    shown, doubles, picked = gr.State([]), gr.State([]), gr.State(None)

    asked = [name, split, words, column, value, number]
    listed = [status, gallery, shown]
    for part in (words, value, number):
        part.input(data.browse, asked, listed, **LATEST)
    column.input(data.by_column, [name, split, words, column], [value, number, *listed], **LATEST)
    greys = [one.level, one.window]
    chosen = [picked, one.caption, one.exclude, one.facts, one.view, *greys]
    compared = [found, pairs, doubles]
    gr.on(
        [name.change, split.change, page.load],
        data.opened,
        [name, split],
        [column, value, number, rejects, words, warning, *chosen, *compared, *listed],
        **fields.QUIET,
    )
    page.load(data.refresh, name, [name, notice], **fields.QUIET)
    for images, rows in ((gallery, shown), (pairs, doubles)):
        images.select(data.select, [rows, picked, *greys], chosen, **fields.QUIET)
    for slider in greys:  # not `release`, which arrow keys do not fire
        slider.change(data.view, [picked, *greys], one.view, **LATEST)
    one.save.click(data.save, [picked, one.caption, one.exclude], one.saved, **fields.QUIET).then(
        data.browse, asked, listed, **fields.QUIET
    )
    search.click(data.doubles, [name, split, across], compared, **fields.QUIET)
    _offer(bench, data.prepared)


def _offer(bench: Workbench, prepared: Prepared) -> None:
    """The same for programs."""
    endpoint(bench.sets, "sets")
    endpoint(prepared.images, "images")
    endpoint(prepared.columns, "columns")
    endpoint(prepared.rejects, "rejects")
    endpoint(prepared.window, "window")
    endpoint(prepared.edit, "edit_image")
    endpoint(prepared.near_duplicates, "near_duplicates")


def _gallery(label: str, columns: int, visible: bool = True) -> gr.Gallery:
    return gr.Gallery(
        label=label,
        columns=columns,
        height="auto",
        format="png",
        interactive=False,
        visible=visible,
        elem_classes="osteon-gallery",
        buttons=["fullscreen"],
    )


def _one_image() -> OneImage:
    """The selected image, larger, with what can be changed of it."""
    with gr.Accordion("The selected image", open=True), gr.Row():
        with gr.Column(min_width=280):
            view = gr.HTML(look.note(FIRST), elem_classes="osteon-large")
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

    @property
    def prepared(self) -> Prepared:
        return Prepared(self.bench)

    def browse(
        self, name: str, split: str, words: str, column: str, value: str, number: int
    ) -> tuple[str, list[tuple[Image.Image, str]], list[Shown]]:
        """One page of the images that fit: status, thumbnails with captions, whose they are."""
        try:
            found = self.prepared.images(name, split, words, column, value, number)
        except UserError as error:
            return look.problem(str(error)), [], []
        status = look.status(f"{found['count']} images, page {found['page']} of {found['pages']}.")
        thumbnails, shown = [], []
        for row in found["rows"]:
            left_out = "left out · " if row.get("exclude") else ""
            item = Shown(name, split, row)
            try:
                image = self._thumbnail(item)
            except UserError as error:
                status += look.problem(str(error))
                continue
            thumbnails.append((image, f"{left_out}{row['file_name']}: {row.get('text', '')}"))
            shown.append(item)
        return status, thumbnails, shown

    def by_column(self, name: str, split: str, words: str, column: str) -> list[Any]:
        """What a column holds, the commonest first, and the first page again."""
        try:
            values = list(self.prepared.values(name, split, column))[:MOST_VALUES]
        except UserError:
            values = []  # `browse` says why
        chosen = gr.update(choices=[ANY, *values], value=ANY)
        return [chosen, 1, *self.browse(name, split, words, ANY, ANY, 1)]

    def opened(self, name: str | None, split: str) -> Any:
        """Columns to filter by, what was left out, and the first page; no image is selected."""
        if not name:
            return gr.skip()
        try:
            columns = column_names(self.prepared.rows(name, split))
        except UserError:
            columns = []  # `browse` says why
        none = gr.update(choices=[ANY], value=ANY)
        head = [gr.update(choices=[ANY, *columns], value=ANY), none, 1, self._rejects(name), ""]
        x_rays = of_radiographs(self.bench.root / name, self.bench.root, [name])
        warning = look.FOR_STUDY if x_rays else ""
        compared = ["", gr.update(value=[], visible=False), []]
        page = self.browse(name, split, "", ANY, ANY, 1)
        return [*head, warning, *_unselected(look.note(FIRST)), *compared, *page]

    def select(
        self,
        shown: list[Shown],
        before: Picked | None,
        level: float,
        window: float,
        event: gr.SelectData,
    ) -> Any:
        """The image that was clicked; level and window stay where its grey values allow."""
        if not isinstance(event.index, int) or not 0 <= event.index < len(shown):
            return gr.skip()
        item = shown[event.index]
        try:
            greys = self.prepared.greys(*item.place)
        except UserError as error:
            return _unselected(look.problem(str(error)))
        sliders = [gr.skip(), gr.skip()]
        if greys.limits != (before.limits if before else BITS_8):
            level, window = greys.whole
            sliders = _sliders(greys.limits, level, window)
        picked = Picked(item.place, greys.limits)
        view = _large(windowed(greys.values, level, window), picked)
        text, left_out = item.row.get("text") or "", bool(item.row.get("exclude"))
        return [picked, text, left_out, _facts(item.row), view, *sliders]

    def view(self, picked: Picked | None, level: float, window: float) -> str:
        """The selected image with its grey values windowed."""
        if picked is None:
            return look.note(FIRST)
        try:
            greys = self.prepared.greys(*picked.place)
        except UserError as error:
            return look.problem(str(error))
        return _large(windowed(greys.values, level, window), picked)

    def save(self, picked: Picked | None, caption: str, exclude: bool) -> str:
        """Note a new caption, or that an image is left out."""
        try:
            if picked is None:
                raise UserError("Select an image first.")
            changes = self.prepared.edit(*picked.place, caption or "", bool(exclude))
        except UserError as error:
            return look.problem(str(error))
        name, split, file = picked.place
        if not changes:
            return look.status("Nothing has changed.")
        return look.status(f"Noted for {split}/{file} in {name}/edits.jsonl.")

    def doubles(self, name: str, split: str, across: bool) -> tuple[str, Any, list[Shown]]:
        """Pairs of images that are nearly the same, side by side, the nearest first."""
        none = gr.update(value=[], visible=False)
        try:
            pairs = self.prepared.near_duplicates(name, split, across)
            items, shown = [], []
            for number, pair in enumerate(pairs[:SHOWN], 1):
                for place in (pair["first"], pair["second"]):
                    item = self._shown(name, place)
                    words = f"Pair {number}: {place}, {pair['cosine']:.3f}"
                    items.append((self._thumbnail(item), words))
                    shown.append(item)
        except UserError as error:
            return look.problem(str(error)), none, []
        status = f"{len(pairs)} pairs with a cosine above {DOUBLE}."
        if not pairs:
            return look.status(status), none, []
        if len(pairs) > SHOWN:
            status += f" The nearest {SHOWN} are shown."
        status += " Select an image to leave it out above."
        return look.status(status), gr.update(value=items, visible=True), shown

    def refresh(self, current: str | None) -> tuple[Any, Any]:
        sets = self.bench.sets()
        return fields.renewed(sets, current), gr.update(visible=not sets)

    def _shown(self, name: str, place: str) -> Shown:
        """Of an image by "split/file"."""
        split, _, file = place.partition("/")
        return Shown(name, split, self.prepared.row(name, split, file))

    def _thumbnail(self, item: Shown) -> Image.Image:
        image = open_image(self.prepared.file(*item.place))
        image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
        return image

    def _rejects(self, name: str) -> str:
        """What `osteon prepare` refused, and why; pictures of what can still be shown."""
        try:
            rejected = self.prepared.rejects(name)
            pictures = "".join(self._rejected(name, row) for row in rejected[:SHOWN])
        except UserError as error:
            return look.problem(str(error))
        if not rejected:
            return look.note("Nothing was refused when this set was prepared.")
        rows = "".join(
            f'<tr><th scope="row">{escape(str(row.get("file", "")))}</th>'
            f"<td>{escape(str(row.get('reason', '')))}</td></tr>"
            for row in rejected[:MOST_REJECTS]
        )
        words = f"{len(rejected)} files were refused when this set was prepared."
        if len(rejected) > MOST_REJECTS:
            words += f" The first {MOST_REJECTS} are named."
        return (
            f'{look.note(words)}<div class="osteon-facts"><table>{rows}</table></div>'
            f'<div class="osteon-figures">{pictures}</div>'
        )

    def _rejected(self, name: str, row: dict[str, str]) -> str:
        """Its picture; "" where the file is gone or holds none."""
        file = self.prepared.rejected_file(name, str(row.get("file", "")))
        try:
            return figure(file, str(row["file"]), THUMBNAIL) if file else ""
        except UserError:
            return ""


def _unselected(view: str) -> list[Any]:
    """No image, `view` in its place, and the sliders as they were at first."""
    return [None, "", False, "", view, *_sliders(BITS_8, 127.5, 255)]


def _sliders(limits: tuple[int, int], level: float, window: float) -> list[Any]:
    low, high = limits
    return [
        gr.update(minimum=low, maximum=high, value=level),
        gr.update(maximum=high - low, value=window),
    ]


def _large(image: Image.Image, picked: Picked) -> str:
    return img(image, f"{picked.place[2]}, larger", exact=True)


def _facts(row: Row) -> str:
    table = "".join(
        f'<tr><th scope="row">{escape(str(key))}</th><td>{escape(str(value))}</td></tr>'
        for key, value in row.items()
        if key not in ("text", "exclude")
    )
    return f'<div class="osteon-facts"><table>{table}</table></div>'


def _none_yet() -> str:
    return look.empty(
        "There is no prepared set yet",
        "In a terminal, in the project's folder, run one of these. Then reload this page.",
        {
            "osteon prepare folder --source DIR --out data/NAME": "From a folder of images:",
            "osteon prepare phantoms --kind chest --count 400 --out data/chest": "Or drawn:",
        },
    )
