"""The patient behind a chest phantom: who it is, its geometry, its canvas and its healthy organs.

Units and conventions: prepare/chest.py."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw
from scipy.interpolate import PchipInterpolator

FINDINGS: tuple[str, ...] = (
    "Effusion",
    "Cardiomegaly",
    "Pneumothorax",
    "Nodule",
    "Mass",
    "Consolidation",
    "Atelectasis",
)
VIEWS: tuple[str, ...] = ("PA", "AP")
SEXES: tuple[str, ...] = ("M", "F")
MARKERS: tuple[str | None, ...] = ("L", "R", None)
BORDERS: tuple[str, ...] = ("none", "black", "white")
MIN_SIZE = 64


@dataclass(frozen=True)
class Chest:
    """What one radiograph shows; equal values give equal pixels."""

    findings: tuple[str, ...] = ()
    """Names from FINDINGS; empty means No Finding."""
    view: str = "PA"
    """"PA" (standing) or "AP" (in bed: larger heart, higher diaphragm, less contrast)."""
    sex: str = "M"
    """"M" or "F"."""
    age: int = 50
    """Years, 0..120."""
    marker: str | None = "L"
    """Lead letter "L" or "R" on that side of the patient (L is on the image's right), or None."""
    border: str = "none"
    """Frame left by collimation: "none", "black" or "white"."""
    seed: int = 0
    """Draws the anatomy, the noise, and the place and side of each finding, independently."""


def stream(seed: int, purpose: str) -> np.random.Generator:
    """One generator per purpose, so that a finding can be toggled and all else stays."""
    return np.random.default_rng([seed, zlib.crc32(purpose.encode())])


@dataclass
class Body:
    """One patient: lengths in body units, side -1 = the patient's right (image left), +1 = left."""

    width: float  # inner half-width of the rib cage
    wall: float  # thickness of the chest wall
    shoulder: float  # half-width at the shoulders
    top: float  # y of the lung apices
    height: float  # from the apices to the mean of the healthy domes
    dome: dict[int, float]  # side -> y of the diaphragm's summit
    heart: float  # cardiothoracic ratio
    arms: bool  # held down beside the trunk, inside the field
    shift: float  # x of the mediastinum
    ribs: float  # distance from rib to rib
    taper: float  # 0 = round thorax (child) .. 0.4 = long adult thorax
    centre: tuple[float, float]  # of the body in the image, 0..1
    zoom: float
    angle: float  # radians
    child: float  # 0..1
    old: float  # 0..1
    supine: float  # 0 = PA, 1 = AP
    sides: dict[str, int] = field(default_factory=dict)  # finding -> side


def anatomy(chest: Chest) -> Body:
    """Build from view, sex, age and seed, then what the findings move (heart, diaphragm)."""
    r = stream(chest.seed, "anatomy").uniform(-1, 1, 16)
    child = min(max((17 - chest.age) / 12, 0.0), 1.0)
    old = min(max((chest.age - 55) / 30, 0.0), 1.0)
    supine = float(chest.view == "AP")
    female = float(chest.sex == "F")
    width = 0.355 + 0.02 * r[0] - 0.02 * female - 0.045 * child - 0.03 * supine
    top = 0.115 + 0.025 * r[1] + 0.06 * child + 0.05 * supine + 0.015 * old
    dome = 0.715 + 0.035 * r[2] - 0.045 * child - 0.05 * supine - 0.02 * female
    body = Body(
        width=width,
        wall=0.075 + 0.04 * r[3] + 0.02 * supine - 0.03 * child,
        shoulder=0.50 + 0.03 * r[4] - 0.03 * female - 0.09 * child,
        top=top,
        height=dome - top + 0.002 - 0.004 * r[5],
        dome={-1: dome - 0.012 - 0.008 * r[5], 1: dome + 0.016},
        heart=0.45 + 0.02 * r[6] + 0.03 * supine + 0.03 * child + 0.01 * old,
        arms=r[14] > 0.1 - 0.4 * supine,
        shift=0.012 * r[7] * (1 + supine),
        ribs=(dome - top) / (7.6 + 0.6 * r[8]),
        taper=0.34 + 0.05 * r[9] - 0.14 * child,
        centre=(0.5 + 0.025 * r[10], 0.5 + 0.02 * r[11]),
        zoom=1.16 + 0.12 * r[12] - 0.12 * child,
        angle=math.radians(1.3 * r[13] * (1 + 1.5 * supine)),
        child=child,
        old=old,
        supine=supine,
    )
    _place_findings(body, chest)
    return body


def _place_findings(body: Body, chest: Chest) -> None:
    """Choose sides (two findings avoid each other) and move the organs that a finding moves."""
    taken: set[int] = set()
    for name in FINDINGS:
        if name not in chest.findings:
            continue
        rng = stream(chest.seed, name)
        side = 1 if rng.random() < 0.5 else -1
        if name == "Cardiomegaly":
            body.heart = 0.63 + 0.06 * rng.random()
            continue
        body.sides[name] = -side if side in taken else side
        taken.add(body.sides[name])
        if name == "Atelectasis":
            body.dome[body.sides[name]] -= 0.10 + 0.03 * rng.random()
            body.shift += body.sides[name] * (0.05 + 0.015 * rng.random())


class Scene:
    """The canvas: coordinates, the maps being filled, and the organs' outlines."""

    def __init__(self, body: Body, n: int) -> None:
        self.body, self.n = body, n
        self.page = 256 if n <= 256 else 512  # pixels; lines have no finer grid than this
        pixels = (np.arange(n, dtype=np.float32) + 0.5) / n
        cos, sin = (np.float32(f(body.angle) / body.zoom) for f in (math.cos, math.sin))
        dx, dy = pixels[None, :] - body.centre[0], pixels[:, None] - body.centre[1]
        self.x, self.y = dx * cos + dy * sin, dy * cos - dx * sin + np.float32(0.5)
        self.ax = np.abs(self.x)
        self.left = step(self.x, 0.002)  # 1 on the patient's left half

        self.t = (self.y - body.top) / body.height  # 0 at the apices, 1 at the domes
        cap = 1 - np.square(1 - np.clip(self.t / 0.36, 0, 1))
        reach = 1 - body.taper + body.taper * np.clip(self.t, 0, 1.25)
        self.edge = body.width * np.sqrt(cap) * reach  # x of the inner chest wall
        inside = step(self.edge - self.ax, 0.014)
        summit = body.dome[-1] + self.left * (body.dome[1] - body.dome[-1])
        bend = np.square((self.ax - 0.42 * body.width) / (0.58 * body.width))
        self.floor = summit + (0.115 - 0.03 * body.supine) * bend  # y of the diaphragm
        above = step(self.floor - self.y, 0.012)
        self.cavity = inside * above
        self.thorax = inside  # the cavity and what lies behind the diaphragm
        self.air = self.cavity
        self.vessels = np.zeros((n, n), np.float32)
        self.density = np.zeros((n, n), np.float32)

    def pixel(self, x: float, y: float) -> tuple[float, float]:
        """A body point's place on the page."""
        body, side = self.body, self.page
        cos, sin = math.cos(body.angle) * body.zoom, math.sin(body.angle) * body.zoom
        px = x * cos - (y - 0.5) * sin + body.centre[0]
        py = x * sin + (y - 0.5) * cos + body.centre[1]
        return px * side, py * side

    def ink(self, draw: Callable[[ImageDraw.ImageDraw, float], None]) -> np.ndarray:
        """Map (0..1) of what draw(pen, pixels per unit) puts on a page of its own resolution."""
        page = Image.new("L", (self.page, self.page))
        draw(ImageDraw.Draw(page), self.page)
        return resample(np.asarray(page, np.float32) / 255, self.n)

    def half(self, side: int) -> np.ndarray:
        """1 on one side of the midline."""
        return self.left if side > 0 else 1 - self.left


def step(distance: np.ndarray, soft: float) -> np.ndarray:
    """0 below -soft, 1 above +soft, smooth between; distances in body units."""
    t = np.clip(distance * np.float32(0.5 / soft) + np.float32(0.5), 0, 1)
    return t * t * (3 - 2 * t)


def ellipse(scene: Scene, x: float, y: float, rx: float, ry: float, tilt: float) -> np.ndarray:
    """Radius map: 0 at the centre, 1 on the rim; tilt in radians, positive = right end down."""
    cos, sin = math.cos(tilt), math.sin(tilt)
    dx, dy = scene.x - np.float32(x), scene.y - np.float32(y)
    return np.sqrt(
        np.square((dx * cos + dy * sin) / np.float32(rx))
        + np.square((dy * cos - dx * sin) / np.float32(ry))
    )


def resample(values: np.ndarray, n: int) -> np.ndarray:
    """Bicubic, antialiased when it shrinks."""
    image = Image.fromarray(values.astype(np.float32, copy=False))
    return np.asarray(image.resize((n, n), Image.Resampling.BICUBIC))


def clouds(rng: np.random.Generator, cells: int, n: int) -> np.ndarray:
    """Smooth noise, mean 0, about unit spread, with blobs of 1/cells of the image."""
    return resample(rng.standard_normal((cells, cells)), n)


def draw_anatomy(scene: Scene, chest: Chest) -> None:
    """Fill scene.density (0..about 1.2, air excluded), scene.air (0..1) and scene.vessels."""
    scene.outline, thickness = _outline(scene)
    scene.tissue = scene.outline * (0.26 + 0.34 * thickness)
    scene.solid = _heart(scene)
    scene.air = scene.cavity * (1 - scene.solid)
    below = step(scene.y - scene.floor, 0.012)
    scene.density += 0.17 * scene.solid * (1 - 0.85 * below)
    _draw_bones(scene)
    _draw_abdomen(scene)
    _draw_airways(scene)
    if chest.sex == "F":
        _draw_breasts(scene, chest)
    _draw_vessels(scene, chest)


def _outline(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Silhouette of neck, shoulders, arms and trunk (0..1), and its thickness (0..1)."""
    b, y = scene.body, scene.y
    neck, trunk = 0.115 - 0.02 * b.child, b.width + b.wall
    slope = step(y - (b.top - 0.01), 0.13)
    half = neck + (b.shoulder - neck) * slope
    half = half + (trunk - b.shoulder) * step(y - (b.top + 0.30), 0.17)
    trunk_map = step(half - scene.ax, 0.010)
    thickness = np.sqrt(np.clip(1 - np.square(scene.ax / half), 0, 1))
    if not b.arms:
        return trunk_map, thickness
    axis = b.shoulder - 0.055 + 0.16 * np.clip(y - b.top - 0.1, 0, 1)
    arm = step(0.070 - np.abs(scene.ax - axis), 0.015) * step(y - (b.top + 0.16), 0.05)
    return np.maximum(trunk_map, arm), np.maximum(thickness, 0.45 * arm)


def _heart(scene: Scene) -> np.ndarray:
    """Heart, great vessels and mediastinum (0..1); heart width = ratio x inner thorax width."""
    b = scene.body
    span, aorta = b.heart * 2 * b.width, 0.080 + 0.022 * b.old - 0.018 * b.child
    neck = 0.052 + 0.006 * b.old + 0.014 * b.supine
    low = (min if abs(b.dome[1] - b.dome[-1]) < 0.06 else max)(b.dome.values())
    big = (b.heart - 0.45) * 0.25  # a larger heart also starts higher
    at = np.array([-0.15, 0.18, 0.28, 0.38, 0.48 - big, 0.60 - big, 0.80, 0.94, 1.06, 1.2, 1.35])
    right = [neck, neck, 0.060, 0.066, 0.05 + 0.09 * span, 0.29 * span, 0.34 * span, 0.33 * span]
    left = [neck, 0.062, aorta, 0.070, 0.05 + 0.15 * span, 0.42 * span, 0.61 * span, 0.66 * span]
    right += [0.30 * span, 0.06, 0.05]
    left += [0.62 * span, 0.40 * span, 0.05]
    t = np.linspace(-0.15, 1.35, 256)
    rows = (scene.y - b.top) / (low - b.top)
    x, reach = scene.x - b.shift * np.clip(0.2 + 2 * rows, 0, 1), []
    for border in (right, left):
        smooth = PchipInterpolator(at, border)(t).astype(np.float32)
        index = np.clip((rows + 0.15) * (255 / 1.5), 0, 254.99).astype(np.float32)
        whole = index.astype(np.int32)
        rest = index - whole
        reach.append(smooth[whole] * (1 - rest) + smooth[whole + 1] * rest)
    edge = step(reach[1] - x, 0.011) * step(reach[0] + x, 0.011)
    return edge * step(rows + 0.10, 0.12)


def _band(v: np.ndarray, half: float, soft: float) -> np.ndarray:
    """A bone seen edge on: a stripe around v = 0 with brighter rims."""
    distance = np.abs(v)
    rim = step(0.4 * half - np.abs(distance - 0.75 * half), soft)
    return 0.6 * step(half - distance, soft) + 0.4 * rim


def _draw_bones(scene: Scene) -> None:
    b, y, ax = scene.body, scene.y, scene.ax
    bone = 1 - 0.25 * b.old - 0.2 * b.child
    w = ax / b.width
    cage = step(scene.edge + 0.025 - ax, 0.008) * step(scene.t + 0.03, 0.03)
    behind = 1 - 0.8 * step(y - scene.floor, 0.02)  # ribs fade below the diaphragm

    # Posterior ribs leave the spine, rise a little and fall to the side; anterior ones cross them.
    fall = np.square(w) * (0.20 - 0.08 * b.supine) - 0.10 * w * (1 - 0.5 * b.supine)
    v = (y - b.top - fall * (0.55 + 0.6 * scene.t)) / b.ribs
    posterior = _band(v - np.floor(v) - 0.5, 0.20, 0.09) * step(ax - 0.05, 0.02)
    v = (y - b.top + 0.23 * w - 0.10 * np.square(w)) / (1.12 * b.ribs)
    anterior = _band(v - np.floor(v) - 0.5, 0.20, 0.12) * step(w - 0.42, 0.10)
    anterior *= step(scene.t - 0.22, 0.08)
    wall = step(0.014 - np.abs(ax - scene.edge - 0.004), 0.010) * step(scene.t - 0.1, 0.1)
    ribs = cage * (0.12 * posterior + 0.065 * anterior) + 0.10 * wall
    scene.ribs = bone * behind * ribs

    # Spine: vertebral bodies between darker discs, with pedicles.
    v = (y - b.top) / (0.95 * b.ribs)
    disc = np.abs(v - np.floor(v) - 0.5)
    column = step(0.038 - scene.ax, 0.012)
    pedicle = step(0.008 - np.abs(scene.ax - 0.024), 0.006)
    spine = column * (0.035 + 0.045 * step(0.36 - disc, 0.08)) + 0.03 * pedicle
    scene.density += bone * spine * scene.outline

    # Clavicles and scapulae.
    inner, outer = 0.045, 0.86 * b.shoulder
    s = np.clip((ax - inner) / (outer - inner), 0, 1)
    rise = (0.085 - 0.065 * b.supine) * s + 0.05 * s * (1 - s) * (1 - 2 * s)
    line = y - (b.top + 0.088 - 0.045 * b.supine - rise)
    ends = step(ax - inner, 0.01) * step(outer - ax, 0.02)
    scene.density += bone * 0.14 * ends * _band(line, 0.017, 0.006)
    blade = scene.edge * (0.86 if b.supine else 1.06) + 0.02
    along = step(scene.t - 0.08, 0.06) * step(0.62 - scene.t, 0.1)
    wedge = step(ax - blade, 0.012) * step(blade + 0.13 * (1 - scene.t) - ax, 0.03) * along
    scene.density += bone * (0.05 + 0.02 * b.supine) * wedge
    knob = np.square((ax - 0.93 * b.shoulder) / 0.05) + np.square((y - b.top - 0.10) / 0.055)
    scene.density += bone * 0.08 * step(1 - knob, 0.25) * scene.outline


def _draw_abdomen(scene: Scene) -> None:
    b = scene.body
    below = step(scene.y - scene.floor, 0.012) * scene.outline
    centre = np.clip(1.25 - np.square(scene.ax / (b.width + b.wall)), 0, 1)
    scene.density += below * (0.20 * centre + 0.03 * (1 - scene.left))
    gas = ellipse(scene, 0.45 * b.width, b.dome[1] + 0.055, 0.075, 0.038, -0.15)
    scene.density -= 0.22 * step(1 - gas, 0.16) * below * (1 - 0.6 * b.supine)


def _draw_airways(scene: Scene) -> None:
    b, y = scene.body, scene.y
    x = scene.x - b.shift * np.clip(0.2 + 2.2 * scene.t, 0, 1)
    fork = b.top + 0.36 * b.height
    trachea = step(0.020 - np.abs(x), 0.010) * step(fork - y, 0.02) * step(scene.t + 0.25, 0.1)
    bronchi = step(0.013 - np.abs(y - fork - 0.75 * np.abs(x)), 0.008)
    bronchi *= step(0.08 - np.abs(x), 0.02)
    scene.density -= (0.16 * trachea + 0.09 * bronchi) * scene.outline


def _draw_breasts(scene: Scene, chest: Chest) -> None:
    b = scene.body
    r = stream(chest.seed, "breasts").random(3)
    if b.child > 0.4:
        return
    size = 0.15 + 0.045 * r[0]
    y = b.top + (0.80 + 0.10 * r[1] + 0.06 * b.old) * b.height
    q = np.square((scene.ax - 0.66 * b.width) / size) + np.square((scene.y - y) / (0.85 * size))
    lower = 0.25 + 0.75 * step(scene.y - y + 0.03, 0.12)  # the fold below is the sharp edge
    scene.density += (0.09 + 0.06 * r[2]) * step(1 - q, 0.12) * lower * (1 - 0.7 * scene.solid)


def _draw_vessels(scene: Scene, chest: Chest) -> None:
    """Trees from the two hila, thinner and fainter outward, with fine mottle between."""
    b = scene.body
    rng = stream(chest.seed, "vessels")

    def draw(pen: ImageDraw.ImageDraw, _: float) -> None:
        for side in (-1, 1):
            hilum = (b.shift + side * 0.075, b.top + (0.46 - 0.03 * side) * b.height)
            for direction in (-1.25, -0.8, -0.3, 0.15, 0.55, 0.9, 1.3):
                branch(scene, pen, rng, hilum, side, direction)

    hila = np.zeros_like(scene.x)
    for side in (-1, 1):
        y = b.top + (0.47 - 0.03 * side) * b.height
        rim = ellipse(scene, b.shift + side * 0.085, y, 0.045, 0.085, -0.25 * side)
        hila = np.maximum(hila, step(1 - rim, 0.4))
    mottle = clouds(rng, 48, scene.n) * 0.013 + clouds(rng, 14, scene.n) * 0.016
    strength = 0.115 + 0.06 * b.old - 0.04 * b.child
    scene.vessels = strength * scene.ink(draw) + 0.10 * hila + (1 + 0.8 * b.old) * mottle


def branch(
    scene: Scene,
    pen: ImageDraw.ImageDraw,
    rng: np.random.Generator,
    start: tuple[float, float],
    side: int,
    direction: float,
) -> None:
    """Draw one tree of tubes: 15 lines in four generations, thinner and fainter outward."""
    stack = [(*start, direction, 0.06 + 0.04 * rng.random(), 0)]
    while stack:
        x, y, angle, length, generation = stack.pop()
        x2, y2 = x + side * length * math.cos(angle), y + length * math.sin(angle)
        width = max(1, round((7, 5, 3, 2)[generation] * scene.page / 512))
        ends = [scene.pixel(x, y), scene.pixel(x2, y2)]
        pen.line(ends, fill=(235, 190, 140, 95)[generation], width=width)
        if generation < 3:
            for turn in (-1, 1):
                bend = angle + turn * (0.15 + 0.5 * rng.random())
                stack.append((x2, y2, bend, length * (0.65 + 0.5 * rng.random()), generation + 1))
