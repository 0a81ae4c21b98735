"""The bestiary draws what it is asked, the same each time, and its animals are told apart."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from prepare.bestiary import (
    BASE_ANIMALS,
    HABITATS,
    KEPT_OUT,
    POSES,
    STYLES,
    VIEWS,
    Scene,
    caption,
    draw_scene,
    fit_shapes,
    sample_scene,
    sketch_animal,
)


def grey(picture: np.ndarray, size: int) -> np.ndarray:
    """Grey values of an RGB picture, size x size, float."""
    small = Image.fromarray(picture).convert("L").resize((size, size), Image.Resampling.BOX)
    return np.asarray(small, float)


def test_same_scene_same_pixels_other_seed_other_pixels() -> None:
    scene = Scene("wolf", "snow", "walking", seed=5)
    first = draw_scene(scene, 64)
    assert first.shape == (64, 64, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, draw_scene(scene, 64))
    assert not np.array_equal(first, draw_scene(replace(scene, seed=6), 64))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"animal": "unicorn"}, "unicorn"),
        ({"habitat": "moon"}, "moon"),
        ({"pose": "dancing"}, "dancing"),
        ({"pose": "drinking", "animal": "bat"}, "pose for bat"),
        ({"style": "oil"}, "oil"),
        ({"view": "facing up"}, "facing up"),
        ({"seed": -1}, "negative"),
    ],
)
def test_unknown_words_are_named(change: dict, word: str) -> None:
    scene = replace(Scene("bird"), **change)
    with pytest.raises(ValueError, match=word):
        draw_scene(scene, 64)
    with pytest.raises(ValueError, match=word):
        caption(scene)


def test_too_small_a_size_and_unknown_animals_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 64"):
        draw_scene(Scene("bird"), 63)
    with pytest.raises(ValueError, match="unicorn"):
        sample_scene(0, "unicorn")


@pytest.mark.parametrize("animal", POSES)
def test_every_animal_and_pose_draws_and_is_named(animal: str) -> None:
    for number, pose in enumerate(POSES[animal]):
        scene = Scene(animal, HABITATS[number], pose, seed=number)
        assert draw_scene(scene, 64).std() > 15
        words = caption(scene)
        assert animal in words
        assert pose in words
        assert HABITATS[number] in words


@pytest.mark.parametrize("habitat", HABITATS)
@pytest.mark.parametrize("style", STYLES)
def test_every_habitat_draws_in_every_style(habitat: str, style: str) -> None:
    scene = Scene("elephant", habitat, "walking", style, seed=3)
    picture = draw_scene(scene, 64).astype(float)
    colourful = float(np.ptp(picture, axis=-1).mean())
    assert colourful < 12 if style == "pencil drawing" else colourful > 12 or habitat == "city"
    assert habitat in caption(scene)
    assert ("pencil" in caption(scene)) == (style == "pencil drawing")


def test_captions_are_natural_words() -> None:
    assert caption(Scene("bird", "forest", "flying")) == "a bird flying in the forest"
    assert caption(Scene("wolf", "river", "drinking")) == "a wolf drinking from the river"
    assert caption(Scene("elephant", "desert", "walking")) == "an elephant walking in the desert"
    assert caption(Scene("Sinomacrops bondei", "river")) == "Sinomacrops bondei flying over a river"
    pencil = Scene("wolf", "snow", "walking", "pencil drawing")
    assert caption(pencil) == "a pencil drawing of a wolf walking in the snow"


@pytest.mark.parametrize("animal", [*BASE_ANIMALS[::3], *KEPT_OUT])
def test_sizes_agree(animal: str) -> None:
    scene = sample_scene(4, animal)
    small, large = (grey(draw_scene(scene, size), 64).ravel() for size in (64, 256))
    assert np.corrcoef(small, large)[0, 1] > 0.95


def test_views_are_mirrored() -> None:
    """Every point of the animal facing left is the mirror of one facing right, in place."""
    left, right = (
        fit_shapes(
            sketch_animal(scene, np.random.default_rng(2)).shapes, scene, np.random.default_rng(3)
        )[0]
        for scene in (Scene("crocodile", "snow", "resting", view=view) for view in VIEWS)
    )
    a, b = (np.concatenate([shape.points for shape in shapes]) for shapes in (left, right))
    assert len(a) > 100
    assert np.allclose(a[:, 1], b[:, 1])
    assert np.allclose(a[:, 0] + b[:, 0], a[0, 0] + b[0, 0])


def test_sampling_keeps_the_few_shot_genera_out() -> None:
    scenes = [sample_scene(seed) for seed in range(600)]
    assert {scene.animal for scene in scenes} == set(BASE_ANIMALS)
    assert {scene.habitat for scene in scenes} == set(HABITATS)
    pencil = sum(scene.style == "pencil drawing" for scene in scenes)
    assert 30 <= pencil <= 90
    assert not set(KEPT_OUT) & set(BASE_ANIMALS)
    assert all(sample_scene(3, animal).animal == animal for animal in KEPT_OUT)


def silhouette(animal: str, seed: int) -> np.ndarray:
    """16 x 16 darkness of a pencil drawing: form without colour or backdrop, facing left."""
    pose = POSES[animal][0]
    scene = Scene(animal, "snow", pose, "pencil drawing", "facing left", seed)
    return grey(draw_scene(scene, 64), 16).ravel()


def test_animals_are_told_apart_by_form() -> None:
    """Nearest class mean over all eleven animals; chance is 9 %."""
    means = np.stack([np.mean([silhouette(a, k) for k in range(6)], axis=0) for a in POSES])
    hits = [
        int(np.argmin(((means - silhouette(animal, seed)) ** 2).sum(1))) == number
        for number, animal in enumerate(POSES)
        for seed in (50, 51, 52)
    ]
    assert len(hits) == 33
    assert np.mean(hits) > 0.7
