"""What a run keeps to itself, and what is never done to one that has ended."""

import shutil
import signal
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from core.config import to_yaml
from core.errors import Interrupted, UserError, command
from core.plan import check_disk
from core.runs import Run, checkpoints, read_metrics, step_of
from core.session import Session
from tests.core.test_session import equal, info, weights
from tests.core.toy import ToySettings, train


def test_a_finished_run_without_checkpoints_is_not_begun_anew(unbroken: ToySettings) -> None:
    """Somebody made room on the disk; what was trained would be lost."""
    run = Path(unbroken.run_dir)
    before = weights(run)
    shutil.rmtree(run / "checkpoints")
    for steps in (unbroken.steps, 9):
        with pytest.raises(UserError, match="is finished, and there is no checkpoint"):
            train(replace(unbroken, steps=steps))
    assert equal(weights(run), before)
    assert info(run)["status"] == "finished"


def test_a_finished_run_keeps_no_checkpoint_that_is_not_asked_for(
    unbroken: ToySettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C left one of step 3: the run would be taken up there again, though it is finished."""
    own = replace(unbroken, run_dir=str(tmp_path / "asked"), checkpoint_every=0)
    run, real = Path(own.run_dir), Session.log

    def stop(session: Session, **values: Any) -> None:
        real(session, **values)
        if session.step == 2:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Session, "log", stop)
    with pytest.raises(Interrupted):
        train(own)
    assert [step_of(path) for path in checkpoints(run)] == [3]
    train(own)
    before = weights(run)
    assert equal(before, weights(Path(unbroken.run_dir)))
    assert not checkpoints(run)
    for steps in (own.steps, 4, 9):
        with pytest.raises(UserError, match="is finished, and there is no checkpoint"):
            train(replace(own, steps=steps))
    assert equal(weights(run), before)


def test_a_run_killed_as_it_drops_its_checkpoint_is_finished(
    unbroken: ToySettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a checkpoint is none: it could not be read, and the run would be told to mend it."""
    own = replace(unbroken, run_dir=str(tmp_path / "killed"), steps=3)
    run, real = Path(own.run_dir), shutil.rmtree

    def die(path: Path, **how: Any) -> None:
        if "step-000003" not in path.name:
            return real(path, **how)
        (path / "state.safetensors").unlink()
        raise KeyboardInterrupt

    train(own)
    own = replace(own, checkpoint_every=0)
    (run / "config.yaml").write_text(to_yaml(own))
    monkeypatch.setattr("core.runs.shutil.rmtree", die)
    with pytest.raises(KeyboardInterrupt):
        train(own)
    assert not checkpoints(run)
    with pytest.raises(UserError, match="is finished, and there is no checkpoint"):
        train(own)


def test_a_run_that_is_finished_tells_its_time(
    unbroken: ToySettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the moment at which it counts as such: nothing trains it again that could tell more."""
    own = replace(unbroken, run_dir=str(tmp_path / "killed"), checkpoint_every=0)

    def die(run: Run) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Run, "drop_checkpoints", die)
    with pytest.raises(KeyboardInterrupt):
        train(own)
    assert info(tmp_path / "killed")["status"] == "finished"
    assert info(tmp_path / "killed")["seconds"] > 0


def test_what_is_left_of_a_checkpoint_goes_when_the_run_goes_on(unbroken: ToySettings) -> None:
    torn = Path(unbroken.run_dir) / "checkpoints/.gone-step-000002.7.tmp"
    torn.mkdir()
    train(replace(unbroken, steps=9))
    assert not torn.exists()


@pytest.mark.parametrize(("backend", "refused"), [("NO", False), ("no", False), ("EAGER", True)])
def test_networks_that_accelerate_would_compile_are_refused(
    tmp_path: Path,
    unbroken: ToySettings,
    monkeypatch: pytest.MonkeyPatch,
    backend: str,
    refused: bool,
) -> None:
    """Checkpoints would name each weight `_orig_mod.` and what follows."""
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", backend)
    own = replace(unbroken, run_dir=str(tmp_path / "compiled"))
    with pytest.raises(UserError, match="--dynamo_backend no") if refused else nullcontext():
        train(own)
    assert Path(own.run_dir).exists() != refused


@pytest.mark.parametrize(("every", "step", "kept"), [(2, 4, ["step-000002"]), (0, 6, [])])
def test_weights_that_are_not_finite_are_never_kept(
    unbroken: ToySettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    every: int,
    step: int,
    kept: list[str],
) -> None:
    """The loss before that update was finite: it is the next step's that tells, or none."""
    real = Session.log

    def poison(session: Session, **values: Any) -> None:
        real(session, **values)
        if session.step == step - 1:
            session._state["model"].state_dict()["0.weight"][0, 0] = float("inf")

    monkeypatch.setattr(Session, "log", poison)
    own = replace(unbroken, run_dir=str(tmp_path / "bad"), checkpoint_every=every)
    with pytest.raises(UserError) as told:
        train(own)
    assert f"model.0.weight is not finite at step {step}. " in str(told.value)
    assert "; with another --run_dir try a lower learning rate" in str(told.value)
    run = Path(own.run_dir)
    assert [path.name for path in checkpoints(run)] == kept
    assert all(name in str(told.value) for name in kept)
    assert not (run / "weights").exists()
    assert info(run)["status"] == "failed"


@pytest.mark.parametrize("typed", [["--hub_token", "hf_x"], ["--hub_token=hf_x"]])
def test_a_token_stays_out_of_the_run(
    unbroken: ToySettings, typed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "--a", "b c", *typed, "--d"])
    train(replace(unbroken, steps=9))
    text = (Path(unbroken.run_dir) / "run.json").read_text()
    assert "hf_x" not in text
    assert "train.py --a 'b c' --hub_token" in text


def test_the_time_of_all_parts_of_a_run_adds_up(unbroken: ToySettings, tmp_path: Path) -> None:
    own = replace(unbroken, run_dir=str(tmp_path / "parts"), pause=0.2)
    for steps, least in ((2, 0.4), (3, 0.6)):  # the second part has one step
        train(replace(own, steps=steps))
        assert info(tmp_path / "parts")["seconds"] >= least
    seconds = [row["seconds"] for row in read_metrics(tmp_path / "parts")]
    assert len(seconds) == 3
    assert seconds == sorted(seconds)
    assert seconds[2] >= 0.4


def test_checkpoints_are_in_the_order_of_their_steps(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for step in (999_750, 1_000_000, 1_000_250):
        with run.checkpoint(step, keep=2) as folder:
            (folder / "state").touch()
    assert [step_of(path) for path in checkpoints(tmp_path)] == [1_000_000, 1_000_250]


def test_the_next_command_can_be_pasted(unbroken: ToySettings, tmp_path: Path) -> None:
    run = tmp_path / "my run"
    train(replace(unbroken, run_dir=str(run)))
    assert f"Next: osteon generate --run '{run}' --seeds" in (run / "log.txt").read_text()


def test_a_run_that_goes_on_needs_no_room_for_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 1000 bytes at most, 700 are there; with all there, still one of each is written anew."""
    for name, size in (("checkpoints/step-1/a", 400), ("weights-1/a", 200), ("best/a", 100)):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(bytes(size))
    (tmp_path / "previews").write_bytes(bytes(500))
    disk = SimpleNamespace(free=300)
    monkeypatch.setattr("core.plan.shutil.disk_usage", lambda place: disk)
    check_disk(tmp_path, 1000, 250)
    check_disk(tmp_path, 200, 250)  # of which no more than all is needed
    for needed, again in ((1001, 250), (700, 301)):
        with pytest.raises(UserError, match="make room"):
            check_disk(tmp_path, needed, again)


def test_room_is_counted_by_what_a_killed_run_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is half written goes as the run goes on; a damaged checkpoint stays, and is none."""
    left = (".weights.7.tmp/a", "checkpoints/.step-2.7.tmp/a", "checkpoints/damaged-step-1/a")
    for name, size in zip(left, (60, 40, 400), strict=True):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(bytes(size))
    disk = SimpleNamespace(free=300)
    monkeypatch.setattr("core.plan.shutil.disk_usage", lambda place: disk)
    check_disk(tmp_path, 400, 400)
    with pytest.raises(UserError, match="needs about 0 MB and 0 MB are free"):
        check_disk(tmp_path, 401, 1)


def test_a_run_in_the_place_of_a_file_is_refused(unbroken: ToySettings, tmp_path: Path) -> None:
    (tmp_path / "some.py").write_text("mine")
    with pytest.raises(
        UserError, match=r"some\.py is in the way, and no folder; give another --run_dir"
    ):
        train(replace(unbroken, run_dir=str(tmp_path / "some.py/x")))
    assert (tmp_path / "some.py").read_text() == "mine"


@pytest.mark.parametrize("error", [NotADirectoryError, FileExistsError])
def test_files_in_the_way_of_folders_are_told_wherever_they_are_met(
    tmp_path: Path, error: type[OSError], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    place = tmp_path / "file" / ("x" if error is NotADirectoryError else "")
    with pytest.raises(error):
        place.mkdir()
    with pytest.raises(SystemExit) as stop:
        command(place.mkdir)()
    assert stop.value.code == 2
    assert "mend that and run it again" in capsys.readouterr().err
