"""Numbers of settings, and the bounds within which they mean something. Imports without torch."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

BOUNDS: dict[str, Callable[[float], bool]] = {
    "above 0": lambda value: value > 0,
    "at least 1": lambda value: value >= 1,
    "0 or more": lambda value: value >= 0,
    "from 0 to 1": lambda value: 0 <= value <= 1,
    "at least 0 and below 1": lambda value: 0 <= value < 1,
    "between 0 and 1": lambda value: 0 < value < 1,
}
"""What is asked for, in words: whether a number is so."""


def check_bounds(settings: Any, names: Mapping[str, Iterable[str]]) -> None:
    """Raise ValueError, in one sentence, for the first number that is out of its bound.

    Null, and what belongs to a group that is null, is in order; of a tuple each number is asked.

    Args:
        settings: a dataclass.
        names: of its numbers, "steps" or "optim.lr", by their bound (a key of BOUNDS).
    """
    for bound, group in names.items():
        for name in group:
            value = _value(settings, name)
            for number in value if isinstance(value, tuple) else (value,):
                if number is not None and not (BOUNDS[bound](number) and math.isfinite(number)):
                    raise ValueError(f"{name} must be {bound}, not {number}")


def _value(settings: Any, name: str) -> Any:
    """Of a dotted name; None where a group on the way is null."""
    for part in name.split("."):
        settings = None if settings is None else getattr(settings, part)
    return settings
