"""Anatomy of the pterosaurs, and the spread wings they share in outline with the bird.

Animal coordinates: x forward, y up; the unit is roughly the body length. Wings are laid out in
three dimensions (x forward, y towards the far side, z up) and seen slanting from above.
Proportions follow the published descriptions: Sinomacrops short-faced with huge eyes and short
broad wings, Dimorphodon deep-skulled with a long stiff tail, Tropeognathus with keeled jaw tips.
"""

# ruff: noqa: RUF005  (points are arrays: adding a pair shifts them)

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from prepare.habitats import BLACK, BODY, FAR, NEAR, WHITE, Colour, Sketch, mix


@dataclass(frozen=True)
class Wing:
    """A spread wing: sizes in units; slant is where the far side lies in the picture."""

    span: float  # one wing, shoulder to tip
    chord: float  # front to back at the body
    sweep: float  # how far the tip lies behind the shoulder
    skin: Colour
    bone: Colour
    lift: float  # raise of the tip over span: the phase of the beat
    slant: tuple[float, float] = (0.45, 0.55)
    bars: Colour | None = None
    tip: Colour | None = None
    feathers: bool = False


def project(points: np.ndarray, wing: Wing) -> np.ndarray:
    """N x 3 animal points onto the N x 2 picture plane: a slanting view from above."""
    axes = np.array([(0.88, -0.06), wing.slant, (0.0, 0.72)])
    return np.asarray(points, float) @ axes


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
    s.blob("0.5,.1 .66,.2 .84,.27 1,.23 1.08,.08 .8,.05", crest)
    s.blob("0.54,-.17 .68,-.29 .82,-.33 .95,-.28 .98,-.17 .8,-.14", crest)
    s.poly("0,.12 .6,.11 1.08,.09 1.08,.02 .05,-.04", back)
    s.poly("0.02,-.06 .98,-.14 .98,-.2 .05,-.17", belly)
    for k in range(6):
        x, y = 0.34 + 0.12 * k, 0.008 * k
        s.poly([(x, y), (x + 0.06, y), (x + 0.03, y - 0.12)], WHITE)
    s.blob("-.16,0 -.04,.13 .2,.11 .22,-.1 -.05,-.16", back)
    s.eye(0.07, 0.03, 0.05)


def long_tail(s: Sketch, hip: np.ndarray, end: np.ndarray, colour: Colour) -> None:
    """Stiff tail from hip to end with a small vane."""
    s.limb([hip, end], [0.055, 0.014], colour, FAR)
    s.move(*end, turn=172)
    s.blob("0,0 .12,.09 .26,0 .12,-.09", (226, 80, 44), FAR)
    s.move()


def pterosaur_flying(p: Pterosaur, rng: np.random.Generator) -> Sketch:
    """Wings spread, seen from above and in front, the head in profile."""
    s = Sketch()
    wing = Wing(
        p.span,
        p.chord,
        p.sweep,
        p.skin,
        p.back,
        rng.choice([-0.1, 0.15, 0.4]) + rng.uniform(0, 0.1),
        (rng.uniform(0.4, 0.62), rng.uniform(0.5, 0.62)),
        p.bars,
        p.tip,
    )
    spread_wing(s, wing, 1, FAR)
    hip, chest = project([(-0.42, 0, 0.0), (0.16, 0, 0.0)], wing)
    g = p.girth
    if p.tail > 0.5:
        long_tail(s, hip, hip + np.array([-0.9, 0.18]) * p.tail, p.back)
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
    spread_wing(s, wing, -1, NEAR)
    head = chest + np.array([0.75, 0.42]) * p.neck
    s.limb([chest, chest + [0.4 * p.neck, 0.12 * p.neck], head], [g * 0.9, 0.5 * g, 0.1], p.back)
    s.move(*head, turn=rng.uniform(-12, 8), scale=p.head_scale)
    p.head(s, p.back, p.belly)
    return s


def folded_wing(
    s: Sketch, p: Pterosaur, hip: np.ndarray, chest: np.ndarray, dx: float, layer: int
) -> None:
    """A wing at rest, dx in front of the shoulder: arm to the ground, finger back and up."""
    far = layer != NEAR
    colour = mix(p.back, BLACK, 0.25) if far else p.back
    skin = mix(p.skin, BLACK, 0.2) if far else p.skin
    reach = 0.55 * p.span
    wrist = np.array([0.3 + dx, 0.16])
    tip = np.array([-0.3 - 0.75 * reach + dx, 0.7 + 0.5 * reach])
    shoulder, flank = chest + [dx - 0.1, 0.0], hip + [dx, -0.06]
    s.poly([wrist, shoulder, tip, (tip + hip) / 2 + [dx, -0.06], flank], skin, layer)
    arm = [shoulder + [0.08, -0.05], (0.02 + dx, 0.4), wrist, (0.26 + dx, 0.0)]
    s.limb(arm, [0.08, 0.06, 0.05, 0.03], colour, layer)
    s.limb([wrist, (wrist + tip) / 2 + [0.02, 0.02], tip], [0.045, 0.03, 0.012], colour, layer)
    if p.bars and not far:
        for t in (0.25, 0.5, 0.75):
            m = wrist * (1 - t) + tip * t
            s.line([m + [0.1, 0.2], m + [-0.06, -0.2]], 0.06, p.bars, layer)


def pterosaur_standing(p: Pterosaur, rng: np.random.Generator) -> Sketch:
    """On all fours, wing fingers folded back and up beside the body."""
    s = Sketch()
    g, hip, chest = p.girth, np.array([-0.42, 0.42]), np.array([0.12, 0.62])
    middle = (hip + chest) / 2
    for dx, colour, layer in ((0.14, mix(p.back, BLACK, 0.25), FAR), (0, p.back, BODY)):
        path = [hip + [dx, 0], (-0.28 + dx, 0.24), (-0.46 + dx, 0.04), (-0.34 + dx, 0.02)]
        s.limb(path, [0.09, 0.06, 0.04, 0.03], colour, layer)
    folded_wing(s, p, hip, chest, 0.13, FAR)
    folded_wing(s, p, hip, chest, 0.0, NEAR)
    if p.tail > 0.5:
        long_tail(s, hip, hip + [-0.85 * p.tail, 0.02], p.back)
    s.limb([hip, middle, chest], [0.7 * g, 1.2 * g, 1.1 * g], p.back)
    belly = [hip, middle, chest + [g, 0.02], chest + [0, -1.3 * g], middle + [0, -1.4 * g]]
    s.blob(belly, p.belly, BODY, True)
    head = chest + np.array([0.35, 0.95]) * p.neck
    s.limb([chest, chest + np.array([0.3, 0.4]) * p.neck, head], [g, 0.6 * g, 0.1], p.back)
    s.move(*head, turn=rng.uniform(-14, 4), scale=p.head_scale)
    p.head(s, p.back, p.belly)
    return s


INDIVIDUALS: dict[str, Pterosaur] = {
    "pteranodon": Pterosaur(
        1.45,
        0.62,
        0.2,
        0.12,
        pteranodon_head,
        0.9,
        0.34,
        0.12,
        back=(122, 80, 50),
        belly=(216, 186, 144),
        skin=(172, 128, 84),
    ),
    "Sinomacrops bondei": Pterosaur(
        0.95,
        0.7,
        -0.04,
        0.1,
        sinomacrops_head,
        0.74,
        0.24,
        0.19,
        back=(206, 108, 42),
        belly=(250, 230, 190),
        skin=(232, 168, 104),
        bars=(104, 52, 32),
    ),
    "Dimorphodon": Pterosaur(
        1.3,
        0.6,
        0.1,
        1.0,
        dimorphodon_head,
        0.9,
        0.3,
        0.14,
        back=(44, 44, 52),
        belly=(246, 246, 242),
        skin=(216, 216, 220),
        tip=(50, 50, 58),
    ),
    "Tropeognathus": Pterosaur(
        1.75,
        0.42,
        0.3,
        0.14,
        tropeognathus_head,
        0.95,
        0.42,
        0.13,
        back=(76, 104, 146),
        belly=(246, 248, 250),
        skin=(136, 166, 200),
        tip=(52, 70, 104),
    ),
}


def pterosaur(name: str, rng: np.random.Generator, pose: str) -> Sketch:
    """One individual of a genus, flying or standing: build and colours vary a little."""
    kind = INDIVIDUALS[name]
    span, chord, head, tail = rng.uniform(0.94, 1.06, 4)
    light = rng.uniform(-0.12, 0.14)

    def tone(colour: Colour) -> Colour:
        return mix(colour, WHITE if light > 0 else BLACK, abs(light))

    one = replace(
        kind,
        span=kind.span * span,
        chord=kind.chord * chord,
        head_scale=kind.head_scale * head,
        tail=kind.tail * tail,
        back=tone(kind.back),
        skin=tone(kind.skin),
    )
    return pterosaur_flying(one, rng) if pose == "flying" else pterosaur_standing(one, rng)
