"""Numbers as a reader wants them: as many digits as the interval supports."""

import math
from typing import Any


def number(value: float | None) -> str:
    """Three significant digits; thousands with commas."""
    if value is None:
        return "–"
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    if value == 0:
        return "0"
    return fixed(value, max(0, min(4, 2 - math.floor(math.log10(abs(value))))))


def interval(row: dict[str, Any], prefix: str = "") -> str:
    """ "13.2 [9.7, 17.0]", of a row's value, low and high (`prefix` before each key)."""
    value, low, high = (row[f"{prefix}{name}"] for name in ("value", "low", "high"))
    return number(value) + ("" if low is None else f" [{number(low)}, {number(high)}]")


def fixed(value: float, places: int) -> str:
    """With so many digits after the point and a true minus sign."""
    text = f"{value:,.{places}f}"
    text = text.removeprefix("-") if float(text.replace(",", "")) == 0 else text
    return text.replace("-", "−")


def decimals_of(table: dict[str, Any], key: str) -> int:
    """Digits for a column: two significant ones of its narrowest interval, three at most."""
    scale = table["metrics"][key]["scale"]
    scores = [row["scores"][key] for row in table["rows"] if key in row["scores"]]
    widths = [
        (score["high"] - score["low"]) / 2 * scale for score in scores if score["low"] is not None
    ]
    widths = [width for width in widths if width > 0]
    if not widths:
        return 3
    return max(0, min(3, 1 - math.floor(math.log10(min(widths)))))


def with_interval(score: dict[str, Any], scale: float, places: int) -> str:
    """ "0.21 [0.18, 0.25]" """
    value = fixed(score["value"] * scale, places)
    if score["low"] is None:
        return value
    return f"{value} {span(score, scale, places)}"


def span(score: dict[str, Any], scale: float, places: int) -> str:
    """ "[0.18, 0.25]" """
    return f"[{fixed(score['low'] * scale, places)}, {fixed(score['high'] * scale, places)}]"


def signed(value: float) -> str:
    """ "+0.23" """
    text = fixed(value, 2)
    return text if text.startswith("−") else f"+{text}"


def percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.1 or share == 0 else f"{100 * share:.1f} %"


def p_value(p: float) -> str:
    """ "p = 0.042", "p < 0.001" """
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def duration(seconds: float) -> str:
    """ "4.2 s", "3 min 20 s", "5 h 3 min" """
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 1:
        return f"{minutes} min {rest} s"
    return f"{hours:,} h {minutes} min"


def count(value: float) -> str:
    """ "512", "700 k", "12.2 M" """
    for step, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= step:
            return f"{value / step:.3g} {letter}"
    return f"{value:.0f}"
