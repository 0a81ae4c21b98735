"""Prepared sets and plain folders open the same way."""

import json
import multiprocessing
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import core.sets
from core.errors import UserError
from core.files import write_json, write_jsonl
from core.prompts import read_prompts
from core.sets import open_set, record_edit, training_of


@pytest.fixture
def prepared(make_folder: Callable[..., Path], tmp_path: Path) -> Path:
    folder = tmp_path / "set"
    for split, count in (("train", 4), ("test", 2)):
        make_folder(f"set-{split}", count).rename(tmp_path / split)
        folder.mkdir(exist_ok=True)
        (tmp_path / split).rename(folder / split)
        rows = [{"file_name": f"{i:03d}.png", "text": f"{split} {i}"} for i in range(count)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / split / "metadata.jsonl").write_text(text)
    (folder / "set.json").write_text(json.dumps({"mode": "L", "size": 8}))
    return folder


def test_splits_open_by_name(prepared: Path) -> None:
    assert open_set(prepared).captions == [f"train {i}" for i in range(4)]
    assert open_set(f"{prepared}:test").captions == ["test 0", "test 1"]
    assert open_set(prepared, "test").name == "set:test"
    assert open_set(f"{prepared}:train", "test").name == "set:test"
    assert read_prompts(f"{prepared}:test") == ["test 0", "test 1"]
    with pytest.raises(UserError, match="no validation split"):
        open_set(f"{prepared}:validation")


def test_images_lie_in_their_set_which_may_lie_elsewhere(prepared: Path, tmp_path: Path) -> None:
    mounted = tmp_path / "mounted"
    mounted.symlink_to(prepared)
    assert len(open_set(mounted)) == 4
    (prepared / "train/link.png").symlink_to(prepared / "test/000.png")
    (prepared / "train/out.png").symlink_to(tmp_path / "secret.png")
    metadata = prepared / "train/metadata.jsonl"
    for name in ("link.png", "../test/000.png"):
        write_jsonl(metadata, [{"file_name": name}])
        assert len(open_set(mounted)) == 1
    for name in ("out.png", "../../secret.png", str(tmp_path / "secret.png")):
        write_jsonl(metadata, [{"file_name": name}])
        with pytest.raises(UserError, match="leads out of the set"):
            open_set(prepared)


def test_an_image_that_is_gone_is_named_with_the_remedy(
    prepared: Path, make_folder: Callable[..., Path]
) -> None:
    (prepared / "train/001.png").unlink()
    with pytest.raises(UserError, match=r"train/001\.png is not there; restore it, or") as error:
        open_set(prepared)
    line, _, file = str(error.value).rpartition("by a line ")[2].rpartition(" in ")
    Path(file.removesuffix(".")).write_text(line + "\n")  # as it was told
    assert [path.name for path in open_set(prepared).paths] == ["000.png", "002.png", "003.png"]
    assert len(open_set(prepared, "test")) == 2
    for name in ("000.png", "001.png"):
        (prepared / "test" / name).unlink()
    with pytest.raises(UserError, match=r"test/000\.png is not there, and 1 more of 2 are not;"):
        open_set(prepared, "test")
    folder = make_folder("plain")
    (folder / "link.png").symlink_to(folder / "gone.png")
    with pytest.raises(UserError, match=r"link\.png is not there: a link that leads nowhere; mend"):
        open_set(folder)


def test_what_is_no_folder_is_told_apart(prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a file; give a folder"):
        open_set(prepared / "set.json")
    with pytest.raises(UserError, match="is not there; make it"):
        open_set(tmp_path / "absent")


def test_a_plain_folder_opens_too(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    assert open_set(make_folder("grey")).mode == "L"
    colour = open_set(make_folder("colour", mode="RGB"))
    assert (colour.mode, colour.captions) == ("RGB", [""] * 5)
    (tmp_path / "empty").mkdir()
    for path, said in (("empty", "holds no image"), ("absent", "osteon prepare")):
        with pytest.raises(UserError, match=said):
            open_set(tmp_path / path)


def test_one_grey_image_first_leaves_a_folder_in_colour(
    prepared: Path, make_folder: Callable[..., Path]
) -> None:
    folder = make_folder("mixed", mode="RGB")
    Image.open(folder / "000.png").convert("L").save(folder / "000.png")
    mixed = open_set(folder)
    assert mixed.mode == "RGB"
    assert mixed.pixels(8).shape == (5, 8, 8, 3)
    assert mixed.greyed("channels", 1)
    Image.open(folder / "001.png").save(prepared / "train/001.png")
    assert open_set(prepared).mode == "L"  # as it states


def test_a_plain_folder_has_the_captions_beside_its_images(
    make_folder: Callable[..., Path],
) -> None:
    folder = make_folder("pics", 3)
    silent = open_set(folder)
    (folder / "000.txt").write_text(" a dog\n on a sofa \n")
    (folder / "001.txt").write_text("\n")
    (folder / "notes.txt").write_text("of no image")
    told = open_set(folder)
    assert told.captions == ["a dog on a sofa", "", ""]
    assert told.fingerprint == silent.fingerprint
    assert "--prompt" not in training_of(folder)
    (folder / "002.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(UserError, match="is not UTF-8 text"):
        open_set(folder)


@pytest.mark.parametrize("table", ["metadata.jsonl", "metadata.csv"])
def test_a_table_in_a_plain_folder_is_heeded(table: str, make_folder: Callable[..., Path]) -> None:
    folder = make_folder("pics", 3)
    (folder / "000.txt").write_text("not this one")
    (folder / "001.txt").write_text("beside")
    if table.endswith(".csv"):
        (folder / table).write_text("file_name,text,age\n000.png, a cat ,3\ngone.png,lost,4\n")
    else:
        rows = [{"file_name": "000.png", "text": " a cat ", "age": 3}, {"file_name": "gone.png"}]
        write_jsonl(folder / table, rows)
    found = open_set(folder)
    assert found.captions == ["a cat", "beside", ""]
    assert [row["file_name"] for row in found.rows] == ["000.png", "001.png", "002.png"]
    assert [row["age"] for row in found.rows] == [3, None, None]


@pytest.mark.parametrize("text", ['["000.png"]', '{"text": "a cat"}'])
def test_a_table_that_names_no_file_is_refused(text: str, make_folder: Callable[..., Path]) -> None:
    folder = make_folder("pics", 1)
    (folder / "metadata.jsonl").write_text(text)
    with pytest.raises(UserError, match="needs file_name in every row; mend or rename it"):
        open_set(folder)


def test_generated_images_keep_the_prompts_they_were_made_with(
    make_folder: Callable[..., Path],
) -> None:
    folder = make_folder("samples", 2)
    write_jsonl(folder / "samples.jsonl", [{"file": "000.png", "seed": 0, "prompt": "a dog"}])
    write_jsonl(folder / "metadata.jsonl", [{"file_name": "000.png", "text": "another"}])
    (folder / "001.txt").write_text("another")
    assert open_set(folder).captions == ["a dog", ""]
    assert open_set(folder).rows[0]["seed"] == 0


def test_a_memory_map_holds_the_same_pixels(
    prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image_set = open_set(prepared)
    plain = image_set.pixels(8)
    assert plain.shape == (4, 8, 8)
    monkeypatch.setattr(core.sets, "MEMORY_LIMIT", 10)
    mapped = image_set.pixels(8)
    assert isinstance(mapped, np.memmap)
    assert np.array_equal(plain, mapped)
    assert image_set.pixels(8, "RGB").shape == (4, 8, 8, 3)


def test_the_memory_map_stays_in_the_set_or_goes_where_it_can(
    prepared: Path,
    make_folder: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(core.sets, "MEMORY_LIMIT", 10)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "elsewhere"))
    folder = make_folder("photos")
    wanted = open_set(folder).pixels(8)
    assert [file.parent for file in tmp_path.rglob("*.npy")] == [folder / ".cache"]
    assert len(open_set(folder)) == 5  # the map is no image
    open_set(prepared).pixels(8)
    assert len(list((prepared / ".cache").glob("*.npy"))) == 1
    assert capsys.readouterr().err == ""

    shutil.rmtree(folder / ".cache")
    (folder / ".cache").touch()  # no folder can be made there, as on a read-only drive
    for told in (True, False):  # the second time it is there
        assert np.array_equal(open_set(folder).pixels(8), wanted)
        assert ("photos/.cache cannot take" in capsys.readouterr().err) is told
    assert len(list((tmp_path / "elsewhere").rglob("*.npy"))) == 1
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=0))
    with pytest.raises(UserError, match="make room, or set TMPDIR"):
        open_set(folder).pixels(4)


def decode(folder: Path, meet: Any, said: Any) -> None:
    """Another process that decodes the set; `meet`: until both are about to."""
    core.sets.MEMORY_LIMIT = 10
    image_set = open_set(folder)
    shape = (len(image_set), 8, 8)
    real, waiting = core.sets.fit, [True]

    def fit(*given: Any) -> Any:
        if waiting.pop() if waiting else False:
            meet.wait(60)
        return real(*given)

    core.sets.fit = fit
    pixels = image_set.pixels(8)
    said.put((type(pixels).__name__, pixels.shape == shape, int(pixels.sum())))


def test_two_processes_decode_at_once(prepared: Path) -> None:
    wanted = int(open_set(prepared).pixels(8).sum())
    processes = multiprocessing.get_context("fork")
    said, meet = processes.Queue(), processes.Barrier(2)
    both = [processes.Process(target=decode, args=(prepared, meet, said)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(120)
    assert [process.exitcode for process in both] == [0, 0]
    assert [said.get(timeout=60) for _ in both] == [("memmap", True, wanted)] * 2
    assert len(list((prepared / ".cache").iterdir())) == 1


def test_noted_edits_are_heeded_and_the_source_stays(tmp_path: Path) -> None:
    rows = [{"file_name": f"{n}.png", "text": f"old {n}"} for n in range(3)]
    write_jsonl(tmp_path / "train/metadata.jsonl", rows)
    write_json(tmp_path / "set.json", {"mode": "L"})
    for row in rows:
        (tmp_path / "train" / row["file_name"]).touch()
    before = (tmp_path / "train/metadata.jsonl").read_bytes()
    record_edit(tmp_path, "train", "0.png", text="new")
    record_edit(tmp_path, "train", "1.png", exclude=True)
    record_edit(tmp_path, "train", "0.png", exclude=False)
    record_edit(tmp_path, "test", "2.png", exclude=True)
    found = open_set(tmp_path)
    assert found.captions == ["new", "old 2"]
    assert [path.name for path in found.paths] == ["0.png", "2.png"]
    assert (tmp_path / "train/metadata.jsonl").read_bytes() == before
