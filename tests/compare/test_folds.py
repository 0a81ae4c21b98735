"""Every picture held out once: who is apart from whom, what the numbers are, the command itself."""

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compare.fold_report import findings
from compare.fold_scores import paired, spread
from compare.folds import check_out, draw_base, main, prompts_of, run_fold, split
from core.errors import UserError
from core.families import load_sampler
from core.files import read_json, read_jsonl, write_json
from core.sets import open_set
from finetune.adapters import save_adapters
from finetune.models import locate
from finetune.settings import Lora
from tests.compare.conftest import stops_when_named
from tests.finetune.test_adapters import tuned
from tests.finetune.tiny import tiny_pipeline


@pytest.fixture
def paint(tmp_path: Path) -> Callable[[int], Path]:
    def make(count: int) -> Path:
        folder = tmp_path / f"pictures-{count}"
        folder.mkdir(exist_ok=True)
        random = np.random.default_rng(count)
        for number in range(count):
            shades = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
            Image.fromarray(shades).resize((32, 32)).save(folder / f"{number}.png")
        return folder

    return make


def test_each_picture_is_held_out_once_and_patients_stay_together(
    paint: Callable[[int], Path],
) -> None:
    images = open_set(paint(8))
    for number, row in enumerate(images.rows):
        row["patient_id"] = number // 2
    groups = split(images, None, seed=0)
    assert sorted(place for group in groups for place in group) == list(range(8))
    assert sorted(groups) == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert len(split(open_set(paint(12)), None, 0)) == 5
    assert split(open_set(paint(12)), 4, 0) != split(open_set(paint(12)), 4, 1)


def test_who_has_no_patient_id_is_apart(paint: Callable[[int], Path]) -> None:
    images = open_set(paint(6))
    for row, patient in zip(images.rows, (3, None, "", None, "", 3), strict=True):
        row["patient_id"] = patient
    assert sorted(split(images, None, seed=0)) == [[0, 5], [1], [2], [3], [4]]


def test_too_few_or_many_are_refused(paint: Callable[[int], Path]) -> None:
    with pytest.raises(UserError, match="4 to 20"):
        split(open_set(paint(3)), None, 0)
    with pytest.raises(UserError, match="4 to 20"):
        split(open_set(paint(21)), None, 0)
    with pytest.raises(UserError, match="between 2 and 4"):
        split(open_set(paint(4)), 5, 0)


def test_paired_differences_by_hand() -> None:
    gap = paired([0.9, 0.8, 0.7], [0.5, 0.6, 0.6])
    assert gap is not None
    assert gap["mean"] == pytest.approx(0.7 / 3)
    assert gap["p"] == 2 / 8  # of the 8 choices of signs only +++ and --- lie as far
    mixed = paired([0.9, 0.5], [0.5, 0.9])
    assert mixed is not None
    assert mixed["p"] == 1
    assert paired([0.9], [None]) is None
    assert spread([1.0, 3.0]) == {"mean": 2.0, "deviation": pytest.approx(2**0.5)}


def test_farther_is_not_called_nearer_by_less_than_nothing() -> None:
    some = {"mean": 0.5, "deviation": 0.1}
    copies = {"share_above": 0.0, "drawn": 4, "unseen": 4, "bound": 0.9}
    results = {"means": {"tuned": some, "base": some, "learned": some}, "copies": copies}
    results |= {"folds": [{"seconds": 1.0}] * 4}
    for mean, said in (
        (0.16, "nearer than these by 0.16, "),
        (-0.34, "farther than these by 0.34, "),
    ):
        gap = {"mean": mean, "p": 0.5, "least_p": 0.125}
        told = " ".join(findings(results | {"against_base": gap, "against_learned": gap}))
        assert f"What the model draws is {said}which chance may explain (p = 0.500)." in told
        assert f"The tuning moves it by {mean:+.2f}, which".replace("-", "−") in told


@pytest.mark.parametrize(
    "wrong", [["--extractor", "x"], ["--device", "no"], ["--seeds", "x"], ["--folds", "9"]]
)
def test_what_is_wrong_is_said_before_anything_is_trained(
    paint: Callable[[int], Path], tmp_path: Path, wrong: list[str]
) -> None:
    config = tmp_path / "few.yaml"
    config.write_text("prompt: a square\nsteps: 1\n")
    words = ["dreambooth", "--config", str(config), "--data", str(paint(4))]
    with pytest.raises(SystemExit) as stop:
        main([*words, "--out", str(tmp_path / "out"), *wrong])
    assert stop.value.code == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--run_dir", "x"], "--run_dir is not the trainer's here: every fold's run lies in"),
        (["--output_dir=x"], "--output_dir is not the"),
        (["--", "--data=x"], "--data is not the trainer's here: every fold learns"),
        (["--dry_run"], "--dry_run is not the trainer's here: its settings are tried before"),
    ],
)
def test_flags_that_folds_sets_itself_are_refused(
    paint: Callable[[int], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    flags: list[str],
    said: str,
) -> None:
    monkeypatch.setattr("compare.folds.try_verb", no_trial)
    config = tmp_path / "few.yaml"
    config.write_text("prompt: a square\nsteps: 1\n")
    words = ["dreambooth", "--config", str(config), "--data", str(paint(4))]
    with pytest.raises(SystemExit) as stop:
        main([*words, "--out", str(tmp_path / "out"), *flags])
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


def no_trial(words: list[str]) -> None:
    raise AssertionError("tried")


@pytest.mark.parametrize(
    ("mine", "out", "said"),
    [
        ("out/pictures", "out", "out holds pictures/ without a report's results.json; move"),
        ("out/folds/1/data/mine", "out", "out/folds/1/data is no fold's data; move it away"),
        ("out/mine", "out", "out holds something else; give another --out"),
        ("x", "x/0.png", "x/0.png is in the way, and no folder; give another --out"),
        ("x", "x/0.png/out", "x/0.png is in the way, and no folder; give another --out"),
    ],
)
def test_nobodys_files_are_replaced(
    paint: Callable[[int], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    mine: str,
    out: str,
    said: str,
) -> None:
    monkeypatch.setattr("compare.folds.try_verb", no_trial)
    (tmp_path / mine).parent.mkdir(parents=True, exist_ok=True)
    pictures = paint(4).rename(tmp_path / mine)
    before = {path: path.read_bytes() for path in pictures.iterdir()}
    config = tmp_path / "few.yaml"
    config.write_text("prompt: a square\nsteps: 1\n")
    words = ["dreambooth", "--config", str(config), "--data", str(pictures)]
    with pytest.raises(SystemExit) as stop:
        main([*words, "--out", str(tmp_path / out)])
    assert stop.value.code == 2
    assert said in capsys.readouterr().err
    assert {path: path.read_bytes() for path in pictures.iterdir()} == before


def test_an_older_report_of_folds_is_replaced_and_no_other(tmp_path: Path) -> None:
    check_out(tmp_path / "new")
    (tmp_path / "folds").touch()
    with pytest.raises(UserError, match="folds is in the way, and no folder"):
        check_out(tmp_path)
    (tmp_path / "folds").unlink()
    (tmp_path / "folds").mkdir()
    check_out(tmp_path)
    (tmp_path / "pictures").mkdir()
    for old in ({"folds": []}, {"fakes": []}, []):
        write_json(tmp_path / "results.json", old)
        if "folds" in old:
            check_out(tmp_path)
        else:
            with pytest.raises(UserError, match="holds another report"):
                check_out(tmp_path)


@pytest.mark.parametrize(
    ("prompt", "flags", "said"),
    [
        pytest.param("prompt: a square\n", ["--nope", "2"], "nope", marks=pytest.mark.slow),
        ("", [], "4 of 4 images of {data} have no caption; give one --prompt for all"),
    ],
)
def test_what_the_trainer_refuses_is_one_line_and_nothing_is_written(
    paint: Callable[[int], Path],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    prompt: str,
    flags: list[str],
    said: str,
) -> None:
    config, data = tmp_path / "few.yaml", paint(4)
    config.write_text(f"{prompt}steps: 1\n")
    words = ["dreambooth", "--config", str(config), "--data", str(data), *flags]
    with pytest.raises(SystemExit) as stop:
        main([*words, "--out", str(tmp_path / "out")])
    assert stop.value.code == 2
    assert not (tmp_path / "out").exists()
    told = capfd.readouterr().err
    assert told.startswith("error: ")
    assert said.format(data=data) in told
    assert told.count("\n") == 1


def test_a_fold_is_asked_for_what_it_was_trained_on(
    paint: Callable[[int], Path], tmp_path: Path
) -> None:
    """Captions beside pictures mean nothing where one prompt stands for all of them."""
    folder = paint(4)
    (folder / "0.txt").write_text("a caption")
    config = tmp_path / "config.yaml"
    for text, wanted in [
        ("prompt: a dog\n", ["a dog"]),
        ("prompt: null\n", ["a caption"]),
        ("latent: 64\n", ["a caption"]),
    ]:
        config.write_text(text)
        assert prompts_of(tmp_path, open_set(folder)) == wanted
    (folder / "0.txt").unlink()
    assert prompts_of(tmp_path, open_set(folder)) == []


@pytest.mark.parametrize(("whole", "size"), [(False, (32, 32)), (True, (16, 24))])
def test_the_base_is_found_and_drawn_as_it_is_and_in_the_size_of_the_tuned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bool, size: tuple[int, int]
) -> None:
    """From wherever one works; not LoRA with a scale of 0 where its schedule is another."""
    base, run = tmp_path / "base", tmp_path / "out/folds/1/run"
    tiny_pipeline().save_pretrained(base)
    card = {"base": "base", "base_identity": locate(str(base)).identity}
    write_json(run / "weights/osteon.json", card | {"zero_terminal_snr": not whole})
    if whole:
        tiny_pipeline(seed=1).save_pretrained(run / "weights")
    else:
        save_adapters(tuned(base, Lora(rank=2), text=False).unet, None, run / "weights")
    write_json(run / "run.json", {"family": "dreambooth", "base": "base"})
    kept = "lora: null\n" if whole else "lora: {rank: 2}\nzero_terminal_snr: true\n"
    (run / "config.yaml").write_text(kept)
    (run / "samples/default").mkdir(parents=True)
    Image.new("RGB", size).save(run / "samples/default/000003.png")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    drawn = draw_base(run, [3], ["a square"], "folds-out-1")
    assert drawn is not None
    (image,) = map(Image.open, drawn.paths)
    asked = {"width": size[0], "height": size[1]}
    (wanted,) = load_sampler(base, "cpu")([3], ["a square"], **asked)
    assert image.size == size
    assert np.array_equal(np.asarray(image), np.asarray(wanted))


def test_without_a_base_a_line_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_json(tmp_path / "run.json", {"family": "dreambooth"})
    write_json(tmp_path / "weights/osteon.json", {"base": "./gone", "base_identity": "0"})
    (tmp_path / "config.yaml").write_text("lora: null\n")
    assert draw_base(tmp_path, [0], ["a"], "x") is None
    assert "Without its base in the report: ./gone is not there" in capsys.readouterr().out
    write_json(tmp_path / "run.json", {"family": "vae"})
    assert draw_base(tmp_path, [0], ["a"], "x") is None
    assert "Without its base in the report: it was tuned from none" in capsys.readouterr().out


def test_a_fold_is_measured_by_the_seeds_asked_for(
    paint: Callable[[int], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever other images lie beside them, of its model and of its base."""
    drawn, run = paint(6), tmp_path / "folds/1/run"
    for number in range(6):
        (drawn / f"{number}.png").rename(drawn / f"{number:06d}.png")
    write_json(run / "run.json", {"status": "finished", "seconds": 1.0})
    (run / "config.yaml").write_text("lora: {rank: 4}\nprompt: a square\n")
    (tmp_path / "few.yaml").write_text("")
    devices: list[str] = []
    monkeypatch.setattr(
        "compare.folds.generate", lambda *_, device, **__: devices.append(device) or drawn
    )
    config = tmp_path / "few.yaml"
    given = Namespace(family="dreambooth", config=config, out=tmp_path, device="cpu")
    fold = run_fold(run.parent, open_set(paint(4)), [0], [4, 1], given, [])
    assert fold.base is not None
    for images in (fold.tuned, fold.base):
        assert [path.name for path in images.paths] == ["000001.png", "000004.png"]
    assert devices == ["cpu", "cpu"]  # as --device says


@pytest.mark.parametrize("last", ["pictures", "results.json"])
def test_folds_killed_as_they_are_reported_can_run_again(
    paint: Callable[[int], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    """pictures/ without results.json would be taken for someone's own."""
    for name, found in [("run_fold", None), ("score", {"folds": []}), ("write_report", "page")]:
        monkeypatch.setattr(f"compare.folds.{name}", lambda *_, found=found: found)
    for name in ("try_verb", "choose_extractor"):
        monkeypatch.setattr(f"compare.folds.{name}", lambda *_, **__: None)
    config, out = tmp_path / "few.yaml", tmp_path / "out"
    config.touch()
    words = ["dreambooth", "--config", str(config), "--data", str(paint(4)), "--out", str(out)]
    (out / "folds").mkdir(parents=True)
    with stops_when_named(last), pytest.raises(SystemExit):
        main(words)
    assert (out / last).exists()
    main(words)


@pytest.mark.slow
def test_the_command_trains_asks_and_reports(
    paint: Callable[[int], Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tiny_pipeline().save_pretrained(tmp_path / "base")
    config = tmp_path / "few.yaml"
    config.write_text(f"base: {tmp_path / 'base'}\nprompt: a square\nsteps: 1\nbatch: 2\n")
    out = tmp_path / "out"
    words = ["dreambooth", "--config", str(config), "--data", str(paint(4)), "--out", str(out)]
    words += ["--folds", "2", "--seeds", "0-2", "--preview_every", "0"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)  # the base's images go to runs/ here
        with pytest.raises(SystemExit):  # which can be mended
            main([*words, "--stepz", "1"])
        main(words)
        assert "[2/2] without" in capfd.readouterr().out
        first = read_json(out / "results.json")
        trained = [(out / f"folds/{n}/run/run.json").read_text() for n in (1, 2)]
        main(words)  # nothing is left to do, and the same comes out
    again = read_json(out / "results.json")
    assert [(out / f"folds/{n}/run/run.json").read_text() for n in (1, 2)] == trained
    assert again["folds"] == first["folds"]

    assert sorted(name for row in first["folds"] for name in row["held_out"]) == [
        "0.png", "1.png", "2.png", "3.png",
    ]  # fmt: skip
    for number, row in enumerate(first["folds"], 1):
        learned = read_jsonl(out / f"folds/{number}/data/train/metadata.jsonl")
        assert not {line["source_file"] for line in learned} & set(row["held_out"])
        assert row["images"] == 3
        assert -1 <= row["base"] <= 1
    assert first["against_base"]["least_p"] == 0.5
    page = (out / "report.html").read_text()
    assert page.count("data:image/png") == 2 * (2 + 3 + 3)
    assert "Asked for pictures it has not seen" in page
    assert "| 0.png" in (out / "report.md").read_text()
    with pytest.raises(SystemExit):  # other folds do not mix with these
        main([*words[:7], "--folds", "4", "--seeds", "0-2"])
    assert "is of other pictures or folds" in capfd.readouterr().err
