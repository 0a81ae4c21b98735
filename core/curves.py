"""Loss curves of a run: metrics.jsonl as a CSV table and as a picture."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core.files import atomic_path

MEAN_OVER = 50  # points of the thick line's running mean, at most


def write_csv(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """One line per row; the columns are the first row's keys."""
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]), restval="", extrasaction="ignore")
        table.writeheader()
        table.writerows(rows)


def plot(
    rows: Sequence[dict[str, Any]], names: Sequence[str], path: Path, axis: str = "step"
) -> None:
    """One panel per name over `axis`: each value thin, their running mean thick. Writes a PNG."""
    from matplotlib.figure import Figure  # no pyplot: nothing global, no window

    figure = Figure(figsize=(3.6 * len(names), 2.8), layout="constrained")
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for panel, name in zip(panels, names, strict=True):
        points = [(row[axis], row[name]) for row in rows if name in row]
        x, y = np.array(points, dtype=float).reshape(-1, 2).T
        width = max(1, min(MEAN_OVER, len(y) // 10))
        mean = np.convolve(y, np.ones(width) / width, mode="valid")
        panel.plot(x, y, color="#9db8d2", linewidth=0.8)
        marker = "o" if len(y) == 1 else None
        panel.plot(x[len(x) - len(mean) :], mean, color="#1f4e79", linewidth=1.8, marker=marker)
        panel.set_title(name.replace("_", " "), fontsize=10)
        panel.set_xlabel(axis)
        panel.grid(alpha=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
