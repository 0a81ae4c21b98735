"""Tables of metadata with typed columns: CSV (also gzipped) and JSON lines; captions by images."""

import csv
import gzip
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.files import read_jsonl

TABLES = ("metadata.jsonl", "metadata.csv")
"""What is known of a folder's images; the first that is there."""
NAMED_BY = ("file_name", "image", "path")
"""Columns that name a row's image; the first that has a value."""
WHOLE = re.compile(r"-?(0|[1-9]\d{0,14})")  # no leading zeros: "007" is a name
DECIMAL = re.compile(r"-?(0|[1-9]\d*)(\.\d*)?(e[-+]?\d+)?")


def read_text(path: Path) -> str:
    """The text of a file, gunzipped if its name ends in .gz. Raises UserError."""
    try:
        content = path.read_bytes()
        return (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path} is not there.") from None
    except UnicodeDecodeError:
        excel = " (Excel: CSV UTF-8)" * (".csv" in path.suffixes)
        raise UserError(f"{path} is not UTF-8 text; save it as such{excel}.") from None
    except (OSError, EOFError) as error:
        raise UserError(f"{path} cannot be read ({error}); is it whole?") from None


def csv_lines(path: Path) -> Iterator[list[str]]:
    """The lines of a CSV file as lists of text, the header too."""
    return csv.reader(io.StringIO(read_text(path), newline=""))


def read_table(path: Path) -> list[dict[str, Any]]:
    """Rows of a .csv (columns of whole numbers or decimals typed, empty cells None) or .jsonl file.

    Raises UserError for a file that is neither.
    """
    if path.suffix == ".jsonl":
        return read_jsonl(path)
    lines = [line for line in csv_lines(path) if line]
    if not lines:
        raise UserError(f"{path} is empty.")
    header, body = [name.strip() for name in lines[0]], lines[1:]
    _check_commas(path, header)
    for number, line in enumerate(body, 2):
        if len(line) != len(header):
            raise UserError(
                f"{path}, row {number} has {len(line)} cells and the header {len(header)}; "
                "quote cells that hold a comma."
            )
    columns = [_typed([line[place].strip() for line in body]) for place in range(len(header))]
    return [dict(zip(header, cells, strict=True)) for cells in zip(*columns, strict=True)]


def rows_by_path(folder: Path, table: Path) -> dict[Path, dict[str, Any]]:
    """Rows of a folder's table by the image they speak of, its caption as `text`.

    Raises UserError for a table that cannot be understood, or says two things of one image.
    """
    rows: dict[Path, dict[str, Any]] = {}
    for row in read_table(table):
        named = row if isinstance(row, dict) else {}
        name = next((row.pop(key) for key in NAMED_BY if named.get(key)), None)
        if not isinstance(name, str):
            if table.suffix == ".csv" and not named.keys() & set(NAMED_BY):
                raise UserError(
                    f"{table} has no column file_name, only {', '.join(named)}; call the one that "
                    "names the images so."
                )
            raise UserError(f"{table} needs file_name in every row; mend or rename it.")
        if "text" not in row:
            row = {"text": row.pop("caption", None), **row}
        if rows.setdefault(folder / name, row) != row:
            raise UserError(f"{table} has two rows of {name} that differ; keep one of them.")
    return rows


def text_beside(image: Path, unread: list[Path] | None = None) -> str:
    """The caption in the .txt file beside an image, in one line; "" without one.

    Args:
        unread: gets the file, if it is no UTF-8 text, of which then is read what can be.

    Raises UserError for such a file where there is no `unread`.
    """
    file = image.with_suffix(".txt")
    text = file.read_bytes() if file.is_file() else b""
    try:
        return " ".join(text.decode("utf-8-sig").split())
    except UnicodeDecodeError:
        if unread is None:
            raise UserError(f"{file} is not UTF-8 text; save it as such.") from None
        unread.append(file)
        return " ".join(text.decode("utf-8-sig", errors="replace").split())


def _check_commas(path: Path, header: list[str]) -> None:
    """Raise UserError for a header whose cells are separated otherwise, as by Excel in Europe."""
    line = ",".join(header)
    if not set(header) & set(NAMED_BY) and re.search("[;\t]", line):
        raise UserError(
            f"{path} begins with '{' '.join(line.split())}'; separate cells by commas, and call "
            "the first column file_name."
        )


def _typed(cells: list[str]) -> list[Any]:
    """One column: int, float or str, whichever fits every cell that is not empty."""
    for kind, pattern in ((int, WHOLE), (float, DECIMAL)):
        if all(pattern.fullmatch(cell) for cell in cells if cell):
            return [kind(cell) if cell else None for cell in cells]
    return [cell or None for cell in cells]
