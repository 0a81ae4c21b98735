"""The nearest training image: found, kept in memory once, told of while it is sought."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core.errors import UserError
from core.files import write_json, write_jsonl
from core.images import write_png
from core.sets import open_set, record_edit
from finetune.settings import Concept, DreamBoothSettings
from panels import copies
from panels.catalogue import find_models
from panels.copies import Banks, nearest_of
from panels.playground import Playground
from panels.workbench import Workbench
from tests.panels.test_facts import make_views
from tests.panels.test_small_parts import noise


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    for split, count in (("train", 5), ("test", 4)):
        rows = []
        for number in range(count):
            name = f"{number}.png"
            write_png(noise(seed=number + 10 * (split == "test")), tmp_path / split / name)
            rows.append({"file_name": name, "text": f"image {number}"})
        write_jsonl(tmp_path / split / "metadata.jsonl", rows)
    write_json(tmp_path / "set.json", {"mode": "L"})
    return tmp_path


def test_the_nearest_training_image_is_found(prepared: Path) -> None:
    bank = Banks().of(str(prepared))
    near = bank.nearest(noise(seed=3))
    assert near.image == prepared / "train/3.png"
    assert near.likeness == pytest.approx(1.0, abs=1e-4)
    assert (near.share, near.unseen) == (1.0, 4)
    assert near.possible_copy  # four unseen images are few, but it is the image itself
    assert "practically equal to a training image" in near.words
    assert not replace(near, likeness=0.98).possible_copy  # they are too few to say so
    assert bank.nearest(noise(seed=99)).likeness < 0.2
    assert open_set(prepared).captions[3] == "image 3"


def test_a_bank_is_made_anew_for_other_images_and_not_for_captions(prepared: Path) -> None:
    banks, data = Banks(), str(prepared)
    record_edit(prepared, "train", "3.png", exclude=True)  # models may have seen it before
    first = banks.of(data)
    assert first.nearest(noise(seed=3)).image == prepared / "train/3.png"
    record_edit(prepared, "train", "2.png", text="another caption")
    record_edit(prepared, "train", "1.png", exclude=True)
    assert banks.of(data) is first
    record_edit(prepared, "test", "0.png", exclude=True)
    (prepared / "train/metadata.jsonl").write_text('{"file_name": "0.png"}\n')
    second = banks.of(data)
    assert second.paths == [prepared / "train/0.png"]
    assert len(second.unseen) == 3
    assert len(banks) == 1


def test_two_callers_share_one_bank_and_the_oldest_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def slowly(data: str) -> str:
        time.sleep(0.05)
        made.append(data)
        return data

    monkeypatch.setattr(copies, "_made", slowly)
    banks = Banks()
    with ThreadPoolExecutor(4) as callers:
        assert [*callers.map(banks.of, [str(tmp_path)] * 4)] == [str(tmp_path)] * 4
    assert made == [str(tmp_path)]
    for number in range(copies.MOST_BANKS):
        (tmp_path / str(number)).mkdir()
        banks.of(str(tmp_path / str(number)))
    assert len(banks) == copies.MOST_BANKS
    with pytest.raises(UserError, match="not there"):
        banks.of(str(tmp_path / "gone"))


def test_copies_are_sought_among_all_that_was_learned(tmp_path: Path) -> None:
    for number in range(4):
        write_png(noise(seed=number), tmp_path / f"data/{'ab'[number % 2]}/{number}.png")
    run = tmp_path / "runs/both"
    write_json(run / "run.json", {"family": "dreambooth"})
    (run / "weights").mkdir()
    settings = DreamBoothSettings("data/a", run_dir=str(run), concepts=(Concept("data/b"),))
    (run / "config.yaml").write_text(
        f"data: {settings.data}\nconcepts:\n- data: {settings.concepts[0].data}\nlora: {{}}\n"
    )
    (both,) = find_models(tmp_path)
    assert both.data == ("data/a", "data/b")
    base = replace(both, name="models/base", data=())
    for number in (2, 3):
        near = nearest_of([base, both], tmp_path, noise(seed=number))
        assert near is not None
        assert near.image.name == f"{number}.png"
        assert near.possible_copy
    assert nearest_of([base], tmp_path, noise()) is None


def answers(root: Path, count: int) -> Iterator[Any]:
    """Of the Playground over a GAN."""
    make_views(root / "runs/views")
    return Playground(Workbench(root)).generate("runs/views", "", "", 1, count, 1, 4.0, 1.0)


def test_a_comparison_that_fails_is_told_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*asked: Any) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(copies, "nearest_of", fails)
    *_, told, (_, status, *_) = answers(tmp_path, 3)
    assert len(told[0]) == 3
    assert "could not be compared with its training images (the disk is gone)" in told[3]
    assert "3 pictures in" in status


def test_the_comparison_is_told_of_and_can_be_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()
    monkeypatch.setattr(copies, "nearest_of", lambda *asked: ended.wait(60) and None)
    drawing = answers(tmp_path, 2)
    try:
        assert any("Comparing with the training images" in str(line) for _, line, *_ in drawing)
        began = time.monotonic()
        next(drawing)
        drawing.close()
        assert time.monotonic() - began < 5
    finally:
        ended.set()
