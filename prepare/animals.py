"""Anatomy of the flying animals, and the table that draws any animal facing right.

Animal coordinates: x forward, y up; the unit is roughly the body length. Wings are laid out in
three dimensions (x forward, y towards the far side, z up) and seen from above and in front.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from prepare.habitats import BLACK, BODY, FAR, NEAR, WHITE, Colour, Sketch, mix, outline, smooth


@dataclass(frozen=True)
class Wing:
    """A spread wing: sizes in units, view angles in degrees."""

    span: float  # one wing, shoulder to tip
    chord: float  # front to back at the body
    sweep: float  # how far the tip lies behind the shoulder
    skin: Colour
    bone: Colour
    lift: float  # raise of the tip over span: the phase of the beat
    azimuth: float = 44.0
    elevation: float = 34.0
    bars: Colour | None = None
    tip: Colour | None = None
    feathers: bool = False


def project(points: np.ndarray, wing: Wing) -> np.ndarray:
    """N x 3 animal points onto the N x 2 picture plane."""
    a, e = np.radians(wing.azimuth), np.radians(wing.elevation)
    x, y, z = np.asarray(points, float).T
    depth = y * np.cos(a) - x * np.sin(a)
    return np.stack([x * np.cos(a) + y * np.sin(a), z * np.cos(e) + depth * np.sin(e)], axis=1)


def wing_edges(wing: Wing, side: int, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Leading and trailing edge points (len(at) x 2) at span fractions at, side +1 is far."""
    front = np.interp(at, [0, 0.18, 0.42, 0.7, 1], [0.1, 0.06, 0.2, 0.08, -wing.sweep])
    profile = [1, 0.9, 0.8, 0.7, 0.5, 0.05] if wing.feathers else [1.1, 0.9, 0.66, 0.5, 0.34, 0]
    back = front - wing.chord * np.interp(at, [0, 0.2, 0.4, 0.6, 0.8, 1], profile)
    y = side * (0.05 + wing.span * at)
    z = wing.lift * wing.span * (1.25 * at - 0.25 * at**3) + 0.04
    lead = project(np.stack([front, y, z], axis=1), wing)
    return lead, project(np.stack([back, y, z - 0.02], axis=1), wing)


def spread_wing(s: Sketch, wing: Wing, side: int, layer: int) -> None:
    """Draw one wing: skin or feathers, arm and finger bones, bars, a dark tip."""
    at = np.linspace(0, 1, 25)
    lead, trail = wing_edges(wing, side, at)
    skin = wing.skin if side < 0 else mix(wing.skin, BLACK, 0.14)
    bone = wing.bone if side < 0 else mix(wing.bone, BLACK, 0.14)
    if wing.feathers:  # notch the back edge: fingers at the hand, scallops on the arm
        notch = np.where(np.arange(25) % 3 == 2, 1.0, 0.0) * np.interp(
            at, [0, 0.4, 1], [0.1, 0.2, 0.5]
        )
        trail = trail + (lead - trail) * notch[:, None]
    s.poly(np.concatenate([lead, trail[::-1]]), skin, layer)
    if wing.tip:
        s.poly(np.concatenate([lead[15:], trail[15:][::-1]]), wing.tip, layer, True)
    if wing.bars:
        for k in (3, 8, 13, 18):
            s.poly([lead[k], lead[k + 2], trail[k + 2], trail[k]], wing.bars, layer, True)
    if wing.feathers:
        inner = lead + (trail - lead) * 0.42
        s.poly(np.concatenate([lead[:19], inner[:19][::-1]]), bone, layer, True)
        for k in range(2, 25, 3):
            s.line([inner[k], trail[k]], 0.014, mix(skin, BLACK, 0.4), layer)
        return
    for k in range(4, 24, 3):  # stiffening fibres of the membrane
        root = lead[max(0, min(k - 2, 22))]
        s.line([root, trail[k]], 0.012, mix(skin, bone, 0.55), layer)
    s.limb(lead[[0, 4, 10]], [0.05, 0.035, 0.032], bone, layer)
    s.limb(lead[[10, 16, 24]], [0.03, 0.02, 0.008], bone, layer)
    for k in (0.03, 0.055):
        s.line([lead[10], lead[10] + [k, 0.06 - k]], 0.018, bone, layer, False)


# Pterosaurs


@dataclass(frozen=True)
class Pterosaur:
    """What sets one flying reptile apart."""

    span: float
    chord: float
    sweep: float
    tail: float  # length; long tails are stiff and carry a vane
    head: Callable[[Sketch, Colour, Colour], None]
    head_scale: float
    neck: float
    girth: float
    back: Colour
    belly: Colour
    skin: Colour
    bars: Colour | None = None
    tip: Colour | None = None


def pteranodon_head(s: Sketch, back: Colour, belly: Colour) -> None:
    """Long toothless beak, long crest backwards."""
    s.blob([(-0.1, 0.1), (-0.75, 0.36), (-0.72, 0.28), (-0.12, -0.06)], (196, 70, 48))
    s.poly([(0.02, 0.12), (0.95, -0.1), (0.2, -0.05)], (226, 188, 120))
    s.poly([(0.02, -0.05), (0.82, -0.17), (0.1, -0.15)], (206, 164, 100))
    s.blob([(-0.18, 0.02), (-0.02, 0.14), (0.2, 0.08), (0.22, -0.08), (0, -0.14)], back)
    s.eye(0.05, 0.03, 0.045)


def sinomacrops_head(s: Sketch, back: Colour, belly: Colour) -> None:
    """Short broad frog's face, wide mouth, huge eyes, fuzz."""
    a = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    r = 1 + 0.07 * (np.arange(48) % 2)
    s.poly(np.stack([0.34 * r * np.cos(a), 0.27 * r * np.sin(a)], axis=1), back)
    s.blob(
        [(-0.24, -0.06), (0, -0.02), (0.26, -0.05), (0.22, -0.2), (0, -0.27), (-0.2, -0.2)], belly
    )
    s.line([(-0.26, -0.05), (-0.1, -0.12), (0.08, -0.13), (0.28, -0.04)], 0.035, (96, 36, 26))
    for x in (-0.15, 0.17):
        s.oval(x, 0.12, 0.15, 0.15, mix(back, BLACK, 0.35), False)
        s.eye(x, 0.12, 0.115, (250, 206, 60))


def dimorphodon_head(s: Sketch, back: Colour, belly: Colour) -> None:
    """Deep puffin-like head, two large openings, fangs in front."""
    beak, band = (226, 62, 40), (250, 196, 50)
    s.poly([(0.12, -0.1), (0.34, -0.22), (0.62, -0.25), (0.66, -0.18), (0.3, -0.08)], band)
    for k in range(4):
        x = 0.42 + 0.075 * k
        s.poly([(x, -0.06), (x + 0.045, -0.06), (x + 0.03, -0.2)], WHITE, BODY)
    s.blob(
        [
            (-0.18, 0.05),
            (-0.05, 0.26),
            (0.2, 0.32),
            (0.5, 0.22),
            (0.72, -0.07),
            (0.45, -0.08),
            (0.1, -0.13),
            (-0.14, -0.1),
        ],
        back,
    )
    s.poly([(0.2, 0.34), (0.5, 0.25), (0.78, -0.1), (0.22, -0.12)], beak, BODY, True)
    s.poly([(0.2, 0.36), (0.3, 0.36), (0.3, -0.14), (0.2, -0.14)], band, BODY, True)
    s.oval(0.4, 0.08, 0.08, 0.09, mix(beak, BLACK, 0.55))
    s.oval(0.56, 0.04, 0.04, 0.05, mix(beak, BLACK, 0.5))
    s.oval(0.05, 0.1, 0.12, 0.11, WHITE)
    s.eye(0.06, 0.11, 0.055)


def tropeognathus_head(s: Sketch, back: Colour, belly: Colour) -> None:
    """Long toothed jaws, a round keel on the tip of either."""
    crest = (250, 206, 44)
    s.blob([(0.55, 0.06), (0.7, 0.26), (0.9, 0.28), (1.05, 0.1), (1.06, 0.0), (0.6, 0.0)], crest)
    s.blob(
        [(0.58, -0.1), (0.72, -0.28), (0.88, -0.3), (1.0, -0.14), (0.98, -0.06), (0.6, -0.06)],
        crest,
    )
    s.poly([(0, 0.12), (1.06, 0.06), (1.06, -0.02), (0.05, -0.05)], back)
    s.poly([(0.05, -0.07), (0.98, -0.1), (0.96, -0.15), (0.05, -0.16)], belly)
    for k in range(7):
        x = 0.3 + 0.11 * k
        s.poly([(x, -0.01), (x + 0.05, -0.01), (x + 0.03, -0.11)], WHITE)
    s.blob([(-0.16, 0.0), (-0.04, 0.13), (0.2, 0.1), (0.22, -0.12), (-0.05, -0.15)], back)
    s.eye(0.07, 0.03, 0.045)


def pterosaur_flying(p: Pterosaur, rng: np.random.Generator) -> Sketch:
    """Wings spread, seen from above and in front, the head in profile."""
    s = Sketch()
    wing = Wing(
        p.span,
        p.chord,
        p.sweep,
        p.skin,
        p.back,
        rng.choice([0.12, 0.3, 0.5]) + rng.uniform(0, 0.1),
        rng.uniform(38, 52),
        rng.uniform(28, 40),
        p.bars,
        p.tip,
    )
    spread_wing(s, wing, 1, FAR)
    hip, chest = project([(-0.42, 0, 0.0), (0.16, 0, 0.0)], wing)
    g = p.girth
    if p.tail > 0.5:
        end = hip + np.array([-0.9, 0.18]) * p.tail
        s.limb([hip, end], [0.05, 0.014], p.back, FAR)
        s.move(*end, turn=168)
        s.blob([(0, 0), (0.12, 0.09), (0.26, 0), (0.12, -0.09)], (226, 80, 44), FAR)
        s.move()
    else:
        s.limb([hip, hip + np.array([-0.8, 0.25]) * p.tail], [0.07, 0.02], p.back, FAR)
    for dy in (0.07, -0.05):
        s.limb([hip, hip + [-0.16, dy], hip + [-0.3, dy - 0.05]], [0.05, 0.03, 0.018], p.back, FAR)
    s.limb([hip, (hip + chest) / 2, chest], [0.6 * g, 1.1 * g, g], p.back)
    s.blob(
        [
            hip + [0.03, -0.03],
            chest + [-0.1, -0.25 * g],
            chest + [g, -0.1],
            chest + [0.3 * g, -1.1 * g],
            (hip + chest) / 2 + [0, -1.1 * g],
        ],
        p.belly,
        BODY,
        True,
    )
    spread_wing(s, wing, -1, NEAR if wing.lift < 0.3 else FAR)
    head = chest + np.array([0.75, 0.42]) * p.neck
    s.limb([chest, chest + [0.4 * p.neck, 0.12 * p.neck], head], [g * 0.9, 0.5 * g, 0.1], p.back)
    s.move(*head, turn=rng.uniform(-12, 8), scale=p.head_scale)
    p.head(s, p.back, p.belly)
    return s


def pterosaur_standing(p: Pterosaur, rng: np.random.Generator) -> Sketch:
    """On all fours, wing fingers folded back and up beside the body."""
    s = Sketch()
    g, h = p.girth, 0.62
    hip, chest = np.array([-0.42, 0.42]), np.array([0.12, h])
    far = mix(p.back, BLACK, 0.25)
    for dx, colour, layer in ((0.14, far, FAR), (0, p.back, BODY)):
        s.limb(
            [hip + [dx, 0], (-0.28 + dx, 0.24), (-0.46 + dx, 0.04), (-0.34 + dx, 0.02)],
            [0.09, 0.06, 0.04, 0.03],
            colour,
            layer,
        )
    reach = 0.55 * p.span
    for dx, colour, layer in ((0.13, far, FAR), (0, p.back, NEAR)):
        elbow, wrist = (0.02 + dx, 0.4), np.array([0.3 + dx, 0.16])
        skin = p.skin if layer == NEAR else mix(p.skin, BLACK, 0.2)
        tip = np.array([-0.35 - reach + dx, 0.62 + 0.3 * reach])
        s.blob(
            [wrist + [0.02, 0.02], chest + [dx - 0.05, -0.02], tip, hip + [dx - 0.05, -0.08]],
            skin,
            layer,
        )
        s.limb(
            [chest + [dx - 0.02, -0.05], elbow, wrist, (0.26 + dx, 0.0)],
            [0.08, 0.06, 0.05, 0.03],
            colour,
            layer,
        )
        s.limb([wrist, (wrist + tip) / 2 + [0.02, 0.02], tip], [0.045, 0.03, 0.012], colour, layer)
        if p.bars and layer == NEAR:
            for t in (0.25, 0.5, 0.75):
                m = wrist * (1 - t) + tip * t
                s.line([m + [0.1, 0.2], m + [-0.06, -0.2]], 0.06, p.bars, layer)
    if p.tail > 0.5:
        s.limb([hip, hip + [-0.85 * p.tail, 0.02]], [0.06, 0.015], p.back, FAR)
        s.move(*(hip + [-0.85 * p.tail, 0.02]), turn=175)
        s.blob([(0, 0), (0.12, 0.09), (0.26, 0), (0.12, -0.09)], (226, 80, 44), FAR)
        s.move()
    s.limb([hip, (hip + chest) / 2, chest], [0.7 * g, 1.2 * g, 1.1 * g], p.back)
    s.blob(
        [
            hip,
            (hip + chest) / 2,
            chest + [g, 0.02],
            chest + [0, -1.3 * g],
            (hip + chest) / 2 + [0, -1.4 * g],
        ],
        p.belly,
        BODY,
        True,
    )
    head = chest + np.array([0.35, 0.95]) * p.neck
    s.limb([chest, chest + np.array([0.3, 0.4]) * p.neck, head], [g, 0.6 * g, 0.1], p.back)
    s.move(*head, turn=rng.uniform(-14, 4), scale=p.head_scale)
    p.head(s, p.back, p.belly)
    return s


def pterosaur(name: str, rng: np.random.Generator) -> Pterosaur:
    """One individual of a genus: build and colours vary a little."""
    v = rng.uniform(0.94, 1.06, 4)
    light = rng.uniform(-0.1, 0.12)

    def tone(colour: Colour) -> Colour:
        return mix(colour, WHITE if light > 0 else BLACK, abs(light))

    if name == "pteranodon":
        brown = mix((136, 92, 56), (112, 70, 44), rng.random())
        return Pterosaur(
            1.45 * v[0],
            0.46 * v[1],
            0.2,
            0.12,
            pteranodon_head,
            0.85 * v[2],
            0.34,
            0.12,
            tone(brown),
            tone((216, 186, 144)),
            tone(mix(brown, (206, 160, 110), 0.55)),
        )
    if name == "Sinomacrops bondei":
        return Pterosaur(
            0.78 * v[0],
            0.62 * v[1],
            0.02,
            0.1,
            sinomacrops_head,
            0.92 * v[2],
            0.2,
            0.19,
            tone((206, 108, 42)),
            tone((250, 230, 190)),
            tone((232, 168, 104)),
            tone((104, 52, 32)),
        )
    if name == "Dimorphodon":
        return Pterosaur(
            0.98 * v[0],
            0.42 * v[1],
            0.1,
            1.0 * v[3],
            dimorphodon_head,
            0.92 * v[2],
            0.3,
            0.14,
            tone((44, 44, 52)),
            tone((246, 246, 242)),
            tone((118, 118, 126)),
            None,
            tone((240, 240, 236)),
        )
    return Pterosaur(
        1.9 * v[0],
        0.3 * v[1],
        0.34,
        0.14,
        tropeognathus_head,
        0.86 * v[2],
        0.42,
        0.13,
        tone((76, 104, 146)),
        tone((246, 248, 250)),
        tone((136, 166, 200)),
        None,
        tone((52, 70, 104)),
    )


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
            rng.choice([0.15, 0.45, 0.75]),
            rng.uniform(30, 46),
            rng.uniform(28, 40),
            feathers=True,
        )
        spread_wing(s, wing, 1, FAR)
        s.poly("-.3,.1 -.8,.28 -.86,.18 -.9,.1 -.86,.02 -.3,-.04", dark, FAR)
        for y in (0.06, 0.12, 0.18):
            s.line([(-0.35, 0.04), (-0.84, y)], 0.015, body, FAR)
        s.blob("-.5,.06 -.2,.16 .2,.16 .42,.06 .34,-.14 0,-.2 -.3,-.08", body)
        s.blob("-.2,-.08 .2,-.02 .44,.08 .4,-.12 .05,-.22", breast, BODY, True)
        spread_wing(s, wing, -1, NEAR if wing.lift < 0.3 else FAR)
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
