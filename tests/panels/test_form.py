"""Fields of the Train tab are the trainers' settings, all of them."""

from pathlib import Path

import pytest

from core.config import from_dict, leaf_names, parse, read_yaml, to_dict
from core.families import FAMILIES, resolve
from panels import form
from panels.training import flags

CASES = [(family, preset) for family in FAMILIES for preset in form.presets_of(family)]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_setting_has_a_field_with_its_help(family: str) -> None:
    found = {field.name: field for field in form.fields_of(family)}
    names = [n for n in leaf_names(resolve(FAMILIES[family].settings)) if n != "run_dir"]
    assert len(names) > 10
    for name in names:  # a list of groups (several concepts) is one field
        assert name in found or name.rpartition(".")[0] in found
    assert all(field.help for field in found.values())


def test_presets_are_found() -> None:
    assert {family for family, _ in CASES} == set(FAMILIES)


@pytest.mark.parametrize(("family", "preset"), CASES)
def test_untouched_fields_change_nothing_and_all_together_make_the_preset(
    family: str, preset: Path
) -> None:
    values = form.values_of(family, preset)
    parts = {field.name: field for field in form.fields_of(family)}
    shown = {
        name: value == "true" if parts[name].boolean else value or None
        for name, value in values.items()
    }
    assert form.changes(values, shown) == {}
    settings = resolve(FAMILIES[family].settings)
    given = {"data": "x", "run_dir": "y", **read_yaml(preset)}
    said = {name: text for name, text in values.items() if text and name != "data"}
    groups_left_out = [f"--{name}=null" for name, value in given.items() if value is None]
    words = [*groups_left_out, *flags(said), f"--data={given['data']}", "--run_dir=y"]
    assert to_dict(parse(settings, words, "").settings) | {"run_dir": "y"} == to_dict(
        from_dict(settings, given)
    ) | {"run_dir": "y"}


def test_a_change_becomes_a_flag() -> None:
    before = {"lr": "0.0001", "flip": "false", "prompt": "", "size": "64"}
    after = {"lr": " 5e-5 ", "flip": True, "prompt": "a: b", "size": ""}
    assert flags(form.changes(before, after)) == [
        "--lr=5e-5",
        "--flip=true",
        "--prompt=a: b",
        "--size=null",
    ]
