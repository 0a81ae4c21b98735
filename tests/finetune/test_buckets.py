"""Images in their own shapes: nothing is cut off, and every image comes once an epoch."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import finetune.plan
from core.errors import UserError
from core.runs import read_metrics
from core.seeds import batch_at
from core.sets import open_set
from finetune.buckets import Buckets, Shape, nearest, pixels_of, shapes, sort_out, unit_of
from finetune.settings import DreamBoothSettings, Lora, Prior
from finetune.subjects import Subject, instance_subject
from finetune.train_dreambooth import train
from tests.finetune.tiny import tiny_pipeline

Make = Callable[..., DreamBoothSettings]
SIZES = {"wide": (64, 32), "tall": (30, 60), "square": (40, 40), "wider": (90, 40)}


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Two images of each of four shapes."""
    random = np.random.default_rng(0)
    folder = tmp_path / "mixed"
    folder.mkdir()
    for name, (width, height) in SIZES.items():
        for number in range(2):
            pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{name}{number}.png")
    return folder


def test_shapes_by_hand() -> None:
    found = shapes(512, 64)
    assert Shape(512, 512) in found
    assert {Shape(704, 320), Shape(320, 704)} & set(found) == set()  # longer than 2 to 1
    assert {Shape(640, 384), Shape(384, 640), Shape(576, 448)} <= set(found)
    assert all(s.height * s.width <= 512**2 and s.width % 64 == 0 for s in found)
    assert nearest(1080, 1620, found) == Shape(384, 640)  # 3 : 2
    assert nearest(10, 10, found) == Shape(512, 512)
    upright, wide = Shape(32, 16), Shape(16, 32)  # a turned picture has the turned shape
    assert nearest(110, 100, [upright, wide]) == upright
    assert nearest(100, 110, [upright, wide]) == wide
    assert unit_of(tiny_pipeline()) == 8


def test_a_size_below_a_bucket_is_refused(settings: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one of 48 for Stable Diffusion, whose sides are multiples of 64."""
    monkeypatch.setattr(finetune.plan, "unit_of", lambda pipeline: 64)
    with pytest.raises(UserError, match=r"buckets need --size 64 or more"):
        train(settings(size=48, buckets=True), dry_run=True)


def test_what_a_shape_has_no_room_for_is_cut_off_on_both_sides(tmp_path: Path) -> None:
    """Of a wide picture its middle is left, which is white; it is not squeezed."""
    picture = Image.new("L", (80, 40))
    picture.paste(255, (16, 0, 64, 40))
    picture.save(tmp_path / "wide.png")
    subject = Subject(open_set(tmp_path), ["x"])
    assert pixels_of(subject, Shape(32, 32)).min() == 255


def test_every_image_comes_once_an_epoch_in_its_own_shape(settings: Make, mixed: Path) -> None:
    subject = instance_subject(settings(data=str(mixed)))
    subject = Subject(subject.images, [path.stem for path in subject.images.paths])
    found = sort_out(subject, shapes(32, 8))
    assert sum(len(each) for each in found.values()) == 8
    assert pixels_of(found[Shape(32, 32)], Shape(32, 32)).shape == (2, 32, 32, 3)
    assert {len(each) for each in found.values()} >= {2}

    class Source:
        def __init__(self, each: Subject) -> None:
            self.captions = each.captions

        def at(self, step: int, timesteps: int) -> list[tuple]:
            return [(self.captions[0].rstrip("01"), step)]

    buckets = Buckets([Source(each) for each in found.values()], batch=1, seed=0)
    epochs = [[buckets.at(8 * e + n, 1000)[0] for n in range(8)] for e in (0, 1)]
    for number, epoch in enumerate(epochs):
        assert len(set(epoch)) == 8  # no bucket's batch twice
        for name in {name for name, _ in epoch}:
            steps = [step for own, step in epoch if own == name]
            assert steps == sorted(steps)
            assert min(steps) == number * len(steps)
    assert [name for name, _ in epochs[0]] != [name for name, _ in epochs[1]]


def test_a_rare_shape_is_not_seen_more_often(settings: Make, base: Path) -> None:
    """One image of one shape and nine of another, four at a time: all equally often in an era."""
    seen: Counter[str] = Counter()

    class Source:
        def __init__(self, name: str, count: int) -> None:
            self.captions = [f"{name} {number}" for number in range(count)]

        def at(self, step: int, timesteps: int) -> list[tuple]:
            items = batch_at(step, len(self.captions), 4, seed=0)
            seen.update(self.captions[item] for item in items)
            return []

    buckets = Buckets([Source("tall", 1), Source("wide", 9)], batch=4, seed=0)
    for step in range(30):
        buckets.at(step, 1000)
    assert len(seen) == 10
    assert {*seen.values()} == {12}


def test_training_in_buckets_and_resuming(
    settings: Make, mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    values = {"data": str(mixed), "buckets": True, "lora": Lora(rank=2), "batch": 2}
    train(settings(**values, run_dir=str(tmp_path / "one")))
    said = "Images by height x width: 40x24 (2), 32x32 (2), 24x40 (4)."
    assert said in capsys.readouterr().err
    for steps in (2, 4):
        train(settings(**values, steps=steps, run_dir=str(tmp_path / "two")))
    one, two = (read_metrics(tmp_path / name) for name in ("one", "two"))
    assert [row["loss"] for row in one] == [row["loss"] for row in two]
    with pytest.raises(ValueError, match="square"):
        settings(buckets=True, prior=Prior("a thing"))
