"""The real script: launched, stopped, killed, shared; and what it leaves behind."""

from collections.abc import Callable
from dataclasses import replace
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
from gan.networks import Generator
from gan.settings import WganGpSettings
from gan.train_wgan_gp import main, train
from gan.weights import settled
from tests.gan.test_options import prepared
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

SCRIPT = "gan/train_wgan_gp.py"
CONFIGS = sorted((ROOT / "configs/gan").glob("*.yaml"))


@pytest.fixture
def tiny(make_folder: Callable[..., Path], tmp_path: Path) -> WganGpSettings:
    """Five images, in batches of four and one."""
    return WganGpSettings(
        data=str(make_folder(count=5, size=32)),
        run_dir=str(tmp_path / "run"),
        steps=4,
        size=32,
        width=2,
        z_dim=8,
        batch=4,
        critic_steps=2,
        checkpoint_every=3,
        preview_every=2,
        preview_count=4,
    )


def test_the_launched_script_leaves_a_whole_run(tiny: WganGpSettings) -> None:
    launch(ACCELERATE, SCRIPT, tiny)
    run = Path(tiny.run_dir)
    facts = run_facts(run)
    assert (facts["family"], facts["status"], facts["steps"]) == ("wgan-gp", "finished", 4)
    assert [row["step"] for row in read_metrics(run)] == [1, 2, 3, 4]
    assert {"distance", "penalty", "critic_loss", "generator_loss"} <= read_metrics(run)[0].keys()
    assert (run / "losses.csv").read_text().count("\n") == 5
    assert Image.open(run / "curves.png").width > 300
    assert Image.open(run / "previews/step-000002.png").size == (4 * 34 - 2, 32)
    images = load_sampler(run, "cpu")([3, 4], ["", ""])
    assert [(image.mode, image.size) for image in images] == [("L", (32, 32))] * 2


def test_more_steps_go_on_bit_for_bit(tiny: WganGpSettings, tmp_path: Path) -> None:
    settings = replace(tiny, steps=5, ema_decay=0.9, augment=0.5, augment_target=0.6, flip=True)
    check_taken_up_equals_unbroken(train, settings, tmp_path, first=3)


@pytest.mark.slow
def test_a_broken_run_equals_an_unbroken_one(tiny: WganGpSettings, tmp_path: Path) -> None:
    settings = replace(tiny, ema_decay=0.9, augment=0.5, augment_target=0.6, flip=True)
    check_broken_equals_unbroken(SCRIPT, train, settings, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("moment", ["step", "checkpoint"])
def test_killed_at_any_moment_it_ends_the_same(
    tiny: WganGpSettings, tmp_path: Path, processes: int, moment: str
) -> None:
    settings = replace(tiny, width=16, ema_decay=0.9, checkpoint_every=1, preview_every=0)
    check_killed_equals_unbroken(SCRIPT, settings, tmp_path, processes, moment)


def test_two_processes_train_one_run(tiny: WganGpSettings) -> None:
    """The second batch is one image: a process goes without."""
    launch(TWO, SCRIPT, tiny)
    assert run_facts(Path(tiny.run_dir))["processes"] == 2
    assert len(read_metrics(Path(tiny.run_dir))) == 4


def test_fp16_skips_what_overflows_and_goes_on(
    tiny: WganGpSettings, tmp_path: Path, half: Callable[[float], None]
) -> None:
    """One scaler for both players; the losses are about those of fp32."""
    settings = replace(tiny, width=4, checkpoint_every=2)
    train(settings)
    check_scaler_goes_on(train, settings, tmp_path, half, high=2.0**24)
    first, same = read_metrics(tmp_path / "unbroken")[0], read_metrics(Path(tiny.run_dir))[0]
    assert first["critic_loss"] == pytest.approx(same["critic_loss"], rel=0.02)
    assert first["generator_loss"] == pytest.approx(same["generator_loss"], rel=0.02)


def test_an_image_is_its_seed_whatever_the_batch(tiny: WganGpSettings) -> None:
    train(tiny)
    sampler = load_sampler(Path(tiny.run_dir), "cpu")
    together = to_array(sampler(list(range(8)), [""] * 8)).astype(int)
    alone = np.concatenate([to_array(sampler([seed], [""])) for seed in range(8)]).astype(int)
    assert abs(together - alone).max() <= 1
    assert abs(together[0] - together[1]).max() > 1


def test_epochs_and_steps_the_first_limit_ends(tiny: WganGpSettings) -> None:
    train(replace(tiny, steps=None, epochs=1))
    assert run_facts(Path(tiny.run_dir))["steps"] == 2  # 4 images and 1
    train(replace(tiny, steps=None, epochs=2))
    assert run_facts(Path(tiny.run_dir))["steps"] == 4
    assert run_facts(Path(tiny.run_dir))["data_images"] == 5


def test_averaged_weights_are_sampled(tiny: WganGpSettings, tmp_path: Path) -> None:
    """After one step the average is (1 - 0.1) of the new weights and 0.1 of the first ones."""
    train(replace(tiny, steps=1))
    train(replace(tiny, steps=1, ema_decay=0.9, run_dir=str(tmp_path / "ema")))
    new = tensors_of(Path(tiny.run_dir) / "weights")["layers.0.weight"]
    averaged = tensors_of(tmp_path / "ema/weights")["layers.0.weight"]
    torch.manual_seed(tiny.seed)
    first = Generator(tiny.z_dim, tiny.size, tiny.channels, tiny.width).layers[0].weight
    assert torch.allclose(averaged, 0.9 * new + 0.1 * first, atol=1e-6)


def test_settled_statistics_are_those_of_training_batches() -> None:
    """Fixed statistics, the training generator untouched, and hardly another image."""
    torch.manual_seed(0)
    generator = Generator(z_dim=8, size=32, width=4)
    before = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    fixed = settled(generator, None, batch=64, seed=0)
    assert generator.training
    for name, tensor in generator.state_dict().items():
        assert torch.equal(tensor, before[name])
    noise = torch.randn(256, 8)
    with torch.no_grad():
        assert (fixed(noise) - generator(noise)).abs().mean() < 0.01


def test_colour_images(make_folder: Callable[..., Path], tiny: WganGpSettings) -> None:
    folder = make_folder("colour", count=4, size=32, mode="RGB")
    train(replace(tiny, data=str(folder), channels=3, steps=1))
    assert load_sampler(Path(tiny.run_dir), "cpu")([0], [""])[0].mode == "RGB"


def test_colour_that_becomes_grey_is_said(
    make_folder: Callable[..., Path], tiny: WganGpSettings, capsys: pytest.CaptureFixture
) -> None:
    colour = replace(tiny, data=str(make_folder("colour", 4, 32, "RGB")), steps=1)
    check_grey_is_said(train, tiny, colour, "channels", capsys)


def test_a_dry_run_tells_the_plan_and_writes_nothing(
    tiny: WganGpSettings, capsys: pytest.CaptureFixture
) -> None:
    train(replace(tiny, steps=None, epochs=3), dry_run=True)
    told = capsys.readouterr().err
    assert "steps      6, 2 an epoch" in told
    assert not Path(tiny.run_dir).exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--size", "100"], "size 100"),
        (["--channels", "2"], "channels 2"),
        (["--epochs", "null"], "--steps or --epochs"),
        (["--ema_decay", "1"], "ema_decay"),
        (["--zdim", "3"], "did you mean --z_dim"),
        (["--data", "nowhere"], "osteon prepare"),
    ],
)
def test_bad_input_is_one_line(
    flags: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--data", "x", "--run_dir", str(tmp_path / "run"), *flags])
    assert stop.value.code == 2
    assert words in capsys.readouterr().err


def test_a_run_without_weights_is_named(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"family": "wgan-gp"}')
    with pytest.raises(UserError, match="no generator yet"):
        load_sampler(tmp_path, "cpu")


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_every_preset_starts_from_its_launch_line(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all its settings but for the sizes that take time."""
    monkeypatch.setenv("OSTEON_CACHE", str(tmp_path / "cache"))
    data, run = prepared(tmp_path / "set", ["PA", "AP", "PA", "AP", "PA"]), tmp_path / "run"
    small = f"--data {data} --run_dir {run} --steps 1 --size 32 --width 2 --batch 4"
    main([*preset_words(file, SCRIPT), *small.split(), "--score_images", "4"])
    assert run_facts(run)["status"] == "finished"
    assert len(load_sampler(run, "cpu")([0], [""])) == 1


def test_all_presets_are_found() -> None:
    named = {"thesis_z32", "thesis_z64", "thesis_z128", "small_64", "species_64", "dcgan", "dense"}
    assert named <= {file.stem for file in CONFIGS}


@pytest.mark.parametrize("z_dim", [32, 64, 128])
def test_the_thesis_presets_are_the_thesis(z_dim: int) -> None:
    thesis = from_dict(WganGpSettings, read_yaml(ROOT / f"configs/gan/thesis_z{z_dim}.yaml"))
    expected = WganGpSettings(
        data=thesis.data,
        run_dir=thesis.run_dir,
        steps=None,
        epochs=50,
        size=256,
        channels=1,
        width=16,
        z_dim=z_dim,
        batch=thesis.batch,
        lr=1e-4,
        betas=(0.5, 0.9),
        critic_steps=5,
        penalty=10.0,
        ema_decay=None,
        score_every=4300,
    )
    assert thesis == expected
