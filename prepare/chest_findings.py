"""Findings of the chest phantoms: each takes the scene, its side (-1, +1) and a generator."""

from __future__ import annotations

import math

import numpy as np
from PIL import ImageDraw

from prepare.chest_body import Scene, branch, clouds, ellipse, step


def _effusion(scene: Scene, side: int, rng: np.random.Generator) -> None:
    """Fluid with a meniscus that climbs the lateral wall and hides the diaphragm."""
    b = scene.body
    level = b.top + (0.66 - 0.22 * rng.random()) * b.height
    climb = np.clip(scene.ax / b.width, 0, 1.1)
    surface = level + 0.05 - 0.17 * climb * climb * climb
    fluid = step(scene.y - surface, 0.014) * scene.half(side) * scene.thorax
    scene.air = scene.air * (1 - fluid)
    below = step(scene.y - scene.floor, 0.012)
    scene.density += fluid * (0.22 - 0.17 * below) * (1 - scene.solid)


def _pneumothorax(scene: Scene, side: int, rng: np.random.Generator) -> None:
    """Black strip without markings outside the sharp white edge of a smaller, denser lung."""
    b = scene.body
    keep = 0.46 + 0.12 * rng.random()
    t = np.clip((scene.t - 0.20) / 0.30, 0, 1)
    rim = b.width * keep * np.sqrt(1 - np.square(1 - t)) * (0.95 + 0.25 * np.clip(scene.t, 0, 1))
    distance = rim - scene.ax
    lung = step(distance, 0.010)
    here = scene.half(side) * scene.cavity * (1 - scene.solid)
    pleura = step(0.006 - np.abs(distance), 0.006) * step(scene.t - 0.22, 0.03)
    scene.density += here * (0.10 * lung - 0.21 * (1 - lung) + 0.20 * pleura)
    scene.ribs = scene.ribs * (1 - 0.5 * here * (1 - lung))
    scene.vessels = scene.vessels * (1 - scene.half(side) * (1 - lung))


def _lung_spot(scene: Scene, side: int, rng: np.random.Generator) -> tuple[float, float]:
    """A place (x, y) in the open lung, clear of heart, hilum and wall."""
    b = scene.body
    t = 0.26 + 0.44 * rng.random()
    low = 0.45 if side < 0 or t < 0.42 else 0.62
    return side * b.width * (low + (0.72 - low) * rng.random()), b.top + t * b.height


def _nodule(scene: Scene, side: int, rng: np.random.Generator) -> None:
    x, y = _lung_spot(scene, side, rng)
    radius = (0.028 + 0.007 * rng.random()) / scene.body.zoom
    spot = step(1 - ellipse(scene, x, y, radius, radius, 0), 0.18)
    scene.density += (0.40 + 0.06 * rng.random()) * spot


def _mass(scene: Scene, side: int, rng: np.random.Generator) -> None:
    """A large round opacity: overlapping lobes around a centre."""
    x, y = _lung_spot(scene, side, rng)
    radius = (0.07 + 0.03 * rng.random()) / scene.body.zoom
    turn = 6.28 * rng.random()
    shape = step(1 - ellipse(scene, x, y, 0.85 * radius, 0.8 * radius, turn), 0.25)
    for k in range(4):
        angle, size = turn + 1.57 * k, radius * (0.40 + 0.16 * rng.random())
        far = (0.38 + 0.26 * rng.random()) * radius
        lobe = ellipse(scene, x + far * math.cos(angle), y + far * math.sin(angle), size, size, 0)
        shape = np.maximum(shape, step(1 - lobe, 0.30))
    scene.air = scene.air * (1 - 0.95 * shape)
    scene.density += 0.17 * shape * scene.thorax


def _consolidation(scene: Scene, side: int, rng: np.random.Generator) -> None:
    """Fluffy, ill-defined patches in one lobe, crossed by dark air bronchograms."""
    b = scene.body
    upper = rng.random() < 0.45
    x, y = side * (0.56 + 0.06 * side) * b.width, b.top + (0.30 if upper else 0.68) * b.height
    lobe = ellipse(scene, x, y, 0.58 * b.width, 0.26 * b.height + 0.02, 0.2 * side)
    fluff = 0.30 * clouds(rng, 11, scene.n) + 0.16 * clouds(rng, 26, scene.n)
    patch = step(0.78 - lobe + fluff, 0.34) * scene.half(side) * scene.cavity
    lean = -0.55 if upper else 0.55
    start = (side * 0.10, y - math.copysign(0.12 * b.height, lean))

    def draw(pen: ImageDraw.ImageDraw, _: float) -> None:
        for spread in (-0.45, 0.0, 0.45):
            branch(scene, pen, rng, start, side, lean + spread)

    tubes = scene.ink(draw)
    scene.air = scene.air * (1 - patch * (0.97 - 0.3 * tubes))
    scene.density += 0.13 * patch * (1 - 0.8 * tubes) * (1 - scene.solid)
    scene.vessels = scene.vessels * (1 - 0.9 * patch)


def _atelectasis(scene: Scene, side: int, rng: np.random.Generator) -> None:
    """A sharp white wedge from hilum to wall; _place_findings has moved heart and diaphragm."""
    b = scene.body
    hilum = b.top + (0.52 + 0.05 * rng.random()) * b.height
    slope = -0.28 + 0.40 * rng.random()
    out = np.clip(scene.ax / b.width, 0, 1.1)
    middle = hilum + slope * scene.ax
    half = 0.020 + 0.040 * (1 - out)
    wedge = step(half - np.abs(scene.y - middle), 0.007) * scene.half(side) * scene.cavity
    second = np.abs(scene.y - middle - 0.085 - 0.1 * scene.ax)
    streak = step(0.009 - second, 0.006) * scene.half(side) * scene.cavity * step(out - 0.3, 0.1)
    scene.air = scene.air * (1 - np.maximum(0.95 * wedge, 0.6 * streak))
    scene.density += 0.16 * wedge * (1 - scene.solid)


OVERLAYS = {
    "Effusion": _effusion,
    "Pneumothorax": _pneumothorax,
    "Nodule": _nodule,
    "Mass": _mass,
    "Consolidation": _consolidation,
    "Atelectasis": _atelectasis,
}
