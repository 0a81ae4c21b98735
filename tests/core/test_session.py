"""Runs: resumed, refused, interrupted, and never half-written."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from core.errors import UserError
from core.runs import checkpoints, read_metrics
from tests.core.toy import ToySettings, train

ROOT = Path(__file__).resolve().parents[2]
Make = Callable[..., Path]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "weights/model.safetensors")


def info(run: Path) -> dict:
    return json.loads((run / "run.json").read_text())


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture
def unbroken(make_folder: Make, tmp_path: Path) -> ToySettings:
    settings = ToySettings(data=str(make_folder()), run_dir=str(tmp_path / "unbroken"))
    train(settings)
    return settings


def test_a_run_folder_holds_what_the_design_says(unbroken: ToySettings) -> None:
    run = Path(unbroken.run_dir)
    assert {p.name for p in run.iterdir()} >= {
        "config.yaml",
        "run.json",
        "metrics.jsonl",
        "weights",
    }
    facts = info(run)
    assert (facts["family"], facts["status"], facts["steps"]) == ("toy", "finished", 6)
    assert facts["data_images"] == 5
    assert {"commit", "versions", "device", "precision", "data_fingerprint"} <= facts.keys()
    assert [row["step"] for row in read_metrics(run)] == [1, 2, 3, 4, 5, 6]
    assert [p.name for p in checkpoints(run)] == ["step-000004", "step-000006"]


@pytest.mark.parametrize("fail_at", [0, 1, 2, 3, 4])
def test_a_broken_run_ends_like_the_unbroken_one(
    unbroken: ToySettings, tmp_path: Path, fail_at: int
) -> None:
    broken = replace(unbroken, run_dir=str(tmp_path / "broken"), fail_at=fail_at)
    with pytest.raises(RuntimeError, match="power cut"):
        train(broken)
    assert info(Path(broken.run_dir))["status"] == "failed"
    config = Path(broken.run_dir) / "config.yaml"
    config.write_text(config.read_text().replace(f"fail_at: {fail_at}", "fail_at: -1"))
    train(replace(broken, fail_at=-1))
    assert equal(weights(Path(broken.run_dir)), weights(Path(unbroken.run_dir)))
    old, new = read_metrics(Path(unbroken.run_dir)), read_metrics(Path(broken.run_dir))
    assert [(r["step"], r["loss"]) for r in old] == [(r["step"], r["loss"]) for r in new]


def test_more_steps_go_on_and_fewer_are_refused(unbroken: ToySettings, tmp_path: Path) -> None:
    train(replace(unbroken, steps=9))
    whole = replace(unbroken, run_dir=str(tmp_path / "whole"), steps=9)
    train(whole)
    assert equal(weights(Path(unbroken.run_dir)), weights(Path(whole.run_dir)))
    with pytest.raises(UserError, match="already done 9 steps"):
        train(replace(unbroken, steps=3))


def test_other_settings_are_refused_by_name(unbroken: ToySettings, make_folder: Make) -> None:
    with pytest.raises(UserError, match=r"lr: 0\.1 -> 0\.2"):
        train(replace(unbroken, lr=0.2))
    (Path(unbroken.data) / "000.png").unlink()
    with pytest.raises(UserError, match="have changed"):
        train(replace(unbroken, steps=9))


def test_fp16_on_a_cpu_is_refused(
    unbroken: ToySettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """accelerate would calculate in fp32 and say fp16."""
    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    with pytest.raises(UserError, match="fp16 needs a GPU"):
        train(replace(unbroken, run_dir=str(tmp_path / "half")))
    assert not (tmp_path / "half").exists()
    AcceleratorState._reset_state(reset_partial_state=True)


def test_a_folder_that_is_no_run_is_left_alone(unbroken: ToySettings, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="not a run"):
        train(replace(unbroken, run_dir=str(tmp_path / "mine")))
    assert (tmp_path / "mine/thesis.txt").read_text() == "precious"


def test_samples_alone_do_not_stand_in_a_runs_way(unbroken: ToySettings, tmp_path: Path) -> None:
    run = tmp_path / "asked-for-images-before"
    (run / "samples").mkdir(parents=True)
    train(replace(unbroken, run_dir=str(run)))
    assert info(run)["status"] == "finished"


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_good(
    unbroken: ToySettings, tmp_path: Path
) -> None:
    bad = replace(unbroken, run_dir=str(tmp_path / "bad"), nan_at=3)
    with pytest.raises(UserError, match="loss is not finite at step 4"):
        train(bad)
    assert [p.name for p in checkpoints(Path(bad.run_dir))] == ["step-000002"]


def test_a_checkpoint_without_its_marker_does_not_count(unbroken: ToySettings) -> None:
    newest = checkpoints(Path(unbroken.run_dir))[-1]
    (newest / "COMPLETE").unlink()
    assert [p.name for p in checkpoints(Path(unbroken.run_dir))] == ["step-000004"]
    before = weights(Path(unbroken.run_dir))
    train(unbroken)
    assert equal(before, weights(Path(unbroken.run_dir)))


def start(settings: ToySettings) -> subprocess.Popen:
    words = [f"--{key}={value}" for key, value in vars(settings).items()]
    return subprocess.Popen(
        [sys.executable, str(ROOT / "tests/core/toy.py"), *words],
        env=os.environ | {"PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"},
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    """Until it holds; fails the test if the process ends before."""
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_or_killed_process_goes_on(
    make_folder: Make, tmp_path: Path, number: signal.Signals
) -> None:
    # Long enough to be hit in the middle whatever the machine's speed
    settings = ToySettings(str(make_folder()), str(tmp_path / "a"), steps=3000, checkpoint_every=50)
    process = start(settings)
    wait_for(lambda: bool(checkpoints(Path(settings.run_dir))), process)
    process.send_signal(number)
    complaint = process.communicate()[1]
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert "The same command goes on" in complaint
        assert info(Path(settings.run_dir))["status"] == "stopped"
    shorter = int(checkpoints(Path(settings.run_dir))[-1].name[5:]) + 20
    train(replace(settings, steps=shorter))
    whole = replace(settings, run_dir=str(tmp_path / "b"), steps=shorter)
    train(whole)
    assert equal(weights(Path(settings.run_dir)), weights(Path(whole.run_dir)))
