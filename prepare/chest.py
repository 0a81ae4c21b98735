"""Chest X-ray phantoms: frontal radiographs drawn from a seed, findings as in ChestX-ray14.

    >>> image = draw_chest(Chest(findings=("Effusion",), seed=7), size=256)  # uint8, 256 x 256

They are drawings, not simulations: right for teaching and testing image models, never for medicine.

Geometry is in body units: x from the midline (image right = the patient's left = positive), y down
from the top, 1 = the side of an image at zoom 1. A "map" is a float32 array (n, n) over the canvas.
Whole maps see only + - * / and sqrt, which IEEE fixes to the bit: same Chest, same pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import ImageDraw

from prepare.chest_body import (
    BORDERS,
    FINDINGS,
    MARKERS,
    MIN_SIZE,
    SEXES,
    VIEWS,
    Chest,
    Scene,
    anatomy,
    clouds,
    draw_anatomy,
    resample,
    step,
    stream,
)
from prepare.chest_findings import OVERLAYS

__all__ = ["FINDINGS", "Chest", "draw_chest", "sample_chest"]

LETTERS = {  # strokes in a unit square
    "L": [[(0, 0), (0, 1), (0.62, 1)]],
    "R": [
        [(0, 1), (0, 0), (0.45, 0), (0.62, 0.14), (0.62, 0.38), (0.45, 0.52), (0, 0.52)],
        [(0.3, 0.52), (0.65, 1)],
    ],
}


def sample_chest(seed: int) -> Chest:
    """A random patient: 35 % without finding, 15 % with two, ages 5..95, borders mostly none."""
    rng = stream(seed, "patient")
    count = int(rng.choice(3, p=[0.35, 0.50, 0.15]))
    chosen = rng.permutation(len(FINDINGS))[:count]
    return Chest(
        findings=tuple(FINDINGS[i] for i in sorted(chosen)),
        view="AP" if rng.random() < 0.35 else "PA",
        sex="F" if rng.random() < 0.45 else "M",
        age=int(np.clip(rng.normal(50, 21), 5, 95)),
        marker=(None, "L", "R")[int(rng.choice(3, p=[0.2, 0.5, 0.3]))],
        border=BORDERS[int(rng.choice(3, p=[0.76, 0.14, 0.10]))],
        seed=int(rng.integers(2**31)),
    )


def draw_chest(chest: Chest, size: int) -> np.ndarray:
    """The radiograph as uint8 (size, size), 0 = black; ValueError for unknown names, size < 64."""
    _check(chest, size)
    scale = 2 if size <= 128 else 1  # supersampling: edges are soft over 0.006 of the image
    body = anatomy(chest)
    scene = Scene(body, size * scale)
    draw_anatomy(scene, chest)
    for name in FINDINGS:
        if name in chest.findings and name in OVERLAYS:
            OVERLAYS[name](scene, body.sides[name], stream(chest.seed, name + " shape"))
    return _expose(scene, chest, size)


def _check(chest: Chest, size: int) -> None:
    if size < MIN_SIZE:
        raise ValueError(f"size must be at least {MIN_SIZE} pixels, not {size}")
    if chest.seed < 0:
        raise ValueError(f"seed must not be negative, not {chest.seed}")
    fields = [("finding", name, FINDINGS) for name in chest.findings]
    fields += [("view", chest.view, VIEWS), ("sex", chest.sex, SEXES)]
    fields += [("marker", chest.marker, MARKERS), ("border", chest.border, BORDERS)]
    for label, value, known in fields:
        if value not in known:
            raise ValueError(f"unknown {label} {value!r}; known: {', '.join(map(str, known))}")


def _expose(scene: Scene, chest: Chest, size: int) -> np.ndarray:
    """Sum the maps, apply the film's curve, grain, leads, letter and frame; uint8 (size, size)."""
    b, n = scene.body, scene.n
    rng = stream(chest.seed, "film")
    r = rng.uniform(-1, 1, 8)
    inside = scene.tissue * (1 - (0.66 + 0.05 * r[0]) * scene.air)
    d = inside + scene.density * scene.outline + scene.vessels * scene.air
    d = np.clip(d + scene.ribs * (0.2 + 0.8 * scene.air), 0, 1.2)
    d = d + 0.012 * clouds(rng, 5, n) * scene.outline

    contrast = 1.02 + 0.16 * r[1] - (0.28 + 0.10 * r[2]) * b.supine
    d = 0.52 + contrast * (d - 0.52) + 0.01 + 0.12 * r[4] + 0.05 * b.supine
    d = d * scene.outline + (1 - scene.outline) * (0.03 + 0.09 * abs(r[5]) + 0.05 * b.supine)
    d = np.clip(d, 0, 1.15)
    d = d * (1.36 - 0.40 * d)  # shoulder of the film: the brightest tissue saturates
    grain = resample(rng.standard_normal((256, 256)), n)
    d = d + (0.018 + 0.006 * r[6] + 0.008 * b.supine) * grain

    if b.supine and r[7] > 0:
        d = d + 0.20 * _leads(scene, rng)
    d = _letter(d, scene, chest)
    d = _frame(d, chest)
    grey = resample(d * 255, size)
    return np.clip(np.rint(grey), 0, 255).astype(np.uint8)


def _leads(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Two or three ECG electrodes beside the lungs, with their cables (0..1)."""
    b = scene.body
    r = rng.random((3, 4))

    def draw(pen: ImageDraw.ImageDraw, unit: float) -> None:
        for side, place in zip((-1, 1, 1)[: 2 + int(r[0, 3] < 0.3)], r, strict=False):
            x, y = side * b.width * (1.02 + 0.1 * place[0]), b.top + 0.8 * b.height * place[1]
            end, line = 0.30 * place[2] - 0.15, []
            for s in np.linspace(0, 1, 12):
                line.append(
                    scene.pixel(x + (end - x + 0.15 * side * (1 - s)) * s, y + (1.05 - y) * s)
                )
            pen.line(line, fill=150, width=round(0.006 * unit))
            (px, py), radius = line[0], 0.015 * unit
            pen.ellipse((px - radius, py - radius, px + radius, py + radius), fill=255)

    return scene.ink(draw)


def _letter(d: np.ndarray, scene: Scene, chest: Chest) -> np.ndarray:
    """The lead marker in strokes (no font needed), on the patient's side, in a dark surround."""
    if chest.marker is None:
        return d
    r = stream(chest.seed, "marker").random(2)
    x0, y0 = (0.835 if chest.marker == "L" else 0.085) + 0.015 * r[0], 0.08 + 0.02 * r[1]

    def draw(width: float) -> Callable[[ImageDraw.ImageDraw, float], None]:
        def strokes(pen: ImageDraw.ImageDraw, unit: float) -> None:
            for stroke in LETTERS[chest.marker]:
                line = [((x0 + 0.115 * x) * unit, (y0 + 0.115 * y) * unit) for x, y in stroke]
                pen.line(line, fill=255, width=round(width * unit), joint="curve")

        return strokes

    halo, ink = scene.ink(draw(0.043)), scene.ink(draw(0.018))
    return d * (1 - 0.5 * halo) * (1 - ink) + 0.98 * ink


def _frame(d: np.ndarray, chest: Chest) -> np.ndarray:
    """A frame of 3 to 6 % of the image on every side."""
    if chest.border == "none":
        return d
    widths = 0.03 + 0.03 * stream(chest.seed, "border").random(4)
    position = ((np.arange(d.shape[0]) + 0.5) / d.shape[0]).astype(np.float32)
    across = step(position - widths[0], 0.004) * step(1 - widths[1] - position, 0.004)
    down = step(position - widths[2], 0.004) * step(1 - widths[3] - position, 0.004)
    open_field = down[:, None] * across[None, :]
    level = 0.01 if chest.border == "black" else 0.97
    return d * open_field + level * (1 - open_field)
