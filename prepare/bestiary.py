"""A bestiary: coloured, shaded pictures of animals in habitats, drawn from a seed.

`sample_scene` draws what to show, `draw_scene` paints it, `caption` says it in words. Three genera
of pterosaur are kept out of what `sample_scene` draws: they are the subjects of few-shot tuning.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from prepare.animals import bat, bird, butterfly, pterosaur, pterosaur_flying, pterosaur_standing
from prepare.habitats import (
    BLACK,
    BODY,
    FAR,
    NEAR,
    PAINTERS,
    WATER,
    WHITE,
    Colour,
    Shape,
    Sketch,
    mix,
    noise,
    paint_habitat,
)

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
    "sauropod": ("standing", "walking", "drinking"),
    "wolf": ("standing", "walking", "drinking"),
    "elephant": ("standing", "walking", "drinking"),
    "crocodile": ("walking", "resting"),
    "Sinomacrops bondei": ("flying", "standing"),
    "Dimorphodon": ("flying", "standing"),
    "Tropeognathus": ("flying", "standing"),
}


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
    pose = poses[rng.integers(len(poses))]
    if "flying" in poses and rng.random() < 0.5:
        pose = "flying"
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


# Walkers


def leg(
    s: Sketch,
    x: float,
    top: float,
    swing: float,
    widths: list[float],
    bend: float,
    colour: Colour,
    layer: int,
) -> None:
    """One leg from (x, top) to the ground; swing moves the foot, bend the middle joint."""
    knee, foot = (x + 0.35 * swing + bend, 0.5 * top), (x + swing, 0.04)
    s.limb([(x, top), knee, (x + 0.85 * swing, 0.13), foot], widths, colour, layer)
    s.limb(
        [foot, (x + swing + 0.9 * widths[-1], 0.035)], [widths[-1], widths[-1] * 0.9], colour, layer
    )


def four_legs(
    s: Sketch,
    fore: float,
    hind: float,
    top: float,
    stride: float,
    widths: list[float],
    bend: float,
    colour: Colour,
) -> None:
    """Near legs on the body's layer, far legs darker behind."""
    far = mix(colour, BLACK, 0.32)
    gap = 0.13 if stride == 0 else 0.03
    leg(s, fore + gap, top, stride, widths, -bend, far, FAR)
    leg(s, hind + gap, top, -stride, widths, -bend, far, FAR)
    leg(s, fore, top, -stride, widths, -0.5 * bend, colour, BODY)
    leg(s, hind, top, stride, widths, -bend, colour, BODY)


def wolf(rng: np.random.Generator, pose: str) -> Sketch:
    """Lean body on long legs, pricked ears, pointed muzzle, bushy tail."""
    s = Sketch()
    fur = [(118, 120, 126), (74, 72, 78), (168, 150, 128), (140, 122, 104)][rng.integers(4)]
    pale = mix(fur, WHITE, 0.6)
    stride = rng.uniform(0.16, 0.26) if pose == "walking" else 0.0
    four_legs(s, 0.42, -0.5, 0.6, stride, [0.13, 0.065, 0.042, 0.05], 0.07, fur)
    droop = rng.uniform(-0.1, 0.25)
    s.limb(
        [(-0.58, 0.76), (-0.85, 0.62 + 0.5 * droop), (-1.08, 0.42 + droop)],
        [0.07, 0.13, 0.03],
        fur,
        FAR,
    )
    s.blob("-.66,.74 -.4,.88 0,.84 .4,.94 .58,.8 .5,.56 .2,.5 -.1,.56 -.45,.54 -.66,.6", fur)
    s.blob("-.1,.6 .3,.58 .56,.7 .5,.54 .2,.48", pale, BODY, True)
    head = (0.98, 0.3, -52) if pose == "drinking" else (0.8, 1.08, rng.uniform(-14, 6))
    s.limb([(0.38, 0.76), (0.6, 0.5 + 0.5 * head[1] - 0.08), head[:2]], [0.24, 0.19, 0.13], fur)
    s.move(*head)
    s.poly("-.1,.08 -.1,.36 .06,.12", mix(fur, BLACK, 0.3), FAR)
    s.poly("-.02,.1 .04,.38 .12,.1", fur)
    s.poly("0.01,.12 .04,.3 .09,.12", (90, 64, 60), BODY, True)
    s.blob("-.16,.06 0,.15 .16,.1 .4,.02 .43,-.06 .36,-.12 .1,-.14 -.1,-.14", fur)
    s.blob(".05,-.05 .36,-.06 .36,-.12 .1,-.15 -.06,-.14", pale, BODY, True)
    s.oval(0.41, 0.0, 0.045, 0.04, BLACK)
    s.eye(0.11, 0.055, 0.03)
    return s


def elephant(rng: np.random.Generator, pose: str) -> Sketch:
    """Grey bulk on four pillars, great ear, trunk, tusk."""
    s = Sketch()
    grey = mix((126, 126, 134), (150, 138, 130), rng.random())
    stride = rng.uniform(0.1, 0.17) if pose == "walking" else 0.0
    four_legs(s, 0.34, -0.42, 0.6, stride, [0.2, 0.16, 0.14, 0.15], 0.01, grey)
    s.line("-.66,.9 -.78,.6 -.74,.45", 0.04, grey, FAR, False)
    s.oval(-0.74, 0.42, 0.04, 0.07, mix(grey, BLACK, 0.5), False, FAR)
    s.blob("-.7,.8 -.5,1.12 -.1,1.2 .3,1.14 .56,.95 .5,.6 .2,.46 -.2,.44 -.55,.5", grey)
    if pose == "drinking":
        trunk = "0.86,.9 1.02,.62 1.06,.35 1.2,.08"
    else:
        trunk = [
            "0.9,1 1.06,.76 1.06,.46 1.0,.24 1.12,.16",
            "0.9,1 1.1,.74 1.2,.62 1.36,.72 1.36,.92",
        ][rng.integers(2)]
    s.blob(".42,1.2 .66,1.32 .9,1.24 1,1.02 .9,.82 .7,.72 .46,.8", grey)
    s.limb(trunk, [0.15, 0.11, 0.08, 0.065] + [0.055] * (len(trunk.split()) - 4), grey, BODY)
    for dx, layer in ((0.05, FAR), (0, NEAR)):
        s.limb(
            [(0.8 + dx, 0.84), (0.98 + dx, 0.66), (1.2 + dx, 0.7)],
            [0.05, 0.04, 0.012],
            WHITE,
            layer,
        )
    s.blob(".56,1.22 .36,1.24 .14,1.08 .16,.82 .34,.6 .52,.7 .62,.92", mix(grey, BLACK, 0.18), NEAR)
    s.blob(
        ".5,1.14 .36,1.16 .22,1.04 .24,.84 .36,.7 .48,.78",
        mix(grey, (214, 160, 150), 0.35),
        NEAR,
        True,
    )
    s.eye(0.8, 1.06, 0.03, BLACK)
    return s


def sauropod(rng: np.random.Generator, pose: str) -> Sketch:
    """Barrel body, very long neck and tail, tiny head."""
    s = Sketch()
    skin = [(92, 130, 70), (110, 124, 96), (150, 130, 76), (84, 120, 116)][rng.integers(4)]
    stride = rng.uniform(0.1, 0.17) if pose == "walking" else 0.0
    four_legs(s, 0.3, -0.38, 0.55, stride, [0.17, 0.13, 0.1, 0.11], 0.02, skin)
    rise = rng.uniform(-0.1, 0.3)
    s.limb(
        [(-0.4, 0.72), (-0.85, 0.62), (-1.25, 0.45 + 0.4 * rise), (-1.7, 0.35 + rise)],
        [0.24, 0.14, 0.07, 0.012],
        skin,
    )
    s.blob("-.6,.7 -.3,.98 .1,1 .45,.86 .5,.62 .25,.42 -.15,.38 -.5,.48", skin)
    s.blob("-.45,.5 0,.5 .45,.66 .4,.5 0,.36", mix(skin, (240, 230, 180), 0.45), BODY, True)
    if pose == "drinking":
        neck, head = [(0.3, 0.72), (0.8, 0.72), (1.15, 0.45), (1.3, 0.18)], (1.33, 0.13, -50)
    else:
        h = rng.uniform(1.45, 1.75)
        neck, head = [(0.3, 0.74), (0.68, 0.96), (0.84, 1.3), (0.98, h)], (1.04, h + 0.02, -8)
    s.limb(neck, [0.26, 0.15, 0.1, 0.075], skin)
    for t in np.linspace(0.1, 0.9, 6):
        s.line([(-0.5 + 0.9 * t, 0.98), (-0.46 + 0.9 * t, 0.78)], 0.03, mix(skin, BLACK, 0.3))
    s.move(*head)
    s.blob("-.1,.04 0,.11 .16,.07 .26,-.02 .2,-.08 -.06,-.08", skin)
    s.line("0.26,-.03 .1,-.03", 0.015, mix(skin, BLACK, 0.6))
    s.eye(0.04, 0.035, 0.026)
    return s


def crocodile(rng: np.random.Generator, pose: str) -> Sketch:
    """Long and low: toothed jaws, scutes along the back, heavy tail."""
    s = Sketch()
    skin = mix((74, 98, 48), (104, 98, 56), rng.random())
    pale, drop = mix(skin, (236, 226, 160), 0.55), 0.0 if pose == "walking" else -0.1
    far = mix(skin, BLACK, 0.3)
    for x, colour, layer, step in (
        (0.5, far, FAR, 0.06),
        (-0.32, far, FAR, -0.06),
        (0.4, skin, NEAR, -0.06),
        (-0.42, skin, NEAR, 0.06),
    ):
        s.limb(
            [(x, 0.3), (x - 0.12 + step, 0.16), (x + step, 0.04)], [0.11, 0.07, 0.05], colour, layer
        )
        s.limb([(x + step, 0.04), (x + step + 0.13, 0.03)], [0.045, 0.035], colour, layer)
    curl = rng.uniform(0.0, 0.4)
    spine = np.array([(-0.5, 0.34), (-0.9, 0.28), (-1.25, 0.2 + 0.4 * curl), (-1.6, 0.16 + curl)])
    back = np.array(
        [
            (0.62, 0.42),
            (0.3, 0.52),
            (-0.1, 0.54),
            (-0.5, 0.5),
            (-0.9, 0.39),
            (-1.25, 0.27 + 0.4 * curl),
        ]
    ) + [0, drop]
    for x, y in np.stack(
        [np.interp(np.linspace(0, 5, 15), range(6), back[:, k]) for k in (0, 1)], 1
    ):
        s.poly([(x - 0.07, y - 0.06), (x - 0.02, y + 0.09), (x + 0.07, y - 0.06)], far, FAR)
    s.limb(spine + [0, drop], [0.2, 0.14, 0.08, 0.015], skin)
    s.blob(
        np.array(
            [
                (-0.62, 0.3),
                (-0.3, 0.5),
                (0.1, 0.54),
                (0.55, 0.46),
                (0.7, 0.32),
                (0.4, 0.16),
                (-0.1, 0.13),
                (-0.5, 0.16),
            ]
        )
        + [0, drop],
        skin,
    )
    s.blob(
        np.array([(-0.5, 0.2), (0.1, 0.25), (0.65, 0.28), (0.4, 0.14), (-0.1, 0.1)]) + [0, drop],
        pale,
        BODY,
        True,
    )
    s.move(0.66, 0.36 + drop, rng.uniform(0, 10))
    gape = rng.uniform(8, 24)
    s.poly("0,-.08 .7,-.16 .74,-.22 .6,-.25 0,-.2", pale)
    for k in range(7):
        s.poly([(0.2 + 0.08 * k, -0.15), (0.26 + 0.08 * k, -0.15), (0.23 + 0.08 * k, -0.07)], WHITE)
    s.move(0.66, 0.36 + drop, gape)
    for k in range(7):
        s.poly([(0.24 + 0.08 * k, -0.06), (0.3 + 0.08 * k, -0.06), (0.27 + 0.08 * k, -0.14)], WHITE)
    s.blob("-.1,.08 .1,.14 .2,.12 .3,.05 .6,.02 .74,.04 .78,-.03 .7,-.07 .3,-.07 0,-.12", skin)
    s.oval(0.12, 0.13, 0.075, 0.06, skin, False)
    s.eye(0.13, 0.135, 0.035)
    return s


WALKERS = {"wolf": wolf, "elephant": elephant, "sauropod": sauropod, "crocodile": crocodile}
FLIERS = {"bird": bird, "bat": bat, "butterfly": butterfly}


def sketch_animal(scene: Scene, rng: np.random.Generator) -> Sketch:
    """The animal of a scene in animal coordinates, facing right."""
    if scene.animal in WALKERS:
        return WALKERS[scene.animal](rng, scene.pose)
    if scene.animal in FLIERS:
        return FLIERS[scene.animal](rng, scene.pose)
    draw = pterosaur_flying if scene.pose == "flying" else pterosaur_standing
    return draw(pterosaur(scene.animal, rng), rng)


# Picture


def fit_shapes(
    shapes: list[Shape], scene: Scene, rng: np.random.Generator
) -> tuple[list[Shape], float]:
    """Shapes in frame coordinates (y down), filling most of its width; and the ground's height."""
    points = np.concatenate([shape.points for shape in shapes if not shape.detail])
    low, high = points.min(0), points.max(0)
    width, height = high - low
    scale = min(rng.uniform(0.7, 0.82) / width, rng.uniform(0.66, 0.74) / height)
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
    """Backdrop and animal pushed apart in brightness where they are too alike."""
    scene, body = np.asarray(back, np.float32), np.asarray(animal, np.float32)
    inside = np.asarray(cover) > 128
    behind, front = luminance(scene[inside].mean(0)), luminance(body[inside].mean(0))
    gap = 62.0
    if behind < 90 and front < behind + gap:  # night: moonlight on the animal
        body = np.clip(body * min(2.2, (behind + gap) / front), 0, 255)
    elif abs(front - behind) < gap:
        if front > 150:
            scene = scene * max(0.55, (front - gap) / behind)
        else:
            share = min(0.6, (front + gap - behind) / (256 - behind))
            scene = scene + (255 - scene) * share
    return Image.fromarray(scene.astype(np.uint8)), Image.fromarray(body.astype(np.uint8))


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
    """Grey hatching on paper (side x side x 3, 0..255): dark tones get strokes in two directions."""
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
    factor = 4 if size <= 96 else 3 if size <= 256 else 2
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
