from collections.abc import Callable
from pathlib import Path

import pytest

import core.families
from compare.findings import findings
from compare.score import main as compare
from compare.sweep import main as sweep
from compare.sweep import read_values
from core.errors import UserError
from core.files import read_json, read_jsonl, write_json
from tests.core import toy
from tests.finetune.tiny import tiny_pipeline


def test_values() -> None:
    values = {"50": 50, "250": 250, "5e2": 500.0}
    assert read_values("steps=50,250, 5e2") == ("steps", values)
    for text in (
        "steps",
        "steps=50",
        "steps=a,b",
        "=1,2",
        "n=2,2.0,3",
        "n=1,true",
        "n=1,NaN",
        "n=",
    ):
        with pytest.raises(UserError, match="is not like"):
            read_values(text)


@pytest.fixture
def words(
    make_set: Callable[..., Path],
    make_folder: Callable[..., Path],
    encoder_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> list[str]:
    """Flags of a sweep of a toy's run, but for what is varied."""
    monkeypatch.setitem(core.families.FAMILIES, "toy", toy.FAMILY)
    toy.train(toy.ToySettings(data=str(make_folder()), run_dir=str(tmp_path / "run")))
    words = ["--run", str(tmp_path / "run"), "--real", str(make_set()), "--device", "cpu"]
    return [*words, "--encoder", str(encoder_folder), "--out", str(tmp_path / "out")]


def test_values_of_an_option(words: list[str], tmp_path: Path) -> None:
    facts = read_json(tmp_path / "run/run.json")
    write_json(tmp_path / "run/run.json", facts | {"seconds": 75.0})
    sweep([*words, "--vary", "gain=0.5,2", "--seeds", "0-4", "--prompt", "light"])
    results = read_json(tmp_path / "out/results.json")
    assert results["axis"] == {"name": "gain", "values": {"gain 0.5": 0.5, "gain 2": 2.0}}
    assert results["command"].startswith("osteon sweep --run")
    assert "Training took: 1 min 15 s, once for all." in findings(results)
    for value in (0.5, 2):
        rows = read_jsonl(tmp_path / f"run/samples/gain-{value}/samples.jsonl")
        assert [(r["seed"], r["prompt"], r["settings"]["gain"]) for r in rows] == [
            (seed, "light", value) for seed in range(5)
        ]


def test_numbers_of_images(words: list[str], tmp_path: Path) -> None:
    sweep([*words, "--vary", "n=3,5", "--seeds", "9,0-4", "--gain", "2", "--set", "mine"])
    samples = tmp_path / "run/samples"
    assert sorted(p.name for p in (samples / "mine-3").glob("*.png")) == [
        "000000.png", "000001.png", "000009.png",
    ]  # fmt: skip
    assert {row["settings"]["gain"] for row in read_jsonl(samples / "mine-3/samples.jsonl")} == {2}
    results = read_json(tmp_path / "out/results.json")
    assert [fake["images"] for fake in results["fakes"]] == [3, 5]
    told = findings(results)
    assert len(set(told)) == len(told)


def test_another_sweeps_report_is_kept_and_said_before_images_are_drawn(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep([*words, "--vary", "n=3,5", "--seeds", "0-4"])
    sweep([*words, "--vary", "n=4,5", "--seeds", "0-4"])
    with pytest.raises(SystemExit):
        sweep([*words, "--vary", "gain=0.5,2", "--seeds", "0-4"])
    assert "holds a report of other generated images, n 4, n 5; give" in capsys.readouterr().err
    assert not list(tmp_path.glob("run/samples/gain*"))


def test_a_sweep_finds_its_images_of_the_model_folder_that_one_is_in(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ "." is a name for no images: those before a value that cannot be are taken back, too."""
    tiny_pipeline().save_pretrained(tmp_path / "model")
    monkeypatch.chdir(tmp_path / "model")
    with pytest.raises(SystemExit):
        sweep(["--run", ".", *words[2:], "--vary", "steps=1,0"])
    assert not [*Path("runs/model/samples").iterdir()]


def test_no_other_images_are_replaced(words: list[str], tmp_path: Path) -> None:
    own = tmp_path / "run/samples/n-3/000077.png"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"mine")
    with pytest.raises(SystemExit):
        sweep([*words, "--vary", "n=3,5", "--seeds", "0-4"])
    assert own.read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (["--vary", "gain=1,0"], "gain must be above 0"),
        (["--vary", "gian=1,2"], "knows no option --gian (it knows: gain)"),
        (["--vary", "gain=1,2", "--titel", "x"], "knows no option --titel"),
        (["--vary", "n=3,99"], "n=99 should be a whole number from 2 to 64"),
        (["--vary", "n=3,4.5"], "n=4.5 should be"),
        (["--vary", "gain=1,2", "--real", "nowhere"], "nowhere is not there"),
        (["--vary", "gain=1,2", "--extractor", "x"], "'x' is no extractor"),
        (["--vary", "gain=1,2", "--base", "nowhere"], "nowhere is not there"),
        (["--vary", "gain=1,2", "--votes", "nowhere"], "vote in the app first"),
        (["--vary", "gain=1,2", "--against", "nowhere"], "nowhere is not there"),
        (["--vary", "gain=1,2", "--images", "-1"], "osteon sweep --help"),
    ],
)
def test_what_is_wrong_is_said_before_images_are_drawn(
    words: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    wrong: list[str],
    sentence: str,
) -> None:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        sweep([*words, *wrong])
    assert stop.value.code == 2
    assert sentence in capsys.readouterr().err.splitlines()[-1]
    assert not list((tmp_path / "run").glob("samples/*"))
    assert not (tmp_path / "out").exists()


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
