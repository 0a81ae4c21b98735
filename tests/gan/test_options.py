"""Every opt-in: what it computes, by hand, and that the real trainer takes it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from core.errors import UserError
from core.families import FAMILIES, load_sampler
from core.files import read_json, write_jsonl
from core.images import to_array
from core.runs import checkpoints, read_metrics
from core.seeds import image_noise
from core.sets import open_set
from gan import health
from gan.augment import ADAPT_IMAGES, NUMBERS, Augmentation, augment, box, shift
from gan.batches import Batches, draw_numbers, read_classes, to_images
from gan.growing import GrowingCritic, GrowingGenerator, level_at, shrink
from gan.networks import Critic
from gan.settings import WganGpSettings
from gan.steps import critic_step, make_players
from gan.train_wgan_gp import train
from gan.weights import keep_if_best, make_networks


@pytest.fixture
def tiny(make_folder: Callable[..., Path], tmp_path: Path) -> WganGpSettings:
    return WganGpSettings(
        data=str(make_folder(count=5, size=32)),
        run_dir=str(tmp_path / "run"),
        steps=2,
        size=32,
        width=2,
        z_dim=8,
        batch=4,
        critic_steps=2,
        checkpoint_every=2,
        preview_every=2,
        preview_count=4,
    )


def prepared(folder: Path, views: list[str]) -> Path:
    """A prepared set of seeded noise, one image per view, the same images as its test split."""
    for split in ("train", "test"):
        (folder / split).mkdir(parents=True)
        rows = [{"file_name": f"{n}.png", "text": "", "view": v} for n, v in enumerate(views)]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / split / "metadata.jsonl").write_text(lines)
        for number in range(len(views)):
            pixels = torch.rand(32, 32, generator=torch.Generator().manual_seed(number)) * 255
            Image.fromarray(pixels.byte().numpy()).save(folder / split / f"{number}.png")
    (folder / "set.json").write_text(json.dumps({"mode": "L", "size": 32}))
    return folder


# -- differentiable augmentation


def test_shift_moves_whole_pixels_and_lets_zeros_in() -> None:
    images = torch.arange(16.0).view(1, 1, 4, 4)
    moved = shift(images, torch.tensor([[0.25, 0.0]]))  # what stood one pixel to the right
    assert moved[0, 0, :, :3].tolist() == images[0, 0, :, 1:].tolist()
    assert moved[0, 0, :, 3].tolist() == [0, 0, 0, 0]


def test_a_box_covers_a_quarter() -> None:
    inside = box(torch.zeros(1, 3, 8, 8), torch.tensor([[0.5, 0.25]]))
    assert inside.shape == (1, 1, 8, 8)
    assert inside.sum() == 16
    assert inside[0, 0, 2:6, 0:4].min() == 1


def test_augmentation_at_chance_0_and_1() -> None:
    images, numbers = torch.rand(3, 1, 16, 16), torch.rand(3, NUMBERS)
    assert torch.equal(augment(images, numbers, 0.0), images)
    assert (augment(images, numbers, 1.0) - images).abs().mean() > 0.05
    middle = torch.full((3, NUMBERS), 0.5)  # no change of light, no shift; a box in the centre
    changed = augment(images, middle, 1.0)
    assert torch.allclose(changed[..., :4, :], images[..., :4, :], atol=1e-6)
    assert changed[..., 5:11, 5:11].abs().max() == 0


def test_augmentation_lets_gradients_through() -> None:
    images = torch.rand(2, 1, 16, 16, requires_grad=True)
    augment(images, torch.rand(2, NUMBERS), 1.0).sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


def test_the_probability_follows_the_critic() -> None:
    adaptive = Augmentation(0.5, 0.6, torch.device("cpu"))
    adaptive.adapt(torch.tensor(0.9), images=ADAPT_IMAGES // 10)  # overfits: more
    assert adaptive.probability.item() == pytest.approx(0.6)
    adaptive.adapt(torch.tensor(0.1), images=ADAPT_IMAGES // 5)
    assert adaptive.probability.item() == pytest.approx(0.4)
    fixed = Augmentation(0.5, None, torch.device("cpu"))
    fixed.adapt(torch.tensor(0.9), images=ADAPT_IMAGES)
    assert fixed.probability.item() == 0.5


# -- growing


def test_levels_blend_over_half_their_steps() -> None:
    levels = [level_at(step, 100, 32) for step in (0, 99, 100, 125, 150, 199, 200, 225, 300, 999)]
    assert levels == [0, 0, 0, 0.5, 1, 1, 1, 1.5, 2, 2]


@pytest.mark.parametrize(("level", "side"), [(0.0, 8), (0.25, 16), (1.0, 16), (1.5, 32), (2.0, 32)])
def test_players_and_real_images_agree_on_the_side(level: float, side: int) -> None:
    generator = GrowingGenerator(z_dim=5, size=32, channels=3, width=2, level=level)
    critic = GrowingCritic(size=32, channels=3, width=2, level=level)
    images = generator(torch.randn(2, 5))
    assert images.shape == shrink(torch.rand(2, 3, 32, 32), level).shape == (2, 3, side, side)
    assert critic(images).shape == (2,)


def test_a_new_level_begins_as_the_old_one() -> None:
    """Just above a whole level, image and scores are those of before."""
    torch.manual_seed(0)
    generator, critic = GrowingGenerator(size=32, width=4).eval(), GrowingCritic(size=32, width=4)
    noise, real = torch.randn(2, 64), torch.rand(2, 1, 32, 32)
    seen = []
    for level in (1.0, 1.0 + 1e-6):
        generator.level = critic.level = level
        images = generator(noise)
        seen.append((images[..., :: images.shape[-1] // 16, :: images.shape[-1] // 16], images))
        seen[-1] += (critic(shrink(real, level)),)
    assert torch.allclose(seen[0][0], seen[1][0], atol=1e-4)
    assert torch.allclose(seen[0][2], seen[1][2], atol=1e-3)


# -- classes


def test_classes_are_read_from_a_column(tmp_path: Path) -> None:
    images = open_set(prepared(tmp_path / "set", ["PA", "AP", "PA", "PA"]))
    assert read_classes(images, "view") == (["AP", "PA"], [1, 0, 1, 1])
    assert read_classes(images, None) == ([], None)
    with pytest.raises(UserError, match=r"no 'sex'.*view"):
        read_classes(images, "sex")


def test_the_projection_critic_adds_the_product_with_the_class() -> None:
    torch.manual_seed(0)
    critic, images = Critic(size=32, width=2, classes=3), torch.rand(2, 1, 32, 32)
    labels = torch.tensor([2, 0])
    plain = critic(images, labels)
    assert torch.equal(plain, critic(images, labels.flip(0)))  # at first the class says nothing
    torch.nn.init.ones_(critic.embed.weight)
    features = critic.layers[:-1](images).sum((1, 2, 3))
    assert torch.allclose(critic(images, labels), plain + features, atol=1e-4)


def test_a_conditional_run_draws_the_class_asked_for(tiny: WganGpSettings, tmp_path: Path) -> None:
    folder = prepared(tmp_path / "set", ["PA", "AP", "PA", "PA", "AP"])
    train(replace(tiny, data=str(folder), condition="view"))
    sampler = load_sampler(Path(tiny.run_dir), "cpu")
    assert sampler.options["label"] == ""
    assert all(f"--{name} " in FAMILIES["wgan-gp"].options for name in sampler.options)
    pa, ap = (to_array(sampler([4], [""], label=name)) for name in ("PA", "AP"))
    assert (pa != ap).any()
    assert (to_array(sampler([4], [""])) == ap).all()  # seed 4: class 0 of AP, PA
    vector = image_noise([4], (sampler.latent_dim,))
    drawn = (sampler.from_latents(vector, "PA").detach() * 255).round()
    assert (drawn[0, 0].byte().numpy() == pa[0]).all()
    with pytest.raises(UserError, match="AP, PA"):
        sampler([0], [""], label="lateral")
    with pytest.raises(UserError, match="truncation"):
        sampler([0], [""], truncation="low")


# -- the course's networks, and the objective


def test_dcgan_at_64_has_the_papers_channels() -> None:
    settings = WganGpSettings(
        data="", run_dir="", networks="dcgan", penalty=0, size=64, channels=3, width=32, z_dim=100
    )
    generator, critic = make_networks(settings)
    up = [m.out_channels for m in generator.modules() if isinstance(m, torch.nn.ConvTranspose2d)]
    down = [m.out_channels for m in critic.modules() if isinstance(m, torch.nn.Conv2d)]
    assert (up, down) == ([512, 256, 128, 64, 3], [64, 128, 256, 512, 1])
    images = generator(torch.randn(2, 100))
    assert images.shape == (2, 3, 64, 64)
    assert images.min() < -0.01
    assert critic(images).shape == (2,)


@pytest.mark.parametrize(
    "changes",
    [
        {"networks": "dense", "loss": "non-saturating", "penalty": 0.0, "skip_below": 0.1},
        {"networks": "dcgan", "loss": "non-saturating", "penalty": 0.0, "betas": (0.5, 0.999)},
        {"grow": 1, "drift": 0.001, "steps": 5},
        {"critic_lr": 3e-4, "penalty_every": 2, "augment": 0.2, "augment_target": 0.6},
    ],
)
def test_the_trainer_takes_it(tiny: WganGpSettings, changes: dict) -> None:
    train(replace(tiny, **changes))
    rows = read_metrics(Path(tiny.run_dir))
    assert {"distance", "diversity", "critic_gradient", "generator_gradient"} <= rows[0].keys()
    assert ("penalty" in rows[0]) == (changes.get("penalty", 10) > 0)
    assert ("augment_probability" in rows[0]) == ("augment" in changes)
    image = load_sampler(Path(tiny.run_dir), "cpu")([0], [""])[0]
    assert image.size == (32, 32)


def test_the_defaults_are_the_thesis_and_nothing_else() -> None:
    """No opt-in is on unless it is named."""
    settings = WganGpSettings(data="x", run_dir="y")
    off = {"grow": None, "condition": None, "critic_lr": None, "skip_below": None, "augment": None}
    off |= {"augment_target": None, "ema_decay": None, "drift": 0.0, "penalty_every": 1}
    off |= {"flip": False, "networks": "thesis", "loss": "wgan-gp", "score_every": 0}
    assert {name: getattr(settings, name) for name in off} == off


def test_flipping_mirrors_about_half_and_always_the_same(tiny: WganGpSettings) -> None:
    flipped = replace(tiny, flip=True, steps=8)
    images, accelerator = open_set(tiny.data), Accelerator(cpu=True)
    plain = Batches(tiny, images, None, 0.0, accelerator)
    mirrored = Batches(flipped, images, None, 0.0, accelerator)
    seen = set()
    for step in range(8):
        flip = draw_numbers(flipped, step, 5)["flip"]
        one, other = plain(step), mirrored(step)
        assert torch.equal(one.noise, other.noise)  # nothing else is drawn otherwise
        for number in range(len(one.real)):
            wanted = one.real[number].flip(2) if flip[number] else one.real[number]
            assert torch.equal(other.real[number], wanted)
            seen.add(bool(flip[number]))
    assert seen == {True, False}


def test_images_in_the_networks_range() -> None:
    pixels = torch.tensor([[[0, 255]]], dtype=torch.uint8)
    assert to_images(pixels, 0.0).flatten().tolist() == [0.0, 1.0]
    assert to_images(pixels, -1.0).flatten().tolist() == [-1.0, 1.0]


def test_a_critic_that_is_ahead_is_left_out(tiny: WganGpSettings) -> None:
    settings = replace(tiny, skip_below=1e9)
    accelerator = Accelerator(cpu=True)
    players = make_players(settings, accelerator)
    before = [p.clone() for p in players.critic.parameters()]
    batch = Batches(settings, open_set(tiny.data), None, 0.0, accelerator)(0)
    critic_step(players, batch, 0, settings, accelerator)
    for old, new in zip(before, players.critic.parameters(), strict=True):
        assert torch.equal(old, new)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"networks": "dcgan"}, "BatchNorm"),
        ({"networks": "dense", "grow": 10}, "no grow"),
        ({"augment_target": 0.6}, "augment_target needs augment"),
        ({"penalty_every": 0}, "penalty_every"),
    ],
)
def test_contradictions_are_refused(changes: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        WganGpSettings(data="x", run_dir="y", **changes)


# -- health and scores


def test_diversity_by_hand() -> None:
    """Spread is a standard deviation: half as far apart is 0.5; all alike is near 0."""
    real = torch.stack([torch.zeros(1, 16, 16), torch.ones(1, 16, 16)])
    assert health.diversity(real / 2, real).item() == pytest.approx(0.5, rel=1e-3)
    assert health.diversity(torch.ones(4, 1, 16, 16), real).item() < 0.01


def test_a_collapse_is_told_in_words() -> None:
    good = [{"step": n, "diversity": 0.9, "penalty": 0.1} for n in range(300)]
    bad = [{"step": n, "diversity": 0.05, "penalty": 0.1} for n in range(300, 400)]
    assert health.warnings_of(good) == []
    assert health.warnings_of(bad) == []  # too few steps to tell
    (warning,) = health.warnings_of(good + bad)
    assert "Mode collapse? Generated images differ from each other 5%" in warning


def test_gradient_norm_by_hand() -> None:
    module = torch.nn.Linear(2, 1)
    module.weight.grad, module.bias.grad = torch.tensor([[3.0, 0.0]]), torch.tensor([4.0])
    assert health.gradient_norm(module).item() == pytest.approx(5.0)


def test_scores_are_taken_and_the_best_weights_kept(
    tiny: WganGpSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OSTEON_CACHE", str(tmp_path / "cache"))
    folder = prepared(tmp_path / "set", ["PA"] * 5)
    train(replace(tiny, data=str(folder), steps=4, score_every=2, score_images=6))
    run = Path(tiny.run_dir)
    rows = [row for row in read_metrics(run) if "score_similarity" in row]
    scores = {row["step"]: row["score_similarity"] for row in rows}
    assert sorted(scores) == [2, 4]
    best = read_json(run / "best/score.json")
    assert best["similarity"] == max(scores.values())
    assert scores[best["step"]] == best["similarity"]
    sampler = load_sampler(run, "cpu")
    assert sampler.options["weights"] == "newest"
    assert all(f"--{name} " in FAMILIES["wgan-gp"].options for name in sampler.options)
    assert sampler([0], [""], weights="best")[0].size == (32, 32)


def test_only_a_better_score_replaces_the_best(tmp_path: Path) -> None:
    newest, best = tmp_path / "weights", tmp_path / "best"
    newest.mkdir()
    for step, (distance, text) in enumerate([(0.5, "first"), (0.7, "worse"), (0.2, "better")]):
        (newest / "config.json").write_text(text)
        score = {"similarity": 0.9, "frechet": distance}
        assert keep_if_best(newest, score, step, best) == (text != "worse")
    assert (best / "config.json").read_text() == "better"
    assert read_json(best / "score.json") == {"step": 2, "similarity": 0.9, "frechet": 0.2}


def test_losses_that_are_not_finite_are_never_saved(tiny: WganGpSettings) -> None:
    with pytest.raises(UserError, match=r"not finite.*No checkpoint had been.*critic_steps"):
        train(replace(tiny, lr=1e30, steps=40))
    assert not (Path(tiny.run_dir) / "weights").exists()
    assert not checkpoints(Path(tiny.run_dir))


def test_x_rays_are_not_flipped(tiny: WganGpSettings) -> None:
    images = open_set(tiny.data)
    rows = [{"file": path.name, "prompt": "a chest X-ray"} for path in images.paths]
    write_jsonl(Path(tiny.data) / "samples.jsonl", rows)
    with pytest.raises(UserError, match="flip would put the heart on the right"):
        train(replace(tiny, flip=True), dry_run=True)
    assert not Path(tiny.run_dir).exists()
