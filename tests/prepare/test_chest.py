"""The chest phantoms show what they are called, in the place where it belongs."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from prepare.chest import FINDINGS, Chest, draw_chest, sample_chest

SEEDS = range(6)
PLAIN = Chest(marker=None)
# Rows and columns, as shares of the image, that lie in the two lungs of every PA adult.
LUNGS = {-1: (slice(0.18, 0.64), slice(0.20, 0.44)), 1: (slice(0.18, 0.64), slice(0.56, 0.80))}


def pair(finding: str, seed: int, size: int = 128, **kwargs) -> tuple[np.ndarray, np.ndarray]:
    """The same patient without and with a finding, float (size, size), 0..255."""
    chest = replace(PLAIN, seed=seed, **kwargs)
    without, found = draw_chest(chest, size), draw_chest(replace(chest, findings=(finding,)), size)
    return without.astype(float), found.astype(float)


def part(image: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
    n = len(image)
    cut = [slice(int(s.start * n), int(s.stop * n)) for s in (rows, columns)]
    return image[cut[0], cut[1]]


def share_above(change: np.ndarray, grey: float) -> float:
    return float(np.mean(change > grey))


def test_same_chest_same_bytes() -> None:
    for seed in range(8):
        chest = sample_chest(seed)
        assert sample_chest(seed) == chest
        assert draw_chest(chest, 96).tobytes() == draw_chest(chest, 96).tobytes()
    assert not np.array_equal(draw_chest(Chest(seed=1), 64), draw_chest(Chest(seed=2), 64))


@pytest.mark.parametrize("size", [64, 65, 100, 256, 300])
def test_any_size_from_64(size: int) -> None:
    image = draw_chest(Chest(seed=3), size)
    assert image.shape == (size, size)
    assert image.dtype == np.uint8
    assert image.std() > 30


@pytest.mark.parametrize(
    ("change", "size", "message"),
    [
        ({}, 63, "at least 64"),
        ({"findings": ("Hernia",)}, 64, "Hernia"),
        ({"view": "LL"}, 64, "LL"),
        ({"sex": "X"}, 64, "sex"),
        ({"marker": "Q"}, 64, "marker"),
        ({"border": "grey"}, 64, "border"),
        ({"seed": -1}, 64, "seed"),
    ],
)
def test_refuses_what_it_cannot_draw(change: dict, size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_chest(Chest(**change), size)


@pytest.mark.parametrize("seed", range(8))
def test_small_and_large_show_the_same(seed: int) -> None:
    chest = sample_chest(seed)
    small, large = draw_chest(chest, 64), draw_chest(chest, 256)
    shrunk = np.asarray(Image.fromarray(large).resize((64, 64), Image.Resampling.LANCZOS))
    assert np.corrcoef(small.ravel(), shrunk.ravel())[0, 1] > 0.95


@pytest.mark.parametrize("finding", FINDINGS)
def test_every_finding_is_visible_and_leaves_the_rest_alone(finding: str) -> None:
    for seed in SEEDS:
        without, found = pair(finding, seed, size=64)
        moved = np.abs(found - without) > 20
        assert moved.sum() >= 6, (finding, seed)
        assert moved.mean() < 0.30, (finding, seed)
        if finding != "Atelectasis":  # which pulls the trachea with it
            assert not moved[:2].any(), "the top edge, above the apices, stays"


def heart_share(image: np.ndarray) -> float:
    """Widest run of heart-bright pixels around the midline, as a share of the width."""
    n = len(image)
    rows = image[int(0.45 * n) : int(0.62 * n)]
    lung = np.percentile(part(image, *LUNGS[-1]), 20)
    bright = rows > (lung + rows[:, n // 2 - 3 : n // 2 + 3].mean()) / 2
    return float(bright[:, int(0.15 * n) : int(0.85 * n)].mean(axis=1).max())


def test_cardiomegaly_widens_the_heart() -> None:
    for seed in SEEDS:
        without, found = pair("Cardiomegaly", seed)
        assert heart_share(found) > heart_share(without) + 0.05
        assert share_above(found - without, 25) > 0.015


def changed_side(change: np.ndarray) -> int:
    n = len(change)
    return -1 if np.abs(change[:, : n // 2]).sum() > np.abs(change[:, n // 2 :]).sum() else 1


def test_effusion_whitens_the_base_of_one_lung() -> None:
    sides = set()
    for seed in range(10):
        without, found = pair("Effusion", seed)
        change = found - without
        side = changed_side(change)
        sides.add(side)
        columns = LUNGS[side][1]
        assert part(change, slice(0.58, 0.72), columns).mean() > 15
        assert abs(part(change, slice(0.15, 0.30), columns).mean()) < 5
        assert abs(part(change, *LUNGS[-side]).mean()) < 3
    assert sides == {-1, 1}


def test_pneumothorax_darkens_a_strip_along_the_wall() -> None:
    for seed in SEEDS:
        without, found = pair("Pneumothorax", seed)
        change = found - without
        side = changed_side(change)
        lung = part(change, slice(0.15, 0.75), LUNGS[side][1])
        assert share_above(-lung, 20) > 0.12
        assert abs(part(change, *LUNGS[-side]).mean()) < 3


def bright_area(finding: str, seed: int) -> float:
    without, found = pair(finding, seed, size=256)
    return share_above(found - without, 25)


def test_a_mass_is_large_and_a_nodule_small() -> None:
    for seed in SEEDS:
        nodule, mass = bright_area("Nodule", seed), bright_area("Mass", seed)
        # Discs of 5-7 % and 14-20 % of the width cover 0.2-0.4 % and 1.5-3 % of the image.
        assert 0.0012 < nodule < 0.0048
        assert 0.010 < mass < 0.040


def test_consolidation_is_bright_and_ragged() -> None:
    for seed in SEEDS:
        without, found = pair("Consolidation", seed)
        change = part(found - without, slice(0.1, 0.85), LUNGS[changed_side(found - without)][1])
        assert share_above(change, 15) > 0.10
        assert change[change > 8].std() > 8, "fluffy, not a flat plate"


def test_atelectasis_raises_the_diaphragm_and_pulls_the_heart() -> None:
    for seed in SEEDS:
        without, found = pair("Atelectasis", seed)
        change = found - without
        rows = slice(0.60, 0.74)
        base = {side: part(change, rows, LUNGS[side][1]).mean() for side in (-1, 1)}
        side = max(base, key=base.get)
        assert base[side] > 10, "the dome rises into the lung"
        assert base[-side] < base[side] - 8
        near = slice(0.36, 0.46) if side > 0 else slice(0.60, 0.70)
        assert part(change, slice(0.45, 0.6), near).mean() < 5, "the heart leaves the other side"


def test_two_findings_take_different_sides() -> None:
    for seed in SEEDS:
        _, mass = pair("Mass", seed)
        both = draw_chest(replace(PLAIN, seed=seed, findings=("Effusion", "Mass")), 128)
        without, effusion = pair("Effusion", seed)
        only_mass = np.where(np.abs(effusion - without) > 8, 0, both - without)
        assert changed_side(only_mass) == -changed_side(effusion - without)
        assert mass.shape == both.shape


@pytest.mark.parametrize(("marker", "columns"), [("L", (0.80, 0.96)), ("R", (0.05, 0.20))])
def test_marker_stands_on_the_patients_side(marker: str, columns: tuple[float, float]) -> None:
    for size in (64, 256):
        bare = draw_chest(replace(PLAIN, seed=4), size).astype(float)
        marked = draw_chest(replace(PLAIN, seed=4, marker=marker), size).astype(float)
        lit = np.argwhere(marked - bare > 60) / size
        assert len(lit) / size**2 > 0.001
        assert columns[0] <= lit[:, 1].min() <= lit[:, 1].max() <= columns[1]
        assert lit[:, 0].max() < 0.25


def test_borders_frame_the_film() -> None:
    for seed in SEEDS:
        for border, low, high in (("black", 0, 12), ("white", 235, 255)):
            image = draw_chest(replace(PLAIN, seed=seed, border=border), 64)
            rim = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
            assert low <= rim.min() <= rim.max() <= high
        bare = draw_chest(replace(PLAIN, seed=seed), 64)
        assert 20 < np.median(bare[-1]) < 245


def test_view_sex_and_age_change_the_picture() -> None:
    chest = replace(PLAIN, seed=5)
    adult = draw_chest(chest, 128).astype(float)
    for change in ({"view": "AP"}, {"sex": "F"}, {"age": 7}, {"age": 90}):
        other = draw_chest(replace(chest, **change), 128).astype(float)
        assert np.abs(other - adult).mean() > 4, change
    child = draw_chest(replace(chest, age=7), 128)
    assert (child > 110).sum() < (adult > 110).sum(), "children are smaller"


def test_sampled_patients_cover_everything() -> None:
    chests = [sample_chest(seed) for seed in range(400)]
    names = Counter(name for chest in chests for name in chest.findings)
    assert set(names) == set(FINDINGS)
    assert min(names.values()) >= 15
    counts = Counter(len(chest.findings) for chest in chests)
    assert set(counts) == {0, 1, 2}
    assert 0.27 < counts[0] / 400 < 0.43
    assert 0.09 < counts[2] / 400 < 0.21
    assert all(5 <= chest.age <= 95 for chest in chests)
    assert {c.view for c in chests} == {"PA", "AP"}
    assert {c.sex for c in chests} == {"M", "F"}
    assert {c.marker for c in chests} == {"L", "R", None}
    assert Counter(c.border for c in chests)["none"] > 240
