"""A run goes on where its folders have other names, and begins anew with nothing of before."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file

from core.errors import UserError
from core.runs import kept_weights, trained_steps
from tests.core.toy import ToySettings, train


def facts(run: Path) -> dict[str, object]:
    return dict(json.loads((run / "run.json").read_text()))


def test_a_folder_spelt_otherwise_is_the_same(
    unbroken: ToySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a shell completes it, or from another working directory."""
    data = Path(unbroken.data)
    monkeypatch.chdir(data.parent)
    for number, spelt in enumerate((f"{data}/", data.name, f"./{data.name}/"), 7):
        train(replace(unbroken, data=spelt, steps=number))
        assert facts(Path(unbroken.run_dir))["steps"] == number


def test_images_that_were_moved_are_the_same(unbroken: ToySettings, tmp_path: Path) -> None:
    data = Path(unbroken.data)
    moved = data.rename(tmp_path / "moved")
    run = Path(unbroken.run_dir).rename(tmp_path / "run-moved")
    own = replace(unbroken, data=str(moved), run_dir=str(run), steps=9)
    train(own)
    shutil.copytree(moved, data)
    train(replace(unbroken, run_dir=str(tmp_path / "whole"), steps=9))
    names = ("run-moved/weights", "whole/weights")
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in names)
    assert all((one[key] == other[key]).all() for key in one)
    assert f"data: {moved}\n" in (run / "config.yaml").read_text()


def test_other_images_elsewhere_are_refused_by_name(unbroken: ToySettings, tmp_path: Path) -> None:
    other = shutil.copytree(unbroken.data, tmp_path / "other")
    Image.new("L", (8, 8), 77).save(other / "000.png")
    before = (Path(unbroken.run_dir) / "config.yaml").read_text()
    with pytest.raises(UserError, match=f"other settings \\(data: {unbroken.data} -> {other}\\)"):
        train(replace(unbroken, data=str(other), steps=9))
    assert (Path(unbroken.run_dir) / "config.yaml").read_text() == before


def test_the_same_images_of_other_captions_are_not_the_same(
    unbroken: ToySettings, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(unbroken.data, tmp_path / "other"))
    (other / "000.txt").write_text("another animal")
    with pytest.raises(UserError, match="other settings \\(data: "):
        train(replace(unbroken, data=str(other), steps=9))


def test_weights_of_a_run_killed_before_its_checkpoint_are_put_aside(
    unbroken: ToySettings, capsys: pytest.CaptureFixture
) -> None:
    """Steps and precision may be others now, and what was best then is not what is best now."""
    run = Path(unbroken.run_dir)
    shutil.rmtree(run / "checkpoints")
    shutil.rmtree(run / "weights")
    (run / "run.json").write_text(json.dumps(facts(run) | {"status": "running"}))
    for name in ("best", "weights-000004"):
        (run / name).mkdir()
        (run / name / "score.json").write_text('{"step": 4}')
    assert [*kept_weights(run)] == ["best", "4"]
    train(replace(unbroken, steps=2))
    assert [*kept_weights(run)] == ["newest", "2"]
    assert sorted(os.listdir(run / "before")) == ["best", "weights-000004"]
    assert f"before it was begun anew are in {run}/before" in capsys.readouterr().err
    train(replace(unbroken, steps=4))
    assert trained_steps(run) == 4
    assert sorted(os.listdir(run / "before")) == ["best", "weights-000004"]


def test_weights_of_steps_that_are_done_anew_are_put_aside(
    unbroken: ToySettings, capsys: pytest.CaptureFixture
) -> None:
    """A run that was killed after its newest checkpoint may take another way from there."""
    run = Path(unbroken.run_dir)
    done = trained_steps(run)
    for name, step in (("best", done + 2), (f"weights-{done:06d}", done), ("weights-000099", 99)):
        (run / name).mkdir()
        (run / name / "score.json").write_text(json.dumps({"step": step}))
    train(replace(unbroken, steps=done + 3))
    assert [*kept_weights(run)] == ["newest", str(done), str(done + 3)]
    assert sorted(os.listdir(run / "before")) == ["best", "weights-000099"]
    assert f"kept after step {done} are in {run}/before" in capsys.readouterr().err
    (run / "best").mkdir()
    (run / "best" / "score.json").write_text(json.dumps({"step": done + 3}))
    train(replace(unbroken, steps=done + 4))
    assert (run / "best").is_dir()


def test_a_verdict_holds_of_a_run_that_has_ended(unbroken: ToySettings) -> None:
    run = Path(unbroken.run_dir)
    verdict = {"best": {"step": 6}, "best_reason": "The last weights are the best measured."}
    (run / "run.json").write_text(json.dumps(facts(run) | verdict))
    with pytest.raises(RuntimeError, match="power cut"):
        config = (run / "config.yaml").read_text()
        (run / "config.yaml").write_text(config.replace("fail_at: -1", "fail_at: 7"))
        train(replace(unbroken, steps=9, fail_at=7))
    assert not verdict.keys() & facts(run).keys()
