"""Every preset parses and opens with the line that starts it; every mini twin trains."""

import re
import shlex
from collections import defaultdict
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from core.complaints import leaf_names
from core.config import parse
from core.prompts import read_prompts
from core.sets import open_set
from finetune.settings import DreamBoothSettings
from prepare.phantoms import main as prepare_phantoms
from tests.trainers import ACCELERATE, launch, run_facts

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "configs" / "dreambooth").glob("*.yaml"))
ORIGINALS = [file for file in FILES if "_mini" not in file.stem]
TWINS = [file.with_name(f"{file.stem}_mini.yaml") for file in ORIGINALS]
PREPARE = "# osteon prepare "


@cache
def read(file: Path) -> DreamBoothSettings:
    settings: DreamBoothSettings = parse(DreamBoothSettings, ["--config", str(file)], "").settings
    return settings


def preparations(file: Path) -> list[list[str]]:
    """The words after "osteon prepare" of the lines that make a preset's sets."""
    lines = file.read_text().splitlines()
    return [shlex.split(line)[3:] for line in lines if line.startswith(PREPARE)]


def test_there_are_presets() -> None:
    names = {file.stem for file in FILES}
    species = {"sinomacrops", "dimorphodontidae", "ornithocheiromorpha"}
    originals = {*species, *(f"{name}_lora" for name in species), "three_species_lora"}
    assert {file.stem for file in ORIGINALS} == originals | {"nih_lora", "nih_full"}
    assert names >= {"nih_lora_mini", "species_lora_mini"}  # the demo's and the README's


@pytest.mark.parametrize("original", ORIGINALS, ids=lambda file: file.stem)
def test_presets_train_at_512_on_a_card_that_was_reckoned(original: Path) -> None:
    """Stable Diffusion 2 was made for 768; the bases called "-base" for 512."""
    settings = read(original)
    assert settings.size == (None if settings.base.endswith("-base") else 512)
    (card,) = re.findall(r"A card of \d+ GB(.*)", original.read_text())
    assert card == ", as reckoned."


@pytest.mark.parametrize("original", ORIGINALS, ids=lambda file: file.stem)
def test_a_mini_twin_trains_the_same_on_a_cpu(original: Path) -> None:
    """Of the same kind, from the embedded base."""
    full, mini = read(original), read(original.with_name(f"{original.stem}_mini.yaml"))
    assert mini.base == "models/sd2-mini"
    assert full.base.startswith("sd2-community/")
    for part in ("lora", "ema_decay", "prior", "token"):
        assert (getattr(full, part) is None) == (getattr(mini, part) is None), part
    for part in ("text_encoder", "keep_weights"):
        assert getattr(full, part) == getattr(mini, part), part
    assert len(full.concepts) == len(mini.concepts)
    if full.prior and mini.prior:
        assert mini.prior.count <= 24 < full.prior.count
    assert full.lora is not None or full.prompt == mini.prompt


def test_presets_that_share_a_set_prepare_it_alike() -> None:
    ways = defaultdict(set)
    for file in FILES:
        made = preparations(file)
        for words in made:
            ways[words[words.index("--out") + 1]].add(tuple(words))
        own = read(file)
        sets = {own.data, *(concept.data for concept in own.concepts)}
        assert not made or {words[words.index("--out") + 1] for words in made} == sets, file
    assert len(ways["data/sinomacrops_64"]) == 1
    assert all(len(way) == 1 for way in ways.values()), ways


@pytest.mark.slow
@pytest.mark.parametrize(
    "file", [*TWINS, ROOT / "configs/dreambooth/species_lora_mini.yaml"], ids=lambda file: file.stem
)
def test_a_mini_preset_prepares_its_sets_and_trains(file: Path, tmp_path: Path) -> None:
    """Its own preparation and the real script for a step; chest phantoms stand for patients."""
    for kind, *words in preparations(file):
        out = words.index("--out") + 1
        if kind == "nih":
            words = ["--kind", "chest", "--count", "16", "--out", words[out]]
            out = words.index("--out") + 1
        words[out] = str(tmp_path / words[out])
        prepare_phantoms([*words, "--workers", "1"])
    preset = read(file)
    own = replace(
        preset,
        data=str(tmp_path / preset.data),
        concepts=tuple(replace(c, data=str(tmp_path / c.data)) for c in preset.concepts),
        prior=preset.prior and replace(preset.prior, count=3, folder=str(tmp_path / "class")),
        run_dir=str(tmp_path / "run"),
        steps=1,
    )
    assert len(open_set(own.data)) >= 5
    launch(ACCELERATE, "finetune/train_dreambooth.py", own)
    facts = run_facts(tmp_path / "run")
    assert (facts["status"], facts["steps"]) == ("finished", 1)
    assert len(list((tmp_path / "class").glob("*.png"))) == (3 if own.prior else 0)


def test_the_prompt_sets_can_be_read() -> None:
    files = {file.stem: read_prompts(file) for file in (ROOT / "prompts").glob("*.txt")}
    assert len(files) >= 9
    assert len(files["thesis"]) == 7
    for name in ("sinomacrops_eval", "dimorphodontidae", "ornithocheiromorpha"):
        assert len(set(files[name])) == 25


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_preset(file: Path) -> None:
    settings = read(file)
    first = file.read_text().splitlines()[0]
    assert first.startswith("# accelerate launch ")
    assert f"finetune/train_dreambooth.py --config configs/dreambooth/{file.name}" in first
    assert settings.run_dir.startswith("runs/")
    assert "mirror" not in settings.augment or "nih" not in file.stem


def test_not_too_many_settings() -> None:
    """Fewer than the 61 of diffusers' script."""
    assert len(leaf_names(DreamBoothSettings)) <= 55


def test_a_base_in_the_home_folder_stays_as_typed() -> None:
    """It is looked for wherever the run is used; the home folder there is another."""
    settings = parse(DreamBoothSettings, ["--data=~/x", "--run_dir=y", "--base=~/m"], "").settings
    assert (settings.data, settings.base) == (str(Path.home() / "x"), "~/m")
