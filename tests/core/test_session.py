"""Runs: resumed, refused, interrupted, and never half-written."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from torch.optim.lr_scheduler import LambdaLR

import core.runs
import core.state
from core.errors import UserError
from core.plan import check_disk
from core.runs import Run, check_same_settings, checkpoints, read_metrics
from core.session import Session
from core.sets import open_set
from tests.core.toy import ToySettings, train

ROOT = Path(__file__).resolve().parents[2]
Make = Callable[..., Path]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "weights/model.safetensors")


def info(run: Path) -> dict:
    return json.loads((run / "run.json").read_text())


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


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
    run = Path(unbroken.run_dir)
    before = [(run / name).read_text() for name in ("run.json", "config.yaml", "metrics.jsonl")]
    with pytest.raises(UserError, match="already done 9 steps"):
        train(replace(unbroken, steps=3))
    after = [(run / name).read_text() for name in ("run.json", "config.yaml", "metrics.jsonl")]
    assert after == before


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


def test_a_run_killed_before_its_first_checkpoint_keeps_no_old_rows(
    unbroken: ToySettings, tmp_path: Path
) -> None:
    own = replace(unbroken, run_dir=str(tmp_path / "early"), steps=12, checkpoint_every=12)
    with pytest.raises(RuntimeError, match="power cut"):
        train(replace(own, fail_at=11))
    assert len(read_metrics(Path(own.run_dir))) == 10
    config = Path(own.run_dir) / "config.yaml"
    config.write_text(config.read_text().replace("fail_at: 11", "fail_at: -1"))
    train(own)
    assert [row["step"] for row in read_metrics(Path(own.run_dir))] == list(range(1, 13))


@pytest.mark.parametrize("file", ["config.yaml", "run.json"])
def test_a_run_killed_while_it_is_set_up_begins_again(
    unbroken: ToySettings, tmp_path: Path, file: str
) -> None:
    """The process dies with `file` half written, and whatever comes before it whole."""
    own = replace(unbroken, run_dir=str(tmp_path / "new"))
    child = os.fork()
    if child == 0:
        real = os.replace

        def dying(source: Path, target: Path) -> None:
            if target.name == file:
                os.kill(os.getpid(), signal.SIGKILL)
            real(source, target)

        os.replace = dying  # type: ignore[assignment]
        train(own)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    run = Path(own.run_dir)
    assert list(run.glob(f".{file}.*.tmp"))
    assert not (run / "run.json").exists()
    train(own)
    assert equal(weights(run), weights(Path(unbroken.run_dir)))
    assert not list(run.glob(".*.tmp"))


def test_what_a_killed_run_left_is_tidied_up(unbroken: ToySettings) -> None:
    run = Path(unbroken.run_dir)
    for name in (".weights.1.tmp", ".best.1.tmp", ".weights-000050.1.tmp", ".weights.old"):
        (run / name).mkdir()
        (run / name / "file").write_text("5 GB")
    (run / "weights-000002").mkdir()
    (run / "weights-000002").rename(run / ".weights-000002.old")
    train(replace(unbroken, steps=7))
    assert {path.name for path in run.iterdir() if path.name.startswith(".")} == {".lock"}
    assert (run / "weights-000002").is_dir()


def test_a_checkpoint_that_is_cut_short_costs_none(
    unbroken: ToySettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = replace(unbroken, run_dir=str(tmp_path / "cut"), checkpoints_kept=1)
    real, calls = core.state.save_file, []

    def short(tensors: dict[str, torch.Tensor], file: Path) -> None:
        real(tensors, file)
        calls.append(file)
        if len(calls) == 2:
            os.truncate(file, file.stat().st_size - 8)

    monkeypatch.setattr(core.state, "save_file", short)
    with pytest.raises(UserError, match="does not read back"):
        train(own)
    run = Path(own.run_dir)
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-000002"]
    assert info(run)["status"] == "failed"
    train(own)
    assert equal(weights(run), weights(Path(unbroken.run_dir)))


def test_a_damaged_checkpoint_gives_way_to_the_one_before(unbroken: ToySettings) -> None:
    run = Path(unbroken.run_dir)
    before = weights(run)
    for saved in checkpoints(run):
        assert saved.name in ("step-000004", "step-000006")
    os.truncate(run / "checkpoints/step-000006/state.safetensors", 100)
    train(unbroken)
    assert equal(before, weights(run))
    log = (run / "log.txt").read_text()
    assert "step-000006 cannot be read; it is now damaged-step-000006" in log
    assert "Going on from step 4" in log
    for saved in checkpoints(run):
        (saved / "state.json").write_text("{")
    with pytest.raises(UserError, match="or delete that folder to begin anew"):
        train(unbroken)
    assert [path.name for path in checkpoints(run)] == ["step-000004"]


def hold(settings: ToySettings, ready: Any) -> None:
    """Another process with the run in hand, until it is killed."""
    run = Run(Path(settings.run_dir))
    run.open("toy", settings, {})
    ready.set()
    time.sleep(600)


def test_a_run_is_trained_by_one_process_at_a_time(unbroken: ToySettings) -> None:
    processes = multiprocessing.get_context("fork")
    ready = processes.Event()
    other = processes.Process(target=hold, args=(unbroken, ready))
    other.start()
    try:
        assert ready.wait(60)
        with pytest.raises(UserError, match="being trained by another process"):
            check_same_settings(Path(unbroken.run_dir), "toy", unbroken)
        with pytest.raises(UserError, match="being trained by another process"):
            train(replace(unbroken, steps=9))
    finally:
        other.kill()
        other.join()
    train(replace(unbroken, steps=9))
    assert info(Path(unbroken.run_dir))["steps"] == 9


def test_two_that_start_at_once_are_told_apart_by_the_lock(
    unbroken: ToySettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both found the folder free; the one that locks it second leaves."""
    own = replace(unbroken, run_dir=str(tmp_path / "both"))
    processes = multiprocessing.get_context("fork")
    ready = processes.Event()
    other = processes.Process(target=hold, args=(own, ready))
    monkeypatch.setattr(core.runs, "check_same_settings", lambda *given: None)
    other.start()
    try:
        assert ready.wait(60)
        before = (Path(own.run_dir) / "run.json").read_bytes()
        with pytest.raises(UserError, match="being trained by another process"):
            Run(Path(own.run_dir)).open("toy", own, {})
        assert (Path(own.run_dir) / "run.json").read_bytes() == before
    finally:
        other.kill()
        other.join()


def falling(settings: ToySettings) -> list[float]:
    """A run whose learning rate falls to nothing by its last step; the rates of its steps."""
    session = Session("toy", settings, open_set(settings.data))
    model = torch.nn.Linear(1, 1)
    optimiser = torch.optim.SGD(model.parameters(), lr=settings.lr)
    schedule = LambdaLR(optimiser, lambda step: 1 - step / settings.steps)
    session.start({"model": model, "optimiser": optimiser, "schedule": schedule})
    rates = []
    for _ in session.steps(1):
        optimiser.step()
        rates.append(schedule.get_last_lr()[0])
        schedule.step()
    session.finish()
    return rates


def test_a_learning_rate_that_rises_again_is_said(make_folder: Make, tmp_path: Path) -> None:
    """More steps stretch a schedule that had come to its end, from the next step on; the same
    steps do not."""
    own = ToySettings(str(make_folder()), str(tmp_path / "run"), steps=2)
    log = tmp_path / "run/log.txt"
    assert falling(own) == [0.1, 0.05]
    assert falling(own) == []
    assert "learning rate" not in log.read_text()
    assert falling(replace(own, steps=4)) == [0.05, 0.025]
    said = "The learning rate jumps from 0 to 0.05 at step 2: its schedule is drawn anew, over 4"
    assert log.read_text().count("learning rate") == log.read_text().count(said) == 1


def test_another_precision_on_the_way_is_said_and_kept(
    unbroken: ToySettings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Once for each change, whatever a trainer warns of besides."""
    run = Path(unbroken.run_dir)
    line = "Beware: mixed_precision was {} up to step {}, and is {} from there."
    first, back = line.format("no", 6, "bf16"), line.format("bf16", 8, "no")
    for precision, steps, said, kept in [
        ("bf16", 7, [first], [first]),
        ("bf16", 8, [], [first]),
        ("no", 9, [back], [first, back]),
    ]:
        AcceleratorState._reset_state(reset_partial_state=True)
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", precision)
        capsys.readouterr()
        train(replace(unbroken, steps=steps))
        told = capsys.readouterr().err
        assert [one for one in (first, back) if one in told] == said
        assert info(run)["precision"] == precision
        assert info(run)["warnings"] == kept
    AcceleratorState._reset_state(reset_partial_state=True)
    session = Session("toy", replace(unbroken, steps=10), open_set(unbroken.data))
    session.start({})
    session.warn(["a mode collapses"])
    assert info(run)["warnings"] == [first, back, "a mode collapses"]
    session.warn([])
    assert info(run)["warnings"] == [first, back]
    session.finish()


def test_a_full_disk_is_refused_in_one_line(tmp_path: Path) -> None:
    check_disk(tmp_path / "runs/new", 1, 1)
    with pytest.raises(UserError, match=r"needs about 1000000000000 MB and \d+ MB are free; make"):
        check_disk(tmp_path / "runs/new", 10**18, 1)
    assert not (tmp_path / "runs").exists()


def start(settings: ToySettings, *launcher: str) -> subprocess.Popen:
    words = [f"--{key}={value}" for key, value in vars(settings).items()]
    return subprocess.Popen(
        [sys.executable, *launcher, str(ROOT / "tests/core/toy.py"), *words],
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


@pytest.mark.parametrize("seed", [-1, 2**32, 2**70])
def test_any_whole_number_is_a_seed(make_folder: Make, tmp_path: Path, seed: int) -> None:
    train(ToySettings(data=str(make_folder()), run_dir=str(tmp_path / "run"), seed=seed))
    assert info(tmp_path / "run")["status"] == "finished"
