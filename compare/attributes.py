"""Attributes of images, from a prepared set's typed columns: "findings=Effusion", "animal=bat"."""

from collections.abc import Sequence
from typing import Any

import numpy as np

NOT_SEEN = {"file_name", "text", "patient_id"}
"""Columns that say nothing one could see."""
MOST_VALUES = 40
"""A column of more distinct values is no attribute."""


def attributes_of(
    rows: Sequence[dict[str, Any]], columns: Sequence[str] = (), least: int = 20
) -> tuple[str, ...]:
    """ "column=value" for every value that at least `least` rows have and `least` rows lack.

    Args:
        columns: which to take; none: every column of text, lists of text, or yes and no.
    """
    chosen = columns or [name for name in _columns(rows) if _qualifies(rows, name)]
    found = []
    for column in chosen:
        known = [values for row in rows if (values := _values(row, column)) is not None]
        for value in sorted({value for values in known for value in values}):
            count = sum(value in values for values in known)
            if min(count, len(known) - count) >= least:
                found.append(f"{column}={value}")
    return tuple(found)


def labels_of(rows: Sequence[dict[str, Any]], attributes: Sequence[str]) -> np.ndarray:
    """float32, N x A: 1 the row has it, 0 it has not, NaN where the row says nothing of it."""
    labels = np.full((len(rows), len(attributes)), np.nan, dtype=np.float32)
    for place, attribute in enumerate(attributes):
        column, _, wanted = attribute.partition("=")
        for number, row in enumerate(rows):
            values = _values(row, column)
            if values is not None:
                labels[number, place] = wanted in values
    return labels


def _columns(rows: Sequence[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row if name not in NOT_SEEN))


def _qualifies(rows: Sequence[dict[str, Any]], column: str) -> bool:
    values = [row[column] for row in rows if row.get(column) is not None]
    flat = [item for value in values for item in (value if isinstance(value, list) else [value])]
    return all(isinstance(item, (str, bool)) for item in flat) and len(set(flat)) <= MOST_VALUES


def _values(row: dict[str, Any], column: str) -> set[str] | None:
    """What the row says; an empty list is an answer, null is none."""
    value = row.get(column)
    if value is None:
        return None
    return {str(item) for item in value} if isinstance(value, list) else {str(value)}
