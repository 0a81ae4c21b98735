"""A toy run, trained to its end."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.core.toy import ToySettings, train


@pytest.fixture
def unbroken(make_folder: Callable[..., Path], tmp_path: Path) -> ToySettings:
    settings = ToySettings(data=str(make_folder()), run_dir=str(tmp_path / "unbroken"))
    train(settings)
    return settings
