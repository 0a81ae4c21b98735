"""The real script: launched, stopped, killed, shared; and the guide's outputs."""

import csv
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core.config import from_dict, read_yaml
from core.errors import UserError
from core.families import load_sampler
from core.images import to_array
from core.runs import read_metrics
from tests.trainers import (
    ACCELERATE,
    ROOT,
    TWO,
    check_broken_equals_unbroken,
    check_grey_is_said,
    check_killed_equals_unbroken,
    check_scaler_goes_on,
    check_taken_up_equals_unbroken,
    launch,
    preset_words,
    run_facts,
    tensors_of,
)
from vae.settings import VaeSettings
from vae.train_vae import epoch_rows, main, train

SCRIPT = "vae/train_vae.py"
CONFIGS = sorted((ROOT / "configs/vae").glob("*.yaml"))
GUIDE = {
    "img_size": 128,
    "latent_dim": 750,
    "batch_size": 10,
    "num_epochs": 25,
    "alpha": 5.0,
    "beta": 1.0,
    "gamma": 10.0,
    "lr": 1e-4,
    "in_channels": 3,
    "depth": 4,
    "log_file": "vae_training_log.csv",
    "model_save_dir": "vae_checkpoints",
    "output_dir": "output_images",
}


@pytest.fixture
def tiny(make_folder: Callable[..., Path], tmp_path: Path) -> VaeSettings:
    """Five images, in batches of four and one: two steps an epoch."""
    return VaeSettings(
        data=str(make_folder(count=5, size=16)),
        run_dir=str(tmp_path / "run"),
        num_epochs=3,
        img_size=16,
        in_channels=1,
        latent_dim=6,
        depth=2,
        width=4,
        batch_size=4,
        lr=1e-3,
        preview_every=2,
        preview_count=4,
    )


def test_the_launched_script_leaves_the_guides_outputs(tiny: VaeSettings) -> None:
    launch(ACCELERATE, SCRIPT, tiny)
    run = Path(tiny.run_dir)
    facts = run_facts(run)
    assert (facts["family"], facts["status"], facts["steps"]) == ("vae", "finished", 6)
    rows = list(csv.DictReader((run / "vae_training_log.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    steps = read_metrics(run)
    mean = (steps[0]["kl"] + steps[1]["kl"]) / 2
    assert float(rows[0]["kl"]) == pytest.approx(mean)
    first = steps[0]
    weighted = 5 * first["reconstruction"] + first["kl"] + 10 * first["blur"]
    assert first["loss"] == pytest.approx(weighted, rel=1e-5)
    assert Image.open(run / "output_images/epoch-0003.png").size == (8 * 18 - 2, 8 * 18 - 2)
    assert Image.open(run / "output_images/losses.png").width > 300
    saved = sorted(path.name for path in (run / "vae_checkpoints").iterdir())
    assert saved == ["epoch-0002.safetensors", "epoch-0003.safetensors"]
    assert Image.open(run / "previews/step-000002.png").size == (4 * 18 - 2, 16)
    images = load_sampler(run, "cpu")([3, 4], ["", ""])
    assert [(image.mode, image.size) for image in images] == [("L", (16, 16))] * 2


def test_more_steps_go_on_bit_for_bit(tiny: VaeSettings, tmp_path: Path) -> None:
    settings = replace(tiny, checkpoint_every=3, num_epochs=None, steps=5)
    check_taken_up_equals_unbroken(train, settings, tmp_path, first=3)


@pytest.mark.slow
def test_a_broken_run_equals_an_unbroken_one(tiny: VaeSettings, tmp_path: Path) -> None:
    settings = replace(tiny, checkpoint_every=3, num_epochs=None, steps=1)
    check_broken_equals_unbroken(SCRIPT, train, settings, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("moment", ["step", "checkpoint"])
def test_killed_at_any_moment_it_ends_the_same(
    tiny: VaeSettings, tmp_path: Path, processes: int, moment: str
) -> None:
    settings = replace(
        tiny, num_epochs=None, steps=1, latent_dim=600, checkpoint_every=1, preview_every=0
    )
    check_killed_equals_unbroken(SCRIPT, settings, tmp_path, processes, moment)


@pytest.mark.slow
def test_two_processes_equal_one(tiny: VaeSettings, tmp_path: Path) -> None:
    """No layer mixes images, so shares, even empty ones, change nothing but rounding."""
    launch(TWO, SCRIPT, tiny)
    assert run_facts(Path(tiny.run_dir))["processes"] == 2
    train(replace(tiny, run_dir=str(tmp_path / "one")))
    for two, one in zip(
        read_metrics(Path(tiny.run_dir)), read_metrics(tmp_path / "one"), strict=True
    ):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
    together, alone = (
        to_array(load_sampler(run, "cpu")([0, 1], ["", ""])).astype(int)
        for run in (Path(tiny.run_dir), tmp_path / "one")
    )
    assert abs(together - alone).max() <= 1


@pytest.mark.slow
def test_bfloat16_trains(tiny: VaeSettings) -> None:
    launch([*ACCELERATE, "--mixed_precision", "bf16"], SCRIPT, replace(tiny, num_epochs=1))
    run = Path(tiny.run_dir)
    assert run_facts(run)["precision"] == "bf16"
    assert tensors_of(run / "weights")["fc_mu.weight"].dtype == torch.float32


def test_fp16_skips_what_overflows_and_goes_on(
    tiny: VaeSettings, tmp_path: Path, half: Callable[[float], None]
) -> None:
    """The guide's mixed precision; the first epochs' outputs hold no loss, for none was kept."""
    settings = replace(tiny, num_epochs=5)
    check_scaler_goes_on(train, settings, tmp_path, half, high=2.0**20)
    rows = read_metrics(tmp_path / "unbroken")
    assert "gradient_scale" in rows[0]
    first = next(row for row in rows if "loss" in row)
    assert first["step"] > 2
    assert all(np.isfinite(row["loss"]) for row in rows if "loss" in row)


def test_it_learns(make_folder: Callable[..., Path], tiny: VaeSettings) -> None:
    """Five pictures of noise by heart."""
    train(replace(tiny, num_epochs=60, beta=0.01, gamma=0.1, lr=5e-3, checkpoint_every=120))
    errors = [row["reconstruction"] for row in read_metrics(Path(tiny.run_dir))]
    assert sum(errors[-10:]) < 0.7 * sum(errors[:10])


def test_an_image_is_its_seed_whatever_the_batch(tiny: VaeSettings) -> None:
    train(replace(tiny, num_epochs=1))
    sampler = load_sampler(Path(tiny.run_dir), "cpu")
    together = to_array(sampler(list(range(8)), [""] * 8)).astype(int)
    alone = np.concatenate([to_array(sampler([seed], [""])) for seed in range(8)]).astype(int)
    assert abs(together - alone).max() <= 1


def test_a_folder_of_jpegs_at_another_size(tiny: VaeSettings, tmp_path: Path) -> None:
    folder = tmp_path / "jpegs"
    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (40, 30), (60 * number, 100, 50)).save(folder / f"{number}.jpg")
    train(replace(tiny, data=str(folder), in_channels=3, num_epochs=1))
    assert load_sampler(Path(tiny.run_dir), "cpu")([0], [""])[0].mode == "RGB"


def test_more_epochs_go_on(tiny: VaeSettings) -> None:
    train(replace(tiny, num_epochs=1))
    train(replace(tiny, num_epochs=2))
    rows = list(csv.DictReader((Path(tiny.run_dir) / tiny.log_file).open()))
    assert [row["epoch"] for row in rows] == ["1", "2"]


def test_epoch_rows_are_means_and_leave_out_skipped_steps() -> None:
    values = {"reconstruction": 1.0, "kl": 2.0, "blur": 3.0}
    metrics = [
        {"step": 1, "seconds": 1.0, "loss": 4.0, **values},
        {"step": 2, "seconds": 2.0, "gradient_scale": 512.0},
        {"step": 3, "seconds": 3.0, "loss": 8.0, **values},
        {"step": 4, "seconds": 4.0, "loss": 9.0, **values},
    ]
    rows = epoch_rows(metrics, per_epoch=3)
    assert rows == [
        {"epoch": 1, "loss": 6.0, **values, "seconds": 3.0},
        {"epoch": 2, "loss": 9.0, **values, "seconds": 4.0},
    ]


def test_colour_that_becomes_grey_is_said(
    make_folder: Callable[..., Path], tiny: VaeSettings, capsys: pytest.CaptureFixture
) -> None:
    colour = replace(tiny, data=str(make_folder("colour", 4, 16, "RGB")), num_epochs=1)
    check_grey_is_said(train, tiny, colour, "in_channels", capsys)


def test_a_dry_run_tells_the_plan_and_writes_nothing(
    tiny: VaeSettings, capsys: pytest.CaptureFixture
) -> None:
    train(tiny, dry_run=True)
    assert "steps    6, 2 an epoch" in capsys.readouterr().err
    assert not Path(tiny.run_dir).exists()


def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--data", "x", "--run_dir", str(tmp_path / "run"), "--img_size", "100"])
    assert stop.value.code == 2
    assert "divisible by 2^depth" in capsys.readouterr().err


def test_a_run_without_weights_is_named(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"family": "vae"}')
    with pytest.raises(UserError, match="no model yet"):
        load_sampler(tmp_path, "cpu")


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_every_preset_starts_from_its_launch_line(
    file: Path, make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    """With all its settings but for the sizes that take time."""
    data, run = make_folder(count=5, size=32), tmp_path / "run"
    small = f"--data {data} --run_dir {run} --steps 1 --img_size 32 --width 2 --batch_size 4"
    main([*preset_words(file, SCRIPT), *small.split()])
    assert run_facts(run)["status"] == "finished"
    assert len(load_sampler(run, "cpu")([0], [""])) == 1


def test_all_presets_are_found() -> None:
    modes = {"autoencoder", "denoising", "super_resolution", "adversarial"}
    assert {"guide", "small_64"} | modes <= {file.stem for file in CONFIGS}


def test_the_guide_preset_and_the_defaults_are_the_guide() -> None:
    guide = from_dict(VaeSettings, read_yaml(ROOT / "configs/vae/guide.yaml"))
    defaults = {field.name: field.default for field in fields(VaeSettings)}
    assert {name: getattr(guide, name) for name in GUIDE} == GUIDE
    assert {name: defaults[name] for name in GUIDE} == GUIDE
