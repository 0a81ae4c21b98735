"""Real trainers as real processes: launched, stopped, killed, shared between two."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from core.config import to_yaml
from core.runs import checkpoints, step_of

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
    one, other = (
        tensors_of(checkpoints(run / name)[-1]) | tensors_of(run / name / "weights")
        for name in ("broken", "unbroken")
    )
    assert one.keys() == other.keys()
    assert len(one) > 10
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    files = sorted(folder.glob("*.safetensors"))
    assert files, folder
    return {k: v for file in files for k, v in load_file(file).items()}


def run_facts(run: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((run / "run.json").read_text())
    return facts
