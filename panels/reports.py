"""Reports: what `osteon compare` wrote, opened in the page, one or two; pictures replayed."""

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from core.errors import UserError
from panels import differences, fields, look, replay
from panels.endpoints import endpoint
from panels.workbench import Workbench

MAX_BYTES = 64 * 2**20  # of a report shown in the page


def tab(bench: Workbench, page: gr.Blocks) -> None:
    """Lay out the tab and wire it; called inside its `gr.Tab`."""
    reports = Reports(bench)
    names = bench.report_names()
    notice = gr.HTML(_none_yet(), visible=not names)
    report = gr.Dropdown(
        names,
        value=next(iter(names), None),
        label="Report",
        allow_custom_value=True,
        visible=bool(names),
    )
    take = gr.DownloadButton("Download this report", size="sm", visible=False)
    body = gr.HTML(elem_classes="osteon-report")
    other = gr.Dropdown([("none", ""), *names], value="", label="Beside it", visible=len(names) > 1)
    apart = gr.HTML()
    second = gr.HTML(elem_classes="osteon-report")
    with gr.Accordion("Replay a picture", open=False):
        replay.section(bench)

    report.input(reports.show, report, body, api_name="report", show_progress="hidden")
    report.input(reports.offer, report, take, **fields.QUIET)
    for choice in (report, other):
        choice.input(reports.beside, [report, other], [apart, second], **fields.QUIET)
    page.load(reports.refresh, report, [notice, report, take, body, other], **fields.QUIET)
    endpoint(reports.file, "report_file")
    endpoint(reports.compared, "two_reports")


@dataclass(frozen=True)
class Reports:
    """What the tab's events do."""

    bench: Workbench

    def show(self, name: str | None) -> str:
        """The report `name` as a page within the page; "" where there is none."""
        if not self.bench.reports():
            return ""
        try:
            return _framed(self._page(name))
        except UserError as error:
            return look.problem(str(error))

    def offer(self, name: str | None) -> Any:
        """The report's file on the button; no button where `show` says that there is none."""
        try:
            return gr.update(value=str(self._page(name)), visible=True)
        except UserError:
            return gr.update(visible=False)

    def beside(self, name: str | None, other: str | None) -> tuple[str, str]:
        """The scores of both reports in one table, and the page of `other`."""
        if not other:
            return "", ""
        try:
            folders = (self._page(report).parent for report in (name, other))
            return differences.table(*folders), self.show(other)
        except UserError as error:
            return look.note(str(error)), self.show(other)

    def file(self, name: str) -> gr.FileData:
        """The report `name`: one HTML file with all its pictures."""
        return gr.FileData(path=str(self._page(name)), orig_name=f"{name}.html")

    def compared(self, first: str, second: str) -> list[dict[str, Any]]:
        """Every score that both reports have, first "value", then "old_value" of the second;
        "reason" says what was not measured alike."""
        return differences.rows(self._page(first).parent, self._page(second).parent)

    def refresh(self, current: str | None) -> list[Any]:
        names = self.bench.report_names()
        name = current if current in names else next(iter(names), None)
        return [
            gr.update(visible=not names),
            {**fields.renewed(names, current), "visible": bool(names)},
            self.offer(name),
            self.show(name),
            gr.update(choices=[("none", ""), *names], visible=len(names) > 1),
        ]

    def _page(self, name: str | None) -> Path:
        """Its file. Raises UserError for a name that is not in the list."""
        for path in self.bench.reports():
            if path.parent.name == name:
                return path
        raise UserError(f"There is no report '{name or ''}'; choose one from the list.")


def _framed(path: Path) -> str:
    """The file inside a frame that may not touch this page: no same origin, no forms."""
    place = f"reports/{path.parent.name}/{path.name}"
    if path.stat().st_size > MAX_BYTES:
        raise UserError(f"{place} is too large to show here; open the file in a browser.")
    try:
        page = escape(path.read_text(encoding="utf-8"), quote=True)
    except UnicodeDecodeError:
        raise UserError(f"{place} is no text in UTF-8; run its `osteon compare` again.") from None
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
