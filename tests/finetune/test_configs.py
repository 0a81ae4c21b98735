"""Every preset parses and opens with the line that starts it."""

from pathlib import Path

import pytest

from core.config import leaf_names, parse
from core.prompts import read_prompts
from finetune.settings import DreamBoothSettings

ROOT = Path(__file__).resolve().parents[2]
TWINS = {
    "sinomacrops": "sinomacrops_mini",
    "sinomacrops_lora": "species_lora_mini",
    "dimorphodontidae_lora": "dimorphodontidae_lora_mini",
    "ornithocheiromorpha_lora": "ornithocheiromorpha_lora_mini",
    "three_species_lora": "three_species_lora_mini",
    "nih_lora": "nih_lora_mini",
    "nih_full": "nih_full_mini",
}
FILES = sorted((ROOT / "configs" / "dreambooth").glob("*.yaml"))


def test_there_are_presets() -> None:
    names = {file.stem for file in FILES}
    assert names >= {"nih_lora", "nih_lora_mini", "sinomacrops", "species_lora_mini"}
    assert names >= TWINS.keys() | TWINS.values()


@pytest.mark.parametrize("name", TWINS)
def test_a_mini_twin_trains_the_same_on_a_cpu(name: str) -> None:
    """Of the same kind, from the embedded base."""
    full, mini = (
        parse(DreamBoothSettings, ["--config", str(ROOT / f"configs/dreambooth/{n}.yaml")], "")[0]
        for n in (name, TWINS[name])
    )
    assert mini.base == "models/sd2-mini"
    assert full.base.startswith("sd2-community/")
    for part in ("lora", "ema_decay"):
        assert (getattr(full, part) is None) == (getattr(mini, part) is None), part
    assert (full.text_encoder, len(full.concepts)) == (mini.text_encoder, len(mini.concepts))


def test_the_prompt_sets_can_be_read() -> None:
    files = {file.stem: read_prompts(file) for file in (ROOT / "prompts").glob("*.txt")}
    assert len(files) >= 7
    assert len(files["thesis"]) == 7
    for name in ("sinomacrops_eval", "dimorphodontidae", "ornithocheiromorpha"):
        assert len(set(files[name])) == 25


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_preset(file: Path) -> None:
    settings = parse(DreamBoothSettings, ["--config", str(file)], "").settings
    first = file.read_text().splitlines()[0]
    assert first.startswith("# accelerate launch ")
    assert f"finetune/train_dreambooth.py --config configs/dreambooth/{file.name}" in first
    assert settings.run_dir.startswith("runs/")
    assert "mirror" not in settings.augment or "nih" not in file.stem


def test_not_too_many_settings() -> None:
    """Fewer than the 61 of diffusers' script."""
    assert len(leaf_names(DreamBoothSettings)) <= 55
