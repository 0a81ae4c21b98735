"""Charts as SVG that takes the page's colours: text and axes in `currentColor`, no background."""

import io
import re
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from compare.findings import fakes_in_order, headline, main_tables
from core.curves import RATES, Curves, running_mean

INK = "#010203"  # stands for the page's text colour, replaced below
COLOURS = ("#3d7ebf", "#d6762b", "#3f9b6b", "#8f66c4", "#cc5161", "#2f9aa0")
"""Readable on white and on near-black."""
PANELS = 4
"""Curves shown of one run, at most."""
SMOOTH = 15
"""A running mean covers this part of a curve."""
STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "text.parse_math": False,  # a label is a label
    "font.size": 9,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": INK,
    "grid.alpha": 0.15,
    "grid.linewidth": 0.6,
}


def interval_chart(table: dict[str, Any]) -> str:
    """Each generated set's headline score with its interval; real images as a dashed line."""
    key = headline(table)
    metric, rows = table["metrics"][key], fakes_in_order(table, key)
    scale = metric["scale"]
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": f"interval-{rows[0]['label']}"}):
        figure = Figure(figsize=(7.2, 0.85 + 0.34 * len(rows)), layout="constrained")
        axes = figure.subplots()
        for place, row in enumerate(rows):
            score, colour = row["scores"][key], COLOURS[place % len(COLOURS)]
            value = score["value"] * scale
            axes.plot(
                [score["low"] * scale, score["high"] * scale], [place] * 2, color=colour, lw=2.2
            )
            axes.plot([value], [place], "o", color=colour, ms=6)
        anchors = [row for row in table["rows"] if row["kind"] == "real"]
        if anchors:
            floor = anchors[0]["scores"][key]["value"] * scale
            axes.axvline(floor, color=INK, lw=1, ls=(0, (4, 3)), alpha=0.7)
            axes.annotate(
                "real images",
                (floor, 1),
                (4, 1),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                va="bottom",
                fontsize=8,
            )
        axes.set_yticks(range(len(rows)), [_short(row["label"]) for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        if key == "frechet":
            axes.set_xlim(left=0)
        axes.set_xlabel(f"{metric['title']}: {metric['better']} is better")
        axes.grid(axis="x")
        axes.tick_params(length=0)
        return _svg(figure)


def sweep_chart(results: dict[str, Any]) -> str:
    """The first extractor's scores over the values of a sweep; precision over recall too."""
    values = results["axis"]["values"]
    points: dict[str, list[tuple[float, dict[str, Any]]]] = {}
    facts: dict[str, dict[str, Any]] = {}
    for table in main_tables(results):
        facts |= {key: metric for key, metric in table["metrics"].items() if metric["main"]}
        for row in (row for row in table["rows"] if row["kind"] == "fake"):
            for key, score in row["scores"].items():
                points.setdefault(key, []).append((values[row["label"]], score))
    points = {key: sorted(found, key=lambda point: point[0]) for key, found in points.items()}
    both = {"precision", "recall"} <= facts.keys()
    columns = min(3, len(facts) + both)
    lines = -(-(len(facts) + both) // columns)
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": "sweep"}):
        figure = Figure(figsize=(2.6 * columns, 2.2 * lines), layout="constrained")
        panels = figure.subplots(lines, columns, squeeze=False).flatten()
        for panel in panels[len(facts) + both :]:
            panel.set_axis_off()
        for panel, (key, metric) in zip(panels, facts.items(), strict=False):
            x = [value for value, _ in points[key]]
            y, low, high = (
                np.array([score[k] if score[k] is not None else np.nan for _, score in points[key]])
                * metric["scale"]
                for k in ("value", "low", "high")
            )
            panel.fill_between(x, low, high, color=COLOURS[0], alpha=0.2, lw=0)
            panel.plot(x, y, "o-", color=COLOURS[0], lw=1.4, ms=4)
            panel.set_title(metric["title"].partition(" (")[0], fontsize=9)
            panel.set_xlabel(results["axis"]["name"].replace("_", " "))
            panel.grid()
            panel.tick_params(length=0)
        if both:
            _trade(panels[len(facts)], points)
        return _svg(figure)


def _trade(panel: Any, points: dict[str, list[tuple[float, dict[str, Any]]]]) -> None:
    """Precision over recall, each point named by its value."""
    precision, recall = ([s["value"] for _, s in points[key]] for key in ("precision", "recall"))
    panel.plot(recall, precision, "o-", color=COLOURS[1], lw=1.4, ms=4)
    for (value, _), x, y in zip(points["precision"], recall, precision, strict=True):
        panel.annotate(f"{value:g}", (x, y), (3, 3), textcoords="offset points", fontsize=7)
    panel.set_title("Precision over recall", fontsize=9)
    panel.set_xlabel("recall")
    panel.grid()
    panel.tick_params(length=0)


def curve_chart(label: str, curves: Curves) -> str:
    """A run's logged values over its steps, a panel each."""
    names = [name for name in curves if not name.startswith(RATES)][:PANELS]
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": f"curves-{label}"}):
        figure = Figure(figsize=(2.5 * max(2, len(names)), 1.9), layout="constrained")
        panels = figure.subplots(1, max(2, len(names)))
        for panel in panels[len(names) :]:
            panel.set_axis_off()
        for panel, name in zip(panels, names, strict=False):
            curve = curves[name]
            value = np.array(curve["value"])
            mean = running_mean(value, len(value) // SMOOTH)
            panel.plot(curve["step"], value, color=COLOURS[0], lw=0.8, alpha=0.4)
            panel.plot(curve["step"], mean, color=COLOURS[0], lw=1.6)
            panel.set_title(name.replace("_", " "), fontsize=9)
            panel.set_xlabel("step")
            panel.grid()
            panel.tick_params(length=0)
            panel.locator_params(axis="x", nbins=5)
        return _svg(figure)


def _svg(figure: Figure) -> str:
    """The figure as an <svg> element without file header, size left to the page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    return re.sub(
        r'(<svg[^>]*?) width="([0-9.]+)pt" height="[0-9.]+pt"', r'\1 style="max-width: \2pt"', text
    )


def _short(label: str, most: int = 28) -> str:
    return label if len(label) <= most else label[: most - 1] + "…"
