from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from compare.contract import Contract, check_alike
from compare.sources import open_fakes, open_real
from core.errors import UserError

from .conftest import draw, write_folder

CONTRACT = Contract("e", "hash", "pool", "none", "float32", 64, "L", "real", 100, 50)


def test_held_out_images_first(make_set: Callable[..., Path]) -> None:
    real = open_real(str(make_set()))
    assert real.held_out.name == "set:test"
    assert real.train.name == "set:train"
    assert [images.name for images in real.others] == ["set:validation", "set:train"]
    assert not real.same
    assert not real.few
    assert real.radiographs  # its captions say so


def test_without_a_test_split(make_set: Callable[..., Path]) -> None:
    real = open_real(str(make_set("a", test=0)))
    assert real.held_out.name == "a:validation"
    assert "no test images" in real.choice
    assert [images.name for images in real.others] == ["a:train"]
    few = open_real(str(make_set("b", train=5, validation=0, test=0)))
    assert few.few
    assert few.same
    assert few.others == ()


def test_a_split_and_a_bank_by_name(make_set: Callable[..., Path], tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "bank", draw(4, 9))
    real = open_real(f"{make_set()}:validation", str(folder))
    assert real.held_out.name == "set:validation"
    assert real.train.name == "bank"


def test_runs_sets_and_plain_folders(make_run: Callable[..., Path], tmp_path: Path) -> None:
    run = make_run("a", prompts=["x", "y"])
    draw(1, 0)[0].save(run / "curves.png")  # is no sample
    other = make_run("b", set_name="steps50")
    plain = write_folder(tmp_path / "dalle", draw(3, 1))
    words = [str(run), str(other / "samples" / "steps50"), str(plain), f"named={plain}"]
    fakes = open_fakes(words)
    assert [fake.label for fake in fakes] == ["a", "b", "dalle", "named"]
    assert fakes[0].family == "VAE"
    assert fakes[0].seeds[:2] == [0, 1]
    assert fakes[0].prompts[:2] == ["x", "y"]
    assert fakes[2].family == "outside images"
    assert fakes[2].seeds == [None] * 3
    assert [len(fake.images) for fake in open_fakes(words, most=2)] == [2] * 4


def test_one_name_twice(make_run: Callable[..., Path]) -> None:
    run = make_run("a")
    write_folder(run / "samples" / "other", draw(3, 5))
    fakes = open_fakes([str(run), f"a={run / 'samples' / 'other'}"])
    assert [fake.label for fake in fakes] == ["a/default", "a/other"]
    with pytest.raises(UserError, match="Two sets are called 'a/default'"):
        open_fakes([str(run), str(run)])


def test_what_cannot_be_compared(make_run: Callable[..., Path], tmp_path: Path) -> None:
    run = make_run("a", set_name="one")
    write_folder(run / "samples" / "two", draw(3, 5))
    with pytest.raises(UserError, match=r"several sets; name one of .*one, .*two"):
        open_fakes([str(run)])
    with pytest.raises(UserError, match="is not there"):
        open_fakes([str(tmp_path / "nothing")])
    (tmp_path / "notes.md").touch()
    with pytest.raises(UserError, match=r"notes\.md is a file; give a run"):
        open_fakes([str(tmp_path / "notes.md")])
    with pytest.raises(UserError, match="needs two"):
        open_fakes([str(write_folder(tmp_path / "lone", draw(1, 0)))])
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "run.json").write_text("{}")
    with pytest.raises(UserError, match="osteon generate --run"):
        open_fakes([str(tmp_path / "new")])


def test_a_split_of_a_prepared_set_by_name(make_set: Callable[..., Path]) -> None:
    """As --real takes it; it "is not there" was the answer."""
    folder = make_set(test=0)
    plain, named = open_fakes([f"{folder}:train", f"a={folder}:validation"])
    assert (plain.label, named.label) == ("set:train", "a")
    assert (plain.folder, len(plain.images)) == (folder / "train", 30)
    assert named.prompts[1] == "chest X-ray number 1"
    with pytest.raises(UserError, match="has no test split"):
        open_fakes([f"{folder}:test"])


@pytest.mark.parametrize("name", list(asdict(CONTRACT)))
def test_unlike_contracts_share_no_column(name: str) -> None:
    check_alike({"a": CONTRACT, "b": replace(CONTRACT)})
    other = replace(CONTRACT, **{name: "other"})
    assert list(CONTRACT.differences(other)) == [name]
    with pytest.raises(UserError, match=rf"a and b were not measured alike \({name}"):
        check_alike({"a": CONTRACT, "b": other})


def test_outside_folder_with_a_prompts_file(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "dalle", draw(3, 1))
    (folder / "prompts.txt").write_text("a bat\na wolf\na bird\n")
    assert open_fakes([str(folder)])[0].prompts == ["a bat", "a wolf", "a bird"]
    (folder / "prompts.txt").write_text("a bat\n")
    assert open_fakes([str(folder)])[0].prompts == ["a bat"] * 3
    (folder / "prompts.txt").write_text("a bat\na wolf\n")
    with pytest.raises(UserError, match="2 prompts for 3 images"):
        open_fakes([str(folder)])
