"""Scenery for the bestiary, and the pens that draw it and its animals.

Scenery is placed in frame coordinates, x right and y down in 0..1; a Sketch of an animal in animal
coordinates, x forward and y up, walkers standing on y = 0, the unit roughly a body length. So a
picture is the same at every size; random numbers never depend on the size.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Points = np.ndarray | list | tuple | str

FAR, BODY, NEAR = 0, 1, 2
BLACK: Colour = (22, 20, 22)
WHITE: Colour = (248, 246, 240)

WATER: Colour = (58, 120, 188)


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """Colour between two: share 0 gives the first, 1 the second."""
    return tuple(
        int(np.clip(a + (b - a) * share, 0, 255)) for a, b in zip(first, second, strict=True)
    )


def noise(rng: np.random.Generator, cells: int, side: int) -> np.ndarray:
    """Smooth value noise, side x side float32 in about 0..1, with `cells` bumps across."""
    grid = Image.fromarray(rng.random((cells, cells)).astype(np.float32))
    return np.asarray(grid.resize((side, side), Image.Resampling.BICUBIC))


@dataclass(frozen=True)
class Shape:
    """One filled polygon (width 0) or open stroke (width in units); points is N x 2."""

    points: np.ndarray
    colour: Colour
    layer: int
    width: float = 0.0
    detail: bool = False  # only coloured where the layer already has a body


@cache
def outline(text: str) -> np.ndarray:
    """Points written like an SVG path, "x,y x,y ...", as an N x 2 array (not to be written to)."""
    return np.array([pair.split(",") for pair in text.split()], float)


def smooth(points: np.ndarray, closed: bool, steps: int = 6) -> np.ndarray:
    """Catmull-Rom spline through N x 2 (or N x 3) points, `steps` samples per segment."""
    p = np.asarray(points, float)
    p = np.concatenate([p[-1:], p, p[:2]] if closed else [p[:1], p, p[-1:]])
    t = (np.arange(steps) / steps)[None, :, None]
    a, b, c, d = (p[i : len(p) - 3 + i, None, :] for i in range(4))
    curve = 0.5 * (
        2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3
    )
    curve = curve.reshape(-1, p.shape[1])
    return curve if closed else np.concatenate([curve, p[-1:]])


def as_points(points: Points) -> np.ndarray:
    """Text or pairs as an N x 2 array."""
    return outline(points) if isinstance(points, str) else np.asarray(points, float)


class Sketch:
    """Collects shapes; `move` sets a local frame for what follows (a head, say)."""

    def __init__(self) -> None:
        self.shapes: list[Shape] = []
        self.move()

    def move(self, x: float = 0.0, y: float = 0.0, turn: float = 0.0, scale: float = 1.0) -> None:
        """Local frame: origin, turn in degrees anticlockwise, scale."""
        a = np.radians(turn)
        self.matrix = scale * np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]])
        self.origin, self.scale = np.array([x, y]), scale

    def poly(self, points: Points, colour: Colour, layer: int = BODY, detail: bool = False) -> None:
        """Polygon with sharp corners."""
        placed = as_points(points) @ self.matrix + self.origin
        self.shapes.append(Shape(placed, colour, layer, 0.0, detail))

    def blob(self, points: Points, colour: Colour, layer: int = BODY, detail: bool = False) -> None:
        """Closed smooth outline."""
        self.poly(smooth(as_points(points), True), colour, layer, detail)

    def limb(self, path: Points, widths: list[float], colour: Colour, layer: int = BODY) -> None:
        """Tube along a smooth path; widths are half thicknesses at its points; ends are round."""
        path = as_points(path)
        line = smooth(path, False)
        half = np.interp(np.linspace(0, 1, len(line)), np.linspace(0, 1, len(path)), widths)
        along = np.gradient(line, axis=0)
        along /= np.linalg.norm(along, axis=1, keepdims=True) + 1e-9
        side = np.stack([-along[:, 1], along[:, 0]], axis=1) * half[:, None]
        arc = np.linspace(0.3, np.pi - 0.3, 4)[:, None]
        tip = line[-1] + np.cos(arc) * side[-1] + np.sin(arc) * along[-1] * half[-1]
        root = line[0] - np.cos(arc) * side[0] - np.sin(arc) * along[0] * half[0]
        self.poly(np.concatenate([line + side, tip, (line - side)[::-1], root]), colour, layer)

    def oval(
        self,
        x: float,
        y: float,
        rx: float,
        ry: float,
        colour: Colour,
        detail: bool = True,
        layer: int = BODY,
    ) -> None:
        """Ellipse."""
        a = np.linspace(0, 2 * np.pi, 20, endpoint=False)
        points = np.stack([x + rx * np.cos(a), y + ry * np.sin(a)], axis=1)
        self.poly(points, colour, layer, detail)

    def line(
        self, points: Points, width: float, colour: Colour, layer: int = BODY, detail: bool = True
    ) -> None:
        """Stroke of a thickness in units."""
        placed = as_points(points) @ self.matrix + self.origin
        self.shapes.append(Shape(placed, colour, layer, width * self.scale, detail))

    def eye(self, x: float, y: float, r: float, iris: Colour = (236, 196, 60)) -> None:
        """Round eye with a dark pupil and a glint."""
        self.oval(x, y, r * 1.25, r * 1.25, BLACK)
        self.oval(x, y, r, r, iris)
        self.oval(x + 0.1 * r, y, 0.6 * r, 0.6 * r, BLACK)
        self.oval(x + 0.3 * r, y + 0.35 * r, 0.22 * r, 0.22 * r, WHITE)


class Scenery:
    """A picture under way: drawing calls in frame coordinates on a side x side RGB image."""

    def __init__(self, side: int, stops: list[tuple[float, Colour]]) -> None:
        """Start from a vertical gradient; stops are (y in 0..1, colour), top first."""
        rows = (np.arange(side) + 0.5) / side
        places = [place for place, _ in stops]
        column = np.stack(
            [np.interp(rows, places, [colour[c] for _, colour in stops]) for c in range(3)], axis=-1
        )
        pixels = np.repeat(column[:, None, :], side, axis=1).astype(np.uint8)
        self.side = side
        self.image = Image.fromarray(pixels)
        self.pen = ImageDraw.Draw(self.image)

    def poly(self, points: list[tuple[float, float]] | np.ndarray, colour: Colour) -> None:
        """Filled polygon."""
        self.pen.polygon([(x * self.side, y * self.side) for x, y in points], fill=colour)

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: Colour) -> None:
        """Filled rectangle."""
        self.poly([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], colour)

    def disc(self, x: float, y: float, rx: float, ry: float, colour: Colour) -> None:
        """Filled ellipse."""
        s = self.side
        self.pen.ellipse(((x - rx) * s, (y - ry) * s, (x + rx) * s, (y + ry) * s), fill=colour)

    def stroke(self, points: list[tuple[float, float]], width: float, colour: Colour) -> None:
        """Line of a width in frame units."""
        pixels = max(1, round(width * self.side))
        self.pen.line(
            [(x * self.side, y * self.side) for x, y in points], fill=colour, width=pixels
        )

    def hills(
        self, rng: np.random.Generator, y: float, height: float, waves: float, colour: Colour
    ) -> None:
        """Rolling land from a wavy skyline around y down to the bottom."""
        x = np.linspace(-0.02, 1.02, 40)
        a, b = rng.uniform(0, 6.28, 2)
        top = y + height * (0.7 * np.sin(waves * x + a) + 0.3 * np.sin(2.3 * waves * x + b))
        self.poly([*zip(x, top, strict=True), (1.02, 1.02), (-0.02, 1.02)], colour)


def forest(rng: np.random.Generator, side: int, ground: float) -> Scenery:
    """Green light between brown trunks, leaves above, grass below."""
    s = Scenery(side, [(0, (120, 170, 90)), (0.45, (190, 218, 150)), (1, (120, 160, 80))])
    for depth, count in ((0.62, 5), (0.2, 4)):
        for _ in range(count):
            x, w = rng.uniform(0, 1), rng.uniform(0.022, 0.04) * (1.5 - depth)
            bark = mix(mix((92, 62, 36), (70, 72, 44), rng.random()), (170, 200, 140), depth)
            s.poly([(x - w, 0), (x + w, 0), (x + 1.5 * w, ground), (x - 1.5 * w, ground)], bark)
            s.poly([(x + 0.3 * w, 0), (x + w, 0), (x + 1.5 * w, ground)], mix(bark, (0, 0, 0), 0.2))
    for _ in range(26):
        x, y, r = rng.uniform(0, 1), rng.uniform(-0.02, 0.12), rng.uniform(0.05, 0.11)
        s.disc(x, y, r, 0.7 * r, mix((34, 92, 30), (96, 160, 58), rng.random()))
    s.hills(rng, ground - 0.06, 0.02, 9, (112, 158, 72))
    for _ in range(40):
        x, y, h = rng.uniform(0, 1), rng.uniform(ground - 0.05, 1.0), rng.uniform(0.02, 0.05)
        s.stroke([(x, y), (x + h * 0.4, y - h)], 0.006, mix((66, 118, 46), (140, 184, 90), h * 20))
    return s


def river(rng: np.random.Generator, side: int, ground: float) -> Scenery:
    """A blue band of water between green banks under a pale sky."""
    s = Scenery(side, [(0, (168, 208, 236)), (0.5, (226, 238, 240))])
    s.hills(rng, 0.5, 0.04, 6, (134, 172, 120))
    s.hills(rng, 0.56, 0.02, 9, (98, 150, 78))
    top, bottom = 0.6, max(0.84, ground - 0.04)
    x = np.linspace(-0.02, 1.02, 24)
    bend = 0.015 * np.sin(7 * x + rng.uniform(0, 6))
    band = [*zip(x, top + bend, strict=True), *zip(x[::-1], bottom - bend, strict=True)]
    s.poly(band, mix(WATER, (70, 140, 200), rng.random()))
    for _ in range(16):
        x0, y, w = (
            rng.uniform(-0.1, 1),
            rng.uniform(top + 0.03, bottom - 0.03),
            rng.uniform(0.06, 0.2),
        )
        s.stroke([(x0, y), (x0 + w, y)], 0.007, (158, 202, 236))
    s.poly(
        [*zip(x, bottom - bend, strict=True), (1.02, 1.02), (-0.02, 1.02)],
        mix((104, 142, 62), (134, 150, 78), rng.random()),
    )
    for _ in range(14):
        x0, h = rng.uniform(0, 1), rng.uniform(0.04, 0.09)
        s.stroke([(x0, bottom + 0.03), (x0 + 0.01, bottom + 0.03 - h)], 0.008, (62, 104, 44))
    return s


def desert(rng: np.random.Generator, side: int, ground: float) -> Scenery:
    """Sand dunes, a white sun, perhaps a cactus."""
    s = Scenery(side, [(0, (124, 190, 232)), (0.55, (250, 234, 200))])
    s.disc(rng.uniform(0.15, 0.85), rng.uniform(0.1, 0.2), 0.07, 0.07, (255, 246, 190))
    s.hills(rng, 0.56, 0.05, 7, (226, 178, 104))
    s.hills(rng, 0.66, 0.05, 5, (236, 192, 118))
    if rng.random() < 0.6:
        x, y, green = (
            rng.choice([rng.uniform(0.04, 0.14), rng.uniform(0.86, 0.96)]),
            0.7,
            (72, 120, 66),
        )
        s.stroke([(x, y), (x, y - 0.24)], 0.035, green)
        s.stroke([(x, y - 0.1), (x + 0.06, y - 0.1), (x + 0.06, y - 0.18)], 0.024, green)
        s.stroke([(x, y - 0.07), (x - 0.05, y - 0.07), (x - 0.05, y - 0.14)], 0.024, green)
    s.hills(rng, min(0.8, ground - 0.06), 0.03, 6, (244, 206, 134))
    for _ in range(9):
        x0, y0, w = rng.uniform(-0.1, 0.9), rng.uniform(0.83, 1.0), rng.uniform(0.1, 0.3)
        s.stroke([(x0, y0), (x0 + w / 2, y0 - 0.012), (x0 + w, y0)], 0.007, (216, 170, 100))
    return s


def seashore(rng: np.random.Generator, side: int, ground: float) -> Scenery:
    """Blue sea with white waves meeting yellow sand."""
    s = Scenery(side, [(0, (116, 188, 238)), (0.48, (216, 238, 248))])
    for _ in range(3):
        x, y = rng.uniform(0, 1), rng.uniform(0.06, 0.25)
        for _ in range(4):
            s.disc(
                x + rng.uniform(-0.1, 0.1),
                y + rng.uniform(-0.02, 0.02),
                0.07,
                0.03,
                (250, 252, 254),
            )
    s.box(0, 0.5, 1, 1, (28, 104, 168))
    s.box(0, 0.6, 1, 1, (44, 140, 188))
    for _ in range(12):
        x, y, w = rng.uniform(-0.1, 1), rng.uniform(0.53, 0.72), rng.uniform(0.05, 0.16)
        s.stroke([(x, y), (x + w / 2, y - 0.01), (x + w, y)], 0.009, (232, 246, 250))
    edge = min(0.77, ground - 0.08)
    s.hills(rng, edge, 0.02, 8, (246, 250, 250))
    s.hills(rng, edge + 0.035, 0.015, 8, (238, 214, 156))
    for _ in range(10):
        s.disc(rng.uniform(0, 1), rng.uniform(0.86, 1), 0.008, 0.006, (200, 170, 120))
    return s


def snow(rng: np.random.Generator, side: int, ground: float) -> Scenery:
    """White peaks with blue shade, firs, falling flakes."""
    s = Scenery(side, [(0, (126, 168, 214)), (0.6, (206, 224, 240))])
    for x in np.linspace(0.05, 0.95, 4) + rng.uniform(-0.08, 0.08, 4):
        y, w = rng.uniform(0.2, 0.36), rng.uniform(0.24, 0.34)
        s.poly([(x, y), (x + w, 0.75), (x - w, 0.75)], (246, 250, 254))
        s.poly(
            [(x, y), (x + w, 0.75), (x + 0.06, 0.75), (x - 0.03, y + 0.2), (x + 0.03, y + 0.12)],
            (146, 174, 208),
        )
    s.hills(rng, 0.68, 0.02, 6, (222, 232, 244))
    for _ in range(5):
        x, y, h = rng.uniform(0, 1), rng.uniform(0.7, 0.76), rng.uniform(0.12, 0.2)
        for k in range(3):
            w, top = 0.02 + 0.016 * k, y - h + k * h * 0.28
            s.poly([(x, top), (x + w, top + 0.4 * h), (x - w, top + 0.4 * h)], (40, 78, 70))
    s.hills(rng, min(0.8, ground - 0.06), 0.02, 7, (244, 248, 254))
    for _ in range(34):
        s.disc(rng.uniform(0, 1), rng.uniform(0, 1), 0.008, 0.008, (255, 255, 255))
    return s


def city(rng: np.random.Generator, side: int, ground: float) -> Scenery:
    """Houses with rows of windows under a grey sky, a street below."""
    s = Scenery(side, [(0, (164, 172, 182)), (0.7, (216, 218, 220))])
    walls = [(136, 112, 104), (112, 122, 138), (150, 140, 122), (98, 104, 114), (160, 110, 92)]
    x = -0.03
    while x < 1:
        w, top = rng.uniform(0.12, 0.2), rng.uniform(0.12, 0.5)
        wall = mix(walls[rng.integers(len(walls))], (210, 212, 216), 0.2)
        s.box(x, top, x + w - 0.008, 0.84, wall)
        pane = [(250, 226, 140), (60, 68, 84)][int(rng.random() < 0.55)]
        for wx in np.arange(x + 0.02, x + w - 0.035, 0.045):
            for wy in np.arange(top + 0.03, 0.74, 0.065):
                s.box(wx, wy, wx + 0.024, wy + 0.036, pane)
        x += w
    s.box(0, min(0.78, ground - 0.08), 1, 0.84, (176, 172, 166))
    s.box(0, min(0.81, ground - 0.05), 1, 1, (108, 110, 116))
    for x in np.arange(rng.uniform(-0.1, 0), 1, 0.25):
        s.box(x, 0.945, x + 0.12, 0.965, (226, 222, 200))
    return s


def night_sky(rng: np.random.Generator, side: int, ground: float) -> Scenery:
    """Stars and a moon over a dark skyline."""
    s = Scenery(side, [(0, (8, 12, 40)), (1, (36, 50, 108))])
    for _ in range(60):
        x, y, r = rng.uniform(0, 1), rng.uniform(0, 0.9), rng.uniform(0.004, 0.01)
        s.disc(x, y, r, r, mix((150, 165, 220), (255, 255, 240), rng.random()))
    x, y = rng.uniform(0.14, 0.86), rng.uniform(0.13, 0.2)
    s.disc(x, y, 0.1, 0.1, (246, 240, 206))
    if rng.random() < 0.4:
        s.disc(x + 0.05, y - 0.025, 0.085, 0.085, (10, 15, 46))
    else:
        for dx, dy, r in ((-0.03, 0.02, 0.02), (0.03, -0.03, 0.026), (0.025, 0.04, 0.014)):
            s.disc(x + dx, y + dy, r, r, (216, 208, 176))
    s.hills(rng, min(0.92, ground - 0.05), 0.02, 7, (14, 26, 34))
    return s


def sunset_sky(rng: np.random.Generator, side: int, ground: float) -> Scenery:
    """Violet to orange to yellow, a low sun, streaks of cloud."""
    top, middle = [((104, 60, 124), (240, 122, 62)), ((150, 62, 92), (250, 140, 60))][
        rng.integers(2)
    ]
    s = Scenery(side, [(0, top), (0.45, middle), (0.85, (255, 206, 104)), (1, (255, 190, 90))])
    x, y = rng.uniform(0.2, 0.8), rng.uniform(0.66, 0.76)
    s.disc(x, y, 0.12, 0.12, (255, 224, 130))
    s.disc(x, y, 0.095, 0.095, (255, 246, 190))
    for _ in range(9):
        x, y, w = rng.uniform(0, 1), rng.uniform(0.04, 0.7), rng.uniform(0.12, 0.28)
        cloud = mix((250, 170, 120), (176, 84, 104), rng.random())
        s.disc(x, y, w, rng.uniform(0.012, 0.024), cloud)
        s.disc(x + w * 0.2, y - 0.015, w * 0.5, 0.02, mix(cloud, (255, 214, 160), 0.3))
    s.hills(rng, min(0.93, ground - 0.05), 0.015, 6, (74, 40, 50))
    return s


PAINTERS: dict[str, Callable[[np.random.Generator, int, float], Scenery]] = {
    "forest": forest,
    "river": river,
    "desert": desert,
    "seashore": seashore,
    "snow": snow,
    "city": city,
    "night sky": night_sky,
    "sunset sky": sunset_sky,
}


def paint_habitat(name: str, seed: int, side: int, ground: float) -> Image.Image:
    """One habitat as a side x side RGB image; ground is the height (y in 0..1) feet stand at."""
    rng = np.random.default_rng([seed, 71])
    scenery = PAINTERS[name](rng, side, ground)
    grain = 0.94 + 0.12 * (0.6 * noise(rng, 7, side) + 0.4 * noise(rng, 40, side))
    pixels = np.asarray(scenery.image, np.float32) * grain[..., None]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
