"""Reports: what `osteon compare` wrote, opened in the page, one or two; pictures replayed."""

from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from core.errors import UserError
from panels import differences, fields, look, replay
from panels.workbench import Workbench

MAX_BYTES = 64 * 2**20  # of a report shown in the page


def tab(bench: Workbench, page: gr.Blocks) -> None:
    """Lay out the tab and wire it; called inside its `gr.Tab`."""
    names = bench.report_names()
    notice = gr.HTML(_none_yet(), visible=not names)
    report = gr.Dropdown(
        names,
        value=next(iter(names), None),
        label="Report",
        allow_custom_value=True,
        visible=bool(names),
    )
    body = gr.HTML(elem_classes="osteon-report")
    other = gr.Dropdown([("none", ""), *names], value="", label="Beside it", visible=len(names) > 1)
    apart = gr.HTML()
    second = gr.HTML(elem_classes="osteon-report")
    with gr.Accordion("Replay a picture", open=False):
        replay.section(bench)

    def show(name: str | None) -> str:
        """The report `name` as a page within the page; "" where there is none."""
        try:
            found = {path.parent.name: path for path in bench.reports()}
            if not found:
                return ""
            if name not in found:
                raise UserError(f"There is no report '{name or ''}'; choose one from the list.")
            return _framed(found[name])
        except UserError as error:
            return look.problem(str(error))

    def beside(name: str | None, other: str | None) -> tuple[str, str]:
        """The scores of both reports in one table, and the page of `other`."""
        if not other:
            return "", ""
        folders = {path.parent.name: path.parent for path in bench.reports()}
        if not {name, other} <= set(folders):
            return "", show(other)
        try:
            return differences.table(folders[str(name)], folders[other]), show(other)
        except UserError as error:
            return look.note(str(error)), show(other)

    def refresh(current: str | None) -> list[Any]:
        names = bench.report_names()
        name = current if current in names else next(iter(names), None)
        return [
            gr.update(visible=not names),
            gr.update(choices=names, value=name, visible=bool(names)),
            show(name),
            gr.update(choices=[("none", ""), *names], visible=len(names) > 1),
        ]

    report.input(show, report, body, api_name="report", show_progress="hidden")
    both = {"fn": beside, "inputs": [report, other], "outputs": [apart, second]}
    report.input(**both, **fields.QUIET)
    other.input(**both, api_name="two_reports", show_progress="hidden")
    page.load(refresh, report, [notice, report, body, other], **fields.QUIET)


def _framed(path: Path) -> str:
    """The file inside a frame that may not touch this page: no same origin, no forms."""
    place = f"reports/{path.parent.name}/{path.name}"
    if path.stat().st_size > MAX_BYTES:
        raise UserError(f"{place} is too large to show here; open the file in a browser.")
    page = escape(path.read_text(encoding="utf-8"), quote=True)
    title = escape(f"Report {path.parent.name}", quote=True)
    return (
        f"{look.note(f'This is {place}, one file that you can send to others.')}"
        f'<iframe title="{title}" sandbox="allow-scripts allow-popups" srcdoc="{page}"></iframe>'
    )


def _none_yet() -> str:
    return look.empty(
        "There is no report yet",
        "A report compares generated pictures with real ones: scores with intervals, pictures of "
        "the same seeds, and the nearest real image to each. In a terminal, then reload this page:",
        {
            "osteon generate --run runs/NAME --seeds 0-99": "Draw pictures to judge:",
            "osteon compare --real data/SET --fake runs/NAME --out reports/NAME": "Compare them:",
            "make demo": "Or see two reports made from nothing, in ten minutes:",
        },
    )
