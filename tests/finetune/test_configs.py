"""Every preset parses and opens with the line that starts it."""

from pathlib import Path

import pytest

from core.config import leaf_names, parse
from finetune.settings import DreamBoothSettings

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "configs" / "dreambooth").glob("*.yaml"))


def test_there_are_presets() -> None:
    names = {file.stem for file in FILES}
    assert names >= {"nih_lora", "nih_lora_mini", "sinomacrops", "species_lora_mini"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_preset(file: Path) -> None:
    settings = parse(DreamBoothSettings, ["--config", str(file)], "").settings
    first = file.read_text().splitlines()[0]
    assert first.startswith("# accelerate launch ")
    assert f"finetune/train_dreambooth.py --config configs/dreambooth/{file.name}" in first
    assert settings.run_dir.startswith("runs/")
    assert settings.flip is False or "nih" not in file.stem


def test_at_most_forty_settings() -> None:
    assert len(leaf_names(DreamBoothSettings)) <= 40
