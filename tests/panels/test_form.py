"""Fields of the Train tab are the trainers' settings, all of them."""

import re
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from core.complaints import leaf_names
from core.config import from_dict, parse, read_yaml, to_dict
from core.errors import UserError
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


PLACES = {
    "dreambooth": {"data", "run_dir", "base", "concepts.data", "prior.folder"},
    "base": {"data", "run_dir"},
    "wgan-gp": {"data", "run_dir", "score_data"},
    "vae": {"data", "run_dir", "log_file", "model_save_dir", "output_dir"},
}
OTHER_TEXTS = {"revision", "prompt", "concepts.prompt", "prior.prompt", "token.name"}
OTHER_TEXTS |= {"token.initialiser", "condition", "tracker", "preview_prompts"}
OTHER_TEXTS |= {"concepts.class_prompt"}


def texts(kind: Any, prefix: str = "") -> Iterator[str]:
    """Names of all settings that take any text, those of groups and lists of groups too."""
    for name, hint in get_type_hints(kind).items():
        parts = {part for outer in (hint, *get_args(hint)) for part in (outer, *get_args(outer))}
        groups = [part for part in parts if is_dataclass(part)]
        for group in groups:
            yield from texts(group, f"{prefix}{name}.")
        if not groups and parts & {str, Path}:
            yield prefix + name


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_known_of_every_text_whether_it_is_a_file_or_folder(family: str) -> None:
    known = set(texts(resolve(FAMILIES[family].settings)))
    assert known - OTHER_TEXTS == PLACES[family]
    assert {n for n in known if re.split(r"[._]", n)[-1] in form.PLACES} == PLACES[family]


def test_files_and_folders_are_found_in_groups_and_lists() -> None:
    given = {
        "data": "a",
        "run_dir": "b",
        "prompt": "/c",
        "concepts": [{"data": "d", "prompt": "/e"}],
    }
    given |= {"prior": {"prompt": "/f", "folder": "g"}}
    settings = from_dict(resolve(FAMILIES["dreambooth"].settings), given)
    assert list(form.places(settings)) == [
        ("data", "a"),
        ("run_dir", "b"),
        ("base", "models/sd2-mini"),
        ("concepts.data", "d"),
        ("prior.folder", "g"),
    ]


@pytest.mark.parametrize(
    ("family", "changes", "name"),
    [
        ("dreambooth", {"steps": "many"}, "steps"),
        ("dreambooth", {"steps": "0"}, "steps"),
        ("dreambooth", {"lora.rank": "x"}, "lora.rank"),
        ("dreambooth", {"lora.rank": "0"}, "lora.rank"),
        ("dreambooth", {"optim.lr": "fast"}, "optim.lr"),
        ("dreambooth", {"prior.count": "3"}, "prior.prompt"),
        ("vae", {"img_size": "33"}, "img_size"),
        ("dreambooth", {"optim.name": "schedule_free", "optim.warmup": "3"}, ""),
    ],
)
def test_a_complaint_is_of_a_field(family: str, changes: dict[str, str], name: str) -> None:
    words = ["--data=x", "--run_dir=y", *flags(changes)]
    with pytest.raises(UserError) as complaint:
        parse(resolve(FAMILIES[family].settings), words, "")
    names = [field.name for field in form.fields_of(family)]
    assert form.named(str(complaint.value), names) == name


def test_values_of_programs_become_flags() -> None:
    given = {"size": None, "lora.rank": 2, "buckets": True, "concepts": [{"data": "a b"}]}
    assert flags(given) == [
        "--size=null",
        "--lora.rank=2",
        "--buckets=true",
        '--concepts=[{"data": "a b"}]',
    ]
