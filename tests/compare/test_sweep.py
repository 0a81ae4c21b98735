from collections.abc import Callable
from pathlib import Path

import pytest

from compare.score import main as compare
from compare.sweep import first_images, read_values
from core.errors import UserError
from core.files import read_json


def test_values() -> None:
    assert read_values("steps=50,250, 500") == ("steps", ["50", "250", "500"])
    for text in ("steps", "steps=50", "steps=a,b", "=1,2"):
        with pytest.raises(UserError, match="is not like"):
            read_values(text)


def test_first_images_keep_their_rows(make_run: Callable[..., Path], tmp_path: Path) -> None:
    samples = make_run("a", 6) / "samples/default"
    folder = first_images(samples, 4, tmp_path / "n-4")
    assert len(list(folder.glob("*.png"))) == 4
    assert (folder / "samples.jsonl").read_text().count("\n") == 4
    with pytest.raises(UserError, match="holds 6 images"):
        first_images(samples, 7, tmp_path / "n-7")


def test_curves_over_an_axis(
    make_set: Callable[..., Path],
    make_run: Callable[..., Path],
    encoder_folder: Path,
    tmp_path: Path,
) -> None:
    fakes = [f"{z}={make_run(f'z{z}', seed=z, contrast=z / 64)}" for z in (32, 16, 64)]
    words = ["--real", str(make_set()), "--fake", *fakes, "--out", str(tmp_path / "out")]
    words += ["--encoder", str(encoder_folder), "--device", "cpu", "--axis"]
    compare([*words, "latent"])
    results = read_json(tmp_path / "out/results.json")
    assert [*results["axis"]["values"].items()] == [
        ("latent 16", 16), ("latent 32", 32), ("latent 64", 64),
    ]  # fmt: skip
    assert [fake["label"] for fake in results["fakes"]] == [*results["axis"]["values"]]
    page = (tmp_path / "out/report.html").read_text()
    assert "Over latent" in page
    assert "Precision over recall" in page
    with pytest.raises(SystemExit):
        compare([*words[:4], str(make_run("x")), *words[6:], "latent"])
