"""Several processes on one run."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator, PartialState

import core.parallel
import core.session
from core.session import Session
from core.sets import open_set
from tests.core.toy import ToySettings, train

Make = Callable[..., Path]


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
