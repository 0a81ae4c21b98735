"""Neural style transfer: losses by hand, both networks, the real command on small pictures."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models.vgg import cfgs, make_layers

from core.images import png_text
from style import losses
from style.features import ENCODER, VGG_FILE, choose, load_mini, vgg_extractor
from style.settings import StyleSettings
from style.transfer import load, main, start, transfer

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "configs/style").glob("*.yaml"))
needs_encoder = pytest.mark.skipif(not ENCODER.exists(), reason="models/encoder-mini is missing")


@pytest.fixture
def pictures(tmp_path: Path) -> tuple[str, str]:
    """A grey disc, 48 x 32; red and blue stripes, 32 x 32."""
    y, x = np.mgrid[:32, :48]
    disc = np.where((x - 24) ** 2 + (y - 16) ** 2 < 100, 220, 40).astype(np.uint8)
    Image.fromarray(disc).save(tmp_path / "disc.png")
    stripes = np.zeros((32, 32, 3), np.uint8)
    stripes[:, ::4, 0] = stripes[:, 2::4, 2] = 255
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    return str(tmp_path / "disc.png"), str(tmp_path / "stripes.png")


def test_losses_by_hand() -> None:
    target = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)
    assert losses.content_loss(target, target).item() == 0
    assert losses.content_loss(torch.zeros_like(target), target).item() == 1
    features = torch.tensor([[1.0, 2.0], [0.0, 1.0]]).view(1, 2, 1, 2)  # two channels, two places
    assert losses.gram(features).tolist() == [[2.5, 1.0], [1.0, 0.5]]
    elsewhere = features.flip(3)  # the same channels together, in other places
    assert losses.style_loss(elsewhere, losses.gram(features)).item() == 0
    assert losses.style_loss(0 * features, losses.gram(features)).item() == pytest.approx(1)
    ramp = torch.arange(4.0).expand(1, 1, 4, 4)
    assert losses.total_variation(ramp).item() == 1


def test_vgg_gives_the_papers_layers() -> None:
    """Random weights: only the places and sizes are looked at."""
    extract = vgg_extractor(make_layers(cfgs["E"]), "cpu")
    content, style = extract(torch.rand(1, 3, 32, 32))
    assert [tuple(layer.shape[1:]) for layer in style] == [
        (64, 32, 32),
        (128, 16, 16),
        (256, 8, 8),
        (512, 4, 4),
        (512, 2, 2),
    ]
    assert content.shape == (1, 512, 4, 4)
    assert min(layer.min() for layer in style) == 0


def test_without_vgg_the_embedded_encoder_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    if ENCODER.exists():
        assert choose("auto", "cpu").name == "encoder-mini"
    with pytest.raises(SystemExit) as stop:
        main(shlex.split(f"--content {__file__} --style x --run_dir {tmp_path}"))
    assert stop.value.code == 2  # no picture
    capsys.readouterr()
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    with pytest.raises(SystemExit):
        words = f"--content {tmp_path}/a.png --style {tmp_path}/a.png --run_dir {tmp_path}/run"
        main(shlex.split(f"{words} --features vgg19"))
    assert VGG_FILE in capsys.readouterr().err


@needs_encoder
@pytest.mark.parametrize(("optimiser", "begin"), [("lbfgs", "noise"), ("adam", "content")])
def test_the_loss_falls_and_the_result_says_by_what(
    pictures: tuple[str, str], tmp_path: Path, optimiser: str, begin: str
) -> None:
    content, style = pictures
    settings = StyleSettings(
        content,
        style,
        str(tmp_path / "run"),
        steps=12,
        side=48,
        start=begin,
        optimiser=optimiser,
        features="encoder-mini",
        preview_every=5,
    )
    result = transfer(settings)
    assert result is not None
    assert Image.open(result).size == (48, 32)
    facts = json.loads(png_text(result)["osteon"])
    assert (facts["features"], facts["start"], facts["steps"]) == ("encoder-mini", begin, 12)
    assert "synthetic" in png_text(result)
    previews = sorted(path.name for path in (tmp_path / "run/previews").iterdir())
    assert previews == ["step-000005.png", "step-000010.png"]
    rows = (tmp_path / "run/losses.csv").read_text().splitlines()
    names = rows[0].split(",")
    first, last = (float(row.split(",")[names.index("loss")]) for row in (rows[1], rows[-1]))
    assert last < 0.7 * first


@needs_encoder
def test_the_encoder_takes_any_size_and_keeps_a_graph() -> None:
    image = torch.rand(1, 3, 40, 56, requires_grad=True)
    content, style = load_mini(ENCODER, "cpu").extract(image)
    (content.sum() + sum(layer.sum() for layer in style)).backward()
    assert image.grad is not None
    assert image.grad.abs().sum() > 0


def test_starts(pictures: tuple[str, str]) -> None:
    content = load(Path(pictures[0]), 48)
    assert content.shape == (1, 3, 32, 48)
    settings = StyleSettings(*pictures, "run")
    assert torch.equal(start(content, settings), content)
    noise = StyleSettings(*pictures, "run", start="noise")
    assert torch.equal(start(content, noise), start(content, noise))
    assert not torch.equal(start(content, noise), content)


@needs_encoder
def test_every_preset_starts_from_its_launch_line(
    pictures: tuple[str, str], tmp_path: Path
) -> None:
    assert len(CONFIGS) >= 2
    for file in CONFIGS:
        words = shlex.split(file.read_text().splitlines()[0].removeprefix("# "))
        assert words[:4] == ["osteon", "style", "--config", str(file.relative_to(ROOT))]
        arguments = ["--config", str(file), "--content", pictures[0], "--style", pictures[1]]
        small = ["--run_dir", str(tmp_path / file.stem), "--steps", "1", "--side", "32"]
        main([*arguments, *small, "--features", "encoder-mini"])
        assert (tmp_path / file.stem / "result.png").exists()


def test_contradictions_are_refused() -> None:
    with pytest.raises(ValueError, match="nothing to do"):
        StyleSettings("a", "b", "c", content_weight=0, style_weight=0)
