"""Plots: loss curves of a run, as a CSV table and as a picture; points of a plane."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core.files import atomic_path

MEAN_OVER = 50  # points of the thick line's running mean, at most
Curves = dict[str, dict[str, list[float]]]  # of each logged value: "step", "seconds" and "value"
RATES = ("lr", "learning_rate")  # begin the names of what was set, not measured: no mean of those


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
        mean = y if name.startswith(RATES) else running_mean(y, min(MEAN_OVER, len(y) // 10))
        panel.plot(x, y, color="#9db8d2", linewidth=0.8)
        marker = "o" if len(y) == 1 else None
        panel.plot(x, mean, color="#1f4e79", linewidth=1.8, marker=marker)
        panel.set_title(name.replace("_", " "), fontsize=10)
        panel.set_xlabel(axis)
        panel.grid(alpha=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """Mean of the `width` values around each of N (odd: one more where even), of those that there
    are near an end; of what comes after as of what came before, so that nothing lags behind.
    """
    around = np.ones(width // 2 * 2 + 1)
    there = np.ones_like(values, dtype=float)
    return np.convolve(values, around, "same") / np.convolve(there, around, "same")


def scatter(
    panels: Mapping[str, np.ndarray], groups: Sequence[str], path: Path, most: int = 8
) -> None:
    """One panel per title of N x 2 points, coloured by the `most` largest groups. Writes a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6 * len(panels), 4.2), layout="constrained")
    names = sorted(set(groups), key=lambda name: (-groups.count(name), name))
    places = np.array([names.index(group) if group in names[:most] else most for group in groups])
    shown = [*names[:most], *(["others"] if len(names) > most else [])]
    for axes, (title, points) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        for place, name in enumerate(shown):
            colour = "#b0b0b0" if place == most else f"C{place}"
            chosen = points[places == place]
            axes.scatter(*chosen.T, s=9, alpha=0.7, color=colour, label=name, linewidths=0)
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.3)
    if len(shown) > 1:
        axes.legend(fontsize=7, markerscale=2, framealpha=0.6)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
