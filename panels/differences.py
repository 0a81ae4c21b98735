"""Two reports in one table: every score that both have, and by how much they differ."""

from html import escape
from pathlib import Path
from typing import Any

from compare.exchange import against
from compare.wording import interval, number
from core.errors import UserError
from core.files import read_json
from panels import look


def rows(first: Path, second: Path) -> list[dict[str, Any]]:
    """Scores of the report folder `first` ("value", "low", "high") with those of `second`
    ("old_value" and so on); "reason": what was not measured alike.

    Raises UserError where a report came without its results.json.
    """
    results = [folder / "results.json" for folder in (first, second)]
    for file in results:
        if not file.exists():
            raise UserError(
                f"{file.parent.name} came without results.json; only the pages are shown."
            )
    return against(read_json(results[0]), results[1])["rows"]


def table(first: Path, second: Path) -> str:
    """`rows` as a table. Raises UserError likewise."""
    found = rows(first, second)
    if not found:
        return look.note("No set is in both reports under one name; only the pages are shown.")
    heads = ("", "Score", first.name, second.name, "Difference")
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    return (
        f'<div class="osteon-grid"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(map(_line, found))}</tbody></table></div>"
    )


def _line(row: dict[str, Any]) -> str:
    start = f'<tr><th scope="row">{escape(row["label"])}</th><td>{escape(row["title"])}</td>'
    if row["reason"]:
        return f'{start}<td colspan="3">not measured alike ({escape(row["reason"])})</td></tr>'
    here, there = row["value"], row["old_value"]
    apart = None if here is None or there is None else there - here
    cells = (interval(row), interval(row, "old_"), number(apart))
    return start + "".join(f"<td>{text}</td>" for text in cells) + "</tr>"
