"""Latent vectors by hand; the real commands on small untrained models."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core.errors import UserError
from core.explore import Space, main
from core.films import write_mp4
from core.images import png_text
from core.latent import combine, linear, path, plane, project, spherical
from gan.networks import Generator
from gan.weights import save_generator
from vae.networks import Vae
from vae.weights import save_model


@pytest.fixture(scope="module")
def gan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained generator's run."""
    run = tmp_path_factory.mktemp("gan")
    torch.manual_seed(0)
    config = {"z_dim": 4, "size": 32, "channels": 1, "width": 4}
    save_generator(Generator(**config).eval(), config, run / "weights")
    (run / "run.json").write_text(json.dumps({"family": "wgan-gp"}))
    return run


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained autoencoder's run, in colour, with two latent numbers."""
    run = tmp_path_factory.mktemp("vae")
    torch.manual_seed(0)
    config = {"img_size": 16, "latent_dim": 2, "in_channels": 3, "depth": 2, "width": 4}
    save_model(Vae(**config), config, run / "weights")
    (run / "run.json").write_text(json.dumps({"family": "vae"}))
    return run


def test_linear_and_spherical_by_hand() -> None:
    a, b = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0])
    assert linear(a, b, 0.25).tolist() == [1.5, 0.5]
    half = spherical(a, b, 0.5)
    assert torch.allclose(half, torch.tensor([2**0.5, 2**0.5]))
    assert half.norm().item() == pytest.approx(2)
    for t, end in ((0.0, a), (1.0, b)):
        assert torch.allclose(spherical(a, b, t), end, atol=1e-6)
    assert spherical(a, 2 * a, 0.5).tolist() == [3.0, 0.0]  # alike: straight


def test_a_path_holds_its_points() -> None:
    points = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    rows = path(points, 4, "spherical")
    assert rows.shape == (2, 5, 5)
    assert torch.allclose(rows[0, 0], points[0], atol=1e-6)
    assert torch.allclose(rows[0, -1], rows[1, 0], atol=1e-6)
    closed = path(points, 4, "linear", closed=True)
    assert torch.allclose(closed[-1, -1], points[0])


def test_a_plane_has_its_quantiles_and_its_directions() -> None:
    square = plane(2, 5)
    assert torch.allclose(square[2, 2], torch.zeros(2), atol=1e-6)
    assert square[0, 0].tolist() == pytest.approx([-2.0537, 2.0537], abs=1e-3)  # left, up
    through = torch.tensor([[2.0, 0, 0], [3.0, 4.0, 0]])
    assert torch.allclose(plane(3, 5, through)[..., :2], 1.5**0.5 * square, atol=1e-5)


def test_sums_by_name() -> None:
    vectors = {"a": torch.tensor([1.0]), "b": torch.tensor([10.0]), "c": torch.tensor([100.0])}
    assert combine("a - b + c", vectors).item() == 91
    assert combine("-a+b", vectors).item() == 9
    for wrong in ("", "a b", "a +", "a * b", "a - - b"):
        with pytest.raises(UserError):
            combine(wrong, vectors)


def test_projection_finds_the_vector_again() -> None:
    """A linear model of full rank: the nearest vector is the one that made the picture."""
    basis = torch.randn(3, 16 * 16, generator=torch.Generator().manual_seed(1)) / 10

    def images_of(latents: torch.Tensor) -> torch.Tensor:
        return (latents @ basis).view(-1, 1, 16, 16) + 0.5

    wanted = torch.tensor([0.5, -1.0, 1.5])
    found, residual = project(images_of, images_of(wanted[None])[0], torch.zeros(2, 3), 400)
    assert torch.allclose(found, wanted, atol=1e-2)
    assert residual < 1e-3


def test_interpolate_writes_rows_and_a_film(gan: Path, capsys: pytest.CaptureFixture) -> None:
    main(["interpolate", "--run", str(gan), "--points", "0", "1", "2-3", "--steps", "4"])
    sheet = gan / "latent/interpolate.png"
    assert Image.open(sheet).size == (5 * 34 - 2, 2 * 34 - 2)
    assert "synthetic" in png_text(sheet)
    assert Image.open(gan / "latent/interpolate.gif").n_frames > 4
    assert str(sheet) in capsys.readouterr().out


def test_walk_and_plane(gan: Path, vae: Path) -> None:
    main(["walk", "--run", str(gan), "--points", "0", "1", "2", "--steps", "3", "--kind", "linear"])
    assert (gan / "latent/walk.gif").exists()
    main(["walk", "--run", str(vae), "--plane", "--steps", "6", "--name", "plane"])
    assert Image.open(vae / "latent/plane.png").size == (6 * 18 - 2, 6 * 18 - 2)


def test_arithmetic_saves_a_vector_by_name(gan: Path) -> None:
    words = ["--group", "a=1,2", "--group", "b=3", "--formula", "a - b", "--save", "ab"]
    main(["arithmetic", "--run", str(gan), *words])
    space = Space(gan, "cpu", 0)
    expected = (space.point("1") + space.point("2")) / 2 - space.point("3")
    assert torch.allclose(space.point("ab"), expected, atol=1e-6)
    main(["interpolate", "--run", str(gan), "--points", "0", "ab", "--steps", "2"])


def test_project_a_picture_of_the_model_itself(gan: Path, tmp_path: Path) -> None:
    Space(gan, "cpu", 0).draw(Space(gan, "cpu", 0).point("7"))[0].save(tmp_path / "seven.png")
    main(["project", "--run", str(gan), "--image", str(tmp_path / "seven.png")])
    space = Space(gan, "cpu", 200)
    _, residual = space.project(tmp_path / "seven.png")
    nothing = np.asarray(Image.open(tmp_path / "seven.png"), dtype=float).std() / 255
    assert residual < nothing / 2
    assert space.point("seven").shape == (4,)
    assert Image.open(gan / "latent/project.png").size == (3 * 34 - 2, 32)


def test_an_encoder_maps_a_folder(vae: Path, tmp_path: Path) -> None:
    for number in range(6):
        colour = (40 * number, 100, 200 - 30 * number)
        Image.new("RGB", (16, 16), colour).save(tmp_path / f"{number}.png")
    main(["map", "--run", str(vae), "--data", str(tmp_path)])
    assert Image.open(vae / "latent/map.png").width > 600


def test_truncation_shrinks_seeds(gan: Path) -> None:
    whole, half = Space(gan, "cpu", 0).point("3"), Space(gan, "cpu", 0, 0.5).point("3")
    assert torch.allclose(half, whole / 2)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["interpolate", "--points", "0"], "two or more"),
        (["interpolate", "--points", "0", "nobody"], "no saved vector"),
        (["arithmetic", "--group", "a", "--formula", "a"], "name=1,5,9"),
        (["map", "--data", "x"], "no encoder"),
    ],
)
def test_bad_input_is_one_line(
    gan: Path, words: list[str], complaint: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as stop:
        main([words[0], "--run", str(gan), *words[1:]])
    assert stop.value.code == 2
    assert complaint in capsys.readouterr().err


def test_a_film_without_ffmpeg_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    with pytest.raises(UserError, match="needs ffmpeg"):
        write_mp4([Image.new("L", (8, 8))], tmp_path / "x.mp4")
