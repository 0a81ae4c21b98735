"""Real trainers as real processes: launched, stopped, killed, shared between two."""

import json
import multiprocessing
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors.torch import load_file
from torch.utils._pytree import tree_flatten

from core.config import to_yaml
from core.runs import checkpoints, step_of
from core.state import load_state

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
ACCELERATE = ["accelerate.commands.launch", "--cpu"]
TWO = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
FOREVER = 1_000_000  # steps


def command(script: str, settings: Any) -> list[str]:
    file = Path(settings.run_dir).with_suffix(".yaml")
    file.write_text(to_yaml(settings))
    return [str(ROOT / script), "--config", str(file)]


def launch(launcher: list[str], script: str, settings: Any) -> str:
    """Run a script under `python -m launcher` to its end; what it wrote to stderr."""
    done = subprocess.run(
        [sys.executable, "-m", *launcher, *command(script, settings)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def interrupt(script: str, settings: Any, number: signal.Signals) -> str:
    """Start a script, send it a signal at its next checkpoint; what it wrote to stderr."""
    run, before = Path(settings.run_dir), checkpoints(Path(settings.run_dir))
    process = subprocess.Popen(
        [sys.executable, *command(script, settings)],
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 300
    while checkpoints(run)[-1:] == before[-1:]:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    complaint = process.communicate()[1]
    assert process.returncode == (130 if number == signal.SIGINT else -number), complaint
    return complaint


def check_broken_equals_unbroken(
    script: str, train: Callable[[Any], None], settings: Any, run: Path
) -> None:
    """Killed, taken up, stopped by Ctrl-C, taken up: bit for bit the run that was never touched."""
    torch.set_num_threads(1)  # as ENVIRONMENT says: sums are split alike
    broken = replace(settings, run_dir=str(run / "broken"), steps=FOREVER)
    interrupt(script, broken, signal.SIGKILL)
    complaint = interrupt(script, broken, signal.SIGINT)
    assert "Going on from step" in complaint
    assert "The same command goes on" in complaint
    steps = step_of(checkpoints(run / "broken")[-1]) + 3
    train(replace(broken, steps=steps))
    train(replace(settings, run_dir=str(run / "unbroken"), steps=steps))
    for file in ("state.safetensors", "state.json"):
        assert (checkpoints(run / "broken")[-1] / file).exists()
    check_same(run / "broken", run / "unbroken")


def check_taken_up_equals_unbroken(
    train: Callable[[Any], None], settings: Any, run: Path, first: int
) -> None:
    """Ended after `first` steps and told to make more: bit for bit the run of all of them at once.
    For what each trainer keeps in a checkpoint; how a process ends is the same for all."""
    train(replace(settings, run_dir=str(run / "broken"), steps=first))
    train(replace(settings, run_dir=str(run / "broken")))
    train(replace(settings, run_dir=str(run / "unbroken")))
    check_same(run / "broken", run / "unbroken")


def check_same(one: Path, other: Path) -> None:
    """Newest checkpoints and weights of two runs agree bit for bit."""
    left, right = (
        tensors_of(checkpoints(run)[-1]) | tensors_of(run / "weights") for run in (one, other)
    )
    assert left.keys() == right.keys()
    assert len(left) > 10
    for name, tensor in left.items():
        assert torch.equal(tensor, right[name]), name


def check_killed_equals_unbroken(
    script: str, settings: Any, run: Path, processes: int, moment: str
) -> None:
    """kill -9 of every process at a moment, then the same command: the run that was never killed.

    `moment`: "step", or "checkpoint" while one is being written. Settings checkpoint every step.
    """
    launcher = ["-m", *TWO] if processes == 2 else []
    broken = replace(settings, run_dir=str(run / "broken"), steps=FOREVER)
    kill(launcher, script, broken, moment)
    steps = step_of(checkpoints(run / "broken")[-1]) + 3
    for name in ("broken", "unbroken"):
        whole = replace(settings, run_dir=str(run / name), steps=steps)
        done = subprocess.run(
            [sys.executable, *launcher, *command(script, whole)],
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert ("Going on from step" in done.stderr) == (name == "broken")
    assert run_facts(run / "broken")["processes"] == processes
    assert not unfinished(run / "broken")
    check_same(run / "broken", run / "unbroken")


def kill(launcher: list[str], script: str, settings: Any, moment: str) -> None:
    """Start a script, send SIGKILL to its processes at `moment`, some checkpoints on."""
    run = Path(settings.run_dir)
    process = subprocess.Popen(
        [sys.executable, *launcher, *command(script, settings)],
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 600
    try:
        while len(checkpoints(run)) < 2 or bool(unfinished(run)) != (moment == "checkpoint"):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.0005)
    finally:
        if process.poll() is None:  # torchrun starts its workers in sessions of their own
            for child in children(process.pid):
                os.kill(child, signal.SIGKILL)
        process.kill()
        process.communicate()
    if moment == "checkpoint":
        assert unfinished(run)


def dies(work: Callable[..., None], *given: Any) -> None:
    """Run `work(*given)` in a process that kills itself: a new one, for a fork of one in which
    autograd has begun threads cannot train."""
    process = multiprocessing.get_context("spawn").Process(target=work, args=given)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def children(parent: int) -> list[int]:
    """Processes that `parent` started."""
    return [child.pid for child in psutil.Process(parent).children(recursive=True)]


def unfinished(run: Path) -> list[Path]:
    """Checkpoints whose writing was begun."""
    return list((run / "checkpoints").glob(".step-*.tmp"))


def preset_words(file: Path, script: str) -> list[str]:
    """The trainer's arguments in a preset's launch line, its first, which starts that script."""
    line = file.read_text().splitlines()[0]
    words = shlex.split(line.removeprefix("# "))
    assert words[:3] == ["accelerate", "launch", script], line
    assert words[3:] == ["--config", str(file.relative_to(ROOT))], line
    return ["--config", str(file)]


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    files = sorted(folder.glob("*.safetensors"))
    assert files, folder
    return {k: v for file in files for k, v in load_file(file).items()}


def check_modes(folder: Path) -> None:
    """All files may be read by the same people as one that Python makes there."""
    neighbour = folder / "neighbour"
    neighbour.touch()
    wanted = neighbour.stat().st_mode
    neighbour.unlink()
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len([path for path in files if path.suffix == ".safetensors"]) > 1
    assert not [path for path in files if path.stat().st_mode != wanted]


def run_facts(run: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((run / "run.json").read_text())
    return facts


def check_scaler_goes_on(
    train: Callable[[Any], None],
    settings: Any,
    run: Path,
    half: Callable[[float], None],
    high: float,
) -> None:
    """fp16 whose scaler starts too `high`: steps are skipped until it fits. Taken up, the run ends
    with bit for bit the unbroken one's state, all of it float32."""
    half(high)
    train(replace(settings, run_dir=str(run / "unbroken")))
    train(replace(settings, run_dir=str(run / "broken"), steps=2))
    train(replace(settings, run_dir=str(run / "broken")))
    whole, again = (load_state(checkpoints(run / name)[-1]) for name in ("unbroken", "broken"))
    assert 0 < whole["scaler"]["scale"] < high
    assert whole.pop("seconds") > 0
    assert again.pop("seconds") > 0
    (ours, shape), (theirs, same_shape) = tree_flatten(whole), tree_flatten(again)
    assert shape == same_shape
    for one, other in zip(ours, theirs, strict=True):
        if isinstance(one, torch.Tensor):
            assert torch.equal(one, other)
            assert one.dtype == torch.float32 or not one.is_floating_point()
        else:
            assert one == other
    assert run_facts(run / "broken")["precision"] == "fp16"


def check_grey_is_said(
    train: Callable[..., None], grey: Any, colour: Any, setting: str, capsys: Any
) -> None:
    """Colour images learned in one channel: in the plan, at the start, in run.json to the end.

    Args:
        grey, colour: settings of one channel on a set of each kind; runs in the same folder.
        setting: the number of channels.
    """
    said = f"{setting} 1: colour images become grey; {setting} 3 keeps their colours"
    run = colour.run_dir
    train(colour, dry_run=True)
    assert f" {said}\n" in capsys.readouterr().err
    train(colour)
    assert f"Beware: {said}." in capsys.readouterr().err
    assert run_facts(Path(run))["warnings"] == [f"Beware: {said}."]
    train(replace(grey, run_dir=f"{run}-grey"), dry_run=True)
    train(replace(colour, run_dir=f"{run}-colour", **{setting: 3}), dry_run=True)
    assert "beware" not in capsys.readouterr().err
