"""One type per column in all splits, which `datasets.load_dataset("imagefolder")` insists on.

It takes the type of a column from each split alone: a split where nothing is known of a column, or
where decimals happen to be whole, would not go with the others.
"""

from collections.abc import Mapping, Sequence
from typing import Any

Row = dict[str, Any]


def settle(splits: Mapping[str, Sequence[Row]]) -> dict[str, list[Row]]:
    """The same rows with columns of one type.

    Whole numbers become decimals or text where the column has some elsewhere. Null stays null,
    unless a whole split knows nothing of a column that others know: there "" (or [""]) stands for
    it, and numbers become text.
    """
    rows = {split: [dict(row) for row in part] for split, part in splits.items() if part}
    for column in dict.fromkeys(name for part in rows.values() for row in part for name in row):
        kinds = {split: _kinds(row.get(column) for row in part) for split, part in rows.items()}
        known = set().union(*kinds.values())
        unknown = {split for split, found in kinds.items() if not found}
        if not known or known & {dict, object} or (len(known) == 1 and not unknown):
            continue
        kind = _common(known, bool(unknown))
        for split, part in rows.items():
            for row in part:
                value = row.get(column)
                if value is not None and value != []:
                    row[column] = [str(v) for v in value] if kind is list else kind(value)
                elif split in unknown:
                    row[column] = [""] if kind is list else ""
    return rows


def _kinds(values: Any) -> set[type]:
    """Types of the values of one column in one split; null and [] have none."""
    found = set()
    for value in values:
        if value is None or value == []:
            continue
        kind = type(value)
        if kind is list and not all(isinstance(item, str) for item in value):
            kind = object  # lists of lists and the like: left as they are
        found.add(kind if kind in (bool, int, float, str, list, dict) else object)
    return found


def _common(known: set[type], gaps: bool) -> type:
    """The type that holds all of `known`, and "" too where a split has gaps."""
    if list in known and known == {list}:
        return list
    if not gaps and known == {int, float}:
        return float
    return str
