"""A bestiary: coloured, shaded pictures of animals in habitats, drawn from a seed.

`sample_scene` draws what to show, `draw_scene` paints it, `caption` says it in words. Three genera
of pterosaur are kept out of what `sample_scene` draws: they are the subjects of few-shot tuning.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from prepare.animals import BODIES
from prepare.habitats import (
    BLACK,
    BODY,
    FAR,
    NEAR,
    PAINTERS,
    WATER,
    WHITE,
    Shape,
    Sketch,
    mix,
    noise,
    paint_habitat,
)
from prepare.pterosaurs import pterosaur

BASE_ANIMALS: tuple[str, ...] = (
    "bird",
    "bat",
    "butterfly",
    "pteranodon",
    "sauropod",
    "wolf",
    "elephant",
    "crocodile",
)
KEPT_OUT: tuple[str, ...] = ("Sinomacrops bondei", "Dimorphodon", "Tropeognathus")
HABITATS: tuple[str, ...] = tuple(PAINTERS)
STYLES: tuple[str, ...] = ("photo", "pencil drawing")
VIEWS: tuple[str, ...] = ("facing left", "facing right")
POSES: dict[str, tuple[str, ...]] = {
    "bird": ("flying", "standing"),
    "bat": ("flying",),
    "butterfly": ("flying",),
    "pteranodon": ("flying", "standing"),
    "sauropod": ("standing", "walking"),
    "wolf": ("standing", "walking", "drinking"),
    "elephant": ("standing", "walking", "drinking"),
    "crocodile": ("walking", "resting"),
    "Sinomacrops bondei": ("flying", "standing"),
    "Dimorphodon": ("flying", "standing"),
    "Tropeognathus": ("flying", "standing"),
}
POSE_WEIGHTS: dict[str, float] = {"flying": 2.5, "drinking": 0.5}


@dataclass(frozen=True)
class Scene:
    """What one picture shows; the seed varies all that the words leave open."""

    animal: str
    habitat: str = "forest"
    pose: str = "flying"
    style: str = "photo"
    view: str = "facing left"
    seed: int = 0


def check_scene(scene: Scene) -> None:
    """ValueError naming the first unknown word of a scene and what is known."""
    if scene.animal not in POSES:
        raise ValueError(f"Unknown animal {scene.animal!r}; known: {', '.join(POSES)}.")
    for kind, given, known in (
        ("habitat", scene.habitat, HABITATS),
        (f"pose for {scene.animal}", scene.pose, POSES[scene.animal]),
        ("style", scene.style, STYLES),
        ("view", scene.view, VIEWS),
    ):
        if given not in known:
            raise ValueError(f"Unknown {kind} {given!r}; known: {', '.join(known)}.")
    if scene.seed < 0:
        raise ValueError(f"A scene's seed must not be negative, got {scene.seed}.")


def sample_scene(seed: int, animal: str | None = None) -> Scene:
    """A random scene; of the base animals unless one is named; one in ten in pencil."""
    rng = np.random.default_rng([seed, 11])
    drawn = BASE_ANIMALS[rng.integers(len(BASE_ANIMALS))]
    animal = drawn if animal is None else animal
    if animal not in POSES:
        raise ValueError(f"Unknown animal {animal!r}; known: {', '.join(POSES)}.")
    poses = POSES[animal]
    weights = np.array([POSE_WEIGHTS.get(pose, 1.0) for pose in poses])
    pose = poses[rng.choice(len(poses), p=weights / weights.sum())]
    habitat = HABITATS[rng.integers(len(HABITATS))]
    if pose == "drinking":
        habitat = "river"
    style = STYLES[int(rng.random() < 0.1)]
    return Scene(animal, habitat, pose, style, VIEWS[rng.integers(2)], seed)


PLACES: dict[str, tuple[str, str]] = {  # where a flier is, where a walker is
    "forest": ("in the forest", "in the forest"),
    "river": ("over a river", "by a river"),
    "desert": ("over the desert", "in the desert"),
    "seashore": ("over the seashore", "on the seashore"),
    "snow": ("over the snow", "in the snow"),
    "city": ("over a city", "in a city"),
    "night sky": ("in the night sky", "under the night sky"),
    "sunset sky": ("in the sunset sky", "under the sunset sky"),
}


def caption(scene: Scene) -> str:
    """The scene in natural words: "a bird flying in the forest"."""
    check_scene(scene)
    article = "an" if scene.animal[0] in "aeiou" else "a"
    who = scene.animal if scene.animal in KEPT_OUT else f"{article} {scene.animal}"
    place = PLACES[scene.habitat][scene.pose != "flying"]
    if scene.pose == "drinking":
        place = "from the river" if scene.habitat == "river" else f"at a pool {place}"
    words = f"{who} {scene.pose} {place}"
    return f"a pencil drawing of {words}" if scene.style == "pencil drawing" else words


def sketch_animal(scene: Scene, rng: np.random.Generator) -> Sketch:
    """The animal of a scene in animal coordinates, facing right."""
    if scene.animal in BODIES:
        return BODIES[scene.animal](rng, scene.pose)
    return pterosaur(scene.animal, rng, scene.pose)


# Picture


def fit_shapes(
    shapes: list[Shape], scene: Scene, rng: np.random.Generator
) -> tuple[list[Shape], float]:
    """Shapes in frame coordinates (y down), filling most of its width; and the ground's height."""
    points = np.concatenate([shape.points for shape in shapes if not shape.detail])
    low, high = points.min(0), points.max(0)
    width, height = high - low
    scale = min(rng.uniform(0.62, 0.8) / width, rng.uniform(0.66, 0.74) / height)
    ground = rng.uniform(0.84, 0.9)
    middle = 0.5 + rng.uniform(-0.5, 0.5) * max(0.0, 0.9 - scale * width) * 0.6
    flip = -1.0 if scene.view == "facing left" else 1.0
    if scene.pose == "flying":
        base = np.array([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2])
        at = np.array([middle, 0.48 + rng.uniform(-0.04, 0.04)])
    else:
        base, at = np.array([(low[0] + high[0]) / 2, 0.0]), np.array([middle, ground])
    placed = [
        Shape(
            (s.points - base) * [scale * flip, -scale] + at,
            s.colour,
            s.layer,
            s.width * scale,
            s.detail,
        )
        for s in shapes
    ]
    return placed, ground


def paint_layer(shapes: list[Shape], side: int) -> tuple[Image.Image, Image.Image]:
    """Colours (RGB) and cover (L) of one layer's shapes."""
    colours, cover = Image.new("RGB", (side, side)), Image.new("L", (side, side))
    pens = ImageDraw.Draw(colours), ImageDraw.Draw(cover)
    for shape in shapes:
        points = [tuple(p) for p in (shape.points * side).tolist()]
        for pen, fill in ((pens[0], shape.colour), (pens[1], 255))[: 1 if shape.detail else 2]:
            if shape.width:
                pen.line(points, fill=fill, width=max(1, round(shape.width * side)), joint="curve")
            else:
                pen.polygon(points, fill=fill)
    return colours, cover


def relief(cover: Image.Image, light: tuple[float, float]) -> np.ndarray:
    """Shading factor (side x side, about 0.6..1.4) of a rounded body lit from light = (x, y)."""
    side = cover.width
    height = np.asarray(cover.filter(ImageFilter.GaussianBlur(0.03 * side)), np.float32) / 255
    step = max(1, round(0.016 * side))
    slope_x = np.roll(height, step, 1) - np.roll(height, -step, 1)
    slope_y = np.roll(height, step, 0) - np.roll(height, -step, 0)
    return np.clip(1.02 - 0.95 * (slope_x * light[0] + slope_y * light[1]), 0.55, 1.35)


def ink_rim(cover: Image.Image) -> Image.Image:
    """Soft dark outline around a layer, as cover 0..150."""
    edge = cover.filter(ImageFilter.GaussianBlur(0.007 * cover.width))
    return edge.point([min(150, int(v * 1.3)) for v in range(256)])


def luminance(pixels: np.ndarray) -> np.ndarray:
    """Grey value of H x W x 3 pixels."""
    return pixels @ np.array([0.3, 0.59, 0.11], np.float32)


def paint_animal(
    shapes: list[Shape], side: int, rng: np.random.Generator
) -> tuple[Image.Image, Image.Image, Image.Image]:
    """The shaded animal (RGB), its cover (L) and its rim (L), far parts first."""
    light = (rng.choice([-1, 1]) * rng.uniform(0.3, 0.8), -rng.uniform(0.7, 1.0))
    hide = 0.9 + 0.2 * noise(rng, 26, side)
    animal, cover, rim = (Image.new(mode, (side, side)) for mode in ("RGB", "L", "L"))
    for layer in (FAR, BODY, NEAR):
        chosen = [shape for shape in shapes if shape.layer == layer]
        if not chosen:
            continue
        colours, mask = paint_layer(chosen, side)
        shaded = np.asarray(colours, np.float32) * (relief(mask, light) * hide)[..., None]
        edge = ink_rim(mask)
        animal.paste(BLACK, (0, 0), edge)
        animal.paste(Image.fromarray(np.clip(shaded, 0, 255).astype(np.uint8)), (0, 0), mask)
        rim.paste(255, (0, 0), edge)
        cover.paste(255, (0, 0), mask)
    return animal, cover, rim


def set_off(back: Image.Image, animal: Image.Image, cover: Image.Image) -> tuple[Image.Image, ...]:
    """Backdrop around the animal and animal pushed apart in brightness where they are too alike."""
    scene, body = np.asarray(back, np.float32), np.asarray(animal, np.float32)
    inside = np.asarray(cover) > 128
    behind, front = scene[inside].mean(0), body[inside].mean(0)
    missing = 80.0 - float(np.linalg.norm(behind - front))
    if missing <= 0:
        return back, animal
    bright, dim = luminance(front), luminance(behind)
    if dim < 90:  # night: moonlight on the animal
        return back, Image.fromarray(np.clip(body + (30 + missing) * 0.6, 0, 255).astype(np.uint8))
    sign = 1.0 if bright > dim + 10 else -1.0  # the animal is to be the lighter, or the darker
    body = body * (1 + sign * 0.4 * missing / bright)
    glow = cover.filter(ImageFilter.GaussianBlur(0.09 * back.width))
    glow = np.minimum(np.asarray(glow, np.float32) / 150, 1.0)[..., None]
    scene = scene - sign * 0.6 * missing * glow
    both = (Image.fromarray(np.clip(v, 0, 255).astype(np.uint8)) for v in (scene, body))
    return tuple(both)


def ground_shadow(back: Image.Image, shapes: list[Shape], ground: float) -> None:
    """Soft dark ellipse under a walker, in place."""
    points = np.concatenate([shape.points for shape in shapes if not shape.detail])
    feet = points[points[:, 1] > ground - 0.08][:, 0]
    side, grow = back.width, 0.05
    mask = Image.new("L", back.size)
    box = (
        (feet.min() - grow) * side,
        (ground - 0.025) * side,
        (feet.max() + grow) * side,
        (ground + 0.035) * side,
    )
    ImageDraw.Draw(mask).ellipse(box, fill=130)
    back.paste((20, 22, 20), (0, 0), mask.filter(ImageFilter.GaussianBlur(0.012 * side)))


def water_edge(back: Image.Image, shapes: list[Shape], scene: Scene, ground: float) -> None:
    """Water under the muzzle of a drinking animal, running out of the frame, in place."""
    points = np.concatenate([shape.points for shape in shapes if not shape.detail])
    side, pen = back.width, ImageDraw.Draw(back)
    sign = -1 if scene.view == "facing left" else 1
    front = points[:, 0].min() if sign < 0 else points[:, 0].max()
    x0, x1 = sorted((front - sign * 0.13, front + sign * 0.6))
    for grow, colour in ((0.014, mix(WATER, WHITE, 0.6)), (0, WATER)):
        box = (x0 - grow, ground - 0.04 - grow, x1 + grow, ground + 0.075 + grow)
        pen.ellipse([v * side for v in box], fill=colour)
    for k in (0.0, 0.025):
        x = front + sign * (0.02 + k)
        pen.line(
            [(v * side, (ground + 0.01 + k) * side) for v in (x - 0.06, x + 0.06)],
            fill=mix(WATER, WHITE, 0.7),
            width=max(1, round(0.008 * side)),
        )


def in_pencil(
    back: Image.Image,
    animal: Image.Image,
    cover: Image.Image,
    rim: Image.Image,
    rng: np.random.Generator,
) -> np.ndarray:
    """Grey hatching on paper (side x side x 3, 0..255): dark tones are hatched twice."""
    side = back.width
    y, x = (np.mgrid[0:side, 0:side] + 0.5).astype(np.float32) / side
    wobble = 0.02 * noise(rng, 6, side)
    inside = np.asarray(cover, np.float32) / 255
    tone = luminance(np.asarray(animal, np.float32)) / 255
    faint = (
        luminance(np.asarray(back.filter(ImageFilter.GaussianBlur(0.004 * side)), np.float32)) / 255
    )
    tone = inside * (0.15 + 0.8 * tone) + (1 - inside) * (0.78 + 0.2 * faint)
    strokes = 0.5 + 0.5 * np.sin(2 * np.pi * 24 * (x + y + wobble))
    cross = 0.5 + 0.5 * np.sin(2 * np.pi * 22 * (x - y + wobble))
    ink = np.clip((0.9 - tone) * 1.15, 0, 1) * (0.45 + 0.55 * strokes)
    ink += np.clip(0.42 - tone, 0, 1) * cross
    outline = np.clip(np.asarray(rim, np.float32) / 150 - inside, 0, 1)
    paper = 244 - 8 * noise(rng, 30, side)
    grey = paper * (1 - np.clip(0.9 * ink + 0.8 * outline, 0, 0.88))
    return grey[..., None] * np.array([1.0, 0.995, 0.97], np.float32)


def draw_scene(scene: Scene, size: int) -> np.ndarray:
    """The scene as uint8 RGB, size x size x 3; the same scene gives the same pixels."""
    check_scene(scene)
    if size < 64:
        raise ValueError(f"A bestiary picture needs a size of at least 64 pixels, got {size}.")
    factor = 3 if size <= 128 else 2
    side = size * factor
    rng = np.random.default_rng([scene.seed, 31])
    shapes = sketch_animal(scene, rng).shapes
    shapes, ground = fit_shapes(shapes, scene, rng)
    back = paint_habitat(scene.habitat, scene.seed, side, ground)
    animal, cover, rim = paint_animal(shapes, side, rng)
    if scene.pose == "drinking":
        water_edge(back, shapes, scene, ground)
    if scene.pose != "flying":
        ground_shadow(back, shapes, ground)
    if scene.style == "pencil drawing":
        picture = Image.fromarray(in_pencil(back, animal, cover, rim, rng).astype(np.uint8))
        return np.asarray(picture.reduce(factor))
    back, animal = set_off(back, animal, cover)
    back.paste(BLACK, (0, 0), rim)
    back.paste(animal, (0, 0), cover)
    return np.asarray(back.reduce(factor))
