"""Several processes on one run."""

import signal
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator, PartialState

import core.parallel
import core.session
from core.errors import UserError
from core.parallel import check_share, steps_until_asked
from core.runs import checkpoints, step_of
from core.session import Session
from core.sets import open_set
from tests.core.test_session import info, start, wait_for
from tests.core.toy import ToySettings, train
from tests.trainers import TWO

Make = Callable[..., Path]


@pytest.mark.parametrize(
    ("batch", "processes", "pieces", "told"),
    [
        (3, 2, 1, r"batch 3 cannot be shared by 2 processes; make it a multiple of 2\."),
        (1, 2, 1, r"batch 1 cannot be shared by 2 processes; make it a multiple of 2\."),
        (6, 2, 2, r"batch 6 .* by 2 processes in 2 pieces each; make it a multiple of 4\."),
        (3, 1, 2, r"batch 3 .* by 1 processes in 2 pieces each; make it a multiple of 2\."),
    ],
)
def test_a_batch_that_cannot_be_shared_is_refused(
    batch: int, processes: int, pieces: int, told: str
) -> None:
    with pytest.raises(UserError, match=f"^{told}$"):
        check_share("batch", batch, processes, pieces)
    for least in (processes * pieces, 2 * processes * pieces):
        check_share("batch", least, processes, pieces)


def test_processes_wait_for_one_that_works_alone(
    make_folder: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NCCL's ten minutes are too few for one that downloads a base or draws previews."""
    waits = []

    class Watched(Accelerator):
        def __init__(self, *given: Any, kwargs_handlers: list[Any], **named: Any) -> None:
            waits.extend(handler.timeout for handler in kwargs_handlers)
            super().__init__(*given, kwargs_handlers=kwargs_handlers, **named)

    def state(*given: Any, timeout: timedelta, **named: Any) -> Any:
        waits.append(timeout)
        return PartialState(*given, **named)

    monkeypatch.setattr(core.session, "Accelerator", Watched)
    monkeypatch.setattr(core.parallel, "PartialState", state)
    core.parallel.process_state()
    train(ToySettings(data=str(make_folder()), run_dir=str(tmp_path / "run")))
    assert waits == [timedelta(hours=2)] * 2


def test_pieces_are_those_of_the_settings(
    unbroken: ToySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A configuration of Accelerate's may say another number, in a variable that it heeds more."""
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    session = Session("toy", unbroken, open_set(unbroken.data), accumulate=2)
    assert session.accelerator.gradient_accumulation_steps == 2


@pytest.mark.parametrize(("seconds", "steps"), [(0, 10), (0.05, 10), (0.5, 4), (3, 1), (1e9, 1)])
def test_slow_steps_are_asked_between_oftener(seconds: float, steps: int) -> None:
    assert steps_until_asked(seconds) == steps
    assert steps_until_asked(float("inf")) == 1


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_two_processes_of_slow_steps_stop_soon_and_together(
    make_folder: Make, tmp_path: Path, number: signal.Signals
) -> None:
    """torchrun gives them 30 s, then kill -9: ten steps of a large model take longer."""
    run = tmp_path / "run"
    own = ToySettings(str(make_folder()), str(run), 30, checkpoint_every=1, pause=1.2)
    process = start(own, "-m", *TWO)
    wait_for(lambda: bool(checkpoints(run)), process)
    process.send_signal(number)
    told = process.communicate()[1]
    assert "Stopping at the next common step (Ctrl-C again leaves at once)." in told
    assert "The same command goes on" in told
    assert info(run)["status"] == "stopped"
    assert 2 <= step_of(checkpoints(run)[-1]) <= 5


def test_two_processes_signalled_in_their_first_step_save_it(
    make_folder: Make, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    own = ToySettings(str(make_folder()), str(run), 30, checkpoint_every=0, pause=5)
    process = start(own, "-m", *TWO)
    wait_for((run / "run.json").exists, process)
    time.sleep(2)  # both are in the loop
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert info(run)["status"] == "stopped"
    assert [step_of(saved) for saved in checkpoints(run)] == [1]
