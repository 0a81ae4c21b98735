"""Captions, and class images that are never another model's or prompt's."""

import contextlib
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from accelerate import Accelerator
from PIL import Image

import finetune.subjects
import finetune.train_dreambooth
from core.errors import UserError
from core.files import read_json, write_json
from core.images import png_text
from core.runs import read_metrics
from finetune.models import locate, open_pipeline
from finetune.sample import StableDiffusionSampler
from finetune.settings import Concept, DreamBoothSettings, Prior
from finetune.subjects import (
    ClassImages,
    Subject,
    class_images,
    class_subject,
    default_prompts,
    instance_subject,
)
from finetune.train_dreambooth import train
from tests.finetune.tiny import tiny_pipeline, write_images

Make = Callable[..., DreamBoothSettings]


def test_one_prompt_or_captions(settings: Make, captioned: Path, plain: Path) -> None:
    assert instance_subject(settings()).captions == ["a ramp"] * 5
    own = instance_subject(settings(data=str(captioned), prompt=None))
    assert own.captions[3] == "a ramp, number 3"
    assert default_prompts(settings(), own) == own.captions
    assert default_prompts(settings(preview_prompts=("x",)), own) == ["x"]
    with pytest.raises(UserError, match=r"5 of 5 images .* have no caption"):
        instance_subject(settings(prompt=None))
    with pytest.raises(UserError, match="empty"):
        instance_subject(settings(prompt=" "))


def test_stray_files_are_left_out(settings: Make, plain: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(plain, tmp_path / "stray")
    (folder / ".ipynb_checkpoints").mkdir()
    shutil.copy(folder / "00.png", folder / ".ipynb_checkpoints" / "00-checkpoint.png")
    (folder / "Thumbs.db").write_bytes(b"x")
    (folder / "notes.txt").write_text("x")
    (folder / "deeper").mkdir()
    subject = instance_subject(settings(data=str(folder)))
    assert [path.name for path in subject.images.paths] == [f"{n:02d}.png" for n in range(5)]


def test_class_images_are_topped_up_and_never_reused_in_silence(base: Path, tmp_path: Path) -> None:
    place = locate(str(base))
    sampler = StableDiffusionSampler(open_pipeline(base), 32)
    folder = tmp_path / "class"

    def make(prompt: str, count: int) -> list[Path]:
        prior = Prior(prompt=prompt, count=count, folder=str(folder))
        return class_subject(prior, place, 32, Accelerator(cpu=True), sampler).images.paths

    first = make("a thing", 2)
    old = [path.read_bytes() for path in first]
    assert "synthetic" in png_text(first[0])
    more = make("a thing", 3)
    assert len(more) == 3
    assert [path.read_bytes() for path in more[:2]] == old
    assert len(make("a thing", 2)) == 2
    with pytest.raises(UserError, match="prompt: a thing -> another"):
        make("another", 2)
    with pytest.raises(UserError, match="size: 32 -> 64"):
        class_subject(
            Prior("a thing", 2, folder=str(folder)), place, 64, Accelerator(cpu=True), sampler
        )


def test_class_images_of_another_schedule_or_tokenizer_are_refused(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the weights are the same; folders of older versions, which did not ask, stay good."""
    monkeypatch.chdir(tmp_path)
    mine = Path(shutil.copytree(base, tmp_path / "base"))
    sampler, prior = StableDiffusionSampler(open_pipeline(base), 32), Prior("a thing", 1)

    def draw() -> Path:
        place = locate(str(mine))
        return class_subject(prior, place, 32, Accelerator(cpu=True), sampler).images.paths[0]

    drawn = draw()
    for file in ("scheduler/scheduler_config.json", "tokenizer/tokenizer_config.json"):
        kept = (mine / file).read_text()
        (mine / file).write_text(kept.replace("{", '{"changed": true,', 1))
        with pytest.raises(UserError, match=r"another kind \(configs: \w+ -> \w+\)"):
            draw()
        (mine / file).write_text(kept)
    contract = drawn.with_name("class.json")
    older = {key: value for key, value in read_json(contract).items() if key != "configs"}
    write_json(contract, older)
    time = drawn.stat().st_mtime_ns
    assert draw() == drawn
    assert drawn.stat().st_mtime_ns == time


def test_class_images_of_another_model_are_refused(base: Path, tmp_path: Path) -> None:
    """By the weights, wherever they lie and whatever they are called."""
    mine = Path(shutil.copytree(base, tmp_path / "base"))
    sampler = StableDiffusionSampler(open_pipeline(base), 32)
    prior = Prior("a thing", 1, folder=str(tmp_path / "class"))

    def draw() -> list[Path]:
        place = locate(str(mine))
        return class_subject(prior, place, 32, Accelerator(cpu=True), sampler).images.paths

    first = draw()
    tiny_pipeline(seed=1).unet.save_pretrained(mine / "unet")
    with pytest.raises(UserError, match=r"another kind \(model: \w+ -> \w+\)"):
        draw()
    shutil.rmtree(mine)
    shutil.copytree(base, mine)
    assert draw() == first


def test_a_process_that_is_late_misses_no_class_images(base: Path, tmp_path: Path) -> None:
    """Two processes, here threads: the second looks when the first has drawn, or is waiting."""
    prior = Prior("a thing", count=40, folder=str(tmp_path / "class"))
    place, began, both = locate(str(base)), threading.Event(), threading.Barrier(2, timeout=20)

    def sampler(seeds: list[int], prompts: list[str], **options: Any) -> list[Image.Image]:
        return [Image.new("RGB", (32, 32)) for _ in seeds]

    def draw(rank: int) -> Subject:
        def wait() -> None:
            began.set()
            both.wait()

        accelerator = SimpleNamespace(
            process_index=rank, num_processes=2, is_main_process=rank == 0,
            wait_for_everyone=wait, autocast=contextlib.nullcontext,
        )  # fmt: skip
        if rank == 1:
            began.wait()
        return class_subject(prior, place, 32, accelerator, sampler)

    with ThreadPoolExecutor(2) as threads:
        for subject in threads.map(draw, range(2)):
            assert [path.exists() for path in subject.images.paths] == [True] * 40


def test_whole_class_images_are_only_read(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where they lie nothing may be written; nor over what another run has drawn meanwhile."""

    def refuse(*given: Any, **named: Any) -> None:
        raise OSError("read-only")

    def drawn() -> list[Path]:
        sampler = StableDiffusionSampler(open_pipeline(base), 32)
        own = class_subject(prior, locate(str(base)), 32, Accelerator(cpu=True), sampler)
        return own.images.paths

    prior = Prior("a ramp", count=2, folder=str(tmp_path / "class"))
    before = {path: path.read_bytes() for path in drawn()}
    monkeypatch.setattr(finetune.subjects, "write_json", refuse)
    drawn()
    monkeypatch.undo()

    def late(*given: Any) -> ClassImages:
        return replace(class_images(*given), missing=[0, 1])

    monkeypatch.setattr(finetune.subjects, "class_images", late)
    monkeypatch.setattr(finetune.subjects, "write_png", refuse)
    assert before == {path: path.read_bytes() for path in drawn()}


def test_several_class_prompts_take_turns(base: Path, tmp_path: Path) -> None:
    """Also those that are drawn later."""
    sampler = StableDiffusionSampler(open_pipeline(base), 32)
    for count in (1, 3):
        prior = Prior(prompt=("one", "two"), count=count, folder=str(tmp_path / "class"))
        subject = class_subject(prior, locate(str(base)), 32, Accelerator(cpu=True), sampler)
    assert subject.captions == ["one", "two", "one"]
    assert [png_text(path)["prompt"] for path in subject.images.paths] == subject.captions


def test_each_concept_has_a_class_or_all_have_one(settings: Make, plain: Path) -> None:
    two = (Concept(str(plain), "a slope"),)
    with pytest.raises(ValueError, match=r"prior\.prompt names 3 classes of 2 concepts; give one"):
        settings(concepts=two, prior=Prior(("a", "b", "c")))
    for classes in ("a", ("a",), ("a", "b")):
        assert settings(concepts=two, prior=Prior(classes)).concepts == two
    assert settings(prior=Prior(("a", "b", "c"))).concepts == ()  # of one concept, they take turns


def test_a_repeated_image_keeps_its_caption(settings: Make, plain: Path, tmp_path: Path) -> None:
    few = write_images(tmp_path / "few", 2, captions=True)
    subject = instance_subject(settings(concepts=(Concept(str(few)),)))
    assert len(subject) == 5 + 2 * 2
    for path, row, caption in zip(
        subject.images.paths[5:], subject.images.rows[5:], subject.captions[5:], strict=True
    ):
        assert row["file_name"] == path.name
        assert row["text"] == caption == f"a ramp, number {int(path.stem)}"


def test_the_weight_is_that_of_the_class_images(settings: Make, base: Path, plain: Path) -> None:
    """Where it is 0, the loss is that of the run's own images alone."""
    losses = []
    for weight in (None, 0.0):
        prior = None if weight is None else Prior("a hill", 2, weight, folder=str(plain))
        own = settings(steps=1, prior=prior, run_dir=f"{settings().run_dir} {weight}")
        train(own)
        losses.append(read_metrics(Path(own.run_dir))[0]["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_too_few_class_images_of_your_own_are_refused(
    base: Path, plain: Path, capsys: pytest.CaptureFixture
) -> None:
    sampler = StableDiffusionSampler(open_pipeline(base), 32)
    few = Prior(prompt="a ramp", count=6, folder=str(plain))
    with pytest.raises(UserError, match=r"5 images of your own, and prior\.count .* asks for 6"):
        class_subject(few, locate(str(base)), 32, Accelerator(cpu=True), sampler)
    enough = replace(few, count=5)
    class_subject(enough, locate(str(base)), 32, Accelerator(cpu=True), sampler)
    assert f"5 of your own in {plain}" in capsys.readouterr().err


def test_own_images_of_several_classes_say_which_they_show(
    base: Path, plain: Path, captioned: Path
) -> None:
    classes = Prior(prompt=("a ramp", "a hill"), count=2, folder=str(plain))
    with pytest.raises(UserError, match=r"names 2 classes.*give captions, or one prior\.prompt"):
        class_images(classes, locate(str(base)), 32)
    told = class_images(replace(classes, folder=str(captioned)), locate(str(base)), 32).subject
    assert told.captions == told.images.captions
    one = replace(classes, folder=str(captioned), prompt="a ramp")
    assert {*class_images(one, locate(str(base)), 32).subject.captions} == {"a ramp"}


def test_class_images_in_folders_below_are_not_drawn_over(
    base: Path, plain: Path, tmp_path: Path
) -> None:
    """As kohya's scripts have them: reg/1_dog/0.png."""
    shutil.copytree(plain, tmp_path / "reg/1_dog")
    prior = Prior("a ramp", 2, folder=str(tmp_path / "reg"))
    sampler: Any = lambda *_: pytest.fail("drawn")  # noqa: E731
    with pytest.raises(UserError, match=r"holds no class image but 5 in folders below; give --p"):
        class_subject(prior, locate(str(base)), 32, Accelerator(cpu=True), sampler)
    assert {path.name for path in (tmp_path / "reg").iterdir()} == {"1_dog"}


def test_own_class_images_are_used_as_they_are(base: Path, plain: Path) -> None:
    prior = Prior(prompt="a ramp", count=2, folder=str(plain))
    sampler = StableDiffusionSampler(open_pipeline(base), 32)
    subject = class_subject(prior, locate(str(base)), 32, Accelerator(cpu=True), sampler)
    assert len(subject) == 5
    assert {path.parent for path in subject.images.paths} == {plain}


def test_a_prepared_set_is_images_of_your_own(
    base: Path, captioned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or its split; and nothing is drawn or written, though an older version wrote into it."""
    data = Path(shutil.copytree(captioned, tmp_path / "cls"))
    write_json(data / "class.json", {"prompt": "another"})
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    place, accelerator = locate(str(base)), Accelerator(cpu=True)

    def drawn(folder: str, count: int = 3) -> set[Path]:
        prior = Prior("a ramp", count, folder=folder)
        subject = class_subject(prior, place, 32, accelerator, lambda *_: pytest.fail("drawn"))
        assert subject.captions == ["a ramp"] * 5
        return {path.parent.relative_to(data) for path in subject.images.paths}

    assert drawn(str(data)) == {Path("train")}
    assert drawn(f"{data}:validation") == {Path("validation")}
    for folder, count, said in (
        (f"{data}:test", 3, "has no test split"),
        ("gone:train", 3, "gone is not there"),
        (str(data / "set.json"), 3, "is a file"),
        (str(data), 6, "5 images of your own"),
    ):
        with pytest.raises(UserError, match=said):
            drawn(folder, count)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_image_gone_or_broken_stops_dry_run_and_run_alike(
    settings: Make, captioned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By one sentence, before a base is opened: of images, validation images and class images."""
    data = Path(shutil.copytree(captioned, tmp_path / "data"))
    mine, drawn = (Path(shutil.copytree(captioned / "train", tmp_path / n)) for n in ("a", "b"))
    write_json(drawn / "class.json", {})
    (drawn / "00.png").rename(drawn / "000000.png")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(finetune.train_dreambooth, "open_pipeline", lambda *_: pytest.fail("late"))

    def refused(file: Path, content: bytes | None, words: str, **changes: Any) -> None:
        kept, said = file.read_bytes(), set()
        file.write_bytes(content) if content is not None else file.unlink()
        for dry_run in (True, False):
            with pytest.raises(UserError, match=words) as error:
                train(settings(data=str(data), **changes), dry_run)
            said.add(str(error.value))
        assert len(said) == 1
        file.write_bytes(kept)

    torn = (data / "train/03.png").read_bytes()[:500]
    refused(data / "train/03.png", None, "train/03.png is not there; restore it")
    refused(data / "train/03.png", torn, r"train/03.png: not a readable .*; replace or remove it")
    unseen = data / "validation/01.png"
    refused(unseen, None, "validation/01.png is not there", validate_every=2)
    refused(unseen, b"", r"validation/01.png: .* \(empty file\)", validate_every=2)
    own, ours = (Prior("a thing", 1, folder=str(folder)) for folder in (mine, drawn))
    refused(mine / "02.png", b"x", r"a/02.png: not a readable image", prior=own)
    refused(drawn / "000000.png", b"x", r"b/000000.png: not a readable image", prior=ours)
    large = unseen.read_bytes()
    words = r"b/000000.png is 40x36, and class images here are drawn at 32x32; delete it"
    refused(drawn / "000000.png", large, words, prior=ours, size=32)
    assert sorted(tmp_path.rglob("*")) == before
