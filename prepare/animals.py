"""Anatomy of the bird, the bat, the butterfly and the walkers, facing right.

Animal coordinates: x forward, y up; walkers stand on y = 0; the unit is roughly the body length.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from prepare.habitats import BLACK, BODY, FAR, NEAR, WHITE, Colour, Sketch, mix, outline, smooth
from prepare.pterosaurs import Wing, spread_wing

# Bird, bat, butterfly

PLUMAGE: list[tuple[Colour, Colour]] = [  # body, breast
    ((44, 96, 190), (240, 150, 70)),
    ((196, 44, 40), (240, 200, 170)),
    ((236, 190, 46), (250, 240, 190)),
    ((120, 84, 54), (236, 220, 190)),
    ((236, 236, 232), (250, 250, 250)),
    ((40, 130, 100), (240, 224, 120)),
]


def bird(rng: np.random.Generator, pose: str) -> Sketch:
    """Feathered wings, fan tail, round head, small yellow beak."""
    s = Sketch()
    body, breast = PLUMAGE[rng.integers(len(PLUMAGE))]
    dark, beak = mix(body, BLACK, 0.45), (244, 170, 30)
    if pose == "standing":
        for x, layer in ((0.1, FAR), (-0.02, BODY)):
            s.limb([(x, 0.5), (x - 0.03, 0.25), (x, 0.03)], [0.05, 0.025, 0.025], beak, layer)
            s.limb(
                [(x - 0.08, 0.02), (x, 0.03), (x + 0.12, 0.01)], [0.016, 0.025, 0.016], beak, layer
            )
        s.blob("-.35,.6 -.9,.34 -1.02,.42 -.92,.54 -.3,.8", dark, FAR)
        s.blob("-.45,.62 -.2,.88 .12,1 .4,.86 .42,.6 .2,.38 -.1,.36", body)
        s.blob("-.05,.4 .2,.62 .34,.92 .48,.8 .44,.55 .2,.36", breast, BODY, True)
        s.blob(".22,.72 -.1,.86 -.42,.66 -.78,.46 -.3,.48 .1,.5", dark, NEAR)
        for y in (0.5, 0.58, 0.66):
            s.line([(-0.6, y - 0.02), (0.08, y + 0.1)], 0.02, mix(body, WHITE, 0.3), NEAR)
        s.move(0.38, 1.02)
    else:
        wing = Wing(
            rng.uniform(0.95, 1.1),
            rng.uniform(0.5, 0.6),
            0.12,
            dark,
            body,
            rng.choice([-0.1, 0.2, 0.5]),
            (rng.uniform(0.3, 0.5), rng.uniform(0.55, 0.65)),
            feathers=True,
        )
        spread_wing(s, wing, 1, FAR)
        s.poly("-.3,.1 -.8,.28 -.86,.18 -.9,.1 -.86,.02 -.3,-.04", dark, FAR)
        for y in (0.06, 0.12, 0.18):
            s.line([(-0.35, 0.04), (-0.84, y)], 0.015, body, FAR)
        s.blob("-.5,.06 -.2,.16 .2,.16 .42,.06 .34,-.14 0,-.2 -.3,-.08", body)
        s.blob("-.2,-.08 .2,-.02 .44,.08 .4,-.12 .05,-.22", breast, BODY, True)
        spread_wing(s, wing, -1, NEAR)
        s.move(0.46, 0.1, rng.uniform(-8, 8), 0.9)
    s.poly("0.12,.09 .44,-.02 .13,-.06", beak)
    s.line("0.14,.005 .4,-.02", 0.015, mix(beak, BLACK, 0.5))
    s.oval(0, 0.02, 0.21, 0.19, body, False)
    s.oval(0.06, -0.07, 0.12, 0.08, breast)
    s.eye(0.07, 0.06, 0.05, BLACK)
    return s


def bat(rng: np.random.Generator, pose: str) -> Sketch:
    """Scalloped skin wings to both sides, furry body, tall ears."""
    s = Sketch()
    fur = mix((74, 54, 44), (48, 46, 54), rng.random())
    skin = mix(fur, BLACK, 0.35)
    lift, fold = rng.uniform(-0.12, 0.3), rng.uniform(0.88, 1.08)
    for side, layer in ((1, FAR), (-1, FAR)):
        f = fold * (0.9 if side > 0 else 1.0)

        def place(text: str, side: int = side, f: float = f) -> np.ndarray:
            points = np.array([pair.split(",") for pair in text.split()], float)
            return np.stack([side * points[:, 0] * f, points[:, 1] + lift * points[:, 0]], axis=1)

        arm, hand = place("0.1,.1 .38,.2 .62,.5"), place("0.62,.5 .95,.36 1.25,.05")
        scallop = place(
            "1.25,.05 1.1,.0 1.0,-.02 .92,-.22 .78,-.12 .66,-.14 .54,-.36 .42,-.22 "
            ".3,-.2 .16,-.4 .08,-.3 .05,-.2"
        )
        s.poly(np.concatenate([arm, smooth(hand, False), scallop]), skin, layer)
        for end in place(".92,-.22 .54,-.36 .16,-.4"):
            s.line([hand[0], end], 0.028, mix(fur, (190, 150, 130), 0.3), layer)
        s.limb(arm, [0.05, 0.035, 0.03], fur, layer)
        s.limb(hand, [0.03, 0.02, 0.008], fur, layer)
    s.blob("-.15,.2 0,.26 .15,.2 .16,-.1 .08,-.34 0,-.4 -.08,-.34 -.16,-.1", fur)
    s.blob("-.08,.1 .08,.1 .1,-.15 0,-.3 -.1,-.15", mix(fur, (200, 160, 120), 0.35), BODY, True)
    s.move(0.03, 0.3, rng.uniform(-10, 4), 1.15)
    for x in (-1, 1):
        s.poly([(0.05 * x, 0.08), (0.2 * x, 0.36), (0.17 * x, 0.04)], fur)
        s.poly([(0.09 * x, 0.1), (0.175 * x, 0.28), (0.15 * x, 0.06)], (196, 130, 120), BODY, True)
    s.blob("-.17,.06 0,.15 .17,.06 .12,-.1 .03,-.16 -.06,-.13", fur)
    for x in (-0.07, 0.09):
        s.oval(x, 0.03, 0.035, 0.04, (250, 220, 120))
        s.oval(x + 0.01, 0.03, 0.018, 0.025, BLACK)
    s.oval(0.02, -0.06, 0.045, 0.03, (200, 140, 130))
    return s


def butterfly(rng: np.random.Generator, pose: str) -> Sketch:
    """Four broad patterned wings around a thin body with feelers."""
    s = Sketch()
    hue = [(246, 132, 30), (64, 120, 230), (250, 216, 60), (190, 80, 200), (236, 70, 60)]
    base = hue[rng.integers(5)]
    spot = [WHITE, (255, 230, 120)][rng.integers(2)]
    turn = rng.uniform(-40, -15)
    for side, squeeze in ((1, rng.uniform(0.72, 0.95)), (-1, rng.uniform(0.85, 1.0))):
        c = np.array([side * squeeze, 1.0])
        s.move(turn=turn)
        hind = c * outline(".05,.02 .4,.02 .66,-.2 .58,-.52 .34,-.68 .14,-.4")
        fore = c * outline(".05,.08 .3,.5 .72,.76 .96,.66 .86,.28 .6,.04 .2,-.02")
        for wing, root in ((hind, c * [0.1, -0.05]), (fore, c * [0.1, 0.08])):
            s.blob(wing, BLACK, FAR)
            s.blob(
                root + (wing - root) * 0.8, mix(base, BLACK, 0.12 if wing is hind else 0), FAR, True
            )
            for k in (1, 2, 3, 4):
                s.line([root, root + (wing[k] - root) * 0.9], 0.03, BLACK, FAR)
        for x, y in ((0.86, 0.6), (0.82, 0.44), (0.7, 0.68), (0.56, -0.4), (0.42, -0.56)):
            s.oval(*(c * [x, y]), 0.05, 0.05, spot, True, FAR)
    s.limb("0,.26 0,.05 0,-.45", [0.07, 0.085, 0.035], (44, 32, 28))
    s.oval(0, 0.28, 0.075, 0.075, (44, 32, 28), False)
    for x in (-1, 1):
        s.line([(0, 0.3), (0.1 * x, 0.5), (0.22 * x, 0.62)], 0.028, BLACK, BODY, False)
        s.oval(0.22 * x, 0.63, 0.035, 0.035, BLACK, False)
    return s


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
    gap = 0.16 if stride == 0 else 0.03
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
    four_legs(s, 0.38, -0.52, 0.62, stride, [0.14, 0.07, 0.05, 0.055], 0.07, fur)
    droop = rng.uniform(-0.1, 0.25)
    s.limb(
        [(-0.58, 0.76), (-0.85, 0.62 + 0.5 * droop), (-1.08, 0.42 + droop)],
        [0.07, 0.13, 0.03],
        fur,
        FAR,
    )
    s.blob("-.66,.74 -.4,.88 0,.84 .4,.94 .58,.8 .5,.56 .2,.5 -.1,.56 -.45,.54 -.66,.6", fur)
    s.blob("-.2,.57 .1,.56 .4,.6 .62,.8 .64,.6 .3,.46", pale, BODY, True)
    head = (0.98, 0.3, -52) if pose == "drinking" else (0.8, 1.08, rng.uniform(-14, 6))
    middle = (0.7, 0.56) if pose == "drinking" else (0.6, 0.94)
    s.limb([(0.36, 0.76), middle, head[:2]], [0.19, 0.2, 0.14], fur)
    s.move(*head, 1.15)
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
    stride = rng.uniform(0.12, 0.2) if pose == "walking" else 0.0
    four_legs(s, 0.27, -0.42, 0.6, stride, [0.15, 0.11, 0.085, 0.095], 0.02, skin)
    rise = rng.uniform(-0.1, 0.35)
    tail = [(-0.4, 0.76), (-0.8, 0.66), (-1.1, 0.5 + 0.4 * rise), (-1.42, 0.36 + rise)]
    s.limb(tail, [0.25, 0.14, 0.07, 0.012], skin)
    s.blob("-.62,.74 -.34,1.06 .08,1.08 .42,.92 .5,.68 .25,.46 -.15,.42 -.52,.5", skin)
    s.blob("-.45,.54 0,.54 .42,.7 .4,.54 0,.38", mix(skin, (240, 230, 180), 0.45), BODY, True)
    h, reach = rng.uniform(1.65, 1.95), rng.uniform(0.9, 1.1)
    neck = [(0.28, 0.8), (0.62, 1.02), (0.66 + 0.12 * reach, 1.4), (reach, h)]
    s.limb(neck, [0.27, 0.17, 0.115, 0.085], skin)
    for t in np.linspace(0.1, 0.9, 6):
        s.line([(-0.5 + 0.9 * t, 1.04), (-0.46 + 0.9 * t, 0.82)], 0.03, mix(skin, BLACK, 0.3))
    s.move(reach + 0.05, h + 0.02, rng.uniform(-18, 0), 1.2)
    s.blob("-.1,.04 0,.11 .16,.07 .26,-.02 .2,-.08 -.06,-.08", skin)
    s.line("0.26,-.03 .1,-.03", 0.015, mix(skin, BLACK, 0.6))
    s.eye(0.04, 0.035, 0.03)
    return s


def crocodile(rng: np.random.Generator, pose: str) -> Sketch:
    """Long and low: toothed jaws, scutes along the back, heavy tail."""
    s = Sketch()
    skin = mix((92, 128, 52), (122, 122, 60), rng.random())
    pale, far = mix(skin, (236, 226, 160), 0.55), mix(skin, BLACK, 0.3)
    shift = np.array([0.0, 0.0 if pose == "walking" else -0.1])
    limbs = ((0.5, far, FAR, 0.06), (-0.32, far, FAR, -0.06))
    for x, colour, layer, step in (*limbs, (0.4, skin, NEAR, -0.06), (-0.42, skin, NEAR, 0.06)):
        path = [(x, 0.3), (x - 0.12 + step, 0.16), (x + step, 0.04)]
        s.limb(path, [0.11, 0.07, 0.05], colour, layer)
        s.limb([(x + step, 0.04), (x + step + 0.13, 0.03)], [0.045, 0.035], colour, layer)
    curl = rng.uniform(0.0, 0.4)
    lift = curl * np.array([[0, 0], [0, 0], [0, 0.4], [0, 1]])
    tail = outline("-.5,.34 -.9,.28 -1.25,.2 -1.6,.16") + lift + shift
    ridge = outline(".62,.42 .3,.52 -.1,.54 -.5,.5 -.9,.39 -1.25,.27") + shift
    ridge[-1] += lift[2]
    places = np.linspace(0, 5, 15)
    for x, y in np.stack([np.interp(places, range(6), ridge[:, k]) for k in (0, 1)], 1):
        s.poly([(x - 0.07, y - 0.06), (x - 0.02, y + 0.09), (x + 0.07, y - 0.06)], far, FAR)
    s.limb(tail, [0.2, 0.14, 0.08, 0.015], skin)
    body = outline("-.62,.3 -.3,.5 .1,.54 .55,.46 .7,.32 .4,.16 -.1,.13 -.5,.16")
    s.blob(body + shift, skin)
    s.blob(outline("-.5,.2 .1,.25 .65,.28 .4,.14 -.1,.1") + shift, pale, BODY, True)
    crocodile_head(s, rng, 0.36 + shift[1], skin, pale)
    s.shapes = [replace(shape, points=shape.points * [1.0, 1.25]) for shape in s.shapes]
    return s


def crocodile_head(
    s: Sketch, rng: np.random.Generator, y: float, skin: Colour, pale: Colour
) -> None:
    """Open jaws at height y, teeth in either, a raised eye."""
    s.move(0.66, y, rng.uniform(0, 10))
    s.poly("0,-.08 .7,-.16 .74,-.22 .6,-.25 0,-.2", pale)
    for x in np.arange(7) * 0.08 + 0.2:
        s.poly([(x, -0.15), (x + 0.06, -0.15), (x + 0.03, -0.07)], WHITE)
    s.move(0.66, y, rng.uniform(8, 24))
    for x in np.arange(7) * 0.08 + 0.24:
        s.poly([(x, -0.06), (x + 0.06, -0.06), (x + 0.03, -0.14)], WHITE)
    s.blob("-.1,.08 .1,.14 .2,.12 .3,.05 .6,.02 .74,.04 .78,-.03 .7,-.07 .3,-.07 0,-.12", skin)
    s.oval(0.12, 0.13, 0.075, 0.06, skin, False)
    s.eye(0.13, 0.135, 0.035)


BODIES: dict[str, Callable[[np.random.Generator, str], Sketch]] = {
    "bird": bird,
    "bat": bat,
    "butterfly": butterfly,
    "sauropod": sauropod,
    "wolf": wolf,
    "elephant": elephant,
    "crocodile": crocodile,
}
